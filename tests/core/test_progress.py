"""Progress where stderr is not a terminal: lines with the time left, none of them under `--quiet`, and notes in either case."""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Iterator

import pytest

from hardsight.core import progress
from hardsight.core.progress import Watch, duration


@contextlib.contextmanager
def watching(every: float) -> Iterator[tuple[Watch, io.StringIO]]:
    """A watch, and what it writes to stderr."""
    with contextlib.redirect_stderr(io.StringIO()) as err, Watch(every=every) as watch:
        yield watch, err


def until(condition, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


def test_a_line_says_how_far_it_is_also_before_the_first_unit_is_done() -> None:
    with watching(0.02) as (watch, err), watch.bar("attacking", 24) as bar:
        until(lambda: "attacking: 0 of 24 (0%), " in err.getvalue())
        bar(6, 24)
        until(lambda: "attacking: 6 of 24 (25%), " in err.getvalue() and "left" in err.getvalue())
    ended = err.getvalue()
    time.sleep(0.1)
    assert err.getvalue() == ended, "a line came after the end"
    assert all(line.startswith("attacking: ") for line in ended.splitlines())


def test_the_time_left_is_that_of_the_mean_speed_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    watch = Watch(every=60)
    with watch.bar("measuring", 400, done=100) as bar:
        now += 120
        bar.advance(200, images=60)
        assert watch.line() == "measuring: 300 of 400 (75%), 0.5 images/s, about 60 s left"
        with watch.bar("training the head", 10) as inner:
            inner(3, 10)
            assert watch.line().endswith("about 60 s left; training the head: 3 of 10 (30%)")
    with watch.bar("geometry", 8) as bar:  # counts from 0 again for each of several encoders
        bar(8, 8)
        now += 1000
        bar(0, 8)
        now += 10
        bar(2, 8)
        assert watch.line() == "geometry: 2 of 8 (25%), 0.2 images/s, about 30 s left"
    with watch.bar("fetching, MiB", 1) as bar:
        now += 5
        bar.reach(3, 0)
        assert watch.line() == "fetching, MiB: 3, 5 s so far"
    assert watch.line() == ""


def test_quiet_leaves_notes_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Watch, "silent", True)
    with watching(0.01) as (watch, err), watch.bar("attacking", 24):
        watch.note("left out: one.png")
        time.sleep(0.1)
    assert err.getvalue() == "left out: one.png\n"


def test_durations() -> None:
    assert [duration(one) for one in (0.4, 89, 91, 3600, 5400, 7500)] == [
        "0 s",
        "89 s",
        "2 min",
        "60 min",
        "1 h 30 min",
        "2 h 05 min",
    ]
