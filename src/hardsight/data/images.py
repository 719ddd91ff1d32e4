"""Decodes files to arrays: every reader opens its images, masks and depth maps here, so all readers reject the same files.

A file is decoded completely or rejected with a `DataError` that starts with the file's name and says what is expected. Only
PNG, JPEG, WebP, BMP, TIFF, GIF and the family of PPM and PGM are decoded, regardless of the suffix, and EXIF orientation is
not applied: pixels are used as stored. A file with several pictures (pages, an animation) is rejected.
"""

from __future__ import annotations

import io
import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from hardsight.core.errors import DataError, PassedOver
from hardsight.data.preprocess import Preprocess

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm")
EXACT = ("PNG", "BMP", "TIFF", "GIF", "PPM")
"""Formats that keep every value, as ids and depths need; "PPM" is Pillow's name for PGM too."""
FORMATS = (*EXACT, "JPEG", "WEBP")
MAX_PIXELS = 2**26
"""A larger image is rejected before it is decoded: some small files decode to many gigabytes."""
STORED = 2**16 - 1
"""The largest depth value that a file can store."""
MAXIMUM, INVERTED = "maximum", "inverted"
"""Keys of Pillow's `info`: the largest value in the file, if Pillow has spread the values; there, if it has inverted them."""
SIXTEEN = ("I;16", "I;16L", "I;16B", "I;16N", "I")
Size = int | tuple[int, int] | Preprocess | None


class UnlikeSizes(DataError):
    """The images of a data set differ in size, and no size was given to fit them to."""


def expand(path: str | Path) -> Path:
    """Expands `~` and environment variables in a path; raises `DataError` if it is empty or a variable is not set."""
    text = os.path.expanduser(os.path.expandvars(str(path)))
    if not text.strip():
        raise DataError("the path is empty; give a folder, such as camvid:~/data/camvid")
    if (unset := re.search(r"\$\{?(\w+)", text)) and not Path(text).exists():
        raise DataError(f"{path}: the environment variable {unset[1]} is not set")
    return Path(text)


def folder_at(path: str | Path, expected: str) -> Path:
    """The existing, non-empty folder at a path; otherwise raises a `DataError` that says what was `expected`."""
    place = expand(path)
    if not place.exists():
        near = next(parent for parent in place.absolute().parents if parent.exists())
        raise DataError(f"{place}: no such folder (expected {expected}); the closest existing parent is {near}")
    if not place.is_dir():
        raise DataError(f"{place} is a file, not a folder; expected {expected}")
    try:
        if not any(not name.startswith(".") for name in os.listdir(place)):
            raise DataError(f"{place} is empty; expected {expected}")
    except PermissionError:
        raise DataError(f"{place} can't be read: permission denied") from None
    return place


def contents(folder: Path, limit: int = 8) -> str:
    """A short list of a folder's contents, for error messages."""
    names = sorted((path.name + "/" * path.is_dir() for path in folder.iterdir()), key=natural)
    names = [name for name in names if not name.startswith(".")]
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "") or "nothing"


def natural(name: str) -> list[tuple[bool, int | str]]:
    """A sort key that orders numbers by value: img2 before img10."""
    parts = [part for part in re.split(r"([0-9]+)", name) if part]
    return [(False, int(part)) if "0" <= part[0] <= "9" else (True, part) for part in parts]


