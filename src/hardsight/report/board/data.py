"""The board's content as plain data: what the script of each page reads.

Numbers are rounded to six digits. Per-image outcomes are packed: a bit an image for accuracy, a byte an image for a task
error in [0, 1], and for figures that are no share of images the standard error of the difference to every other encoder.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from hardsight.report.board.rankings import Ranking, rankings
from hardsight.report.measured import Entry, Settings, differing, names_of
from hardsight.report.results import TASKS, WORST, natural, plain

Key = tuple[str, str, str]


@dataclass(frozen=True)
class Board:
    """names, keys, files, entries: by encoder. setups: (settings, name). rankings: in the order of columns."""

    names: list[str]
    keys: list[Key]
    files: list[str]
    entries: list[list[Entry]]
    setups: list[tuple[Settings, str]]
    rankings: list[Ranking]
    left_out: list[str]


def gathered(entries: list[Entry], left_out: list[str]) -> Board:
    """Reads the rows of all cells and ranks them; encoders in the order of their names."""
    left_out = list(left_out)
    found = list(rankings(entries, left_out))
    names = names_of(entries)
    kept = {entry.encoder for one in found for entry in one.entries}
    keys = sorted(kept, key=lambda one: natural(names[one]))
    setups = list(dict.fromkeys(one.setup for one in found))
    setups.sort(key=lambda one: (_task_place(dict(one)["task"]), natural(dict(one)["data"]), -_size(one, found), one))
    order = {"clean": 0, "natural": 1, "attack": 2, WORST: 3}
    found.sort(key=lambda one: (setups.index(one.setup), one.kind != "clean", one.norm, one.eps, order[one.kind], one.title,
                                -len(one.entries)))  # fmt: skip
    return Board(
        [names[key] for key in keys],
        keys,
        [f"{number}-{_file(names[key])}.html" for number, key in enumerate(keys)],
        [[entry for entry in entries if entry.encoder == key] for key in keys],
        [(setup, _setup_name(setup, setups, found)) for setup in setups],
        found,
        left_out,
    )


def _task_place(task: str) -> tuple:
    base = task.partition("(")[0]
    return (TASKS.index(base) if base in TASKS else len(TASKS), task)


def _size(setup: Settings, found: list[Ranking]) -> int:
    return len({entry.encoder for one in found if one.setup == setup for entry in one.entries})


def _file(name: str) -> str:
    return "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in name).strip("-")[:60] or "encoder"


def _setup_name(setup: Settings, setups: list[Settings], found: list[Ranking]) -> str:
    """Task and data set, and in what it differs from others of the same task and data set."""
    short = {one.setup: _short(one.entries[0]) for one in found}
    others = [other for other in setups if short[other] == short[setup] and other != setup]
    parts = [" on ".join(short[setup])]
    parts += [f"{key} {value or 'none'}" for key, value in setup if any(dict(other)[key] != value for other in others)]
    return ", ".join(parts)


def _short(entry: Entry) -> tuple[str, str]:
    return plain(entry.what["task_name"]), plain(entry.what.get("data_name") or entry.what["data"])


def index(board: Board) -> dict[str, Any]:
    """Everything that the first page shows."""
    at = {key: number for number, key in enumerate(board.keys)}
    setups = [setup for setup, _ in board.setups]
    listed = []
    for one in board.rankings:
        task, data = _short(one.entries[0])
        under = dict(one.under)
        listed.append(
            {
                "setup": setups.index(one.setup),
                "task": task,
                "data": data,
                "kind": one.kind,
                "title": one.title,
                "threat": one.title.rpartition(" · ")[2] if one.kind in ("attack", WORST) else one.kind,
                "protocol": under.get("protocol", ""),
                "departures": under.get("departures from the protocol", ""),
                "under": under.get("attack", ""),
                "eps": one.eps,
                "norm": one.norm,
                "n": len(one.ids),
                "encoders": [at[entry.encoder] for entry in one.entries],
                "value": numbers(one.values),
                "low": numbers(one.low),
                "high": numbers(one.high),
                "tail": numbers(one.tail),
                "best": one.standing.low.tolist(),
                "worst": one.standing.high.tolist(),
                "group": one.standing.group.tolist(),
            }
        )
    return {
        "encoders": [_encoder(board, number) for number in range(len(board.names))],
        "setups": [_described(board, place) for place in range(len(setups))],
        "rankings": listed,
        "lead": lead(board),
    }


def _encoder(board: Board, number: int) -> dict[str, str]:
    entry = board.entries[number][0]
    card = entry.what.get("encoder_card") or {}
    return {
        "name": board.names[number],
        "spec": plain(board.keys[number][0]),
        "file": board.files[number],
        "architecture": plain(card.get("arch") or "unknown"),
        "method": method_of(entry),
        "parameters": f"{card['parameters'] / 1e6:.1f} M" if card.get("parameters") else "",
    }


def method_of(entry: Entry) -> str:
    """How it was trained: of a run of this package its method, else what its card says, if it does."""
    card = entry.what.get("encoder_card") or {}
    if str(card.get("source", "")).startswith("run:"):
        return plain(str(card.get("note", "")).partition(" on ")[0].partition("(")[0])
    return plain(card.get("method") or "not stated")


def _described(board: Board, place: int) -> dict[str, Any]:
    """A setup, and in what it differs from the largest of the same task and data set."""
    setup, name = board.setups[place]
    mine = [one for one in board.rankings if one.setup == setup]
    short = _short(mine[0].entries[0])
    first = next(other for other, _ in board.setups if any(one.setup == other and _short(one.entries[0]) == short
                                                            for one in board.rankings))  # fmt: skip
    metric = mine[0].metric
    return {
        "name": name,
        "label": metric.label,
        "unit": metric.unit,
        "better": metric.better,
        "settings": [[key, value] for key, value in setup if value],
        "unlike": differing(setup, first),
        "skipped": _skipped(mine),
    }


def _skipped(mine: list[Ranking]) -> int:
    asked = max((int(entry.what.get("count", 0) or 0) for one in mine for entry in one.entries), default=0)
    return max(0, asked - min(len(one.ids) for one in mine))


def lead(board: Board) -> int:
    """The ranking that the page opens with: of the first setup with most encoders, the worst case where most are apart.

    At a large eps every encoder is at zero and none differs; the ranking with most groups, then with most differing pairs, says
    most. Without an attack: the clean images.
    """
    most = max(len(one.entries) for one in board.rankings)
    wanted = [n for n, one in enumerate(board.rankings) if len(one.entries) == most]
    first = board.rankings[wanted[0]].setup
    inside = [n for n in wanted if board.rankings[n].setup == first]
    for kind in (WORST, "attack", "natural", "clean"):
        if found := [n for n in inside if board.rankings[n].kind == kind]:
            return max(
                found, key=lambda n: (int(board.rankings[n].standing.group.max()), int(board.rankings[n].differ.sum()))
            )
    return inside[0]


def image_names(board: Board) -> dict[str, list[Any]]:
    """The ids of each ranking's images, each list once."""
    lists: dict[tuple[str, ...], int] = {}
    places = [lists.setdefault(tuple(plain(one) for one in ranking.ids), len(lists)) for ranking in board.rankings]
    return {"lists": [list(one) for one in lists], "of": places}


def outcomes(board: Board, number: int) -> dict[str, dict[str, str]]:
    """Of one encoder, by ranking: its outcome on each image, and from which encoders of the ranking it differs."""
    found = {}
    for place, one in enumerate(board.rankings):
        at = next((k for k, entry in enumerate(one.entries) if entry.encoder == board.keys[number]), None)
        if at is None:
            continue
        packed = {"cell": one.entries[at].cell.id, "differ": _packed(np.packbits(one.differ[at]))}
        if one.right is not None:
            packed["right"] = _packed(np.packbits(one.right[at]))
        else:
            error = np.nan_to_num(one.error[at], nan=1.0, posinf=1.0)
            packed["error"] = _packed(np.rint(255 * np.clip(error, 0, 1)).astype(np.uint8))
        if one.errors is not None:
            packed["errors"] = _packed(one.errors[at].astype("<f4"))
        found[str(place)] = packed
    return found


def _packed(values: np.ndarray) -> str:
    return base64.b64encode(values.tobytes()).decode("ascii")


def numbers(values: Iterable[float]) -> list[float | None]:
    return [float(f"{value:.6g}") if np.isfinite(value) else None for value in values]
