"""Sets of one's own in pairs of files: images with masks in any encoding, or with depth maps in any unit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hardsight.core.errors import DataError
from hardsight.data import open_data
from hardsight.data.base import Data
from hardsight.measure.stamps import stamp
from tests.fixtures import data_sets as sets

CLASSES = "classes=['background', 'road', 'car']"


def write(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


def spec(root: Path, images: str, **patterns: str) -> str:
    """A spec of pairs below root; patterns end in anything else that the spec has."""
    more = patterns.pop("more", "")
    named = ", ".join(f"{name}={f'{root}/{pattern}'!r}" for name, pattern in patterns.items())
    return f"pairs({f'{root}/{images}'!r}, {named}{', ' + more if more else ''})"


def masks_of(data: Data) -> dict[str, list[list[int]]]:
    samples = [images.sample(n) for images in data.splits.values() for n in range(len(images))]
    return {sample.id: sample.target["mask"].tolist() for sample in samples}


MASK = np.array([[0, 1, 2], [2, 2, 255]], np.uint8)


@pytest.mark.parametrize("ending", ["png", "tif", "gif", "pgm", "bmp"])
def test_ids_in_every_exact_format(tmp_path: Path, ending: str) -> None:
    for n in range(5):
        write(tmp_path / "images" / f"{n}.jpg", sets.picture(n, 2, 3))
        write(tmp_path / "masks" / f"{n}_gt.{ending}", np.roll(MASK, n))
    data = open_data(spec(tmp_path, "images/*.jpg", masks=f"masks/*_gt.{ending}", more=CLASSES))
    assert data.card.mask_classes == ("background", "road", "car") and data.card.targets == ("mask",)
    assert {name: len(images) for name, images in data.splits.items()} == {"train": 4, "test": 1}
    assert masks_of(data) == {f"images/{n}.jpg": np.roll(MASK, n).tolist() for n in range(5)}


COLOURS = {"car": (64, 0, 128), "road": (128, 64, 128)}


@pytest.mark.parametrize("palette", [False, True])
def test_classes_stored_as_colours(tmp_path: Path, palette: bool) -> None:
    write(tmp_path / "a.jpg", sets.picture(0, 2, 3))
    colours = np.array([[(64, 0, 128), (0, 0, 0), (128, 64, 128)], [(0, 0, 0)] * 3], np.uint8)
    picture = Image.fromarray(colours)
    (picture.quantize(8) if palette else picture).save(tmp_path / "a.png")
    made = spec(tmp_path, "*.jpg", masks="*.png", more=f"ids={COLOURS}, ignore=(0, 0, 0)")
    assert masks_of(open_data(made)) == {"a.jpg": [[0, 255, 1], [255, 255, 255]]}
    assert open_data(made).card.mask_classes == ("car", "road")
    with pytest.raises(DataError, match=r"a.png has the colour \[0, 0, 0\]; the values in ids= are \[64, 0, 128\] \(car\)"):
        masks_of(open_data(spec(tmp_path, "*.jpg", masks="*.png", more=f"ids={COLOURS}")))


@pytest.mark.parametrize("three", [False, True])
def test_0_and_255_are_two_classes(tmp_path: Path, three: bool) -> None:
    """Also where a program saved the one channel as three."""
    vessels = np.array([[0, 255, 255]], np.uint8)
    write(tmp_path / "a.tif", sets.picture(0, 1, 3))
    write(tmp_path / "b.png", np.dstack([vessels] * 3) if three else vessels)
    (tmp_path / "b.png").rename(tmp_path / "a.png")
    made = spec(tmp_path, "*.tif", masks="*.png", more="ids={'background': 0, 'vessel': 255}")
    assert masks_of(open_data(made)) == {"a.tif": [[0, 1, 1]]}


def test_parts_named_in_the_paths(tmp_path: Path) -> None:
    """DRIVE's layout, with wildcards between other text, and validation under another name."""
    for part, number in (("training", 21), ("training", 22), ("test", 1), ("valid", 7)):
        write(tmp_path / part / "images" / f"{number}_{part}.tif", sets.picture(number, 4, 5))
        write(tmp_path / part / "1st_manual" / f"{number}_manual1.gif", np.full((4, 5), 255, np.uint8))
    write(tmp_path / "test" / "1st_manual" / "99_manual1.gif", np.full((4, 5), 255, np.uint8))
    made = spec(
        tmp_path, "{split}/images/*_{split}.tif", masks="{split}/1st_manual/*_manual1.gif", more="ids={'a': 0, 'b': 255}"
    )
    with pytest.warns(UserWarning, match="passed over 1 file: 1 .gif"):
        data = open_data(made)
    assert {name: len(images) for name, images in data.splits.items()} == {"train": 2, "val": 1, "test": 1}
    assert data.split("train").sample(1).id == "training/images/22_training.tif"
    assert data.split("train").sample(1).target["mask"].unique().tolist() == [1]


