"""MoCo: views are contrasted with the keys of a momentum network, from a queue (v2) or from the same batch (v3)."""

from __future__ import annotations

from dataclasses import dataclass

from hardsight.core.errors import SpecError
from hardsight.data.base import DataCard
from hardsight.data.views import Views
from hardsight.data.views.plans import pair, views
from hardsight.encoders.base import Encoder
from hardsight.specs.catalog import register
from hardsight.specs.schedules import Schedule, constant, rising
from hardsight.training.criteria.keys import InBatch, Queued
from hardsight.training.methods.base import Learner, Method, mlp
from hardsight.training.methods.joint import Joint


@dataclass(frozen=True)
class MoCoV2:
    temperature: float
    widths: tuple[int, ...]
    queue: int
    momentum: Schedule
    views: Views

    def begin(self, encoder: Encoder, data: DataCard, images: int) -> Learner:
        if self.queue > images:
            raise SpecError(
                f"moco_v2: a queue of {self.queue} keys would hold some of the {images} training images twice; "
                f"give it queue={max(1, images // 10)}, or less"
            )
        projector = mlp((encoder.card.dim, *self.widths), norm=False)
        criterion = Queued(self.temperature, self.queue, self.widths[-1])
        return Joint(encoder, self.views, criterion, projector, momentum=self.momentum, first=1, apart=True)


@register
def moco_v2(
    temperature: float = 0.2,
    widths: tuple[int, ...] = (2048, 128),
    queue: int = 65536,
    momentum: Schedule = constant(0.999),
    views: Views = views(2, scale=(0.2, 1.0), jitter=0.4, hue=0.1, grey=0.2, prob=0.8, blur=0.5),
) -> Method:
    """MoCo v2: a queue of keys (Chen et al., arXiv 2003.04297; the loss is He et al., CVPR 2020, equation 1).

    The first view gives the key, which has no gradient; all others are queries. widths: of the projector's layers. queue:
    number of keys, at most the number of images. differs: the batch is not shuffled between processes for the keys' batch
    norm.
    """
    return MoCoV2(temperature, widths, queue, momentum, views)


@dataclass(frozen=True)
class MoCoV3:
    temperature: float
    widths: tuple[int, ...]
    predictor: int
    momentum: Schedule
    frozen_patches: bool
    views: Views

    def begin(self, encoder: Encoder, data: DataCard, images: int) -> Learner:
        if self.frozen_patches:
            freeze_patches(encoder)
        projector = mlp((encoder.card.dim, *self.widths), last_norm=True, bias=False)
        predictor = mlp((self.widths[-1], self.predictor, self.widths[-1]), last_norm=True, bias=False)
        return Joint(encoder, self.views, InBatch(self.temperature), projector, predictor, self.momentum)


@register
def moco_v3(
    temperature: float = 0.2,
    widths: tuple[int, ...] = (4096, 4096, 256),
    predictor: int = 4096,
    momentum: Schedule = rising(0.99, 1.0),
    frozen_patches: bool = False,
    views: Views = pair(
        views(1, scale=(0.08, 1.0), jitter=(0.4, 0.4, 0.2), hue=0.1, grey=0.2, prob=0.8, blur=1.0),
        views(1, scale=(0.08, 1.0), jitter=(0.4, 0.4, 0.2), hue=0.1, grey=0.2, prob=0.8, blur=0.1, solarise=0.2),
    ),
) -> Method:
    """MoCo v3: keys of the same batch, a predictor, both directions (Chen et al., ICCV 2021, algorithm 1).

    widths, predictor: of the projector's layers and the predictor's hidden layer; the defaults are for ViTs, a ResNet-50 has
    temperature=1, widths=(4096, 256). frozen_patches: whether a ViT's patch embedding keeps its random weights (section
    4.3). differs: position embeddings are the encoder's own, and the predictor ends in batch norm for every encoder.
    """
    return MoCoV3(temperature, widths, predictor, momentum, frozen_patches, views)


def freeze_patches(encoder: Encoder) -> None:
    """Freezes a ViT's patch embedding; `SpecError` for an encoder that has none."""
    found = [part for name, part in encoder.named_modules() if name.rsplit(".", 1)[-1] == "patch_embed"]
    if not found:
        raise SpecError(f"moco_v3: {encoder.card.name} has no patch embedding to freeze; frozen_patches is for ViTs")
    for part in found:
        part.requires_grad_(False)
