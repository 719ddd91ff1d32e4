"""DynACL: ACL with views that fade and an adversarial share that grows; and its second stage on pseudo-labels, DynACL++."""

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
from hardsight.training.methods.base import Drawn, Learner, Method, Samples, Step, mlp
from hardsight.training.methods.beside import Clusters
from hardsight.training.methods.clusters import features
from hardsight.training.methods.joint import Joint, embedded, single
from hardsight.training.methods.robust.adversary import Adversary, adversary, as_judged
from hardsight.training.methods.robust.dual import dual


class Facing(Joint):
    """The first view through the network, the second through its slow copy; a slow copy that an attack can see through."""

    def read(self, views: Drawn, samples: Samples, when: When) -> Step:
        assert self.slow is not None
        one, two = views
        (ours,) = embedded(self.encoder, self.projector, (one,))
        (theirs,) = embedded(self.slow[0], self.slow[1], (two,))
        return Step(self.criterion((single(ours), single(theirs)), None, None, samples.places), {})


@dataclass(frozen=True)
class SlowSimCLR:
    """SimCLR between a network and its slow copy, which is what is exported."""

    temperature: float
    widths: tuple[int, ...]
    momentum: Schedule
    views: Views

    def begin(self, encoder: Encoder, data: DataCard, images: int) -> Learner:
        projector = mlp((encoder.card.dim, *self.widths), last_norm=True)
        learner = Facing(encoder, self.views, NTXent(self.temperature), projector, momentum=self.momentum)
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
    """DynACL (Luo et al., ICLR 2023): ACL whose views fade, whose adversarial share grows, and with a slow second network.

    share: of the adversarial loss; the paper's weights 2 - w and w, halved, with w from 1 by a third at the end, changed every
    20th of the run. Its run: ResNet-18, 1000 epochs, batch 512, LARS at 5.

    Source: PKU-ML/DYNACL, train_DynACL.py. differs: what is exported is the trained network, where the release exports its slow
    copy, which after a run at a falling learning rate is nearly the same; the release's schedule moves once an epoch.
    """
    return dual(SlowSimCLR(temperature, widths, momentum, views), adversary, share)


class Tuned(Learner):
    """A linear classifier of pseudo-labels on a resting encoder for the first `head` of the run, then both by TRADES."""

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
        if bool((label < 0).any()):
            raise SpecError(
                "dynacl_pp: there are no pseudo-labels; the learner's `prepare` finds them, before the first step"
            )
        if when.progress < self.head:
            with as_judged(self.encoder, "eval"), torch.no_grad():
                pooled = single(self.encoder(x).pooled)
            return Step(F.cross_entropy(self.clusters.heads[0](pooled), label), {"stage": 1.0})
        with as_judged(self, self.adversary.mode), torch.no_grad():
            wanted = self._logits(x).softmax(1)
        x_adv = self.adversary.on(self, x, against(self._logits, _away, target=wanted), when)
        clean, moved = self._logits(x), self._logits(x_adv)
        near = F.cross_entropy(clean, label)
        firm = _away(moved, clean.softmax(1)).mean()
        return Step(near + self.beta * firm, {"stage": 2.0, "near": float(near.detach()), "firm": float(firm.detach())})

    def _logits(self, x: Tensor) -> Tensor:
        return self.clusters.heads[0](single(self.encoder(x).pooled))


def _away(logits: Tensor, wanted: Tensor, progress: float = 1.0) -> Tensor:
    """[B]: the divergence of the class probabilities from those wanted."""
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
        return Tuned(encoder, self.views, self.adversary, clusters, self.teacher, self.head, self.beta)


@register
def dynacl_pp(
    teacher: Encoder | None = None,
    count: int = 10,
    head: float = 2 / 7,
    beta: float = 6.0,
    adversary: Adversary = adversary(pgd(steps=10, step=0.25, keep="last"), linf(8 / 255)),
    views: Views = weak(1),
) -> Method:
    """DynACL++, the second stage: pseudo-labels of an encoder's own clusters, a linear probe, then TRADES of the whole.

    It goes on from an encoder that `dynacl` made. teacher: whose features are clustered, None for that encoder's own. head:
    the probe's share of the run. Its run: 10 epochs of SGD at 0.01, then 25 at 0.1, divided by 10 after 10 and 20, batch 512.

    Source: PKU-ML/DYNACL, assign_label.py and LPAFT.py. differs: one learning rate for both stages; the release clusters the
    features of its clean batch norms, which a teacher exported with norm=clean gives; its probe's classifier starts as
    pretraining left it; its TRADES starts at the image itself, where the divergence has no slope and rounding alone takes the
    first step, and here inside the ball.
    """
    if not 0 <= head < 1:
        raise SpecError(f"dynacl_pp: head is {head:g}; it is a share of the run, from 0 to below 1")
    return DynACLpp(teacher, count, head, beta, adversary, views)
