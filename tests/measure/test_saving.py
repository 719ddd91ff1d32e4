"""Saved adversarial images are within eps after rounding, on disk, in every norm."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hardsight.core.errors import DataError
from hardsight.measure.saving import attack_folder, to_bytes
from hardsight.specs.catalog import build
from tests.conftest import toy_images, toy_system
from tests.end.test_bench import inside


@pytest.mark.parametrize("spec", ["linf(1/255)", "linf(1.5/255)", "linf(8/255)", "l2(0.25)", "l2(2)", "l1(2)", "l1(20)"])
def test_rounding_stays_within_eps_and_keeps_most_of_it(spec: str) -> None:
    threat = build(spec, "Threat")
    x = (toy_images(6) * 255).round() / 255
    x_adv = threat.project(threat.surface(x, torch.Generator().manual_seed(0)), x)
    saved = to_bytes(x_adv, x, threat).float() / 255
    size = threat.size(saved - x)
    assert (size <= threat.eps * (1 + 1e-4)).all()
    if spec in ("linf(8/255)", "l2(2)"):
        assert (size >= 0.7 * threat.eps).all()
    if spec == "linf(1/255)":
        assert (size > 0).all()


def test_naive_rounding_would_leave_the_ball() -> None:
    """Negative control: shows why saving needs its own projection."""
    threat = build("linf(1.5/255)", "Threat")
    x = (toy_images(6) * 255).round() / 255
    x_adv = threat.surface(x, torch.Generator().manual_seed(0))
    naive = (x_adv * 255).round() / 255
    assert (threat.size(naive - x) > threat.eps * 1.01).any()


def test_images_off_the_grid_are_refused() -> None:
    with pytest.raises(DataError, match="8-bit grid"):
        to_bytes(toy_images(1), toy_images(1), build("linf(0.1)", "Threat"))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, size in (("a.png", (16, 16)), ("b.png", (16, 16)), ("more/c.png", (20, 24))):
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(folder / name)
    return folder


@pytest.mark.parametrize("attack", ["embed(steps=3)", "pgd(3)"])
def test_folder_is_attacked_and_read_back(photos: Path, tmp_path: Path, attack: str) -> None:
    system = toy_system(build("classify", "Task"))
    threat, out = build("linf(4/255)", "Threat"), tmp_path / "out"
    report = attack_folder(system, build(attack, "Attack"), threat, photos, out)
    assert [record["image"] for record in report["images"]] == ["a.png", "b.png", "more/c.png"]
    assert json.loads((out / "attack.json").read_text()) == report
    for record in report["images"]:
        before = np.asarray(Image.open(photos / record["image"]), dtype=int)
        after = np.asarray(Image.open(out / record["saved"]), dtype=int)
        assert 0 < np.abs(after - before).max() <= 4
        assert record["size_saved"] <= 4 / 255 + 1e-6
        assert record["embedding_moved_saved"] > 0


def test_progress_moves_within_a_batch(photos: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    threat, attack = build("linf(8/255)", "Threat"), build("embed(steps=9)", "Attack")
    attack_folder(
        toy_system(build("classify", "Task")), attack, threat, photos, tmp_path / "out", tick=lambda *at: seen.append(at)
    )
    assert seen[0] == (0, 3) and seen[-1] == (3, 3) and seen == sorted(seen)
    of_the_two = [done for done, _ in seen if done < 2]
    assert of_the_two.count(1) > 2, "two images of one size are one batch: the first half of its passes, then the second"


def test_command_writes_pngs_and_names_what_it_left_out(photos: Path, tmp_path: Path) -> None:
    (photos / "broken.png").write_bytes(b"\x89PNG not really")
    words = ["attack", "--encoder", "tiny", "--images", str(photos), "--eps", "2/255", "--attack", "embed(steps=2)"]
    stopped = inside(*words, "--out", str(tmp_path / "one"))
    assert stopped.returncode == 2
    assert "broken.png" in stopped.stderr
    skipped = inside(*words, "--out", str(tmp_path / "two"), "--on-error", "skip")
    assert skipped.returncode == 0, skipped.stderr
    assert "broken.png" in skipped.stderr
    assert len(list((tmp_path / "two").rglob("*.png"))) == 3


def test_command_attacks_a_probe_or_the_models_own_classifier(photos: Path, tmp_path: Path) -> None:
    more = ["--images", str(photos), "--attack", "pgd(2)", "--json"]
    head = inside(
        "attack", "--encoder", "tiny", "--data", "made(size=16, train=32, test=8)", "--out", str(tmp_path / "a"), *more
    )
    assert head.returncode == 0, head.stderr
    assert all("answer_changed_saved" in record for record in json.loads(head.stdout)["images"])
    own = ["attack", "--task", "classify(head=own)", *more]
    found = inside(*own, "--encoder", "tiny(classes=5)", "--out", str(tmp_path / "b"))
    assert found.returncode == 0, found.stderr
    none = inside(*own, "--encoder", "tiny", "--out", str(tmp_path / "c"))
    assert none.returncode == 2
    assert "no classifier of its own" in none.stderr


def test_two_images_of_one_stem_keep_their_names(photos: Path, tmp_path: Path) -> None:
    Image.open(photos / "a.png").save(photos / "a.jpg")
    system = toy_system(build("classify", "Task"))
    report = attack_folder(
        system, build("embed(steps=1)", "Attack"), build("linf(4/255)", "Threat"), photos, tmp_path / "out"
    )
    assert {record["saved"] for record in report["images"]} == {"a.jpg.png", "a.png.png", "b.png", "more/c.png"}
