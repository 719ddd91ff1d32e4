"""Several batch norms for one network: clean and adversarial images have other statistics, and one set fits neither.

A network's own batch norms are one set; `Norms` holds the others beside it, outside of the network. So the network is an
ordinary one at any time: it can be saved, exported and attacked without knowing of the sets, and it then uses its own.

    norms = Norms(net, own="adversarial", others=("clean",))
    with norm_as(norms, "clean"):
        net(x)  # normalized by the other set, whose statistics move in train mode

Source: Xie et al., CVPR 2020 (AdvProp); Jiang et al., NeurIPS 2020 (ACL).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from hardsight.core.errors import SpecError


class Norms(nn.Module):
    """Further sets of a network's batch norms, statistics and affine parameters, each by its name; `own` is the network's.

    They start as copies of its own. A network without batch norms has nothing to tell apart, and every name means itself.
    """

    def __init__(self, net: nn.Module, own: str = "adversarial", others: tuple[str, ...] = ("clean",)) -> None:
        super().__init__()
        self.__dict__["net"] = net  # named, not owned: its weights are not counted, moved or saved twice
        self.own = own
        self.places = [name for name, part in net.named_modules() if isinstance(part, _BatchNorm)]
        self.sets = nn.ModuleDict(
            {name: nn.ModuleList(copy.deepcopy(net.get_submodule(place)) for place in self.places) for name in others}
        )

    def under(self, prefix: str) -> list[nn.ModuleList]:
        """Of each further set, the batch norms of the part of the network that this prefix names, in the network's order."""
        within = [n for n, place in enumerate(self.places) if place == prefix or place.startswith(f"{prefix}.")]
        return [nn.ModuleList(group[n] for n in within) for group in self.sets.values()]  # type: ignore[index]


@contextmanager
def norm_as(norms: Norms, name: str) -> Iterator[None]:
    """The network normalizes with that set within, and as before after it; `SpecError` where there is no such set."""
    if name != norms.own and name not in norms.sets:
        raise SpecError(f"there is no batch norm '{name}'; this network has {', '.join([norms.own, *norms.sets])}")
    parts: list[nn.Module] = [norms.__dict__["net"].get_submodule(place) for place in norms.places]
    before = [part.__dict__.get("forward") for part in parts]
    taken = [None] * len(parts) if name == norms.own else [other.forward for other in norms.sets[name]]  # type: ignore[union-attr]
    try:
        _forward_by(parts, taken)
        yield
    finally:
        _forward_by(parts, before)


def _forward_by(parts: list[nn.Module], forwards: list) -> None:
    """Each module answers by that function, or by its own where it is None."""
    for part, forward in zip(parts, forwards, strict=True):
        if forward is None:
            part.__dict__.pop("forward", None)
        else:
            part.__dict__["forward"] = forward
