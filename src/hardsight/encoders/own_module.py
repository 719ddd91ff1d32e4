"""A module of one's own: `python:models.py:make(trust=True)` calls the function `make` of the file models.py.

The file is run with all rights of this process, so only with trust=True. What the function returns is adapted by its methods
and submodules, as a model of torch.hub is; any other module is used by its output alone.
"""

from __future__ import annotations

import ast
import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hardsight.core.errors import SpecError, WeightsError, nearest
from hardsight.encoders.adapt import classes_of, finish, seeded
from hardsight.encoders.base import BodyOutput, Encoder
from hardsight.encoders.hub_models import adapted
from hardsight.encoders.prepared import Prepared, of_timm
from hardsight.specs.catalog import register


@register
def python(
    entry: str,
    trust: bool = False,
    options: dict[str, object] | None = None,
    size: int = 224,
    resize: int | None = None,
    layers: tuple[int, ...] = (-1,),
    seed: int = 0,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    logits: bool = False,
) -> Encoder:
    """A module of your own: `FILE:FUNCTION`, where FILE is a Python file that is RUN, with all rights of this process.

    trust: must be True. options: arguments of the function, or of a class. seed: of weights that it leaves random. size: the
    side of the images that it is tried with. mean, std: None is what a model of timm says, else none: it gets pixels in [0, 1].
    Supported: what `hub` supports, an encoder of this package, and any module whose output for [B, 3, H, W] is [B, D], pooled
    features, or [B, D, h, w], dense ones, whose mean is pooled. logits: its output [B, K] are the logits of its own classifier.
    Raises `SpecError` (not trusted, no such function, not a module, another output), `WeightsError` (no file, its code failed).
    """
    text, colon, name = entry.rpartition(":")
    if not colon or not text or not name:
        raise SpecError(f"'python:{entry}' lacks the function's name; write python:FILE:FUNCTION(trust=True)")
    if not trust:
        raise SpecError(f"python:{entry} would run the code of {text} on this machine; set trust=True if you trust it")
    model: Any = _made(Path(os.path.expandvars(text)).expanduser(), name, dict(options or {}), seed)
    if isinstance(model, Encoder):
        return model.eval()
    if not isinstance(model, nn.Module):
        raise SpecError(
            f"python:{entry} returns a {type(model).__name__}; it should return a torch.nn.Module that takes images [B, 3, H, W]"
        )
    model.eval()
    cfg = getattr(model, "pretrained_cfg", None)
    said = of_timm(cfg) if cfg else Prepared("", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    known: dict[str, Any] = {"mean": mean or said.mean, "std": std or said.std, "preprocess": said.preprocess}
    body, dry = _body(model, entry, resize or size, logits)
    if isinstance(body, Output):
        layers = layers if body.depth else ()
        classes = body.classes
    else:
        classes = getattr(body, "classes", 0) or classes_of(getattr(body, "head", None))
    known |= {"resize": resize, "classes": classes, "note": f"the code of {Path(text).name}"}
    return finish(body, name, type(model).__name__, f"python:{entry}", layers, size, dry, **known)


class Output(nn.Module):
    """Body of any module, read by its output alone: [B, D] is pooled, [B, D, h, w] the one map, or [B, K] logits.

    like: an output, for its shape.
    """

    multiple = 1

    def __init__(self, model: nn.Module, like: Tensor, logits: bool) -> None:
        super().__init__()
        self.model = model
        self.depth, self.classes = int(like.dim() == 4), like.shape[1] if logits else 0

    def forward(self, pixels: Tensor, layers: tuple[int, ...]) -> BodyOutput:
        found = self.model(pixels)
        pooled = found.mean((2, 3)) if self.depth else found
        return BodyOutput(pooled, tuple(found for _ in layers), pooled if self.classes else None)

    def classify(self, trunk: Tensor) -> Tensor:
        return trunk


def _body(model: nn.Module, entry: str, side: int, logits: bool) -> tuple[Any, int]:
    """The body, and the side of the image with which its card is filled in."""
    if not logits:
        try:
            body: Any = adapted(model, entry)
            return body, 4 * body.multiple if body.multiple > 1 else side
        except SpecError:
            pass  # of no known structure: its output is all there is
    try:
        with torch.no_grad():
            found = model(torch.full((1, 3, side, side), 0.5))
    except Exception as error:
        reason = " ".join(str(error).split())[:160]
        raise SpecError(
            f"python:{entry} fails for an image [1, 3, {side}, {side}] ({type(error).__name__}: {reason}); give size= of its images"
        ) from error
    if not isinstance(found, Tensor) or found.dim() not in ((2,) if logits else (2, 4)):
        what = f"a tensor {list(found.shape)}" if isinstance(found, Tensor) else f"a {type(found).__name__}"
        right = "logits [B, K]" if logits else "features [B, D] or [B, D, h, w]"
        raise SpecError(f"python:{entry} gives {what} for one image; it should give {right}")
    return Output(model, found, logits), side


def _made(place: Path, name: str, options: dict[str, Any], seed: int) -> object:
    """What the function returns; the file's folder can be imported from while it runs."""
    if not place.is_file():
        raise WeightsError(f"there is no file {place}; write python:FILE:FUNCTION(trust=True)")
    try:
        there = _names(ast.parse(place.read_text(encoding="utf-8")))
    except (SyntaxError, ValueError) as error:
        raise WeightsError(f"{place} is not a Python file: {error}") from None
    spec = importlib.util.spec_from_file_location(f"hardsight_own_{place.stem}", place)
    if spec is None or spec.loader is None:
        raise WeightsError(f"{place} is not a Python file; its name should end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    sys.path.insert(0, str(place.resolve().parent))
    try:
        with seeded(seed):
            spec.loader.exec_module(module)
            function = getattr(module, name, None)
            if not callable(function):
                listed = f"; it has {', '.join(there)}" if there else "; it has none"
                raise SpecError(f"{place} has no function '{name}'{nearest(name, there) or listed}")
            return function(**options)
    except SpecError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise WeightsError(f"{place} failed while its own code ran: {type(error).__name__}: {reason}") from error
    finally:
        sys.path.remove(str(place.resolve().parent))


def _names(tree: ast.Module) -> list[str]:
    """Public functions and classes that the file defines."""
    kinds = (ast.FunctionDef, ast.ClassDef)
    return [node.name for node in tree.body if isinstance(node, kinds) and not node.name.startswith("_")]
