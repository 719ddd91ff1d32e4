"""RobustBench's model zoo, read from its checkpoint files: `robustbench:Carmon2019Unlabeled(path='Carmon2019Unlabeled.pt')`.

Source: RobustBench/robustbench, robustbench/model_zoo (cifar10.py, cifar100.py, imagenet.py, architectures/) and utils.py. The
package itself isn't needed. Depth, width, classes and the kind of network are read off the file: five layouts of pre-activation
networks are one network here, the others are torchvision's. Only the normalization, which that package keeps in its code, is
listed by name.
differs: the last map is averaged over its whole extent, where the zoo's networks pool 8 x 8 (or 4 x 4) cells: the same at 32
pixels.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from hardsight.core.errors import SpecError, WeightsError, nearest
from hardsight.encoders import tv_models
from hardsight.encoders.adapt import Staged, classes_of, finish, seeded
from hardsight.encoders.base import IMAGENET_MEAN, IMAGENET_STD, Encoder
from hardsight.encoders.checkpoint import file
from hardsight.encoders.weights_file import State, read_weights, tensors_in
from hardsight.specs.catalog import register

Normalization = tuple[tuple[float, ...], tuple[float, ...]]
NONE: Normalization = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
HALF: Normalization = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
CIFAR10: Normalization = ((0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616))
MADRY: Normalization = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
RONY: Normalization = ((0.491, 0.482, 0.447), (0.247, 0.243, 0.262))
AUGUSTIN: Normalization = (
    (0.4913997551666284, 0.48215855929893703, 0.4465309133731618),
    (0.24703225141799082, 0.24348516474564, 0.26158783926049628),
)
CHEN: Normalization = ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761))
DM100: Normalization = ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))
RICE: Normalization = (
    (0.5070751592371323, 0.48654887331495095, 0.4409178433670343),
    (0.2673342858792401, 0.2564384629170883, 0.27615047132568404),
)

# fmt: off
PLAIN = (
    "Andriushchenko2020Understanding", "Carmon2019Unlabeled", "Sehwag2020Hydra", "Wang2020Improving", "Zhang2019Theoretically",
    "Huang2020Self", "Zhang2019You", "Zhang2020Attacks", "Wu2020Adversarial_extra", "Wu2020Adversarial", "Sehwag2021Proxy",
    "Sehwag2021Proxy_R18", "Sitawarin2020Improving", "Cui2020Learnable_34_20", "Cui2020Learnable_34_10", "Zhang2020Geometry",
    "Sridhar2021Robust", "Sridhar2021Robust_34_15", "Addepalli2021Towards_RN18", "Addepalli2021Towards_WRN34",
    "Chen2021LTD_WRN34_10", "Chen2021LTD_WRN34_20", "Standard", "Jia2022LAS-AT_34_10", "Jia2022LAS-AT_70_16",
    "Addepalli2022Efficient_RN18", "Addepalli2022Efficient_WRN_34_10",
)
DEEPMIND = (
    "Gowal2020Uncovering", "Gowal2020Uncovering_extra", "Gowal2020Uncovering_70_16", "Gowal2020Uncovering_70_16_extra",
    "Gowal2020Uncovering_34_20", "Gowal2020Uncovering_28_10_extra", "Rebuffi2021Fixing_28_10_cutmix_ddpm",
    "Rebuffi2021Fixing_106_16_cutmix_ddpm", "Rebuffi2021Fixing_70_16_cutmix_ddpm", "Rebuffi2021Fixing_70_16_cutmix_extra",
    "Rebuffi2021Fixing_70_16_cutmix_extra_Linf", "Rebuffi2021Fixing_70_16_cutmix_extra_L2", "Rebuffi2021Fixing_R18_ddpm",
    "Rebuffi2021Fixing_R18_cutmix_ddpm", "Rade2021Helper_R18_extra", "Rade2021Helper_R18_ddpm", "Rade2021Helper_extra",
    "Rade2021Helper_ddpm", "Gowal2021Improving_70_16_ddpm_100m", "Gowal2021Improving_28_10_ddpm_100m",
    "Gowal2021Improving_R18_ddpm_100m", "Pang2022Robustness_WRN28_10", "Pang2022Robustness_WRN70_16", "Wang2023Better_WRN-28-10",
    "Wang2023Better_WRN-70-16", "Xu2023Exploring_WRN-28-10",
)
DEEPMIND100 = (
    "Gowal2020Uncovering", "Gowal2020Uncovering_extra", "Gowal2020Uncovering_Linf", "Gowal2020Uncovering_extra_Linf",
    "Rebuffi2021Fixing_70_16_cutmix_ddpm", "Rebuffi2021Fixing_28_10_cutmix_ddpm", "Rebuffi2021Fixing_R18_ddpm",
    "Rade2021Helper_R18_ddpm",
)
AUGUSTINS = ("Augustin2020Adversarial", "Augustin2020Adversarial_34_10", "Augustin2020Adversarial_34_10_extra")
CUIS = ("Cui2020Learnable_34_20_LBGAT6", "Cui2020Learnable_34_10_LBGAT0", "Cui2020Learnable_34_10_LBGAT6")
KIREEV = tuple(
    f"Kireev2021Effectiveness_{one}" for one in ("Gauss50percent", "AugMixNoJSD", "RLAT", "RLATAugMixNoJSD", "RLATAugMix")
)
RESNET50 = (
    "Wong2020Fast", "Engstrom2019Robustness", "Salman2020Do_R50", "Erichson2022NoisyMix", "Erichson2022NoisyMix_new",
    "Geirhos2018_SIN", "Geirhos2018_SIN_IN", "Geirhos2018_SIN_IN_IN", "Hendrycks2020Many", "Hendrycks2020AugMix",
)
LISTED: dict[str, dict[str, Normalization]] = {
    "cifar10": {
        **dict.fromkeys(PLAIN, NONE), **dict.fromkeys((*DEEPMIND, *KIREEV), CIFAR10),
        **dict.fromkeys(("Rice2020Overfitting", "Wong2020Fast", "Chen2020Efficient"), CIFAR10),
        **dict.fromkeys(("Hendrycks2019Using", "Hendrycks2020AugMix_WRN", "Modas2021PRIMEResNet18"), HALF),
        **dict.fromkeys(AUGUSTINS, AUGUSTIN),
        "Engstrom2019Robustness": MADRY, "Rony2019Decoupling": RONY,
    },
    "cifar100": {
        **dict.fromkeys(CUIS, NONE), **dict.fromkeys(("Sitawarin2020Improving", "Addepalli2021Towards_PARN18", "Addepalli2021Towards_WRN34"), NONE),
        **dict.fromkeys(DEEPMIND100, DM100), **dict.fromkeys(("Rice2020Overfitting", "Wu2020Adversarial"), RICE),
        **dict.fromkeys(("Hendrycks2019Using", "Hendrycks2020AugMix_WRN"), HALF),
        "Chen2021LTD_WRN34_10": NONE, "Chen2020Efficient": CHEN,
    },
}
"""The normalization that a network applies where its file holds none, by data set and the zoo's name."""
IMAGENET = {
    **dict.fromkeys(RESNET50, "resnet50"),
    "Salman2020Do_R18": "resnet18", "Salman2020Do_50_2": "wide_resnet50_2", "Salman2020Do_50_2_Linf": "wide_resnet50_2",
}
"""ImageNet's networks are torchvision's."""
# fmt: on

