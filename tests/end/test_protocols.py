"""Every protocol runs, on miniatures of its data in their original layouts, off the protocol: fewer images, steps and epochs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from hardsight.encoders.architectures import plan_of
from hardsight.measure.protocol import load, names
from tests.end.test_bench import inside
from tests.fixtures import data_sets, miniatures, transfer_sets

pytestmark = pytest.mark.slow
MAKE = {
    "ade20k": data_sets.ade20k,
    "aircraft": transfer_sets.aircraft,
    "cifar10": miniatures.cifar10,
    "cifar100": miniatures.cifar100,
    "cityscapes": data_sets.cityscapes,
    "coco": data_sets.coco,
    "hmdb51": data_sets.hmdb51,
    "imagenet": miniatures.imagenet,
    "nyuv2": lambda root: data_sets.nyuv2(root, 6, (2, 4), 48, 64),
    "stl10": data_sets.stl10,
    "ucf101": data_sets.ucf101,
    "voc": data_sets.voc,
}
SETS = {"paper000-transfer": ("cifar10", "aircraft"), "paper000-segmentation": ("voc", "cityscapes")}
"""Some of a protocol's data, where it has many; of the others, all."""
OWN = "file:resnet20.th(arch=resnet20)"
ENCODERS = {
    "paper000-imagenet": "timm:test_resnet(pretrained=False)",
    "paper000-transfer": "timm:test_resnet(pretrained=False)",
    "paper001-video": "clips(tiny)",
    "robustbench-cifar10-linf": OWN,
    "robustbench-imagenet-linf": "timm:test_resnet(pretrained=False)",
}
LESS = ["chunk=2", "audit=0", "gallery=0", "probe.epochs=1", "probe.images=8", "probe.batch=4"]


@pytest.mark.parametrize("name", names())
def test_it_runs_and_says_what_departs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    protocol = load(name)
    words = ["bench", "--protocol", name, "--off-protocol", "--store", "store", "--count", "2"]
    for one in SETS.get(name, tuple(one.name for one in protocol.sets)):
        Path(one).mkdir()
        MAKE[one](Path(one))
        words += ["--data", f"{one}:{one}"]
    settings = [*LESS, "attacks.steps=3"]
    if len(protocol.parts[0].recipe.eps) > 1:
        words += ["--eps", protocol.parts[0].recipe.eps[0]]
    for part in protocol.parts:
        if "autoattack" in part.recipe.attacks:
            settings += [one for one in ("attacks.queries=4", "attacks.targets=2") if one not in settings]
    if name in ("paper000-segmentation", "paper000-detection"):
        settings.append("data.size=64")  # fine-tuning on larger images takes minutes
    if all("head=own" in task for part in protocol.parts for task in part.recipe.tasks):
        settings = [one for one in settings if not one.startswith("probe.")]
    encoder = ENCODERS.get(name, "tiny")
    if encoder == OWN:
        torch.save(plan_of("resnet20", {}, None).make(10).state_dict(), "resnet20.th")
    if protocol.snapshots:
        few = [part for one in ("images=24", "batch=12", "epochs=2", "snapshots=1") for part in ("--set", one)]
        assert inside("harden", "--recipe", "made-deacl", "--out", "hardened", *few).returncode == 0
        encoder = "run:hardened"
    done = inside(*words, "--encoder", encoder, *(part for one in settings for part in ("--set", one)))
    assert done.returncode == 0, done.stderr
    cells = [json.loads(path.read_text()) for path in Path("store/cells").glob("*/cell.json")]
    assert {cell["protocol"]["name"] for cell in cells} == {name}
    assert all(any("images are measured" in one for one in cell["protocol"]["departures"]) for cell in cells)
    attacked = [cell for cell in cells if cell["column"] != "clean" and "corrupt" not in cell["attack"]]
    assert all(protocol.title == cell["protocol"]["title"] for cell in attacked) and attacked
    if protocol.snapshots:
        assert len({cell["encoder"] for cell in cells}) == 3  # before hardening, and after each epoch
        page = Path("store/report.html").read_text()
        chart = page[page.index("<h2>Results over epochs</h2>") :]
        assert all(f" at {epoch}" in chart for epoch in (0, 1, 2))
    assert f"not comparable with {protocol.title.split(',')[0]}" in " ".join(done.stdout.split())
