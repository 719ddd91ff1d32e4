#!/usr/bin/env bash
# h5py 3.16.0 (numpy 2.4.6): the label -1 ("ignore") written into a uint8 dataset becomes class 0, not 255.
#
# Expected: label maps with -1 for "ignore" are stored as numpy casts them: (-1).astype(uint8) = 255, the usual ignore label.
#   Many pipelines rely on this without saying so.
# Guess: HDF5 converts and clips, so 0 (right).
# Seen: 0, without a warning (even with warnings as errors): -1 -> 0, 300 -> 255. NaN depth becomes 0 as well. Ignored pixels
#   silently become the first class (background, or "wall" in ADE20K), and the file gives no sign. Casting first and then
#   writing gives another file from the same array.
# Source: h5py/_hl/dataset.py, Dataset.__setitem__ and create_dataset leave number conversion to HDF5 when a numpy array is
#   given (maintainer's words in h5py/h5py pull request #1574); HDF5 clips values outside the target's range.
# What follows: train and test sets written by two scripts disagree on what is ignored; mIoU of class 0 falls and the loss
#   trains on void pixels. Map ids explicitly, and assert labels.min() >= 0 before writing.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q 'h5py==3.16.0' 'numpy==2.4.6'
"$work/venv/bin/python" -W error - "$work/masks.h5" <<'PY'
import sys

import h5py
import numpy as np

labels = np.array([[-1, 0, 1], [20, -1, 254]])
depth = np.array([np.nan, 2.9, -0.5, 300.0])
with h5py.File(sys.argv[1], "w") as file:
    file.create_dataset("created", data=labels, dtype="uint8")
    file.create_dataset("assigned", labels.shape, dtype="uint8")[...] = labels
    file.create_dataset("cast_first", data=labels.astype(np.uint8))
    file.create_dataset("depth", data=depth, dtype="uint8")
with h5py.File(sys.argv[1]) as file:
    back = {name: file[name][...] for name in file}

print("labels          ", labels.tolist())
for name in ("created", "assigned", "cast_first"):
    print(f"{name:16s}", back[name].tolist(), "| pixels of class 0:", int((back[name] == 0).sum()))
print("depth", depth.tolist(), "->", back["depth"].tolist())

saturated = [[0, 0, 1], [20, 0, 254]]
if not (
    back["created"].tolist() == back["assigned"].tolist() == saturated
    and back["cast_first"].tolist() == [[255, 0, 1], [20, 255, 254]]
    and back["depth"].tolist() == [0, 2, 0, 255]
):
    sys.exit("CHANGED: h5py no longer stores -1 as 0 in a uint8 dataset")
print("as stated: -1 was stored as class 0 by h5py and as 255 by numpy")
PY
