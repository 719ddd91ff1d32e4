"""Everything that fixes a number is in its stamp: annotations and pictures by content, weights by the files or once loaded."""

from __future__ import annotations

import os
import shutil
import struct
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import hardsight.measure.systems as systems
from hardsight.core.errors import StoreError, WeightsError
from hardsight.encoders import load_encoder
from hardsight.measure.bench import Bench
from hardsight.measure.plan import plan
from hardsight.measure.stamps import EDGE, WHOLE, fixes_weights, stamp
from hardsight.specs.recipe import Recipe
from hardsight.store.cells import Store, StoredCell

LIBRARY = "timm:test_vit(pretrained=False, size=32)"


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    """24 pictures of two classes, half of them for training, with a labels.csv."""
    rng, folder = np.random.default_rng(0), tmp_path / "data"
    folder.mkdir()
    lines = ["file,class_index,split"]
    for n in range(24):
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(folder / f"{n:02d}.png")
        lines.append(f"{n:02d}.png,{n % 2},{'train' if n < 12 else 'test'}")
    (folder / "labels.csv").write_text("\n".join(lines))
    return folder


def measured(store: Path, data: object, encoder: str = "tiny", attack: str = "clean") -> list[StoredCell]:
    recipe = Recipe(
        encoders=(encoder,), tasks=("classify",), data=(str(data),), attacks=(attack,), eps=("8/255",), count=12,
        probe="probe(epochs=1, images=12)", audit=0, gallery=0,
    )  # fmt: skip
    return Bench(plan(recipe), Store(store), "cpu").run()


def accuracy(cells: list[StoredCell]) -> float:
    done = cells[0].done
    assert done is not None
    return done["summary"]["accuracy"]


def test_corrected_labels_give_the_new_number(labelled: Path, tmp_path: Path) -> None:
    """Every test label turned round, at the same length: what was right is wrong. Before: the store's old number."""
    before = accuracy(measured(tmp_path / "store", f"folder:{labelled}"))
    csv = (labelled / "labels.csv").read_text()
    turned = csv.replace(",0,test", ",?,test").replace(",1,test", ",0,test").replace(",?,test", ",1,test")
    assert len(turned) == len(csv)
    (labelled / "labels.csv").write_text(turned)
    after = accuracy(measured(tmp_path / "store", f"folder:{labelled}"))
    assert before not in (0.5, after)
    assert after == pytest.approx(1 - before)
    assert len(Store(tmp_path / "store").cells()) == 2


def test_a_models_folder_saved_again_is_another_cell(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    sides = {"image_size": 32, "patch_size": 8, "intermediate_size": 32}
    config = transformers.ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, **sides)
    stamps = set()
    for seed in (0, 1):
        torch.manual_seed(seed)
        transformers.ViTModel(config).save_pretrained(tmp_path / "vit")
        stamps.add(stamp(f"hf:{tmp_path}/vit", "Encoder"))
    (tmp_path / "vit" / "preprocessor_config.json").write_text('{"do_normalize": false}')
    stamps.add(stamp(f"hf:{tmp_path}/vit", "Encoder"))
    assert len(stamps) == 3
    assert "" not in stamps
    (tmp_path / "vit" / "optimizer.pt").write_bytes(b"not read")
    assert stamp(f"hf:{tmp_path}/vit", "Encoder") in stamps
    assert stamp(f"clips('hf:{tmp_path}/vit')", "Encoder") not in stamps


