"""DynACL: ACL with augmentation that weakens and an adversarial share that grows; and its second stage, DynACL++."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from hardsight.attacks.search.pgd import pgd
from hardsight.attacks.threats.linf import linf
from hardsight.core.errors import SpecError
from hardsight.core.when import When
from hardsight.data.base import DataCard, Images
from hardsight.data.views import Views, views
from hardsight.data.views.plans import fading, weak
from hardsight.encoders.base import Encoder
from hardsight.losses.objective import against
from hardsight.specs.catalog import register
from hardsight.specs.schedules import Schedule, constant, stairs
from hardsight.training.criteria.contrast import NTXent
from hardsight.training.methods.base import Drawn, Learner, Method, Samples, Step, mlp, need
from hardsight.training.methods.clusters import features
from hardsight.training.methods.joint import Joint, embedded, single
from hardsight.training.methods.mixed import Clusters
from hardsight.training.methods.robust.adversary import Adversary, adversary, attack_mode
from hardsight.training.methods.robust.dual import dual


class SlowSimCLRLearner(Joint):
    """The first view goes through the network, the second through its momentum network, both with a graph for attacks."""

    def read(self, views: Drawn, samples: Samples, when: When) -> Step:
        assert self.slow is not None
        one, two = views
        (ours,) = embedded(self.encoder, self.projector, (one,))
        (theirs,) = embedded(self.slow[0], self.slow[1], (two,))
        return Step(self.criterion((single(ours), single(theirs)), None, None, samples.places), {})


@dataclass(frozen=True)
class SlowSimCLR:
    """SimCLR between a network, which is exported, and its momentum network."""

    temperature: float
    widths: tuple[int, ...]
    momentum: Schedule
    views: Views

    def begin(self, encoder: Encoder, data: DataCard, images: int) -> Learner:
        projector = mlp((encoder.card.dim, *self.widths), last_norm=True)
        learner = SlowSimCLRLearner(encoder, self.views, NTXent(self.temperature), projector, momentum=self.momentum)
        learner.sees = 2
        return learner


@register
def dynacl(
    temperature: float = 0.5,
    share: Schedule | float = stairs(0.5, 5 / 6, 20),
    momentum: Schedule = constant(0.99),
    widths: tuple[int, ...] = (512, 512, 512),
    adversary: Adversary = adversary(pgd(steps=5, step=0.25, keep="last"), linf(8 / 255)),
    views: Views = fading(views(2, scale=(0.1, 1.0), jitter=0.4, hue=0.1, grey=0.2, prob=0.8), stairs(1.0, 0.0, 20)),
) -> Method:
    """DynACL (Luo et al., ICLR 2023): ACL with weakening augmentation, a growing adversarial share and a momentum network.

    share: of the adversarial loss. The paper's weights of the clean and the adversarial loss are w and 2 - w, here halved,
    with w from 1 to a third at the end, changed every 20th of the run. The paper's run: ResNet-18, 1000 epochs, batch 512,
    LARS at 5.

    Source: PKU-ML/DYNACL, train_DynACL.py. differs: the trained network is exported, where the release exports its momentum
    network, which after a run with a falling learning rate is nearly the same; the release's schedule changes once per
    epoch.
    """
    return dual(SlowSimCLR(temperature, widths, momentum, views), adversary, share)


class DynACLppLearner(Learner):
    """A linear classifier of pseudo-labels on a frozen encoder for the first `head` of the run, then both by TRADES."""

    def __init__(
        self, encoder: Encoder, views: Views, adversary: Adversary, clusters: Clusters, teacher: Encoder | None,
        head: float, beta: float,
    ) -> None:  # fmt: skip
        super().__init__(encoder, views)
        self.adversary = adversary
        self.clusters = clusters
        self.head = head
        self.beta = beta
        self.__dict__["teacher"] = teacher

    def prepare(self, images: Images) -> None:
        device = self.encoder.mean.device
        teacher = self.__dict__["teacher"]
        self.clusters.find(features(self.encoder if teacher is None else teacher.to(device), images))

    def forward(self, samples: Samples, when: When) -> Step:
        (x,) = self.draw(samples, when)
        label = self.clusters.labels[0, samples.places]
        early = "dynacl_pp: there are no pseudo-labels yet; call the learner's `prepare` before the first step"
        need(self, (label >= 0).all, early)
        if when.progress < self.head:
            with attack_mode(self.encoder, "eval"), torch.no_grad():
                pooled = single(self.encoder(x).pooled)
            return Step(F.cross_entropy(self.clusters.heads[0](pooled), label), {"stage": 1.0})
        with attack_mode(self, self.adversary.mode), torch.no_grad():
            wanted = self._logits(x).softmax(1)
        x_adv = self.adversary.on(self, x, against(self._logits, _away, target=wanted), when)
        clean, moved = self._logits(x), self._logits(x_adv)
        near = F.cross_entropy(clean, label)
        firm = _away(moved, clean.softmax(1)).mean()
        return Step(near + self.beta * firm, {"stage": 2.0, "near": near.detach(), "firm": firm.detach()})

    def _logits(self, x: Tensor) -> Tensor:
        return self.clusters.heads[0](single(self.encoder(x).pooled))


def _away(logits: Tensor, wanted: Tensor, progress: float = 1.0) -> Tensor:
    """[B]: the KL divergence of the class probabilities from the target ones."""
    return F.kl_div(logits.log_softmax(1), wanted, reduction="none").sum(1)


@dataclass(frozen=True)
class DynACLpp:
    teacher: Encoder | None
    count: int
    head: float
    beta: float
    adversary: Adversary
    views: Views

    def begin(self, encoder: Encoder, data: DataCard, images: int) -> Learner:
        clusters = Clusters(encoder.card.dim, (self.count,), images)
        return DynACLppLearner(encoder, self.views, self.adversary, clusters, self.teacher, self.head, self.beta)


@register
def dynacl_pp(
    teacher: Encoder | None = None,
    count: int = 10,
    head: float = 2 / 7,
    beta: float = 6.0,
    adversary: Adversary = adversary(pgd(steps=10, step=0.25, keep="last"), linf(8 / 255)),
    views: Views = weak(1),
) -> Method:
    """DynACL++, the second stage: pseudo-labels of an encoder's own clusters, a linear probe, then TRADES on both.

    It starts from an encoder that `dynacl` trained. teacher: whose features are clustered, None for that encoder's own.
    head: the probe's share of the run. The paper's run: 10 epochs of SGD at 0.01, then 25 at 0.1, divided by 10 after 10 and
    20, batch 512.

    Source: PKU-ML/DYNACL, assign_label.py and LPAFT.py. differs: one learning rate for both stages; the release clusters the
    features of its clean batch norms, which a teacher exported with norm=clean gives; its probe's classifier starts as
    pretraining left it; its TRADES attack starts at the image itself, where the divergence has zero gradient and the first
    step is rounding noise, and here inside the ball.
    """
    if not 0 <= head < 1:
        raise SpecError(f"dynacl_pp: head is {head:g}; it must be a share of the run, from 0 to below 1")
    return DynACLpp(teacher, count, head, beta, adversary, views)
