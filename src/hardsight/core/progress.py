"""Progress bars on stderr with images/s and remaining time; nothing is drawn if stderr is not a terminal."""

from __future__ import annotations

import sys
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text


class Rate(ProgressColumn):
    """Images per second of the running task."""

    def render(self, task: Task) -> Text:
        speed = task.fields.get("images", 0) / task.elapsed if task.elapsed else 0
        return Text(f"{speed:,.1f} images/s" if speed else "", style="progress.data.speed")


class Watch:
    """Bars on stderr; use as a context manager. Notes are permanent lines, also printed without a terminal."""

    def __init__(self, quiet: bool = False) -> None:
        self.console = Console(file=sys.stderr, quiet=quiet)
        self.bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            Rate(),
            TextColumn("left"),
            TimeRemainingColumn(compact=True, elapsed_when_finished=True),
            console=self.console,
            transient=True,
            disable=quiet or not self.console.is_terminal,
        )

    def __enter__(self) -> Watch:
        self.bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.bars.stop()

    def note(self, text: str) -> None:
        """Prints a permanent line."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def bar(self, what: str, total: int) -> Bar:
        return Bar(self, what, total)


class Bar:
    """One bar over a total of any unit; `images` counts the images, for the rate. Use as a context manager."""

    def __init__(self, watch: Watch, what: str, total: int) -> None:
        self.watch = watch
        self.key = watch.bars.add_task(what, total=max(total, 1), images=0)
        self.images = 0

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        self.watch.bars.remove_task(self.key)

    def __call__(self, done: int, total: int) -> None:
        """The bar as a progress callback: (done, total) images."""
        self.images = done
        self.watch.bars.update(self.key, completed=done, total=total, images=done)

    def advance(self, units: int, images: int = 0) -> None:
        self.images += images
        self.watch.bars.update(self.key, advance=units, images=self.images)

    def say(self, what: str) -> None:
        self.watch.bars.update(self.key, description=what)
