"""Sets of one's own in COCO's format, as tools export them: files of any name, any image folder, a background entry."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from hardsight.core.errors import DataError
from hardsight.data import open_data
from hardsight.data.base import Data
from hardsight.data.check import check
from tests.fixtures import data_sets as sets

FRUITS = {1: "date", 2: "fig", 3: "hazelnut"}


def export(file: Path, folder: Path, count: int, categories: dict[int, str] | None = None, prefix: str = "") -> None:
    """A JSON file of `count` images with one box each, of the categories in turn, and the images."""
    listed = FRUITS if categories is None else categories
    used = [key for key, name in listed.items() if key and "background" not in name]
    images = [{"id": n, "file_name": f"{prefix}{file.stem[:5]}{n}.jpg", "height": 20, "width": 30} for n in range(count)]
    for n, image in enumerate(images):
        sets.save(folder / image["file_name"], sets.picture(n, 20, 30))
    boxes = [{"id": n, "image_id": n, "category_id": used[n % len(used)], "bbox": [n, 2, 10, 8]} for n in range(count)]
    names = [{"id": key, "name": name, "supercategory": "none"} for key, name in listed.items()]
    sets.text(file, json.dumps({"images": images, "annotations": boxes, "categories": names}))


def opened(root: Path, **options: Any) -> Data:
    return open_data(f"coco({', '.join([f'root={str(root)!r}', *(f'{key}={value!r}' for key, value in options.items())])})")


def parts(data: Data) -> dict[str, int]:
    for images in data.splits.values():
        for place in range(len(images)):
            sample = images.sample(place)
            number = int(sample.id.rpartition(".")[0][-1])
            assert sample.target["boxes"].tolist() == [[number, 2, number + 10, 10]]
            assert data.card.classes[int(sample.target["box_labels"][0])] == list(FRUITS.values())[number % 3]
    return {name: len(images) for name, images in data.splits.items()}


@pytest.mark.parametrize("background", [{}, {0: "background"}, {0: "fruits"}, {7: "_background_"}])
@pytest.mark.parametrize(
    ("file", "folder", "prefix"),
    [
        ("trainval.json", "images", ""),
        ("result.json", "images", ""),
        ("annotations/instances_default.json", "images/default", ""),
        ("labels.json", "", ""),
        ("labels.json", "photos of fruits", ""),
        ("a.json", "", "images/"),
        ("a.json", "data/jpg", ""),
    ],
)
def test_one_file_beside_one_folder(tmp_path: Path, file: str, folder: str, prefix: str, background: dict[int, str]) -> None:
    """The parts are drawn; a background entry that no box has is no class."""
    export(tmp_path / file, tmp_path / folder, 6, background | FRUITS, prefix)
    data = opened(tmp_path)
    assert data.card.classes == ("date", "fig", "hazelnut")
    assert parts(data) == {"train": 5, "test": 1} and parts(opened(tmp_path, test=0.5, seed=1)) == {"train": 3, "test": 3}
    assert not [text for text in check(data, 1)["problems"] if "published" in text]


@pytest.mark.parametrize(
    ("train", "val"),
    [
        (("train.json", "images"), ("val.json", "images")),
        (("annotations/train.json", "train"), ("annotations/val.json", "val")),
        (("annotations/fruits_train.json", "images/train"), ("annotations/fruits_validation.json", "images/val")),
        (("train/_annotations.coco.json", "train"), ("valid/_annotations.coco.json", "valid")),
        (("annotations/instances_train.json", "images"), ("annotations/instances_val.json", "images")),
    ],
)
def test_files_that_say_their_part(tmp_path: Path, train: tuple[str, str], val: tuple[str, str]) -> None:
    for (file, folder), count in ((train, 6), (val, 3)):
        export(tmp_path / file, tmp_path / folder, count, {0: "fruits"} | FRUITS)
    data = opened(tmp_path)
    assert parts(data) == {"train": 6, "val": 3} and data.measured_on() == "val"


def test_a_file_for_all_is_passed_over_beside_those_of_parts_unless_it_is_chosen(tmp_path: Path) -> None:
    for name, count in (("train", 3), ("test", 3), ("trainval", 6)):
        export(tmp_path / f"{name}.json", tmp_path / "images", count)
    sets.text(tmp_path / "package.json", '{"name": "no annotations"}')
    with pytest.warns(UserWarning, match=r"passed over 1 file: 1 .json \(trainval.json\)"):
        assert parts(opened(tmp_path)) == {"train": 3, "test": 3}
    assert parts(opened(tmp_path, annotations="trainval.json")) == {"train": 5, "test": 1}


def test_a_category_0_that_boxes_have_is_a_class(tmp_path: Path) -> None:
    export(tmp_path / "a.json", tmp_path / "images", 6)
    content = json.loads((tmp_path / "a.json").read_text())
    for one in (*content["categories"], *content["annotations"]):
        one["id" if "name" in one else "category_id"] -= 1
    sets.text(tmp_path / "a.json", json.dumps(content))
    data = opened(tmp_path)
    assert data.card.classes == ("date", "fig", "hazelnut") and parts(data) == {"train": 5, "test": 1}


def test_what_is_refused(tmp_path: Path) -> None:
    export(tmp_path / "a.json", tmp_path / "images", 3)
    export(tmp_path / "b.json", tmp_path / "images", 3)
    with pytest.raises(DataError, match="has both a.json and b.json; give annotations='the one to use'"):
        opened(tmp_path)
    with pytest.raises(DataError, match=r"annotations='c.json': .* has no such file; it contains a.json, b.json, images/"):
        opened(tmp_path, annotations="c.json")
    shutil.copytree(tmp_path / "images", tmp_path / "x")
    shutil.move(tmp_path / "images", tmp_path / "y")
    with pytest.raises(DataError, match="has a0.jpg in x, y; give images='folder'"):
        opened(tmp_path, annotations="a.json", size=8)
    assert parts(opened(tmp_path, annotations="a.json", images="y")) == {"train": 2, "test": 1}
    with pytest.raises(DataError, match="test=3.0: the share of images to test on"):
        opened(tmp_path, annotations="a.json", images="y", test=3.0)


def test_check_knows_the_published_set_from_ones_own(tmp_path: Path) -> None:
    """COCO's 80 categories on pictures of one's own are no COCO; a part of COCO itself is, and lacks images."""
    eighty = {n: f"thing {n}" for n in range(1, 81)}
    export(tmp_path / "own" / "train.json", tmp_path / "own" / "images", 3, eighty)
    assert not [text for text in check(opened(tmp_path / "own"), 2)["problems"] if "published" in text]
    export(tmp_path / "coco" / "annotations/instances_val2017.json", tmp_path / "coco" / "val2017", 3, eighty)
    file = tmp_path / "coco" / "annotations/instances_val2017.json"
    file.write_text(file.read_text().replace("insta", "00000000000"))
    for path in (tmp_path / "coco" / "val2017").iterdir():
        path.rename(path.with_name(path.name.replace("insta", "00000000000")))
    found = check(opened(tmp_path / "coco"), 2)
    assert found["name"] == "COCO" and "val has 3 images; the published set has 5,000" in found["problems"]


def test_real_annotations_under_another_name(real_data: Path, tmp_path: Path) -> None:
    """BCCD's own file, renamed, beside a link to its pictures."""
    shutil.copy(real_data / "bccd" / "annotations" / "instances_test.json", tmp_path / "cells.json")
    (tmp_path / "microscope").symlink_to(real_data / "bccd" / "BCCD" / "JPEGImages")
    data = opened(tmp_path, size=(120, 160))
    assert {name: len(images) for name, images in data.splits.items()} == {"train": 58, "test": 14}
    assert sum(len(images.sample(n).target["boxes"]) for images in data.splits.values() for n in range(len(images))) == 945
