"""ProFeAT: DeACL on two outputs at once, the features and a frozen projector's output on them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hardsight.attacks.search.pgd import pgd
from hardsight.attacks.threats.linf import linf
from hardsight.core import seeds
from hardsight.core.errors import SpecError
from hardsight.core.when import When
from hardsight.data.base import DataCard, Images
from hardsight.data.feed import load, pixels
from hardsight.data.views import Views, views
from hardsight.encoders.base import Encoder
from hardsight.losses.embed import angle
from hardsight.losses.objective import Objective, Reading, still
from hardsight.specs.catalog import register
from hardsight.training.criteria.contrast import nt_xent
from hardsight.training.criteria.gather import alone
from hardsight.training.methods.base import Learner, Method, Samples, Step, mlp, need
from hardsight.training.methods.harden.base import HardeningLearner
from hardsight.training.methods.robust.adversary import Adversary, adversary

BATCH, TEMPERATURE, RATE = 256, 0.5, 1e-3


class ProFeATLearner(HardeningLearner):
    """projector: frozen once `prepare` has trained it. share: weight of the projections' terms, the features have the rest.

    warm: steps of that training, on two views that `pairs` draws.
    """

    ready: Tensor

    def __init__(
        self, encoder: Encoder, views: Views, adversary: Adversary, projector: nn.Module,
        share: float, beta: float, warm: int, pairs: Views,
    ) -> None:  # fmt: skip
        super().__init__(encoder, views, adversary)
        self.projector = projector.requires_grad_(False)
        self.register_buffer("ready", torch.zeros(1))
        self.share = share
        self.beta = beta
        self.warm = warm
        self.pairs = pairs

    def prepare(self, images: Images) -> None:
        """Trains the projector by SimCLR's loss on the frozen teacher's features of two views."""
        self.projector.requires_grad_(True).train()
        optimizer = torch.optim.Adam(self.projector.parameters(), lr=RATE)
        size = min(BATCH, len(images))
        for step in range(self.warm):
            when = When(seeds.generator("profeat", step), step, self.warm)
            places = torch.randperm(len(images), generator=when.rng)[:size].tolist()
            x = pixels(load(images, places).images, self.encoder.mean.device)
            one, two = (self.projector(self.teacher_features(view)) for view in self.pairs(x, when))
            optimizer.zero_grad()
            with alone():
                nt_xent(one, two, TEMPERATURE).mean().backward()
            optimizer.step()
        optimizer.zero_grad()
        self.projector.requires_grad_(False)
        self.ready.fill_(1)

    def forward(self, samples: Samples, when: When) -> Step:
        early = "profeat: the projector is not trained yet; call the learner's `prepare` before the first step"
        need(self, self.ready.any, early)
        (x,) = self.draw(samples, when)
        wanted = self.teacher_features(x)
        aims = wanted, self.projector(wanted)
        with torch.no_grad(), still(self.encoder):
            begun = self.encoder(x).pooled.float()

        def read(x: Tensor, target: tuple[Tensor, Tensor], progress: float) -> Reading:
            pooled = self.encoder(x).pooled.float()
            return Reading(angle(pooled, target[0]) + angle(self.projector(pooled), target[1]))

        raised = Objective(read, (begun, aims[1]), name="profeat's angles")
        x_adv = self.adversary.on(self.encoder, x, raised, when)
        calm, firm = self.encoder(torch.cat([x, x_adv])).pooled.float().chunk(2)
        seen, moved = self.projector(calm), self.projector(firm)
        near = self._both(1 - angle(calm, aims[0]), 1 - angle(seen, aims[1]))
        steady = self._both(1 - angle(firm, calm), 1 - angle(moved, seen))
        return Step(-near - self.beta * steady, {"near": near.detach(), "firm": steady.detach()})

    def _both(self, features: Tensor, projections: Tensor) -> Tensor:
        return ((1 - self.share) * features + self.share * projections).mean()


@dataclass(frozen=True)
class ProFeAT:
    adversary: Adversary
    share: float
    beta: float
    widths: tuple[int, ...]
    warm: int
    pairs: Views
    views: Views

    def begin(self, encoder: Encoder, data: DataCard, images: int) -> Learner:
        projector = mlp((encoder.card.dim, *self.widths), norm=False)
        return ProFeATLearner(encoder, self.views, self.adversary, projector, self.share, self.beta, self.warm, self.pairs)


@register
def profeat(
    adversary: Adversary = adversary(pgd(steps=5, step=0.25, keep="last"), linf(8 / 255)),
    share: float = 0.5,
    beta: float = 8.0,
    widths: tuple[int, ...] = (640, 256),
    steps: int = 200,
    pairs: Views = views(2, scale=(0.2, 1.0), jitter=0.4, grey=0.2),
    views: Views = views(1, scale=(0.5, 1.0), jitter=0.2, grey=0.0),
) -> Method:
    """ProFeAT (Addepalli et al., 2024): DeACL's two cosines, of the features and of a frozen projector's output on them.

    near + beta firm is maximized, each (1 - share) of the features' cosine and `share` of the projections'. The attack
    raises one minus the student's cosine to its own clean features, and that of the projections to the teacher's. differs:
    an encoder comes without the projector that it was pretrained with, so one is trained on the frozen teacher first:
    `steps` steps of SimCLR's loss on `pairs`, widths as released; teacher and student get the same view, where the released
    code gives the student another, more strongly augmented one.
    """
    if not 0 <= share <= 1 or beta < 0 or steps < 1 or not widths:
        raise SpecError(
            f"profeat: share is {share:g}, beta {beta:g}, steps {steps}, widths {widths}; share must be in [0, 1], beta "
            "at least 0, steps at least 1, and widths not empty"
        )
    if pairs.count != 2:
        raise SpecError(f"profeat: its projector is trained on 2 views, and pairs draws {pairs.count}")
    return ProFeAT(adversary, share, beta, widths, steps, pairs, views)
