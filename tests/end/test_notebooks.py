"""The notebooks run from beginning to end, and keep outputs that this very code made.

Skipped where nbclient or ipykernel is missing: uv sync --group docs.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))

SMALLER = {
    "--count 40": "--count 6 --set probe.images=48 --set probe.epochs=2",
    "audit=4": "audit=1",
    "count=64": "count=16",
}
"""What makes the same cells quicker."""


def printed(cell: dict) -> str:
    """The words that a cell printed, without figures."""
    text = "".join(one.get("text", "") for one in cell["outputs"])
    return " ".join(re.findall(r"[A-Za-z_]{3,}", text))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs_and_its_outputs_are_of_this_code(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed: uv sync --group docs")
    for name in ("nbclient", "ipykernel"):
        pytest.importorskip(name, reason=f"{name} is not installed: uv sync --group docs")
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks" / "site"))
    from notebooks import run  # type: ignore[import-not-found]

    kept, small = nbformat.read(path, as_version=4), nbformat.read(path, as_version=4)
    for cell in small.cells:
        for old, new in SMALLER.items():
            cell.source = cell.source.replace(old, new)
    now = run(small)
    nbformat.validate(kept)
    cells = [(old, new) for old, new in zip(kept.cells, now.cells, strict=True) if old.cell_type == "code"]
    assert [old.execution_count for old, _ in cells] == list(range(1, len(cells) + 1))
    assert sum(bool(old.outputs) for old, _ in cells) >= 5
    for old, new in cells:
        assert [(one.output_type, sorted(one.get("data", {}))) for one in old.outputs] == [
            (one.output_type, sorted(one.get("data", {}))) for one in new.outputs
        ], old.source
        assert printed(old).split()[:3] == printed(new).split()[:3], old.source
    assert any("image/png" in one.get("data", {}) for old, _ in cells for one in old.outputs)


def test_there_are_two_and_they_are_small() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["comparison", "one_attack"]
    assert all(path.stat().st_size < 300_000 for path in NOTEBOOKS)