def is_image(name: str) -> bool:
    """Whether a posix path names an image, by its suffix (case-insensitive); hidden files and folders don't count."""
    return name.lower().endswith(SUFFIXES) and not any(map(_is_hidden, name.split("/")))


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def file_names(root: Path) -> tuple[list[str], list[str]]:
    """Posix paths relative to root of all files in it, recursively, in natural order; folder links are followed once.

    Second, the hidden files, and the hidden folders with a `/`, which are not opened. Raises `DataError`.
    """

    def refuse(error: OSError) -> None:
        raise DataError(f"{error.filename} can't be listed: {error.strerror}")

    found, hidden, seen = [], [], set()
    for folder, below, files in os.walk(root, onerror=refuse, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            below.clear()
            continue
        seen.add(real)
        inside = Path(folder).relative_to(root).as_posix()
        prefix = "" if inside == "." else f"{inside}/"
        hidden += [f"{prefix}{name}/" for name in below if _is_hidden(name)]
        below[:] = [name for name in below if not _is_hidden(name)]
        for name in files:
            (hidden if _is_hidden(name) else found).append(prefix + name)
    return sorted(found, key=natural), sorted(hidden, key=natural)


def image_names(root: Path, known: str = "") -> list[str]:
    """The images among `file_names`; warns, in one line, about all other files, except those whose name matches `known`."""
    names, hidden = file_names(root)
    found = [name for name in names if is_image(name)]
    passed_over(root, [name for name in names if not is_image(name) and not re.fullmatch(known, name)], hidden)
    return found


def passed_over(where: Path | str, names: Sequence[str], hidden: Sequence[str] = ()) -> None:
    """Warns, if there are any, of files in a folder or archive that are not read: how many of each suffix, and some names."""
    kinds: dict[str, list[str]] = {"hidden": list(hidden)} if hidden else {}
    for name in names:
        kinds.setdefault(PurePosixPath(name).suffix.lower() or "without suffix", []).append(name)
    if not kinds:
        return
    count = len(names) + len(hidden)
    listed = "; ".join(f"{len(found):,} {kind} ({first_few(found, 3)})" for kind, found in kinds.items())
    warnings.warn(f"{where}: passed over {count:,} {'file' if count == 1 else 'files'}: {listed}", PassedOver, stacklevel=3)


def list_images(root: str | Path) -> list[Path]:
    """All images in a folder, recursively, in natural order; raises `DataError` if it contains none."""
    place = folder_at(root, "a folder of images")
    names = image_names(place)
    if not names:
        raise DataError(f"{place} contains no image ({', '.join(SUFFIXES)}); it contains {contents(place)}")
    return [place / name for name in names]


def list_by_folder(root: Path, folders: Iterable[str], known: str = "") -> list[tuple[Path, str]]:
    """The images in each of these folders of root, and its name; `DataError` for one without images; warns of other files."""
    found: dict[str, list[str]] = {folder: [] for folder in folders}
    others = []
    for name in image_names(root, known):
        found.get(name.partition("/")[0], others).append(name)
    passed_over(root, others)
    if empty := next((folder for folder, names in found.items() if not names), None):
        raise DataError(f"{root / empty} contains no image ({', '.join(SUFFIXES)}); it contains {contents(root / empty)}")
    return [(root / name, folder) for folder, names in found.items() for name in names]


def open_image(source: Path | bytes, name: str = "", formats: tuple[str, ...] = FORMATS) -> np.ndarray:
    """The image, uint8 [H, W, 3] RGB, from a path or from the bytes of a file; errors use `name` for it.

    Greyscale becomes RGB, palettes are applied, transparency is dropped, 16-bit grey keeps its upper 8 bits (rounded).
    Raises `DataError` if it is missing, empty, truncated, corrupt, too large, or in another colour space or format.
    """
    label = name or _name_of(source)
    pil = _decoded(source, label, formats)
    if pil.mode in SIXTEEN:
        grey = np.asarray(pil).astype(np.int64)
        if grey.min() < 0 or grey.max() > 65535:
            raise DataError(f"{label} has 32-bit pixels from {grey.min()} to {grey.max()}; save it with 8 bits a channel")
        return np.repeat(((grey + 128) // 257).astype(np.uint8)[..., None], 3, axis=2)
    if pil.mode not in ("RGB", "L", "1", "P", "PA", "LA", "La", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr"):
        raise DataError(f"{label} is in colour mode {pil.mode}; save it as 8-bit RGB")
    return np.array(pil if pil.mode == "RGB" else pil.convert("RGB"))


def open_mask(source: Path | bytes, name: str = "", three: bool = False) -> np.ndarray:
    """The class ids as stored, uint8 [H, W], of a file with one channel of 1 to 8 bits, or a palette, whose indices they are.

    three: three equal channels count as one. Raises `DataError` for colours, and for JPEG and WebP, which change ids.
    """
    label = name or _name_of(source)
    pil = _decoded(source, label, EXACT)
    if three and pil.mode in ("RGB", "RGBA", "LA") and not np.ptp(rgb := np.array(pil.convert("RGB")), axis=-1).any():
        return rgb[..., 0]
    if pil.mode not in ("L", "P", "1"):
        raise DataError(f"{label} has colour mode {pil.mode}; a mask must be a PNG with one 8-bit channel of class ids")
    return _as_stored(pil).astype(np.uint8)


def _as_stored(pil: Image.Image) -> np.ndarray:
    """The values in the file, where Pillow spread them over 0 to 255 or 65535, or inverted them."""
    values, full = np.array(pil), 65535 if pil.mode in SIXTEEN else 1 if pil.mode == "1" else 255
    if INVERTED in pil.info:
        values = full - values.astype(np.int64)
    if (most := pil.info.get(MAXIMUM)) is None:
        return values
    return np.rint(values.astype(np.float64) * most / full)


def _packing(pil: Any) -> dict[str, int]:
    """What Pillow does to the values of an opened file, as entries of its `info`, from the name of its raw mode.

    Grey of 2 or 4 bits and PGM with another maximum are spread over the range; TIFF with white as 0 is inverted.
    """
    packed = pil.tile[0][3] if pil.tile else ""
    raw, *more = packed if isinstance(packed, tuple) else (packed,)
    if pil.format == "PPM":
        return {MAXIMUM: more[0]} if more else {}
    if pil.format not in ("PNG", "TIFF") or not (found := re.fullmatch(r"[1L](?:;([24]))?;?(I?)R?", raw)):
        return {}
    return ({MAXIMUM: 2 ** int(found[1]) - 1} if found[1] else {}) | ({INVERTED: 1} if found[2] else {})


def open_depth(source: Path | bytes, name: str = "") -> np.ndarray:
    """The values of a depth map as stored, float32 [H, W]: 16-bit PNG, TIFF or PGM, or TIFF of floats.

    `depths.Metres` converts them.
    """
    label = name or _name_of(source)
    pil = _decoded(source, label, ("PNG", "TIFF", "PPM"))
    if pil.mode not in (*SIXTEEN, "F"):
        raise DataError(
            f"{label} has 8-bit pixels (mode {pil.mode}); depth must be a 16-bit PNG, TIFF or PGM, or a TIFF of floats"
        )
    return _as_stored(pil).astype(np.float32)


def size_of(source: Path | bytes, name: str = "") -> tuple[int, int]:
    """Height and width, read from the file's header only."""
    with _opened(source, name or _name_of(source), FORMATS) as pil:
        return pil.height, pil.width


def common_size(paths: Sequence[Path]) -> tuple[int, int]:
    """The common size (h, w) of all images; `DataError` if two differ. Unreadable files are skipped, and raise when read."""
    trouble: list[DataError] = []

    def sizes() -> Iterator[tuple[str, tuple[int, int]]]:
        for path in paths:
            try:
                yield str(path), size_of(path)
            except DataError as error:
                trouble.append(error)

    try:
        return common(sizes())
    except StopIteration:
        raise (trouble or [DataError("no image to take a size from; expected at least one")])[0] from None


def common(sizes: Iterator[tuple[str, tuple[int, int]]]) -> tuple[int, int]:
    """The one size (h, w) of several named images; `UnlikeSizes` at the first that differs, `StopIteration` if there is none."""
    name, size = next(sizes)
    for other, its in sizes:
        if its != size:
            raise UnlikeSizes(size_mismatch(other, its, name, size))
    return size


def size_mismatch(name: str, size: Sequence[int], first: str, first_size: Sequence[int]) -> str:
    """The error message for two images that differ in size."""
    return (
        f"{name} is {size[1]}x{size[0]} pixels but {first} is {first_size[1]}x{first_size[0]}: all images must have "
        "one size; give size=, such as size=224 or size=evaluation(224, 256), to resize them"
    )


def shared_size(size: Size, paths: Callable[[], Iterable[Path]]) -> tuple[int, int]:
    """The size (h, w) of all samples: the requested size, or else the common size of all images; only then calls `paths`."""
    return sides(size) or common_size(list(paths()))


def sides(size: Size) -> tuple[int, int] | None:
    """The size (h, w) that `fit` gives an image, or None for its own."""
    if isinstance(size, Preprocess):
        return size.size
    return (size, size) if isinstance(size, int) else size


def check_size(size: Size) -> None:
    """Raises `DataError` unless size is None, a `Preprocess`, a positive number of pixels, or two of them (h, w)."""
    if any(not 1 <= side <= 2**14 for side in sides(size) or ()):
        raise DataError(f"size={size}: a side must be 1 to {2**14} pixels")


def fit(image: np.ndarray, size: Size, nearest: bool = False) -> np.ndarray:
    """The array [H, W] or [H, W, 3] resized: to (h, w) exactly; for an int, the shorter side to it, then a centre crop.

    Bilinear, with antialiasing when shrinking; `nearest` for ids and depths, whose values must not be mixed. A `Preprocess`
    is for images only; raises `DataError` where a mask or a depth map comes with one.
    """
    if isinstance(size, Preprocess):
        _only_images(nearest)
        return size(image)
    exact, (top, left) = placing(image.shape[:2], size)
    if exact != image.shape[:2]:
        how = Image.Resampling.NEAREST if nearest else Image.Resampling.BILINEAR
        image = np.array(Image.fromarray(image).resize((exact[1], exact[0]), how))
    return image[top : top + size, left : left + size] if isinstance(size, int) else image


def placing(shape: Sequence[int], size: Size) -> tuple[tuple[int, int], tuple[int, int]]:
    """What `fit` does to an image of this shape (h, w): the size it is resized to, and the top left corner of the crop."""
    high, wide = shape
    _only_images(isinstance(size, Preprocess))
    if not isinstance(size, int):
        return sides(size) or (high, wide), (0, 0)
    short = min(high, wide)
    exact = (max(size, size * high // short), max(size, size * wide // short))
    return exact, (round((exact[0] - size) / 2), round((exact[1] - size) / 2))


def _only_images(otherwise: bool) -> None:
    if otherwise:
        raise DataError("size=evaluation(...) prepares images with labels; masks, depth maps and boxes need size=(h, w)")


def first_few(names: Iterable[str], limit: int = 4) -> str:
    """The first names, and how many more follow."""
    names = list(names)
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")


def _name_of(source: Path | bytes) -> str:
    return "an image in memory" if isinstance(source, bytes) else str(source)


def _opened(source: Path | bytes, label: str, formats: tuple[str, ...]) -> Image.Image:
    """The PIL image, with only its header read."""
    try:
        if len(source) == 0 if isinstance(source, bytes) else source.stat().st_size == 0:
            raise DataError(f"{label} is empty (0 bytes)")
        pil = Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=formats)
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"{label}: no such file") from None
    except Image.UnidentifiedImageError:
        raise DataError(
            f"{label} is not an image in a supported format ({', '.join(formats)}), or its header is broken"
        ) from None
    except Image.DecompressionBombError as error:
        raise DataError(f"{label} is rejected: {error}") from None
    except Exception as error:  # Pillow's decoders raise almost any error for a broken header
        raise DataError(f"{label} can't be opened: {error}") from None
    if pil.width * pil.height > MAX_PIXELS:
        pil.close()
        raise DataError(f"{label} is rejected: {pil.width}x{pil.height} pixels, more than {MAX_PIXELS:,}")
    return pil


def _decoded(source: Path | bytes, label: str, formats: tuple[str, ...]) -> Image.Image:
    with _opened(source, label, formats) as pil:
        try:
            frames = getattr(pil, "n_frames", 1) if pil.format in ("TIFF", "GIF") else 1
            packing = _packing(pil)
            pil.load()
        except Exception as error:  # Pillow's decoders raise almost any error for broken data
            raise DataError(f"{label} is corrupt or truncated: {error}") from None
        if frames > 1:
            raise DataError(f"{label} has {frames} pictures in one file; save each one as a file of its own")
        pil.info |= packing
        if pil.format == "GIF":  # programs number the colours of a GIF as they like, so the colours are its values
            rgb = pil.convert("RGB")
            return rgb if np.ptp(np.array(rgb), axis=-1).any() else rgb.getchannel(0)
        return pil.copy()
