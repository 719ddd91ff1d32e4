"""Progress on stderr: bars with images/s and remaining time on a terminal, elsewhere one line every 30 s with the same facts."""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType
from typing import ClassVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from hardsight.core.start import at_work

EVERY = 30.0
"""Seconds between two lines where stderr is not a terminal."""


class Rate(ProgressColumn):
    """Images per second of the running task."""

    def render(self, task: Task) -> Text:
        speed = task.fields.get("images", 0) / task.elapsed if task.elapsed else 0
        return Text(f"{speed:,.1f} images/s" if speed else "", style="progress.data.speed")


class Watch:
    """Bars or lines on stderr; use as a context manager. Notes are permanent lines, printed in either case.

    quiet: nothing is printed, notes neither. every: seconds between two lines.
    """

    silent: ClassVar[bool] = False
    """Set by `--quiet`: no bars and no lines; notes are printed."""

    def __init__(self, quiet: bool = False, every: float = EVERY) -> None:
        self.console = Console(file=sys.stderr, quiet=quiet)
        shown = not (quiet or Watch.silent)
        self.every = every if shown and not self.console.is_terminal else 0.0
        self.open: list[Bar] = []
        self._ended: threading.Event | None = None
        self.bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            Rate(),
            TextColumn("left"),
            TimeRemainingColumn(compact=True, elapsed_when_finished=True),
            console=self.console,
            transient=True,
            disable=not (shown and self.console.is_terminal),
        )

    def __enter__(self) -> Watch:
        at_work()
        self.bars.start()
        if self.every and self._ended is None:
            self._ended = threading.Event()
            threading.Thread(target=self._lines, args=(self._ended,), daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.bars.stop()
        if self._ended is not None:
            self._ended.set()
            self._ended = None

    def note(self, text: str) -> None:
        """Prints a permanent line."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def bar(self, what: str, total: int, done: int = 0) -> Bar:
        """done: what was done before, which took no time now."""
        return Bar(self, what, total, done)

    def line(self) -> str:
        """What runs, as one line: of the outermost bar the time left, and of the innermost how far it is."""
        bars = list(self.open)
        return "; ".join([*(bar.text(left=True) for bar in bars[:1]), *(bar.text() for bar in bars[1:][-1:])])

    def _lines(self, ended: threading.Event) -> None:
        while not ended.wait(self.every):
            if line := self.line():
                self.note(line)


class Bar:
    """One bar over a total of any unit; `images` counts the images, for the rate. Use as a context manager."""

    def __init__(self, watch: Watch, what: str, total: int, done: int = 0) -> None:
        self.watch, self.what = watch, what
        self.key = watch.bars.add_task(what, total=max(total, 1), completed=done, images=0)
        self.images, self.done, self.total = 0, done, max(total, 1)
        self.first, self.began = done, time.monotonic()

    def __enter__(self) -> Bar:
        self.watch.open.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        self.watch.open.remove(self)
        self.watch.bars.remove_task(self.key)

    def __call__(self, done: int, total: int) -> None:
        """The bar as a progress callback: (done, total) images; a count that falls begins another one."""
        self.images = done
        self.reach(done, total)

    def reach(self, done: int, total: int) -> None:
        """The same in another unit than images; total: 0 if it is not known."""
        if done < self.done:
            self.first, self.began = done, time.monotonic()
        self.done, self.total = done, total
        self.watch.bars.update(self.key, completed=done, total=total or None, images=self.images)

    def advance(self, units: int, images: int = 0) -> None:
        self.images += images
        self.done += units
        self.watch.bars.update(self.key, advance=units, images=self.images)

    def say(self, what: str) -> None:
        self.what = what
        self.watch.bars.update(self.key, description=what)

    def text(self, left: bool = False) -> str:
        """The bar in words. left: with the time that remains, if it goes on at its mean speed so far."""
        gone = time.monotonic() - self.began
        share = f" of {self.total:,} ({self.done / self.total:.0%})" if self.total else ""
        parts = [f"{self.what}: {self.done:,}{share}"]
        if left and self.images:
            parts.append(f"{self.images / gone:.1f} images/s")
        if left and self.first < self.done <= self.total:
            parts.append(f"about {duration(gone * (self.total - self.done) / (self.done - self.first))} left")
        elif left:
            parts.append(f"{duration(gone)} so far")
        return ", ".join(parts)


def duration(seconds: float) -> str:
    """40 s, 12 min, 3 h 05 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
