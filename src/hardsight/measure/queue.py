"""What is left of a plan, and which part of it this process takes next, beside others that work on the same store.

A part is a cell or an audit. First comes a group (encoder, data), whose encoder, features and heads are loaded once; when all groups
are taken, single cells of others' groups; then chunks of a long cell that another process is working on. The store says what is
done, claims (`store/claims`) say what others do; nobody hands out the work.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

from hardsight.attacks.universal import learns
from hardsight.measure.cells import Resolved
from hardsight.measure.plan import Plan
from hardsight.store.cells import Store, chunk_name, measured
from hardsight.store.claims import Claims

POLL = 0.3
"""Seconds between two looks at what other processes have done, if there is nothing else to do."""
LONG = 2
"""A cell with so many chunks that nobody works on is long enough for one process more."""


@dataclass(frozen=True, eq=False)
class Part:
    """A cell to measure, or to audit. helping: another process works on the cell, from its first chunk on."""

    one: Resolved
    audit: bool = False
    helping: bool = False

    @property
    def key(self) -> tuple[str, bool, bool]:
        return self.one.cell.id, self.audit, self.helping

    @property
    def group(self) -> tuple[str, str]:
        return self.one.cell.encoder, self.one.cell.data

    @property
    def what(self) -> str:
        return "audit" if self.audit else f"{self.one.cell.column} {self.one.cell.eps_text}".rstrip()

    @property
    def said(self) -> str:
        return f"{self.one.cell.encoder} · {self.one.task.name} · {self.what}"


class Queue:
    """The parts of a plan that are not done: the cells in `missing` and the audits of the cells in `unaudited`, by id.

    over: called with each cell that is measured, here or by another process. waiting: called once, where there is nothing to do but to wait.
    """

    def __init__(
        self,
        plan: Plan,
        store: Store,
        claims: Claims,
        missing: Collection[str],
        unaudited: Collection[str],
        over: Callable[[Resolved], None] = lambda _: None,
        waiting: Callable[[], None] = lambda: None,
    ) -> None:
        self.plan, self.store, self.claims = plan, store, claims
        self.over, self.waiting = over, waiting
        self.left: dict[tuple[str, str], dict[tuple[str, bool, bool], Part]] = {}
        """By group, in the plan's order, its parts by their keys: each cell, and after it its audit."""
        for one in plan.resolved:
            for part, due in ((Part(one), missing), (Part(one, audit=True), unaudited)):
                if one.cell.id in due:
                    self.left.setdefault(part.group, {})[part.key] = part
        self.group: tuple[str, str] | None = None
        self.tried: set[str] = set()
        """Cells whose audit could not be made, as none of its images can be read."""
        self._later: set[tuple[str, bool, bool]] = set()
        """Parts that wait for other processes."""

    def __iter__(self) -> Iterator[Part]:
        """Every part that this process takes; it has the claim until the next one is asked for. Ends when all is done."""
        waited = False
        while self.left:
            part = self._next_in(self.group) or self._of_a_free_group() or self._of_any_group() or self._to_help()
            if part is None:
                if not self.left:
                    return
                if not waited:
                    self.waiting()
                waited = True
                self._later.clear()
                time.sleep(POLL)
                continue
            try:
                yield part
            finally:
                if not part.helping:
                    self.claims.release(_claim(part))
            if self._done(part):
                self._drop(part)
            else:
                self._later.add(part.key)  # what is left of it is with others

    def _next_in(self, group: tuple[str, str] | None) -> Part | None:
        """The first part of a group that nobody works on."""
        for part in list(self.left.get(group, {}).values()) if group else ():
            if self._done(part):
                self._drop(part)
            elif part.key not in self._later and self._ready(part) and self.claims.take(_claim(part), part.said):
                if not self._done(part):  # not in the moment before
                    return part
                self.claims.release(_claim(part))
        return None

    def _of_a_free_group(self) -> Part | None:
        if self.group is not None:
            self.claims.release(_group_claim(self.group))
            self.group = None
        for group in list(self.left):
            if self.claims.take(_group_claim(group), " · ".join(group)):
                if part := self._next_in(group):
                    self.group = group
                    return part
                self.claims.release(_group_claim(group))
        return None

    def _of_any_group(self) -> Part | None:
        return next((part for group in list(self.left) if (part := self._next_in(group))), None)

    def _to_help(self) -> Part | None:
        """The cell in work with the most chunks that nobody works on."""
        best, most = None, LONG - 1
        for part in (part for parts in self.left.values() for part in parts.values()):
            if part.audit or learns(part.one.attack):
                continue
            names, cell = self.store.names(part.one.cell.id), part.one.cell
            free = [
                place
                for place in cell.places
                if chunk_name(place) not in names and not self.claims.taken(chunk_claim(cell.id, place))
            ]
            helping = Part(part.one, helping=True)
            if "cell.json" in names and len(free) > most and helping.key not in self._later:
                best, most = helping, len(free)
        return best

    def _ready(self, part: Part) -> bool:
        """Whether all that an audit reads is there: its cell, and the adversarial examples of the encoders before."""
        if not part.audit:
            return True
        cell = part.one.cell
        if not measured(self.store.names(cell.id), cell.places):
            return False
        before = (other.id for other in self.plan.earlier.get(cell.id, ()))
        return all(one in self.tried or self.store.names(one) & {"audit.npz", "audit.json"} for one in before)

    def _done(self, part: Part) -> bool:
        names, cell = self.store.names(part.one.cell.id), part.one.cell
        if part.audit:
            return "audit.json" in names or cell.id in self.tried
        return measured(names, cell.places)

    def _drop(self, part: Part) -> None:
        parts = self.left.get(part.group, {})
        if parts.pop((part.one.cell.id, part.audit, False), None) and not part.audit:
            self.over(part.one)
        if not parts:
            self.left.pop(part.group, None)


def _claim(part: Part) -> str:
    return f"{'audit' if part.audit else 'cell'}-{part.one.cell.id}"


def _group_claim(group: tuple[str, str]) -> str:
    return f"group-{hashlib.sha256(repr(group).encode()).hexdigest()[:16]}"


def chunk_claim(cell: str, place: int) -> str:
    return f"chunk-{cell}-{place:05d}"


def head_claim(head: str) -> str:
    return f"head-{head}"
