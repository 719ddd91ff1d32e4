"""Object detection: FCOS on a pyramid made of the dense features.

FCOS and not Faster R-CNN, because it is told place by place: its losses are sums over the places of one image, where those
of Faster R-CNN depend on proposals drawn at random with the truth in hand; its scores come of one pass, so that a gradient
reaches the pixels from everything that is judged; and an attack can be made of what it tells without any truth.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from hardsight.core.errors import DataError, SpecError
from hardsight.data.base import DataCard
from hardsight.encoders.base import Encoder
from hardsight.losses.boxes import fcos
from hardsight.losses.places import Places, Truth, overlap
from hardsight.metrics.detect import FOUND, evaluator, image_precision, row
from hardsight.specs.catalog import register
from hardsight.tasks.base import Task, Training, dense_dim, needs
from hardsight.tasks.pyramid import GROUP, FcosHead

FLOOR = 0.05
"""A detection has at least this score."""
SHOWN = 0.3
"""A detection that is shown to a person, or attacked as if it were true, has at least this score."""
CANDIDATES = 1000
"""The most certain detections of each level, before those that overlap are thinned out."""
SAME = 0.6
"""Of two detections of one class that overlap by more than this, the less certain one goes."""


@dataclass(frozen=True)
class Detect:
    width: int
    depth: int
    levels: int
    finest: int
    name: ClassVar[str] = "detect"
    target: ClassVar[str] = "boxes"
    reads: ClassVar[Literal["pooled", "dense"]] = "dense"
    attack: ClassVar[str] = "detpgd"
    scale_free: ClassVar[str] = "dag"
    training: ClassVar[Training] = Training(epochs=4, steps=600, lr=1e-3, weight_decay=1e-4, batch=8)

    def head(self, encoder: Encoder, data: DataCard) -> nn.Module:
        needs(data, "detect", "boxes")
        if not data.classes:
            raise DataError(f"detect needs the names of the classes of boxes, and {data.name} has none")
        evaluator()
        doublings = max(0, math.ceil(math.log2(encoder.card.stride / self.finest)))
        return FcosHead(dense_dim(encoder.card, "detect"), len(data.classes), self.width, self.depth, doublings, self.levels)

    def loss(self, output: Places, target: Truth) -> Tensor:
        return fcos(output, _checked(output, target))

    def error(self, output: Places, target: Truth) -> Tensor:
        """1 - the image's average precision at IoU 0.5, all its classes in one ranking, and 1 where the output is not finite.

        An image without true boxes has no precision: there it is the score of the most certain detection, 0 without any, so
        that what is fabricated counts. It rises as detections are lost, misnamed or misplaced, and as false ones outrank them.
        """
        errors = []
        for found, true in zip(decode(output), target, strict=True):
            if len(true["labels"]):
                labels, boxes = true["labels"].to(found["labels"]), true["boxes"].to(found["boxes"])
                alike = found["labels"][:, None] == labels
                errors.append(1 - image_precision(_numpy(overlap(found["boxes"], boxes)), _numpy(alike)))
            else:
                errors.append(float(found["scores"].max()) if len(found["scores"]) else 0.0)
        error = torch.tensor(errors, dtype=torch.float32, device=output.classes.device)
        return torch.where(output.finite, error, 1.0)

    def counts(self, output: Places, target: Truth) -> dict[str, Tensor]:
        """Each image's lists, of what was found and what is there, at one length: `metrics.detect.row`."""
        rows = []
        for found, true in zip(decode(output), _checked(output, target), strict=True):
            lists = (found["boxes"], found["scores"], found["labels"], true["boxes"], true["labels"])
            rows.append(row(*(_numpy(one) for one in lists)))
        return {name: torch.from_numpy(np.stack([one[name] for one in rows])) for name in rows[0]}

    def answer(self, output: Places) -> Truth:
        """The detections that a person would look at: boxes [N, 4], labels [N] and scores [N] of each image."""
        return [{key: value[one["scores"] >= SHOWN] for key, value in one.items()} for one in decode(output)]


def decode(places: Places) -> Truth:
    """What is found in each image, the most certain first: boxes [N, 4] clipped to it, labels [N], scores [N]; N <= 100.

    Nothing where the output is not finite. As torchvision's FCOS does it: by level the best of those with a score above
    `FLOOR`, then non-maximum suppression class by class.
    """
    from torchvision.ops import batched_nms  # here, as importing it takes seconds

    with torch.no_grad():
        scores, boxes, finite = places.scores, places.boxes, places.finite.tolist()
        high, wide = places.size
        limit = torch.tensor([wide, high, wide, high], dtype=boxes.dtype, device=boxes.device)
        boxes = torch.minimum(boxes.clamp_min(0), limit)
        found = []
        for image in range(len(places)):
            chosen = _candidates(scores[image], places.levels) if finite[image] else scores.new_zeros(0, dtype=torch.int64)
            score, label = scores[image].flatten()[chosen], chosen % scores.shape[-1]
            box = boxes[image][chosen // scores.shape[-1]]
            kept = batched_nms(box, score, label, SAME)[:FOUND]
            found.append({"boxes": box[kept], "labels": label[kept], "scores": score[kept]})
        return found


def _candidates(scores: Tensor, levels: tuple[int, ...]) -> Tensor:
    """Where in scores [P, K], flattened, the detections of an image are."""
    chosen, start = [], 0
    for count in levels:
        part = scores[start : start + count].flatten()
        above = (part > FLOOR).nonzero().flatten()
        best = part[above].topk(min(CANDIDATES, len(above))).indices
        chosen.append(above[best] + start * scores.shape[-1])
        start += count
    return torch.cat(chosen)


def _checked(output: Places, target: Truth) -> Truth:
    """The truth; `DataError` where a box has a class that the output doesn't know."""
    classes = output.classes.shape[-1]
    labels = torch.cat([one["labels"] for one in target])
    if len(wrong := labels[(labels < 0) | (labels >= classes)]):
        raise DataError(f"a box has the class {int(wrong[0])}, but the ids of {classes} classes are 0 to {classes - 1}")
    return target


def _numpy(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy()


@register
def detect(width: int = 64, depth: int = 1, levels: int = 3, finest: int = 8) -> Task:
    """Object detection with an FCOS head on a pyramid of the dense features; the encoder stays as it is.

    width: channels of the head. depth: 3x3 convolutions in each of its two towers. levels: of the pyramid, each of twice the
    cells of the one before. finest: the first one's cells are at most so many pixels wide; finer dense features stay as they
    are. Needs faster-coco-eval: pip install hardsight[detection].
    """
    if width < GROUP or width % GROUP or depth < 0 or levels < 1 or finest < 1:
        raise SpecError(
            f"detect: width is {width}, depth {depth}, levels {levels} and finest {finest}; width is a multiple of {GROUP}, "
            "depth at least 0, levels and finest at least 1"
        )
    return Detect(width, depth, levels, finest)
