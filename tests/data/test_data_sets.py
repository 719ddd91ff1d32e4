"""The published data sets: rules that hold for every reader, and each format compared with the written files pixel by pixel.

If torchvision or another reader can read the same folder, the two must agree.
"""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hardsight.core.errors import DataError
from hardsight.data import Data, open_data
from hardsight.data.base import IGNORE
from hardsight.data.feed import load
from hardsight.data.images import fit
from hardsight.data.sets.imagenet import classes as imagenet_classes
from hardsight.data.sets.nyuv2 import official_test
from hardsight.specs.catalog import entries
from tests.fixtures import data_sets as sets
from tests.fixtures import transfer_sets as transfer

SPECS = {
    "cifar100": (sets.cifar100, "cifar100(root=ROOT)"),
    "cifar100-coarse": (sets.cifar100, "cifar100(root=ROOT, labels=coarse)"),
    "stl10": (sets.stl10, "stl10(root=ROOT)"),
    "ade20k": (sets.ade20k, "ade20k(root=ROOT, size=10)"),
    "cityscapes": (sets.cityscapes, "cityscapes(root=ROOT)"),
    "cityscapes-small": (sets.cityscapes, "cityscapes(root=ROOT, size=[8, 16])"),
    "voc": (sets.voc, "voc(root=ROOT, size=16)"),
    "voc-boxes": (sets.voc, "voc(root=ROOT, size=[16, 20], what=boxes)"),
    "coco": (sets.coco, "coco(root=ROOT, size=16)"),
    "penn_fudan": (sets.penn_fudan, "penn_fudan(root=ROOT, size=[16, 20])"),
    "tiny_imagenet": (sets.tiny_imagenet, "tiny_imagenet(root=ROOT)"),
    "imagenet": (sets.imagenet, "imagenet(root=ROOT, size=16)"),
    "imagenet-kaggle": (lambda root: sets.imagenet(root, "solution"), "imagenet(root=ROOT, size=16)"),
    "imagenet-devkit": (lambda root: sets.imagenet(root, "devkit"), "imagenet(root=ROOT, size=16)"),
    "imagenet-parquet": (lambda root: sets.imagenet(root, "parquet"), "imagenet(root=ROOT, size=16)"),
    "nyuv2": (sets.nyuv2, "nyuv2(root=ROOT)"),
    "nyuv2-small": (sets.nyuv2, "nyuv2(root=ROOT, size=[6, 8], raw=True)"),
    "nyuv2-frames": (sets.nyu_frames, "nyuv2(root=ROOT, size=8)"),
    "ucf101": (sets.ucf101, "ucf101(root=ROOT, frames=4, size=24)"),
    "hmdb51": (sets.hmdb51, "hmdb51(root=ROOT, frames=4, size=[24, 32])"),
    "hfdata": (lambda root: sets.imagenet(root, "parquet"), "hfdata(name=ROOT, size=[10, 12])"),
    **{name: (getattr(transfer, name), f"{name}(root=ROOT, size=16)") for name in (
        "aircraft", "caltech101", "cars", "dtd", "eurosat", "food101", "pets", "sun397"
    )},
}  # fmt: skip


def opened(name: str, root: Path) -> Data:
    write, spec = SPECS[name]
    if name in ("ucf101", "hmdb51"):
        pytest.importorskip("av")
    write(root)
    return open_data(spec.replace("ROOT", repr(str(root))))


def decoded(path: Path) -> np.ndarray:
    return np.array(Image.open(path).convert("RGB"))


def shown(image: torch.Tensor) -> np.ndarray:
    return image.permute(1, 2, 0).numpy()


def test_every_published_set_is_tried_here():
    modules = {import_module(entry.module) for entry in entries().values() if entry.kind == "Data"}
    known = {name for module in modules for name in getattr(module, "PUBLISHED", {})}
    assert known - {name.partition("-")[0] for name in SPECS} == {"cifar10", "flowers102"}, "these have their own tests"


