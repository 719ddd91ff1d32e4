"""torch.hub: `hub:facebookresearch/dino:dino_vits16(trust=True)`, or a local clone, `hub:/src/dinov2:dinov2_vits14`.

torch.hub always runs the repository's own code on this machine. A remote repository is therefore loaded only with
trust=True. The model is adapted by its methods and submodules, not by its name.
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
from hardsight.encoders.base import IMAGENET_MEAN, IMAGENET_STD, BodyOutput, Encoder
from hardsight.encoders.prepared import Prepared, of_timm
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
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
) -> Encoder:
    """A model of a torch.hub repository, whose `hubconf.py` is RUN, with all rights of this process.

    entry: `ORG/REPO:NAME` or `ORG/REPO:BRANCH:NAME` on GitHub, or `/FOLDER:NAME` for a local clone. trust: must be True for
    a remote repository. options: arguments of the entry (`{'pretrained': False}`). size: recorded on the card. seed: of
    weights that the entry leaves random. mean, std: None is what a model of timm says, else ImageNet's, noted on the card:
    torch.hub doesn't provide a model's own.
    Supported: models with `get_intermediate_layers` (DINO, DINOv2), `forward_intermediates` (timm) or torchvision's parts.
    Raises `SpecError` (not trusted, no such entry, an unsupported model), `WeightsError` (it could not be loaded).
    """
    repo, name, local = _parted(entry)
    if not local and not trust:
        raise SpecError(
            f"hub:{entry} would run the code of github.com/{repo} on this machine; set trust=True if you trust it"
        )
    model = _load(repo, name, local, dict(options or {}), seed)
    if not isinstance(model, nn.Module):
        raise SpecError(f"hub:{entry} returns a {type(model).__name__}, not a network; use another entry")
    body: Any = adapted(model.eval(), name)
    dry = 4 * body.multiple if body.multiple > 1 else size
    classes = getattr(body, "classes", 0) or classes_of(getattr(body, "head", None))
    cfg = getattr(model, "pretrained_cfg", None)
    said = of_timm(cfg) if cfg else Prepared("", IMAGENET_MEAN, IMAGENET_STD, note="ImageNet's mean and std")
    known = {"mean": mean or said.mean, "std": std or said.std, "resize": resize, "classes": classes}
    known |= {"preprocess": said.preprocess, "note": said.note if mean is None or std is None else ""}
    return finish(body, name, type(model).__name__, f"hub:{entry}", layers, size, dry, **known)


class DinoBody(nn.Module):
    """Models with `get_intermediate_layers`: DINO returns tokens of the last n blocks, DINOv2 maps of the requested blocks.

    Pooled is the class token of the last block; all layers are after the final norm, as in both repositories.
    """

    def __init__(self, model: Any, name: str) -> None:
        super().__init__()
        self.model: Any = model
        self.name = name
        self.depth = int(getattr(model, "n_blocks", 0) or len(model.blocks))
        patch = getattr(model, "patch_size", None) or model.patch_embed.patch_size
        self.multiple = int(patch[0] if isinstance(patch, tuple | list) else patch)
        self.maps = "return_class_token" in inspect.signature(model.get_intermediate_layers).parameters

    def forward(self, pixels: Tensor, layers: tuple[int, ...]) -> BodyOutput:
        wanted = positions(layers, self.depth, self.name)
        last = self.depth - 1
        if self.maps:
            taken = sorted({*wanted, last})
            found = self.model.get_intermediate_layers(pixels, n=taken, reshape=True, return_class_token=True, norm=True)
            at = dict(zip(taken, found, strict=True))
            return BodyOutput(at[last][1], tuple(at[layer][0] for layer in wanted), None)
        count = self.depth - min(wanted, default=last)
        tokens = dict(
            zip(range(self.depth - count, self.depth), self.model.get_intermediate_layers(pixels, count), strict=True)
        )
        grid = tuple(side // self.multiple for side in pixels.shape[-2:])
        front = tokens[last].shape[1] - grid[0] * grid[1]
        maps = tuple(tokens[layer][:, front:].transpose(1, 2).unflatten(2, grid) for layer in wanted)
        return BodyOutput(tokens[last][:, 0], maps, None)


def adapted(model: Any, name: str) -> nn.Module:
    """The body of a model of timm, DINO or torchvision, told by its methods and parts; `SpecError` for any other."""
    if hasattr(model, "forward_intermediates") and hasattr(model, "feature_info"):
        return TimmBody(model, name)
    if hasattr(model, "get_intermediate_layers") and hasattr(model, "patch_embed"):
        return DinoBody(model, name)
    try:
        return body_of(model, name)
    except SpecError as error:
        parts = ", ".join(part for part, _ in model.named_children())
        raise SpecError(
            f"hub's {name} has no get_intermediate_layers, forward_intermediates or torchvision structure (parts: {parts})"
        ) from error


def _parted(entry: str) -> tuple[str, str, bool]:
    """Splits an entry into the repository or folder, the entry's name, and whether it is a folder."""
    repo, colon, name = entry.rpartition(":")
    if not colon or not name or not repo:
        raise SpecError(f"'hub:{entry}' lacks the entry's name; write hub:ORG/REPO:NAME or hub:/FOLDER:NAME")
    place = Path(repo).expanduser()
    if (place / "hubconf.py").is_file():
        return str(place), name, True
    if place.is_absolute() or repo.startswith((".", "~")):
        raise WeightsError(f"there is no hubconf.py in {place}, so it is not a torch.hub repository")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+(:[\w./-]+)?", repo):
        raise SpecError(f"'{repo}' is neither a folder nor ORG/REPO; write hub:ORG/REPO:NAME or hub:/FOLDER:NAME")
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
    """Public names in a local repository's `hubconf.py`, found by parsing it; empty if a star import hides some."""
    tree = ast.parse((Path(folder) / "hubconf.py").read_text(encoding="utf-8"))
    found = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
    for node in tree.body:
        if isinstance(node, ast.ImportFrom):
            found += [alias.asname or alias.name for alias in node.names]
        elif isinstance(node, ast.Assign):
            found += [target.id for target in node.targets if isinstance(target, ast.Name)]
    return [] if "*" in found else [name for name in found if not name.startswith("_")]
