"""Clips from files: T frames of one size from a video or a folder of frames, selected by the number of frames in it.

The selection is deterministic, so a clip is the same each time it is read. Uniform: the middle frames of T equal segments,
as TSN tests (Wang et al., ECCV 2016). With a stride: every stride-th frame, centred in the clip; if the clip is too short
for that, its last frame is repeated (mmaction2's `repeat_last`; torchvision's `VideoClips` drops such a clip).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hardsight.core.errors import DataError, MissingDependency
from hardsight.data.images import MAX_PIXELS, Size, fit, open_image, size_mismatch

VIDEOS = (".mp4", ".avi", ".mkv", ".webm", ".mov", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp")
WHOLE = 0.9
"""A video that decodes to a smaller share of the frames that its header announces is treated as truncated."""
Pick = Callable[[int], list[int]]
"""Maps the number of frames to the indices of the selected frames, in ascending order."""


def picker(frames: int, stride: int | None) -> Pick:
    """The rule that selects `frames` frames: uniformly if stride is None. Raises `DataError` if either is below 1."""
    if frames < 1 or (stride is not None and stride < 1):
        raise DataError(
            f"frames is {frames} and stride is {stride}; both must be at least 1, or stride None for uniform sampling"
        )

    def pick(count: int) -> list[int]:
        if stride is None:
            return [(2 * i + 1) * count // (2 * frames) for i in range(frames)]
        start = max(count - (frames - 1) * stride - 1, 0) // 2
        return [min(start + i * stride, count - 1) for i in range(frames)]

    return pick


def read_frames(paths: Sequence[Path], pick: Pick, size: Size) -> np.ndarray:
    """A clip, uint8 [T, H, W, 3], from frames stored as separate image files; only the selected files are opened.

    Raises `DataError` with the file's name, also if two frames differ in size and `size` is None.
    """
    chosen = [paths[place] for place in pick(len(paths))]
    opened = {path: fit(open_image(path), size) for path in dict.fromkeys(chosen)}
    first = chosen[0]
    for path, frame in opened.items():
        if frame.shape != opened[first].shape:
            raise DataError(size_mismatch(str(path), frame.shape, str(first), opened[first].shape))
    return np.stack([opened[path] for path in chosen])


def read_video(path: Path, pick: Pick, size: Size) -> np.ndarray:
    """A clip, uint8 [T, H, W, 3], from a video file, with frames as stored: a rotation in the header is not applied.

    Raises `DataError` with the file's name if it is missing, not a video, truncated or corrupt; `MissingDependency`.
    """
    announced, count, taken = _decoded(path, lambda announced: pick(announced) if announced else [], size)
    if count != announced:  # the header is wrong or gives no count: select again from the true number of frames
        if count < max(1, WHOLE * announced):
            raise DataError(
                f"{path} is truncated or corrupt: its header announces {announced} frames, but only {count} can be decoded"
            )
        _, _, taken = _decoded(path, lambda _: pick(count), size)
    return np.stack([taken[place] for place in pick(count)])


def need_decoder() -> Any:
    """The PyAV module; raises `MissingDependency` if it is not installed."""
    try:
        return importlib.import_module("av")
    except ImportError:
        raise MissingDependency(
            "reading video files needs PyAV: pip install 'hardsight[data]'; folders of frames don't need it"
        ) from None


def _decoded(path: Path, choose: Pick, size: Size) -> tuple[int, int, dict[int, np.ndarray]]:
    """The number of frames announced in the header, the number decoded, and the selected frames by index."""
    av = need_decoder()
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise DataError(f"{path} has no video stream")
            stream, count, taken = container.streams.video[0], 0, {}
            if stream.width * stream.height > MAX_PIXELS:
                raise DataError(f"{path} is rejected: {stream.width}x{stream.height} pixels, more than {MAX_PIXELS:,}")
            wanted = set(choose(stream.frames))
            for frame in container.decode(stream):
                if count in wanted:
                    taken[count] = fit(frame.to_ndarray(format="rgb24"), size)
                count += 1
            return stream.frames, count, taken
    except DataError:
        raise
    except (av.FFmpegError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:120]
        raise DataError(f"{path} can't be decoded ({reason}): it is empty, truncated, or not a video") from None