BLOCK = {
    "convShortcut": "shortcut", "batchnorm_0": "bn1", "batchnorm_1": "bn2", "conv_0": "conv1", "conv_1": "conv2",
    "conv_2d_1": "conv1", "conv_2d_2": "conv2", "shortcut.0": "shortcut",
}  # fmt: skip


@dataclass(frozen=True)
class Layout:
    """How a kind of pre-activation network names its parts, and how it computes.

    mark: a key that none of those below it has. parts: stem, last norm and classifier. group: of a block's keys, with
    its group, counted from `first`, its place and the part. act: the activation. raw: a shortcut reads the block's input before
    its activation. same: convolutions of stride 2 are padded on the right and at the bottom only.
    """

    name: str
    mark: str
    parts: tuple[str, str, str]
    group: str
    first: int
    act: type[nn.Module] = nn.ReLU
    raw: bool = False
    same: bool = False


LAYOUTS = (
    Layout("TRADES' WideResNet", "block1.layer.0.conv1.weight", ("conv1", "bn1", "fc"), r"block(\d)\.layer\.(\d+)\.(.+)", 1),
    Layout("DeepMind's WideResNet", "init_conv.weight", ("init_conv", "batchnorm", "logits"), r"layer\.(\d)\.block\.(\d+)\.(.+)", 0, nn.SiLU, same=True),
    Layout("DeepMind's PreActResNet", "conv_2d.weight", ("conv_2d", "batchnorm", "logits"), r"layer_(\d)\.(\d+)\.(.+)", 0, nn.SiLU, True, True),
    Layout("PreActResNet with a last norm", "bn.weight", ("conv1", "bn", "linear"), r"layer(\d)\.(\d+)\.(.+)", 1),
    Layout("PreActResNet", "linear.weight", ("conv1", "bn", "linear"), r"layer(\d)\.(\d+)\.(.+)", 1, raw=True),
)  # fmt: skip


