"""The board in chromium, opened from its folder: what a person does with it, by mouse, by keyboard, on a phone and on paper.

Skipped where playwright (uv sync --group browser) or chromium (apt-get install chromium) is missing. In every test the page
must log no error and ask for nothing but files of its own folder.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hardsight.report import board
from tests.fixtures.boards import fabricated

HOSTILE = "a<script>alert(1)</script><img src=x onerror=alert(2)>\"'&"
NAMES = ["dinov2_vits14", "simclr_rn50", HOSTILE, "deacl_rn18", "mae_vitb"]
CHROMIUM = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)
READY = "document.documentElement.dataset.ready"
FIRST = "#table tbody tr:first-child th"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five encoders on three tasks; two others measured with another count; one damaged cell."""
    root = tmp_path_factory.mktemp("site")
    fabricated(root / "one", NAMES)
    fabricated(root / "two", ["moco", "other"], ("classify",), count=70, n=50)
    broken = fabricated(root / "three", ["damaged"], ("classify",), (4,), 50, pictures=False, count=70).cells()[0]
    broken.chunk(0).write_bytes(b"no archive")
    made = board.write([root / "one", root / "two", root / "three"], root / "site")
    assert len(made.left_out) == 1
    return root / "site"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: uv sync --group browser")
    if CHROMIUM is None:
        pytest.skip("there is no chromium: apt-get install chromium")
    with api.sync_playwright() as play:
        found = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"] if os.geteuid() == 0 else [])
        yield found
        found.close()


@pytest.fixture
def opened(browser: Any, site: Path) -> Iterator[Any]:
    """Opens a page of the site with a viewport and a colour scheme; at the end, no error and no request may have happened."""
    said, asked, contexts = [], [], []

    def start(name: str = "index.html", width: int = 1400, height: int = 1000, scheme: str = "light") -> Any:
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(5000)
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda request: asked.append(request.url))
        path, _, part = name.partition("#")
        page.goto((site / path).as_uri() + (f"#{part}" if part else ""))
        if not path.startswith("encoder/"):
            page.wait_for_function(READY)
        return page

    yield start
    for context in contexts:
        context.close()
    assert said == []
    assert asked and all(url.startswith((site.as_uri(), "data:")) for url in asked), asked


def rows(page: Any) -> list[str]:
    return page.locator("#table tbody th a").all_inner_texts()


def test_sorting(opened: Any) -> None:
    """Opens sorted by rank. Clicks: the head "encoder" (A to Z, then Z to A), the ranking's figure (best first, then worst
    first), "rank" again. The lines between tie groups are there only by rank."""
    page = opened()
    by_rank = rows(page)
    assert len(by_rank) == 5 and page.locator("th[aria-sort=ascending]").inner_text().startswith("rank")
    lines = page.locator("tr.cut").count()
    assert lines >= 1
    page.get_by_role("button", name="encoder").click()
    names = rows(page)
    assert sorted(names) == sorted(NAMES) and names[1] == "deacl_rn18" and page.locator("tr.cut").count() == 0
    page.get_by_role("button", name="encoder").click()
    assert rows(page) == names[::-1]
    page.locator("thead th").nth(3).get_by_role("button").click()
    values = [float(text) for text in page.locator("td.main b").all_inner_texts()]
    assert values == sorted(values, reverse=True)
    page.locator("thead th").nth(3).get_by_role("button").click()
    assert [float(text) for text in page.locator("td.main b").all_inner_texts()] == values[::-1]
    page.get_by_role("button", name="rank", exact=True).click()
    assert rows(page) == by_rank and page.locator("tr.cut").count() == lines


def test_search_and_filters(opened: Any) -> None:
    """Types in the search field; chooses architecture, method, task, data and threat; presses "Reset"."""
    page = opened()
    page.get_by_label("Search").fill("dino vit")
    assert rows(page) == ["dinov2_vits14"]
    assert "1 of 5 encoders" in page.locator("#said").inner_text()
    page.get_by_label("Search").fill("")
    page.get_by_label("Architecture").select_option("resnet50")
    assert set(rows(page)) == {"simclr_rn50", "mae_vitb"}
    page.get_by_label("Method").select_option("dino")
    assert rows(page) == ["simclr_rn50"]
    page.get_by_role("button", name="Reset").click()
    assert len(rows(page)) == 5
    page.get_by_label("Task").select_option("depth")
    assert "RMSE" in page.locator("thead").inner_text()
    values = [float(text) for text in page.locator("td.main b").all_inner_texts()]
    assert values == sorted(values)
    page.get_by_label("Threat").select_option("Linf 4/255")
    assert all("Linf 4/255" in text for text in page.locator("#ranking option").all_inner_texts())
    page.get_by_label("Data").select_option("camvid")
    assert "No ranking passes" in page.locator("#said").inner_text() and rows(page) == []
    page.get_by_role("button", name="Reset").click()
    assert len(rows(page)) == 5


