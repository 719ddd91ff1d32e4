"""Published CIFAR-10 classifiers under PGD: ours compared with torchattacks', on the same images.

    HARDSIGHT_DATA=... uv run python benchmarks/results/beside_torchattacks.py

Prints a Markdown table: clean accuracy, the robust accuracy under each, and the difference in points. Each draws its own
random start, so they agree in strength, not bit by bit; tests/parity compares them from the same start.
"""

from __future__ import annotations

import torch
import torchattacks

import hardsight as hs
from hardsight.metrics.intervals import wilson

CLASSIFIERS = {
    "ResNet-20": "file:$HARDSIGHT_DATA/weights/resnet20-12fca82f.th(arch='resnet20')",
    "resnet4b (adv. 2/255)": "file:$HARDSIGHT_DATA/weights/resnet4b_adv_eps2.pth(arch='resnet4b')",
}
STEPS, SEED, COUNT, BATCH = 40, 0, 700, 100


def main() -> None:
    data = hs.open_data("cifar10:$HARDSIGHT_DATA/cifar10")
    x, y = hs.load_images(data, "label", COUNT)
    print(f"PGD-{STEPS}, Linf, step eps/4, last iterate, one random start, seed {SEED}, n = {len(x)}\n")
    print("| classifier | eps | clean % | hardsight % [95%] | torchattacks % | difference, points |")
    print("|:--|--:|--:|--:|--:|--:|")
    for name, spec in CLASSIFIERS.items():
        encoder = hs.load_encoder(spec)
        system = hs.fit_probe(encoder, "classify(head='own')", data)
        clean = accuracy(system, x, y)
        for over in (1, 2, 8):
            eps = over / 255
            ours = hs.build(f"attack(pgd({STEPS}, keep='last'), loss=ce)", "Attack")
            rng, _ = torch.Generator().manual_seed(SEED), torch.manual_seed(SEED)
            pgd = torchattacks.PGD(Model(system).eval(), eps=eps, alpha=eps / 4, steps=STEPS)
            parts = list(zip(x.split(BATCH), y.split(BATCH), strict=True))
            found = torch.cat([ours(system, a, b, hs.linf(eps), rng).x_adv for a, b in parts])
            theirs = torch.cat([pgd(a, b) for a, b in parts])
            mine, other = accuracy(system, found, y), accuracy(system, theirs, y)
            low, high = wilson(mine * len(x), len(x))
            interval = f"{100 * mine:.1f} [{100 * low:.1f}, {100 * high:.1f}]"
            print(
                f"| {name} | {over}/255 | {100 * clean:.1f} | {interval} | {100 * other:.1f} | {100 * (mine - other):+.1f} |",
                flush=True,
            )


class Model(torch.nn.Module):
    """The system as a module; in eval mode, since otherwise torchattacks leaves the encoder's batch norm in train mode."""

    def __init__(self, system: hs.System) -> None:
        super().__init__()
        self.encoder, self.system = system.encoder, system

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.system.output(x)


def accuracy(system: hs.System, x: torch.Tensor, y: torch.Tensor) -> float:
    with torch.no_grad():
        return float((system.output(x).argmax(1) == y).float().mean())


if __name__ == "__main__":
    main()
