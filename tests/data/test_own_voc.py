"""Sets of one's own with VOC's XML files: two plain folders, parts as folders, other endings; and BCCD's real files."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from hardsight.core.errors import DataError
from hardsight.data import open_data
from hardsight.data.base import Data
from hardsight.data.check import check
from tests.fixtures import data_sets as sets


def write(image: Path, xml: Path, first: int = 3, name: str = "") -> None:
    sets.save(image, sets.picture(len(image.stem), 20, 30))
    objects: Any = [(name or ("fig", "date")[int(image.stem[-1]) % 2], (first, 4, 12, 15), 0)]
    sets.text(xml, sets.xml(image.stem, 30, 20, objects))


def opened(root: Path, **options: Any) -> Data:
    named = ", ".join([f"root={str(root)!r}", *(f"{key}={value!r}" for key, value in options.items())])
    return open_data(f"voc({named}, what=boxes)")


def parts(data: Data) -> dict[str, list[str]]:
    for images in data.splits.values():
        for place in range(len(images)):
            sample = images.sample(place)
            assert sample.target["boxes"].tolist() == [[2, 3, 12, 15]], "counted from 1, the last pixel included"
            assert (
                data.card.classes[int(sample.target["box_labels"][0])] == ("fig", "date")[int(Path(sample.id).stem[-1]) % 2]
            )
    return {name: [images.sample(n).id for n in range(len(images))] for name, images in data.splits.items()}


@pytest.mark.parametrize(
    ("images", "annotations"),
    [("images", "annotations"), ("JPEGImages", "Annotations"), ("", ""), ("img", "annotations/xmls"), ("a/b", "")],
)
@pytest.mark.parametrize("ending", ["jpg", "png", "JPEG"])
def test_two_plain_folders(tmp_path: Path, images: str, annotations: str, ending: str) -> None:
    for n in range(10):
        write(tmp_path / images / f"p{n}.{ending}", tmp_path / annotations / f"p{n}.xml")
    data = opened(tmp_path)
    assert data.card.classes == ("date", "fig") and data.card.name == tmp_path.name
    found = parts(data)
    assert [len(names) for names in found.values()] == [8, 2] and list(found) == ["train", "test"]
    assert sorted(found["train"] + found["test"]) == [f"{images}/p{n}.{ending}".lstrip("/") for n in range(10)]
    assert parts(opened(tmp_path, seed=5))["test"] != found["test"] and len(parts(opened(tmp_path, test=0.5))["test"]) == 5
    assert not [text for text in check(data, 1)["problems"] if "published" in text]


@pytest.mark.parametrize("layout", ["{kind}/{part}", "{part}/{kind}", "{part}"])
def test_parts_in_folders(tmp_path: Path, layout: str) -> None:
    """Also with the same file names in each part."""
    for part, count in (("train", 3), ("valid", 2), ("test", 1)):
        for n in range(count):
            image, xml = (layout.format(kind=kind, part=part) for kind in ("images", "labels"))
            write(tmp_path / image / f"p{n}.jpg", tmp_path / xml / f"p{n}.xml")
    found = parts(opened(tmp_path))
    assert {name: len(names) for name, names in found.items()} == {"train": 3, "val": 2, "test": 1}


def test_what_is_said_and_refused(tmp_path: Path) -> None:
    for n in range(4):
        write(tmp_path / "images" / f"p{n}.jpg", tmp_path / "xml" / f"p{n}.xml", first=0 if n == 2 else 3)
    sets.save(tmp_path / "images" / "extra.png", sets.picture(1))
    with (
        pytest.warns(UserWarning, match=r"passed over 1 file: 1 .png \(images/extra.png\)"),
        pytest.warns(UserWarning, match=r"p2.xml has a box that starts at 0, so pixels are counted from 0: give origin=0"),
    ):
        opened(tmp_path)
    write(tmp_path / "thumbs" / "p0.jpg", tmp_path / "xml" / "p0.xml")
    with pytest.raises(DataError, match="has both images/p0.jpg and thumbs/p0.jpg; give images='folder' to choose"):
        opened(tmp_path)
    assert len(opened(tmp_path, images="images").splits) == 2
    (tmp_path / "images" / "p3.jpg").unlink()
    with pytest.raises(DataError, match=r"xml/p3.xml has no image: expected one called p3.jpg or with another ending"):
        opened(tmp_path, images="images")
    with pytest.raises(DataError, match="is outside the folder"):
        opened(tmp_path, images="../images")
    (tmp_path / "xml" / "p3.xml").unlink()
    with pytest.raises(DataError, match=r"has the object 'fig', not one of the 1 classes; give classes="):
        opened(tmp_path, images="images", classes=["date"], test=0.0).split("train").sample(0)


def test_masks_need_vocs_own_layout(tmp_path: Path) -> None:
    write(tmp_path / "images" / "p0.jpg", tmp_path / "xml" / "p0.xml")
    with pytest.raises(DataError, match="contains no VOC of 2012"):
        open_data(f"voc:{tmp_path}")


def test_real_files_in_two_plain_folders(real_data: Path, tmp_path: Path) -> None:
    """BCCD's XML files and pictures give the same boxes as with its lists."""
    whole = real_data / "bccd" / "BCCD"
    listed = opened(whole, classes=["Platelets", "RBC", "WBC"], origin=0, size=(120, 160))
    wanted = {(s := images.sample(n)).id.split("/")[1]: s for images in listed.splits.values() for n in range(9)}
    for name in wanted:
        (tmp_path / "images").mkdir(exist_ok=True)
        (tmp_path / "annotations").mkdir(exist_ok=True)
        (tmp_path / "images" / f"{name}.jpg").symlink_to(whole / "JPEGImages" / f"{name}.jpg")
        shutil.copy(whole / "Annotations" / f"{name}.xml", tmp_path / "annotations")
    data = opened(tmp_path, origin=0, size=(120, 160))
    assert data.card.classes == ("Platelets", "RBC", "WBC")
    for images in data.splits.values():
        for place in range(len(images)):
            sample = images.sample(place)
            twin = wanted.pop(Path(sample.id).stem)
            assert sample.target["boxes"].tolist() == twin.target["boxes"].tolist()
            assert sample.target["box_labels"].tolist() == twin.target["box_labels"].tolist()
    assert not wanted
