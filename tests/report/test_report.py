"""The report: its numbers against direct computation, its formats with hostile names, its page without network access."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from hardsight import report
from hardsight.metrics import of
from hardsight.report import figures, page, pictures, results, table
from hardsight.report.colours import depth_colours
from hardsight.store.cells import Store
from hardsight.store.files import write_arrays

HOSTILE = "a<script>alert(1)</script>\"'&_50%|[red]\x1b[31m"
ATTACKS = {"classify": "PGD", "segment": "SegPGD", "depth": "DepthPGD"}
N, SIDE, CLASSES = 12, 16, 3
PARSER = re.compile(r"""(?:src|href|action|data)\s*=\s*["']([^"']*)["']|url\(([^)]*)\)|@import\s*([^;]*)""")


def counts_of(task: str, error: np.ndarray) -> dict[str, np.ndarray]:
    n = len(error)
    if task == "classify":
        return {"hits": (error < 0.5).astype(np.int64), "images": np.ones(n, np.int64)}
    if task == "segment":
        labelled = np.full((n, CLASSES), 100)
        hits = np.round(labelled * (1 - error[:, None])).astype(np.int64)
        return {"intersection": hits, "predicted": labelled, "labelled": labelled}
    pixels = np.full(n, 50.0)
    return {"pixels": pixels, "squared": pixels * error**2} | dict.fromkeys(
        ("relative", "log10", "delta1", "delta2", "delta3"), pixels * 0.5
    )


def picture_of(task: str, rng: np.random.Generator, eps: float) -> dict[str, np.ndarray]:
    image = np.random.default_rng(0).integers(0, 256, (2, SIDE, SIDE, 3), dtype=np.uint8)
    delta = (rng.choice([-1.0, 1.0], image.shape) * eps).astype(np.float32)
    answers = {
        "classify": rng.integers(0, CLASSES, 2),
        "segment": rng.integers(0, CLASSES, (2, SIDE, SIDE)).astype(np.uint8),
        "depth": rng.uniform(0, 9, (2, SIDE, SIDE)).astype(np.float32),
    }
    x_adv = np.round(255 * np.clip(image / 255 + delta, 0, 1)).astype(np.uint8)
    return {
        "image": image,
        "x_adv": x_adv,
        "delta": delta,
        "target": answers[task],
        "answer": answers[task],
        "id": np.array(["i000", "i001"]),
    }


def add(
    store: Store,
    name: str,
    task: str,
    column: str,
    eps: int,
    error: np.ndarray | None = None,
    images: int = N,
    finished: bool = True,
    gallery: bool = True,
    largest: float | None = None,
    counts: dict[str, np.ndarray] | None = None,
    **changes,
) -> None:
    """Writes a cell as `evaluate` does; `error` [images] determines its counts, unless `counts` gives them (or members)."""
    place = len(store.cells())
    rng = np.random.default_rng([place, eps])
    error = np.clip(rng.uniform(0, 0.6, N) + eps / 20, 0, 1)[:images] if error is None else error
    clean = column == "clean"
    attack = "clean" if clean else "EmbedAttack" if column == "embed" else ATTACKS[task] if column == "task" else column
    what = {
        "place": place,
        "encoder": f"zoo:{name}",
        "task": f"{task}()",
        "data": "made()",
        "attack": f"{attack.lower()}()",
        "threat": f"linf({eps}/255)",
        "probe": "probe()",
        "count": N,
        "chunk": 6,
        "seed": 0,
        "precision": "float32",
        "column": column,
        "encoder_name": name,
        "task_name": task,
        "data_name": "made",
        "attack_name": attack,
        "norm": "" if clean else "Linf",
        "eps": 0.0 if clean else eps / 255,
        "eps_text": "0" if clean else f"{eps}/255",
        "encoder_card": {"name": name, "arch": "test", "parameters": 12345, "size": [SIDE, SIDE], "sha256": "ab" * 32},
        "data_card": {
            "name": "made",
            "classes": ["ball", "box", HOSTILE],
            "mask_classes": ["ground", "ball", HOSTILE],
            "max_depth": 10.0,
        },
    } | changes
    cell = store.open(f"{place:016x}", what)
    rows = {
        "id": np.array([f"i{at:03d}" for at in range(len(error))]),
        "error": error.astype(np.float32),
        "size": np.full(len(error), eps / 255 if largest is None else largest, np.float32),
    } | (counts or {f"counts.{k}": v for k, v in counts_of(task, error).items()})
    for chunk, start in enumerate(range(0, len(error), 6)):
        cell.write_chunk(chunk, {key: value[start : start + 6] for key, value in rows.items()})
    if gallery:
        write_arrays(cell.path / "gallery.npz", picture_of(task, rng, eps / 255))
    if finished:
        cell.finish(
            {
                "finished": f"2026-11-21T03:00:{place:02d}Z",
                "seconds": 1.5,
                "device": "cpu",
                "images": len(error),
                "queries": 20.0,
                "versions": {"hardsight": "0.1.0", "torch": "2.15.0"},
                "git": {"revision": "abc", "dirty": False},
            }
        )


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    made = Store(tmp_path_factory.mktemp("store"))
    for name in ("enc10", "enc2", HOSTILE):
        for task in ATTACKS:
            add(made, name, task, "clean", 0)
            for eps in (2, 4, 8) if name != HOSTILE else (8,):
                for column in ("embed", "task"):
                    last = (name, task, column) == (HOSTILE, "depth", "task")
                    add(made, name, task, column, eps, images=6 if last else N, finished=not last)
    return made


@pytest.fixture(scope="module")
def made(store: Store) -> table.Table:
    return table.grid(store.cells())


@pytest.fixture(scope="module")
def written(store: Store, tmp_path_factory) -> dict[str, Path]:
    return report.write(store, tmp_path_factory.mktemp("report"), title="A </title> & more")


def test_rows_and_columns_are_sorted(made):
    assert [row.task for row in made.rows] == ["classify"] * 3 + ["segment"] * 3 + ["depth"] * 3
    assert [row.encoder for row in made.rows[1:3]] == ["enc2", "enc10"]
    assert [c.title for c in made.shown] == ["clean", "EmbedAttack", "task attack", "worst case"]
    assert {c.eps_text for c in made.shown[1:]} == {"8/255"}


def test_output_does_not_depend_on_the_order_of_cells(store, made, tmp_path):
    again = table.grid(reversed(store.cells()))
    assert page.html(again) == page.html(made)
    assert table.csv(again) == table.csv(made)
    assert table.document(again) == table.document(made)


@pytest.mark.parametrize("task", list(ATTACKS))
def test_worst_case_takes_each_image_from_its_worst_attack(task, tmp_path):
    store, first, second = Store(tmp_path), np.array([0.1, 0.9, 0.2, 0.2]), np.array([0.8, 0.3, 0.1, 0.6])
    clean = np.array([0.0, 0.1, 0.0, 0.7])
    for column, error in (("clean", clean), ("embed", first), ("task", second)):
        add(store, "a", task, column, 8 * (column != "clean"), error, gallery=False)
    row = table.grid(store.cells()).rows[0]
    worst = next(column for column in row.numbers if column.attack == "worst")
    metric = of(task)
    expected = metric.summary(counts_of(task, np.maximum(clean, np.maximum(first, second))))[metric.headline]
    assert row.numbers[worst].value == pytest.approx(expected)
    assert row.numbers[worst].low <= expected <= row.numbers[worst].high
    assert row.numbers[worst].over == ("EmbedAttack", ATTACKS[task])
    before = metric.summary(counts_of(task, clean))[metric.headline]
    assert row.relative[worst] == pytest.approx(expected / before)


def test_worst_case_needs_every_attack_at_that_eps(tmp_path):
    store = Store(tmp_path)
    for column, eps in (("clean", 0), ("embed", 4), ("embed", 8), ("task", 8)):
        add(store, "a", "classify", column, eps, gallery=False)
    numbers = table.grid(store.cells()).rows[0].numbers
    assert [column.eps_text for column in numbers if column.attack == "worst"] == ["8/255"]


def test_a_partly_finished_cell_is_compared_on_its_own_images(tmp_path):
    store, clean = Store(tmp_path), np.array([0.0, 0.0, 1.0, 1.0])
    add(store, "a", "classify", "clean", 0, clean, gallery=False)
    add(store, "a", "classify", "task", 8, np.array([0.0, 1.0]), finished=False, gallery=False)
    row = table.grid(store.cells()).rows[0]
    task = next(column for column in row.numbers if column.attack == "task")
    assert row.numbers[task].partial
    assert row.numbers[task].n == 2
    assert row.relative[task] == pytest.approx(0.5)
    assert "partial" in table.markdown(table.grid(store.cells()))


@pytest.mark.parametrize("wrong", [(12, 12), (12, 12, 12), (12, 12, 6)])
def test_a_tie_has_no_winner(tmp_path, wrong):
    store, names = Store(tmp_path), "abc"
    for name, count in zip(names, wrong, strict=False):
        add(store, name, "classify", "clean", 0, np.zeros(N), gallery=False)
        add(store, name, "classify", "task", 8, (np.arange(N) < count).astype(float), gallery=False)
    made = table.grid(store.cells())
    sentence = page.finding(made, made.rows)
    if len(set(wrong)) > 1:
        assert "c is best with 50.0" in sentence
    else:
        tied = names[: len(wrong)]
        assert f"No single encoder is best: {', '.join(tied[:-1])} and {tied[-1]} share the value 0.0." in sentence


def test_area_is_the_mean_over_eps(tmp_path):
    store = Store(tmp_path)
    for column, eps, wrong in (("clean", 0, 0), ("task", 2, 4), ("task", 4, 6), ("task", 8, 12)):
        add(store, "a", "classify", column, eps, (np.arange(N) < wrong).astype(float), gallery=False)
    row = table.grid(store.cells()).rows[0]
    expected = ((1 + 2 / 3) / 2 * 2 + (2 / 3 + 1 / 2) / 2 * 2 + 1 / 2 / 2 * 4) / 8
    assert row.areas["task", "", "Linf"][0] == pytest.approx(expected)


def test_what_differs_is_shown_separately(tmp_path):
    store = Store(tmp_path)
    for steps in (10, 20):
        add(store, "a", "classify", "task", 8, gallery=False, attack=f"pgd(steps={steps})")
    add(store, "a", "classify", "task", 8, gallery=False, seed=1)
    add(store, "a", "classify", "task", 8, gallery=False, encoder="file:other.safetensors")
    made = table.grid(store.cells())
    assert [row.title for row in made.rows] == ["file:other.safetensors", "zoo:a (seed 0)", "zoo:a (seed 1)"]
    assert [c.variant for c in made.rows[1].numbers if c.attack == "task"] == ["pgd(steps=10)", "pgd(steps=20)"]


def test_two_norms_are_named_in_the_heads(tmp_path):
    store = Store(tmp_path)
    add(store, "a", "classify", "clean", 0)
    add(store, "a", "classify", "task", 8)
    add(store, "a", "classify", "task", 8, norm="L2")
    made = table.grid(store.cells())
    heads = [table.heading(made, column) for column in made.shown]
    assert heads == ["clean", "task attack L2 8/255", "task attack Linf 8/255"]
    assert "own largest change" in page.html(made)


def test_csv_has_one_number_a_line(written, made):
    lines = list(csv.DictReader(io.StringIO(written["csv"].read_text(encoding="utf-8"))))
    assert tuple(lines[0]) == table.FIELDS
    key = ("enc2", "SegPGD", "miou")
    one = next(
        line for line in lines if (line["encoder"], line["attack"], line["metric"]) == key and float(line["eps"]) > 0.03
    )
    row = made.rows[4]
    number = next(number for column, number in row.numbers.items() if (column.attack, column.eps_text) == ("task", "8/255"))
    assert float(one["value"]) == pytest.approx(number.value)
    assert int(one["n"]) == N
    assert one["cell"] == number.cell
    assert {"accuracy", "miou", "rmse", "relative", "miou.area"} <= {line["metric"] for line in lines}


def test_json_has_the_shape_of_lm_eval(written):
    document = json.loads(written["json"].read_text(encoding="utf-8"))
    assert set(document) == {"results", "configs", "versions", "n-samples", "git_hash", "date"}
    entry = document["results"]["enc2/depth/made"]["DepthPGD@linf(8/255)"]
    assert entry["rmse_low"] <= entry["rmse"] <= entry["rmse_high"]
    assert entry["n"] == N
    assert document["git_hash"] == "abc"
    assert len(document["configs"]) == 51


def test_latex_and_markdown_escape_names(written):
    latex, markdown = (written[kind].read_text(encoding="utf-8") for kind in ("tex", "md"))
    assert r"\_50\%" in latex
    assert r"\&" in latex
    assert latex.count(r"\begin") == latex.count(r"\end") == 2
    assert not re.search(r"(?<!\\)[%#_]", latex.replace("tab:hardsight", ""))
    assert "<script" not in markdown.replace("\\<", "")
    assert r"\|" in markdown
    bars = {len(re.findall(r"(?<!\\)\|", line)) for line in markdown.splitlines() if line.startswith("|")}
    assert bars == {8}


@pytest.mark.parametrize("width", [100, 120])
def test_terminal_table_fits_and_says_its_settings(made, width):
    out = io.StringIO()
    console = Console(width=width, file=out, force_terminal=False)
    console.print(table.terminal(made))
    text = out.getvalue()
    assert max(map(len, text.splitlines())) <= width
    assert "\x1b" not in text
    for part in ("Linf 8/255", "seed 0", "partial", "mIoU % ↑", "RMSE m ↓", "[red]"):
        assert part in text


def test_page_asks_the_network_for_nothing_and_runs_no_foreign_script(written):
    text = written["html"].read_text(encoding="utf-8")
    for found in PARSER.finditer(text):
        address = next(group for group in found.groups() if group is not None)
        assert address.startswith(("data:", "#")), address
    assert "http" not in re.sub(r"http-equiv|http://www\.w3\.org/2000/svg", "", text)
    assert text.count("<script>") == text.count("</script>") == 1
    assert "&lt;script&gt;alert" in text
    assert "<title>A &lt;/title&gt; &amp; more</title>" in text
    assert "\x1b" not in text
    script = text[text.index("<script>") : text.index("</script>")]
    assert len(script) < 3100
    assert len(text) < 1_000_000
    assert not re.search(r"=\"[^\"]*<script", text)


def test_svg_escapes_and_is_well_formed(made):
    import xml.etree.ElementTree as tree

    for figure in figures.curves(made) + figures.bars(made):
        root = tree.fromstring(str(figure.svg))
        assert root.find("{http://www.w3.org/2000/svg}title") is not None
        assert "nan" not in str(figure.svg)
        assert "<script" not in str(figure.svg)
    assert len(figures.curves(made)) == 3


def test_ticks_are_round_and_reach_the_top():
    assert figures.nice(0.83) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert figures.nice(float("nan"))[-1] >= 1
    assert figures.nice(0.0)[-1] >= 1


def test_gallery_pairs_pictures_by_image(made):
    found = pictures.galleries(made)
    assert [gallery.task for gallery in found] == list(ATTACKS)
    scene = found[1].scenes[0]
    assert len(found[1].scenes) == 2
    assert len(scene.lines) == 3
    assert all(line.before and all(line.parts) for line in scene.lines)
    assert scene.image.uri.startswith("data:image/webp;base64,")
    assert scene.target.uri.startswith("data:image/png;base64,")
    assert {one.mark for line in found[0].scenes[0].lines for one in [line.before] if one} <= {"right", "wrong"}


def test_difference_spans_black_to_white():
    column = results.Column("task", "", "Linf", 8 / 255, "8/255")
    assert pictures.factor(column, np.zeros(3)) == pytest.approx(255 / 16)
    assert pictures.factor(results.Column("task", "", "L2", 0.5, "0.5"), np.array([0.1, -0.2])) == pytest.approx(2.5)


def test_depth_without_a_measurement_is_grey():
    painted = depth_colours(np.array([[0.0, np.nan, 10.0, 1e-6]]), 10.0)
    assert painted[0, 0].tolist() == painted[0, 1].tolist() == [120, 120, 120]
    assert painted[0, 2].tolist() == [253, 231, 37]
    assert painted[0, 3].tolist() == [68, 1, 84]


def test_warnings_name_what_is_not_finished_or_out_of_bounds(made, tmp_path):
    assert any("1 of 51 cells not finished" in warning for warning in page.warnings(made))
    store = Store(tmp_path)
    add(store, "a", "classify", "task", 8, largest=9 / 255)
    assert any("outside its Linf eps" in warning for warning in page.warnings(table.grid(store.cells())))


def test_an_empty_store_makes_a_page_that_says_so(tmp_path):
    paths = report.write(Store(tmp_path / "none"), tmp_path / "out")
    assert "Nothing has been measured yet" in paths["html"].read_text(encoding="utf-8")
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == [f"report.{end}" for end in ("csv", "html", "json", "md", "tex")]


def test_report_does_not_import_torch():
    code = "import sys, hardsight.report; sys.exit('torch' in sys.modules or 'matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_model_that_is_always_wrong_has_a_page(tmp_path):
    """mIoU and mAP of 0 have an interval from 0 to 0, and a chart that ends there has no scale."""
    store = Store(tmp_path / "store")
    for column, eps in (("clean", 0), ("task", 8)):
        add(store, "wrong", "segment", column, eps, error=np.ones(N))
    assert "wrong" in report.write(store, tmp_path)["html"].read_text()
