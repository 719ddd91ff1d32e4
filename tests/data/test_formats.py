"""Image formats beyond PNG and JPEG: the same pixels, ids and depths as stored, whichever format holds them."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hardsight.core.errors import DataError
from hardsight.data import open_data
from hardsight.data.images import open_depth, open_image, open_mask
from tests.fixtures import data_sets as sets


@pytest.mark.parametrize("ending", ["tif", "tiff", "ppm", "bmp", "TIF"])
def test_a_picture_is_the_same_in_every_exact_format(tmp_path: Path, ending: str) -> None:
    picture = sets.picture(3)
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        Image.fromarray(picture).save(tmp_path / name / f"a.{ending}")
    data = open_data(f"folder(root={str(tmp_path)!r}, test=0)")
    assert len(data.split("train")) == 2 and data.card.classes == ("cat", "dog")
    assert np.array_equal(data.split("train").sample(0).image.permute(1, 2, 0).numpy(), picture)


@pytest.mark.parametrize("ending", ["gif", "pgm", "tif", "png"])
def test_grey_is_the_same_in_every_format(tmp_path: Path, ending: str) -> None:
    grey = np.random.default_rng(0).integers(0, 256, (6, 8), dtype=np.uint8)
    path = tmp_path / f"a.{ending}"
    Image.fromarray(grey).save(path)
    assert np.array_equal(open_image(path), np.repeat(grey[..., None], 3, 2))
    assert np.array_equal(open_mask(path), grey)


def pgm(most: int, *values: int, plain: bool = False) -> bytes:
    if plain:
        return f"P2\n{len(values)} 1\n{most}\n{' '.join(map(str, values))}\n".encode()
    return f"P5\n{len(values)} 1\n{most}\n".encode() + np.array(values, ">u2" if most > 255 else "u1").tobytes()


@pytest.mark.parametrize("plain", [False, True])
def test_values_of_a_pgm_are_those_in_the_file(plain: bool) -> None:
    """Pillow spreads values up to another maximum than 255 or 65535 over the whole range: 0, 1, 3 of 3 become 0, 85, 255."""
    for most in (3, 20, 200, 255):
        assert open_mask(pgm(most, 0, 1, 3, plain=plain)).tolist() == [[0, 1, 3]]
    for most in (1000, 10_000, 65535):
        assert open_depth(pgm(most, 0, 1, 997, plain=plain)).tolist() == [[0, 1, 997]]


def test_depths_of_a_tiff() -> None:
    for array in (np.array([[0, 1, 65535]], np.uint16), np.array([[0, 1.25, 80.5]], np.float32)):
        stored = io.BytesIO()
        Image.fromarray(array).save(stored, "TIFF")
        assert open_depth(stored.getvalue()).tolist() == array.tolist()
    with pytest.raises(DataError, match="has 8-bit pixels"):
        open_depth(pgm(255, 1, 2))


def test_lossy_formats_hold_no_ids(tmp_path: Path) -> None:
    sets.save(tmp_path / "a.jpg", sets.ids(0, 5))
    with pytest.raises(DataError, match=r"not an image in a supported format \(PNG, BMP, TIFF, GIF, PPM\)"):
        open_mask(tmp_path / "a.jpg")
