#!/usr/bin/env bash
# transformers 5.23.0 (torch 2.15.0): ViTMAEModel in eval() with mask_ratio = 0 returns patch tokens in random order.
#
# Expected: in eval() an encoder is a function, and with mask_ratio = 0 nothing is hidden, so last_hidden_state[:, 1:] is the
#   patch grid row by row, as for every other ViT in the library.
# Guess: eval() still hides three quarters at random; with mask_ratio = 0 the order may stay random (both right).
# Seen: with mask_ratio = 0 all tokens are there and the class token repeats to 1e-5, which looks like success, but the patch
#   tokens come in a new random order at each call and for each image. ids_restore undoes it.
# Source: transformers/models/vit_mae/modeling_vit_mae.py, ViTMAEEmbeddings.random_masking: it sorts by random noise and
#   keeps the first part, whatever the ratio and the mode.
# What follows: a check on the class token passes, a linear head for segmentation or depth trains on scrambled positions, and
#   patch-wise distances (embedding attacks, drift) compare different patches. Gather with ids_restore, pass `noise` that
#   rises from patch to patch, or load the weights into ViTModel or timm.
set -euo pipefail
export OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q 'uv==0.13.9'
"$work/venv/bin/uv" pip install -q --python "$work/venv/bin/python" 'torch==2.15.0' 'transformers==5.23.0' 'numpy==2.4.6'
"$work/venv/bin/python" -W ignore - <<'PY'
import sys

import torch
from transformers import ViTMAEConfig, ViTMAEModel

torch.manual_seed(0)
shape = dict(hidden_size=48, num_hidden_layers=2, num_attention_heads=3, intermediate_size=96, image_size=64, patch_size=8)
x = torch.rand(2, 3, 64, 64)
with torch.no_grad():
    half = ViTMAEModel(ViTMAEConfig(**shape)).eval()
    print("default, eval(): tokens", tuple(half(x).last_hidden_state.shape), "of 1 + 64")
    model = ViTMAEModel(ViTMAEConfig(**shape, mask_ratio=0.0)).eval()
    one, two = model(x), model(x)
    a, b = one.last_hidden_state, two.last_hidden_state
    cls = (a[:, 0] - b[:, 0]).abs().max().item()
    patches = (a[:, 1:] - b[:, 1:]).abs().max().item()

    def ordered(out):
        tokens = out.last_hidden_state[:, 1:]
        return tokens.gather(1, out.ids_restore[..., None].expand_as(tokens))

    restored = (ordered(one) - ordered(two)).abs().max().item()
    steady = model(x, noise=torch.arange(64.0).expand(2, -1)).last_hidden_state[:, 1:]
    named = (ordered(one) - steady).abs().max().item()
print("mask_ratio 0, eval(): tokens", tuple(a.shape))
print(f"two calls on one batch differ: class token {cls:.1e}, patch tokens {patches:.2f}")
print(f"patch tokens put back by ids_restore: {restored:.1e}; against noise = 0, 1, 2, ...: {named:.1e}")
if not (a.shape[1] == 65 and half(x).last_hidden_state.shape[1] == 17 and cls < 1e-4 < 0.1 < patches and max(restored, named) < 1e-4):
    sys.exit("CHANGED: ViTMAEModel with mask_ratio = 0 now keeps the order of the patches")
print("as stated: the class token agrees and the patch tokens are shuffled")
PY
