"""Broken files in published data sets: read as the format defines, or rejected in one line that names the file.

Errors in boxes are tested in `test_data_boxes.py`.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from hardsight.core.errors import DataError, MissingDependency
from hardsight.data import open_data
from hardsight.data.images import is_image
from tests.data.test_data_sets import SPECS, opened
from tests.fixtures import data_sets as sets
from tests.fixtures import transfer_sets as transfer

CLIPS = ("ucf101", "hmdb51")
FILES = [name for name in SPECS if name.partition("-")[0] not in ("cifar100", "stl10", "nyuv2", "hfdata", *CLIPS)]
FILES.remove("imagenet-parquet")


def ask(name: str, root: Path, **options: object) -> str:
    return f"{name}({', '.join([f'root={str(root)!r}', *(f'{key}={value!r}' for key, value in options.items())])})"


def everything(spec: str) -> None:
    for images in open_data(spec).splits.values():
        for place in range(len(images)):
            images.sample(place)


@pytest.mark.parametrize("name", FILES)
def test_an_image_cut_short_is_named(tmp_path, name):
    data = opened(name, tmp_path)
    cut = [path for path in tmp_path.rglob("*") if path.is_file() and is_image(path.name) and "mask" not in path.name]
    for path in cut:
        path.write_bytes(path.read_bytes()[:-60])
    for part, images in data.splits.items():
        with pytest.raises(DataError, match=r"(is corrupt or truncated|is not an image)") as caught:
            images.sample(0)
        assert any(str(path) in str(caught.value) for path in cut), (part, caught.value)


@pytest.mark.parametrize("name", CLIPS)
def test_a_clip_cut_short_is_named(tmp_path, name):
    data = opened(name, tmp_path)
    for path in tmp_path.rglob("*.avi"):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])
    for images in data.splits.values():
        with pytest.raises(DataError, match=r"truncated") as caught:
            images.sample(0)
        assert any(str(path) in str(caught.value) for path in tmp_path.rglob("*.avi"))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", [name for name in SPECS if name != "hfdata"])
def test_a_folder_of_something_else_is_refused(tmp_path, name):
    spec = SPECS[name][1]
    (tmp_path / "other").mkdir()
    sets.text(tmp_path / "other" / "notes.txt", "x")
    (tmp_path / "empty").mkdir()
    for place in ("gone", "empty", "other"):
        with pytest.raises(DataError, match=f"{place}.*(no such folder|is empty|contains no).*") as caught:
            everything(spec.replace("ROOT", repr(str(tmp_path / place))))
        assert "expected" in str(caught.value)


@pytest.mark.parametrize("name", ["ade20k", "voc", "voc-boxes", "coco", "imagenet", "penn_fudan"])
def test_mixed_sizes_ask_for_one(tmp_path, name):
    write, spec = SPECS[name]
    write(tmp_path)
    plain = (
        spec.replace("size=[16, 20], ", "").replace(", size=[16, 20]", "").replace(", size=16", "").replace(", size=10", "")
    )
    with pytest.raises(DataError, match=r"all images must have one size; give size="):
        open_data(plain.replace("ROOT", repr(str(tmp_path))))
    with pytest.raises(DataError, match=r"size=0: a side must be 1 to"):
        open_data(ask(name.partition("-")[0], tmp_path, size=0))


# Classes


def test_imagenet_without_what_it_needs(tmp_path):
    sets.imagenet(tmp_path / "a", "solution")
    table = tmp_path / "a" / "LOC_val_solution.csv"
    table.write_text("ImageId,PredictionString\nILSVRC2012_val_00000001,n01440764 1 2 3 4\n")
    with pytest.raises(DataError, match=r"val_00000002.JPEG has no ImageNet class in .*LOC_val_solution.csv"):
        everything(ask("imagenet", tmp_path / "a", size=8))
    table.write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="is not Kaggle's table with ImageId"):
        everything(ask("imagenet", tmp_path / "a", size=8))
    table.unlink()
    needed = "val has no class folders, so it needs a label file next to it: LOC_val_solution.csv, or"
    with pytest.raises(DataError, match=needed):
        everything(ask("imagenet", tmp_path / "a", size=8))
    sets.imagenet(tmp_path / "b", "devkit")
    devkit = tmp_path / "b" / "ILSVRC2012_devkit_t12" / "data"
    sets.text(devkit / "ILSVRC2012_validation_ground_truth.txt", "2000", "449", "7", "7")
    with pytest.raises(DataError, match=r"has the class '2000', which meta.mat does not list"):
        everything(ask("imagenet", tmp_path / "b", size=8))
    (devkit / "meta.mat").write_bytes((devkit / "meta.mat").read_bytes()[:150])
    with pytest.raises(DataError, match=r"meta.mat (is truncated or not a MATLAB file|has no variable)"):
        everything(ask("imagenet", tmp_path / "b", size=8))
    sets.imagenet(tmp_path / "c")
    sets.save(tmp_path / "c/train/cats/0.JPEG", sets.picture(0))
    with pytest.raises(DataError, match="not ImageNet classes: cats; use the spec folder"):
        everything(ask("imagenet", tmp_path / "c", size=8))


def test_tiny_imagenet_that_does_not_hold_together(tmp_path):
    sets.tiny_imagenet(tmp_path)
    place, spec = tmp_path / "tiny-imagenet-200", ask("tiny_imagenet", tmp_path, size=64)
    for line, message in (
        ("val_9.JPEG\tn01440764\t0\t0\t1\t1", "line 1: no such file .*val_9.JPEG"),
        ("val_0.JPEG\tn99999999", "line 1: 'n99999999' is not a class in wnids.txt"),
        ("val_0.JPEG", "line 1: '' is not a class"),
        ("../../x.JPEG\tn01440764", "is outside the folder"),
        ("", "lists no image"),
    ):
        sets.text(place / "val" / "val_annotations.txt", line)
        with pytest.raises(DataError, match=f"val_annotations.txt.*{message}"):
            len(open_data(spec).split("val"))
    (place / "val" / "val_annotations.txt").unlink()
    with pytest.raises(DataError, match=r"val_annotations.txt: no such file"):
        len(open_data(spec).split("val"))
    (place / "words.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"words.txt can't be read as text"):
        open_data(spec)
    (place / "words.txt").unlink()
    sets.text(place / "wnids.txt", "n01440764", "n07654321")
    with pytest.raises(DataError, match=r"train has no folder n07654321, which wnids.txt lists"):
        len(open_data(spec).split("train"))


def test_transfer_sets_that_do_not_hold_together(tmp_path):
    transfer.aircraft(tmp_path)
    sets.text(tmp_path / "fgvc-aircraft-2013b/data/images_variant_train.txt", "0000001 Concorde")
    with pytest.raises(DataError, match=r"fgvc-aircraft-2013b can't be read by torchvision's FGVCAircraft: KeyError"):
        everything(ask("aircraft", tmp_path, size=8))
    transfer.sun397(tmp_path)
    for part in ("Training", "Testing"):
        sets.text(tmp_path / f"{part}_01.txt", "/a/abbey/sun_9.jpg")
    with pytest.raises(DataError, match=r"Training_01.txt lists a/abbey/sun_9.jpg, which is not in"):
        open_data(ask("sun397", tmp_path, size=8))
    transfer.dtd(tmp_path)
    with pytest.raises(DataError, match="partition=11; it must be 1 to 10"):
        open_data(ask("dtd", tmp_path, partition=11))
    assert not (tmp_path / "caltech101").exists()
    with pytest.raises(DataError, match="contains no Caltech-101"):
        open_data(ask("caltech101", tmp_path))
    assert not (tmp_path / "caltech101").exists(), "opening creates no folder"


# Arrays, parquet, depth


def test_arrays_cut_short(tmp_path):
    sets.stl10(tmp_path)
    place, spec = tmp_path / "stl10_binary", ask("stl10", tmp_path)
    whole = (place / "train_X.bin").read_bytes()
    for content, message in ((whole[:-5], "train_X.bin has 110,587 bytes; STL-10 has 27,648"), (b"", "has 0 bytes")):
        (place / "train_X.bin").write_bytes(content)
        with pytest.raises(DataError, match=message):
            open_data(spec)
    (place / "train_X.bin").write_bytes(whole)
    for labels, message in ((b"\1\2\3", "3 labels for 4 images"), (b"\0\1\2\3", "a label is 0; STL-10 labels are 1 to 10")):
        (place / "train_y.bin").write_bytes(labels)
        with pytest.raises(DataError, match=f"train_y.bin: {message}"):
            open_data(spec)
    (place / "train_y.bin").unlink()
    with pytest.raises(DataError, match=r"train_y.bin: no such file, but 4 images need labels"):
        open_data(spec)


def test_cifar100_of_another_shape(tmp_path):
    import pickle

    sets.cifar100(tmp_path)
    path, spec = tmp_path / "cifar-100-python" / "test", ask("cifar100", tmp_path)
    pixels = np.zeros((1, 3072), np.uint8)
    for content, message in (
        ({b"data": pixels, b"fine_labels": [100], b"coarse_labels": [0]}, "a label is 100; CIFAR-100 labels are 0 to 99"),
        ({b"data": pixels, b"labels": [1]}, "is not a CIFAR-100 file: it has no 'fine_labels'; it looks like CIFAR-10"),
        ([1], "contains a list, not a dict with 'data' and 'fine_labels'"),
    ):
        path.write_bytes(pickle.dumps(content))
        with pytest.raises(DataError, match=f"test.*{message}"):
            open_data(spec)
    sets.cifar100(tmp_path / "more")
    meta = tmp_path / "more" / "cifar-100-python" / "meta"
    meta.write_bytes(pickle.dumps({b"fine_label_names": [b"one"]}))
    with pytest.raises(DataError, match=r"meta has no list 'fine_label_names' of 100 names"):
        open_data(ask("cifar100", tmp_path / "more"))


def test_bad_parquet(tmp_path):
    place = tmp_path / "one"
    path = sets.parquet(place / "test-00000-of-00001.parquet", [(sets.picture(n), n) for n in range(4)], classes=3)
    spec = f"hfdata(name={str(place)!r}"
    with pytest.raises(DataError, match=r"row 3 of test: its label is 3; valid classes are 0 to 2"):
        open_data(f"{spec})").split("test").sample(3)
    with pytest.raises(DataError, match="has no column 'x'; its columns are: image, label"):
        open_data(f"{spec}, label=x)")
    with pytest.raises(DataError, match="has no column 'y'; its columns are: image, label"):
        open_data(f"{spec}, depth=y)")
    sets.parquet(
        tmp_path / "two" / "train.parquet", [(sets.picture(0), 0)], extra={"other": [sets.encoded(sets.picture(1))]}
    )
    with pytest.raises(DataError, match="has several such columns: image, other; give image="):
        open_data(f"hfdata(name={str(tmp_path / 'two')!r})")
    with pytest.raises(DataError, match="mask_classes=0; give the number of classes"):
        open_data(f"{spec}, mask=image)")
    with pytest.raises(DataError, match="has no parquet file of the configuration 'b'"):
        open_data(f"{spec}, config=b)")
    sets.parquet(place / "test-00001-of-00002.parquet", [(sets.picture(0, 9, 9), 0)], classes=3)
    with pytest.raises(DataError, match=r"row 4 of test is 9x9 pixels but the first is 16x12.*give size="):
        open_data(f"{spec})").split("test").sample(4)
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    with pytest.raises(DataError, match=r"test-00000-of-00001.parquet is truncated or not a parquet file"):
        open_data(f"{spec})").split("test").sample(0)
    path.write_bytes(whole[:40] + bytes(len(whole) // 3) + whole[40 + len(whole) // 3 :])
    with pytest.raises(DataError, match=r"test-00000-of-00001.parquet is corrupt|row 0"):
        open_data(f"{spec}, size=8)").split("test").sample(0)


def test_depth_of_another_unit_or_shape(tmp_path):
    import h5py

    sets.nyuv2(tmp_path)
    path, spec = tmp_path / "nyu_depth_v2_labeled.mat", ask("nyuv2", tmp_path)
    with h5py.File(path, "r+") as file:
        file["depths"][0] = file["depths"][0] * 1000
        file["depths"][2, 0, :5] = (np.nan, np.inf, -3.0, 0.0, 2.5)
    images = open_data(spec).split("train")
    with pytest.warns(UserWarning, match=r"labeled.mat, frame 1: half of its depths are beyond .* m .*probably not 1 m per"):
        assert not images.sample(0).target["depth"].any()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert images.sample(1).target["depth"][:5, 0].tolist() == [0, 0, 0, 0, 2.5]
    with pytest.raises(DataError, match=r"frame 3 is 16x12 pixels; Eigen's crop is defined for 640x480"):
        open_data(ask("nyuv2", tmp_path, eigen=True)).split("train").sample(1)
    sets.text(tmp_path / "test.txt", "4")
    with pytest.raises(DataError, match=r"test.txt has the frame '4'; nyu_depth_v2_labeled.mat has the frames 1 to 3"):
        open_data(spec)
    (tmp_path / "test.txt").unlink()
    with pytest.raises(DataError, match=r"has 3 frames, not the 1449 of the official split; list the test frames"):
        open_data(spec)
    with pytest.raises(DataError, match="max_depth=-1"):
        open_data(ask("nyuv2", tmp_path, max_depth=-1.0))


def test_depth_files_cut_short_or_of_other_things(tmp_path):
    import h5py

    sets.nyuv2(tmp_path)
    path = tmp_path / "nyu_depth_v2_labeled.mat"
    whole = path.read_bytes()
    path.write_bytes(whole[:2000])
    with pytest.raises(DataError, match=r"labeled.mat is truncated or not an HDF5 file"):
        open_data(ask("nyuv2", tmp_path))
    for number, (parts, message) in enumerate(
        (
            ({"images": (2, 3, 8, 9)}, "has no 'depths' with 3 axes; it contains images"),
            ({"images": (2, 3, 8, 9), "depths": (2, 8)}, "has no 'depths' with 3 axes"),
            (
                {"images": (2, 1, 8, 9), "depths": (2, 8, 9)},
                r"contains images uint8 \[2, 1, 8, 9\].*expected uint8 \[N, 3, W, H\]",
            ),
            ({"images": (2, 3, 8, 9), "depths": (3, 8, 9)}, r"contains .* depths \[3, 8, 9\]; expected"),
        )
    ):
        other = tmp_path / f"{number}.mat"
        with h5py.File(other, "w") as file:
            for name, shape in parts.items():
                file[name] = np.zeros(shape, np.uint8)
        with pytest.raises(DataError, match=f"{number}.mat {message}"):
            open_data(ask("nyuv2", other))


def test_bad_frames(tmp_path):
    import h5py

    sets.nyu_frames(tmp_path)
    bad = tmp_path / "train/study_0002/00011.h5"
    for parts, message in (
        ({"rgb": np.zeros((3, 4, 5), np.uint8)}, "contains rgb; a frame must have rgb and depth"),
        ({"rgb": np.zeros((4, 5, 3), np.uint8), "depth": np.zeros((4, 5))}, r"contains rgb uint8 \[4, 5, 3\]"),
        ({"rgb": np.zeros((3, 4, 5), np.uint8), "depth": np.zeros((4, 6))}, "its depth is 6x4 pixels, its image is 5x4"),
    ):
        with h5py.File(bad, "w") as file:
            for name, value in parts.items():
                file[name] = value
        with pytest.raises(DataError, match=f"00011.h5.*{message}"):
            open_data(ask("nyuv2", tmp_path)).split("train").sample(1)


@pytest.mark.parametrize(
    ("module", "name", "message"),
    [
        ("pyarrow.parquet", "imagenet-parquet", r"imagenet needs pyarrow: pip install 'hardsight\[data\]'"),
        ("pyarrow.parquet", "hfdata", "hfdata needs pyarrow"),
        ("h5py", "nyuv2", "nyuv2 needs h5py"),
        ("scipy.io", "imagenet-devkit", "imagenet's devkit needs scipy"),
        ("scipy.io", "cars", "cars needs scipy"),
    ],
)
def test_missing_packages(tmp_path, monkeypatch, module, name, message):
    write, spec = SPECS[name]
    write(tmp_path)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingDependency, match=message):
        everything(spec.replace("ROOT", repr(str(tmp_path))))
