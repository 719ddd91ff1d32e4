"""DeACL: hardens an encoder after the fact, by distilling it into a copy that answers the same under attack."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hardsight.catalog import register
from hardsight.data.base import DataCard
from hardsight.data.views import Views
from hardsight.encoders.base import Encoder
from hardsight.errors import SpecError
from hardsight.losses.embed import far_cosine
from hardsight.methods.base import Method, Step
from hardsight.objective import against, still
from hardsight.search.base import Search
from hardsight.search.pgd import pgd
from hardsight.threats.base import Threat
from hardsight.threats.linf import linf


@dataclass(frozen=True)
class DeACL:
    teacher: Encoder
    search: Search
    threat: Threat
    weight: float
    views: Views

    def parts(self, encoder: Encoder, data: DataCard) -> nn.Module:
        """Nothing trains beside the student, which starts as a copy of the teacher."""
        if self.teacher.card.arch != encoder.card.arch:
            raise SpecError(
                f"deacl: the student is {encoder.card.arch} and its teacher {self.teacher.card.arch}; they must be alike"
            )
        self.teacher.to(next(encoder.parameters()).device)
        encoder.load_state_dict(self.teacher.state_dict())
        return nn.Identity()

    def step(self, encoder: Encoder, parts: nn.Module, x: Tensor, label: Tensor, rng: torch.Generator) -> Step:
        x = self.views(x, rng)
        with torch.no_grad():
            wanted = self.teacher(x).pooled.float()
        with still(encoder):
            raised = against(lambda x: encoder(x).pooled.float(), far_cosine(), target=wanted)
            x_adv = self.search(raised, x, self.threat, rng).x_adv
        clean, moved = encoder(torch.cat([x, x_adv])).pooled.float().chunk(2)
        near = F.cosine_similarity(clean, wanted).mean()
        firm = F.cosine_similarity(moved, clean).mean()
        return Step(-near - self.weight * firm, {"near": float(near.detach()), "firm": float(firm.detach())})


@register
def deacl(
    teacher: Encoder,
    search: Search = pgd(steps=5, keep="last"),
    threat: Threat = linf(8 / 255),
    weight: float = 2.0,
    least: float = 0.5,
    jitter: float = 0.2,
) -> Method:
    """DeACL (Zhang et al., ECCV 2022): -cos(S(x), T(x)) - weight cos(S(x'), S(x)), where x' moves S(x') away from T(x).

    differs: the inner attack runs in eval mode with frozen batch norm, and touches no weight's gradient.
    """
    return DeACL(
        teacher.eval().requires_grad_(False), search, threat, weight, Views(scale=(least, 1.0), jitter=jitter, grey=0.0)
    )