def test_folders_of_any_depth(tmp_path: Path) -> None:
    for name in ("a/x", "b/c/x", "y"):
        write(tmp_path / "rgb" / f"{name}.png", sets.picture(1, 2, 3))
        write(tmp_path / "gt" / f"{name}.png", MASK)
    data = open_data(spec(tmp_path, "rgb/**/*.png", masks="gt/**/*.png", more=f"{CLASSES}, test=0"))
    assert data.split("train").ids == ["rgb/a/x.png", "rgb/b/c/x.png", "rgb/y.png"]  # type: ignore[attr-defined]


@pytest.mark.parametrize(("unit", "ending"), [(1 / 5000, "png"), (1 / 256, "tif"), (0.001, "pgm")])
def test_depths_in_their_unit(tmp_path: Path, unit: float, ending: str) -> None:
    metres = np.array([[0, 1.5, 2.0], [3.25, 0, 30]], np.float32)
    write(tmp_path / "rgb" / "1.png", sets.picture(0, 2, 3))
    if ending == "pgm":
        stored = np.rint(metres / unit).astype(">u2")
        (tmp_path / "depth").mkdir()
        (tmp_path / "depth" / "1.pgm").write_bytes(b"P5 3 2 65535\n" + stored.tobytes())
    else:
        write(tmp_path / "depth" / f"1.{ending}", np.rint(metres.clip(0, 13) / unit).astype(np.uint16))
    data = open_data(spec(tmp_path, "rgb/*.png", depths=f"depth/*.{ending}", more=f"unit={unit}"))
    assert data.card.targets == ("depth",) and data.card.max_depth == 10 and data.card.unit == unit
    depth = data.split("train").sample(0).target["depth"]
    assert np.allclose(depth.numpy(), np.where(metres > 10, 0, metres), atol=unit)


def test_depths_as_floats_beside_masks(tmp_path: Path) -> None:
    metres = np.array([[0, 1.5, 2.0], [3.25, 0, 9]], np.float32)
    write(tmp_path / "rgb" / "1.png", sets.picture(0, 2, 3))
    write(tmp_path / "depth" / "1.tif", metres)
    write(tmp_path / "gt" / "1.png", MASK)
    sample = (
        open_data(spec(tmp_path, "rgb/*.png", masks="gt/*.png", depths="depth/*.tif", more=f"{CLASSES}, unit=1.0"))
        .split("train")
        .sample(0)
    )
    assert np.array_equal(sample.target["depth"].numpy(), metres) and sample.target["mask"].tolist() == MASK.tolist()


def test_parts_drawn_by_a_seed(tmp_path: Path) -> None:
    for n in range(20):
        write(tmp_path / "i" / f"{n}.png", sets.picture(n, 2, 3))
        write(tmp_path / "m" / f"{n}.png", MASK)

    def test_part(more: str) -> list[str]:
        data = open_data(spec(tmp_path, "i/*.png", masks="m/*.png", more=f"{CLASSES}, {more}"))
        parts = [images.ids for images in data.splits.values()]  # type: ignore[attr-defined]
        assert sorted(name for part in parts for name in part) == sorted(f"i/{n}.png" for n in range(20))
        return data.split("test").ids  # type: ignore[attr-defined]

    assert len(test_part("test=0.3")) == 6 and test_part("test=0.3") == test_part("test=0.3, seed=0")
    assert test_part("test=0.3, seed=1") != test_part("test=0.3")
    assert len(test_part("test=0.001")) == 1 and len(test_part("test=1.0")) == 20


