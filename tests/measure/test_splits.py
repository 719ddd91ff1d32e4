"""Which part of a data set is measured, and that the training part is needed only where something is trained on it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hardsight.cli import app
from hardsight.core.errors import DataError
from hardsight.data import load_images, open_data
from hardsight.measure.bench import Bench
from hardsight.measure.plan import Plan, plan
from hardsight.specs.recipe import Recipe
from hardsight.store.cells import Store
from tests.fixtures import data_sets as sets

ENCODER = "timm:test_resnet(pretrained=False, size=32)"
"""A network with a classifier of 1,000 classes."""


def planned(data: str, task: str = "classify(head=own)", attack: str = "pgd(1)", **settings: object) -> Plan:
    made = {"encoders": (ENCODER,), "tasks": (task,), "data": (data,), "attacks": ("clean", attack), "audit": 0, "count": 3}
    return plan(Recipe(**{**made, **settings}))  # type: ignore[arg-type]


@pytest.fixture
def val_alone(tmp_path: Path) -> str:
    """ImageNet with nothing but its validation part."""
    sets.imagenet(tmp_path)
    shutil.rmtree(tmp_path / "train")
    return f"imagenet(root={str(tmp_path)!r}, size=32)"


def test_a_validation_part_alone_is_enough_for_a_models_own_head(val_alone: str, tmp_path: Path) -> None:
    made = planned(val_alone)
    assert made.notes == ("ImageNet is measured on its 'val' part: it has no test part with targets",)
    cells = Bench(made, Store(tmp_path / "store"), "cpu").run()
    assert [cell.what["split"] for cell in cells] == ["val", "val"]
    assert [len(cell.rows()["id"]) for cell in cells] == [3, 3]


@pytest.mark.parametrize(
    ("task", "attack"),
    [("classify", "pgd(1)"), ("classify(head=own)", "universal"), ("classify(head=own)", "cascade([universal])")],
)
def test_what_is_trained_needs_a_training_part_and_says_so_at_once(
    val_alone: str, tmp_path: Path, task: str, attack: str
) -> None:
    with pytest.raises(DataError, match=r"ImageNet has no 'train' part; its splits are: val; one is needed to train"):
        Bench(planned(val_alone, task, attack), Store(tmp_path / "store"), "cpu").run()
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("write", "spec", "target"),
    [
        (sets.imagenet, "imagenet(root=ROOT, size=16)", "label"),
        (sets.voc, "voc(root=ROOT, size=16)", "mask"),
        (sets.ade20k, "ade20k(root=ROOT, size=10)", "mask"),
        (sets.cityscapes, "cityscapes(root=ROOT)", "mask"),
        (sets.coco, "coco(root=ROOT, size=16)", "boxes"),
        (lambda root: sets.imagenet(root, "parquet"), "hfdata(name=ROOT, size=16)", "label"),  # test's labels are all -1
    ],
)
def test_sets_whose_test_labels_are_withheld_are_measured_on_val(tmp_path, write, spec, target) -> None:
    write(tmp_path)
    data = open_data(spec.replace("ROOT", repr(str(tmp_path))))
    assert data.measured_on() == data.measured_on("val") == "val"
    assert len(load_images(data, target, 2)[1]) == 2


def test_a_test_part_is_measured_where_there_is_one_and_a_named_part_where_one_is_named() -> None:
    assert planned("made(size=32, train=4, test=4)", "segment").cells[0].split == "test"
    chosen = planned("made(size=32, train=4, test=4)", "segment", split="train")
    assert chosen.cells[0].split == "train" and not chosen.notes


def test_a_part_that_does_not_exist_is_refused_with_those_that_do(val_alone: str) -> None:
    with pytest.raises(DataError, match="has no 'test' part; its splits are: val; choose one, as in --set split=val"):
        planned(val_alone, split="test")
    with pytest.raises(DataError, match="has no 'foo' part; its splits are: train, test"):
        planned("made(size=32, train=4, test=4)", split="foo")


def test_the_command_says_which_part_it_measures(val_alone: str, tmp_path: Path) -> None:
    parts = ["bench", "--encoder", ENCODER, "--task", "classify(head=own)", "--data", val_alone, "--attack", "clean"]
    settings = ["--count", "2", "--set", "audit=0", "--store", str(tmp_path / "store"), "--device", "cpu"]
    plain = CliRunner().invoke(app, parts + settings)
    assert plain.exit_code == 0, plain.exception
    assert plain.stderr.count("ImageNet is measured on its 'val' part") == 1
    named = CliRunner().invoke(app, [*parts, *settings, "--set", "split=val"])
    assert named.exit_code == 0 and "is measured on" not in named.stderr
