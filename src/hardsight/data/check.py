"""Reports what a data set contains and what is wrong with it, before a long run rather than during it.

Every split is counted. From each split some images are read, the same ones that a benchmark with this count uses: unreadable
images are listed, and the readable ones are summarized by their classes, ids, depths and boxes. Files that the reader
passes over are counted and named.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from hardsight.core.errors import DataError, PassedOver
from hardsight.data import open_data
from hardsight.data.base import IGNORE, OWN, Data, DataCard, Images, Sample
from hardsight.data.feed import choose
from hardsight.data.get import published
from hardsight.metrics.detect import FOUND
from hardsight.specs.syntax import Call

NAMED = 10
"""How many unreadable images are listed by name; all are counted."""
Tick = Callable[[int, int], None]


@dataclass
class Tally:
    """Statistics of the images of a split, added sample by sample."""

    card: DataCard
    labels: dict[int, int] = field(default_factory=dict)
    pixels: np.ndarray = field(default_factory=lambda: np.zeros(256, dtype=np.int64))
    depths: list[tuple[float, float, float]] = field(default_factory=list)
    unmeasured: list[float] = field(default_factory=list)
    boxes: dict[int, int] = field(default_factory=dict)
    per_image: list[int] = field(default_factory=list)
    sizes: list[float] = field(default_factory=list)

    def add(self, sample: Sample) -> None:
        """Raises `DataError` for a sample that does not match the card of its data set."""
        if sample.image.shape[-2:] != self.card.size or sample.image.dtype != torch.uint8:
            found = f"{sample.image.dtype} {list(sample.image.shape)}"
            raise DataError(
                f"{sample.id} is {found}; images of this set must be uint8 [3, {self.card.size[0]}, {self.card.size[1]}]"
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
        """For each target: classes seen and missing, and value ranges in the unit of the target."""
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
        """The number of classes, those that were not seen, and how often the rarest and the most common class occur."""
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


def check(data: Data | str, count: int | None = 200, seed: int = 0, tick: Tick | None = None) -> dict[str, Any]:
    """A report on a data set as plain data: its card, the images and targets of each split, and `problems`, a list of texts.

    count: how many images of each split are read, chosen by the seed; None reads all. Missing classes are a problem only if
    all images were read. Of an opened data set, files that were passed over before are not in `passed_over`; give its spec.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        opened = open_data(data) if isinstance(data, str) else data
        for images in opened.splits.values():
            len(images)  # lists the files of a split that is lazy
    found = _report(opened, count, seed, tick)
    said = list(dict.fromkeys((str(one.message), issubclass(one.category, PassedOver)) for one in caught))
    found["passed_over"] = [text for text, passed in said if passed]
    found["problems"] = [text for text, passed in said if not passed] + found["problems"]
    return found


def _report(data: Data, count: int | None, seed: int, tick: Tick | None) -> dict[str, Any]:
    spec, card = getattr(data, "spec", None), data.card
    found: dict[str, Any] = {
        "name": card.name,
        "spec": str(spec) if spec else "",
        "size": list(card.size),
        "targets": list(card.targets),
        "classes": len(card.classes) or len(card.mask_classes),
        "unit": float(card.unit),
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
    """The findings of `check` as readable text, one line each."""
    high, wide = found["size"]
    report = [f"{found['name']}  {wide}x{high}  {', '.join(found['targets']) or 'no targets'}  {found['classes']} classes"]
    report += [f"unit     {found['unit']:g} m per stored depth value"] if found["unit"] else []
    report += [f"source   {found['source'] or 'unknown'}; licence: {found['licence']}"]
    for name, split in found["splits"].items():
        report.append(f"{name:8} {split['images']:,} images, {split['read']:,} read")
        for target, what in split["targets"].items():
            report.append(f"         {target}: {_described(target, what)}")
    report += [f"note     {text}" for text in found["passed_over"]]
    return report + [f"problem  {text}" for text in found["problems"]]


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
    problems = [*split["first_unreadable"], *split["warnings"]]
    if split["unreadable"] > NAMED:
        problems.append(f"{split['unreadable'] - NAMED:,} more images can't be read")
    for target, what in split["targets"].items():
        if what.get("unknown"):
            problems.append(f"{target} has the classes {what['unknown']}; valid classes are 0 to {what['classes'] - 1}")
        if what.get("missing") and split["read"] == split["images"]:
            more = f" and {len(what['missing']) - 5} more" if len(what["missing"]) > 5 else ""
            problems.append(f"no {target} with class {', '.join(what['missing'][:5])}{more}")
        if target == "depth" and not what["most"]:
            problems.append("no pixel has a measured depth")
    return problems


def _counted(data: Data, spec: Call | None) -> list[str]:
    """The splits whose length differs from the published one; none of a set of one's own in a published set's layout."""
    offer = published(spec) if spec and not data.card.source.startswith(OWN) else None
    problems = []
    for name, count in (offer.counts if offer else {}).items():
        here = len(data.splits[name]) if name in data.splits else 0
        if here != count:
            problems.append(f"{name} has {here:,} images; the published set has {count:,}")
    return problems


def _described(target: str, what: dict[str, Any]) -> str:
    if target == "depth":
        return f"{what['least']:.2f} to {what['most']:.2f} m, median {what['median']:.2f} m, {what['unmeasured']:.1%} not measured"
    seen = what["classes"] - len(what["missing"])
    counts = f"the rarest {what['rarest']:,} times, the most common {what['commonest']:,} times"
    classes = f"{seen} of {what['classes']} classes seen, {counts}"
    if target == "mask":
        return f"{classes} (pixels), {what['ignored']:.1%} ignored"
    if target == "boxes":
        boxes = f"{what['boxes']:,} boxes, {what['empty']} images without boxes, at most {what['most']} per image"
        if what["most"] > FOUND:
            boxes += (
                f" (mAP counts {FOUND} detections of an image; for more: --task 'detect(max_detections={what['most']})')"
            )
        return f"{boxes}, median side {what['side']:.0f} pixels; {classes}"
    return classes