def pictures(folder: Path, value: int) -> dict[str, bytes]:
    """Files that differ in one value at the same length, each larger than what is read of its ends."""
    grey = np.random.default_rng(0).integers(0, 200, (90, 90, 3), dtype=np.uint8)
    grey[45, 45, 0] = value
    found = {}
    for name in ("a.png", "a.bmp", "a.ppm", "a.tif"):
        Image.fromarray(grey).save(folder / name, compress_level=0)
        found[name] = (folder / name).read_bytes()
    for name in (
        "labels.csv",
        "split.txt",
        "instances.json",
        "one.xml",
        "labels.mat",
        "batch.npz",
        "test_batch",
        "x.parquet",
    ):
        content = bytearray(np.random.default_rng(1).integers(0, 256, 4 * EDGE, dtype=np.uint8).tobytes())
        content[2 * EDGE] = value
        found[name] = bytes(content)
    return found


def test_one_value_of_any_file_at_the_same_length(tmp_path: Path) -> None:
    one, other = pictures(tmp_path, 1), pictures(tmp_path, 2)
    for name, content in one.items():
        folder = tmp_path / name.replace(".", "_")
        folder.mkdir()
        (folder / name).write_bytes(content)
        before = stamp(f"folder:{folder}", "Data")
        assert len(other[name]) == len(content)
        (folder / name).write_bytes(other[name])
        assert stamp(f"folder:{folder}", "Data") != before, name


def test_the_end_of_a_png_tells_every_value() -> None:
    """Why its ends are enough: the last bytes of its data are the checksum of all values."""
    values = bytes(range(256)) * 100
    assert zlib.compress(values)[-4:] == struct.pack(">I", zlib.adler32(values))


def test_dates_hidden_files_and_other_places_change_nothing(labelled: Path, tmp_path: Path) -> None:
    """Random numbers derive from the stamp, and should be the same on another machine."""
    before = stamp(f"folder:{labelled}", "Data")
    shutil.copytree(labelled, tmp_path / "copy")
    os.utime(labelled / "00.png", (0, 0))
    (labelled / ".DS_Store").write_bytes(b"x")
    (labelled / "__MACOSX").mkdir()
    (labelled / "__MACOSX" / "00.png").write_bytes(b"x")
    assert {stamp(f"folder:{labelled}", "Data"), stamp(f"folder:{tmp_path}/copy", "Data")} == {before}
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "in").symlink_to(labelled)
    linked = stamp(f"folder:{tmp_path}/links", "Data")
    (labelled / "labels.csv").write_text("file,class_index\n00.png,0")
    assert stamp(f"folder:{tmp_path}/links", "Data") != linked
    (labelled / "in").symlink_to(labelled)  # a circle
    assert stamp(f"folder:{labelled}", "Data")


def test_every_folder_that_a_spec_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").write_bytes(b"one")
    monkeypatch.setenv("SETS", str(tmp_path))
    text = "pairs('$SETS/images/*.png', masks='$SETS/masks/*.png', classes=['a', 'b'])"
    for spec in (text, f"resized({text}, size=8)", "folder:$SETS"):
        (tmp_path / "masks" / "1.png").write_bytes(b"one")
        before = stamp(spec, "Data")
        (tmp_path / "masks" / "1.png").write_bytes(b"two")
        assert before != stamp(spec, "Data") != "", spec
    assert stamp("made", "Data") == stamp("tiny", "Encoder") == stamp("timm:test_vit", "Encoder") == ""
    (tmp_path / "repo").mkdir()
    (tmp_path / "repo" / "hubconf.py").write_text("def net(): ...")
    assert stamp(f"hub('{tmp_path}/repo:net')", "Encoder")


def test_files_of_an_attack_are_in_the_cell_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = Recipe(encoders=("tiny",), tasks=("classify",), data=("made(size=16)",), attacks=("pgd(1)",))
    (before,) = plan(recipe).cells
    monkeypatch.setattr("hardsight.measure.plan.stamp", lambda spec, kind: "ab" if kind == "Attack" else stamp(spec, kind))
    (after,) = plan(recipe).cells
    assert (before.beside, after.beside) == ("", "ab")
    assert before.id != after.id
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "x.py").write_text("")
    assert stamp("hf:some/name", "Encoder") == stamp("transfer(pgd(1), source='hf:some/name')", "Attack") == ""


