#!/usr/bin/env bash
# torchattacks 3.5.1 (torch 2.15.0), beside foolbox 3.3.4: Carlini-Wagner does nothing when all logits are negative.
#
# Expected: adding one constant to all logits changes no prediction, no softmax and no margin, so an attack on the margin
#   finds the same images. log_softmax outputs are such shifted logits.
# Guess: an image's result depends on its batch, by the early stop on the batch's loss; after reading f: no move below zero.
# Seen: it returns the clean images. The same network is broken on every image through its raw logits, and keeps its whole
#   clean accuracy through log_softmax or through logits - 100, without a warning. foolbox breaks all four.
# Source: torchattacks/attacks/cw.py, CW.f. It multiplies the logits by a 0/1 mask and takes the maximum, so that the masked
#   entries take part with the value 0: below zero, "best other class" and "true class" are both 0, the margin is 0 and has
#   no gradient. Public issue Harry24k/adversarial-attacks-pytorch #184 (open).
# What follows: a network that ends in log_softmax, or whose logits happen to be negative, looks perfectly robust. Attack it
#   through logits + a large constant (which does not change the network), or with foolbox, and never trust a CW row alone.
set -euo pipefail
export OMP_NUM_THREADS=1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install -q 'uv==0.13.9'
UV="$work/venv/bin/uv pip install -q --python $work/venv/bin/python"
$UV 'torch==2.15.0' 'torchvision==0.29.2' 'numpy==2.4.6' 'foolbox==3.3.4' 'scipy==1.17.1' 'tqdm==4.70.1'
$UV --no-deps 'torchattacks==3.5.1'
"$work/venv/bin/python" -W ignore - <<'PY'
import sys

import foolbox
import torch
import torchattacks
from torch import nn

torch.manual_seed(0)
centres = torch.rand(5, 3, 8, 8) * 0.6 + 0.2
y = torch.arange(5).repeat(20)
x = (centres[y] + 0.1 * torch.randn(100, 3, 8, 8)).clamp(0.02, 0.98)
net = nn.Sequential(nn.Flatten(), nn.Linear(192, 32), nn.ReLU(), nn.Linear(32, 5))
optimiser = torch.optim.Adam(net.parameters(), 1e-2)
for _ in range(100):
    optimiser.zero_grad()
    nn.functional.cross_entropy(net(x), y).backward()
    optimiser.step()


class Shifted(nn.Module):
    def __init__(self, by):
        super().__init__()
        self.net, self.by = net, by

    def forward(self, x):
        return self.net(x) + self.by


def accuracy(model, x):
    return (model(x).argmax(1) == y).float().mean().item()


ways = {
    "logits": net,
    "logits + 100": Shifted(100.0),
    "logits - 100": Shifted(-100.0),
    "log_softmax": nn.Sequential(net, nn.LogSoftmax(1)),
}
seen = {}
print(f"{'outputs':14s} clean  torchattacks.CW  its mean L2  foolbox CW")
for name, model in ways.items():
    model.eval()
    attacked = torchattacks.CW(model, c=20, steps=200, lr=0.02)(x, y)
    peer = foolbox.attacks.L2CarliniWagnerAttack(steps=200, binary_search_steps=3, stepsize=0.02, initial_const=10)
    _, _, broken = peer(foolbox.PyTorchModel(model, bounds=(0, 1)), x, y, epsilons=None)
    moved = (attacked - x).flatten(1).norm(dim=1).mean().item()
    seen[name] = accuracy(model, x), accuracy(model, attacked), moved, 1 - broken.float().mean().item()
    print(f"{name:14s} {seen[name][0]:.2f}   {seen[name][1]:.2f}             {moved:.4f}       {seen[name][3]:.2f}")

weak = all(seen[n][0] == 1 and seen[n][1] == 1 and seen[n][2] < 1e-4 for n in ("logits - 100", "log_softmax"))
strong = all(seen[n][1] <= 0.02 for n in ("logits", "logits + 100"))
peer = all(row[3] <= 0.02 for row in seen.values())
if not (weak and strong and peer):
    sys.exit("CHANGED: torchattacks.CW no longer stops at negative logits while foolbox breaks all four")
print("as stated: the same network, 0.00 robust through its logits and 1.00 through log_softmax")
PY
