"""Builds the documentation site: pages, guides, notebooks, the reference from docstrings, and a gallery of what was measured.

    uv run --group docs python benchmarks/site/build.py [--runs runs] [--out site]

`site/index.html` opens from its folder, without a server; search works there too, and nothing is loaded from a network. RUNS is
a folder of stores (`hardsight bench`) and studies (`hardsight study`): the gallery has each one's page, and a board over all of
them. The build is strict: a page that is not in the navigation, a link that leads nowhere, a page that would load something from
a network, a public name without a docstring stop it.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import gallery
import reference
from nbconvert import MarkdownExporter

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/README.md")
"""Beside all of docs/: the pages keep their places, so that links between them hold on the site as in the repository."""
GROUPS = "    # and a page a group of parts\n"
"""The line of zensical.toml that the reference's entries replace."""
LOADED = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src"}
OWN = (*LOADED, "a")


def build(runs: Path | None, out: Path) -> None:
    """Writes the site into the folder `out`, which must be new, empty, or an earlier site; `SystemExit` says what is wrong."""
    if out.exists() and any(out.iterdir()) and not (out / "search.js").exists():
        raise SystemExit(f"{out} exists and is no earlier site; give another --out, or remove it")
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        lay_out(work / "pages")
        gallery.write(runs, work / "pages" / "gallery")
        configuration = (HERE / "zensical.toml").read_text(encoding="utf-8").replace(GROUPS, reference.entries())
        (work / "zensical.toml").write_text(configuration, encoding="utf-8")
        listed(work)
        command = [sys.executable, "-m", "zensical", "build", "--strict", "-f", "zensical.toml"]
        done = subprocess.run(
            command, cwd=work, env={**os.environ, "NO_COLOR": "1"}, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise SystemExit(f"{done.stdout}\n{done.stderr}".strip())
        wrong = broken(work / "built")
        if wrong:
            raise SystemExit("\n".join(wrong))
        if out.exists():
            shutil.rmtree(out)
        shutil.copytree(work / "built", out)


def lay_out(pages: Path) -> None:
    """Every page in the place that it has in the repository; notebooks as Markdown, with the outputs they were saved with."""
    for source in [*map(ROOT.joinpath, PAGES), *(ROOT / "docs").rglob("*.md")]:
        place = pages / source.relative_to(ROOT)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(source.read_text(encoding="utf-8").replace(".ipynb)", ".md)"), encoding="utf-8")
    for source in (HERE / "iframe-worker.js", HERE / "style.css"):
        shutil.copy(source, pages)
    for source in (ROOT / "docs" / "notebooks").glob("*.ipynb"):
        place = pages / "docs" / "notebooks"
        place.mkdir(exist_ok=True)
        text, made = MarkdownExporter().from_filename(str(source), {"output_files_dir": f"{source.stem}_files"})
        (place / f"{source.stem}.md").write_text(text, encoding="utf-8")
        for name, content in made["outputs"].items():
            (place / name).parent.mkdir(exist_ok=True)
            (place / name).write_bytes(content)
    reference.write(pages / "reference")


def listed(work: Path) -> None:
    """Raises `SystemExit` if a page is not in the navigation, or the navigation names one that does not exist."""

    def names(entries: list) -> set[str]:
        values = [value for entry in entries for value in entry.values()]
        return {one for value in values for one in ([value] if isinstance(value, str) else names(value))}

    known = names(tomllib.loads((work / "zensical.toml").read_text(encoding="utf-8"))["project"]["nav"])
    there = {path.relative_to(work / "pages").as_posix() for path in (work / "pages").rglob("*.md")}
    if known != there:
        missing, extra = sorted(known - there), sorted(there - known)
        raise SystemExit(
            f"benchmarks/site/zensical.toml: the navigation lacks {extra or 'nothing'}, and names {missing or 'none'} in vain"
        )


class Page(HTMLParser):
    """Of an HTML page: what it loads, where it links to, and the ids it has."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.ids |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if tag in LOADED and LOADED[tag] in given and given.get("rel") not in ("canonical", "prev", "next"):
            self.loads.append(given[LOADED[tag]])


def broken(site: Path) -> list[str]:
    """A line for each link to a file or a place in a page that does not exist, and for each thing loaded from a network."""
    pages = {path: Page(path) for path in site.rglob("*.html")}
    wrong = []
    for path, page in pages.items():
        where = path.relative_to(site).as_posix()
        if where == "404.html":
            continue
        for link in [*page.loads, *page.links]:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                if link in page.loads and parts.scheme != "data":
                    wrong.append(f"{where}: loads {link} from a network")
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path.resolve()
            target = target / "index.html" if target.is_dir() else target
            if not target.exists():
                wrong.append(f"{where}: {link} leads nowhere")
            elif (
                parts.fragment
                and target in pages
                and "board/" not in where
                and unquote(parts.fragment) not in pages[target].ids
            ):
                wrong.append(f"{where}: there is no #{parts.fragment} in {parts.path or where}")
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=Path, default=ROOT / "runs", help="a folder of stores and studies; default: runs")
    parser.add_argument("--out", type=Path, default=Path("site"), help="the folder of the site; default: site")
    given = parser.parse_args()
    build(given.runs if given.runs.is_dir() else None, given.out)
    print(f"site  {given.out / 'index.html'}")


if __name__ == "__main__":
    main()