@pytest.mark.parametrize("name", SPECS)
def test_laws_of_every_set(tmp_path, name):
    data = opened(name, tmp_path)
    card = data.card
    high, wide = card.size
    assert card.name and card.source and str(data.spec).startswith(name.partition("-")[0] + "(")
    assert set(card.targets) <= {"label", "mask", "depth", "boxes"}
    assert len(set(data.splits) & {"train", "val", "test"}) >= 2
    for part, images in data.splits.items():
        ids = [images.sample(place).id for place in range(len(images))]
        assert len(set(ids)) == len(ids) > 0
        again = open_data(data.spec).split(part)
        for place in range(len(images)):
            sample, other = images.sample(place), again.sample(place)
            assert sample.image.dtype == torch.uint8
            assert sample.image.shape == ((3, card.frames, high, wide) if card.frames else (3, high, wide))
            assert sample.id == other.id and torch.equal(sample.image, other.image)
            if not sample.target:
                assert part == "unlabeled" or (name, part) == ("hfdata", "test"), "their labels are not published"
                continue
            assert set(sample.target) == {*card.targets} | ({"box_labels"} if "boxes" in card.targets else set())
            for kind, value in sample.target.items():
                assert torch.equal(value, other.target[kind])
                value.zero_()  # the returned value is a copy
                assert torch.equal(images.sample(place).target[kind], other.target[kind])
            held = other.target
            if "label" in held:
                assert held["label"].dtype == torch.int64 and 0 <= held["label"] < len(card.classes)
            if "mask" in held:
                assert held["mask"].dtype == torch.int64 and held["mask"].shape == (high, wide)
                assert set(held["mask"].unique().tolist()) <= {*range(len(card.mask_classes)), IGNORE}
            if "depth" in held:
                assert held["depth"].dtype == torch.float32 and held["depth"].shape == (high, wide)
                assert held["depth"].min() >= 0 and held["depth"].max() <= card.max_depth
            if "boxes" in held:
                boxes = held["boxes"]
                assert boxes.dtype == torch.float32 and boxes.shape == (len(held["box_labels"]), 4)
                assert (boxes[:, :2] >= 0).all() and (boxes[:, 2:] <= torch.tensor([wide, high])).all()
                assert (boxes[:, :2] < boxes[:, 2:]).all()
                assert held["box_labels"].dtype == torch.int64 and (held["box_labels"] < len(card.classes)).all()
        with pytest.raises(IndexError):
            images.sample(len(images))
        assert len(load(images, range(len(images))).ids) == len(images)


# Arrays


def test_cifar100(tmp_path):
    written = sets.cifar100(tmp_path)
    for labels, names in (("fine", "fine 7"), ("coarse", "c 7")):
        data = open_data(f"cifar100(root={str(tmp_path)!r}, labels={labels})")
        assert data.card.classes[7] == names
        for part, content in written.items():
            batch = load(data.split(part), range(len(data.split(part))))
            assert np.array_equal(batch.images.numpy().reshape(-1, 3072), content[b"data"])
            assert batch.target["label"].tolist() == content[f"{labels}_labels".encode()]
    (tmp_path / "cifar-100-python" / "meta").unlink()
    assert open_data(f"cifar100:{tmp_path}").card.classes[99] == "99"
    with pytest.raises(DataError, match="contains no CIFAR-10;"):
        open_data(f"cifar10:{tmp_path}")


def test_stl10_as_torchvision_reads_it(tmp_path, monkeypatch):
    from torchvision.datasets import STL10

    written = sets.stl10(tmp_path)
    monkeypatch.setattr(STL10, "_check_integrity", lambda self: True)
    data = open_data(f"stl10:{tmp_path}")
    for part, images in written.items():
        ours, theirs = load(data.split(part), range(len(images))), STL10(str(tmp_path), split=part)
        assert np.array_equal(ours.images.permute(0, 2, 3, 1).numpy(), images)
        for place in range(len(images)):
            image, label = theirs[place]
            assert np.array_equal(np.array(image), shown(ours.images[place]))
            assert part == "unlabeled" or label == ours.target["label"][place]


# Classes


