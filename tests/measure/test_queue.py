"""Which part of a plan a worker takes: a free group, a cell of another's, chunks of a long one; audits when what they read is there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from hardsight.measure.plan import Plan, plan
from hardsight.measure.queue import Part, Queue, chunk_claim
from hardsight.store.cells import Store, chunk_name
from hardsight.store.claims import Claims
from tests.end.test_many import GRID


class Waits(Exception):
    """There is nothing to do but to wait."""


@pytest.fixture(scope="module")
def grid() -> Plan:
    return plan(GRID)


def parts(whole: Plan, store: Path, claims: Claims | None = None, audits: bool = False) -> Iterator[Part]:
    """What one worker takes; each has claims of its own."""

    def waiting() -> None:
        raise Waits

    missing = {one.cell.id for one in whole.resolved}
    unaudited = {one.cell.id for one in whole.audited()} if audits else set()
    return iter(Queue(whole, Store(store), claims or Claims(store), missing, unaudited, waiting=waiting))


def finish(store: Path, part: Part) -> None:
    place = store / "cells" / part.one.cell.id
    place.mkdir(parents=True, exist_ok=True)
    chunks = [chunk_name(number) for number in part.one.cell.places]
    for name in ("audit.npz", "audit.json") if part.audit else ("cell.json", *chunks, "done.json"):
        (place / name).write_text("{}")


def test_free_groups_first_then_cells_of_others(grid: Plan, tmp_path: Path) -> None:
    one, two, three = (parts(grid, tmp_path) for _ in range(3))
    first, second, third = next(one), next(two), next(three)
    assert first.group != second.group
    assert third.one.cell.id not in (first.one.cell.id, second.one.cell.id) and third.group in (first.group, second.group)
    finish(tmp_path, first)
    assert next(one).group == first.group, "its encoder, features and heads are loaded"


def test_each_cell_is_taken_once_and_in_the_order_of_the_plan(grid: Plan, tmp_path: Path) -> None:
    taken = []
    for part in parts(grid, tmp_path):
        finish(tmp_path, part)
        taken.append(part.one.cell.id)
    assert taken == [cell.id for cell in sorted(grid.cells, key=lambda cell: cell.encoder != grid.cells[0].encoder)]


def test_chunks_of_a_long_cell_when_nothing_else_is_left(grid: Plan, tmp_path: Path) -> None:
    whole = replace(grid, resolved=grid.resolved[:1])
    cell = whole.resolved[0].cell
    with Claims(tmp_path) as owner:
        own = parts(whole, tmp_path, owner)
        first = next(own)
        with pytest.raises(Waits):
            next(parts(whole, tmp_path))  # it has only begun
        (tmp_path / "cells" / cell.id).mkdir(parents=True)
        (tmp_path / "cells" / cell.id / "cell.json").write_text("{}")
        assert owner.take(chunk_claim(cell.id, 0))
        helper = next(parts(whole, tmp_path))
        assert helper.helping and helper.one is first.one
        assert owner.take(chunk_claim(cell.id, 1))
        with pytest.raises(Waits):
            next(parts(whole, tmp_path))  # one chunk is left: too short for one worker more


def test_an_audit_waits_for_those_of_the_encoders_before(grid: Plan, tmp_path: Path) -> None:
    for part in parts(grid, tmp_path):
        finish(tmp_path, part)
    workers = [parts(grid, tmp_path, audits=True) for _ in range(3)]
    first, second = next(workers[0]), next(workers[1])
    assert first.audit and second.audit
    assert {first.one.cell.encoder, second.one.cell.encoder} == {GRID.encoders[0]}, "both tasks of the first encoder"
    with pytest.raises(Waits):
        next(workers[2])
    finish(tmp_path, first)
    third = next(parts(grid, tmp_path, audits=True))
    assert third.audit and third.one.cell.encoder != GRID.encoders[0] and third.one.cell.task == first.one.cell.task
