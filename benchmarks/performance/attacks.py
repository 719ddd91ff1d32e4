"""The cost of attacks, compared with other libraries, per optimization, and as whole evaluations: for docs/performance.md.

    HARDSIGHT_DATA=... uv run --group parity python benchmarks/performance/attacks.py TABLE [--rounds 5] [--threads 2]

TABLE is peers, levers, attacks, patience, pieces or memory. Each is one run in one process. All variants run in turn, round
after round; a figure is the median over rounds of the variant's seconds divided by the floor's in the same round. Floor: the
eager float32 forward and input-gradient passes, with unmodified weights, times the number of steps. ResNet-20 and resnet4b
have their published weights, the ViT random ones, seed 0.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

import hardsight as hs
from hardsight.attacks.bf16 import Attention, cheap
from hardsight.core import seeds
from hardsight.core.machine import device_name
from hardsight.losses.objective import against, loss_and_grad
from hardsight.losses.objective import pieces as in_pieces
from hardsight.measure.evaluate import Precision, evaluate
from hardsight.measure.speed import peak, speed

SEED, STEPS = 0, 10
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
Clock = Callable[[], float]
RESNET20 = "file:$HARDSIGHT_DATA/weights/resnet20-12fca82f.th(arch='resnet20')"
RESNET4B = "file:$HARDSIGHT_DATA/weights/resnet4b_adv_eps2.pth(arch='resnet4b')"
CIFAR = "cifar10:$HARDSIGHT_DATA/cifar10"
HARDENED = Path("runs/paper002-cifar10/multitask-0")
"""A run of `hardsight study paper002-hardening-cifar10`, a hardened network of usual depth; if missing, it is left out."""


def main() -> None:
    tables = {one.__name__: one for one in (peers, levers, attacks, patience, pieces, memory)}
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=tables)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--clock", choices=CLOCKS, default="wall", help="cpu: CPU seconds of this process only, for a busy machine"
    )
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(SEED)
    print(
        f"{device_name(torch.device('cpu'))}, torch {torch.__version__}, {args.rounds} rounds, {args.clock} seconds, seed {SEED}\n"
    )
    tables[args.what](args.rounds, CLOCKS[args.clock])


class Net(torch.nn.Module):
    """An encoder and a linear layer on its pooled features: images in [0, 1] -> logits [B, 10]."""

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.encoder, self.linear = encoder, torch.nn.Linear(encoder.card.dim, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.encoder(x).pooled)


class Linear(torch.nn.Module):
    """A linear layer as the head of a system."""

    def __init__(self, linear: torch.nn.Linear) -> None:
        super().__init__()
        self.linear = linear

    def forward(self, features: Any) -> Tensor:
        return self.linear(features.pooled)


def nets() -> dict[str, tuple[torch.nn.Module, Tensor, Tensor]]:
    encoders = {
        "ViT-Tiny 224, batch 8": (hs.load_encoder("timm:vit_tiny_patch16_224(pretrained=False)"), 8, 224),
        "ResNet-20 32, batch 64": (hs.load_encoder(RESNET20), 64, 32),
    }
    found = {}
    for name, (encoder, batch, side) in encoders.items():
        net = Net(encoder).eval()
        x = torch.rand(batch, 3, side, side)
        with torch.no_grad():
            found[name] = (net, x, net(x).argmax(1))
    return found


def bare(net: Callable[[Tensor], Tensor], x: Tensor, y: Tensor, steps: int, cast: Any = nullcontext) -> None:
    for _ in range(steps):
        here = x.detach().requires_grad_(True)
        with cast():
            loss = torch.nn.functional.cross_entropy(net(here), y)
        torch.autograd.grad(loss, here)


def peers(rounds: int, clock: Clock) -> None:
    """PGD-10 and APGD-10 as each library runs them, Linf 8/255, without early exit."""
    tables = {name: timed(libraries(*net), rounds, clock) for name, net in nets().items()}
    table(f"PGD-{STEPS} and APGD-{STEPS}, Linf 8/255, seconds relative to the floor", tables)


def libraries(net: torch.nn.Module, x: Tensor, y: Tensor) -> dict[str, Callable[[], Any]]:
    import foolbox
    import pyautoattack.autopgd_base as official
    import torchattacks

    try:
        from art.attacks.evasion import ProjectedGradientDescentPyTorch
        from art.estimators.classification import PyTorchClassifier
    except ImportError:  # not in the group of packages of a plain installation
        print("adversarial-robustness-toolbox is not installed, so its row is left out", file=sys.stderr)
        ProjectedGradientDescentPyTorch = PyTorchClassifier = None

    eps = 8 / 255

    system = hs.System(net.encoder, Linear(net.linear), hs.build("classify", "Task"))  # type: ignore[arg-type]

    def ours(spec: str) -> None:
        hs.build(f"attack({spec}, loss=ce)", "Attack")(system, x, y, hs.linf(eps), torch.Generator())

    theirs = torchattacks.PGD(net, eps=eps, alpha=eps / 4, steps=STEPS)
    box = foolbox.attacks.LinfPGD(rel_stepsize=0.25, steps=STEPS)
    model = foolbox.PyTorchModel(net, bounds=(0, 1), device="cpu")
    loss = torch.nn.CrossEntropyLoss()
    more: dict[str, Callable[[], Any]] = {}
    if PyTorchClassifier is not None and ProjectedGradientDescentPyTorch is not None:
        classifier = PyTorchClassifier(net, loss, tuple(x.shape[1:]), 10, clip_values=(0, 1), device_type="cpu")
        art = ProjectedGradientDescentPyTorch(
            classifier, eps=eps, eps_step=eps / 4, max_iter=STEPS, num_random_init=1, batch_size=len(x), verbose=False
        )
        hot = torch.nn.functional.one_hot(y, 10).numpy()
        more["ART PGD"] = lambda: art.generate(x.numpy(), hot)
    apgd = official.APGDAttack(net, n_iter=STEPS, norm="Linf", eps=eps, seed=0, loss="ce", device="cpu")
    return {
        "floor": lambda: bare(net, x, y, STEPS),
        "hardsight PGD": lambda: ours(f"pgd({STEPS})"),
        "torchattacks PGD": lambda: theirs(x, y),
        "foolbox LinfPGD": lambda: box.run(model, x, foolbox.criteria.Misclassification(y), epsilon=eps),
        **more,
        "hardsight APGD-CE": lambda: ours(f"apgd({STEPS})"),
        "autoattack APGD-CE": lambda: apgd.perturb(x, y),
    }


def levers(rounds: int, clock: Clock) -> None:
    """Each optimization alone on the bare pass, and some combinations."""
    tables = {name: timed(variants(*net), rounds, clock) for name, net in nets().items()}
    table("One optimization at a time on the bare pass, seconds relative to the floor", tables)


def variants(net: torch.nn.Module, x: Tensor, y: Tensor) -> dict[str, Callable[[], Any]]:
    import timm
    from torch.fx.experimental.optimization import fuse

    def half() -> Any:
        return torch.autocast("cpu", torch.bfloat16)

    frozen = copy.deepcopy(net).requires_grad_(False)
    last, there = (
        copy.deepcopy(frozen).to(memory_format=torch.channels_last),
        x.contiguous(memory_format=torch.channels_last),
    )
    low = copy.deepcopy(frozen).bfloat16()
    cast = copy.deepcopy(frozen)

    def ours() -> None:
        with half(), Attention() if x.shape[-1] == 224 else nullcontext(), cheap(cast):
            bare(cast, x, y, STEPS)

    runs: dict[str, Callable[[], Any]] = {
        "floor": lambda: bare(net, x, y, STEPS),
        "with weight gradients (as `.backward()`)": lambda: backward(net, x, y),
        "weights frozen": lambda: bare(frozen, x, y, STEPS),
        "channels_last": lambda: bare(last, there, y, STEPS),
        "bf16 autocast": lambda: bare(frozen, x, y, STEPS, half),
        "bf16 copy of the weights": lambda: bare(lambda z: low(z.bfloat16()).float(), x, y, STEPS),
        "bf16 autocast, channels_last": lambda: bare(last, there, y, STEPS, half),
        "bf16 as in `hardsight.attacks.bf16`: weights cast once, channels_last, attention and patches as products": ours,
    }
    if x.shape[-1] == 32:  # the ViT has no batch norm to fold; torch.fx can trace timm's ResNet, but not an encoder
        whole = timm.create_model("resnet18", num_classes=10).eval().requires_grad_(False)
        folded = fuse(copy.deepcopy(whole))
        runs["timm's ResNet-18, unchanged (baseline of the next line)"] = lambda: bare(whole, x, y, STEPS)
        runs["timm's ResNet-18, batch norm folded into the convolutions"] = lambda: bare(folded, x, y, STEPS)
    compiled = torch.compile(copy.deepcopy(frozen))
    started = time.perf_counter()
    bare(compiled, x, y, 1)
    runs[f"torch.compile (first call {time.perf_counter() - started:.0f} s)"] = lambda: bare(compiled, x, y, STEPS)
    low_compiled = torch.compile(copy.deepcopy(frozen))
    bare(low_compiled, x, y, 1, half)
    runs["torch.compile, bf16 autocast"] = lambda: bare(low_compiled, x, y, STEPS, half)
    return runs


def backward(net: torch.nn.Module, x: Tensor, y: Tensor) -> None:
    for _ in range(STEPS):
        here = x.detach().requires_grad_(True)
        torch.nn.functional.cross_entropy(net(here), y).backward()
    net.zero_grad()


def attacks(rounds: int, clock: Clock) -> None:
    """`hardsight speed` on five systems: the whole evaluation as users run it, including the final evaluation in float32."""
    data = hs.open_data(CIFAR)
    x, y = hs.load_images(data, "label", 512)
    vit = "timm:vit_tiny_patch16_224(pretrained=False)"
    probe = "probe(images=128, epochs=2)"
    systems: dict[str, tuple[Any, str, str, Tensor, Any]] = {}
    robust = (
        [("ResNet of 0.4 M parameters, hardened", f"run:{HARDENED}", "linear", "2/255", 512)] if HARDENED.exists() else []
    )
    if not robust:
        print(f"{HARDENED} does not exist, so its table is left out", file=sys.stderr)
    for name, spec, head, eps, batch in (
        ("ResNet-20, undefended", RESNET20, "own", "8/255", 128),
        ("resnet4b, adversarially trained", RESNET4B, "own", "2/255", 512),
        *robust,
    ):
        system = hs.fit_probe(hs.load_encoder(spec), f"classify(head='{head}')", data)
        systems[f"{name}: classpgd {eps}, batch {batch}"] = (system, "classpgd", eps, x[:batch], y[:batch])
    for name, spec, source, batch in (
        ("ViT-Tiny 224", vit, "made(size=224)", 8),
        ("ResNet-20", RESNET20, "made(size=64)", 16),
    ):
        scenes = hs.open_data(source)
        system = hs.fit_probe(hs.load_encoder(spec), "segment", scenes, probe)
        images, masks = hs.load_images(scenes, "mask", batch)
        systems[f"{name}: segpgd 8/255, batch {batch}"] = (system, "segpgd", "8/255", images, masks)
    for title, (system, attack, eps, images, target) in systems.items():
        over, under = map(float, eps.split("/"))
        found = speed(system, hs.build(attack, "Attack"), hs.linf(over / under), images, target, rounds, SEED, clock=clock)
        print(
            f"**{title}**, n = {len(images)}\n\n| | seconds | relative to floor | min–max | peak memory relative to floor | score | queries per image |"
        )
        print("|:--|--:|--:|--:|--:|--:|--:|")
        for pace in found:
            score = "" if pace.score is None else f"{100 * pace.score:.1f} %"
            queries = "" if pace.queries is None else f"{pace.queries:.1f}"
            print(
                f"| {pace.name} | {pace.seconds:.2f} | {pace.ratio:.2f} | {pace.spread[0]:.2f}–{pace.spread[1]:.2f} "
                f"| {pace.memory_ratio:.2f} | {score} | {queries} |"
            )
        print(flush=True)


def patience(rounds: int, clock: Clock) -> None:
    """What early stopping by `patience` saves and costs: the whole evaluation with PGD-20, relative to the floor."""
    data = hs.open_data(CIFAR)
    x, y = hs.load_images(data, "label", 512)
    print(
        "For each precision: robust accuracy (%), queries per image, and seconds relative to the floor (median over rounds); 512 images in one batch\n"
    )
    print("| | patience | float32 | | | bf16 | | |\n|:--|--:|--:|--:|--:|--:|--:|--:|")
    for name, spec, head, eps in (
        ("resnet4b, 2/255", RESNET4B, "own", 2 / 255),
        ("resnet4b, 4/255", RESNET4B, "own", 4 / 255),
        *([("hardened ResNet, 2/255", f"run:{HARDENED}", "linear", 2 / 255)] if HARDENED.exists() else []),
    ):
        system = hs.fit_probe(hs.load_encoder(spec), f"classify(head='{head}')", data)
        found: dict[str, Any] = {}

        def run(
            steps: int, precision: Precision, system: Any = system, eps: float = eps, found: dict[str, Any] = found
        ) -> None:
            attack = hs.build(f"classpgd(patience={steps})", "Attack")
            rng = seeds.generator("speed", SEED)
            found[f"{steps} {precision}"], _ = evaluate(system, attack, hs.linf(eps), x, y, ["?"] * len(x), rng, precision)

        runs: dict[str, Callable[[], Any]] = {"floor": partial(bare, system.output, x, y, 20)}
        runs |= {f"{steps} {word}": partial(run, steps, word) for steps in (0, 1, 2, 3, 5) for word in get_args(Precision)}
        ratios = timed(runs, rounds, clock)
        for steps in (0, 1, 2, 3, 5):
            cells = [str(steps) if steps else "0: off"]
            for word in get_args(Precision):
                rows = found[f"{steps} {word}"]
                cells += [f"{100 * (1 - rows['error'].mean()):.1f}", f"{rows['queries'].mean():.1f}"]
                cells += [f"{ratios[f'{steps} {word}'][0]:.2f}"]
            print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


def pieces(rounds: int, clock: Clock) -> None:
    """The gradient of the whole batch, and in pieces as `loss_and_grad` takes it: seconds, peak memory, difference."""
    print("Seconds and peak memory of a gradient taken in pieces, relative to that of the whole batch; median over rounds\n")
    print("| | images | pieces | seconds | min–max | peak memory | largest difference |\n|:--|--:|--:|--:|--:|--:|--:|")
    for name, spec, side, counts in (
        ("ResNet-20", RESNET20, 32, (256, 512)),
        ("resnet4b", RESNET4B, 32, (512, 1024)),
        ("ViT-Tiny 224", "timm:vit_tiny_patch16_224(pretrained=False)", 224, (8, 32)),
        ("ResNet-50 224", "timm:resnet50(pretrained=False)", 224, (8, 16)),
    ):
        net = Net(hs.load_encoder(spec)).eval().requires_grad_(False)
        for count in counts:
            x, y = torch.rand(count, 3, side, side), torch.randint(10, (count,))
            objective = against(net, hs.build("ce", "Loss"), None, y)
            whole = partial(loss_and_grad, replace(objective, coupled=True), x)
            apart = partial(loss_and_grad, objective, x)
            ratios = timed({"floor": whole, "pieces": apart}, rounds, clock)["pieces"]
            memory = peak(apart, x.device)[0] / peak(whole, x.device)[0]
            differ = float((apart()[1] - whole()[1]).abs().max())
            middle, *ends = (f"{ratio:.2f}" for ratio in ratios)
            print(
                f"| {name} | {count} | {in_pieces(x)} | {middle} | {'–'.join(ends)} | {memory:.2f} | {differ:g} |",
                flush=True,
            )


def memory(rounds: int, clock: Clock) -> None:
    """Peak memory of each search, relative to a bare pass of the same batch; `rounds` and `clock` are not used."""
    data, scenes = hs.open_data(CIFAR), hs.open_data("made(size=224)")
    images, views = hs.load_images(data, "label", 512), hs.load_images(scenes, "label", 8)
    systems = {}
    for name, spec, (x, y), count in (
        ("ResNet-20, 128 images", RESNET20, images, 128),
        ("resnet4b, 512 images", RESNET4B, images, 512),
        ("ViT-Tiny 224, 8 images", "timm:vit_tiny_patch16_224(pretrained=False)", views, 8),
    ):
        task, source, probe = (
            ("classify", scenes, "probe(images=64, epochs=2)") if count == 8 else ("classify(head='own')", data, "probe")
        )
        systems[name] = (hs.fit_probe(hs.load_encoder(spec), task, source, probe), x[:count], y[:count])
    print(
        "Peak memory relative to a bare forward and input-gradient pass; PGD and APGD with the loss ce, FAB, FMN and Square with margin\n"
    )
    print("| | " + " | ".join(systems) + " |\n|:--|" + "--:|" * len(systems))
    floors = {name: peak(partial(bare, system.output, x, y, 2), x.device)[0] for name, (system, x, y) in systems.items()}
    for row, threat in (
        ("pgd(3)", "linf(2/255)"),
        ("pgd(3, momentum=1)", "linf(2/255)"),
        ("eot(pgd(2), 5)", "linf(2/255)"),
        *(("apgd(4)", threat) for threat in ("linf(2/255)", "l2(0.25)", "l1(3)")),
        *((f"{search}(3)", threat) for search in ("fab", "fmn") for threat in ("linf(2/255)", "l2(0.25)", "l1(3)")),
        ("square(5)", "linf(2/255)"),
    ):
        loss = "ce" if "pgd" in row else "margin"
        attack, cells = hs.build(f"attack({row}, loss={loss})", "Attack"), []
        for name, (system, x, y) in systems.items():
            run = partial(attack, system, x, y, hs.build(threat, "Threat"), torch.Generator().manual_seed(SEED))
            cells.append(f"{peak(run, x.device)[0] / floors[name]:.2f}")
        print(f"| `{row}` {threat} | " + " | ".join(cells) + " |", flush=True)


def timed(runs: dict[str, Callable[[], Any]], rounds: int, clock: Clock) -> dict[str, tuple[float, float, float]]:
    """Median, minimum and maximum of the ratio to the same round's floor; one warm-up round is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds + 1):
        for name, run in runs.items():
            started = clock()
            run()
            if turn:
                seconds[name].append(clock() - started)
    found = {}
    for name, mine in seconds.items():
        ratios = [a / b for a, b in zip(mine, seconds["floor"], strict=True)]
        found[name] = (statistics.median(ratios), min(ratios), max(ratios))
    return found


def table(title: str, tables: dict[str, dict[str, tuple[float, float, float]]]) -> None:
    print(f"{title}: median [min, max] over rounds\n")
    print("| | " + " | ".join(tables) + " |\n|:--|" + "--:|" * len(tables))
    rows: dict[str, None] = {}
    for one in tables.values():
        rows |= dict.fromkeys(one)
    for row in rows:
        cells = [
            f"{one[row][0]:.2f} [{one[row][1]:.2f}, {one[row][2]:.2f}]" if row in one else "–" for one in tables.values()
        ]
        print(f"| {row} | " + " | ".join(cells) + " |")
    print(flush=True)


if __name__ == "__main__":
    main()