def test_imagenet_labels_are_the_places_among_the_thousand(tmp_path):
    wnids, names = imagenet_classes()
    assert len(wnids) == len(set(wnids)) == len(names) == 1000 and list(wnids) == sorted(wnids)
    for layout in ("folders", "solution", "devkit", "parquet"):
        truth = sets.imagenet(tmp_path / layout, layout)
        data = open_data(f"imagenet(root={str(tmp_path / layout)!r}, size=16)")
        assert list(data.splits) == ["train", "val"] and data.card.classes[0] == "tench"
        found = [int(data.split("val").sample(place).target["label"]) for place in range(4)]
        assert found == truth, layout
        assert len(data.split("train")) == (4 if layout == "parquet" else 6)


def test_tiny_imagenet(tmp_path):
    sets.tiny_imagenet(tmp_path)
    data = open_data(f"tiny_imagenet:{tmp_path}")
    assert data.card.classes == ("tench", "goldfish", "n03444034") and data.card.size == (64, 64)
    assert [int(data.split("val").sample(place).target["label"]) for place in range(3)] == [2, 0, 2]
    train = load(data.split("train"), range(6))
    assert train.target["label"].tolist() == [0, 0, 1, 1, 2, 2]
    for number, name in enumerate(train.ids):
        assert np.array_equal(shown(train.images[number]), decoded(tmp_path / "tiny-imagenet-200" / name))


def test_the_transfer_suite_as_torchvision_reads_it(tmp_path, monkeypatch):
    from torchvision import datasets

    monkeypatch.setattr(datasets.Flowers102, "_check_integrity", lambda self: True)
    theirs = {
        "aircraft": "FGVCAircraft",
        "cars": "StanfordCars",
        "dtd": "DTD",
        "flowers102": "Flowers102",
        "food101": "Food101",
    }
    theirs["pets"] = "OxfordIIITPet"
    for name, kind in theirs.items():
        getattr(transfer, name)(tmp_path / name)
        data = open_data(f"{name}(root={str(tmp_path / name)!r}, size=[20, 24])")
        for part, images in data.splits.items():
            other = getattr(datasets, kind)(
                str(tmp_path / name), split="trainval" if (name, part) == ("pets", "train") else part
            )
            assert len(other) == len(images) and data.card.classes == tuple(other.classes)
            for place in range(len(images)):
                image, label = other[place]
                assert int(images.sample(place).target["label"]) == label
                assert np.array_equal(shown(images.sample(place).image), fit(np.array(image), (20, 24)))


def test_transfer_sets_without_a_published_split(tmp_path):
    transfer.caltech101(tmp_path)
    data = open_data(f"caltech101(root={str(tmp_path)!r}, size=16)")
    assert {name: len(images) for name, images in data.splits.items()} == {"train": 32, "test": 2}
    assert data.card.classes == ("accordion", "yin_yang")
    transfer.sun397(tmp_path)
    assert {name: len(images) for name, images in open_data(f"sun397:{tmp_path}").splits.items()} == {"train": 4, "test": 4}
    for part, numbers in (("Training", (0, 1, 2)), ("Testing", (3,))):
        sets.text(
            tmp_path / "SUN397" / f"{part}_01.txt",
            *(f"/{c}/sun_{n}.jpg" for c in ("a/abbey", "b/bathroom/public") for n in numbers),
        )
    for root in (tmp_path, tmp_path / "SUN397"):
        listed = open_data(f"sun397:{root}")
        assert {name: len(images) for name, images in listed.splits.items()} == {"train": 6, "test": 2}
        assert listed.card.classes == ("abbey", "bathroom/public")
        assert listed.split("test").sample(1).id == "SUN397/b/bathroom/public/sun_3.jpg"
    transfer.dtd(tmp_path)
    assert len(open_data(f"dtd(root={str(tmp_path / 'dtd')!r}, partition=2, size=16)").split("train")) == 2


# Clips


