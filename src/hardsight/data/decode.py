"""Clips from files: a video, or a folder of frames, becomes T frames of one size, chosen by how many frames there are.

Which ones is fixed, so that a clip is the same each time it is read. Uniformly: the middles of T equal parts, as TSN tests
(Wang et al., ECCV 2016). At a stride: every so-many-th frame about the clip's middle; where the clip ends before the last of
them, its last frame is repeated (mmaction2 calls that `repeat_last`; torchvision's `VideoClips` leaves such a clip out).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hardsight.core.errors import DataError, MissingDependency
from hardsight.data.images import MAX_PIXELS, Size, fit, open_image, unlike

VIDEOS = (".mp4", ".avi", ".mkv", ".webm", ".mov", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp")
WHOLE = 0.9
"""A video that decodes to a smaller share of the frames its head promises is cut short."""
Pick = Callable[[int], list[int]]
"""How many frames there are, to the places of those to take, in ascending order."""


def picker(frames: int, stride: int | None) -> Pick:
    """The rule that takes `frames` of them: uniformly where stride is None; `DataError` where either is below 1."""
    if frames < 1 or (stride is not None and stride < 1):
        raise DataError(f"frames is {frames} and stride is {stride}; both are at least 1, or stride is None: uniformly")

    def pick(count: int) -> list[int]:
        if stride is None:
            return [(2 * i + 1) * count // (2 * frames) for i in range(frames)]
        start = max(count - (frames - 1) * stride - 1, 0) // 2
        return [min(start + i * stride, count - 1) for i in range(frames)]

    return pick


def read_frames(paths: Sequence[Path], pick: Pick, size: Size) -> np.ndarray:
    """uint8 [T, H, W, 3] of the frames that are files of their own, in order; only those picked are opened.

    Raises `DataError` with the file's name, also where two frames differ in size and none is asked for.
    """
    chosen = [paths[place] for place in pick(len(paths))]
    opened = {path: fit(open_image(path), size) for path in dict.fromkeys(chosen)}
    first = chosen[0]
    for path, frame in opened.items():
        if frame.shape != opened[first].shape:
            raise DataError(unlike(str(path), frame.shape, str(first), opened[first].shape))
    return np.stack([opened[path] for path in chosen])


def read_video(path: Path, pick: Pick, size: Size) -> np.ndarray:
    """uint8 [T, H, W, 3] of a video file's frames, as stored: a rotation that its head asks for is not done.

    Raises `DataError` with the file's name where it is missing, no video, cut short or corrupt; `MissingDependency`.
    """
    promised, count, taken = _decoded(path, lambda promised: pick(promised) if promised else [], size)
    if count != promised:  # the head is wrong, or says nothing: choose again by what is there
        if count < max(1, WHOLE * promised):
            raise DataError(f"{path} is cut short or corrupt: of the {promised} frames it promises, {count} decode")
        _, _, taken = _decoded(path, lambda _: pick(count), size)
    return np.stack([taken[place] for place in pick(count)])


def need_decoder() -> Any:
    """PyAV; `MissingDependency` where it is not installed."""
    try:
        return importlib.import_module("av")
    except ImportError:
        raise MissingDependency(
            "reading video files needs PyAV: pip install 'hardsight[data]'; folders of frames do not"
        ) from None


def _decoded(path: Path, choose: Pick, size: Size) -> tuple[int, int, dict[int, np.ndarray]]:
    """How many frames the head promises, how many there are, and those chosen of the promised, by place."""
    av = need_decoder()
    if not path.is_file():
        raise DataError(f"{path}: there is no such file")
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise DataError(f"{path} has no video stream")
            stream, count, taken = container.streams.video[0], 0, {}
            if stream.width * stream.height > MAX_PIXELS:
                raise DataError(f"{path} is refused: {stream.width}x{stream.height} pixels, more than {MAX_PIXELS:,}")
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
        raise DataError(f"{path} can't be decoded ({reason}): it is empty, cut short, or no video") from None
