"""Minimal perturbations compared with adv-lib's at equal steps: medians, and seconds a step.

    pip install --no-deps adv-lib==0.2.8
    HARDSIGHT_DATA=... python benchmarks/performance/minimal.py resnet20 --count 64 --steps 100

adv-lib imports visdom for its plots alone; here an empty module stands in for it, so that neither it nor its server is
needed. torch.compile, which adv-lib puts on some proximal operators, is off. Times are of the processor; seed 0. Some of
these attacks are chaotic: moving every pixel by 1e-7 moves ALMA's size of one image by up to a tenth, and the median of a few
images by some percent; so the median of each image's ratio is printed too.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import types
from collections.abc import Callable

os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
visdom = types.ModuleType("visdom")
visdom.Visdom = object  # type: ignore[attr-defined]
sys.modules.setdefault("visdom", visdom)

import adv_lib.attacks as theirs  # noqa: E402  # type: ignore[import-not-found]
import torch  # noqa: E402
from adv_lib.attacks import segmentation as dense  # noqa: E402  # type: ignore[import-not-found]
from torch import Tensor  # noqa: E402

import hardsight as hs  # noqa: E402

WEIGHTS = "file:$HARDSIGHT_DATA/weights/"
NETS = {
    "resnet20": WEIGHTS + "resnet20-12fca82f.th(arch='resnet20')",
    "resnet4b": WEIGHTS + "resnet4b_adv_eps2.pth(arch='resnet4b')",
    "camvid": WEIGHTS + "mobilenetv2_100_imagenet_int8deq.npz(arch='mobilenetv2_100', options={'pad_type': 'same'}, "
    "mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), layers=(1, 2, 3, 4))",
}
Peer = Callable[..., Tensor]


def classifiers(steps: int) -> dict[str, tuple[str, str, Peer]]:
    """Ours, the threat in which sizes are measured, and theirs."""

    def of(name: str, **options: object) -> Peer:
        return lambda model, x, y: getattr(theirs, name)(model, x, y, **options)

    return {
        "DDN": (f"attack(ddn({steps}), loss=ce)", "l2(1)", of("ddn", steps=steps, levels=None)),
        "ALMA": (f"attack(alma({steps}), loss=dlr)", "l2(1)", of("alma", num_steps=steps, distance="l2", init_lr_distance=0.1)),
        "ALMA L1": (f"attack(alma({steps}), loss=dlr)", "l1(1)", of("alma", num_steps=steps, distance="l1", init_lr_distance=0.5)),
        "C&W": (
            f"attack(cw_l2({max(steps // 9, 1)}), loss=margin)", "l2(1)",
            of("carlini_wagner_l2", max_iterations=max(steps // 9, 1), abort_early=False),
        ),
        "SuperDeepFool": (f"attack(superdeepfool({steps}), loss=margin)", "l2(1)", of("sdf", steps=steps)),
        "PDPGD": (f"attack(pdpgd({steps}), loss=margin)", "l2(1)", of("pdpgd", norm=2, num_steps=steps)),
        "PDPGD Linf": (f"attack(pdpgd({steps}), loss=margin)", "linf(1)", of("pdpgd", norm=float("inf"), num_steps=steps)),
        "PDPGD L1": (f"attack(pdpgd({steps}), loss=margin)", "l1(1)", of("pdpgd", norm=1, num_steps=steps)),
        "sigma-zero": (f"attack(sigma_zero({steps}), loss=margin)", "l0_values(1)", of("sigma_zero", num_steps=steps)),
    }  # fmt: skip


def segmenters(steps: int) -> dict[str, tuple[str, str, Peer]]:
    return {
        "ALMA prox": (
            f"attack(alma_prox({steps}), loss=pixel_dlr)", "linf(1)",
            lambda model, x, y: dense.alma_prox(model, x, y, num_steps=steps),
        ),
        "DAG": (
            f"attack(dense_adversary({steps}), loss=pixel_margin(0.0))", "linf(1)",
            lambda model, x, y: dense.dag(model, x, y, max_iter=steps, γ=0.5 / 255),
        ),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("net", choices=NETS)
    parser.add_argument("--count", type=int, default=64)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--only", default="", help="names, separated by commas")
    asked = parser.parse_args()
    masks = asked.net == "camvid"
    data = hs.open_data("camvid:$HARDSIGHT_DATA/camvid(size=(90, 120))" if masks else "cifar10:$HARDSIGHT_DATA/cifar10")
    x, y = hs.load_images(data, "mask" if masks else "label", asked.count)
    system = hs.fit_probe(hs.load_encoder(NETS[asked.net]), "segment" if masks else "classify(head='own')", data)
    model = Model(system).eval()
    print(f"{asked.net}, n = {len(x)}, {asked.steps} steps, seed 0\n")
    print(
        "| attack | norm | median: hardsight | adv-lib | ratio | median image's ratio | found | ms a step: ours | theirs | ratio |"
    )
    print("|:--|:--|--:|--:|--:|--:|--:|--:|--:|--:|")
    for name, (spec, ball, peer) in (segmenters if masks else classifiers)(asked.steps).items():
        if asked.only and name not in asked.only.split(","):
            continue
        attack, threat = hs.build(spec, "Attack"), hs.build(ball, "Threat")
        torch.manual_seed(0)
        began = time.process_time()
        found = attack(system, x, y, threat, torch.Generator().manual_seed(0)).x_best_loss
        between = time.process_time()
        other = peer(model, x, y)
        ended = time.process_time()
        sizes = [sized(model, one, x, y, threat) for one in (found, other)]
        mine, others = (float(one[one > 0].median()) for one in sizes)
        both = (sizes[0] > 0) & (sizes[1] > 0) & sizes[0].isfinite() & sizes[1].isfinite()
        paired = float((sizes[0] / sizes[1])[both].median())
        hits = " / ".join(str(int(one.isfinite().sum())) for one in sizes)
        ours, their = (1000 * span / asked.steps for span in (between - began, ended - between))
        print(
            f"| {name} | {threat.norm} | {mine:.4g} | {others:.4g} | {mine / others:.4f} | {paired:.4f} | {hits} | "
            f"{ours:.1f} | {their:.1f} | {ours / their:.2f} |",
            flush=True,
        )


class Model(torch.nn.Module):
    """The system as a module without gradients of its weights."""

    def __init__(self, system: hs.System) -> None:
        super().__init__()
        self.encoder, self.system = system.encoder.requires_grad_(False), system

    def forward(self, x: Tensor) -> Tensor:
        return self.system.output(x)


def sized(model: Model, x_adv: Tensor, x: Tensor, y: Tensor, threat: hs.Threat) -> Tensor:
    """[B]: the size of the perturbation; infinite if it does not misclassify, or not 99 % of the pixels with a class."""
    with torch.no_grad():
        logits = model(x_adv)
    valid = (y < logits.shape[1]) & (y >= 0)
    wrong = ((logits.argmax(1) != y) & valid).flatten(1).sum(1) if y.ndim > 1 else (logits.argmax(1) != y).long()
    total = valid.flatten(1).sum(1) if y.ndim > 1 else torch.ones_like(wrong)
    return torch.where(wrong >= 0.99 * total, threat.size(x_adv - x), torch.inf)


if __name__ == "__main__":
    main()
