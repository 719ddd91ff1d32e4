"""Random views of a batch: parameters drawn per image from one generator; differentiable, computed on the batch's device."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from hardsight.core.errors import SpecError
from hardsight.core.when import When
from hardsight.data.views.colour import Colours, at_once, blurred, solarised, step_by_step
from hardsight.data.views.geometry import Crop, any_crop, cut, mirrored, pixel_crop, shifted
from hardsight.data.views.pictures import Batched, Cropping, Pictures, whole


class Views(Protocol):
    """The number of views per image, and how each is drawn."""

    @property
    def count(self) -> int: ...

    def __call__(self, x: Batched, when: When) -> tuple[Tensor, ...]:
        """`count` views of images x [B, 3, H, W], or clips [B, 3, T, H, W], in [0, 1]; the views may differ in size.

        Of `Pictures`, of unlike sizes, crops are drawn from each picture as it is stored.
        """
        ...


class Kind(Protocol):
    """How views of one kind are drawn."""

    def several(self, x: Batched, count: int, when: When) -> tuple[Tensor, ...]:
        """`count` views of this kind of the images or clips x, drawn one after the other."""
        ...

    def at(self, strength: float) -> Kind:
        """The same kind of view, weaker: strength 1 is unchanged, 0 leaves at most a horizontal flip."""
        ...


class Changes(NamedTuple):
    """The random parameters of one view of B images that are not its crop, each [B], on the CPU."""

    colours: Colours
    blurs: Tensor
    sigma: Tensor
    solarises: Tensor


class Draw(NamedTuple):
    """All random parameters of one view of B images."""

    crop: Crop
    changes: Changes


@dataclass(frozen=True)
class View:
    """A random crop, flip, colour jitter, greyscale, blur and solarisation. A disabled transform draws no random numbers.

    scale: minimum and maximum share of the image's area in a crop; ratio: of its width to its height. jitter: maximum change
    of brightness, contrast and saturation. hue: maximum hue rotation, as a share of the circle (0.5: any). prob: probability
    of changing these four. grey: probability of greyscale. flip: whether to flip horizontally at random. blur: probability
    of a Gaussian blur with `sigma` pixels, minimum and maximum, and a kernel of `taps` pixels per side. solarise:
    probability of inverting the pixels at or above `threshold`. size: pixels per side; 0: the image's own. exact: True is
    torchvision's way (`pixel_crop` and `step_by_step`), False is smoother and faster (`any_crop` and `at_once`).
    """

    scale: tuple[float, float] = (0.2, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    jitter: float | tuple[float, float, float] = 0.4
    hue: float = 0.0
    grey: float = 0.2
    flip: bool = True
    prob: float = 1.0
    blur: float = 0.0
    sigma: tuple[float, float] = (0.1, 2.0)
    taps: int = 23
    solarise: float = 0.0
    threshold: float = 0.5
    size: int = 0
    exact: bool = False

    def __post_init__(self) -> None:
        shares = {name: getattr(self, name) for name in ("grey", "prob", "blur", "solarise")}
        wrong = [
            f"{name} is {value}; it must be a probability from 0 to 1"
            for name, value in shares.items()
            if not 0 <= value <= 1
        ]
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            wrong.append(
                f"scale is {self.scale}; it must be two shares of the image's area, above 0, at most 1, in ascending order"
            )
        if not 0 < self.ratio[0] <= self.ratio[1]:
            wrong.append(f"ratio is {self.ratio}; it must be two ratios above 0, in ascending order")
        if min(self.jitters) < 0:
            wrong.append(f"jitter is {self.jitter}; it must be 0 or more")
        if not 0 <= self.hue <= 0.5:
            wrong.append(f"hue is {self.hue}; it must be a share of the circle, from 0 to 0.5")
        if not 0 < self.sigma[0] <= self.sigma[1]:
            wrong.append(f"sigma is {self.sigma}; it must be two widths in pixels above 0, in ascending order")
        if self.taps < 1 or self.taps % 2 == 0:
            wrong.append(f"taps is {self.taps}; it must be an odd number above 0")
        if self.size < 0:
            wrong.append(f"size is {self.size}; it must be pixels per side, or 0 for the image's own size")
        if wrong:
            raise SpecError(f"a view's {wrong[0]}")

    @property
    def jitters(self) -> tuple[float, float, float]:
        """The jitter of brightness, contrast and saturation."""
        return self.jitter if isinstance(self.jitter, tuple) else (self.jitter, self.jitter, self.jitter)

    def __call__(self, x: Tensor, when: When) -> Tensor:
        """One view of each of the images x [B, 3, H, W], or clips [B, 3, T, H, W]; input and output are in [0, 1].

        All frames of a clip share one draw. Uses x's own dtype even under autocast: an attack needs the exact pixels.
        """
        return self.several(x, 1, when)[0]

    def several(self, x: Batched, count: int, when: When) -> tuple[Tensor, ...]:
        """Draws the parameters one view after the other, but computes all views as one batch, which is faster on a GPU."""
        if isinstance(x, Pictures):
            side = (self.size, self.size) if self.size else x.size
            crops = x.crops(Cropping(side, self.scale, self.ratio, self.flip, self.exact), count)
            return self._changed(crops, _joined([self._changes(len(x), when) for _ in range(count)])).chunk(count)
        height, width = x.shape[-2:]
        draws = [self.draw(len(x), height, width, when) for _ in range(count)]
        return self.render(x, draws).chunk(count)

    def draw(self, count: int, height: int, width: int, when: When) -> Draw:
        """Draws the random parameters of one view of `count` images of that size."""
        if self.exact:
            crop = pixel_crop(count, self.scale, self.ratio, height, width, when)
        else:
            crop = any_crop(count, self.scale, self.ratio, width / height, when)
        crop = mirrored(crop, when) if self.flip else crop
        return Draw(crop, self._changes(count, when))

    def render(self, x: Tensor, draws: list[Draw]) -> Tensor:
        """The views of x [B, ...] with the drawn parameters, concatenated: [len(draws) B, ...]."""
        crop, changes = _joined(draws)
        size = (self.size or x.shape[-2], self.size or x.shape[-1])
        with torch.autocast(x.device.type, enabled=False):
            crops = cut(x.flatten(1, -3).repeat(len(draws), 1, 1, 1), crop, size, fenced=self.exact)
        return self._changed(crops.view(-1, *x.shape[1:-2], *size), changes)

    def _changed(self, x: Tensor, changes: Changes) -> Tensor:
        """Crops x [B, ...] with colours changed, blurred and solarised."""
        with torch.autocast(x.device.type, enabled=False):
            y = (step_by_step if self.exact else at_once)(x.reshape(len(x), 3, -1), changes.colours).view(x.shape)
            y = blurred(y.flatten(1, -3), changes.blurs, changes.sigma, self.taps).view(x.shape)
            return solarised(y, changes.solarises, self.threshold)

    def at(self, strength: float) -> View:
        """All probabilities and changes multiplied by `strength`, and crops moved towards the full image accordingly."""
        return replace(
            self,
            scale=(1 - (1 - self.scale[0]) * strength, 1 - (1 - self.scale[1]) * strength),
            # an exact crop that does not fit is drawn again and finally becomes the full image; a smooth one is reduced
            ratio=self.ratio if self.exact else (self.ratio[0] ** strength, self.ratio[1] ** strength),
            jitter=tuple(one * strength for one in self.jitters),
            **{name: getattr(self, name) * strength for name in ("hue", "grey", "prob", "blur", "solarise")},
        )

    def _changes(self, count: int, when: When) -> Changes:
        colours = self._colours(count, when)
        none = torch.zeros(count, dtype=torch.bool)
        blurs = when.uniform(count) < self.blur if self.blur else none
        sigma = when.uniform(count, *self.sigma) if self.blur else torch.ones(count)
        solarises = when.uniform(count) < self.solarise if self.solarise else none
        return Changes(colours, blurs, sigma, solarises)

    def _colours(self, count: int, when: When) -> Colours:
        bright, contrast, saturation = (when.uniform(count, max(0.0, 1 - change), 1 + change) for change in self.jitters)
        hue = when.uniform(count, -self.hue, self.hue) if self.hue else torch.zeros(count)
        drained = when.uniform(count) < self.grey
        if self.prob < 1:
            changed = when.uniform(count) < self.prob
            bright, contrast, saturation = (torch.where(changed, one, 1.0) for one in (bright, contrast, saturation))
            hue = torch.where(changed, hue, 0.0)
        order = when.uniform(count * 4).view(count, 4).argsort(1) if self.exact else torch.zeros(count, 4, dtype=torch.long)
        return Colours(bright, contrast, saturation, hue, drained, order)


@dataclass(frozen=True)
class Shifted:
    """The image shifted by up to `padding` pixels, filled with black, and randomly flipped if `flip`."""

    padding: int
    flip: bool

    def several(self, x: Batched, count: int, when: When) -> tuple[Tensor, ...]:
        x = whole(x)
        flat = x.flatten(1, -3)
        return tuple(shifted(flat, self.padding, self.flip, when).view(x.shape) for _ in range(count))

    def at(self, strength: float) -> Shifted:
        return replace(self, padding=round(self.padding * strength))


@dataclass(frozen=True)
class Same:
    """The unchanged image."""

    def several(self, x: Batched, count: int, when: When) -> tuple[Tensor, ...]:
        return (whole(x),) * count

    def at(self, strength: float) -> Same:
        return self


def _joined(draws: list[Any]) -> Any:
    """Concatenates several draws into one: tuples of tensors, concatenated field by field."""
    first = draws[0]
    if isinstance(first, Tensor):
        return torch.cat(draws)
    return type(first)(*(_joined(list(parts)) for parts in zip(*draws, strict=True)))
