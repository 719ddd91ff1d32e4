"""Writes docs/papers.md: of each paper its studies' readings, its protocols and its reported numbers.

    python benchmarks/results/papers.py [FOLDER]

FOLDER (default: runs) has a folder with figures.json for each study that was run, as `hardsight study NAME` writes it; a study
that is not there keeps the section that the page has. The text around the tables is in papers.md and papers-quirks.md beside
this file.
"""

from __future__ import annotations

import json
import sys
from itertools import groupby
from pathlib import Path

from hardsight.measure import protocol as protocols
from hardsight.report.claims import shipped as claims
from hardsight.report.study_reading import Figures, compared, interval, readings, took
from hardsight.specs.study import Study
from hardsight.specs.study_file import load, shipped

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "papers.md"
UNITS = {"%": "points", "m": "m"}
PAPERS = ("paper 000", "paper 001", "paper 002", "paper 003")


def figures_of(folder: Path) -> tuple[Figures, float] | None:
    """(figures, seconds) of a study's folder; what is null there is NaN here."""
    path = folder / "figures.json"
    if not path.exists():
        return None
    content = json.loads(path.read_text(encoding="utf-8"))
    figures = content["figures"]
    for figure in figures.values():
        figure["arms"] = {
            arm: [float("nan") if one is None else one for one in values] for arm, values in figure["arms"].items()
        }
    return figures, content["seconds"] or 0.0


def row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def section(study: Study) -> list[str]:
    """What the page has of a study, if that was printed from figures."""
    lines = PAGE.read_text(encoding="utf-8").splitlines() if PAGE.exists() else []
    if f"### {study.what}" not in lines:
        return []
    start = lines.index(f"### {study.what}")
    end = next((place for place in range(start + 1, len(lines)) if lines[place].startswith("##")), len(lines))
    found = lines[start:end]
    while not found[-1]:
        found.pop()
    return (
        ["", *found] if any("seeds" in line for line in found) and not any("No run of the" in line for line in found) else []
    )


def of_study(study: Study, runs: Path) -> list[str]:
    """A study's command, what it took, and a line a finding."""
    lines = ["", f"### {study.what}", "", "```sh", study.command, "```", ""]
    if f"hardsight study {study.name}\n" in (PAGE.parent / "results.md").read_text(encoding="utf-8"):
        return [*lines, "Its tables and their discussion are in [results.md](results.md)."]
    discussion = shipped()[study.name].with_suffix(".md")
    text = ["", *discussion.read_text(encoding="utf-8").rstrip().splitlines()] if discussion.exists() else []
    found = figures_of(runs / study.name)
    if found is None:
        return section(study) or [*lines, "No run of the whole study was at hand for this page.", *text]
    figures, seconds = found
    done = max((len(values) for figure in figures.values() for values in figure["arms"].values()), default=0)
    one = "" if done > 1 else ": without an interval over seeds, nothing is settled"
    lines.append(f"{study.title}. {done} of {study.seeds} seeds{one}; {took(seconds)}.")
    read = readings(study, figures)
    if read:
        lines += ["", row("finding", "number", "verdict"), "|:--|:--|:--|"]
        lines += [row(f"{r.says} ({r.source})", f"{r.what}: {r.text}" if r.number else "–", r.verdict) for r in read]
    if not read and study.compare:
        lines += moved(study, figures)
    return lines + text


def moved(study: Study, figures: Figures) -> list[str]:
    """What each comparison moves, paired by seed: a line for each measure that has its arms, a column for clean and each attack."""
    lines = []
    for one in study.compare:
        for measure in (each.name for each in study.measures):
            here = [
                figure for name, figure in figures.items() if name.startswith(f"{measure}: ") and "worst case" not in name
            ]
            found = [(number, figure["unit"]) for figure in here if (number := compared(one, figure))]
            if found:
                cells = (f"{interval(number, unit, '+')} {UNITS[unit]}" for number, unit in found)
                lines.append(row(f"{one.of} − {one.to}", measure, *cells))
    heads = ("clean", "EmbedAttack", "the task's own attack")
    return ["", row("difference", "on", *heads), "|:--|:--|--:|--:|--:|", *lines] if lines else []


def of_paper(paper: str, runs: Path) -> list[str]:
    values, said = claims()
    values, said = [one for one in values if one.source == paper], [one for one in said if one.source == paper]
    first = (*values, *said)[0]
    lines = ["", f"## Paper {paper.split()[1]}: {first.title}", "", f"{first.reference}.", ""]
    lines += [f"- {one.says} ({one.place})" for one in said]
    studies = [study for study in map(load, shipped()) if study.paper == paper]
    for study in studies:
        lines += of_study(study, runs)
    own = [name for name in protocols.names() if name.startswith(paper.replace(" ", ""))]
    lines += ["", "### At full size", "", row("protocol", "measures"), "|:--|:--|"]
    lines += [row(f"`{name}`", protocols.load(name).measures) for name in own]
    if values:
        lines += ["", row("reported for", "in", "values", "protocol"), "|:--|:--|:--|:--|"]
    for _, group in groupby(values, key=lambda one: one.row):
        each = list(group)
        unit = {"%": " %", "m": " m"}.get(each[0].unit, "")
        numbers = ", ".join(f"{one.under}: {one.text}{unit}" for one in each)
        lines.append(row(each[0].encoder, each[0].place, numbers, each[0].protocol or "none of ours"))
    if not values:
        lines += ["", "No number of this paper is in the claims: only its statements are confirmed."]
    return lines


def main() -> None:
    runs = Path(sys.argv[1]) if len(sys.argv) > 1 else Path("runs")
    lines = (HERE / "papers.md").read_text(encoding="utf-8").rstrip().splitlines()
    for paper in PAPERS:
        lines += of_paper(paper, runs)
    lines += ["", *(HERE / "papers-quirks.md").read_text(encoding="utf-8").rstrip().splitlines()]
    PAGE.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
