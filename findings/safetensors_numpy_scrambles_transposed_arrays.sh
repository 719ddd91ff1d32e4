#!/usr/bin/env bash
# safetensors 0.8.0 beside 0.7.0 (numpy 2.4.6): a transposed weight saved from numpy comes back with its values scrambled.
#
# Expected: save_file({"w": kernel.T}) then load_file gives kernel.T, or an error as the torch half of the package raises.
# Guess: right values, or an error.
# Seen: neither. The file has the transposed *shape* over the untransposed *bytes*, so the loaded array is another matrix;
#   for a square weight (every attention projection) even the shape says nothing. The same holds for Fortran-ordered arrays,
#   which scikit-learn and LAPACK return. 0.7.0 wrote the right values.
# Source: safetensors/numpy.py, _flatten: it hands over data_ptr of the array without a look at its strides (the docstring
#   asks for "contiguous" arrays, nothing checks). Public issue safetensors/safetensors #825 (open).
# What follows: converting Flax or Keras kernels (in, out) to torch (out, in) by .T and saving them gives a checkpoint that
#   loads strictly, and an encoder with scrambled weights. Wrap each array in np.ascontiguousarray, and compare after
#   loading.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for version in 0.7.0 0.8.0; do
  python3 -m venv "$work/$version"
  "$work/$version/bin/python" -m pip install -q "safetensors==$version" 'numpy==2.4.6'
done
cat > "$work/look.py" <<'PY'
import sys

import numpy as np
import safetensors
from safetensors.numpy import load_file, save_file

kernel = np.arange(6, dtype=np.float32).reshape(2, 3)
square = np.arange(9, dtype=np.float32).reshape(3, 3)
arrays = {"plain": kernel, "transposed": kernel.T, "square": square.T, "fortran": np.asfortranarray(kernel)}
arrays["copied"] = np.ascontiguousarray(square.T)
save_file(arrays, sys.argv[1])
back = load_file(sys.argv[1])
right = {name: bool(np.array_equal(back[name], value)) for name, value in arrays.items()}
print("safetensors", safetensors.__version__, right)
print("  square.T", arrays["square"].tolist(), "came back as", back["square"].tolist())
wanted = {"plain", "copied"} if sys.argv[2] == "scrambled" else set(arrays)
if {name for name, same in right.items() if same} != wanted:
    sys.exit("CHANGED: safetensors no longer scrambles transposed numpy arrays in 0.8.0 only")
PY
"$work/0.7.0/bin/python" "$work/look.py" "$work/old.safetensors" right
"$work/0.8.0/bin/python" "$work/look.py" "$work/new.safetensors" scrambled
echo "as stated: 0.8.0 silently stores another matrix for every array that is not in C order"
