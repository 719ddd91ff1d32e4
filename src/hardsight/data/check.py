"""What is in a data set and what is wrong with it, told before a night's run rather than during it.

Every split is counted; of each, some images are read, the same that a benchmark of that count would see: what can't be read
is named, and what was read says which classes, ids, depths and boxes there are.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from hardsight.core.errors import DataError
from hardsight.data.base import IGNORE, Data, DataCard, Images, Sample
from hardsight.data.feed import choose
from hardsight.data.get import published
from hardsight.specs.syntax import Call

NAMED = 10
"""How many unreadable images are named; all are counted."""
Tick = Callable[[int, int], None]


@dataclass
class Tally:
    """What the images of a split were found to hold, sample by sample."""

    card: DataCard
    labels: dict[int, int] = field(default_factory=dict)
    pixels: np.ndarray = field(default_factory=lambda: np.zeros(256, dtype=np.int64))
    depths: list[tuple[float, float, float]] = field(default_factory=list)
    unmeasured: list[float] = field(default_factory=list)
    boxes: dict[int, int] = field(default_factory=dict)
    per_image: list[int] = field(default_factory=list)
    sizes: list[float] = field(default_factory=list)

    def add(self, sample: Sample) -> None:
        """Raises `DataError` for a sample that is not what its data set's card says."""
        if sample.image.shape[-2:] != self.card.size or sample.image.dtype != torch.uint8:
            told = f"{sample.image.dtype} {list(sample.image.shape)}"
            raise DataError(
                f"{sample.id} is {told}; the set's images are uint8 [3, {self.card.size[0]}, {self.card.size[1]}]"
            )
        target = sample.target
        if "label" in target:
            self.labels[int(target["label"])] = self.labels.get(int(target["label"]), 0) + 1
        if "mask" in target:
            self.pixels += np.bincount(target["mask"].numpy().ravel(), minlength=256)
        if "depth" in target:
            measured = target["depth"][target["depth"] > 0]
            self.unmeasured.append(1 - measured.numel() / target["depth"].numel())
            if measured.numel():
                self.depths.append((float(measured.min()), float(measured.median()), float(measured.max())))
        if "boxes" in target:
            self.per_image.append(len(target["boxes"]))
            self.sizes += (target["boxes"][:, 2:] - target["boxes"][:, :2]).prod(1).sqrt().tolist()
            for label in target["box_labels"].tolist():
                self.boxes[label] = self.boxes.get(label, 0) + 1

    def summary(self) -> dict[str, Any]:
        """By target: classes seen and missing, ranges in the target's own unit."""
        found: dict[str, Any] = {}
        if self.labels:
            found["label"] = self._classes(self.labels, self.card.classes)
        if (total := int(self.pixels.sum())) > 0:
            seen = {int(number): int(self.pixels[number]) for number in np.flatnonzero(self.pixels) if number != IGNORE}
            found["mask"] = self._classes(seen, self.card.mask_classes)
            found["mask"]["ignored"] = float(self.pixels[IGNORE] / total)
        if self.unmeasured:
            least, middle, most = zip(*self.depths, strict=True) if self.depths else ((0.0,),) * 3
            found["depth"] = {"least": min(least), "median": float(np.median(middle)), "most": max(most)}
            found["depth"]["unmeasured"] = float(np.mean(self.unmeasured))
        if self.per_image:
            found["boxes"] = self._classes(self.boxes, self.card.classes)
            found["boxes"] |= {"boxes": sum(self.per_image), "most": max(self.per_image)}
            found["boxes"] |= {"empty": self.per_image.count(0), "side": float(np.median(self.sizes)) if self.sizes else 0.0}
        return found

    @staticmethod
    def _classes(seen: dict[int, int], names: tuple[str, ...]) -> dict[str, Any]:
        """How many classes there are, which of them were not seen, and how often the rarest and the commonest was."""
        strange = sorted(number for number in seen if number >= len(names))
        missing = [name for number, name in enumerate(names) if number not in seen]
        counts = list(seen.values()) or [0]
        return {
            "classes": len(names),
            "missing": missing,
            "unknown": strange,
            "rarest": min(counts),
            "commonest": max(counts),
        }


