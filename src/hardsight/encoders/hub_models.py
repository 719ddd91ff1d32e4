"""torch.hub: `hub:facebookresearch/dino:dino_vits16(trust=True)`, or a local clone, `hub:/src/dinov2:dinov2_vits14`.

torch.hub runs the repository's own code on this machine; that is what torch.hub is. A remote repository is therefore loaded
only with trust=True. What comes out is adapted by what it can do, not by who made it.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hardsight.core.errors import SpecError, WeightsError, nearest
from hardsight.encoders.adapt import classes_of, downloading, finish, positions, seeded
from hardsight.encoders.base import Encoder, Seen
from hardsight.encoders.timm_models import TimmBody
from hardsight.encoders.tv_models import body_of
from hardsight.specs.catalog import register


@register
def hub(
    entry: str,
    trust: bool = False,
    options: dict[str, object] | None = None,
    size: int = 224,
    resize: int | None = None,
    layers: tuple[int, ...] = (-1,),
    seed: int = 0,
    mean: tuple[float, ...] = (0.485, 0.456, 0.406),
    std: tuple[float, ...] = (0.229, 0.224, 0.225),
) -> Encoder:
    """A model of a torch.hub repository, whose `hubconf.py` is RUN, with all rights of this process.

    entry: `ORG/REPO:NAME` or `ORG/REPO:BRANCH:NAME` on GitHub, or `/FOLDER:NAME` for a local clone. trust: needs to be
    True for a remote repository. options: arguments of the entry (`{'pretrained': False}`). size: what the card says. seed:
    of weights that the entry leaves random. mean, std: hubs don't tell theirs; ImageNet's, unless given.
    Models with `get_intermediate_layers` (DINO, DINOv2), `forward_intermediates` (timm's way) or a torchvision shape fit.
    Raises `SpecError` (not trusted, no such entry, a model of another kind), `WeightsError` (it could not be loaded).
    """
    repo, name, local = _parted(entry)
    if not local and not trust:
        raise SpecError(
            f"hub:{entry} would run the code of github.com/{repo} on this machine; say trust=True if you trust it"
        )
    model = _load(repo, name, local, dict(options or {}), seed)
    if not isinstance(model, nn.Module):
        raise SpecError(f"hub:{entry} gives a {type(model).__name__}, not a network")
    body: Any = _adapted(model.eval(), name)
    dry = 4 * body.multiple if body.multiple > 1 else size
    classes = getattr(body, "classes", 0) or classes_of(getattr(body, "head", None))
    known = {"mean": mean, "std": std, "resize": resize, "classes": classes}
    return finish(body, name, type(model).__name__, f"hub:{entry}", layers, size, dry, **known)


class DinoBody(nn.Module):
    """Models with `get_intermediate_layers`: DINO's tokens of the last n blocks, DINOv2's maps of the blocks asked for.

    Pooled is the class token of the last block; every layer is under the final norm, as both repositories have it.
    """

    def __init__(self, model: Any, name: str) -> None:
        super().__init__()
        self.model: Any = model
        self.name = name
        self.depth = int(getattr(model, "n_blocks", 0) or len(model.blocks))
        patch = getattr(model, "patch_size", None) or model.patch_embed.patch_size
        self.multiple = int(patch[0] if isinstance(patch, tuple | list) else patch)
        self.maps = "return_class_token" in inspect.signature(model.get_intermediate_layers).parameters

    def forward(self, pixels: Tensor, layers: tuple[int, ...]) -> Seen:
        wanted = positions(layers, self.depth, self.name)
        last = self.depth - 1
        if self.maps:
            taken = sorted({*wanted, last})
            found = self.model.get_intermediate_layers(pixels, n=taken, reshape=True, return_class_token=True, norm=True)
            at = dict(zip(taken, found, strict=True))
            return Seen(at[last][1], tuple(at[layer][0] for layer in wanted), None)
        count = self.depth - min(wanted, default=last)
        tokens = dict(
            zip(range(self.depth - count, self.depth), self.model.get_intermediate_layers(pixels, count), strict=True)
        )
        grid = tuple(side // self.multiple for side in pixels.shape[-2:])
        front = tokens[last].shape[1] - grid[0] * grid[1]
        maps = tuple(tokens[layer][:, front:].transpose(1, 2).unflatten(2, grid) for layer in wanted)
        return Seen(tokens[last][:, 0], maps, None)


def _adapted(model: Any, name: str) -> nn.Module:
    if hasattr(model, "forward_intermediates") and hasattr(model, "feature_info"):
        return TimmBody(model, name)
    if hasattr(model, "get_intermediate_layers") and hasattr(model, "patch_embed"):
        return DinoBody(model, name)
    try:
        return body_of(model, name)
    except SpecError as error:
        parts = ", ".join(part for part, _ in model.named_children())
        raise SpecError(
            f"hub's {name} has no get_intermediate_layers, no forward_intermediates, no torchvision shape (parts: {parts})"
        ) from error


def _parted(entry: str) -> tuple[str, str, bool]:
    """Repository or folder, name of the entry, and whether it is a folder."""
    repo, colon, name = entry.rpartition(":")
    if not colon or not name or not repo:
        raise SpecError(f"'hub:{entry}' lacks the entry's name; write hub:ORG/REPO:NAME or hub:/FOLDER:NAME")
    place = Path(repo).expanduser()
    if (place / "hubconf.py").is_file():
        return str(place), name, True
    if place.is_absolute() or repo.startswith((".", "~")):
        raise WeightsError(f"there is no hubconf.py in {place}, so it is no torch.hub repository")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+(:[\w./-]+)?", repo):
        raise SpecError(f"'{repo}' is neither a folder nor ORG/REPO")
    return repo, name, False


def _load(repo: str, name: str, local: bool, options: Mapping[str, Any], seed: int) -> object:
    source = "local" if local else "github"
    where = f"hub:{repo}:{name}"
    with seeded(seed):
        if local:
            try:
                known = _entries(repo)
                if known and name not in known:
                    raise SpecError(f"{repo} has no entry '{name}'{nearest(name, known) or f'; it has {known}'}")
                return torch.hub.load(repo, name, source=source, **options)
            except (SpecError, WeightsError):
                raise
            except Exception as error:
                reason = " ".join(str(error).split())[:200]
                raise WeightsError(f"{where} failed while its own code ran: {type(error).__name__}: {reason}") from error
        with downloading(where, "a local clone with hub:/FOLDER:NAME", "github.com"):
            return torch.hub.load(repo, name, source=source, trust_repo=True, **options)  # pyright: ignore[reportArgumentType]


def _entries(folder: str) -> list[str]:
    """Public names of a local repository's `hubconf.py`, found by reading it; none where a star import hides some."""
    tree = ast.parse((Path(folder) / "hubconf.py").read_text(encoding="utf-8"))
    found = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
    for node in tree.body:
        if isinstance(node, ast.ImportFrom):
            found += [alias.asname or alias.name for alias in node.names]
        elif isinstance(node, ast.Assign):
            found += [target.id for target in node.targets if isinstance(target, ast.Name)]
    return [] if "*" in found else [name for name in found if not name.startswith("_")]
