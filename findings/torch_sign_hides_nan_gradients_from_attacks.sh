#!/usr/bin/env bash
# torch 2.15.0 with torchattacks 3.5.1, foolbox 3.3.4, pyautoattack 0.2.0: a NaN gradient turns PGD into no attack, silently.
#
# Expected: a network whose gradient is NaN makes a gradient attack fail loudly, or give NaN images, as numpy.sign would.
# Guess: NaN images, which then count as broken (an argmax of NaN is class 0).
# Seen: torch.sign(NaN) is 0, so each step is a step of length zero. The classifier below takes the square root ("power
#   normalisation", usual in retrieval) of features behind a hard gate, f * (f > 0): at a closed unit the gradient is
#   infinity times 0 = NaN, and it reaches every pixel. (nn.ReLU's own backward would have cut it off, so this is hard to
#   see.) Outputs stay finite. FGSM returns the clean image; PGD its random start; APGD-CE finds nothing. All three libraries
#   report the clean accuracy as robust; with 1e-6 under the root, same predictions, PGD and APGD report 0.
# Source: torch.sign (public issues pytorch/pytorch #41245 and #187295, open, which do not speak of attacks); the step of
#   torchattacks/attacks/pgd.py, foolbox/attacks/gradient_descent_base.py, pyautoattack/autopgd_base.py.
# What follows: perfect robustness that is a NaN. Check torch.isfinite(gradient), and that FGSM from the clean image
#   moved every image (after a random start a move proves nothing).
set -euo pipefail
export OMP_NUM_THREADS=1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q 'uv==0.13.9'
UV="$work/venv/bin/uv pip install -q --python $work/venv/bin/python"
$UV 'torch==2.15.0' 'torchvision==0.29.2' 'numpy==2.4.6' 'foolbox==3.3.4' 'pyautoattack==0.2.0' 'scipy==1.17.1' 'tqdm==4.70.1'
$UV --no-deps 'torchattacks==3.5.1'
"$work/venv/bin/python" -W ignore - <<'PY'
import sys

import foolbox
import numpy as np
import torch
import torchattacks
from pyautoattack import AutoAttack
from torch import nn

torch.manual_seed(0)
EPS = 8 / 255
centres = torch.rand(5, 3, 8, 8) * 0.1 + 0.45
y = torch.arange(5).repeat(20)
x = (centres[y] + 0.01 * torch.randn(100, 3, 8, 8)).clamp(0, 1)


class Rooted(nn.Module):
    def __init__(self, under):
        super().__init__()
        self.first, self.last, self.under = nn.Linear(192, 64), nn.Linear(64, 5), under

    def forward(self, x):
        features = self.first(x.flatten(1) - 0.5)
        return self.last((features * (features > 0) + self.under).sqrt())


safe, bare = Rooted(1e-6), Rooted(0.0)
optimiser = torch.optim.Adam(safe.parameters(), 1e-2)
for _ in range(200):
    optimiser.zero_grad()
    nn.functional.cross_entropy(safe(x), y).backward()
    optimiser.step()
bare.load_state_dict(safe.state_dict())
print("torch.sign(nan) =", torch.sign(torch.tensor(float("nan"))).item(), "  numpy.sign(nan) =", float(np.sign(np.nan)))


def accuracy(model, x):
    return (model(x).argmax(1) == y).float().mean().item()


seen = {}
for name, model in (("sqrt(f + 1e-6)", safe), ("sqrt(f)", bare)):
    model.eval()
    given = x.clone().requires_grad_()
    grad = torch.autograd.grad(nn.functional.cross_entropy(model(given), y), given)[0]
    row = {"clean": accuracy(model, x), "NaN share of the gradient": grad.isnan().float().mean().item()}
    torch.manual_seed(1)
    row["torchattacks FGSM"] = accuracy(model, fgsm := torchattacks.FGSM(model, eps=EPS)(x, y))
    row["torchattacks PGD"] = accuracy(model, torchattacks.PGD(model, eps=EPS, alpha=EPS / 4, steps=20)(x, y))
    peer = foolbox.PyTorchModel(model, bounds=(0, 1))
    row["foolbox PGD"] = 1 - foolbox.attacks.LinfPGD(steps=20, rel_stepsize=0.25)(peer, x, y, epsilons=EPS)[2].float().mean().item()
    auto = AutoAttack(model, norm="Linf", eps=EPS, version="custom", attacks=["apgd-ce"], seed=0)
    found = auto.run_standard_evaluation(x, y)
    row["pyautoattack APGD-CE"] = accuracy(model, found if torch.is_tensor(found) else found[0])
    row["FGSM moved a pixel by"] = (fgsm - x).abs().max().item() * 255
    seen[name] = row
    print(name, {key: round(value, 3) for key, value in row.items()})

attacks = ("torchattacks FGSM", "torchattacks PGD", "foolbox PGD", "pyautoattack APGD-CE")
masked = all(seen["sqrt(f)"][name] >= 0.95 for name in attacks) and seen["sqrt(f)"]["FGSM moved a pixel by"] == 0
broken = all(seen["sqrt(f + 1e-6)"][name] <= 0.05 for name in attacks[1:])  # one step, FGSM, breaks some only
if not (masked and broken and seen["sqrt(f)"]["clean"] == seen["sqrt(f + 1e-6)"]["clean"] == 1):
    sys.exit("CHANGED: NaN gradients no longer turn sign-step attacks into no attack")
print("as stated: the same predictions, robust accuracy near 0 or near 1 by a NaN that nobody reports")
PY
