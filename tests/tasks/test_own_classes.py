"""A model's own classifier and the classes of a data set: matched by name, WordNet id or number, or one sentence says why not."""

from __future__ import annotations

import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from hardsight.core.errors import DataError, DataWarning
from hardsight.data import DataCard, open_data
from hardsight.data.sets.imagenet import all_names, classes
from hardsight.encoders.base import Card, Features
from hardsight.specs.catalog import build
from hardsight.tasks.classify import OwnHead, outputs_of
from tests.fixtures import data_sets as sets

SHORT = ("cat", "dog", "eel")


def model(count: int, labels: tuple[str, ...] = ()) -> Card:
    return Card("net", "net", "here", dim=4, dense_dim=0, stride=0, size=8, classes=count, labels=labels)


def data(*names: str) -> DataCard:
    return DataCard("pets", ("label",), (8, 8), names)


def quiet(card: Card, *names: str) -> list[int] | None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return outputs_of(card, data(*names))


class Oracle:
    """An encoder whose own classifier answers with the trunk, which is the logits of its own numbers of classes."""

    def __init__(self, count: int) -> None:
        self.card = model(count)

    def classify(self, features: Features) -> torch.Tensor:
        assert features.trunk is not None
        return features.trunk


def accuracy(root: Path, count: int, number: Any) -> float:
    """That of a model which answers each image with the number of its folder's class, over all images."""
    opened, task = open_data(f"folder(root={str(root)!r}, size=8, test=1.0)"), build("classify(head=own)", "Task")
    head = task.head(Oracle(count), opened.card)
    images = opened.split("test")
    samples = [images.sample(place) for place in range(len(images))]
    trunk = torch.stack([torch.eye(count)[number(sample.id.split("/")[0])] for sample in samples])
    features = SimpleNamespace(trunk=trunk)
    return 1 - float(task.error(head(features), torch.stack([sample.target["label"] for sample in samples])).mean())


def test_a_model_that_is_always_right_scores_1_on_folders_named_0_to_11(tmp_path):
    """Before: 2 of 12, because 10 and 11 came before 2."""
    for name in range(12):
        sets.save(tmp_path / str(name) / "0.png", sets.picture(name))
    assert accuracy(tmp_path, 12, int) == 1


def test_a_model_that_is_always_right_scores_1_on_imagenet_by_names(tmp_path):
    """Folders in alphabetical order are goldfish, n03444034, tench. Before: refused, for their count."""
    where = {"tench": 0, "Goldfish": 1, sets.WNIDS[2]: sets.imagenet_label(sets.WNIDS[2])}
    for name in where:
        sets.save(tmp_path / name / "0.png", sets.picture(len(name)))
    assert accuracy(tmp_path, 1000, where.__getitem__) == 1


def test_imagenet_itself_keeps_its_order():
    wnids, names = classes()
    assert names[:2] == ("tench", "goldfish") and wnids[0] == "n01440764" and all_names()[0][2] == "Tinca tinca"
    assert quiet(model(1000), *names) is None, "although two classes are called crane"
    assert quiet(model(1000), *wnids) is None
    by_name = sorted(dict.fromkeys(f"{name} {n}" for n, name in enumerate(names)))
    with pytest.warns(DataWarning, match="names other classes"):
        assert outputs_of(model(1000), data(*by_name)) is None
    assert quiet(model(1000), *reversed(wnids)) == [*range(999, -1, -1)]


@pytest.mark.parametrize(
    ("card", "names", "outputs"),
    [
        (model(1000), ("n01443537_goldfish", "n01440764"), [1, 0]),
        (model(1000), ("Carassius auratus", "tinca_TINCA"), [1, 0]),
        (model(1000), ("0", "10", "999"), [0, 10, 999]),
        (model(1000), ("tench", "1", "great white shark"), [0, 1, 2]),
        (model(12), tuple(map(str, range(12))), None),
        (model(12), ("3", "5"), [3, 5]),
        (model(3, ("eel", "Dog, hound", "cat")), SHORT, [2, 1, 0]),
        (model(3, ("eel", "dog", "cat")), ("dog",), [1]),
        (model(2, ("7", "3")), ("3", "7"), [1, 0]),
        (model(3, SHORT), SHORT, None),
    ],
)
def test_classes_that_can_be_matched(card, names, outputs):
    assert quiet(card, *names) == outputs


@pytest.mark.parametrize(
    ("card", "names", "why"),
    [
        (model(3), SHORT, "net's own classifier does not name its classes, so class k of pets is taken to be its output k"),
        (model(3, ("LABEL_0", "LABEL_1", "LABEL_2")), SHORT, "does not name its classes"),
        (model(3, ("LABEL_0", "LABEL_1")), SHORT, "does not name its classes"),
        (model(3, ("x", "y", "z")), SHORT, "names other classes, so class k .* in the order cat, dog, eel"),
        (model(3), ("1", "2", "3"), "does not name its classes"),
    ],
)
def test_classes_that_can_only_be_counted_are_said(card, names, why):
    with pytest.warns(DataWarning, match=why) as seen:
        assert outputs_of(card, data(*names)) is None
    assert len(seen) == 1


@pytest.mark.parametrize(
    ("card", "names", "why"),
    [
        (model(4), SHORT, "own classifier has 4 classes, and pets has 3, of which cat, dog, eel can't be found among them"),
        (model(3, ("eel", "dog", "kitten")), SHORT, "of which cat can't be found among them by name or number"),
        (model(1000), ("tench", "crane"), "several classes .* have the name 'crane'; name the class folders by WordNet id"),
        (model(1000), ("tench", "tinca tinca"), "have the name 'tench'"),
        (model(12), ("3", "12"), "of which 12 can't be found"),
        (model(0), ("3", "12"), "own classifier has 0 classes"),
    ],
)
def test_classes_that_cannot_be_matched(card, names, why):
    with pytest.raises(DataError, match=why):
        outputs_of(card, data(*names))


def test_the_head_takes_these_outputs():
    oracle: Any = Oracle(5)
    features: Any = SimpleNamespace(trunk=torch.arange(10.0).view(2, 5))
    assert OwnHead(oracle, [3, 0])(features).tolist() == [[3, 0], [8, 5]]
    assert OwnHead(oracle)(features) is features.trunk and not OwnHead(oracle, [3]).state_dict()