def other_weights(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """From now on the encoder `name` loads with other weights, as after an update of its library."""

    def load(spec: Any, device: Any = "cpu") -> Any:
        encoder = load_encoder(spec, device)
        return encoder.with_card(sha256="0" * 64) if name in str(spec) else encoder

    monkeypatch.setattr(systems, "load_encoder", load)


@pytest.mark.parametrize("attack", ["clean", "pgd(1)"], ids=["finished", "one cell is missing"])
def test_other_weights_under_the_same_spec_are_refused(attack: str, tmp_path: Path, monkeypatch) -> None:
    """Also if nothing is left to measure. Before: the old number, or old and new numbers side by side."""
    data = "made(size=16, train=12, test=12)"
    (cell,) = measured(tmp_path, data, LIBRARY)
    assert [one.id for one in measured(tmp_path, data, LIBRARY)] == [cell.id]
    other_weights(monkeypatch, "test_vit")
    recipe = Recipe(
        encoders=(LIBRARY,), tasks=("classify",), data=(data,), attacks=("clean", attack), eps=("8/255",), count=12,
        probe="probe(epochs=1, images=12)", audit=0, gallery=0,
    )  # fmt: skip
    with pytest.raises(StoreError, match="weights behind timm.*test_vit.* are not those .* another --store, or delete"):
        Bench(plan(recipe), Store(tmp_path), "cpu").run()
    assert len(Store(tmp_path).cells()) == 1


def test_other_weights_of_a_surrogate_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, attack = "made(size=16, train=12, test=12)", f"transfer(pgd(1), source='{LIBRARY}')"
    measured(tmp_path, data, "tiny", attack)
    measured(tmp_path, data, "tiny", attack)
    other_weights(monkeypatch, "test_vit")
    with pytest.raises(StoreError, match="weights behind timm.*test_vit"):
        measured(tmp_path, data, "tiny", attack)


def test_finished_numbers_are_given_where_weights_are_not_at_hand(tmp_path: Path, monkeypatch) -> None:
    data = "made(size=16, train=12, test=12)"
    before = accuracy(measured(tmp_path, data, LIBRARY))

    def gone(*_: Any, **__: Any) -> Any:
        raise WeightsError("no network")

    monkeypatch.setattr(systems, "load_encoder", gone)
    assert accuracy(measured(tmp_path, data, LIBRARY)) == before


def test_which_encoders_are_known_by_their_files() -> None:
    assert fixes_weights("file:/x.pt(arch=tiny)", "ab")
    assert fixes_weights("clips('file:/x.pt(arch=tiny)')", "ab")
    assert fixes_weights("clips(tiny)", "")
    assert not fixes_weights("hf:org/name", "")
    assert not fixes_weights(LIBRARY, "")
    assert not fixes_weights("hub('/repo:net')", "ab"), "its code may load weights from anywhere"


def test_the_time_of_many_pictures(tmp_path: Path) -> None:
    """50,000 take less than 2 s of a CPU: here a fiftieth."""
    for n in range(1000):
        (tmp_path / f"{n}.jpg").write_bytes(b"x" * 5000)
    started = time.process_time()
    stamp(f"folder:{tmp_path}", "Data")
    assert 50 * (time.process_time() - started) < 2


def test_a_file_too_large_to_be_read_whole(tmp_path: Path) -> None:
    """Sampled, so that a set of 100 GB doesn't take minutes: its beginning, its end, and 64 places in all."""
    with open(tmp_path / "set.h5", "wb") as file:
        file.truncate(WHOLE + 1)
    before = stamp(f"folder:{tmp_path}", "Data")
    for place in (0, WHOLE):
        with open(tmp_path / "set.h5", "r+b") as file:
            file.seek(place)
            file.write(b"x")
        after = stamp(f"folder:{tmp_path}", "Data")
        assert after != before
        before = after
