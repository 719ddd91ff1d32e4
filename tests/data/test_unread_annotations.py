"""What is wrong in annotations where nobody reads it is no reason to refuse them: one warning, and the same boxes."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest

from hardsight.core.errors import DataError, DataWarning
from hardsight.data import Sample, open_data
from tests.data.test_data_bad import ask
from tests.fixtures import data_sets as sets

VOC = "VOCdevkit/VOC2012/Annotations/2012_00000{}.xml"
COCO = "annotations/instances_{}2017.json"


def samples(spec: str) -> list[Sample]:
    return [images.sample(place) for images in open_data(spec).splits.values() for place in range(len(images))]


def boxes_of(spec: str) -> list[list[list[float]]]:
    return [sample.target["boxes"].tolist() for sample in samples(spec)]


def one_warning(spec: str, match: str) -> list[list[list[float]]]:
    with pytest.warns(DataWarning) as seen:
        found = boxes_of(spec)
    assert len(seen) == 1 and match in str(seen[0].message), [str(one.message) for one in seen]
    return found


def replaced(path: Path, old: str, new: str) -> None:
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


@pytest.mark.parametrize("stated", [(5000, 4000), (21, 29), (0, 4), ("", "x"), (29.5, 21)])
def test_sizes_in_voc_headers(tmp_path, stated):
    """Before: DataError '... says 5000x4000 pixels, but its image is 29x21'."""
    sets.voc(tmp_path)
    spec = ask("voc", tmp_path, size=16, what="boxes")
    right = boxes_of(spec)
    for n, (wide, high) in ((1, (29, 21)), (2, (28, 22)), (4, (26, 24))):
        path = tmp_path / VOC.format(n)
        replaced(
            path, f"<width>{wide}</width><height>{high}</height>", f"<width>{stated[0]}</width><height>{stated[1]}</height>"
        )
        if stated == (21, 29):
            replaced(path, f"<xmax>{wide}</xmax><ymax>{high}</ymax>", f"<xmax>{wide + 1}</xmax><ymax>{high}</ymax>")
    if stated in ((5000, 4000), (21, 29)):
        assert one_warning(spec, "2012_000001.xml says") == right
        return
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert boxes_of(spec) == right, "a size that is no size is unknown"


def test_boxes_of_another_image_size_are_an_error(tmp_path):
    sets.voc(tmp_path)
    path = tmp_path / VOC.format(1)
    path.write_text(sets.xml("a", 58, 42, [("dog", (1, 1, 58, 42), 0)]))
    message = (
        r"000001.xml says 58x42 pixels, but its image is 29x21 and the box \[0, 0, 58, 42\] lies beyond it: give the image"
    )
    with pytest.raises(DataError, match=message):
        boxes_of(ask("voc", tmp_path, size=16, what="boxes"))
    written = sets.coco(tmp_path)["val"]
    image = written["images"][0] | {"width": 60, "height": 40}
    annotation = written["annotations"][0] | {"bbox": [10, 10, 40, 20]}
    sets.text(tmp_path / COCO.format("val"), json.dumps(written | {"images": [image], "annotations": [annotation]}))
    with pytest.raises(
        DataError, match=r"000000000000.jpg says 60x40 pixels, but its image is 30x20 and the box \[10, 10, 50, 30\]"
    ):
        boxes_of(ask("coco", tmp_path, size=16))


def test_difficult_objects_that_are_left_out_may_be_wrong(tmp_path):
    sets.voc(tmp_path)
    spec = ask("voc", tmp_path, size=16, what="boxes")
    right = boxes_of(spec)
    replaced(tmp_path / VOC.format(1), "<name>person</name>", "<name>unicorn</name>")
    replaced(tmp_path / VOC.format(1), "<xmin>3</xmin>", "<xmin>?</xmin>")
    assert boxes_of(spec) == right
    with pytest.raises(DataError, match=r"2012_000001.xml: its object 'unicorn' has no bndbox"):
        boxes_of(ask("voc", tmp_path, size=16, what="boxes", difficult=True))


def changed(root: Path, **parts: object) -> str:
    path = root / COCO.format("val")
    path.write_text(json.dumps(json.loads(path.read_text()) | parts))
    return ask("coco", root, size=16)


def test_sizes_in_coco(tmp_path):
    """Before: DataError '... is 30x20 pixels, but instances_val2017.json says 640x20'."""
    images = sets.coco(tmp_path)["val"]["images"]
    right = boxes_of(ask("coco", tmp_path, size=16))
    assert (
        one_warning(changed(tmp_path, images=[images[0] | {"width": 640}, images[1]]), "000000000000.jpg says 640x20")
        == right
    )
    for sides in ({"width": "wide", "height": None}, {"width": 0, "height": 0}, {"width": float("inf")}):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert boxes_of(changed(tmp_path, images=[one | sides for one in images])) == right


@pytest.mark.parametrize("where", ["/home/someone/coco/", "C:\\data\\coco\\", "../upload/"])
def test_paths_of_another_machine_in_coco(tmp_path, where):
    """Before: DataError '... is outside the folder'. Only the last part is used, so no file outside the folder is opened."""
    images = sets.coco(tmp_path)["val"]["images"]
    right = boxes_of(ask("coco", tmp_path, size=16))
    spec = changed(tmp_path, images=[one | {"file_name": where + one["file_name"]} for one in images])
    assert one_warning(spec, "has 2 images with paths outside the folder, such as") == right
    assert [sample.id for sample in samples(spec)][-2:] == [one["file_name"] for one in images]


def test_annotations_of_images_that_are_not_listed(tmp_path):
    """Before: DataError 'annotation 9 refers to image 7 and category 1; the file must list both'."""
    annotations = sets.coco(tmp_path)["val"]["annotations"]
    right = boxes_of(ask("coco", tmp_path, size=16))
    lost = {"id": 9, "image_id": 7, "category_id": 1, "bbox": [1, 1, 2, 2]}
    spec = changed(tmp_path, annotations=[*annotations, lost])
    assert one_warning(spec, "annotations of images that it doesn't list, which are not used: 7") == right
    with pytest.raises(DataError, match="annotation 9 has the category 44, which the file doesn't list"):
        open_data(changed(tmp_path, annotations=[lost | {"image_id": 100, "category_id": 44}])).split("val").sample(0)


def test_paths_below_the_folder_as_windows_writes_them(tmp_path):
    images = sets.coco(tmp_path)["val"]["images"]
    right = boxes_of(ask("coco", tmp_path, size=16))
    spec = changed(tmp_path, images=[one | {"file_name": "val2017\\" + one["file_name"]} for one in images])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert boxes_of(spec) == right