@register
def robustbench(
    name: str,
    path: str = "",
    data: Literal["cifar10", "cifar100", "imagenet"] = "cifar10",
    threat: Literal["Linf", "L2", "corruptions"] = "Linf",
    layers: tuple[int, ...] = (-1,),
    resize: int | None = None,
) -> Encoder:
    """A network of RobustBench's zoo from its checkpoint, with its own classifier; robustbench:Carmon2019Unlabeled.

    path: of the file; by default where that package keeps it, models/DATA/THREAT/NAME.pt. layers: of CIFAR's networks the
    stem and each group of blocks. Raises `SpecError` (an unknown name, or a network of another kind), `WeightsError`.
    """
    known = LISTED.get(data, IMAGENET)
    if name not in known:
        raise SpecError(
            f"robustbench:{name} of {data} is not one of the networks that are read here{nearest(name, known)}; with the package "
            "robustbench installed, any other loads by python:FILE:FUNCTION(trust=True)"
        )
    place = Path(os.path.expandvars(path or f"models/{data}/{threat}/{name}.pt")).expanduser()
    source = f"robustbench:{name}({data}, {threat})"
    if data == "imagenet":
        size = 288 if name.startswith("Wong") else 224
        made = file(str(place), f"tv:{IMAGENET[name]}", size=size, layers=layers, mean=IMAGENET_MEAN, std=IMAGENET_STD)
        return made.with_card(name=name, source=source, resize=resize)
    stored = tensors_in(read_weights(place), place)
    state, own = _plain(stored)
    mean, std = own or known[name]
    body, arch = _network(state, place)
    note = f"{arch}; " + ("normalizes as the file says" if own else "normalization of RobustBench's code")
    return finish(
        body, name, arch, source, layers, 32, 32,
        mean=mean, std=std, classes=classes_of(body.head), note=note, resize=resize,
    )  # fmt: skip


def _plain(stored: State) -> tuple[State, Normalization | None]:
    """The network's keys without wrappers, and the normalization among them; of "last" and "best" the last, as that package takes."""
    if any(key.startswith("last.") for key in stored):
        stored = {key: value for key, value in stored.items() if key.startswith("last.")}
    state = {
        re.sub(r"^((state_dict|last|module|model|model_state_dict)\.)+", "", key): value for key, value in stored.items()
    }
    found = []
    for pair in (("mu", "sigma"), ("mean", "std"), ("normalize.mean", "normalize.std")):
        values = [state.pop(key).flatten().tolist() for key in pair if key in state]
        found += [values] if len(values) == 2 and all(len(one) == 3 for one in values) else []
    return state, (tuple(found[0][0]), tuple(found[0][1])) if found else None


def _network(state: State, place: Path) -> tuple[Staged, str]:
    """The body with the file's weights, and the name of its architecture; `WeightsError` if any weight is left over or missing."""
    state = {
        key: value for key, value in state.items() if not key.startswith("sub_block1.")
    }  # never used by its own forward pass
    if "bn1.weight" in state and "linear.weight" in state:
        return _post(state, place)
    layout = next((one for one in LAYOUTS if one.mark in state), None)
    if layout is None:
        listed = ", ".join(list(state)[:4])
        raise WeightsError(f"{place} has none of the layouts of RobustBench's CIFAR networks; its keys begin {listed}")
    renamed: State = {}
    for key, value in state.items():
        if match := re.fullmatch(layout.group, key):
            part, _, kind = match[3].rpartition(".")
            key = f"groups.{int(match[1]) - layout.first}.{match[2]}.{BLOCK.get(part, part)}.{kind}"
        else:
            part, _, kind = key.rpartition(".")
            key = f"{dict(zip(layout.parts, ('stem', 'norm', 'head'), strict=True)).get(part, part)}.{kind}"
        renamed[key] = value
    with seeded(0):
        net = PreActivation(renamed, layout)
    _load(net, renamed, place, layout.name)
    depth = sum(isinstance(part, Block) for part in net.modules())
    stages = [net.stem, *net.groups[:-1], nn.Sequential(net.groups[-1], net.norm)]
    return Staged(stages, _Mean(), net.head, layout.name), f"{layout.name}, {depth} blocks, {net.head.in_features} channels"


