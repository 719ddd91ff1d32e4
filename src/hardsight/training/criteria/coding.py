"""Total coding rate: crops of an image share one direction, and the images of a batch span all directions (EMP-SSL)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from hardsight.training.criteria.gather import gather
from hardsight.training.criteria.pairs import among


def coding_rate(z: Tensor, squared_eps: float) -> Tensor:
    """1/2 log det(I + D / (B eps^2) Z^T Z) of embeddings z [..., B, D] -> [...].

    By Sylvester's identity Z Z^T has the same determinant: the smaller matrix is used, which for B = 128 and D = 1024 is
    some hundred times faster. Source: Ma et al., IEEE TPAMI 2007; Tong et al. 2023 (EMP-SSL), equation 4.
    """
    count, dim = z.shape[-2:]
    scale = dim / (count * squared_eps)
    found: Tensor = HalfLogDet.apply(z if count < dim else z.mT, scale)  # type: ignore[assignment]
    return found


class HalfLogDet(torch.autograd.Function):
    """1/2 log det(I + a Z Z^T) of z [..., N, M] -> [...]; its gradient is a (I + a Z Z^T)^-1 Z, one product where autograd needs two."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, scale: float) -> Tensor:
        eye = torch.eye(z.shape[-2], dtype=z.dtype, device=z.device)
        root, failed = torch.linalg.cholesky_ex(eye + scale * (z @ z.mT))
        root = torch.where(failed[..., None, None] == 0, root, torch.nan)  # the engine skips a loss that is not finite
        ctx.save_for_backward(z, root)
        ctx.scale = scale
        return root.diagonal(dim1=-2, dim2=-1).log().sum(-1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *above: Tensor) -> tuple[Tensor, None]:
        z, root = ctx.saved_tensors
        inverse = ctx.scale * above[0][..., None, None] * torch.cholesky_inverse(root)
        return (inverse @ z.to(root.dtype)).to(z.dtype), None


class Coding:
    """-weight cos(crop, mean crop) - coding rate of the batch, mean over the crops; embeddings have length 1.

    The first term is per image, the second is of the whole batch. Source: Tong et al. 2023 (EMP-SSL), equation 5.
    """

    sees = None

    def __init__(self, weight: float, squared_eps: float) -> None:
        self.weight, self.squared_eps = weight, squared_eps

    def __call__(
        self, online: tuple[Tensor, ...], target: tuple[Tensor, ...] | None, label: Tensor | None, places: Tensor
    ) -> Tensor:
        among(online)
        z = F.normalize(torch.stack(online), dim=-1)
        near = F.cosine_similarity(z, z.mean(0, keepdim=True), dim=-1).mean(0)
        whole = gather(z.transpose(0, 1)).transpose(0, 1)
        return -self.weight * near - coding_rate(whole, self.squared_eps).mean()