@pytest.mark.parametrize(
    ("images", "other", "more", "message"),
    [
        ("i/*.png", {"masks": "m/*.png"}, "", "needs either classes="),
        ("i/*.png", {}, "", "pairs needs masks= or depths="),
        ("i/*.png", {"depths": "m/*.png"}, "", "needs unit=, the metres that one stored value stands for"),
        ("i/*.png", {"depths": "m/*.png"}, "unit=0.0", "unit=0.0: it must be the metres"),
        ("i/*.jpg", {"masks": "m/*.png"}, CLASSES, r"images='.*i/\*.jpg' matches no file; .*i contains 0.png, 1.png"),
        ("gone/*.jpg", {"masks": "m/*.png"}, CLASSES, "no such folder"),
        ("i/*.png", {"masks": "n/*.png"}, CLASSES, r"i/1.png has no file in masks=.*: none has '1' in place of the wildcards"),
        ("i/*.png", {"masks": "m/*/*.png"}, CLASSES, "must have the same wildcards in the same order"),
        ("i/*.png", {"masks": "m/0.png"}, CLASSES, "must have the same wildcards in the same order"),
        ("i/*.png", {"masks": "m/*.png"}, "classes=['a', 'b']", r"0.png has the id 2; the values in ids= are 0 \(a\), 1 \(b\)"),
        ("i/*.png", {"masks": "m/*.png"}, "ids={'a': 0, 'b': 0}", "each once"),
        ("i/*.png", {"masks": "m/*.png"}, "ids={'a': 0, 'b': [0, 0, 1]}", "must be numbers, each once, or colours"),
        ("i/*.png", {"masks": "m/*.png"}, "ids={'a': 0, 'b': 256}", "256 is not what a mask stores"),
        ("i/*.png", {"masks": "m/*.png"}, "ids={'a': 0, 'b': 1}, ignore=1", "1 is in ids= and in ignore="),
        ("i/*.png", {"masks": "j/*.jpg"}, CLASSES, "not an image in a supported format"),
        ("i/*.png", {"masks": "w/*.png"}, CLASSES, "0.png is 2x3 pixels, its image is 3x2"),
        ("i/*.png", {"masks": "m/*.png"}, f"{CLASSES}, test=2.0", "test=2.0: the share"),
    ],
)  # fmt: skip
def test_what_is_refused(tmp_path: Path, images: str, other: dict[str, str], more: str, message: str) -> None:
    for n in range(2):
        write(tmp_path / "i" / f"{n}.png", sets.picture(n, 2, 3))
        write(tmp_path / "m" / f"{n}.png", MASK)
        write(tmp_path / "w" / f"{n}.png", MASK.T.copy())
        write(tmp_path / "j" / f"{n}.jpg", MASK)
    write(tmp_path / "n" / "0.png", MASK)
    arguments: dict[str, Any] = {**other, "more": more}
    with pytest.raises(DataError, match=message):
        masks_of(open_data(spec(tmp_path, images, **arguments)))


def test_other_files_make_another_cell(tmp_path: Path) -> None:
    write(tmp_path / "i" / "0.png", sets.picture(0, 2, 3))
    write(tmp_path / "m" / "0.png", MASK)
    made = spec(tmp_path, "i/*.png", masks="m/*.png", more=CLASSES)
    before = stamp(made, "Data")
    write(tmp_path / "m" / "0.png", np.zeros((20, 30), np.uint8))
    assert before and stamp(made, "Data") != before


def test_real_masks_are_those_of_their_own_reader(real_data: Path) -> None:
    from hardsight.data.sets.camvid import CLASSES as NAMES

    root = real_data / "camvid"
    root = root / "CamVid" if (root / "CamVid").is_dir() else root
    theirs = open_data(f"camvid(root={str(root)!r}, size=(90, 120))")
    ours = open_data(
        spec(root, "{split}/*.png", masks="{split}annot/*.png", more=f"classes={list(NAMES)}, ignore=11, size=(90, 120)")
    )
    assert ours.card.mask_classes == theirs.card.mask_classes and list(ours.splits) == list(theirs.splits)
    for name, images in ours.splits.items():
        assert len(images) == len(theirs.split(name))
        for place in (0, len(images) - 1):
            one, other = images.sample(place), theirs.split(name).sample(place)
            assert one.id == other.id and bool((one.image == other.image).all())
            assert bool((one.target["mask"] == other.target["mask"]).all())


def test_real_depths_are_those_of_their_own_reader(real_data: Path) -> None:
    root = real_data / "depth_7scenes"
    theirs = open_data(f"rgbd(root={str(root)!r})")
    ours = open_data(spec(root, "{split}/rgb_*.jpg", depths="{split}/depth_*.png", more="unit=0.001"))
    for name, images in ours.splits.items():
        assert len(images) == len(theirs.split(name))
        one, other = images.sample(1), theirs.split(name).sample(1)
        assert one.id == other.id and bool((one.image == other.image).all())
        assert bool((one.target["depth"] == other.target["depth"]).all())
