"""Variants of torchvision's ResNets that published weights were trained with: CIFAR stems, TensorFlow's and JAX's padding.

The names of the weights stay torchvision's. Where only the padding differs, a file's shapes don't show its variant, so the
user gives it: `file:x.ckpt(arch='tv:resnet18', options={'stem': 'cifar_pad2'})`.
"""

from __future__ import annotations

from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from hardsight.core.errors import SpecError

Stem = Literal["imagenet", "cifar", "cifar_pad2", "cifar_bare"]
"""imagenet: 7x7 of stride 2 and a pool. cifar: 3x3 of stride 1 and padding 1, no pool (ACL, AdvCL, DynACL, RoCL, lightly).
cifar_pad2: the same with padding 2, which makes maps of 34x34 out of 32x32 (solo-learn solo/methods/base.py, so DeACL too).
cifar_bare: cifar without the ReLU, as when lightly's examples cut its own ResNet into a sequence."""
Padding = Literal["torch", "same", "same_pool"]
"""torch: equal on both sides. same: the output side is ceil(input side / stride), an odd pixel is padded right and at the
bottom, for strided convolutions and the pool (JAX: DeepMind's BYOL). same_pool: only the pool (google-research/simclr)."""


def reform(net: Any, name: str, stem: Stem = "imagenet", padding: Padding = "torch") -> nn.Module:
    """The ResNet `net`, changed in place; new convolutions have random weights. Raises `SpecError` for other networks."""
    if (stem, padding) == ("imagenet", "torch"):
        return net
    if not all(hasattr(net, part) for part in ("conv1", "maxpool", "layer4", "fc")):
        raise SpecError(f"stem and padding are options of ResNets, and tv:{name} is not a ResNet")
    if stem != "imagenet":
        net.conv1 = nn.Conv2d(3, net.conv1.out_channels, 3, 1, 2 if stem == "cifar_pad2" else 1, bias=False)
        nn.init.kaiming_normal_(net.conv1.weight, mode="fan_out", nonlinearity="relu")
        net.maxpool = nn.Identity()
        net.relu = nn.Identity() if stem == "cifar_bare" else net.relu
    if padding != "torch" and isinstance(net.maxpool, nn.MaxPool2d):
        net.maxpool = SamePool(net.maxpool.kernel_size, net.maxpool.stride)
    if padding == "same":
        for parent in list(net.modules()):
            for called, conv in list(parent.named_children()):
                if isinstance(conv, nn.Conv2d) and conv.stride[0] > 1 and conv.kernel_size[0] > 1:
                    setattr(parent, called, SameConv(conv))
    return net


class SameConv(nn.Conv2d):
    """A strided convolution with the padding "SAME" of TensorFlow and JAX; it shares the weights of `conv`."""

    def __init__(self, conv: nn.Conv2d) -> None:
        width, stride = conv.kernel_size[0], conv.stride[0]
        super().__init__(conv.in_channels, conv.out_channels, width, stride, groups=conv.groups, bias=conv.bias is not None)
        self.weight, self.bias = conv.weight, conv.bias

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(_same(input, self.kernel_size[0], self.stride[0]))


class SamePool(nn.MaxPool2d):
    """A max pool with that padding; zeros are right as padding, because its input is never negative."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(_same(input, int(self.kernel_size), int(self.stride)))  # type: ignore[arg-type]


def _same(x: Tensor, width: int, stride: int) -> Tensor:
    rows, columns = (max((-(-side // stride) - 1) * stride + width - side, 0) for side in x.shape[-2:])
    return F.pad(x, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))
