"""Readers, tested with files written here in the original formats, with broken files of every kind, and with real data."""

from __future__ import annotations

import io
import os
import pickle
import struct
import tarfile
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile

from hardsight.core.errors import DataError, SpecError
from hardsight.data import Data, Images, open_data
from hardsight.data.archive import cache_folder
from hardsight.data.base import IGNORE
from hardsight.data.feed import Batch, check_pixels, choose, load, pixels
from hardsight.data.images import fit, image_names, list_images, natural, open_image, open_mask
from hardsight.data.sets.camvid import camvid
from hardsight.data.sets.cifar import cifar10
from hardsight.data.sets.folder import divide, folder
from hardsight.data.sets.rgbd import rgbd
from hardsight.data.splits import Files

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HARDSIGHT_CACHE", str(tmp_path / "cache"))


def noise(high: int = 12, wide: int = 16) -> np.ndarray:
    return RNG.integers(0, 256, (high, wide, 3), dtype=np.uint8)


def save(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


def everything(images: Images) -> Batch:
    return load(images, range(len(images)))


# CIFAR-10


def cifar_folder(root: Path, protocol: int = 2, counts: tuple[int, ...] = (5, 3), test: int = 4) -> dict[str, tuple]:
    place = root / "cifar-10-batches-py"
    place.mkdir(parents=True)
    written = {}
    for name, count in [*((f"data_batch_{n}", c) for n, c in enumerate(counts, 1)), ("test_batch", test)]:
        data, labels = RNG.integers(0, 256, (count, 3072), dtype=np.uint8), RNG.integers(0, 10, count).tolist()
        with (place / name).open("wb") as file:
            pickle.dump({b"data": data, b"labels": labels, b"filenames": [b"x.png"] * count}, file, protocol=protocol)
        written[name] = data, labels
    return written


def python2_batch(data: np.ndarray, labels: list[int], home: bytes = b"numpy.core.multiarray") -> bytes:
    """A batch as Python 2 and NumPy 1 wrote it: all text is byte strings, and so are the pixels."""

    def text(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value if len(value) < 256 else b"T" + struct.pack("<i", len(value)) + value

    def number(value: int) -> bytes:
        return b"J" + struct.pack("<i", value)

    dtype = b"cnumpy\ndtype\n" + text(b"u1") + number(0) + number(1) + b"\x87R("
    dtype += number(3) + text(b"|") + b"NNN" + number(-1) + number(-1) + number(0) + b"tb"
    array = b"c" + home + b"\n_reconstruct\ncnumpy\nndarray\n" + number(0) + b"\x85" + text(b"b") + b"\x87R("
    array += (
        number(1) + number(data.shape[0]) + number(data.shape[1]) + b"\x86" + dtype + b"\x89" + text(data.tobytes()) + b"tb"
    )
    listed = b"](" + b"".join(number(label) for label in labels) + b"e"
    return b"\x80\x02}(" + text(b"data") + array + text(b"labels") + listed + b"u."


@pytest.mark.parametrize("protocol", range(6))
def test_cifar_of_python_3(tmp_path, protocol):
    written = cifar_folder(tmp_path, protocol)
    for root in (tmp_path, tmp_path / "cifar-10-batches-py"):
        data = cifar10(str(root))
        assert {name: len(images) for name, images in data.splits.items()} == {"train": 8, "test": 4}
        train = everything(data.split("train"))
        pixels_written = np.concatenate([written["data_batch_1"][0], written["data_batch_2"][0]]).reshape(-1, 3, 32, 32)
        assert np.array_equal(train.images.numpy(), pixels_written)
        assert train.target["label"].tolist() == written["data_batch_1"][1] + written["data_batch_2"][1]
        assert everything(data.split("test")).ids == ["test_00000", "test_00001", "test_00002", "test_00003"]


@pytest.mark.parametrize("home", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
def test_cifar_of_python_2(tmp_path, home):
    data = RNG.integers(0, 256, (3, 3072), dtype=np.uint8)
    raw = python2_batch(data, [9, 0, 4], home)
    (tmp_path / "test_batch").write_bytes(raw)
    found = cifar10(str(tmp_path)).split("test")
    assert np.array_equal(everything(found).images.numpy().reshape(3, -1), data)
    assert found.sample(2).target["label"].item() == 4
    assert pickle.loads(raw, encoding="latin1")["labels"] == [9, 0, 4]


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_a_pickle_that_runs_code_is_refused_and_not_run(tmp_path):
    mark = tmp_path / "executed"
    for name, content in [("a", Evil(mark)), ("b", {b"data": Evil(mark), b"labels": []})]:
        place = tmp_path / name
        place.mkdir()
        (place / "test_batch").write_bytes(pickle.dumps(content))
        with pytest.raises(DataError, match=r"test_batch is rejected: its pickle requests posix.system"):
            cifar10(str(place))
    pickle.loads(pickle.dumps(Evil(mark)))
    assert mark.exists(), "the negative control: an ordinary reader runs it"


@pytest.mark.parametrize(
    "raw",
    [
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"c__builtin__\ngetattr\n(tR.",
        b"cnumpy\nload\n(S'x'\ntR.",
        b"cnumpy.core.multiarray\nfromfile\n(tR.",
        b"c_codecs\ndecode\n(tR.",
        b"\x80\x04\x8c\x05numpy\x8c\x10ndarray.__base__\x93.",
        b"\x80\x02\x82\x01.",
    ],
)
def test_every_other_name_is_refused(tmp_path, raw):
    (tmp_path / "test_batch").write_bytes(raw)
    with pytest.raises(DataError, match="test_batch is"):
        cifar10(str(tmp_path))


def test_a_pickle_cannot_change_its_reader(tmp_path):
    (tmp_path / "test_batch").write_bytes(b"\x80\x02c_codecs\nencode\n}S'_call'\nNsb.")
    with pytest.raises(DataError, match="would modify the functions"):
        cifar10(str(tmp_path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({b"data": np.zeros((2, 3000), np.uint8), b"labels": [0, 1]}, r"uint8 \[2, 3000\]; CIFAR-10 has uint8 \[N, 3072\]"),
        ({b"data": np.zeros((2, 3072), np.float32), b"labels": [0, 1]}, "contains float32"),
        ({b"data": np.zeros((2, 3072), np.uint8), b"labels": [0]}, "1 labels for 2 images"),
        ({b"data": np.zeros((2, 3072), np.uint8), b"labels": [0, 10]}, "a label is 10; CIFAR-10 labels are 0 to 9"),
        ({b"data": np.zeros((0, 3072), np.uint8), b"labels": []}, "contains no image"),
        ({b"data": np.zeros((2, 3072), np.uint8), b"fine_labels": [0, 1]}, "looks like CIFAR-100"),
        ({b"data": [1, 2], b"labels": [0, 1]}, "'data' is a list, not an array"),
        ([1, 2], "contains a list, not a dict"),
    ],
)
def test_cifar_of_another_shape(tmp_path, content, message):
    (tmp_path / "data_batch_1").write_bytes(pickle.dumps(content))
    with pytest.raises(DataError, match=f"data_batch_1.*{message}"):
        cifar10(str(tmp_path))


@pytest.mark.parametrize("keep", [0, 1, 100, 5000, -1])
def test_cifar_cut_short(tmp_path, keep):
    cifar_folder(tmp_path)
    path = tmp_path / "cifar-10-batches-py" / "data_batch_2"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match="data_batch_2 is truncated or not a pickle"):
        cifar10(str(tmp_path))


def test_no_cifar(tmp_path):
    save(tmp_path / "a.png", noise())
    with pytest.raises(DataError, match=r"contains no CIFAR-10; expected the folder cifar-10-batches-py.*found a.png"):
        cifar10(str(tmp_path))


# Folders


@pytest.mark.parametrize("val", ["val", "valid"])
def test_folders_with_splits(tmp_path, val):
    for split, count in (("train", 3), (val, 1), ("test", 2)):
        for name in ("dog", "Ant", "cat"):
            for number in range(count):
                save(tmp_path / split / name / f"{number}.png", noise())
    (tmp_path / "train" / ".hidden").mkdir()
    (tmp_path / "train" / "dog" / "._0.png").write_bytes(b"junk")
    (tmp_path / "notes.txt").write_text("x")
    data = folder(str(tmp_path))
    assert data.card.classes == ("Ant", "cat", "dog")
    assert {name: len(images) for name, images in data.splits.items()} == {"train": 9, "val": 3, "test": 6}
    assert data.card.size == (12, 16)
    batch = everything(data.split("test"))
    assert batch.ids[0] == "test/Ant/0.png"
    assert batch.target["label"].tolist() == [0, 0, 1, 1, 2, 2]
    assert batch.images.shape == (6, 3, 12, 16)
    assert np.array_equal(
        batch.images[5].permute(1, 2, 0).numpy(), np.array(Image.open(tmp_path / "test" / "dog" / "1.png"))
    )


def test_folders_of_classes_are_split_by_path_alone(tmp_path):
    for root in (tmp_path / "one", tmp_path / "two"):
        for name in ("a", "b"):
            for number in range(10):
                save(root / name / "deep" / f"{number}.jpg", noise())
    first, second = folder(str(tmp_path / "one")), folder(str(tmp_path / "two"))
    assert {name: len(images) for name, images in first.splits.items()} == {"train": 16, "test": 4}
    assert everything(first.split("test")).ids == everything(second.split("test")).ids
    assert everything(first.split("test")).target["label"].tolist() == [0, 0, 1, 1]
    assert set(folder(str(tmp_path / "one"), test=0).splits) == {"train"}
    assert set(folder(str(tmp_path / "one"), test=1).splits) == {"test"}
    with pytest.raises(DataError, match=r"test=1.5: the share"):
        folder(str(tmp_path / "one"), test=1.5)


def test_a_split_keeps_its_images_when_others_come():
    few, more = ([(f"a/{number}.png", 0) for number in range(count)] for count in (40, 80))
    both = {name for name, _ in divide(few, 0.25)["test"]}
    stayed = both & {name for name, _ in divide(more, 0.25)["test"]}
    assert len(both) == 10
    assert len(stayed) >= 6


def test_a_flat_folder_has_no_labels(tmp_path):
    for number in (10, 9, 1):
        save(tmp_path / f"img{number}.PNG", noise())
    data = folder(str(tmp_path))
    assert data.card.targets == ()
    assert list(data.splits) == ["test"]
    assert everything(data.split("test")).ids == ["img1.PNG", "img10.PNG", "img9.PNG"]
    assert [path.name for path in list_images(tmp_path)] == ["img1.PNG", "img9.PNG", "img10.PNG"]
    assert everything(data.split("test")).target == {}
    with pytest.raises(DataError, match="has no 'train' part; its splits are: test"):
        data.split("train")


def test_labels_csv(tmp_path):
    for number in range(3):
        save(tmp_path / "images" / f"{number}.png", noise())
    table = tmp_path / "labels.csv"
    table.write_text("file,class_index,wnid,name\nimages/0.png,2,n1,toad\nimages/1.png,0,n2,newt\nimages/2.png,2,n1,toad\n")
    data = folder(str(tmp_path))
    assert data.card.classes == ("newt", "1", "toad")
    assert everything(data.split("test")).target["label"].tolist() == [2, 0, 2]
    assert everything(data.split("test")).ids == ["images/0.png", "images/1.png", "images/2.png"]
    table.write_text("file,class_index,split\nimages/0.png,1,train\nimages/1.png,0,test\n")
    assert {name: len(images) for name, images in folder(str(tmp_path)).splits.items()} == {"train": 1, "test": 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,label\na.png,1\n", "labels.csv has no column 'class_index'; its columns are: file, label"),
        ("", "no column 'file'"),
        ("file,class_index\n", "lists no image"),
        ("file,class_index\na.png,1\nb.png,1\n", "line 3: no such file b.png"),
        ("file,class_index\n../a.png,1\n", "line 2: '../a.png' is outside the folder"),
        ("file,class_index\n/etc/passwd,1\n", "'/etc/passwd' is outside the folder"),
        ("file,class_index\na.png,-1\n", "class_index is '-1'"),
        ("file,class_index\na.png,cat\n", "class_index is 'cat'"),
        ("file,class_index\na.png,999999999\n", "class_index is '999999999'"),
        ("file,class_index\na.png,1\na.png,1\n", "line 3: a.png is listed twice"),
        ("file,class_index,split\na.png,1,exam\n", "split is 'exam'"),
    ],
)
def test_bad_labels_csv(tmp_path, text, message):
    save(tmp_path / "a.png", noise())
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        folder(str(tmp_path))


def test_layouts_that_leave_it_open(tmp_path):
    save(tmp_path / "mixed" / "x.png", noise())
    save(tmp_path / "mixed" / "cat" / "y.png", noise())
    with pytest.raises(DataError, match=r"mixed contains both images \(mixed/x.png|mixed contains both images \(x.png\)"):
        folder(str(tmp_path / "mixed"))
    save(tmp_path / "strange" / "train" / "cat" / "y.png", noise())
    save(tmp_path / "strange" / "test" / "images" / "y.png", noise())
    with pytest.raises(DataError, match="strange/test has classes that train does not have: images"):
        folder(str(tmp_path / "strange"))
    save(tmp_path / "half" / "train" / "cat" / "y.png", noise())
    save(tmp_path / "half" / "test" / "y.png", noise())
    with pytest.raises(DataError, match="some have class folders and some don't"):
        folder(str(tmp_path / "half"))


def test_classes_may_be_called_train(tmp_path):
    for name in ("train", "bus"):
        for number in range(5):
            save(tmp_path / name / f"{number}.png", noise())
    assert folder(str(tmp_path)).card.classes == ("bus", "train")


def test_a_folder_too_high_is_passed_through(tmp_path):
    for split in ("train", "test"):
        save(tmp_path / "set" / "v1" / split / "cat" / "0.png", noise())
    data = folder(str(tmp_path))
    assert {name: everything(images).ids for name, images in data.splits.items()} == {
        "train": ["set/v1/train/cat/0.png"],
        "test": ["set/v1/test/cat/0.png"],
    }


def test_sizes(tmp_path):
    save(tmp_path / "a.png", noise(20, 40))
    save(tmp_path / "b.png", noise(30, 20))
    with pytest.raises(DataError, match=r"b.png is 20x30 pixels but .*a.png is 40x20.*give size="):
        folder(str(tmp_path))
    assert everything(folder(str(tmp_path), size=10).split("test")).images.shape == (2, 3, 10, 10)
    assert everything(folder(str(tmp_path), size=(8, 12)).split("test")).images.shape == (2, 3, 8, 12)
    for bad in (0, -3, (8, 0), 10**6):
        with pytest.raises(DataError, match="a side must be 1 to"):
            folder(str(tmp_path), size=bad)


def test_fit_keeps_the_middle_and_mixes_no_ids():
    image = np.zeros((10, 30, 3), np.uint8)
    image[:, 10:20] = 200
    assert (fit(image, 10) == 200).all()
    assert fit(image, 5).shape == fit(image, (5, 5)).shape == (5, 5, 3)
    ids = np.array([[0, 200], [100, 50]], np.uint8)
    assert set(np.unique(fit(ids, (7, 9), nearest=True))) == {0, 50, 100, 200}
    checker = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    assert np.abs(fit(checker, (8, 8)).astype(int) - 127).max() < 12, "shrinking is antialiased"


def test_links_to_folders_are_followed_once(tmp_path):
    save(tmp_path / "real" / "cat" / "0.png", noise())
    (tmp_path / "real" / "cat" / "loop").symlink_to(tmp_path / "real")
    assert image_names(tmp_path / "real") == ["cat/0.png"]
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert image_names(tmp_path / "link") == ["cat/0.png"]


def test_natural_order():
    assert sorted(["b", "a10", "a9", "10", "9", "1²2", "a"], key=natural) == ["1²2", "9", "10", "a", "a9", "a10", "b"]


# Archives


def tar(path: Path, members: dict[str, bytes], extra: list[tarfile.TarInfo] | None = None) -> Path:
    mode = {"xz": "w:xz", "gz": "w:gz", "ar": "w"}[path.name[-2:]]
    with tarfile.open(path, mode) as archive:
        for info in extra or []:
            archive.addfile(info)
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def png(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("ending", ["tar", "tar.gz", "tar.xz"])
def test_an_archive_is_a_folder(tmp_path, ending):
    arrays = {
        f"top/{split}/{name}/{number}.png": noise() for split in ("train", "test") for name in "ba" for number in range(2)
    }
    path = tar(tmp_path / f"some.{ending}", {**{name: png(array) for name, array in arrays.items()}, "top/README": b"x"})
    with tarfile.open(path) as archive:
        archive.extractall(tmp_path / "out", filter="data")
    unpacked = folder(str(tmp_path / "out" / "top"))
    for _ in range(2):
        packed = folder(str(path))
        assert packed.card.classes == ("a", "b")
        assert packed.card.name == "some"
        for split in ("train", "test"):
            one, other = everything(packed.split(split)), everything(unpacked.split(split))
            assert one.ids == other.ids
            assert torch.equal(one.images, other.images)
            assert torch.equal(one.target["label"], other.target["label"])


def test_an_archive_is_decoded_once_and_again_when_it_changes(tmp_path, monkeypatch):
    import hardsight.data.archive as module

    opened = []
    real = module._decode
    monkeypatch.setattr(module, "_decode", lambda *args: opened.append(1) or real(*args))
    path = tar(tmp_path / "x.tar", {"a/0.png": png(noise()), "b/0.png": png(noise())})
    for _ in range(3):
        folder(str(path))
    assert len(opened) == 1
    folder(str(path), size=6)
    assert len(opened) == 2, "another size is another array"
    tar(path, {f"{name}/{number}.png": png(noise()) for name in "abc" for number in range(2)})
    assert len(folder(str(path)).card.classes) == 3
    kept = sorted(cache_folder().rglob("*.npy"))
    kept[0].write_bytes(b"broken")
    for file in kept[1:]:
        file.unlink()
    assert len(folder(str(path)).card.classes) == 3, "a broken cache is rebuilt"


def test_without_a_cache_it_still_reads(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HARDSIGHT_CACHE", str(tmp_path / "file"))
    path = tar(tmp_path / "x.tar", {"a/0.png": png(noise()), "b/0.png": png(noise())})
    with pytest.warns(UserWarning, match="can't cache it in"):
        assert len(folder(str(path), test=1).split("test")) == 2


def test_an_archive_reaches_nothing_outside(tmp_path):
    outside = save(tmp_path / "outside.png", noise())
    link, hard, device = (tarfile.TarInfo(f"a/{name}.png") for name in ("link", "hard", "device"))
    link.type, link.linkname = tarfile.SYMTYPE, str(outside)
    hard.type, hard.linkname = tarfile.LNKTYPE, str(outside)
    device.type = tarfile.CHRTYPE
    members = {"../../escaped.png": png(noise()), "../../b/escaped.png": png(noise()), "a/0.png": png(noise())}
    before = sorted(path.name for path in tmp_path.iterdir())
    path = tar(tmp_path / "x.tar", members, [link, hard, device])
    assert everything(folder(str(path), test=1).split("test")).ids == ["0.png"], "names with .. are skipped"
    path = tar(tmp_path / "y.tar", {"a/0.png": png(noise()), "b/0.png": png(noise())}, [link, hard, device])
    assert everything(folder(str(path), test=1).split("test")).ids == ["a/0.png", "b/0.png"]
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*before, "x.tar", "y.tar", "cache"])


def test_broken_archives(tmp_path):
    good = tar(tmp_path / "good.tar.xz", {f"a/{number}.png": png(noise(64, 64)) for number in range(4)})
    (tmp_path / "cut.tar.xz").write_bytes(good.read_bytes()[:5000])
    (tmp_path / "junk.tar.gz").write_bytes(b"junk" * 100)
    tar(tmp_path / "none.tar", {"a.txt": b"x"})
    tar(tmp_path / "sizes.tar", {"a/0.png": png(noise(4, 4)), "a/1.png": png(noise(4, 5))})
    tar(tmp_path / "bad.tar", {"a/0.png": png(noise(4, 4))[:40]})
    for name, message in [
        ("cut.tar.xz", "cut.tar.xz is truncated"),
        ("junk.tar.gz", "junk.tar.gz is truncated or not a tar archive"),
        ("none.tar", "none.tar contains no image"),
        ("sizes.tar", r"sizes.tar:a/1.png is 5x4 pixels but a/0.png is 4x4.*size="),
        ("bad.tar", "bad.tar:a/0.png (is corrupt|is not an image|can't be opened)"),
        ("gone.tar", "no such archive"),
    ]:
        with pytest.raises(DataError, match=message):
            folder(str(tmp_path / name))


# Images


def test_kinds_of_images(tmp_path):
    grey, colour = RNG.integers(0, 256, (5, 6), dtype=np.uint8), noise(5, 6)
    wide = (grey.astype(np.uint16) * 257).astype(np.uint16)
    alpha = np.dstack([colour, grey])
    for name, array, wanted in [
        ("grey", grey, np.dstack([grey] * 3)),
        ("colour", colour, colour),
        ("alpha", alpha, colour),
        ("sixteen", wide, np.dstack([grey] * 3)),
        ("one", grey > 127, np.dstack([(grey > 127) * np.uint8(255)] * 3)),
    ]:
        assert np.array_equal(open_image(save(tmp_path / f"{name}.png", array)), wanted), name
    palette = Image.fromarray(grey % 4).convert("P")
    palette.putpalette([9, 8, 7, 1, 2, 3, 250, 0, 0, 0, 250, 0])
    palette.putdata((grey % 4).ravel().tolist())
    palette.save(tmp_path / "palette.png")
    colours = np.array([[9, 8, 7], [1, 2, 3], [250, 0, 0], [0, 250, 0]], np.uint8)
    assert np.array_equal(open_image(tmp_path / "palette.png"), colours[grey % 4])
    assert np.array_equal(open_mask(tmp_path / "palette.png"), grey % 4), "the palette indices of a mask are its ids"
    Image.fromarray(colour).convert("CMYK").save(tmp_path / "cmyk.jpg")
    assert open_image(tmp_path / "cmyk.jpg").shape == (5, 6, 3)
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(colour).save(tmp_path / "turned.jpg", exif=turned)
    assert open_image(tmp_path / "turned.jpg").shape == (5, 6, 3), "as stored"


def bomb(wide: int = 60000, high: int = 60000) -> bytes:
    """A PNG of 3.6 billion pixels in a few bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", wide, high, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


def broken(kind: str) -> bytes:
    whole = io.BytesIO()
    Image.fromarray(noise(40, 40)).save(whole, "JPEG")
    picture = Image.new("RGB", (4, 4))
    icon, floats, pages = io.BytesIO(), io.BytesIO(), io.BytesIO()
    picture.save(icon, "ICO")
    Image.new("F", (4, 4)).save(floats, "TIFF")
    picture.save(pages, "TIFF", save_all=True, append_images=[picture])
    return {
        "empty": b"",
        "junk": b"this is no image",
        "cut": whole.getvalue()[:-600],
        "cut png": png(noise(40, 40))[:-2000],
        "flipped": png(noise(40, 40))[:100] + b"\xff" * 500 + png(noise(40, 40))[600:],
        "bomb": bomb(),
        "large": bomb(9000, 9000),
        "icon": icon.getvalue(),
        "floats": floats.getvalue(),
        "pages": pages.getvalue(),
    }[kind]


@pytest.mark.parametrize("kind", ["empty", "junk", "cut", "cut png", "flipped", "bomb", "large", "icon", "floats", "pages"])
def test_broken_images_are_refused_by_name(tmp_path, kind):
    message = {
        "empty": r"is empty \(0 bytes\)",
        "junk": "is not an image",
        "cut": "is corrupt or truncated",
        "cut png": "is corrupt or truncated",
        "flipped": "is corrupt or truncated",
        "bomb": "is rejected",
        "large": "is rejected: 9000x9000 pixels",
        "icon": r"not an image in a supported format \(PNG, BMP, TIFF, GIF, PPM, JPEG, WEBP\)",
        "floats": "is in colour mode F; save it as 8-bit RGB",
        "pages": "has 2 pictures in one file; save each one as a file of its own",
    }[kind]
    path = tmp_path / "some.jpg"
    path.write_bytes(broken(kind))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(DataError, match=rf"some.jpg.*{message}"):
            open_image(path)
        if path.stat().st_size:
            with pytest.raises(DataError, match=message):
                open_image(path.read_bytes(), "inner.jpg")
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


def test_one_broken_image_stops_or_is_left_out(tmp_path):
    for number in range(4):
        save(tmp_path / f"{number}.png", noise())
    (tmp_path / "2.png").write_bytes(b"")
    images = folder(str(tmp_path)).split("test")
    with pytest.raises(DataError, match=r"2.png is empty"):
        everything(images)
    skipped: list[str] = []
    batch = load(images, [3, 2, 0], "skip", skipped)
    assert batch.ids == ["3.png", "0.png"]
    assert len(batch.images) == 2
    assert len(skipped) == 1
    assert "2.png is empty" in skipped[0]
    none = load(images, [2], "skip", skipped)
    assert none.ids == []
    assert len(none.images) == 0


@pytest.mark.parametrize("reader", ["folder", "camvid", "rgbd", "cifar10"])
def test_missing_folders(tmp_path, reader, monkeypatch):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "notes.txt").write_text("x")
    for place, message in [
        (tmp_path / "gone", f"gone: no such folder .expected .*the closest existing parent is {tmp_path}"),
        (tmp_path / "empty", "empty is empty; expected"),
        (tmp_path / "file", "file is a file, not a folder; expected"),
        (tmp_path / "text", "text contains no .*notes.txt"),
        ("$HARDSIGHT_UNSET/x", "environment variable HARDSIGHT_UNSET is not set"),
        ("", "the path is empty"),
    ]:
        with pytest.raises(DataError, match=message):
            open_data(f"{reader}(root={str(place)!r})")


def test_paths_are_expanded(tmp_path, monkeypatch):
    save(tmp_path / "set" / "a.png", noise())
    monkeypatch.setenv("PLACE", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    for text in ("$PLACE/set", "${PLACE}/set", "~/set"):
        data = open_data(f"folder:{text}")
        assert len(data.split("test")) == 1
    assert str(data.spec) == "folder(root='~/set', size=None, test=0.2)"


def test_specs_are_checked_first(tmp_path):
    with pytest.raises(SpecError, match="did you mean 'camvid'"):
        open_data(f"camvit:{tmp_path}")
    with pytest.raises(SpecError, match="'size' should be tuple"):
        open_data(f"camvid:{tmp_path}(size=5)")
    with pytest.raises(SpecError, match="a data is wanted here"):
        open_data("pgd")


# CamVid


def camvid_folder(root: Path, high: int = 12, wide: int = 16) -> None:
    for split, count in (("train", 3), ("val", 1), ("test", 2)):
        for number in range(count):
            save(root / split / f"{number}.png", noise(high, wide))
            save(root / f"{split}annot" / f"{number}.png", RNG.integers(0, 12, (high, wide), dtype=np.uint8))


@pytest.mark.parametrize("below", ["", "CamVid"])
def test_camvid(tmp_path, below):
    camvid_folder(tmp_path / below)
    data = camvid(str(tmp_path))
    assert {name: len(images) for name, images in data.splits.items()} == {"train": 3, "val": 1, "test": 2}
    assert data.card.size == (12, 16)
    assert len(data.card.mask_classes) == 11
    batch = everything(data.split("test"))
    assert batch.ids == ["test/0.png", "test/1.png"]
    assert batch.target["mask"].dtype == torch.int64
    written = np.array(Image.open(tmp_path / below / "testannot" / "1.png")).astype(int)
    assert np.array_equal(batch.target["mask"][1].numpy(), np.where(written == 11, IGNORE, written))
    small = everything(camvid(str(tmp_path), (6, 8)).split("test"))
    assert small.images.shape == (2, 3, 6, 8)
    assert small.target["mask"].shape == (2, 6, 8)
    assert set(small.target["mask"].unique().tolist()) <= {*range(11), IGNORE}


def test_bad_camvid(tmp_path):
    camvid_folder(tmp_path)
    annot = tmp_path / "testannot"
    save(annot / "0.png", np.full((12, 16), 12, np.uint8))
    save(annot / "1.png", np.zeros((12, 15), np.uint8))
    images = camvid(str(tmp_path)).split("test")
    with pytest.raises(DataError, match=r"testannot/0.png has the id 12; a CamVid mask has 0 to 10, and 11 for void"):
        images.sample(0)
    with pytest.raises(DataError, match=r"testannot/1.png is 15x12 pixels, its image is 16x12"):
        images.sample(1)
    save(annot / "0.png", noise())
    with pytest.raises(DataError, match=r"0.png has colour mode RGB; a mask must be"):
        images.sample(0)
    save(annot / "0.png", np.zeros((12, 16), np.uint16))
    with pytest.raises(DataError, match="a mask must be a PNG with one 8-bit channel"):
        images.sample(0)
    (annot / "1.png").unlink()
    with pytest.raises(DataError, match=r"test/1.png has no mask: expected the file .*testannot/1.png"):
        camvid(str(tmp_path))


# RGB-D


def depth_map(high: int = 12, wide: int = 16, most: int = 9000) -> np.ndarray:
    return RNG.integers(0, most, (high, wide)).astype(np.uint16)


@pytest.mark.parametrize("layout", ["beside", "rgb", "color", "images", "list"])
def test_rgbd(tmp_path, layout):
    maps, lines = [], []
    for number in range(3):
        maps.append(depth_map())
        maps[-1][0, 0], maps[-1][0, 1] = 0, 6001
        if layout in ("beside", "list"):
            pair = f"test/rgb_{number:05d}.jpg", f"test/depth_{number:05d}.png"
        else:
            pair = f"test/{layout}/{number}.png", f"test/depth/{number}.png"
        save(tmp_path / pair[0], noise())
        save(tmp_path / pair[1], maps[-1])
        lines.append(" ".join(pair))
    if layout == "list":
        (tmp_path / "test.txt").write_text("\n".join([lines[2], lines[0]]) + "\n")
        maps = [maps[2], maps[0]]
    data = rgbd(str(tmp_path), max_depth=6.0)
    assert data.card.max_depth == 6.0
    assert list(data.splits) == ["test"]
    batch = everything(data.split("test"))
    assert len(batch.ids) == len(maps)
    assert batch.ids[0].startswith("test/")
    metres = np.stack(maps).astype(np.float32) / 1000
    assert batch.target["depth"].dtype == torch.float32
    assert np.array_equal(batch.target["depth"].numpy(), np.where(metres > 6, 0, metres))
    small = everything(rgbd(str(tmp_path), (6, 8)).split("test")).target["depth"]
    assert set(small[0].unique().tolist()) <= set(metres[0].ravel().tolist())


def test_bad_rgbd(tmp_path):
    for number in range(3):
        save(tmp_path / "test" / f"rgb_{number}.png", noise())
    save(tmp_path / "test" / "depth_0.png", np.zeros((12, 16), np.uint8))
    save(tmp_path / "test" / "depth_1.png", depth_map(6, 8))
    with pytest.raises(DataError, match=r"rgb_2.png has no pair: no such file .*depth_2.png"):
        rgbd(str(tmp_path))
    save(tmp_path / "test" / "depth_2.png", depth_map(12, 12))
    images = rgbd(str(tmp_path)).split("test")
    with pytest.raises(DataError, match=r"depth_0.png has 8-bit pixels .*must be a 16-bit PNG"):
        images.sample(0)
    with pytest.raises(DataError, match=r"depth_1.png is 8x6 pixels, its image is 16x12; give size="):
        images.sample(1)
    resized = rgbd(str(tmp_path), (6, 8)).split("test")
    assert resized.sample(1).target["depth"].shape == (6, 8)
    with pytest.raises(DataError, match=r"depth_2.png is 12x12 pixels, its image is 16x12, a different aspect ratio"):
        resized.sample(2)
    with pytest.raises(DataError, match="max_depth=0"):
        rgbd(str(tmp_path), max_depth=0.0)
    for text, message in [
        ("test/rgb_0.png", "test.txt, line 1: 'test/rgb_0.png' must be the path of an image and the path of its depth map"),
        ("../x.png test/depth_0.png", "line 1: '../x.png' is outside the folder"),
        ("\n", "lists no frames"),
        ("test/rgb_9.png test/depth_0.png", "no such file .*rgb_9.png"),
    ]:
        (tmp_path / "test.txt").write_text(text)
        with pytest.raises(DataError, match=message):
            rgbd(str(tmp_path))


def test_depth_of_another_unit_warns_once(tmp_path):
    for number in range(2):
        save(tmp_path / "test" / f"rgb_{number}.png", noise())
        save(tmp_path / "test" / f"depth_{number}.png", depth_map() + np.uint16(20000))
    with pytest.warns(
        UserWarning, match=r"depth_0.png: half of its depths are beyond .*probably not 0.001 m per stored value"
    ) as seen:
        assert everything(rgbd(str(tmp_path)).split("test")).target["depth"].max() == 0
    assert len(seen) == 1


# The feed


def some(count: int = 40) -> Files:
    arrays = RNG.integers(0, 256, (count, 4, 5, 3), dtype=np.uint8)
    return Files(
        [str(n) for n in range(count)], lambda n: (arrays[n], {"label": np.array(n), "depth": np.ones((4, 5), np.float32)})
    )


def test_choose_is_a_prefix_of_more():
    images = some()
    order = choose(images, None)
    assert sorted(order) == list(range(40))
    assert choose(images, 10) == choose(images, 20)[:10] == order[:10]
    assert choose(images, 1000) == order
    assert choose(images, 10, seed=1) != order[:10]
    torch.manual_seed(5)
    assert choose(images, None) == order
    with pytest.raises(DataError, match="count is 0"):
        choose(images, 0)


def test_load_keeps_the_order():
    batch = load(some(), [3, 1, 3])
    assert batch.ids == ["3", "1", "3"]
    assert batch.target["label"].tolist() == [3, 1, 3]
    assert batch.images.dtype == torch.uint8
    assert torch.equal(batch.images[0], batch.images[2])
    with pytest.raises(DataError, match="on_error is 'ignore'"):
        load(some(), [0], "ignore")  # type: ignore[arg-type]
    with pytest.raises(IndexError, match="index 40 is out of range; valid indices are 0 to 39"):
        load(some(), [40])


def test_load_of_synthetic_scenes_has_boxes_as_a_list():
    images = open_data("made(size=16, train=4, test=3)").split("test")
    batch = load(images, [2, 0])
    assert batch.images.shape == (2, 3, 16, 16)
    assert set(batch.target) == {"label", "mask", "depth", "boxes"}
    assert torch.equal(batch.images[0], images.sample(2).image)
    for place, found in zip((2, 0), batch.target["boxes"], strict=True):
        assert torch.equal(found["boxes"], images.sample(place).target["boxes"])
        assert torch.equal(found["labels"], images.sample(place).target["box_labels"])


def test_unlike_samples_are_no_batch():
    sizes = Files(["a", "b"], lambda n: (np.zeros((4, 4 + n, 3), np.uint8), {}))
    with pytest.raises(DataError, match=r"b is \[3, 4, 5\] but a is \[3, 4, 4\]"):
        everything(sizes)


def test_the_cache_is_bounded_and_untouched_by_its_readers():
    reads = []

    def read(number: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        reads.append(number)
        return np.full((10, 10, 3), number, np.uint8), {"mask": np.zeros((10, 10), np.uint8)}

    images = Files([str(n) for n in range(4)], read, memory=900)
    for _ in range(2):
        for place in range(4):
            sample = images.sample(place)
            assert sample.image.eq(place).all()
            assert sample.target["mask"].eq(0).all()
            sample.image.fill_(99)
            sample.target["mask"].fill_(99)
    assert reads == [0, 1, 2, 3, 2, 3]


def test_pixels():
    x = pixels(torch.tensor([0, 1, 255], dtype=torch.uint8).view(1, 3, 1, 1), "cpu")
    assert x.flatten().tolist() == pytest.approx([0, 1 / 255, 1])
    assert x.dtype == torch.float32
    check_pixels(x)
    check_pixels(torch.zeros(0, 3, 4, 4))
    with pytest.raises(DataError, match="images must be uint8"):
        pixels(x, "cpu")
    for bad, found in [(x * 2, "from 0 to 2"), (x - 0.5, "from -0.5 to 0.5"), (x * float("nan"), "nan")]:
        with pytest.raises(DataError, match=f"{found}.*before normalization"):
            check_pixels(bad)


# The real data


def counts(data: Data) -> dict[str, int]:
    return {name: len(images) for name, images in data.splits.items()}


def test_real_cifar(real_data):
    data = open_data(f"cifar10:{real_data}/cifar10")
    assert counts(data) == {"train": 4000, "test": 700}
    for images in data.splits.values():
        labels = everything(images).target["label"]
        assert labels.unique().tolist() == list(range(10))
    with (real_data / "cifar10/cifar-10-batches-py/test_batch").open("rb") as file:
        usual = pickle.load(file, encoding="bytes")
    assert np.array_equal(everything(data.split("test")).images.numpy().reshape(700, -1), usual[b"data"])
    assert everything(data.split("test")).target["label"].tolist() == usual[b"labels"]


def test_real_camvid(real_data):
    data = open_data(f"camvid:{real_data}/camvid")
    assert counts(data) == {"train": 75, "val": 20, "test": 40}
    assert data.card.size == (180, 240)
    ids = sum(everything(images).target["mask"].flatten().bincount(minlength=256) for images in data.splits.values())
    assert torch.as_tensor(ids).nonzero().flatten().tolist() == [*range(11), IGNORE]


def test_real_depth(real_data):
    data = open_data(f"rgbd:{real_data}/depth_7scenes")
    assert counts(data) == {"train": 78, "test": 20}
    depth = torch.cat([everything(images).target["depth"] for images in data.splits.values()])
    assert 3.9 < depth.max() <= 4.0
    assert depth[depth > 0].min() > 0.3
    assert 0.09 < depth.eq(0).float().mean() < 0.13


def test_real_imagenet_samples(real_data):
    data = open_data(f"folder:{real_data}/imagenet_samples(size=64)")
    assert counts(data) == {"test": 100}
    batch = everything(data.split("test"))
    assert sorted(batch.target["label"].tolist()) == list(range(0, 1000, 10))
    assert len(data.card.classes) == 991
    assert data.card.classes[:11:10] == ("tench", "brambling")
    with pytest.raises(DataError, match="give size="):
        open_data(f"folder:{real_data}/imagenet_samples")


@pytest.mark.slow
def test_real_jpeg_archive(real_data):
    path = real_data / "cifar10_jpeg" / "cifar10_jpeg.tar.xz"
    data = open_data(f"folder:{path}")
    assert counts(data) == {"train": 50000, "test": 6822}
    assert data.card.classes == open_data(f"cifar10:{real_data}/cifar10").card.classes
    labels = load(data.split("train"), range(50000)).target["label"]
    assert labels.bincount().tolist() == [5000] * 10
    assert data.split("test").sample(0).id == "test/airplane/0103.jpg"
