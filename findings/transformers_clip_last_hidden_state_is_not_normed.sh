#!/usr/bin/env bash
# transformers 5.23.0 (torch 2.15.0): last_hidden_state has passed the final layer norm in some vision encoders and not in
#   others.
#
# Expected: the field of one name holds the encoder's output, so one line of code probes CLIP, SigLIP, DINOv2 and BEiT alike.
# Guess: version 5 collects hidden states by hooks, so hidden_states[-1] may be last_hidden_state in some models.
# Seen: two groups. In ViT, DINOv2, DINOv3 and SigLIP last_hidden_state is normed and hidden_states[-1] is not. In CLIP and
#   BEiT both are the raw residual stream: CLIP norms the class token alone, on its way to pooler_output, and no patch token
#   ever; BEiT (default pooling) norms the mean only. SigLIP, CLIP's successor and usual drop-in, is in the other group.
# Source: transformers/models/clip/modeling_clip.py (post_layernorm on pooled_output) and models/siglip/modeling_siglip.py
#   (post_layernorm on last_hidden_state); models/beit/modeling_beit.py.
# What follows: linear heads on patch tokens, cosine drift and L2 embedding attacks see features of another scale for CLIP
#   than for SigLIP; a learning rate does not carry over, and "CLIP is less robust" may be a missing norm. Apply
#   model.post_layernorm to all tokens, and test the norm of each token before comparing encoders.
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
import transformers
from torch import nn

torch.manual_seed(0)
shape = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=32, patch_size=8)
x = torch.rand(2, 3, 32, 32)
seen = {}
print("model               mean |token mean|  token std      hidden_states[-1] is last_hidden_state")
for name in ("ViT", "Dinov2", "DINOv3ViT", "SiglipVision", "CLIPVision", "Beit"):
    config = getattr(transformers, f"{name}Config")(**shape)
    model = getattr(transformers, f"{name}Model")(config).eval()
    for part in model.modules():  # all linear weights large enough to show a missing norm; all norms as they start: 1 and 0
        if isinstance(part, nn.Linear | nn.Conv2d):
            nn.init.normal_(part.weight, mean=0.02, std=0.3)
    with torch.no_grad():
        out = model(x, output_hidden_states=True)
    tokens = out.last_hidden_state[:, 1:]
    mean, std = tokens.mean(-1).abs().mean().item(), tokens.std(-1, unbiased=False).mean().item()
    same = torch.allclose(out.hidden_states[-1], out.last_hidden_state, atol=1e-5)
    seen[name] = abs(std - 1) < 1e-2 and mean < 1e-3, same
    print(f"{name + 'Model':19s} {mean:12.4f}      {std:9.4f}      {same}")
    if name == "CLIPVision":
        norm = next(part for key, part in model.named_modules() if key.endswith("post_layernorm"))
        cls = torch.allclose(norm(out.last_hidden_state[:, 0]), out.pooler_output, atol=1e-4)
expected = {name: (True, False) for name in ("ViT", "Dinov2", "DINOv3ViT", "SiglipVision")}
expected |= {name: (False, True) for name in ("CLIPVision", "Beit")}
print("CLIP: pooler_output is post_layernorm of the class token alone:", cls)
if not (seen == expected and cls):
    sys.exit(f"CHANGED: (normed, same as hidden_states[-1]) was {expected}, is {seen}")
print("as stated: CLIP and BEiT return tokens that no final norm has seen, the other four do not")
PY
