#!/usr/bin/env bash
# timm 1.0.31 beside transformers 5.23.0 (torch 2.15.0): one set of DINOv2 weights, two encoders as soon as the image size
#   changes.
#
# Expected: with the same weights, timm's ViT and transformers' Dinov2Model give the same tokens. They do at the size they
#   were built for, to the last bits, which is where people check.
# Guess: they differ by antialias=True when the grid shrinks, and through the cubic kernel also when it grows (right).
# Seen: they differ in both directions, by 2% and more. Both interpolate the position grid "bicubic", timm with
#   antialias=True, transformers without. In torch that flag also changes the cubic kernel (a = -0.5 with it, -0.75 without),
#   so that even a growing grid gets other values; a shrinking one (98 pixels) changes the tokens by more than a tenth.
# Source: timm/layers/pos_embed.py, resample_abs_pos_embed(antialias=True); transformers/models/dinov2/modeling_dinov2.py,
#   Dinov2Embeddings.interpolate_pos_encoding; the two kernels show in torch.nn.functional.interpolate, measured below.
# What follows: features, probes and adversarial images do not carry over between the two loaders at any size but the native
#   one (518 for the public weights). Name the loader with the result, and test equality at the size you use.
set -euo pipefail
export OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q 'uv==0.13.9'
"$work/venv/bin/uv" pip install -q --python "$work/venv/bin/python" 'torch==2.15.0' 'torchvision==0.29.2' 'timm==1.0.31' 'transformers==5.23.0' 'numpy==2.4.6'
"$work/venv/bin/python" -W ignore - <<'PY'
import sys

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from transformers import Dinov2Config, Dinov2Model

torch.manual_seed(0)
NATIVE = 224
hf = Dinov2Model(Dinov2Config(hidden_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=NATIVE, patch_size=14)).eval()
nn.init.normal_(hf.embeddings.position_embeddings, std=0.2)
vit = VisionTransformer(
    img_size=NATIVE, patch_size=14, embed_dim=64, depth=2, num_heads=2, num_classes=0, init_values=1.0, dynamic_img_size=True
).eval()

names = {
    "embeddings.cls_token": "cls_token",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.patch_embeddings.projection": "patch_embed.proj",
    "encoder.layer": "blocks",
    "attention.o_proj": "attn.proj",
    "layer_scale1.lambda1": "ls1.gamma",
    "layer_scale2.lambda1": "ls2.gamma",
    "layernorm": "norm",
}
source, weights = hf.state_dict(), {}
for name, value in source.items():
    if "mask_token" in name or "k_proj" in name or "v_proj" in name:
        continue
    if "q_proj" in name:
        value = torch.cat([source[name.replace("q_proj", part)] for part in ("q_proj", "k_proj", "v_proj")])
        name = name.replace("attention.q_proj", "attn.qkv")
    for old, new in names.items():
        name = name.replace(old, new)
    weights[name] = value
vit.load_state_dict(weights)

seen = {}
print("pixels  relative difference of all tokens")
with torch.no_grad():
    for size in (NATIVE, 448, 322, 98):
        x = torch.randn(2, 3, size, size)
        one, two = hf(x).last_hidden_state, vit.forward_features(x)
        seen[size] = ((one - two).norm() / one.norm()).item()
        print(f"{size:5d}   {seen[size]:.1e}")
    # Twice as long: the sample a quarter past a point weighs the point 1.25 away by 0.140625 a.
    pulse = torch.zeros(1, 1, 16, 16)
    pulse[0, 0, 8] = 1
    slope = {}
    for flag in (False, True):
        line = nn.functional.interpolate(pulse, (32, 16), mode="bicubic", antialias=flag)[0, 0, :, 8]
        slope[flag] = line[19].item() / 0.140625
        print(f"kernel of bicubic, antialias={flag}: a = {slope[flag]:.3f}")
if not (seen[NATIVE] < 1e-5 and seen[448] > 0.005 and seen[322] > 0.005 and seen[98] > 0.1 and slope[True] != slope[False]):
    sys.exit("CHANGED: timm and transformers now interpolate DINOv2's position grid alike, or differ at the native size")
print("as stated: equal at the native size, different at every other")
PY
