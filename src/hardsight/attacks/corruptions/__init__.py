"""The 15 common corruptions of Hendrycks and Dietterich (ICLR 2019): image changes without an adversary.

Their released code (github.com/hendrycks/robustness) is ImageNet-C, Tiny-ImageNet-C and CIFAR-C; its parameters are used
here, at 224, 64 and 32 pixels. At another size the set closest in ratio is used, and its lengths in pixels scale with the
image's side, the root of H x W. differs, for all: values are not rounded to 8 bits afterwards (except for JPEG), images need
not be square, and ImageNet-C's files were additionally saved as JPEG of quality 85.

    grain.py    gaussian_noise shot_noise impulse_noise
    blurs.py    defocus_blur glass_blur motion_blur zoom_blur
    weather.py  snow frost fog brightness
    digital.py  contrast elastic_transform pixelate jpeg_compression
"""

from __future__ import annotations

from hardsight.specs.catalog import entries


def names() -> list[str]:
    """All corruptions: file by file, in the order of their definition."""
    return [entry.name for entry in entries().values() if entry.kind == "Corruption"]
