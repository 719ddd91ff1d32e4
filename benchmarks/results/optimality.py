"""Minimal perturbations within one budget of passes: medians, and optimality against the envelope of all attacks.

    HARDSIGHT_DATA=... uv run python benchmarks/results/optimality.py --count 200 --budget 2000

Each attack has at most `budget` forward and backward passes an image, counted together, with its other settings at their
defaults; seed 0. Optimality as in AttackBench (AAAI 2025, equation 5): 1 is the smallest perturbation of every image; an
attack that is alone in its norm has none.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch

import hardsight as hs
from hardsight.metrics.optimality import optimality

CLASSIFIERS = {
    "ResNet-20": "file:$HARDSIGHT_DATA/weights/resnet20-12fca82f.th(arch='resnet20')",
    "resnet4b (adv. 2/255)": "file:$HARDSIGHT_DATA/weights/resnet4b_adv_eps2.pth(arch='resnet4b')",
}
ATTACKS = {
    "l2(0.1)": [
        "attack(ddn({}), loss=ce)",
        "attack(alma({}), loss=dlr)",
        "attack(cw_l2({}, rounds=9), loss=margin)",
        "attack(superdeepfool({}), loss=margin)",
        "attack(pdpgd({}), loss=margin)",
        "attack(fmn({}), loss=margin)",
        "attack(fab({}), loss=margin)",
    ],
    "linf(1/255)": [
        "attack(alma_prox({}), loss=dlr)",
        "attack(pdpgd({}), loss=margin)",
        "attack(fmn({}), loss=margin)",
        "attack(fab({}), loss=margin)",
    ],
    "l1(1)": [
        "attack(alma({}), loss=dlr)",
        "attack(ead({}, rounds=9), loss=margin)",
        "attack(pdpgd({}), loss=margin)",
        "attack(fmn({}), loss=margin)",
        "attack(fab({}), loss=margin)",
    ],
    "l0_values(10)": ["attack(sigma_zero({}), loss=margin)"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--budget", type=int, default=2000)
    asked = parser.parse_args()
    data = hs.open_data("cifar10:$HARDSIGHT_DATA/cifar10")
    x, y = hs.load_images(data, "label", asked.count)
    print(f"n = {len(x)}, at most {asked.budget} forward and backward passes an image, seed 0\n")
    print("| classifier | attack | norm | median | optimality % | passes an image, mean |\n|:--|:--|:--|--:|--:|--:|")
    for name, spec in CLASSIFIERS.items():
        system = hs.fit_probe(hs.load_encoder(spec), "classify(head='own')", data)
        for spec, forms in ATTACKS.items():
            threat = hs.build(spec, "Threat")
            sizes, used = {}, {}
            for attack in (within(form, asked.budget) for form in forms):
                found = hs.build(attack, "Attack")(system, x, y, threat, torch.Generator().manual_seed(0))
                with torch.no_grad():
                    wrong = system.output(found.x_best_loss).argmax(1) != y
                sizes[attack] = torch.where(wrong, threat.size(found.x_best_loss - x), torch.inf).numpy()
                search = hs.build(attack, "Attack").search
                used[attack] = float(found.queries.float().mean()) * (1 + search.gradients / search.passes)
            for attack, share in optimality(sizes).items():
                here = sizes[attack][sizes[attack] > 0]
                rank = f"{100 * share:.1f}" if len(sizes) > 1 else "alone"
                print(
                    f"| {name} | `{attack}` | {threat.norm} | {np.median(here):.4g} | {rank} | {used[attack]:.0f} |",
                    flush=True,
                )


def within(form: str, budget: int) -> str:
    """The attack with as many steps as the budget of forward and backward passes allows."""
    low, high = 2, budget
    while low < high:
        middle = (low + high + 1) // 2
        search = hs.build(form.format(middle), "Attack").search
        low, high = (middle, high) if search.passes + search.gradients <= budget else (low, middle - 1)
    return form.format(low)


if __name__ == "__main__":
    main()
