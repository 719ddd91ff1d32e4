"""Networks in ONNX files, for black-box attacks: `onnx:model.onnx(logits=True)` runs the file with onnxruntime.

Nothing but the output is known, so searches that use a gradient are refused; square and other random searches work.
"""

from __future__ import annotations

import hashlib
import importlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hardsight.core.errors import MissingDependency, SpecError, WeightsError
from hardsight.encoders.adapt import finish, need_side
from hardsight.encoders.base import BodyOutput, Encoder
from hardsight.encoders.places import file_there
from hardsight.specs.catalog import register

FLOATS = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64}


@register
def onnx(
    path: str,
    output: str = "",
    logits: bool = False,
    size: int = 224,
    resize: int | None = None,
    layers: tuple[int, ...] = (-1,),
    mean: tuple[float, ...] = (0.0, 0.0, 0.0),
    std: tuple[float, ...] = (1.0, 1.0, 1.0),
) -> Encoder:
    """A network in an ONNX file, without gradients: for `square` and other black-box attacks; needs `hardsight[onnx]`.

    output: the name of the one that is read, [B, D] pooled features or [B, D, h, w] dense ones; the first by default. logits:
    it is [B, K], the logits of the network's own classifier. size: of its images, where the file leaves that open. mean, std: by
    default it gets pixels in [0, 1]. The file runs on the CPU, whatever the device. Raises `WeightsError` (no ONNX file),
    `SpecError` (another input or output), `MissingDependency`.
    """
    place = file_there(Path(os.path.expandvars(path)).expanduser())
    body = Session(place, output, logits, size)
    known: dict[str, Any] = {"mean": mean, "std": std, "resize": resize, "classes": body.classes}
    layers = layers if body.depth else ()
    return finish(
        body, place.stem, "onnx", f"onnx:{path}", layers, body.side, resize or body.side, note="without gradients", **known
    )


class Session(nn.Module):
    """Body of an ONNX file; its only buffer is the file's SHA-256, so that its hash tells its weights."""

    multiple, black_box = 1, True

    def __init__(self, place: Path, output: str, logits: bool, size: int) -> None:
        super().__init__()
        try:
            onnxruntime = importlib.import_module("onnxruntime")
        except ImportError:
            raise MissingDependency("onnx needs onnxruntime: pip install hardsight[onnx]") from None
        content = place.read_bytes()
        self.register_buffer("sha256", torch.frombuffer(bytearray(hashlib.sha256(content).digest()), dtype=torch.uint8))
        self.name, settings = place.name, onnxruntime.SessionOptions()
        settings.intra_op_num_threads, settings.log_severity_level = torch.get_num_threads(), 3
        try:
            self.run = onnxruntime.InferenceSession(content, settings, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise WeightsError(
                f"{place} is not an ONNX file that onnxruntime can read: {' '.join(str(error).split())[:160]}"
            ) from None
        self.given, self.fixed = self._input()
        self.side = self.fixed[2] or self.fixed[3] or size
        names = [one.name for one in self.run.get_outputs()]
        if output and output not in names:
            raise SpecError(f"{self.name} has no output '{output}'; it has {', '.join(names)}")
        self.output = output or names[0]
        try:
            found = self._once(np.full((1, 3, self.fixed[2] or self.side, self.fixed[3] or self.side), 0.5, np.float32))
        except Exception as error:
            reason = " ".join(str(error).split())[:160]
            raise SpecError(
                f"{self.name} fails for an image of {self.side} pixels ({reason}); give size= of its images"
            ) from None
        if found.ndim not in ((2,) if logits else (2, 4)):
            right = "logits [B, K]" if logits else "features [B, D] or [B, D, h, w]"
            raise SpecError(
                f"{self.name}'s output '{self.output}' is {list(found.shape)} for one image; {right} are wanted: give output=, "
                f"one of {', '.join(names)}"
            )
        self.depth, self.classes = int(found.ndim == 4), found.shape[1] if logits else 0

    def _input(self) -> tuple[str, tuple[int, ...]]:
        """The input's name and its shape, 0 for an open side."""
        inputs = self.run.get_inputs()
        shape = (
            tuple(side if isinstance(side, int) and side > 0 else 0 for side in inputs[0].shape) if len(inputs) == 1 else ()
        )
        if len(shape) != 4 or shape[1] not in (0, 3) or inputs[0].type not in FLOATS:
            listed = ", ".join(f"'{one.name}' {one.type} {one.shape}" for one in inputs)
            raise SpecError(f"{self.name} takes {listed}; one input of images, float [B, 3, H, W], is wanted")
        self.kind = FLOATS[inputs[0].type]
        return inputs[0].name, shape

    def _once(self, pixels: np.ndarray) -> np.ndarray:
        """The output for any number of images; where the file fixes that number, the last batch is filled up."""
        step = self.fixed[0] or max(len(pixels), 1)
        more = np.repeat(pixels[-1:], -len(pixels) % step, 0)
        given = np.concatenate([pixels, more]).astype(self.kind)
        parts = [self.run.run([self.output], {self.given: given[at : at + step]})[0] for at in range(0, len(given), step)]
        return np.concatenate(parts)[: len(pixels)].astype(np.float32)

    def forward(self, pixels: Tensor, layers: tuple[int, ...]) -> BodyOutput:
        if self.fixed[2] and self.fixed[3]:
            need_side(pixels, self.side, self.name)
        found: Tensor = Blind.apply(pixels, self)  # type: ignore[assignment]
        pooled = found.mean((2, 3)) if self.depth else found
        return BodyOutput(pooled, tuple(found for _ in layers), pooled if self.classes else None)

    def classify(self, trunk: Tensor) -> Tensor:
        return trunk


class Blind(torch.autograd.Function):
    """The file's output; a backward pass through it is refused, where a plain tensor would silently give a gradient of zero."""

    @staticmethod
    def forward(ctx: Any, pixels: Tensor, body: Session) -> Tensor:
        ctx.name = body.name
        return torch.from_numpy(body._once(pixels.detach().float().cpu().numpy())).to(pixels.device)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        raise SpecError(f"no gradient passes through {ctx.name}; attack it with a black-box search, such as attack(square)")
