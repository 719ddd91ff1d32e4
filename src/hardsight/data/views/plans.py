"""View plans: which views each image gets, of one kind, two kinds, two sizes, or fading. Each factory returns a `Views`."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from torch import Tensor

from hardsight.core.errors import SpecError
from hardsight.core.when import When
from hardsight.data.views.pictures import Batched
from hardsight.data.views.view import Kind, Same, Shifted, View, Views
from hardsight.specs.catalog import register
from hardsight.specs.schedules import Schedule, stairs


@dataclass(frozen=True)
class Drawn:
    """One view of each kind, in order."""

    kinds: tuple[Kind, ...]

    @property
    def count(self) -> int:
        return len(self.kinds)

    def __call__(self, x: Batched, when: When) -> tuple[Tensor, ...]:
        alike = ((kind, len(list(run))) for kind, run in itertools.groupby(self.kinds))
        return tuple(view for kind, count in alike for view in kind.several(x, count, when))

    def at(self, strength: float) -> Drawn:
        return Drawn(tuple(kind.at(strength) for kind in self.kinds))


@dataclass(frozen=True)
class Both:
    """The views of one plan, followed by those of another."""

    one: Views
    other: Views

    @property
    def count(self) -> int:
        return self.one.count + self.other.count

    def __call__(self, x: Batched, when: When) -> tuple[Tensor, ...]:
        return (*self.one(x, when), *self.other(x, when))

    def at(self, strength: float) -> Both:
        return Both(_weaker(self.one, strength), _weaker(self.other, strength))


@dataclass(frozen=True)
class Fading:
    """A plan whose strength follows a schedule."""

    views: Views
    strength: Schedule

    @property
    def count(self) -> int:
        return self.views.count

    def __call__(self, x: Batched, when: When) -> tuple[Tensor, ...]:
        strength = self.strength(when)
        if not 0 <= strength <= 1:
            raise SpecError(f"fading: the strength of views is {strength} at step {when.step}; it must be between 0 and 1")
        return _weaker(self.views, strength)(x, when)


def _weaker(views: Views, strength: float) -> Views:
    at = getattr(views, "at", None)
    if at is None:
        raise SpecError(f"fading: {type(views).__name__} has no strength; use views(...) or another plan of this module")
    return at(strength)


def _same(name: str, kind: Kind, count: int) -> Drawn:
    if count < 1:
        raise SpecError(f"{name}: count is {count}; it must be at least 1")
    return Drawn((kind,) * count)


@register
def views(
    count: int = 2,
    scale: tuple[float, float] = (0.2, 1.0),
    ratio: tuple[float, float] = (0.75, 4 / 3),
    jitter: float | tuple[float, float, float] = 0.4,
    hue: float = 0.0,
    grey: float = 0.2,
    flip: bool = True,
    prob: float = 1.0,
    blur: float = 0.0,
    sigma: tuple[float, float] = (0.1, 2.0),
    solarise: float = 0.0,
    threshold: float = 0.5,
    size: int = 0,
    exact: bool = False,
) -> Views:
    """Random views of one kind: a crop of random area and aspect ratio, a random flip and colour jitter.

    scale: minimum and maximum share of the image's area in a crop; ratio: of its width to its height. jitter: maximum change
    of brightness, contrast and saturation. hue: maximum hue rotation, as a share of the circle (0.5: any). grey: probability
    of greyscale. flip: whether to flip horizontally at random; disable it if left and right are classes. prob: probability
    of changing brightness, contrast, saturation and hue. blur: probability of a Gaussian blur of `sigma` pixels. solarise:
    probability of inverting the pixels at or above `threshold`. size: pixels per side, 0 for the image's own. exact:
    torchvision's steps; otherwise crops also have fractional positions, and colours are changed in one pass. differs:
    without `exact`, crops larger than the image are reduced, not drawn again; brightness, contrast, hue and saturation
    change in that order, while torchvision draws the order; hue is rotated in YIQ, not HSV; values are clamped once, at the
    end.
    """
    view = View(
        scale, ratio, jitter, hue, grey, flip, prob, blur, sigma,
        solarise=solarise, threshold=threshold, size=size, exact=exact,
    )  # fmt: skip
    return _same("views", view, count)


@register
def random_crops(
    count: int = 16,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (0.75, 4 / 3),
    jitter: float | tuple[float, float, float] = 0.4,
    hue: float = 0.2,
    grey: float = 0.2,
    flip: bool = True,
    prob: float = 0.8,
    blur: float = 0.1,
    solarise: float = 0.1,
    size: int = 0,
    exact: bool = True,
) -> Views:
    """Crops of any size and aspect ratio with strong colours, from CF-AMC-SSL (Ghofrani and Jamshidi, arXiv 2501.03507).

    Arguments as in `views`.
    """
    view = View(scale, ratio, jitter, hue, grey, flip, prob, blur, solarise=solarise, size=size, exact=exact)
    return _same("random_crops", view, count)


@register
def patches(
    count: int = 16,
    area: float = 0.25,
    jitter: float | tuple[float, float, float] = 0.4,
    hue: float = 0.2,
    grey: float = 0.2,
    flip: bool = True,
    prob: float = 0.8,
    blur: float = 0.1,
    solarise: float = 0.1,
    size: int = 0,
    exact: bool = True,
) -> Views:
    """Square crops of one size with strong colour changes, from EMP-SSL (Tong et al., arXiv 2304.03977).

    area: of a crop, as a share of the image. The other arguments as in `views`.
    """
    view = View((area, area), (1.0, 1.0), jitter, hue, grey, flip, prob, blur, solarise=solarise, size=size, exact=exact)
    return _same("patches", view, count)


@register
def multicrop(
    global_count: int = 2,
    local_count: int = 6,
    sizes: tuple[int, int] = (32, 16),
    scales: tuple[tuple[float, float], tuple[float, float]] = ((0.4, 1.0), (0.05, 0.4)),
    ratio: tuple[float, float] = (0.75, 4 / 3),
    jitter: float | tuple[float, float, float] = (0.4, 0.4, 0.2),
    hue: float = 0.1,
    grey: float = 0.2,
    flip: bool = True,
    prob: float = 0.8,
    blur: tuple[float, float, float] = (1.0, 0.1, 0.5),
    solarise: tuple[float, float, float] = (0.0, 0.2, 0.0),
    exact: bool = True,
) -> Views:
    """Large global crops and small local ones: SwAV's (NeurIPS 2020), with DINO's parameters (Caron et al., ICCV 2021).

    sizes: pixels per side of global and of local views; scales: of their crops. blur, solarise: probabilities for the first
    global view, the other global views and the local views. The other arguments as in `views`.
    """
    if global_count < 1 or local_count < 0:
        raise SpecError(
            f"multicrop: {global_count} global and {local_count} local views; it needs at least 1 and at least 0"
        )
    first, other, small = (
        View(
            scales[local], ratio, jitter, hue, grey, flip, prob, blur[place],
            solarise=solarise[place], size=sizes[local], exact=exact,
        )
        for place, local in enumerate((0, 0, 1))
    )  # fmt: skip
    return Drawn((first, *(other,) * (global_count - 1), *(small,) * local_count))


@register
def pair(one: Views, other: Views) -> Views:
    """The views of one plan, then those of another, such as BYOL's views(1, blur=1) and views(1, blur=0.1, solarise=0.2)."""
    return Both(one, other)


@register
def fading(
    views: Views = views(2, scale=(0.1, 1.0), jitter=0.4, hue=0.1, grey=0.2, prob=0.8, exact=True),
    strength: Schedule = stairs(1.0, 0.0, 20),
) -> Views:
    """Views that become weaker during training, from DynACL (Luo et al., ICLR 2023, equation 4).

    At strength s all probabilities and changes are multiplied by s, and an area a becomes 1 - s (1 - a): jitter 0.4 s with
    probability 0.8 s, grey 0.2 s, crops from 1 - 0.9 s. At 0 the image is unchanged or flipped. Raises `SpecError` for a
    strength outside [0, 1].
    """
    return Fading(views, strength)


@register
def weak(count: int = 1, padding: int = 4, flip: bool = True) -> Views:
    """The image shifted by up to `padding` pixels (black fill) and randomly flipped: the standard augmentation for CIFAR."""
    if padding < 0:
        raise SpecError(f"weak: padding is {padding}; it must be 0 or more pixels")
    return _same("weak", Shifted(padding, flip), count)


@register
def untouched(count: int = 1) -> Views:
    """The unchanged image, `count` times."""
    return _same("untouched", Same(), count)
