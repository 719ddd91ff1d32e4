"""Several sets of batch norms for one network: clean and adversarial images have different statistics; one set fits neither.

A network's own batch norms are one set; `Norms` holds the others, outside the network. So the network is always an ordinary
one: it can be saved, exported and attacked like any other, and then uses its own set.

    norms = Norms(net, own="adversarial", others=("clean",))
    with norm_as(norms, "clean"):
        net(x)  # normalized by that set, whose statistics are updated in train mode

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
    """Further named sets of a network's batch norms (statistics and affine parameters); `own` is the network's own set.

    They are initialized as copies of its own set. Without batch norms in the network, they are empty and change nothing.
    """

    def __init__(self, net: nn.Module, own: str = "adversarial", others: tuple[str, ...] = ("clean",)) -> None:
        super().__init__()
        self.__dict__["net"] = net  # not registered as a submodule: its weights are not counted, moved or saved twice
        self.own = own
        self.places = [name for name, part in net.named_modules() if isinstance(part, _BatchNorm)]
        self.sets = nn.ModuleDict(
            {name: nn.ModuleList(copy.deepcopy(net.get_submodule(place)) for place in self.places) for name in others}
        )

    def under(self, prefix: str) -> list[nn.ModuleList]:
        """The batch norms of each further set under the submodule named by this prefix, in the network's order."""
        within = [n for n, place in enumerate(self.places) if place == prefix or place.startswith(f"{prefix}.")]
        return [nn.ModuleList(group[n] for n in within) for group in self.sets.values()]  # type: ignore[index]


@contextmanager
def norm_as(norms: Norms, name: str) -> Iterator[None]:
    """Context in which the network normalizes with that set; `SpecError` if there is no such set."""
    if name != norms.own and name not in norms.sets:
        raise SpecError(f"there is no batch norm '{name}'; this network has {', '.join([norms.own, *norms.sets])}")
    parts: list[nn.Module] = [norms.__dict__["net"].get_submodule(place) for place in norms.places]
    before = [part.__dict__.get("forward") for part in parts]
    taken = [None] * len(parts) if name == norms.own else [other.forward for other in norms.sets[name]]  # type: ignore[union-attr]
    try:
        _set_forwards(parts, taken)
        yield
    finally:
        _set_forwards(parts, before)


def _set_forwards(parts: list[nn.Module], forwards: list) -> None:
    """Replaces each module's `forward` by the given function, or restores its own if that is None."""
    for part, forward in zip(parts, forwards, strict=True):
        if forward is None:
            part.__dict__.pop("forward", None)
        else:
            part.__dict__["forward"] = forward
