"""Object detection: FCOS on a feature pyramid built from the dense features.

FCOS rather than Faster R-CNN, because it predicts at fixed locations: its losses are sums over the locations of one image,
while those of Faster R-CNN depend on proposals sampled at random with the help of the ground truth; its scores come from one
forward pass, so every part of the evaluated output has a gradient to the pixels; and label-free attacks can use its output.
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
from hardsight.metrics.detect import FOUND, TRUE, evaluator, image_precision, row
from hardsight.specs.catalog import register
from hardsight.tasks.base import Task, Training, dense_dim, needs
from hardsight.tasks.pyramid import GROUP, FcosHead

MIN_SCORE = 0.05
"""The minimum score of a detection."""
SHOWN_SCORE = 0.3
"""The minimum score of a detection that is drawn, or that a label-free attack takes as ground truth."""
CANDIDATES = 1000
"""The number of highest-scoring detections of each level that enter non-maximum suppression."""
NMS_IOU = 0.6
"""Non-maximum suppression: of two detections of one class with a larger IoU, the one of lower score is removed."""


@dataclass(frozen=True)
class Detect:
    width: int
    depth: int
    levels: int
    finest: int
    max_detections: int
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
        """1 - the image's average precision at IoU 0.5, all classes in one ranking, and 1 where the output is not finite.

        An image without true boxes has no precision: its error is the highest score of a detection, 0 without any, so that
        fabricated ones count. Missed, misclassified or misplaced boxes increase it, and false ones ranked above true ones.
        """
        errors = []
        for found, true in zip(decode(output, self.max_detections), target, strict=True):
            if len(true["labels"]):
                labels, boxes = true["labels"].to(found["labels"]), true["boxes"].to(found["boxes"])
                alike = found["labels"][:, None] == labels
                errors.append(1 - image_precision(_numpy(overlap(found["boxes"], boxes)), _numpy(alike)))
            else:
                errors.append(float(found["scores"].max()) if len(found["scores"]) else 0.0)
        error = torch.tensor(errors, dtype=torch.float32, device=output.classes.device)
        return torch.where(output.finite, error, 1.0)

    def counts(self, output: Places, target: Truth) -> dict[str, Tensor]:
        """Each image's detections and true boxes, padded to the same lengths for all of them: `metrics.detect.row`."""
        rows, room = [], max(TRUE, *(len(true["labels"]) for true in target), 0)
        for found, true in zip(decode(output, self.max_detections), _checked(output, target), strict=True):
            lists = (found["boxes"], found["scores"], found["labels"], true["boxes"], true["labels"])
            rows.append(row(*(_numpy(one) for one in lists), limit=self.max_detections, room=room))
        return {name: torch.from_numpy(np.stack([one[name] for one in rows])) for name in rows[0]}

    def answer(self, output: Places) -> Truth:
        """The detections to draw: boxes [N, 4], labels [N] and scores [N] of each image."""
        found = decode(output, self.max_detections)
        return [{key: value[one["scores"] >= SHOWN_SCORE] for key, value in one.items()} for one in found]


def decode(places: Places, most: int = FOUND) -> Truth:
    """The detections of each image by descending score: boxes [N, 4] clipped to it, labels [N], scores [N]; N <= most.

    None where the output is not finite. As in torchvision's FCOS: per level the highest scores above `MIN_SCORE`, then
    non-maximum suppression per class.
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
            kept = batched_nms(box, score, label, NMS_IOU)[:most]
            found.append({"boxes": box[kept], "labels": label[kept], "scores": score[kept]})
        return found


def _candidates(scores: Tensor, levels: tuple[int, ...]) -> Tensor:
    """Indices of an image's candidate detections in the flattened scores [P, K]."""
    chosen, start = [], 0
    for count in levels:
        part = scores[start : start + count].flatten()
        above = (part > MIN_SCORE).nonzero().flatten()
        best = part[above].topk(min(CANDIDATES, len(above))).indices
        chosen.append(above[best] + start * scores.shape[-1])
        start += count
    return torch.cat(chosen)


def _checked(output: Places, target: Truth) -> Truth:
    """The ground truth itself; `DataError` if a box has a class that the output doesn't have."""
    classes = output.classes.shape[-1]
    labels = torch.cat([one["labels"] for one in target])
    if len(wrong := labels[(labels < 0) | (labels >= classes)]):
        raise DataError(f"a box has the class {int(wrong[0])}, but the ids of {classes} classes are 0 to {classes - 1}")
    return target


def _numpy(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().numpy()


@register
def detect(width: int = 64, depth: int = 1, levels: int = 3, finest: int = 8, max_detections: int = 100) -> Task:
    """Object detection with an FCOS head on a pyramid of the dense features; the encoder is not changed.

    width: channels of the head. depth: 3x3 convolutions in each of its two towers. levels: number of pyramid levels, each
    with twice the stride of the previous one. finest: maximum stride of the first level in pixels; dense features of a
    smaller stride are used as they are. max_detections: how many of an image's detections, those of highest score, count
    (COCO's 100); images may have more true boxes than that, and some of them are then always missed. Needs faster-coco-eval: pip install hardsight[detection].
    """
    if max_detections < 1:
        raise SpecError(f"detect: max_detections is {max_detections}; it must be at least 1, such as COCO's {FOUND}")
    if width < GROUP or width % GROUP or depth < 0 or levels < 1 or finest < 1:
        raise SpecError(
            f"detect: width is {width}, depth {depth}, levels {levels} and finest {finest}; width must be a multiple of "
            f"{GROUP}, depth at least 0, levels and finest at least 1"
        )
    return Detect(width, depth, levels, finest, max_detections)
