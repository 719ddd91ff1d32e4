"""`hardsight data check` and `get`: what they report, download (from local files; tests have no network) and reject."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from hardsight.cli import app
from hardsight.core.errors import DataError
from hardsight.data import Data, DataCard, Sample, open_data
from hardsight.data import get as getting
from hardsight.data.check import check, lines
from hardsight.data.get import Published, download, get, published, unpack
from hardsight.data.sets import tiny_imagenet
from hardsight.specs.catalog import entries
from tests.data.test_data_sets import SPECS, opened
from tests.fixtures import data_sets as sets


@pytest.mark.parametrize("name", SPECS)
def test_every_set_can_be_checked(tmp_path, name):
    data = opened(name, tmp_path)
    found = check(data, None)
    assert json.loads(json.dumps(found)) == found
    assert {part: split["images"] for part, split in found["splits"].items()} == {p: len(s) for p, s in data.splits.items()}
    assert all(split["read"] == split["images"] and not split["unreadable"] for split in found["splits"].values())
    for part, split in found["splits"].items():
        assert set(split["targets"]) == (
            set() if part == "unlabeled" or (name, part) == ("hfdata", "test") else {*data.card.targets}
        )
    assert all("the published set has" in text or "no " in text for text in found["problems"]), found["problems"]
    assert lines(found)[0].startswith(data.card.name)


def test_what_check_finds(tmp_path):
    sets.ade20k(tmp_path)
    place = tmp_path / "ADEChallengeData2016"
    broken = place / "images/training/ADE_train_00000002.jpg"
    broken.write_bytes(b"")
    for split, numbers in (("training", (1, 3)), ("validation", (1, 2))):
        for n in numbers:
            mask = np.full((12 + n, 20 - n), 5, np.uint8)
            mask[: (12 + n) // 2] = 0
            sets.save(place / "annotations" / split / f"ADE_{split[:5] if split == 'training' else 'val'}_{n:08d}.png", mask)
    data = open_data(f"ade20k(root={str(tmp_path)!r}, size=[12, 12])")
    found = check(data)
    assert found["problems"][0] == "train has 3 images; the published set has 20,210"
    assert f"train: {broken} is empty (0 bytes)" in found["problems"]
    train = found["splits"]["train"]
    assert (train["images"], train["read"], train["unreadable"], train["first_unreadable"]) == (
        3,
        2,
        1,
        [f"{broken} is empty (0 bytes)"],
    )
    mask = train["targets"]["mask"]
    assert mask["classes"] == 150 and len(mask["missing"]) == 149 and "thing 5" not in mask["missing"]
    assert 0.4 < mask["ignored"] < 0.6
    assert not [text for text in found["problems"] if text.startswith("train: no mask with class")], (
        "not all images were read"
    )
    assert [text for text in found["problems"] if text.startswith("val: no mask with class thing 1, ")]
    assert check(data, 1)["splits"]["train"]["read"] + check(data, 1)["splits"]["train"]["unreadable"] == 1


def test_check_reports_ranges_and_warnings(tmp_path):
    import h5py

    sets.nyuv2(tmp_path / "depth")
    with h5py.File(tmp_path / "depth" / "nyu_depth_v2_labeled.mat", "r+") as file:
        file["depths"][...] = np.where(np.arange(12) < 6, 2.0, 0.0).astype(np.float32)
        file["depths"][0] = 4000
    found = check(open_data(f"nyuv2(root={str(tmp_path / 'depth')!r})"), None)
    assert any("frame 1: half of its depths are beyond 4,000.0 m" in text for text in found["problems"])
    assert found["splits"]["test"]["targets"]["depth"] == {"least": 2.0, "median": 2.0, "most": 2.0, "unmeasured": 0.5}
    assert "depth: 2.00 to 2.00 m, median 2.00 m, 50.0% not measured" in "\n".join(lines(found))
    sets.coco(tmp_path / "boxes")
    found = check(open_data(f"coco(root={str(tmp_path / 'boxes')!r}, size=[20, 30])"), None)
    boxes = found["splits"]["train"]["targets"]["boxes"]
    assert (boxes["boxes"], boxes["empty"], boxes["most"], boxes["missing"]) == (3, 1, 2, [])
    assert check(open_data("made(size=16, train=4, test=4)"), None)["splits"]["test"]["read"] == 4


class Odd:
    """Twenty samples that do not match their card, in different ways."""

    def __len__(self) -> int:
        return 20

    def sample(self, place: int) -> Sample:
        high = 8 if place < 5 else 9
        target = {"label": torch.tensor(place), "depth": torch.zeros(8, 8)}
        return Sample(f"s{place}", torch.zeros(3, high, 8, dtype=torch.uint8), target)


def test_check_finds_what_a_reader_let_through():
    found = check(Data(DataCard("odd", ("label", "depth"), (8, 8), ("a", "b", "c")), {"train": Odd()}), None)
    problems = "\n".join(found["problems"])
    assert "s7 is torch.uint8 [3, 9, 8]; images of this set must be uint8 [3, 8, 8]" in problems
    assert "train: 5 more images can't be read" in problems
    assert "train: label has the classes [3, 4]; valid classes are 0 to 2" in problems
    assert "train: no pixel has a measured depth" in problems


def test_what_is_published_of_what():
    for name, entry in entries().items():
        if entry.kind == "Data" and entry.parameters[0].name in ("root", "name"):
            offer = published(f"{name}:x")
            fetched = hasattr(import_module(entry.module), "fetch")
            assert offer is None or fetched or offer.files or offer.torchvision or offer.by_hand
            assert offer is None or offer.page.startswith("http")
    assert published("voc:x").counts == {"train": 1464, "val": 1449}  # type: ignore[union-attr]
    assert published("voc:x(what=boxes)") and not published("made")


def test_counts_hold_only_for_the_plain_spec(tmp_path):
    sets.voc(tmp_path)
    for spec, compared in (("", True), (", what=boxes", False)):
        found = check(open_data(f"voc(root={str(tmp_path)!r}, size=16{spec})"), 1)
        assert any("the published set has" in text for text in found["problems"]) == compared


# Getting


def packed(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in members.items():
                archive.writestr(name, content)
        return path
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


@pytest.mark.parametrize("ending", ["zip", "tar.gz"])
def test_get_fetches_unpacks_and_opens(tmp_path, monkeypatch, ending):
    sets.tiny_imagenet(tmp_path / "there")
    files = {
        p.relative_to(tmp_path / "there").as_posix(): p.read_bytes() for p in (tmp_path / "there").rglob("*") if p.is_file()
    }
    archive = packed(tmp_path / f"tiny.{ending}", files)
    offer = tiny_imagenet.PUBLISHED["tiny_imagenet"]
    monkeypatch.setitem(
        tiny_imagenet.PUBLISHED, "tiny_imagenet", replace(offer, files=((archive.as_uri(), getting._md5(archive)),))
    )
    spec, ticks = f"tiny_imagenet:{tmp_path / 'here'}", []
    assert get(spec, lambda *amount: ticks.append(amount)) == tmp_path / "here"
    assert len(open_data(spec).split("val")) == 3 and ticks
    assert sorted(path.name for path in (tmp_path / "here").iterdir()) == ["tiny-imagenet-200"], "the archive is deleted"
    archive.unlink()
    get(spec)  # the data exist, so nothing is downloaded


def test_what_get_refuses(tmp_path, monkeypatch):
    archive = packed(tmp_path / "x.zip", {"a.txt": b"x"})
    with pytest.raises(DataError, match=r"x.zip is not the published file: md5 .*, not 0123"):
        download(archive.as_uri(), _folder(tmp_path / "a"), "0123")
    with pytest.raises(DataError, match=r"gone.zip can't be downloaded"):
        download((tmp_path / "gone.zip").as_uri(), _folder(tmp_path / "b"))
    monkeypatch.setitem(tiny_imagenet.PUBLISHED, "tiny_imagenet", Published("https://page", by_hand="ask them"))
    with pytest.raises(DataError, match=r"tiny_imagenet can't be downloaded by a program: ask them \(https://page\)"):
        get(f"tiny_imagenet:{tmp_path / 'c'}")
    with pytest.raises(
        DataError, match=r"cityscapes can't be downloaded by a program: with an account download leftImg8bit"
    ):
        get(f"cityscapes:{tmp_path / 'c'}")
    with pytest.raises(DataError, match="folder is not a published data set"):
        get(f"folder:{tmp_path}")
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("name", ["../out.txt", "/out.txt", "a/../../out.txt", "..\\out.txt"])
@pytest.mark.parametrize("ending", ["zip", "tar.gz"])
def test_an_archive_reaches_nothing_outside(tmp_path, name, ending):
    archive = packed(tmp_path / "in" / f"x.{ending}", {name: b"x"})
    with pytest.raises(DataError, match="is outside the folder"):
        unpack(archive, tmp_path / "in" / "to")
    assert not list(tmp_path.rglob("out.txt"))


def test_links_are_passed_over_and_broken_archives_named(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path)
        archive.addfile(link)
        archive.addfile(tarfile.TarInfo("plain"), io.BytesIO())
    unpack(tmp_path / "x.tar", tmp_path / "to")
    assert [path.name for path in (tmp_path / "to").iterdir()] == ["plain"]
    for name in ("y.zip", "y.tar.gz"):
        (tmp_path / name).write_bytes(b"junk" * 99)
        with pytest.raises(DataError, match=f"{name} can't be unpacked"):
            unpack(tmp_path / name, tmp_path / "to")


def test_torchvision_fetches_what_it_knows(tmp_path, monkeypatch):
    from torchvision import datasets

    asked = []

    class Fake:
        def __init__(self, root: str, **options: object) -> None:
            asked.append((root, options))
            if len(asked) == 2:
                raise RuntimeError("no net here")

    for kind in ("DTD", "VOCDetection"):
        monkeypatch.setattr(datasets, kind, Fake)
    assert get(f"dtd:{tmp_path / 'x'}") == tmp_path / "x"
    with pytest.raises(DataError, match="torchvision can't download VOCDetection into .*no net here"):
        get(f"voc(root={str(tmp_path / 'x')!r}, years=[2007, 2012])")
    assert asked[0] == (str(tmp_path / "x"), {"download": True})
    get(f"voc(root={str(tmp_path / 'x')!r}, years=[2007, 2012])")
    assert [(one["year"], one["image_set"]) for _, one in asked[2:]] == [
        ("2007", "trainval"),
        ("2007", "test"),
        ("2012", "trainval"),
    ]
    assert asked[1][1] == {"year": "2007", "image_set": "trainval", "download": True}


class Hub:
    """A hub with one repository, whose default branch contains no parquet file."""

    def __init__(self, place: Path) -> None:
        self.place, self.brought = place, []

    def __call__(self) -> Hub:
        return self

    def list_repo_files(self, name: str, repo_type: str, revision: str | None) -> list[str]:
        if name == "gone/gone":
            raise OSError("404: no\nsuch repository")
        files = [path.relative_to(self.place).as_posix() for path in self.place.rglob("*.parquet")]
        return files if revision else ["README.md", "data.tar"]

    def hf_hub_download(self, name: str, file: str, repo_type: str, revision: str | None) -> str:
        self.brought.append((file, revision))
        return str(self.place / file)


def test_a_name_on_the_hub(tmp_path, monkeypatch):
    import huggingface_hub

    hub = Hub(tmp_path)
    monkeypatch.setattr(huggingface_hub, "HfApi", hub)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hub.hf_hub_download)
    for part, count in (("train", 4), ("test", 2)):
        sets.parquet(tmp_path / "default" / part / "0000.parquet", [(sets.picture(n), n) for n in range(count)], classes=4)
    data = open_data("hfdata:some/thing")
    assert data.card.name == "thing" and len(hub.brought) == 1, "a split is downloaded when it is used"
    assert len(data.split("train")) == 4 and data.card.classes == ("class 0", "class 1", "class 2", "class 3")
    assert {revision for _, revision in hub.brought} == {"refs/convert/parquet"}
    get("hfdata:some/thing")
    assert {file for file, _ in hub.brought} == {"default/train/0000.parquet", "default/test/0000.parquet"}
    with pytest.raises(DataError, match="hfdata:gone/gone can't be listed: 404: no such repository"):
        open_data("hfdata:gone/gone")
    with pytest.raises(DataError, match="is not a folder; give one with parquet files, or a repository"):
        open_data("hfdata:/no/such/folder")


# The command


def run(*arguments: str):
    return CliRunner().invoke(app, ["data", *arguments])


def test_the_command(tmp_path):
    sets.tiny_imagenet(tmp_path)
    result = run("check", f"tiny_imagenet:{tmp_path}")
    assert result.exit_code == 1 and "problem  train has 6 images; the published set has 100,000" in result.stdout
    found = json.loads(run("check", f"tiny_imagenet:{tmp_path}", "--json", "--count", "0").stdout)
    assert found["splits"]["val"]["images"] == 3
    good = run("check", "made(size=16, train=3, test=3)", "--count", "2")
    assert good.exit_code == 0 and "test     3 images, 2 read" in good.stdout
    assert isinstance(run("get", "cityscapes:nowhere").exception, DataError)


# Real data


@pytest.mark.slow
def test_real_sets_are_whole(real_data):
    bccd = real_data / "bccd"
    boxes = {}
    for name, spec in (
        ("voc", f"voc(root={str(bccd / 'BCCD')!r}, what=boxes, classes=['RBC', 'WBC', 'Platelets'], origin=0)"),
        ("coco", f"coco(root={str(bccd)!r}, images='BCCD/JPEGImages')"),
    ):
        found = check(open_data(spec), None)
        assert {part: split["images"] for part, split in found["splits"].items()} == {"train": 205, "val": 87, "test": 72}
        assert not found["problems"]
        boxes[name] = {part: split["targets"]["boxes"] for part, split in found["splits"].items()}
    assert boxes["voc"] == boxes["coco"]
    assert [boxes["coco"][part]["boxes"] for part in ("train", "val", "test")] == [2804, 1137, 945]


def test_both_layouts_of_bccd_give_the_same_boxes(real_data):
    one = open_data(f"coco(root={str(real_data / 'bccd')!r}, images='BCCD/JPEGImages', size=240)").split("test")
    names = "classes=['RBC', 'WBC', 'Platelets'], origin=0, size=240"
    other = open_data(f"voc(root={str(real_data / 'bccd' / 'BCCD')!r}, what=boxes, {names})").split("test")
    found = {(sample := other.sample(place)).id: sample for place in range(len(other))}
    for place in range(len(one)):
        sample = one.sample(place)
        twin = found[f"BCCD/{sample.id.removesuffix('.jpg')}"]
        assert bool((sample.image == twin.image).all())
        assert sample.target["boxes"].tolist() == twin.target["boxes"].tolist()
        assert sample.target["box_labels"].tolist() == twin.target["box_labels"].tolist()


@pytest.mark.parametrize(
    ("spec", "target"),
    [
        ("cifar10:ROOT/cifar10", "label"),
        ("camvid(root='ROOT/camvid', size=[180, 240])", "mask"),
        ("rgbd:ROOT/depth_7scenes", "depth"),
    ],
)
def test_real_sets_of_the_other_readers(real_data, spec, target):
    found = check(open_data(spec.replace("ROOT", str(real_data))), 20)
    assert all(split["read"] == min(20, split["images"]) for split in found["splits"].values())
    assert all(target in split["targets"] for split in found["splits"].values())
    assert all("the published set has" in text for text in found["problems"]), found["problems"]


def test_imagenets_names_and_labels_are_those_of_real_samples(real_data):
    import csv

    from hardsight.data.sets.imagenet import classes

    wnids, names = classes()
    with (real_data / "imagenet_samples" / "labels.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 100
    for row in rows:
        assert wnids[int(row["class_index"])] == row["wnid"]
    alike = sum(names[int(row["class_index"])].lower() == row["name"].replace("_", " ").lower() for row in rows)
    assert alike >= 98, alike


def _folder(path: Path) -> Path:
    path.mkdir()
    return path
