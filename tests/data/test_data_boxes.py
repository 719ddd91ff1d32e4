"""Boxes of the published data sets: compared with the written files and with a COCO index, and errors in the files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from hardsight.core.errors import DataError
from hardsight.data import open_data
from hardsight.data.boxes import boxed
from hardsight.data.images import fit
from hardsight.data.sets.coco import read_index
from tests.data.test_data_bad import ask, everything
from tests.fixtures import data_sets as sets

GOOD = {"id": 1, "image_id": 100, "category_id": 1, "bbox": [0, 0, 2, 2]}


@pytest.mark.parametrize("below", ["", "VOCdevkit", "VOCdevkit/VOC2012"])
def test_voc_boxes(tmp_path, below):
    objects = sets.voc(tmp_path)["objects"]
    root = str(tmp_path / below)
    for difficult in (False, True):
        data = open_data(f"voc(root={root!r}, size=[40, 60], what=boxes, difficult={difficult})")
        for part in ("train", "val"):
            for place in range(len(data.split(part))):
                sample = data.split(part).sample(place)
                name = sample.id.rpartition("/")[2]
                high, wide = 20 + int(name[-2:]), 30 - int(name[-2:])
                kept = [one for one in objects[name] if difficult or not one[2]]
                scale = np.array([60 / wide, 40 / high] * 2)
                wanted = np.array([(x1 - 1, y1 - 1, x2, y2) for _, (x1, y1, x2, y2), _ in kept]).reshape(-1, 4) * scale
                assert np.allclose(sample.target["boxes"].numpy(), wanted, atol=1e-4)
                assert [data.card.classes[n] for n in sample.target["box_labels"]] == [kind for kind, _, _ in kept]
    whole = open_data(f"voc(root={root!r}, size=[40, 60], what=boxes)").split("train").sample(0).target["boxes"][0]
    assert whole.tolist() == [0, 0, 60, 40], "from the first pixel to the last is the whole image"
    labels = open_data(f"voc(root={root!r}, size=16, what=label)").split("train")
    assert [int(labels.sample(place).target["label"]) for place in range(3)] == [11, 11, 11], "the largest is the dog"


def test_voc_of_several_years(tmp_path):
    sets.voc(tmp_path)
    sets.voc(tmp_path, 2007)
    data = open_data(f"voc(root={str(tmp_path)!r}, size=16, what=boxes, years=[2007, 2012])")
    assert {name: len(images) for name, images in data.splits.items()} == {"train": 4, "val": 3, "test": 2}
    assert data.split("train").sample(0).id == "VOC2007/2007_000001"
    with pytest.raises(DataError, match="contains no VOC of 2009"):
        open_data(f"voc(root={str(tmp_path)!r}, size=16, years=[2009])")


def test_coco_as_a_coco_index_reads_it(tmp_path):
    from faster_coco_eval import COCO

    sets.coco(tmp_path)
    data = open_data(f"coco(root={str(tmp_path)!r}, size=[40, 60])")
    assert data.card.classes == ("person", "car", "toothbrush"), "in the order of their ids, without the gaps"
    for part in ("train", "val"):
        theirs = COCO(str(tmp_path / "annotations" / f"instances_{part}2017.json"))
        order = {category: number for number, category in enumerate(sorted(theirs.getCatIds()))}
        for place, image in enumerate(theirs.loadImgs(theirs.getImgIds())):
            sample = data.split(part).sample(place)
            assert sample.id == image["file_name"]
            scale = np.array([60 / image["width"], 40 / image["height"]] * 2)
            wanted, labels = [], []
            for one in theirs.loadAnns(theirs.getAnnIds(imgIds=image["id"], iscrowd=False)):
                x, y, wide, high = one["bbox"]
                right, low = min(x + wide, image["width"]), min(y + high, image["height"])
                if right > x and low > y:
                    wanted.append((x, y, right, low))
                    labels.append(order[one["category_id"]])
            assert np.allclose(sample.target["boxes"].numpy(), np.array(wanted).reshape(-1, 4) * scale, atol=1e-4)
            assert sample.target["box_labels"].tolist() == labels
    assert (
        len(open_data(f"coco(root={str(tmp_path)!r}, size=[40, 60], crowd=True)").split("train").sample(0).target["boxes"])
        == 3
    )
    assert data.split("train").sample(2).target["boxes"].shape == (0, 4), "an image without boxes is valid"


def test_outlines_of_coco_are_cut_and_nothing_else(tmp_path):
    """Removing the segmentation outlines does not change what is read, regardless of the text around them."""
    odd = {"segmentation": [[1, 2, 3]], "id": 1, "file_name": 'a\\"segmentation\\": [1], .jpg', "height": 4, "width": 5}
    last = GOOD | {"id": 2, "segmentation": [[7.5e-3, 1, 2], []]}
    first = {"segmentation": [[]], **GOOD, "image_id": 1}
    content = {"images": [odd], "annotations": [first, last | {"image_id": 1}], "categories": [{"id": 1, "name": "b"}]}
    for number, text in enumerate(
        (json.dumps(content), json.dumps(content, indent=1), json.dumps(content, separators=(",", ":")))
    ):
        index = read_index(sets.text(tmp_path / f"{number}.json", text))
        assert index.names == [odd["file_name"]] and index.sizes == [(4, 5)] and index.categories == {1: "b"}
        assert index.boxes.tolist() == [[0, 0, 2, 2]] * 2 and index.starts.tolist() == [0, 2]


def test_penn_fudan(tmp_path):
    written = sets.penn_fudan(tmp_path)
    data = open_data(f"penn_fudan(root={str(tmp_path)!r}, size=[40, 48], test=0.34)")
    assert {name: len(images) for name, images in data.splits.items()} == {"train": 4, "test": 2}
    for images in data.splits.values():
        for place in range(len(images)):
            sample = images.sample(place)
            people = written[sample.id]
            high = people.shape[0]
            wanted = np.array([(3, 2, 8, 10), (12, 5, 12 + high - 20, 18)]) * np.array([2, 40 / high] * 2)
            assert np.allclose(sample.target["boxes"].numpy(), wanted, atol=1e-4)
            assert np.array_equal(sample.target["mask"].numpy(), fit((people > 0).astype(np.uint8), (40, 48), nearest=True))


@pytest.mark.parametrize("size", [8, 20, 64, (10, 40)])
@pytest.mark.parametrize("shape", [(40, 60), (60, 40), (33, 47)])
def test_boxes_follow_their_image(size, shape):
    """A box stays around its bright pixels, however the image is resized and cropped."""
    corners = np.array([[10, 8, 30, 26], [0, 0, 60, 60], [-5, 20, 12, 99]], np.float32)
    placed = boxed(corners, [0, 1, 2], shape, size, "x")
    for box, label in zip(placed["boxes"], placed["box_labels"], strict=True):
        x1, y1, x2, y2 = corners[label].clip(0).astype(int)
        image = np.zeros((*shape, 3), np.uint8)
        image[y1:y2, x1:x2] = 255
        if (box[2:] - box[:2]).min() < 2:
            continue
        bright = fit(image, size)[..., 0] > 127
        rows, columns = np.nonzero(bright)
        found = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        assert np.abs(found - box).max() <= 1.01, (found, box)
    assert boxed([], [], shape, size, "x")["boxes"].shape == (0, 4)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("<annotation><object>", "is truncated or not XML"),
        ("", "is truncated or not XML"),
        ('<!DOCTYPE a [<!ENTITY x "y">]><annotation/>', "is rejected: it declares entities"),
        (sets.xml("a", 29, 21, [("dog", (9, 1, 3, 5), 0)]), r"has the box \[8, 0, 3, 5\]; the corners must be"),
        (sets.xml("a", 29, 21, [("dog", ("nan", 1, 3, 5), 0)]), "object 'dog' has no bndbox with the numbers"),
        (sets.xml("a", 29, 21, [("dog", ("one", 1, 3, 5), 0)]), "object 'dog' has no bndbox with the numbers"),
        ("<annotation><object><name>dog</name></object></annotation>", "object 'dog' has no bndbox"),
        (sets.xml("a", 29, 21, [("unicorn", (1, 1, 3, 5), 0)]), r"has the object 'unicorn', not one of the 20 classes"),
        (sets.xml("a", 60, 42, [("dog", (1, 1, 60, 42), 0)]), "says 60x42 pixels, but its image is 29x21 and the box"),
    ],
)
def test_bad_annotations_of_voc(tmp_path, content, message):
    sets.voc(tmp_path)
    path = tmp_path / "VOCdevkit/VOC2012/Annotations/2012_000001.xml"
    path.write_text(content)
    images = open_data(ask("voc", tmp_path, size=16, what="boxes")).split("train")
    with pytest.raises(DataError, match=f"2012_000001.xml.*{message}"):
        images.sample(0)
    images.sample(1)


def test_boxes_of_voc_that_leave_the_image_are_clipped(tmp_path):
    sets.voc(tmp_path)
    path = tmp_path / "VOCdevkit/VOC2012/Annotations/2012_000001.xml"
    objects = [
        ("dog", (-5, 2, 99, 99), 0),
        ("cat", (50, 50, 60, 60), 0),
        ("cow", (3, 3, 2, 8), 0),
        ("bus", (4.5, 3, 8, 9), 0),
    ]
    path.write_text(sets.xml("a", 29, 21, objects))
    spec = ask("voc", tmp_path, size=(21, 29), what="boxes")
    sample = open_data(spec).split("train").sample(0)
    assert sample.target["boxes"].tolist() == [[0, 1, 29, 21], [3.5, 2, 8, 9]], "without what is outside or has no area"
    assert sample.target["box_labels"].tolist() == [11, 5]
    path.write_text(sets.xml("a", 0, 0, []))
    assert open_data(spec).split("train").sample(0).target["boxes"].shape == (0, 4), "a size of 0 means unknown"
    with pytest.raises(DataError, match=r"2012_000005.xml has no object .*no label"):
        open_data(ask("voc", tmp_path, size=16, what="label")).split("val").sample(1)
    sets.text(tmp_path / "VOCdevkit/VOC2012/ImageSets/Main/train.txt", "../../../secret")
    with pytest.raises(DataError, match=r"train.txt: '../../../secret' is outside the folder"):
        open_data(spec)


def changed(root: Path, **parts: object) -> Path:
    path = root / "annotations" / "instances_val2017.json"
    return sets.text(path, json.dumps(json.loads(path.read_text()) | parts))


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"annotations": [GOOD | {"category_id": 2}]}, "annotation 1 has the category 2, which the file doesn't list"),
        ({"annotations": [GOOD | {"bbox": [1, 2, 3]}]}, "is no instances file .*not enough values"),
        ({"annotations": [GOOD | {"bbox": [1, 2, "a", 4]}]}, "is no instances file"),
        ({"annotations": [{"id": 1}]}, "is no instances file .*KeyError"),
        ({"categories": 7}, "is no instances file"),
        ({"images": []}, "lists 0 images"),
        ({"images": [{"id": 1, "file_name": "a.jpg"}] * 2}, "lists 2 images under 1 ids and 1 names"),
        ({"images": [{"id": 100, "file_name": ""}], "annotations": []}, "'' is outside the folder"),
    ],
)
def test_bad_files_of_coco(tmp_path, parts, message):
    sets.coco(tmp_path)
    changed(tmp_path, **parts)
    with pytest.raises(DataError, match=f"instances_val2017.json.*{message}"):
        everything(ask("coco", tmp_path, size=16))


def test_coco_that_does_not_hold_together(tmp_path):
    sets.coco(tmp_path)
    spec = ask("coco", tmp_path, size=(20, 30))
    changed(tmp_path, annotations=[GOOD | {"bbox": [5, 5, -2, 3]}])
    with pytest.raises(DataError, match=r"instances_val2017.json: 000000000000.jpg has the box \[5, 5, 3, 8\]"):
        open_data(spec).split("val").sample(0)
    changed(tmp_path, categories=[{"id": 1, "name": "person"}])
    with pytest.raises(DataError, match="instances_.*json and .*instances_.*json have different categories"):
        everything(spec)
    changed(tmp_path, images=[{"id": 1, "file_name": "gone.jpg"}])
    with pytest.raises(DataError, match=r"has no gone.jpg in val2017, images/val2017.*give images="):
        len(open_data(spec).split("val"))
    path = tmp_path / "annotations" / "instances_val2017.json"
    path.write_text(path.read_text()[:50])
    with pytest.raises(DataError, match="instances_val2017.json is truncated or not JSON"):
        open_data(spec)
    (tmp_path / "annotations" / "instances_val2014.json").write_text("{}")
    with pytest.raises(
        DataError, match=r"both annotations/instances_val2014.json and annotations/instances_val2017.json; give year="
    ):
        open_data(spec)
    path.unlink()
    assert len(open_data(ask("coco", tmp_path, size=16, year=2017)).split("train")) == 3
