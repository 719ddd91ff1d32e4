"""AdvCL, A-InfoNCE and CLAE: an adversarial view together with clean ones in one contrastive loss."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from hardsight.attacks.search.pgd import pgd
from hardsight.attacks.threats.linf import linf
from hardsight.core.errors import SpecError
from hardsight.data.base import DataCard
from hardsight.data.views import Views, views
from hardsight.data.views.plans import weak
from hardsight.encoders.base import Encoder
from hardsight.specs.catalog import register
from hardsight.training.criteria.asymmetric import InfoNCE
from hardsight.training.criteria.contrast import nt_xent
from hardsight.training.methods.base import Drawn, Learner, Method, mlp
from hardsight.training.methods.mixed import Clusters, MixedLearner
from hardsight.training.methods.robust.adversary import Adversary, adversary


@dataclass(frozen=True)
class AdvCL:
    trained: InfoNCE
    radius: float
    teacher: Encoder | None
    clusters: tuple[int, ...]
    weight: float
    widths: tuple[int, ...]
    adversary: Adversary
    views: Views
    base: Views

    def begin(self, encoder: Encoder, data: DataCard, images: int) -> Learner:
        plain = InfoNCE(self.trained.temperature)
        clusters = Clusters(encoder.card.dim, self.clusters, images) if self.teacher is not None else None
        return MixedLearner(
            encoder, self.views, mlp((encoder.card.dim, *self.widths)), self.adversary, _by(plain), _by(self.trained),
            self.base, self.radius, teacher=self.teacher, clusters=clusters, weight=self.weight,
        )  # fmt: skip


def _by(criterion: InfoNCE):
    return lambda z, clean: criterion((z, *clean), None, None, torch.empty(0))


@register
def advcl(
    teacher: Encoder | None = None,
    clusters: tuple[int, ...] = (2, 10, 50, 100, 500),
    weight: float = 0.2,
    radius: float = 8.0,
    temperature: float = 0.5,
    widths: tuple[int, ...] = (512, 128),
    adversary: Adversary = adversary(pgd(steps=5, step=0.25, keep="last"), linf(8 / 255)),
    views: Views = views(2, scale=(0.2, 1.0), jitter=0.4, hue=0.1, grey=0.2, prob=0.8),
    base: Views = weak(1),
) -> Method:
    """AdvCL (Fan et al., NeurIPS 2021): an image's two views, high frequencies and attacked copy are one set of positives.

    teacher: an encoder whose features are clustered by k-means (into each of these numbers of `clusters`); the clusters are
    the pseudo-labels of a cross-entropy on attacked images, of that weight; without a teacher there is no such loss, and the
    method is strictly label-free. radius: cycles per image, below which frequencies are removed. Three sets of batch norms.
    The paper's run: 1000 epochs, batch 512, SGD at 0.5 with cosine and 10 epochs of warm-up, weight decay 1e-4.

    Source: LijieFan/AdvCL, whose teacher is pretrained on ImageNet with SimCLR. differs: its attack runs in train mode and
    updates batch norm statistics; here the clean views are embedded once for the attack, which changes nothing else.
    """
    return AdvCL(InfoNCE(temperature), radius, teacher, clusters, weight, widths, adversary, views, base)


@register
def a_infonce(
    pull: float | None = 0.2,
    share: float = 1.2,
    hard: float = 0.0,
    debias: float = 0.0,
    teacher: Encoder | None = None,
    clusters: tuple[int, ...] = (2, 10, 50, 100, 500),
    weight: float = 0.2,
    radius: float = 8.0,
    temperature: float = 0.5,
    widths: tuple[int, ...] = (512, 128),
    adversary: Adversary = adversary(pgd(steps=5, step=0.25, keep="last"), linf(8 / 255)),
    views: Views = views(2, scale=(0.2, 1.0), jitter=0.4, hue=0.1, grey=0.2, prob=0.8),
    base: Views = weak(1),
) -> Method:
    """Asymmetric InfoNCE: AdvCL whose adversarial view is an inferior positive, a hard negative, or both.

    As an inferior positive (the default), the clean views get the share `pull` of the attraction between them and it, and
    `share` is the weight of these pairs. As a hard negative: pull=None, share=1, hard=1, debias=0.12. Both: pull=0.2,
    share=0.7, hard=1, debias=0.1. The attack raises the symmetric loss. The paper's runs: 400 epochs, SGD at 1, 1.2 and 2.

    Source: Yu et al., ECCV 2022; yqy2001/A-InfoNCE. differs: its code moves `pull` towards 0.5 after 30 epochs, by how
    strong attacks are; and where `pull` is not set it counts the adversarial view's direction of a pair twice, the clean
    view's never.
    """
    if pull is not None and not 0 <= pull <= 1:
        raise SpecError(f"a_infonce: pull is {pull:g}; it must be a share, from 0 to 1")
    trained = InfoNCE(temperature, pull, share, hard, debias)
    return AdvCL(trained, radius, teacher, clusters, weight, widths, adversary, views, base)


@dataclass(frozen=True)
class CLAE:
    alpha: float
    temperature: float
    widths: tuple[int, ...]
    adversary: Adversary
    views: Views

    def begin(self, encoder: Encoder, data: DataCard, images: int) -> Learner:
        projector = mlp((encoder.card.dim, *self.widths), norm=False)
        return MixedLearner(encoder, self.views, projector, self.adversary, self._hard, self._trained, own="clean")

    def _hard(self, z: Tensor, clean: Drawn) -> Tensor:
        return nt_xent(clean[0], z, self.temperature)

    def _trained(self, z: Tensor, clean: Drawn) -> Tensor:
        pairs = [nt_xent(one, two, self.temperature) for one, two in itertools.combinations(clean, 2)]
        return torch.stack(pairs).mean(0) + self.alpha * nt_xent(clean[0], z, self.temperature)


@register
def clae(
    alpha: float = 1.0,
    temperature: float = 0.5,
    widths: tuple[int, ...] = (512, 64),
    adversary: Adversary = adversary(pgd(steps=1, step=1.0, start="clean", keep="last"), linf(0.015)),
    views: Views = views(2, scale=(0.08, 1.0), jitter=0.8, hue=0.2, grey=0.2, prob=0.8),
) -> Method:
    """CLAE (Ho and Vasconcelos, NeurIPS 2020): one gradient step makes a view that is a harder positive and negative.

    Its aim is clean accuracy, and the exported encoder has the batch norm of the clean views. alpha: weight of the loss of
    the first view with its adversarial version. The paper's run: 100 epochs, batch 256, Adam.

    Source: chihhuiho/CLAE, SimCLR. Its eps of 0.03 is for pixels normalized by 0.5, which is 0.015 here. differs: its step
    may leave the pixel range, runs in train mode, compares with an embedding of the first view by the adversarial batch
    norms, and updates these with momentum 0.01.
    """
    return CLAE(alpha, temperature, widths, adversary, views)
