"""What a library's own description of a model says of its input: the picture, as a spec, and the pixels' mean and std.

timm has a configuration beside the weights, torchvision transforms, and transformers an image processor. Each is turned
into `Prepared`, which goes on the encoder's card: `preprocess` names the pictures (data/preprocess), mean and std are of
pixels in [0, 1]. What can't be expressed is refused by name, never left out in silence.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from hardsight.core.errors import SpecError
from hardsight.specs.catalog import minimal
from hardsight.specs.syntax import Call, show

RESAMPLE = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
"""Pillow's filters by number, as a processor stores them."""
KNOWN = {
    "do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb", "do_flip_channel_order", "do_pad",
    "do_reduce_labels", "do_convert_annotations", "do_image_splitting",
    "do_sample_frames",
}  # fmt: skip
"""What a processor may do to pictures, or to targets, that is used here, or noted; anything else is refused."""
UNLIKE = ("do_pad", "do_image_splitting", "size_divisor", "keep_aspect_ratio")
"""Fields of processors whose pictures have no one size."""
OVERRIDES = "overrides"
"""Not a processor's own field: which of `resize` and `center_crop` its class has in place of the common ones."""
OWN = ("ConvNextImageProcessor", "PoolFormerImageProcessor", "LevitImageProcessor", "DPTImageProcessor")
"""Processors with a `resize` of their own that is known here; the first three resize to more than their `size` says."""