def test_ucf101(tmp_path):
    pytest.importorskip("av")
    written = sets.ucf101(tmp_path)
    data = open_data(f"ucf101(root={str(tmp_path)!r}, frames=3, size=[48, 64])")
    assert data.card.classes == ("ApplyEyeMakeup", "HandstandPushups", "YoYo") and data.card.size == (48, 64)
    assert {name: len(images) for name, images in data.splits.items()} == {"train": 6, "test": 3}
    test = load(data.split("test"), range(3))
    assert test.target["label"].tolist() == [0, 1, 2]
    assert test.ids[1] == "UCF-101/HandstandPushups/v_HandStandPushups_g01_c01.avi"
    for name, images in data.splits.items():
        for place in range(len(images)):
            sample = images.sample(place)
            assert ("_g01_" in sample.id) == (name == "test")
            first = shown(sample.image[:, 0]).astype(float)
            assert np.abs(first - 0.9 * written[sample.id]).mean() < 12, "the second of six frames, compressed"
    other = open_data(f"ucf101(root={str(tmp_path)!r}, fold=2)")
    assert [len(other.split(name)) for name in ("train", "test")] == [3, 6]
    sets.text(tmp_path / "ucfTrainTestlist" / "testlist01.txt", "YoYo/v_YoYo_g01_c01.avi", "YoYo/v_YoYo_g02_c01.avi")
    with pytest.raises(DataError, match=r"testlist01.txt, line 2: no such clip YoYo/v_YoYo_g02_c01.avi"):
        open_data(f"ucf101:{tmp_path}")
    with pytest.raises(DataError, match="none of UCF101's split lists; expected a folder with UCF-101"):
        open_data(f"ucf101:{tmp_path / 'UCF-101'}")


def test_hmdb51(tmp_path):
    pytest.importorskip("av")
    sets.hmdb51(tmp_path)
    data = open_data(f"hmdb51(root={str(tmp_path)!r}, frames=2)")
    assert data.card.classes == ("brush_hair", "wave")
    assert {name: len(images) for name, images in data.splits.items()} == {"train": 4, "test": 2}
    assert data.split("test").sample(1).id == "hmdb51_org/wave/atrapame!_h_cm_np1_le_med_2.avi"
    assert [int(data.split("train").sample(place).target["label"]) for place in range(4)] == [0, 0, 1, 1]
    with pytest.raises(DataError, match="none of UCF101's split lists"):
        open_data(f"ucf101:{tmp_path}")
    with pytest.raises(DataError, match="none of fold 4"):
        open_data(f"hmdb51(root={str(tmp_path)!r}, fold=4)")


# Parquet, depth


def test_parquet_by_name(tmp_path):
    sets.parquet(tmp_path / "small" / "train" / "0000.parquet", [(sets.picture(n), n % 3) for n in range(5)], image="img")
    sets.parquet(tmp_path / "small" / "test" / "0000.parquet", [(sets.picture(9), 2)], image="img")
    data = open_data(f"hfdata:{tmp_path}")
    assert data.card.classes == ("0", "1", "2") and data.card.size == (12, 16) and data.card.targets == ("label",)
    batch = load(data.split("train"), [4, 0, 2])
    assert batch.ids == ["train_0000004", "train_0000000", "train_0000002"] and batch.target["label"].tolist() == [1, 0, 2]
    for number, place in enumerate((4, 0, 2)):
        raw = sets.encoded(sets.picture(place), "JPEG")
        (tmp_path / "one.jpg").write_bytes(raw)
        assert np.array_equal(shown(batch.images[number]), decoded(tmp_path / "one.jpg"))
    sets.parquet(tmp_path / "large" / "train" / "0000.parquet", [(sets.picture(1), 0)], image="img")
    with pytest.raises(DataError, match=r"several configurations: large, small; give config="):
        open_data(f"hfdata:{tmp_path}")
    assert len(open_data(f"hfdata(name={str(tmp_path)!r}, config='small')").split("train")) == 5


