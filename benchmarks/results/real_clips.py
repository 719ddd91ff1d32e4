"""Three real clips through image and video encoders: the effect of a label-free attack, compared with noise at the same eps.

    HARDSIGHT_DATA=... python benchmarks/results/real_clips.py

No labelled video was available, so accuracy is not measured: the table shows that clips can be decoded, sampled and attacked
(the whole clip, one frame, flicker), and the effect. "embedding change" is the distance to the clean embedding divided by its
norm; "class change" is the share of frames whose class changes, by MobileNetV2's own ImageNet classifier. Two minutes on one
core.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Tensor, nn

from hardsight.data import open_data
from hardsight.data.feed import load, pixels
from hardsight.encoders import load_encoder
from hardsight.losses.objective import still
from hardsight.specs.catalog import build
from hardsight.tasks.base import System

ROOT = Path(os.environ["HARDSIGHT_DATA"])
IMAGE = (
    f"file('{ROOT}/weights/mobilenetv2_100_imagenet_int8deq.npz', arch=mobilenetv2_100, options={{'pad_type': 'same'}}, "
    "mean=[0.5, 0.5, 0.5], std=[0.5, 0.5, 0.5])"
)
ENCODERS = {"MobileNetV2, mean of frames": f"clips({IMAGE})", "small R(2+1)D, random weights": "small_clips"}
THREATS = ("linf(1/255)", "linf(4/255)", "per_frame(linf(4/255), count=1)", "flicker(4/255)")
FRAMES, SIDE, STEPS = 8, 112, 10


def embedding_change(encoder: nn.Module, x_adv: Tensor, x: Tensor) -> Tensor:
    """[B]: the distance to the clean embedding, divided by the norm of the clean embedding."""
    here = encoder(x).pooled
    return (encoder(x_adv).pooled - here).norm(dim=1) / here.norm(dim=1)


def class_change(image: nn.Module, x_adv: Tensor, x: Tensor) -> Tensor:
    """[B]: the share of frames whose class changes, by the image encoder's own classifier."""
    before, after = (image.classify(image(one.transpose(1, 2).flatten(0, 1))).argmax(1) for one in (x, x_adv))  # type: ignore[operator]
    return (before != after).float().view(len(x), -1).mean(1)


def main() -> None:
    torch.set_num_threads(1)
    images = open_data(f"video('{ROOT}/video', frames={FRAMES}, size={SIDE})").split("test")
    batch = load(images, range(len(images)))
    x = pixels(batch.images, "cpu")
    print(f"{len(x)} clips of {FRAMES} frames, {SIDE}x{SIDE}; EmbedAttack, {STEPS} steps; seed 0; {', '.join(batch.ids)}\n")
    print(
        "| encoder | threat | embedding change, noise | embedding change, attack | class change, noise | class change, attack |"
    )
    print("|:--|:--|--:|--:|--:|--:|")
    for title, spec in ENCODERS.items():
        encoder = load_encoder(spec)
        system = System(encoder, nn.Identity(), build("classify", "Task"))
        for text in THREATS:
            threat = build(text, "Threat")
            found = build(f"embed(steps={STEPS})", "Attack")(system, x, None, threat, torch.Generator().manual_seed(0)).x_adv
            assert (threat.size(found - x) <= threat.eps * (1 + 1e-4)).all()
            noise = threat.project(threat.surface(x, torch.Generator().manual_seed(1)), x)
            with torch.no_grad(), still(encoder):
                cells = [" / ".join(f"{value:.2f}" for value in embedding_change(encoder, one, x)) for one in (noise, found)]
                image = getattr(encoder, "image", None)
                names = [
                    "–" if image is None else " / ".join(f"{100 * value:.0f}%" for value in class_change(image, one, x))
                    for one in (noise, found)
                ]
            print(f"| {title} | {text} | {' | '.join(cells + names)} |")


if __name__ == "__main__":
    main()
