"""Every kind of encoder on every task with every protocol: each cell is trained on synthetic data, attacked and evaluated.

Everything is small, so that all cells take seconds: the tests check that the parts work together, not how good they are.
Each part has its own tests for that.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from hardsight.core.errors import DataError, SpecError
from hardsight.data import open_data
from hardsight.data.feed import load, pixels
from hardsight.encoders import load_encoder, weights_hash
from hardsight.encoders.base import Encoder
from hardsight.measure.evaluate import evaluate
from hardsight.metrics import of
from hardsight.probes.linear import fit_probe
from hardsight.specs.catalog import build

IMAGES = {
    "cnn": "tiny(widths=[8, 8, 8, 8])",
    "vit": "timm:test_vit(pretrained=False, size=32)",
    "timm": "timm:test_resnet(pretrained=False, layers=[2, 3])",
    "tv": "tv:shufflenet_v2_x0_5(weights=None)",
    "hf": "hf:FOLDER(pretrained=False)",
}
CLIPS = {
    "clips": "clips('tiny(widths=[8, 8, 8, 8])')",
    "r2plus1d": "small_clips(widths=[8, 8])",
    "tubelets": "small_clips(kind=tubelets, widths=[16], frames=4, size=16)",
}
TASKS = {
    "classify": "classify",
    "segment": "segment",
    "depth": "depth",
    "detect": "detect(width=16, depth=0, levels=2)",
}
PROTOCOLS = {
    "probe": "probe(epochs=1, batch=4)",
    "finetune": "finetune(epochs=1, batch=4)",
    "alf": "alf(pgd(1), epochs=1, batch=4)",
    "aff": "aff(pgd(1), epochs=1, batch=4, lr=0.01)",
}
SCENES, FILMS = "made(size=32, train=8, test=4)", "moving(size=16, frames=4, train=8, test=4)"
IMAGE_CELLS = [(kind, task, how) for kind in IMAGES for task in TASKS for how in PROTOCOLS]
CLIP_CELLS = [(kind, "classify", how) for kind in CLIPS for how in PROTOCOLS]
KNN_CELLS = [(kind, "knn", "probe") for kind in (*IMAGES, *CLIPS)]
CELLS = IMAGE_CELLS + CLIP_CELLS + KNN_CELLS


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small ViT in the format of transformers."""
    transformers = pytest.importorskip("transformers")
    place = tmp_path_factory.mktemp("vit")
    sides = {"image_size": 32, "patch_size": 8}
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, **sides
    )
    config.save_pretrained(place)
    return place


@cache
def encoder_of(spec: str) -> Encoder:
    return load_encoder(spec)


@cache
def batch_of(data: str, target: str) -> tuple[Tensor, object]:
    batch = load(open_data(data).split("test"), range(4))
    return pixels(batch.images, "cpu"), batch.target[target]


@pytest.mark.parametrize(("kind", "task", "how"), CELLS, ids=["-".join(cell) for cell in CELLS])
@pytest.mark.slow
def test_a_cell(kind: str, task: str, how: str, request: pytest.FixtureRequest) -> None:
    spec = (IMAGES | CLIPS)[kind]
    if kind == "hf":
        spec = spec.replace("FOLDER", str(request.getfixturevalue("folder")))
    data = FILMS if kind in CLIPS else SCENES
    encoder, at = encoder_of(spec), build("classify(head=knn, k=3)" if task == "knn" else TASKS[task], "Task")
    before = weights_hash(encoder)
    protocol = PROTOCOLS[how]
    if (task, how) == ("detect", "aff"):  # TRADES compares two outputs, which is not possible for lists of boxes
        with pytest.raises(SpecError, match="TRADES"):
            fit_probe(encoder, at, data, protocol)
        protocol = protocol.replace("lr", "loss=attacked, lr")
    system = fit_probe(encoder, at, data, protocol)
    assert weights_hash(encoder) == before, "a protocol tunes a copy"
    assert (weights_hash(system.encoder) != before) == (how in ("finetune", "aff"))

    x, y = batch_of(data, at.target)
    threat, rng = build("linf(8/255)", "Threat"), torch.Generator().manual_seed(0)
    names, attack = [str(place) for place in range(4)], build("pgd(2)", "Attack")
    clean, _ = evaluate(system, build("clean", "Attack"), threat, x, y, names)
    rows, _ = evaluate(system, attack, threat, x, y, names, rng)
    for found in (clean, rows):
        assert ((found["error"] >= 0) & (found["error"] <= 1)).all()
        assert not found["halted"].any()
        counts = {key.removeprefix("counts."): value for key, value in found.items() if key.startswith("counts.")}
        assert np.isfinite(of(at.name).summary(counts)[of(at.name).headline])
    assert (clean["size"] == 0).all()
    assert (rows["size"] > 0.9 * threat.eps).all()
    with torch.no_grad():
        x_adv = attack(system, x, y, threat, torch.Generator().manual_seed(0)).x_adv
        after, here = (system.task.loss(system.output(one), y) for one in (x_adv, x))
    assert after.mean() > here.mean() - 1e-6


@pytest.mark.parametrize("task", ["segment", "depth", "detect"])
def test_neighbours_and_clips_have_no_dense_cells(task: str) -> None:
    """The combinations that are not among the cells are refused."""
    with pytest.raises(SpecError):
        build(f"{task}(head=knn)", "Task")
    with pytest.raises(DataError):
        fit_probe(encoder_of(CLIPS["clips"]), build(TASKS[task], "Task"), FILMS, PROTOCOLS["probe"])