UNNORMALIZED = ("MobileViTImageProcessor", "GLPNImageProcessor")
"""Processors that never normalize, whatever `do_normalize` says (transformers 5.23)."""
USUAL = {"do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True}
"""What a stored processor means where it doesn't say it."""


class Prepared(NamedTuple):
    """preprocess: a spec, or "" if the pictures have no one size. mean, std: [3], of pixels in [0, 1]. bgr: blue first."""

    preprocess: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    bgr: bool = False
    note: str = ""


def spec(size: Sequence[int], resize: object, interpolation: str, **more: object) -> str:
    """The spec of an `evaluation`; sizes (h, w) with equal sides as one number."""
    side = size[0] if len(set(size)) == 1 else tuple(size)
    given = {"size": side, "resize": resize, "interpolation": interpolation, **more}
    return show(minimal(Call("evaluation", tuple(given.items()))))


def of_timm(cfg: Mapping[str, Any], size: int | None = None) -> Prepared:
    """As timm's own validation prepares pictures: at the size and crop that its configuration lists for tests, if it does.

    size: the side that the network is built for instead; the crop keeps its share. Source: timm 1.0.31's `validate.py`,
    `resolve_data_config(use_test_size=True)` and `transforms_imagenet_eval`.
    """
    from timm.data.config import resolve_data_config

    tested = (cfg.get("test_input_size") or cfg.get("input_size") or (3, 224, 224))[1:]
    own = size is None or (size, size) == tuple(tested)
    found = resolve_data_config({} if own else {"img_size": size}, pretrained_cfg=dict(cfg), use_test_size=own)
    sides, mean = found["input_size"][-2:], tuple(found["mean"])
    whole = [math.floor(side / found["crop_pct"]) for side in sides]
    mode, more = found["crop_mode"], {}
    if mode == "border":
        more["fill"] = tuple(round(255 * value) for value in mean)
    if mode in ("squash", "border"):
        more["mode"] = mode
    resize = whole[0] if whole[0] == whole[1] else tuple(whole)
    return Prepared(spec(sides, resize, found["interpolation"], **more), mean, tuple(found["std"]))


def of_torchvision(transforms: Any, size: int | None = None) -> Prepared:
    """The pictures of a weights enum's `transforms()`; another `size` keeps the share of the crop."""
    crop, whole = transforms.crop_size[0], transforms.resize_size[0]
    if size not in (None, crop):
        crop, whole = size, math.floor(size * whole / crop)
    picture = spec((crop, crop), whole, transforms.interpolation.value)
    return Prepared(picture, tuple(transforms.mean), tuple(transforms.std))


def of_processor(fields: Mapping[str, Any], name: str, size: int | None = None) -> Prepared:
    """As a transformers image processor prepares pictures; its rescaling and normalization are joined in mean and std.

    fields: of the processor's class, with its defaults. size: the side that pictures are prepared at instead. Raises
    `SpecError`, with the field's name, for one that changes pixels and is not known.
    """
    if strange := [key for key, value in fields.items() if key.startswith("do_") and value and key not in KNOWN]:
        raise SpecError(f"{name}: its image processor says {strange[0]}, which is not known here; use timm's model")
    kind = str(fields.get("image_processor_type", "")).removesuffix("Pil").removesuffix("Fast")
    kind = kind.replace("FeatureExtractor", "ImageProcessor")
    mean, std = _pixels({**fields, "do_normalize": False} if kind in UNNORMALIZED else fields, name)
    picture, note = _picture(fields, kind, size)
    return Prepared(picture, mean, std, bool(fields.get("do_flip_channel_order")), note)


def _pixels(fields: Mapping[str, Any], name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(x - mean) / std of pixels in [0, 1] is what the processor makes of 255 x: rescaled, normalized, or neither."""
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if fields.get("do_normalize"):
        mean, std = (_three(fields.get(key), key, name) for key in ("image_mean", "image_std"))
    scale, offset = 255.0, 0.0
    if fields.get("do_rescale"):
        factor = fields.get("rescale_factor")
        if not isinstance(factor, int | float) or not factor > 0:
            raise SpecError(f"{name}: its image processor rescales by rescale_factor={factor}; a factor is above 0")
        scale, offset = 255 * factor, float(bool(fields.get("rescale_offset") or fields.get("offset")))
    top = fields.get("include_top")  # EfficientNet's divides by image_std once more
    again = _three(fields.get("image_std"), "image_std", name) if top else (1.0, 1.0, 1.0)
    if abs(scale - 1) < 1e-9:
        scale = 1.0
    mean = tuple((value + offset) / scale for value in mean)
    return mean, tuple(value * more / scale for value, more in zip(std, again, strict=True))


def _three(value: Any, key: str, name: str) -> tuple[float, float, float]:
    values = (value,) * 3 if isinstance(value, int | float) else tuple(value or ())
    if len(values) != 3:
        raise SpecError(f"{name}: its image processor normalizes, but its {key} is {value}; give mean= and std=")
    return float(values[0]), float(values[1]), float(values[2])


def _picture(fields: Mapping[str, Any], kind: str, size: int | None) -> tuple[str, str]:
    """The spec of the pictures, and a note where there is none."""
    asked, cut = (_sides(fields.get(key)) for key in ("size", "crop_size"))
    how = {"interpolation": RESAMPLE[fields["resample"]]} if fields.get("resample") in range(6) else {}
    crop = bool(fields.get("do_center_crop"))
    whole: Any = asked if fields.get("do_resize") else None
    if unlike := next((key for key in UNLIKE if fields.get(key)), ""):
        return "", f"its image processor's {unlike} gives pictures of unlike sizes"
    if fields.get(OVERRIDES) and kind not in OWN:
        return "", f"how its {kind} prepares pictures is not known"
    if whole is None and not (cut and crop):
        return "", "its image processor doesn't say one size of pictures"
    if kind == "ConvNextImageProcessor" and isinstance(whole, int):
        cut, crop = (whole, whole), True
        whole = cut if whole >= 384 else int(whole / fields["crop_pct"])
    elif kind == "PoolFormerImageProcessor" and whole is not None and fields.get("crop_pct"):
        whole = whole[0] if isinstance(whole, tuple) and whole[0] == whole[1] else whole
        whole = int(whole / fields["crop_pct"]) if isinstance(whole, int) else whole
    elif kind == "LevitImageProcessor" and isinstance(whole, int):
        whole = int(256 / 224 * whole)
    if isinstance(whole, int) and not (cut and crop):
        return "", "its image processor resizes the shorter side and doesn't crop"
    sides = cut if cut and crop else whole
    assert isinstance(sides, tuple)
    if size and sides != (size, size):
        ratio = size / sides[0], size / sides[1]
        whole = math.floor(whole * min(ratio)) if isinstance(whole, int) else whole and _scaled(whole, ratio)
        sides = (size, size)
    more: dict[str, Any] = {"mode": "squash"} if isinstance(whole, tuple) else {}
    more |= {"corner": "floor"} if crop and sides != whole else {}
    return spec(sides, whole[0] if isinstance(whole, tuple) and len(set(whole)) == 1 else whole, **how, **more), ""


def _scaled(sides: tuple[int, int], ratio: tuple[float, float]) -> tuple[int, int]:
    return math.floor(sides[0] * ratio[0]), math.floor(sides[1] * ratio[1])


def _sides(value: Any) -> int | tuple[int, int] | None:
    """A processor's `size`: the shorter side, or (h, w), or None for anything else."""
    value = {key: part for key, part in dict(value).items() if part} if isinstance(value, Mapping) else value
    if isinstance(value, int):
        return value
    if isinstance(value, Mapping) and value.keys() == {"shortest_edge"}:
        return int(value["shortest_edge"])
    if isinstance(value, Mapping) and value.keys() == {"height", "width"}:
        return int(value["height"]), int(value["width"])
    return None
