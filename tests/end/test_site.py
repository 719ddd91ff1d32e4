"""The documentation site: its strict build, that it has every public part, asks for nothing, and what a reader does with it.

Skipped where the generator is missing (uv sync --group docs); the tests in chromium also where playwright or chromium is.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from hardsight.cli.listing import GROUPS
from hardsight.specs import catalog
from tests.fixtures.boards import fabricated

pytestmark = pytest.mark.slow
HERE = Path(__file__).parents[2] / "benchmarks" / "site"
CHROMIUM = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)
HOSTILE = "a<script>alert(1)</script><img src=x onerror=alert(2)>\"'&|"


@pytest.fixture(scope="module", autouse=True)
def generator() -> None:
    for name in ("zensical", "griffe", "nbconvert"):
        pytest.importorskip(name, reason=f"{name} is not installed: uv sync --group docs")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from this repository and two stores, one of an encoder with markup in its name."""
    root = tmp_path_factory.mktemp("docs")
    fabricated(root / "runs" / "one", ["dino", "simclr"], ("classify",), (4,), 20)
    fabricated(root / "runs" / "study" / "store", [HOSTILE, "simclr"], ("classify",), (4,), 20)
    (root / "runs" / "empty").mkdir()
    (root / "runs" / "empty" / "store.json").write_text((root / "runs" / "one" / "store.json").read_text())
    command = [sys.executable, str(HERE / "build.py"), "--runs", str(root / "runs"), "--out", str(root / "site")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=root)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return root / "site"


def text_of(page: Path) -> str:
    return unescape(re.sub(r"<[^>]*>", "", page.read_text(encoding="utf-8")))


def test_every_public_part_is_in_the_reference_with_its_arguments(site: Path) -> None:
    pages = {group: (site / "reference" / f"{group}.html") for group in GROUPS}
    for group, kinds in GROUPS.items():
        html, text = pages[group].read_text(encoding="utf-8"), " ".join(text_of(pages[group]).split())
        for one in (one for one in catalog.entries().values() if one.kind in kinds):
            assert f'<h2 id="{one.name}">' in html, f"{group}: {one.name}"
            assert all(parameter.name in text for parameter in one.parameters)
            assert " ".join(one.summary.replace("`", "").split()) in text, f"{group}: {one.name}"


def test_every_command_is_in_the_reference_with_its_options(site: Path) -> None:
    import typer

    from hardsight.cli import app

    html, text = (
        (site / "reference" / "commands.html").read_text(encoding="utf-8"),
        text_of(site / "reference" / "commands.html"),
    )
    command = typer.main.get_command(app)
    assert len(command.commands) > 10  # type: ignore[attr-defined]
    for name, one in command.commands.items():  # type: ignore[attr-defined]
        assert f">hardsight {name}<" in html or f"hardsight {name}" in text
        for option in (option for parameter in one.params for option in parameter.opts if option.startswith("--")):
            assert option in text, f"{name} {option}"


def test_no_page_names_anything_to_load_from_a_network(site: Path) -> None:
    tag = r"(?:<(?:script|img|iframe|source|video|audio)\b[^>]*\bsrc|<link\b(?![^>]*canonical)[^>]*\bhref)"
    loads = re.compile(tag + r"""\s*=\s*["']?([^"'\s>]+)""")
    pages = list(site.rglob("*.html"))
    assert len(pages) >= 40
    for page in pages:
        if page.name != "404.html":
            assert [url for url in loads.findall(page.read_text(encoding="utf-8")) if re.match(r"(https?:)?//", url)] == []
    for style in site.rglob("*.css"):
        assert re.findall(r"(?:@import|url\()\s*[\"']?(?:https?:)?//", style.read_text(encoding="utf-8")) == []


def test_the_gallery_has_each_store_and_says_what_it_left_out(site: Path) -> None:
    text = text_of(site / "gallery" / "index.html")
    assert "Without a finished cell, and left out: empty." in text
    assert (site / "gallery" / "one" / "report.html").exists() and (site / "gallery" / "study" / "report.html").exists()
    assert "3 encoders in" in text and (site / "gallery" / "board" / "index.html").exists()


