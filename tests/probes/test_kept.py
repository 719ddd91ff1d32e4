"""Features on disk: those of memory bit for bit, computed once for all heads, runs and processes, within their limit."""

from __future__ import annotations

import multiprocessing
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from hardsight.core import tree
from hardsight.core.errors import SpecError
from hardsight.core.process import token
from hardsight.data import open_data
from hardsight.encoders import load_encoder
from hardsight.encoders.base import Encoder
from hardsight.measure.bench import Bench
from hardsight.measure.plan import plan
from hardsight.probes import bank as banks
from hardsight.probes import kept
from hardsight.probes.bank import Bank
from hardsight.probes.linear import fit_probe, weights_of
from hardsight.specs.recipe import Recipe
from hardsight.store.cells import Store
from tests.fixtures.training import images_in

DATA = "made(size=32, train=80, test=4)"
PLACES = [*range(79, 9, -1)]
SOURCE = "tiny, made"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HARDSIGHT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv(kept.VARIABLE, "1")
    return tmp_path / "cache" / "features"


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return load_encoder("tiny(widths=(8, 8, 8, 8))")


def made(encoder: Encoder, dense: bool = True, source: str = SOURCE, places: list[int] = PLACES, **more: Any) -> Bank:
    return Bank(encoder, open_data(DATA).split("train"), places, dense, source=source, **more)


def same(one: Any, other: Any) -> bool:
    found: list[Tensor] = []
    wanted: list[Tensor] = []
    tree.each(one, lambda leaf: found.append(leaf) or leaf)
    tree.each(other, lambda leaf: wanted.append(leaf) or leaf)
    alike = [(a.dtype, a.shape) == (b.dtype, b.shape) and torch.equal(a, b) for a, b in zip(found, wanted, strict=True)]
    return len(alike) > 0 and all(alike)


def refusing(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any) -> None:
        raise AssertionError("features are computed again")

    monkeypatch.setattr(Bank, "_features", never)


