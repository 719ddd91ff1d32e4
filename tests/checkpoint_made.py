"""What the checkpoint layouts are made with: a small network of known features, and its keys under prefixes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import timm
import torch
from torch import Tensor, nn

from hardsight.encoders.tv_models import create

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
RESNET = {"arch": "resnet18", "options": {"channels": (8, 16, 24, 32), "layers": (1, 1, 1, 1)}}
VIT = {"arch": "vit_small_patch16_224", "options": {"embed_dim": 48, "depth": 3, "num_heads": 2}, "size": 64, **IMAGENET}
CIFAR = {"arch": "tv:resnet18", "options": {"stem": "cifar"}}
ONE = torch.ones(2, 2)


@dataclass
class Made:
    """stored: what is saved. net: whose features are wanted. told: of `file`, besides the path. left: words of the note.

    first: the key in `stored` of one of its weights; other: that which `network="student"` or "teacher" gives, where there
    are two. mean, std: that the encoder must have.
    """

    stored: dict[str, Any]
    net: nn.Module
    told: dict[str, Any]
    left: tuple[str, ...] = ()
    first: str = ""
    other: tuple[Any, nn.Module] = ("", nn.Identity())
    mean: tuple[float, ...] = IMAGENET["mean"]
    std: tuple[float, ...] = IMAGENET["std"]
    side: int = field(default=64)

    def pooled(self, x: Tensor, net: Any = None) -> Tensor:
        """The network's own features of x in [0, 1]: its class token or mean, before any head."""
        net = net or self.net
        x = (x - torch.tensor(self.mean).view(1, 3, 1, 1)) / torch.tensor(self.std).view(1, 3, 1, 1)
        with torch.no_grad():
            if hasattr(net, "forward_head"):
                return net.forward_head(net.forward_features(x), pre_logits=True)
            return nn.Sequential(*list(net.children())[:-1])(x).flatten(1)


def network(told: Mapping[str, Any], seed: int) -> Any:
    """The network that `file(**told)` would build, every weight and buffer drawn anew."""
    options = dict(told.get("options", {}))
    if told["arch"].startswith("tv:"):
        net = create(told["arch"].removeprefix("tv:"), **options)[0]
    else:
        size = {"img_size": told["size"]} if "size" in told else {}
        net = timm.create_model(told["arch"], **size, **options)
    rng = torch.Generator().manual_seed(seed)
    for name, value in net.state_dict().items():
        if name.endswith("running_var"):
            value.copy_(0.5 + torch.rand(value.shape, generator=rng))
        elif value.is_floating_point() and value.dim() < 2:
            value.add_(0.2 * torch.randn(value.shape, generator=rng))
        elif value.is_floating_point():
            value.copy_(torch.randn(value.shape, generator=rng) * value[0].numel() ** -0.5)
    return net.eval()


def under(
    prefix: str, net: nn.Module | Mapping[str, Tensor], without: tuple[str, ...] = ("fc.", "head.")
) -> dict[str, Tensor]:
    state = net.state_dict() if isinstance(net, nn.Module) else net
    return {prefix + key: value for key, value in state.items() if not key.startswith(without)}


def sequence(net: nn.Module, parts: tuple[str, ...]) -> dict[str, Tensor]:
    """The state of the network's parts as an unnamed sequence."""
    places = {part: place for place, part in enumerate(parts) if part}
    return {
        f"{places[part]}.{rest}": value
        for key, value in net.state_dict().items()
        for part, _, rest in [key.partition(".")]
        if part in places
    }


CHILDREN = ("conv1", "bn1", "", "", "layer1", "layer2", "layer3", "layer4")
OPTIMIZER = {"state": {0: {"exp_avg": ONE}}, "param_groups": [{"lr": 0.1}]}


def pair(
    student: str, teacher: str, evaluated: str, wrap: str, told: dict[str, Any], extra: dict[str, Any], *left: str
) -> Callable[[int], Made]:
    """A layout of two networks, the student's keys under one prefix and the teacher's under another."""

    def make(seed: int) -> Made:
        nets = {"student": network(told, seed), "teacher": network(told, seed + 1)}
        prefixes = {"student": student, "teacher": teacher}
        body = {**under(student, nets["student"]), **under(teacher, nets["teacher"]), **extra}
        stored = {wrap: body, "optimizer": OPTIMIZER, "epoch": 3} if wrap else body
        other = "teacher" if evaluated == "student" else "student"
        first = "patch_embed.proj.weight" if "vit" in told["arch"] else "layer2.0.conv1.weight"
        key = f"{wrap}." * bool(wrap) + prefixes[evaluated] + first
        return Made(stored, nets[evaluated], told, left, key, (other, nets[other]))

    return make


def single(prefix: str, wrap: str, told: dict[str, Any], extra: dict[str, Any], *left: str) -> Callable[[int], Made]:
    """A layout of one network."""

    def make(seed: int) -> Made:
        net = network(told, seed)
        body = {**under(prefix, net), **extra}
        stored = {wrap: body, "optimizer": OPTIMIZER, "epoch": 3, "arch": "resnet18"} if wrap else body
        first = "patch_embed.proj.weight" if "vit" in told["arch"] else "layer2.0.conv1.weight"
        return Made(stored, net, told, left, f"{wrap}." * bool(wrap) + prefix + first)

    return make