def test_columns(opened: Any) -> None:
    """Opens "Columns", ticks one more ranking and unticks it."""
    page = opened()
    before = page.locator("thead th").count()
    page.get_by_text("Columns", exact=True).click()
    box = page.locator(".choices input:not(:checked)").first
    box.check()
    assert page.locator("thead th").count() == before + 1
    page.locator(".choices input:checked").first.uncheck()
    assert page.locator("thead th").count() == before


def test_what_is_not_comparable_and_what_is_left_out_is_said(opened: Any) -> None:
    """Looks at the two lists below the table; chooses the other setup's ranking."""
    page = opened()
    assert "count 70, not 60" in page.locator("#unranked").inner_text()
    left = page.locator("main").inner_text()
    assert "Cells that are left out" in left and "cannot read" in left and "00000cla" in left
    other = page.locator("#ranking option", has_text="count 70: worst case").first.get_attribute("value")
    page.get_by_label("Ranked by").select_option(other)
    assert set(rows(page)) == {"moco", "other"}
    assert "count 60, not 70" in page.locator("#unranked").inner_text()


def test_two_are_picked_and_compared(opened: Any) -> None:
    """Ticks two encoders, follows "Compare the two", changes the ranking of the images and the encoder B."""
    page = opened()
    page.get_by_label("compare dinov2_vits14").check()
    page.get_by_label("compare mae_vitb").check()
    page.get_by_role("link", name="Compare the two").click()
    page.wait_for_function(READY)
    assert page.locator("h1").inner_text() == "dinov2_vits14 against mae_vitb"
    assert re.match(r"In 23 shared rankings, B is significantly better in 0, A in \d+", page.locator("#said").inner_text())
    assert page.locator("#table tbody tr").count() == 23
    assert "Only A is right: " in page.locator("#disagree").inner_text()
    page.get_by_label("Under").select_option(label=page.locator("#ranking option").last.inner_text())
    assert "The task error" in page.locator("#disagree").inner_text()
    page.locator("#b").select_option("moco")
    page.get_by_text("They share no ranking").wait_for()
    assert page.locator("#unlike li").count() > 20


def test_numbers_of_the_pair_page_are_those_of_python(opened: Any, site: Path) -> None:
    """Reads difference, interval and p of every row, and compares them with metrics/paired."""
    from hardsight.metrics.paired import difference
    from hardsight.report.over import counts_of
    from hardsight.store.cells import Store

    cells = {
        (cell.what["encoder_name"], cell.what["task_name"], cell.what["attack_name"], cell.what["eps_text"]): cell
        for cell in Store(site.parent / "one").cells()
    }
    page = opened("pair.html#2,3")
    a, b = page.locator("h1").inner_text().split(" against ")
    from hardsight.metrics import of

    checked = 0
    for line in page.locator("#table tbody tr").all():
        title = line.locator("th").inner_text().split("\n")[0]
        if "worst case" in title:
            continue
        task = title.split(" ")[0]
        attack, _, threat = title.split(": ")[1].partition(" · Linf ")
        metric, pair = of(task), [cells[name, task, attack, threat or "0"] for name in (a, b)]
        expected = difference(metric, *(counts_of(cell.rows()) for cell in pair))
        texts = line.locator("td").all_inner_texts()
        scale = 100 if metric.unit == "%" else 1
        gap = [float(text) for text in re.findall(r"[+-]?\d+\.\d+", texts[2])]
        assert gap == pytest.approx(
            [scale * x for x in (expected.value, expected.low, expected.high)], abs=0.051 * scale / 100
        )
        assert float(texts[3].lstrip("< ")) == pytest.approx(max(expected.p, 0.0001), abs=2e-4)
        checked += 1
    assert checked == 17


def test_the_page_of_an_encoder(opened: Any) -> None:
    """Clicks the first name of the table, opens "Settings and command", goes back to the board."""
    page = opened()
    page.locator(FIRST).get_by_role("link").click()
    page.wait_for_load_state()
    assert page.locator("section table").count() == 3 and page.locator("figure svg").count() == 3
    assert page.evaluate("[...document.images].every((one) => one.naturalWidth > 0)")
    page.get_by_text("Settings and command").first.click()
    assert "hardsight bench --encoder" in page.locator("pre").first.inner_text()
    page.get_by_role("link", name="Robustness board").click()
    page.wait_for_function(READY)


