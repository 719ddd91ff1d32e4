"""Files that a reader does not read are counted and named: once when a set is opened, and by `data check`."""

from __future__ import annotations

import io
import os
import sys
import tarfile
import warnings
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hardsight.cli import app
from hardsight.cli.base import main
from hardsight.core.errors import PassedOver
from hardsight.data import open_data
from hardsight.data.check import check, lines
from tests.fixtures import data_sets as sets


@pytest.fixture
def pets(tmp_path) -> Path:
    """Two classes with four images, and six other files: an unsupported format, hidden ones and notes."""
    for kind in ("cat", "dog"):
        for n in range(2):
            sets.save(tmp_path / "pets" / kind / f"{n}.png", sets.picture(n))
    for name in ("cat/2.avif", "cat/3.heic", "dog/.4.png", ".DS_Store", ".cache/5.png", "README"):
        path = tmp_path / "pets" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    return tmp_path / "pets"


SAID = (
    "passed over 6 files: 3 hidden (.DS_Store, .cache/, dog/.4.png); 1 without suffix (README); 1 .avif (cat/2.avif); "
    "1 .heic (cat/3.heic)"
)


def test_one_line_when_a_folder_is_opened(pets):
    with pytest.warns(PassedOver) as seen:
        data = open_data(f"folder:{pets}")
    assert [str(one.message) for one in seen] == [f"{pets}: {SAID}"]
    assert sum(map(len, data.splits.values())) == 4


def test_check_counts_and_names_them(pets):
    found = check(f"folder:{pets}")
    assert found["passed_over"] == [f"{pets}: {SAID}"] and not found["problems"]
    assert f"note     {pets}: {SAID}" in lines(found)
    result = CliRunner().invoke(app, ["data", "check", f"folder:{pets}"])
    assert result.exit_code == 0 and SAID in result.stdout


def test_the_command_line_says_it_in_one_line(pets, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["hardsight", "bench", "--data", f"folder:{pets}", "--task", "classify", "--dry-run"])
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        with pytest.raises(SystemExit):
            main()
    assert capsys.readouterr().err.count(f"hardsight: {pets}: {SAID}\n") == 1


def test_images_that_labels_csv_does_not_list(pets):
    sets.text(pets / "labels.csv", "file,class_index", "cat/0.png,0", "dog/1.png,1")
    with pytest.warns(PassedOver) as seen:
        assert len(open_data(f"folder:{pets}").split("test")) == 2
    assert [str(one.message) for one in seen] == [
        f"{pets}: {SAID}",
        f"{pets}, whose labels.csv lists the images: passed over 2 files: 2 .png (cat/1.png, dog/0.png)",
    ]


def test_an_archive_says_it_also_from_its_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HARDSIGHT_CACHE", str(tmp_path / "cache"))
    with tarfile.open(tmp_path / "pets.tar", "w") as archive:
        for name, data in (
            ("a/0.png", sets.encoded(sets.picture(0))),
            ("b/1.png", sets.encoded(sets.picture(1))),
            ("b/2.avif", b"x"),
        ):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    for _ in range(2):
        with pytest.warns(PassedOver, match=r"pets.tar: passed over 1 file: 1 .avif \(b/2.avif\)"):
            open_data(f"folder:{tmp_path}/pets.tar")


def test_sets_with_a_layout_of_their_own(tmp_path):
    sets.tiny_imagenet(tmp_path)
    place = tmp_path / "tiny-imagenet-200"
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # its own lists of boxes are part of the layout
        len(open_data(f"tiny_imagenet:{place}").split("train"))
    for wnid in sets.WNIDS:
        (place / "train" / wnid / "images" / "more.avif").write_bytes(b"x")
    with pytest.warns(PassedOver) as seen:
        len(open_data(f"tiny_imagenet(root={str(place)!r}, size=64)").split("train"))
    assert len(seen) == 1 and "passed over 3 files: 3 .avif (" in str(seen[0].message)
    for name, depth in (("rgb_0", False), ("depth_0", True), ("IMG_1", False)):
        array = sets.picture(0) if not depth else sets.picture(0)[..., 0].astype("uint16") + 2000
        sets.save(tmp_path / "frames" / "test" / f"{name}.png", array)
    with pytest.warns(PassedOver, match=r"passed over 1 file: 1 .png \(IMG_1.png\)"):
        open_data(f"rgbd:{tmp_path}/frames")
    for name in ("train-00000-of-00001", "extra"):
        sets.parquet(tmp_path / "table" / f"{name}.parquet", [(sets.picture(0), 0)], 2)
    with pytest.warns(PassedOver, match=r"passed over 1 file: 1 .parquet \(extra.parquet\)"):
        open_data(f"hfdata:{tmp_path}/table")
    for name in ("run/a/0.jpg", "run/a/1.jpg", "jump/b/0.jpg", "jump/b/1.bmp2"):
        sets.save(tmp_path / "clips" / name, sets.picture(0))
    with pytest.warns(PassedOver, match=r"passed over 1 file: 1 .bmp2 \(jump/b/1.bmp2\)"):
        open_data(f"video(root='{tmp_path}/clips', frames=2, size=8)")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every folder")
def test_a_folder_that_cannot_be_listed_is_an_error(pets):
    (pets / "dog").chmod(0)
    with pytest.raises(Exception, match="can't be listed"):
        open_data(f"folder:{pets}")