@pytest.mark.parametrize("layers", [(), (0, -1)])
def test_what_is_read_is_what_memory_would_hold(
    encoder: Encoder, layers: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    index = torch.tensor([3, 69, 0, 31, 3])
    memory, first = made(encoder, source="", layers=layers), made(encoder, layers=layers)
    refusing(monkeypatch)
    for bank in (first, made(encoder, layers=layers)):
        assert bank.places == memory.places and len(bank) == 70
        for dense in (True, False):
            assert same(bank.batch(index, dense), memory.batch(index, dense))
            assert bank.batch(index, dense)[0].extents == memory.batch(index, dense)[0].extents
            assert bank.batch(index, dense)[0].size == (32, 32)
    pooled = made(encoder, dense=False, layers=layers)  # contained in the dense ones
    assert same(pooled.batch(index, False), memory.batch(index, False))


def test_other_features_are_computed(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    made(encoder)
    refusing(monkeypatch)
    others: list[dict[str, Any]] = [
        {"source": "another"}, {"places": PLACES[:-1]}, {"layers": (0,)}, {"half": True}, {"on_error": "skip"},
    ]  # fmt: skip
    for other in others:
        with pytest.raises(AssertionError, match="computed again"):
            made(encoder, **other)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    with pytest.raises(AssertionError, match="computed again"):
        made(encoder)


@pytest.mark.parametrize("task", ["classify", "segment", "depth", "detect"])
def test_heads_are_those_of_memory(task: str, encoder: Encoder) -> None:
    heads = []
    for source in ("", SOURCE, SOURCE):
        bank = made(encoder, dense=task != "classify", source=source)
        system = fit_probe(encoder, task, DATA, "probe(epochs=1, batch=16)", bank=bank)
        heads.append(weights_of(system, encoder))
    assert all(torch.equal(value, other[name]) for other in heads[1:] for name, value in heads[0].items())


def test_files_are_safetensors(encoder: Encoder, home: Path) -> None:
    bank = made(encoder)
    (folder,) = home.iterdir()
    features, target = bank.batch(torch.arange(70), True)
    assert features.dense is not None
    assert torch.equal(load_file(folder / "dense.safetensors")["rows"], features.dense)
    assert torch.equal(load_file(folder / "pooled.safetensors")["rows"], features.pooled)
    mask = load_file(folder / "target-mask.safetensors")["rows"]
    assert mask.dtype == torch.uint8 and torch.equal(mask.long(), target["mask"])


def test_half_is_half_the_file_and_read_as_float32(encoder: Encoder, home: Path) -> None:
    whole, half, memory = made(encoder), made(encoder, half=True), made(encoder, half=True, source="")
    sizes = sorted((one / "dense.safetensors").stat().st_size - kept.HEADER for one in home.iterdir())
    assert sizes[1] == 2 * sizes[0]
    index = torch.arange(70)
    found, wanted = half.batch(index, True)[0], whole.batch(index, True)[0]
    assert found.dense is not None and wanted.dense is not None
    assert found.dense.dtype == torch.float32
    assert torch.equal(found.dense, wanted.dense.half().float())
    assert torch.equal(found.pooled, wanted.pooled)
    assert same(half.batch(index, True), memory.batch(index, True))


def test_unreadable_images_stay_known(encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = open_data(images_in(tmp_path / "images", 12))
    next((tmp_path / "images").rglob("*.png")).write_bytes(b"no picture")
    images = data.split("train")
    first = Bank(encoder, images, list(range(12)), False, on_error="skip", source=SOURCE)
    refusing(monkeypatch)
    again = Bank(encoder, images, list(range(12)), False, on_error="skip", source=SOURCE)
    assert len(first) == len(again) == 11
    assert len(again.skipped) == 1 and again.skipped == first.skipped and again.places == first.places


def test_the_oldest_go_first(encoder: Encoder, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for place in range(3):
        made(encoder, source=f"encoder {place}")
    folders = sorted(home.iterdir(), key=lambda one: one.stat().st_mtime)
    size = sum(one.stat().st_size for one in folders[0].iterdir())
    for place, folder in enumerate(folders):
        os.utime(folder, (place, place))
    old = made(encoder, source="encoder 0")  # used now
    monkeypatch.setenv(kept.VARIABLE, str(2.5 * size / 2**30))
    made(encoder, source="encoder 3")
    left = set(home.iterdir())
    assert folders[0] in left and len(left) == 2
    shutil.rmtree(home)
    assert torch.isfinite(old.batch(torch.arange(4), True)[0].pooled).all()  # the files of a deleted folder can be read on


def test_what_is_left_of_a_killed_writer_goes(encoder: Encoder, home: Path) -> None:
    process = multiprocessing.get_context("fork").Process(target=lambda: (home / f".key.{token()}.tmp").mkdir(parents=True))
    process.start()
    process.join()
    assert len(list(home.iterdir())) == 1
    made(encoder)
    assert [one.name[0] for one in home.iterdir()] != ["."]
    assert len(list(home.iterdir())) == 1


def test_two_writers_leave_one_folder(encoder: Encoder, home: Path) -> None:
    context = multiprocessing.get_context("fork")
    gate, answers = context.Barrier(4), context.Queue()

    def work() -> None:
        torch.set_num_threads(1)
        gate.wait()
        answers.put(float(made(encoder).batch(torch.arange(70), True)[0].dense.double().sum()))  # type: ignore[union-attr]

    workers = [context.Process(target=work) for _ in range(4)]
    for one in workers:
        one.start()
    found = {answers.get(timeout=300) for _ in workers}
    for one in workers:
        one.join()
    assert [one.exitcode for one in workers] == [0] * 4
    assert len(found) == 1
    assert len(list(home.iterdir())) == 1


def test_damaged_files_are_computed_again(encoder: Encoder, home: Path) -> None:
    wanted = made(encoder).batch(torch.arange(4), True)
    (folder,) = home.iterdir()
    for name, content in (("dense.safetensors", b"\1"), ("pooled.safetensors", b""), ("card.json", b"{")):
        (folder / name).write_bytes(content)
        assert same(made(encoder).batch(torch.arange(4), True), wanted)
        assert (folder / name).stat().st_size > 9


def test_switched_off_or_without_room(encoder: Encoder, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = made(encoder, source="").batch(torch.arange(4), True)
    monkeypatch.setenv(kept.VARIABLE, "0")
    assert same(made(encoder).batch(torch.arange(4), True), wanted)
    assert not home.exists()
    monkeypatch.setenv(kept.VARIABLE, "1e-9")
    with pytest.warns(UserWarning, match=r"has room for 0\.0 GiB"):
        bank = made(encoder)
    assert same(bank.batch(torch.arange(4), True), wanted) and not list(home.iterdir())
    monkeypatch.setenv(kept.VARIABLE, "1")
    monkeypatch.setenv("HARDSIGHT_CACHE", str(home / "file"))
    (home / "file").write_text("")
    with pytest.warns(UserWarning, match="features cannot be kept in .*: Not a directory"):
        bank = made(encoder)
    assert same(bank.batch(torch.arange(4), True), wanted) and len(bank) == 70


@pytest.mark.parametrize("text", ["many", "-1", "inf", "nan"])
def test_a_wrong_limit_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(kept.VARIABLE, text)
    with pytest.raises(SpecError, match=f"HARDSIGHT_FEATURES is '{text}'; it must be the GiB"):
        kept.limit()


def test_memory_gives_pages_back(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows stay right when mapped pages are given back after each read."""
    wanted = made(encoder, source="")
    monkeypatch.setattr(kept, "RELEASE", 0)
    bank = made(encoder)
    assert bank.disk is not None and banks.BATCH == 64
    for start in range(0, 70, 10):
        index = torch.arange(start, start + 10)
        assert same(bank.batch(index, True), wanted.batch(index, True))


def test_a_bench_computes_them_once_and_its_rows_stay(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = Recipe(
        name="kept", encoders=("zoo:made_supervised",), data=("made(size=32, train=40, test=4)",), tasks=("classify", "segment"),
        attacks=("clean",), count=4, chunk=4, audit=0, gallery=0, probe="probe(images=20, epochs=1, batch=8)",
    )  # fmt: skip

    def rows(name: str, limit: str) -> dict[str, bytes]:
        monkeypatch.setenv(kept.VARIABLE, limit)
        Bench(plan(recipe), Store(tmp_path / name)).run()
        return {str(one.relative_to(tmp_path / name)): one.read_bytes() for one in (tmp_path / name).rglob("rows-*")}

    wanted = rows("off", "0")
    assert len(wanted) == 2 and not home.exists()
    assert rows("first", "1") == wanted and len(list(home.iterdir())) == 1
    monkeypatch.setattr(Bank, "_features", None)  # nothing is computed again
    assert rows("second", "1") == wanted
    monkeypatch.setenv(kept.VARIABLE, "much")
    with pytest.raises(SpecError, match="must be the GiB"):
        Bench(plan(recipe), Store(tmp_path / "wrong")).run()
