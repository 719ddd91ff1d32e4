#!/usr/bin/env bash
# pillow 13.0.0 (and opencv-python-headless 5.0.0.93, imageio 2.38.1): class ids of a grey PNG with 2 or 4 bits a pixel come back
#   multiplied by 85 or 17.
#
# Expected: a grey mask with the ids 0, 1, 2, 11, 15 is read as these ids, however many bits a pixel the file has. Tools that
#   make PNGs smaller reduce the bits without loss, so that a mask with at most 16 classes may be stored with 4.
# Guess: Pillow gives a mode of its own for such files, or the ids (wrong).
# Seen: mode "L" and 0, 17, 34, 187, 255, as for a picture. 11 classes become ids up to 187; the id 15 becomes 255, which most
#   losses take for "no label". With a palette the same bits are read as the ids. With 1 bit, Pillow and imageio give False and
#   True, and OpenCV 0 and 255.
# Source: the PNG specification scales samples for display; PIL/PngImagePlugin.py opens grey files of 2 and 4 bits as "L" with the
#   raw modes "L;2" and "L;4", whose unpackers scale.
# What follows: the largest id of a data set is worth a test. Read the bits a pixel from the file's header (byte 24) and divide by
#   255 / (2^bits - 1), or save masks with 8 bits.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q 'pillow==13.0.0' 'pypng==0.20220715.0' 'numpy==2.4.6' 'opencv-python-headless==5.0.0.93' 'imageio==2.38.1'
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PY'
import sys

import cv2
import imageio.v3 as imageio
import numpy as np
import png
from PIL import Image

seen = {}
print("bits  stored                 Pillow                      OpenCV                  imageio")
for bits in (1, 2, 4, 8):
    ids = [one % 2**bits for one in (0, 1, 2, 11, 15)]
    with open("mask.png", "wb") as file:
        png.Writer(5, 1, greyscale=True, bitdepth=bits).write(file, [ids])
    read = [
        np.array(Image.open("mask.png"))[0].tolist(),
        cv2.imread("mask.png", cv2.IMREAD_UNCHANGED)[0].tolist(),
        imageio.imread("mask.png")[0].tolist(),
    ]
    seen[bits] = (ids, *read)
    print(bits, ids, *read)
with open("palette.png", "wb") as file:
    png.Writer(5, 1, palette=[(i, i, i) for i in range(16)], bitdepth=4).write(file, [seen[4][0]])
palette = np.array(Image.open("palette.png"))[0].tolist()
print("4, with a palette", palette)

scaled = all(one == [k * 255 // (2**bits - 1) for k in seen[bits][0]] for bits in (2, 4) for one in seen[bits][1:])
single = seen[1][1] == [False, True, False, True, True] and seen[1][2] == [0, 255, 0, 255, 255]
if not (scaled and single and palette == seen[4][0] and seen[8][1] == seen[8][0]):
    sys.exit("CHANGED: ids of masks with 1, 2 or 4 bits are read in another way now")
print("as stated: 4 bits are multiplied by 17, 2 bits by 85; 15 becomes 255")
PY
