"""Class folders with numbers for names are classes in numeric order; all others in alphabetical order."""

from __future__ import annotations

import pytest

from hardsight.data import open_data
from hardsight.data.sets.folder import in_order
from tests.fixtures import data_sets as sets


@pytest.mark.parametrize("parts", [("",), ("train", "test")])
def test_folders_named_0_to_11(tmp_path, parts):
    """As text they were 0, 1, 10, 11, 2, ...: a model that is always right scored 2 of 12 with its own head."""
    for part in parts:
        for name in range(12):
            for n in range(2):
                sets.save(tmp_path / part / str(name) / f"{n}.png", sets.picture(name))
    data = open_data(f"folder(root={str(tmp_path)!r}, test=0.5)")
    assert data.card.classes == tuple(map(str, range(12)))
    for images in data.splits.values():
        for place in range(len(images)):
            sample = images.sample(place)
            assert sample.target["label"] == int(sample.id.split("/")[-2])


def test_the_order():
    assert in_order(["10", "9", "9", "008"]) == ("008", "9", "10")
    assert in_order(["10", "9", "b", "-1"]) == ("-1", "10", "9", "b")
    assert in_order(["1", "01", "0"]) == ("0", "01", "1")
    assert in_order(["²", "10"]) == ("10", "²")
    assert in_order([]) == ()


def test_clips(tmp_path):
    for name in ("2", "10"):
        for n in range(2):
            sets.save(tmp_path / name / f"clip{n}" / "0.png", sets.picture(n))
    assert open_data(f"video(root={str(tmp_path)!r}, frames=1, size=8)").card.classes == ("2", "10")