def test_masks_and_depths_in_parquet(tmp_path):
    mask, metres = sets.ids(0, 3), np.arange(12 * 16).reshape(12, 16).astype(np.uint16) * 50
    mask[0, 0] = IGNORE
    columns = {"annotation": [sets.encoded(mask)] * 2, "depth": [sets.encoded(metres)] * 2}
    sets.parquet(tmp_path / "train.parquet", [(sets.picture(n), n) for n in range(2)], extra=columns)
    spec = f"hfdata(name={str(tmp_path)!r}, mask=annotation, depth=depth, max_depth=8.0"
    data = open_data(f"{spec}, mask_classes=4)")
    assert (
        data.card.targets == ("mask", "depth")
        and data.card.mask_classes == ("0", "1", "2", "3")
        and data.card.max_depth == 8
    )
    target = data.split("train").sample(1).target
    assert np.array_equal(target["mask"].numpy(), mask)
    wanted = metres.astype(np.float32) / 1000
    assert np.array_equal(target["depth"].numpy(), np.where(wanted > 8, 0, wanted))
    small = open_data(f"{spec}, mask_classes=4, size=6, label=label)").split("train").sample(1).target
    assert small["mask"].shape == small["depth"].shape == (6, 6) and small["label"] == 1
    with pytest.raises(
        DataError, match=r"row 0 of train: its mask has the id 3; valid are 0 to 2 \(mask_classes=3\) and 255"
    ):
        open_data(f"{spec}, mask_classes=3)").split("train").sample(0)


def test_nyuv2(tmp_path):
    written = sets.nyuv2(tmp_path)
    for raw, depths in ((False, "depths"), (True, "rawDepths")):
        data = open_data(f"nyuv2(root={str(tmp_path)!r}, raw={raw}, max_depth=8.0)")
        assert {name: len(images) for name, images in data.splits.items()} == {"train": 2, "test": 1}
        for part, places in (("train", (0, 2)), ("test", (1,))):
            for here, place in enumerate(places):
                sample = data.split(part).sample(here)
                assert sample.id == f"{part}/{place + 1:04d}"
                assert np.array_equal(shown(sample.image), written["images"][place])
                metres = written[depths][place]
                assert np.array_equal(sample.target["depth"].numpy(), np.where(metres > 8, 0, metres))
    single = open_data(f"nyuv2(root={str(tmp_path / 'nyu_depth_v2_labeled.mat')!r})")
    assert len(single.split("train")) == 2


def test_nyuv2_frames_and_crop(tmp_path):
    sets.nyu_frames(tmp_path, 480, 640)
    data = open_data(f"nyuv2(root={str(tmp_path)!r}, eigen=True)")
    assert {name: len(images) for name, images in data.splits.items()} == {"train": 2, "test": 1}
    depth = data.split("test").sample(0).target["depth"]
    rows, columns = (depth > 0).nonzero(as_tuple=True)
    assert (int(rows.min()), int(rows.max()) + 1, int(columns.min()), int(columns.max()) + 1) == (45, 471, 41, 601)
    assert float(depth[45, 41]) == 3.0


def test_the_official_split_of_nyuv2():
    """The counts are the published ones; the first numbers are those of splits.mat, which counts from 1."""
    test = official_test()
    assert len(test) == 654 and len({*range(1449)} - {*test}) == 795
    assert [number + 1 for number in test[:10]] == [1, 2, 9, 14, 15, 16, 17, 18, 21, 28] and test[-1] + 1 == 1449


# Speed


@pytest.mark.slow
def test_listing_needs_no_torch_and_reading_no_models():
    """`list data` runs without torch, and reading our own formats imports neither torchvision nor an optional package."""
    script = "import sys; from hardsight.cli.listing import rows_of; names = [row[0] for row in rows_of('data')]\n"
    script += "assert 'voc' in names and 'torch' not in sys.modules\n"
    for module in (
        "ade20k",
        "cityscapes",
        "coco",
        "hfdata",
        "hmdb51",
        "imagenet",
        "nyuv2",
        "penn_fudan",
        "stl10",
        "tiny_imagenet",
        "tvdata",
        "ucf101",
        "voc",
    ):
        script += f"import hardsight.data.sets.{module}\n"
    script += "import hardsight.data.check\n"
    script += "assert not {'torchvision', 'timm', 'scipy', 'h5py', 'pyarrow', 'av', 'huggingface_hub'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)
