"""What tests of training share: a folder of small images, and a process that dies after so many batches."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from hardsight.watch import Bar, Watch
from tests.conftest import toy_images


def images_in(root: Path, count: int = 36, split: str = "train") -> str:
    """So many 16x16 images in three classes, each class with a tint of its own, as data's spec."""
    pictures = toy_images(count) * 0.5
    for place in range(count):
        pictures[place, place % 3] += 0.4
    for place, image in enumerate((pictures * 255).byte().permute(0, 2, 3, 1).numpy()):
        path = root / split / "abc"[place % 3] / f"{place:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return f"folder({str(root)!r})"


class Killed(Watch):
    """Ends the process's work, as a kill does, after so many batches; no handler runs, nothing is saved."""

    def __init__(self, batches: int) -> None:
        super().__init__(quiet=True)
        self.left = batches

    def bar(self, what: str, total: int) -> Bar:
        return Counting(self, what, total)

    def after(self) -> None:
        raise KeyboardInterrupt


class Counting(Bar):
    watch: Killed

    def advance(self, units: int, images: int = 0) -> None:
        self.watch.left -= bool(images)
        if self.watch.left < 0:
            self.watch.after()
        super().advance(units, images)


class Noted(Watch):
    """Keeps its lines."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)