def check(data: Data, count: int | None = 200, seed: int = 0, tick: Tick | None = None) -> dict[str, Any]:
    """What a data set holds, as plain data: its card, each split's images and targets, and `problems`, a sentence each.

    count: images read of each split, chosen by the seed; None reads all. Missing classes are a problem only where all were
    read.
    """
    spec, card = getattr(data, "spec", None), data.card
    found: dict[str, Any] = {
        "name": card.name,
        "spec": str(spec) if spec else "",
        "size": list(card.size),
        "targets": list(card.targets),
        "classes": len(card.classes) or len(card.mask_classes),
        "source": card.source,
        "licence": card.licence,
        "splits": {},
        "problems": _counted(data, spec),
    }
    for name, images in data.splits.items():
        found["splits"][name] = split = _read(images, card, count, seed, tick)
        found["problems"] += [f"{name}: {text}" for text in _problems(split)]
    return found


def lines(found: dict[str, Any]) -> list[str]:
    """The findings of `check` for a person to read, a line each."""
    high, wide = found["size"]
    told = [f"{found['name']}  {wide}x{high}  {', '.join(found['targets']) or 'no targets'}  {found['classes']} classes"]
    told += [f"source   {found['source'] or 'unknown'}; licence: {found['licence']}"]
    for name, split in found["splits"].items():
        told.append(f"{name:8} {split['images']:,} images, {split['read']:,} read")
        for target, what in split["targets"].items():
            told.append(f"         {target}: {_told(target, what)}")
    return told + [f"problem  {text}" for text in found["problems"]]


def _read(images: Images, card: DataCard, count: int | None, seed: int, tick: Tick | None) -> dict[str, Any]:
    tally, broken, noticed = Tally(card), [], []
    places = choose(images, count, seed)
    for done, place in enumerate(places, 1):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                tally.add(images.sample(place))
            except DataError as error:
                broken.append(str(error))
        noticed += [str(one.message) for one in caught]
        if tick:
            tick(done, len(places))
    return {
        "images": len(images),
        "read": len(places) - len(broken),
        "unreadable": len(broken),
        "first_unreadable": broken[:NAMED],
        "warnings": list(dict.fromkeys(noticed)),
        "targets": tally.summary(),
    }


def _problems(split: dict[str, Any]) -> list[str]:
    told = [*split["first_unreadable"], *split["warnings"]]
    if split["unreadable"] > NAMED:
        told.append(f"{split['unreadable'] - NAMED:,} more images can't be read")
    for target, what in split["targets"].items():
        if what.get("unknown"):
            told.append(f"{target} has the classes {what['unknown']}; there are 0 to {what['classes'] - 1}")
        if what.get("missing") and split["read"] == split["images"]:
            more = f" and {len(what['missing']) - 5} more" if len(what["missing"]) > 5 else ""
            told.append(f"no {target} of {', '.join(what['missing'][:5])}{more}")
        if target == "depth" and not what["most"]:
            told.append("no depth is measured anywhere")
    return told


def _counted(data: Data, spec: Call | None) -> list[str]:
    """Where the splits have other lengths than published."""
    offer = published(spec) if spec else None
    told = []
    for name, count in (offer.counts if offer else {}).items():
        here = len(data.splits[name]) if name in data.splits else 0
        if here != count:
            told.append(f"{name} has {here:,} images; published are {count:,}")
    return told


def _told(target: str, what: dict[str, Any]) -> str:
    if target == "depth":
        return f"{what['least']:.2f} to {what['most']:.2f} m, median {what['median']:.2f} m, {what['unmeasured']:.1%} not measured"
    seen = what["classes"] - len(what["missing"])
    told = f"{seen} of {what['classes']} classes seen, the rarest {what['rarest']:,} and the commonest {what['commonest']:,} times"
    if target == "mask":
        return f"{told} (pixels), {what['ignored']:.1%} ignored"
    if target == "boxes":
        return f"{what['boxes']:,} boxes, {what['empty']} images without, at most {what['most']}, side {what['side']:.0f}; {told}"
    return told