def test_notebooks_are_pages_with_their_outputs(site: Path) -> None:
    for name in ("one_attack", "comparison"):
        page = site / "docs" / "notebooks" / f"{name}.html"
        pictures = re.findall(r'<img[^>]*src="([^"]+)"', page.read_text(encoding="utf-8"))
        assert pictures and all((page.parent / picture).stat().st_size > 10_000 for picture in pictures)
    assert "equal to hs.pgd: True" in text_of(site / "docs" / "notebooks" / "one_attack.html")


def test_a_wrong_link_a_wrong_place_and_a_script_from_a_network_stop_the_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(HERE))
    from build import broken  # type: ignore[import-not-found]

    (tmp_path / "a.html").write_text(
        '<h2 id="here">x</h2><a href="b.html#here">b</a><a href="#here">a</a><img src="a.html">'
    )
    (tmp_path / "b.html").write_text('<a href="a.html#here">a</a><a href="https://example.org">out</a>')
    assert broken(tmp_path) == ["a.html: there is no #here in b.html"]
    (tmp_path / "b.html").write_text('<h2 id="here"></h2><a href="c.html">c</a><script src="//example.org/x.js"></script>')
    assert broken(tmp_path) == ["b.html: loads //example.org/x.js from a network", "b.html: c.html leads nowhere"]


def test_a_page_outside_the_navigation_stops_the_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(HERE))
    from build import listed  # type: ignore[import-not-found]

    (tmp_path / "pages").mkdir()
    (tmp_path / "pages" / "a.md").write_text("a")
    (tmp_path / "zensical.toml").write_text('[project]\nnav = [{ "A" = "a.md" }]')
    listed(tmp_path)
    (tmp_path / "pages" / "b.md").write_text("b")
    with pytest.raises(SystemExit, match=r"b\.md"):
        listed(tmp_path)


def test_a_folder_that_is_no_site_is_not_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(HERE))
    from build import build  # type: ignore[import-not-found]

    (tmp_path / "thesis.tex").write_text("ten years")
    with pytest.raises(SystemExit, match="is no earlier site"):
        build(None, tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "ten years"


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
    """Opens a page from its folder; at the end, no error and no request beyond the folder may have happened."""
    said, asked, contexts = [], [], []

    def start(name: str = "index.html", width: int = 1300, scheme: str = "light") -> Any:
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("console", lambda message: said.append(message.text) if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda request: asked.append(request.url))
        page.goto((site / name).as_uri())
        return page

    yield start
    for context in contexts:
        context.close()
    assert said == []
    assert asked and all(url.startswith((site.as_uri(), "data:", "blob:")) for url in asked), asked


def test_search_works_from_a_folder(opened: Any) -> None:
    page = opened("docs/start.html")
    page.keyboard.press("Control+k")
    page.locator("input:visible").first.fill("early_exit")
    page.locator("a[href*='reference/attacks.html'][href$='#pgd']").click()
    page.wait_for_url(re.compile(r"reference/attacks\.html"))
    assert page.locator("#pgd").count() == 1


NARROW = (
    *("index", "docs/start", "docs/guides/audit", "docs/papers", "docs/results", "docs/notebooks/one_attack"),
    *("reference/attacks", "reference/commands", "gallery/index"),
)


@pytest.mark.parametrize("name", [f"{name}.html" for name in NARROW])
def test_a_phone_scrolls_down_only(opened: Any, name: str) -> None:
    page = opened(name, width=400)
    assert page.evaluate("document.documentElement.scrollWidth") <= 400


def test_dark_where_the_system_is_dark(opened: Any) -> None:
    light, dark = (
        opened("docs/start.html", scheme=scheme).evaluate(
            "getComputedStyle(document.body).backgroundColor.match(/[\\d.]+/g).slice(0, 3).reduce((a, b) => a + Number(b), 0)"
        )
        for scheme in ("light", "dark")
    )
    assert light > 3 * 200 and dark < 3 * 60
