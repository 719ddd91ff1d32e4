#!/usr/bin/env bash
# torchmetrics 1.9.0 (torch 2.15.0): BinaryAUROC of the same scores depends on how they were cut into batches.
#
# Expected: AUROC looks at the order of all scores only, so cosine similarities (a usual score for "is this embedding
#   attacked?") give one value, whatever the batch size.
# Guess: the choice between "probabilities" and "logits" is made anew for each batch (right; its size was a surprise).
# Seen: each update() looks whether a score of *this batch* is outside [0, 1]; if so the whole batch goes through a sigmoid,
#   and otherwise it is kept as it is. Both kinds are then ranked together. One score a batch and 2,000 a batch differ by
#   many points, average precision likewise; the true value is the one of the single batch.
# Source: torchmetrics/utilities/compute.py, normalize_logits_if_needed, called in each update. The docstring of BinaryAUROC
#   says that sigmoid is applied where preds leave [0, 1], and does not say "per batch". Public issues
#   Lightning-AI/torchmetrics #2195 and #2329 (open).
# What follows: AUROC and AP of any score that is sometimes negative (cosines, margins, logits) change with the batch size,
#   the number of devices and the last short batch. Map scores to (0, 1) yourself, or compute once over everything.
set -euo pipefail
export OMP_NUM_THREADS=1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q 'uv==0.13.9'
"$work/venv/bin/uv" pip install -q --python "$work/venv/bin/python" 'torch==2.15.0' 'torchmetrics==1.9.0' 'numpy==2.4.6'
"$work/venv/bin/python" -W ignore - <<'PY'
import sys

import torch
from torchmetrics.classification import BinaryAUROC, BinaryAveragePrecision

torch.manual_seed(0)
clean = torch.randint(0, 2, (2000,))
cosine = (torch.where(clean == 1, 0.55, 0.25) + 0.2 * torch.randn(2000)).clamp(-1, 1)

good, bad = cosine[clean == 1], cosine[clean == 0]
truth = ((good[:, None] > bad).double() + 0.5 * (good[:, None] == bad).double()).mean().item()
print(f"share of rightly ordered pairs (the definition): {truth:.4f}")
print("batch  AUROC   average precision")
auroc, precision = {}, {}
for size in (1, 2, 8, 32, 256, 2000):
    one, two = BinaryAUROC(), BinaryAveragePrecision()
    for scores, labels in zip(cosine.split(size), clean.split(size), strict=True):
        one.update(scores, labels)
        two.update(scores, labels)
    auroc[size], precision[size] = one.compute().item(), two.compute().item()
    print(f"{size:5d}  {auroc[size]:.4f}  {precision[size]:.4f}")

worst = max(abs(value - truth) for value in auroc.values())
if not (abs(auroc[2000] - truth) < 1e-4 and worst > 0.02):
    sys.exit("CHANGED: torchmetrics' BinaryAUROC no longer depends on the batches")
print(f"as stated: up to {100 * worst:.1f} points from the definition, by the batch size alone")
PY
