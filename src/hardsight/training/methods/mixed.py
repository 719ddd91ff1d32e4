"""One adversarial view and clean ones in a single loss, each kind with its own batch norms; the training of AdvCL and CLAE.

In `dual` the two streams have a loss each; here embeddings of both are in one.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hardsight.core import seeds
from hardsight.core.when import When
from hardsight.data.base import Images
from hardsight.data.views import Views
from hardsight.encoders.base import Encoder
from hardsight.encoders.norms import Norms, norm_as
from hardsight.losses.objective import Objective, Reading
from hardsight.training.methods.base import Drawn, Learner, Samples, Step, need
from hardsight.training.methods.clusters import features, kmeans
from hardsight.training.methods.joint import embedded, single
from hardsight.training.methods.robust.adversary import Adversary, attack_mode

Loss = Callable[[Tensor, Drawn], Tensor]
"""(embedding [B, D] of the adversarial view, embeddings of the clean ones) -> [B]."""


class Clusters(nn.Module):
    """Linear classifiers of pseudo-labels, one for each number of clusters; labels [sets, N], -1 before `find`."""

    labels: Tensor

    def __init__(self, dim: int, counts: tuple[int, ...], images: int) -> None:
        super().__init__()
        self.counts = counts
        self.heads = nn.ModuleList(nn.Linear(dim, count) for count in counts)
        self.register_buffer("labels", torch.full((len(counts), images), -1))

    def find(self, x: Tensor) -> None:
        """Clusters the training images' features x [N, D]."""
        rng = seeds.generator("clusters", self.counts)
        self.labels.copy_(torch.stack([kmeans(x, count, rng) for count in self.counts]))

    def forward(self, pooled: Tensor, places: Tensor) -> Tensor:
        """[B]: the mean cross-entropy over the sets."""
        wanted = self.labels[:, places]
        early = "advcl: there are no pseudo-labels yet; call the learner's `prepare` before the first step"
        need(self, (wanted >= 0).all, early)
        losses = [F.cross_entropy(head(pooled), one, reduction="none") for head, one in zip(self.heads, wanted, strict=True)]
        return torch.stack(losses).mean(0)


class MixedLearner(Learner):
    """The encoder has separate batch norms for clean and adversarial views, the projector shared ones, as in both releases.

    base: draws the view that is attacked; None: the first of the clean views. radius: frequencies below it are removed from
    that view, for one more clean view; 0 for no such view. clusters: pseudo-labels of `teacher`; a second attacked view,
    with a third set of batch norms, is classified into them; weight: of that loss.
    """

    def __init__(
        self, encoder: Encoder, views: Views, projector: nn.Module, adversary: Adversary, raised: Loss, trained: Loss,
        base: Views | None = None, radius: float = 0.0, own: str = "adversarial",
        teacher: Encoder | None = None, clusters: Clusters | None = None, weight: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__(encoder, views)
        self.projector = projector
        self.adversary = adversary
        self.raised = raised
        self.trained = trained
        self.base = base
        self.radius = radius
        self.clusters = clusters
        self.weight = weight
        self.__dict__["teacher"] = teacher
        others = [name for name in ("adversarial", "clean") if name != own] + ["classified"] * (clusters is not None)
        self.norms = Norms(encoder, own, tuple(others))

    def prepare(self, images: Images) -> None:
        teacher = self.__dict__["teacher"]
        if self.clusters is not None and teacher is not None:
            self.clusters.find(features(teacher.to(self.encoder.mean.device), images).to(self.encoder.mean.device))

    def draw(self, samples: Samples, when: When) -> Drawn:
        """The view to attack, then the clean ones."""
        views = self.views(samples.x, when)
        (base,) = self.base(samples.x, when) if self.base is not None else views[:1]
        return (base, *views, *([high(base, self.radius)] if self.radius else []))

    def forward(self, samples: Samples, when: When) -> Step:
        base, *rest = self.draw(samples, when)
        clean = tuple(rest)
        with attack_mode(self, self.adversary.mode), torch.no_grad():
            calm = self._embed(clean, "clean")
        moved = self._attack(base, lambda x: self.raised(self._embed((x,), "adversarial")[0], calm), when)
        loss = self.trained(self._embed((moved,), "adversarial")[0], self._embed(clean, "clean")).mean()
        logs = {"contrast": loss.detach()}
        if self.clusters is not None:
            moved = self._attack(base, lambda x: self._classified(x, samples.places), when)
            classified = self._classified(moved, samples.places).mean()
            loss = loss + self.weight * classified
            logs["clusters"] = classified.detach()
        return Step(loss, logs)

    def _attack(self, x: Tensor, raised: Callable[[Tensor], Tensor], when: When) -> Tensor:
        raising = Objective(lambda x, target, progress: Reading(raised(x)), coupled=True, name="a training loss")
        return self.adversary.on(self, x, raising, when)

    def _embed(self, views: Drawn, norm: str) -> Drawn:
        with norm_as(self.norms, norm):
            return tuple(single(z) for z in embedded(self.encoder, self.projector, views))

    def _classified(self, x: Tensor, places: Tensor) -> Tensor:
        assert self.clusters is not None
        with norm_as(self.norms, "classified"):
            return self.clusters(single(self.encoder(x).pooled), places)


def high(x: Tensor, radius: float) -> Tensor:
    """Images x [B, C, H, W] without the frequencies below `radius` cycles per image; values may leave [0, 1].

    Source: Fan et al., NeurIPS 2021 (AdvCL), section 3.3.
    """
    height, width = x.shape[-2:]
    rows = torch.fft.fftfreq(height, 1 / height, device=x.device)
    columns = torch.fft.fftfreq(width, 1 / width, device=x.device)
    kept = (rows[:, None].square() + columns.square()).sqrt() >= radius
    return torch.fft.ifft2(torch.fft.fft2(x.float()) * kept).real.to(x.dtype)