def _post(state: State, place: Path) -> tuple[Staged, str]:
    """ResNets of kuangliu/pytorch-cifar: torchvision's, with a stem for 32 pixels and other names."""
    bottleneck = "layer1.0.conv3.weight" in state
    name = "resnet50" if bottleneck else "resnet18"
    net, _ = tv_models.create(name, classes=len(state["linear.weight"]), stem="cifar")
    renamed = {re.sub(r"^linear\.", "fc.", key.replace(".shortcut.", ".downsample.")): value for key, value in state.items()}
    _load(net, renamed, place, f"{name} with a stem for 32 pixels")
    body = tv_models.body_of(net.eval(), name)
    assert isinstance(body, Staged)
    return body, f"{name}, CIFAR stem"


def _load(net: nn.Module, state: State, place: Path, what: str) -> None:
    wanted = {key: value.shape for key, value in net.state_dict().items() if not key.endswith("num_batches_tracked")}
    found = {key: value.shape for key, value in state.items() if not key.endswith("num_batches_tracked")}
    wrong = sorted(key for key in wanted.keys() | found.keys() if wanted.get(key) != found.get(key))
    if wrong:
        raise WeightsError(
            f"{place} does not fit {what}: {len(wrong)} weights are missing, left over or of another shape ({', '.join(wrong[:3])})"
        )
    net.load_state_dict({key: state[key] for key in wanted}, strict=False)


class _Mean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


class PreActivation(nn.Module):
    """A residual network with norm and activation before each convolution; its shapes are those of `state`."""

    def __init__(self, state: State, layout: Layout) -> None:
        super().__init__()
        wide, before = state["stem.weight"].shape[:2] if "stem.weight" in state else (16, 3)
        self.stem = nn.Conv2d(before, wide, 3, 1, 1, bias=False)
        places: dict[int, set[int]] = {}
        for key in state:
            if match := re.match(r"groups\.(\d+)\.(\d+)\.", key):
                places.setdefault(int(match[1]), set()).add(int(match[2]))
        self.groups = nn.ModuleList(
            nn.Sequential(
                *(Block(state, f"groups.{group}.{at}.", 1 if at or not group else 2, layout) for at in sorted(taken))
            )
            for group, taken in sorted(places.items())
        )
        self.norm = nn.Sequential()
        if "norm.weight" in state:
            self.norm = Norm(len(state["norm.weight"]), layout.act)
        classes, inner = state["head.weight"].shape if "head.weight" in state else (1, 1)
        self.head = nn.Linear(inner, classes, bias="head.bias" in state)


class Norm(nn.BatchNorm2d):
    """Batch norm, then the activation."""

    def __init__(self, channels: int, act: type[nn.Module]) -> None:
        super().__init__(channels)
        self.act = act()

    def forward(self, input: Tensor) -> Tensor:
        return self.act(super().forward(input))


class Block(nn.Module):
    def __init__(self, state: State, prefix: str, stride: int, layout: Layout) -> None:
        super().__init__()
        shapes = [state.get(f"{prefix}{one}.weight") for one in ("conv1", "conv2", "shortcut")]
        if shapes[0] is None or shapes[1] is None:
            raise WeightsError(f"the checkpoint's block {prefix.rstrip('.')} lacks a convolution")
        (middle, before), (after, _) = shapes[0].shape[:2], shapes[1].shape[:2]
        self.same, self.raw, self.stride = layout.same and stride == 2, layout.raw, stride
        pad = 0 if self.same else 1
        self.bn1, self.bn2 = Norm(before, layout.act), Norm(middle, layout.act)
        self.conv1 = nn.Conv2d(before, middle, 3, stride, pad, bias=False)
        self.conv2 = nn.Conv2d(middle, after, 3, 1, 1, bias=False)
        self.shortcut, self.side = None, 1
        if shapes[2] is not None:
            self.side = shapes[2].shape[-1]
            self.shortcut = nn.Conv2d(before, after, self.side, stride, 0 if self.side == 1 else pad, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        ready = self.bn1(x)
        out = self.conv2(self.bn2(self.conv1(self._padded(ready))))
        if self.shortcut is None:
            return x + out
        given = x if self.raw else ready
        return self.shortcut(self._padded(given) if self.side == 3 else given) + out

    def _padded(self, x: Tensor) -> Tensor:
        return F.pad(x, (0, 1, 0, 1)) if self.same else x