def test_names_with_markup_stay_text(opened: Any) -> None:
    """Looks for the name in the table, on its own page and in a pair; nothing of it runs, no picture of it is asked for."""
    page = opened()
    assert HOSTILE in rows(page)
    page.get_by_role("link", name=HOSTILE, exact=True).first.click()
    page.wait_for_load_state()
    assert page.locator("h1").inner_text() == HOSTILE
    pair = opened("pair.html#0,1")
    assert HOSTILE in pair.locator("h1").inner_text()
    assert page.locator("script").count() == 0 and pair.locator("img").count() == 0


def test_by_keyboard_alone(opened: Any) -> None:
    """Tab to the skip link; Tab to the first column head and Enter sorts, and the focus stays; Space ticks a row; every
    control is reached by Tab and shows its focus."""
    page = opened()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "To the table"
    seen = []
    for _ in range(14):
        page.keyboard.press("Tab")
        seen.append(page.evaluate("document.activeElement.id || document.activeElement.textContent"))
        if seen[-1] == "encoder":
            break
    assert seen[:5] == ["ranking", "search", "task", "data", "threat"] and seen[-1] == "encoder"
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    assert page.locator("th.name[aria-sort=ascending]").count() == 1
    assert page.evaluate("document.activeElement.textContent") == "encoder"
    page.locator("tbody input").first.focus()
    page.keyboard.press("Space")
    assert page.locator("#compare").is_visible() and page.evaluate("document.activeElement.type") == "checkbox"


@pytest.mark.parametrize("name", ["index.html", "pair.html#0,1", "encoder"])
def test_on_a_phone(opened: Any, site: Path, name: str) -> None:
    """390 points wide: the page does not scroll sideways, controls are at least 35 points high, the table scrolls by itself."""
    page = opened(f"encoder/{next((site / 'encoder').glob('*deacl*')).name}" if name == "encoder" else name, 390, 844)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    heights = [box["height"] for one in page.locator("select, #search, #reset").all() if (box := one.bounding_box())]
    assert all(height >= 35 for height in heights)


def test_light_and_dark(opened: Any) -> None:
    """The same page in both colour schemes: text against paper has a contrast of at least 7, quiet text of at least 4.5."""
    contrast = """(names) => { const light = (text) => { const [r, g, b] = text.match(/[\\d.]+/g).slice(0, 3).map((v) => v / 255)
        .map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
      return names.map((name) => { const one = document.querySelector(name), paper = light(getComputedStyle(document.body).backgroundColor),
        ink = light(getComputedStyle(one).color); return (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05); }); }"""
    papers = []
    for scheme in ("light", "dark"):
        page = opened(scheme=scheme)
        ink, quiet, link = page.evaluate(contrast, ["h1", "#said", "tbody th a"])
        assert ink >= 7 and quiet >= 4.5 and link >= 4.5
        papers.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert papers[0] != papers[1]


def test_on_paper(opened: Any, tmp_path: Path) -> None:
    """Prints: controls are gone, all rows are there, the paper is white also in the dark scheme."""
    page = opened(scheme="dark")
    page.emulate_media(media="print", color_scheme="dark")
    assert not page.locator("#controls").is_visible() and not page.locator("td.pick").first.is_visible()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.evaluate(
        "(() => { const one = document.getElementById('board'); return one.scrollHeight <= one.clientHeight + 1; })()"
    )
    page.pdf(path=tmp_path / "board.pdf")
    assert (tmp_path / "board.pdf").stat().st_size > 10_000


def test_the_pareto_front(opened: Any) -> None:
    """Counts the marks: an encoder each; those on the front are links that Tab reaches; the search takes marks away."""
    page = opened()
    assert page.locator("#pareto circle").count() == 5 and page.locator("#pareto circle.on").count() >= 1
    page.get_by_label("Search").fill("simclr_rn")
    assert page.locator("#pareto circle").count() == 1


def test_without_its_script_the_page_says_so(browser: Any, site: Path) -> None:
    """With scripts switched off, a sentence says what is missing, and the page of an encoder is whole."""
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((site / "index.html").as_uri())
    assert "needs its script" in page.locator("noscript").inner_text()
    page.goto(next((site / "encoder").glob("*deacl*")).as_uri())
    assert page.locator("section table").count() == 3
    context.close()
