"""`hardsight demo`: what it prints and writes is what it computed; its page is one file, and names in it are text."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hardsight.report.demo import Demo, Figure, Scene, sentences, terminal, write
from tests.end.test_bench import inside


@pytest.fixture
def found() -> Demo:
    rng = np.random.default_rng(0)

    def noise(*shape: int) -> np.ndarray:
        return rng.integers(0, 256, shape, dtype=np.uint8)

    masks = [rng.integers(0, 3, (16, 16), dtype=np.uint8) for _ in range(3)]
    scene = Scene(
        "test-3", noise(16, 16, 3), noise(16, 16, 3), noise(4, 4, 3), noise(4, 4, 3), masks[0], masks[1], "cube", "ring",
        masks[2], "cube", 0.31,
    )  # fmt: skip
    figures = (
        Figure("classify", "accuracy", "%", (0.844, 0.736, 0.913), (0.109, 0.054, 0.209)),
        Figure("segment", "mIoU", "%", (0.502, 0.438, 0.533), (0.148, 0.124, 0.175)),
    )
    return Demo("<b>net", "tiny", "made", "4/255", 20, 0, 64, 400, figures, scene, ("a", "b<i>", "c"), 4 / 255, 21.3)


def test_four_sentences_with_every_number_its_interval_and_its_count(found: Demo) -> None:
    said = sentences(found)
    assert len(said) == 4 and all(one.endswith(".") for one in said)
    assert "84.4% [73.6, 91.3] before and 10.9% [5.4, 20.9] after (95% intervals, 64 scenes)" in said[1]
    assert "50.2% [43.8, 53.3] before and 14.8% [12.4, 17.5] after" in said[2]


@pytest.mark.parametrize("width", [40, 80, 200])
def test_the_picture_fits_the_terminal_with_and_without_colours(found: Demo, width: int) -> None:
    for colours in (True, False):
        lines = terminal(found, width, colours).plain.splitlines()
        assert max(map(len, lines)) <= width and len([line for line in lines if line.strip()]) == 2 * (len(lines) // 2)
        assert ("▀" in lines[0]) == colours
    coloured = terminal(found, 80, True)
    above = re.search(r"rgb\((.*?)\) on rgb", str(coloured.spans[0].style))
    assert above and [int(one) for one in above[1].split(",")] == found.scene.image[0, 0].tolist()


def test_the_page_is_one_file_and_names_are_text(found: Demo, tmp_path: Path) -> None:
    page = write(found, tmp_path).read_text()
    assert "<b>net" not in page and "&lt;b&gt;net" in page and "b&lt;i&gt;" in page
    assert not re.search(r"https?://|<script|src=\"(?!data:)", page)
    assert page.count("<img ") == 8
    same = replace(found, scene=replace(found.scene, attacked=found.scene.image))
    assert write(same, tmp_path / "same").exists(), "an attack that changes nothing has a page too"


@pytest.mark.slow
def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = inside("demo", "--count", "16", "--json", "--encoder", "zoo:made_supervised")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert Path(told["page"]).exists() and told["size"] <= 4 / 255 * (1 + 1e-4) and told["n"] == 16
    for one in told["figures"]:
        assert one["before"]["low"] <= one["before"]["value"] <= one["before"]["high"]
        assert one["after"]["value"] < one["before"]["value"], "one attack, and both tasks are worse"
    again = inside("demo", "--count", "16", "--quiet")
    lines = [line for line in again.stdout.splitlines() if line]
    assert lines[-1] == " page  demo/index.html" and "next" not in again.stderr
    refused = inside("demo", "--encoder", "nonsense")
    assert refused.returncode == 2 and "nonsense" in refused.stderr
