"""TARO: for methods without negatives the attack is targeted, at another image that is similar and uncertain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from hardsight.attacks.search.pgd import pgd
from hardsight.attacks.threats.linf import linf
from hardsight.core.errors import SpecError
from hardsight.core.when import When
from hardsight.data.base import DataCard
from hardsight.data.views import views
from hardsight.encoders.base import Encoder
from hardsight.losses.objective import Objective, Reading
from hardsight.specs.catalog import register
from hardsight.training.methods.base import Learner, Method, Samples, Step
from hardsight.training.methods.joint import Joint, single
from hardsight.training.methods.robust.adversary import Adversary, adversary, attack_mode
from hardsight.training.methods.robust.base import WrappedLearner, begin, name_of, refuse
from hardsight.training.methods.simsiam import simsiam

Own = Literal["excluded", "possible"]


class TAROLearner(WrappedLearner):
    """Around a joint-embedding learner: two views, each attacked towards its own target, train with the first clean one."""

    inner: Joint

    def __init__(self, inner: Joint, adversary: Adversary, alike: float, unsure: float, own: Own) -> None:
        super().__init__(inner)
        self.adversary = adversary
        self.alike = alike
        self.unsure = unsure
        self.own: Own = own

    def forward(self, samples: Samples, when: When) -> Step:
        one, two = self.draw(samples, when)
        moved = [self._towards(view, when) for view in (one, two)]
        step = self.inner.read((one, *moved), samples, when)
        return step._replace(loss=step.loss.mean())

    def _towards(self, x: Tensor, when: When) -> Tensor:
        with attack_mode(self.inner, self.adversary.mode), torch.no_grad():
            pooled, projected, predicted = self._parts(x)
            target = projected[targets(pooled, predicted, self.alike, self.unsure, self.own)]

        def read(x: Tensor, target: Tensor, progress: float) -> Reading:
            return Reading(F.cosine_similarity(self._parts(x)[2], target, dim=1))

        return self.adversary.on(self.inner, x, Objective(read, target, name="the similarity to a target"), when)

    def _parts(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Pooled, projected and predicted embeddings, [B, D] each."""
        pooled = self.inner.encoder(x).pooled
        projected = self.inner.projector(pooled)
        predicted = projected if self.inner.predictor is None else self.inner.predictor(projected)
        return single(pooled), single(projected), single(predicted)


def targets(pooled: Tensor, predicted: Tensor, alike: float, unsure: float, own: Own = "excluded") -> Tensor:
    """[B], for each image the index of its target in the batch: the largest sum of similarity and uncertainty.

    Similarity is the cosine of pooled features, from 0 to 1, uncertainty the entropy of the softmax of predictions; each is
    divided by its norm over the candidates. own: an image is no candidate for itself ("excluded"), or, the released code's
    quirk, it is one as if its cosine were 0. Source: Kim et al., NeurIPS 2023, equations 6 to 8.
    """
    unit = F.normalize(pooled, dim=1)
    near = (unit @ unit.T + 1) / 2
    near.fill_diagonal_(0.5)
    chance = predicted.log_softmax(1)
    entropy = -(chance.exp() * chance).sum(1)
    score = alike * F.normalize(near, dim=1) + unsure * F.normalize(entropy, dim=0)
    return score.argmax(1) if own == "possible" else score.fill_diagonal_(-torch.inf).argmax(1)


@dataclass(frozen=True)
class TARO:
    method: Method
    adversary: Adversary
    alike: float
    unsure: float
    own: Own

    def begin(self, encoder: Encoder, data: DataCard, images: int) -> Learner:
        inner = begin("taro", self.method, encoder, data, images)
        if not isinstance(inner, Joint) or inner.views.count != 2:
            raise SpecError(f"taro needs a method that embeds two views, such as simsiam, and not {name_of(self.method)}")
        refuse("taro", self.method, 3, inner)
        return TAROLearner(inner, self.adversary, self.alike, self.unsure, self.own)


@register
def taro(
    method: Method = simsiam(
        widths=(2048, 2048), views=views(2, scale=(0.08, 1.0), jitter=0.4, hue=0.1, grey=0.2, prob=0.8)
    ),
    adversary: Adversary = adversary(pgd(steps=10, step=0.25, keep="last"), linf(8 / 255)),
    alike: float = 1.0,
    unsure: float = 1.0,
    mode: Literal["corrected", "official"] = "corrected",
) -> Method:
    """TARO (Kim et al., NeurIPS 2023): attacks each view towards another image, chosen by similarity and entropy.

    The target is another image of the batch. The first view and both attacked ones train the method. alike, unsure: weights
    of similarity and entropy. mode="official": an image may be its own target. The paper's run: SimSiam, ResNet-18, 800
    epochs, batch 512 per device, SGD at 0.03.

    Source: Kim-Minseon/TARO, taro_pretrain.py. differs: the loss is the mean over the three pairs where the release sums
    them; targets are chosen in eval mode, where the release updates batch norm statistics.
    """
    return TARO(method, adversary, alike, unsure, "possible" if mode == "official" else "excluded")
