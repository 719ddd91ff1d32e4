"""The tuned linear head beside scikit-learn's logistic regression, whose C is chosen by cross-validation: figures and seconds.

    HARDSIGHT_DATA=PATH python benchmarks/results/heads.py [--threads 1] [--rounds 5]

CIFAR-10: the pooled features of 4,000 training images, standardised, for both; accuracy on the 700 test images with its 95%
interval (Wilson). CamVid: the dense features of the training images; scikit-learn gets one sample a cell of the grid (the label at
its centre, 5,000 drawn cells), and its solution is put into the same head, so that both are measured by mIoU per pixel.
CPU seconds of the fit, features not included, are the median of interleaved rounds, of which CamVid has one. A head of 2 steps is there to be caught: the
last column is the verdict of the audit's check `trained`.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from sklearn.linear_model import LogisticRegressionCV
from torch import Tensor

from hardsight.data import Data, open_data
from hardsight.data.feed import choose
from hardsight.encoders import load_encoder
from hardsight.encoders.base import Encoder
from hardsight.measure.checks.base import Case
from hardsight.metrics import of
from hardsight.probes.bank import Bank
from hardsight.probes.linear import fit_probe
from hardsight.specs.catalog import build
from hardsight.specs.recipe import load
from hardsight.tasks.base import System

HERE = Path(__file__).parent
TRAINED, CELLS, SEED = 4000, 5_000, 0
HEADS = {
    "classify": ("probe", "probe(epochs=50)", "probe(epochs=1, batch=2000)"),
    "segment": ("probe", "probe(epochs=50)", "probe(epochs=1, batch=200)"),
}
"""By task: tuned; the former default, one run of 50 epochs; and 2 steps or fewer."""


def by_scikit_learn(x: Tensor, y: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """(weight [K, D], bias [K]) for standardised features x [N, D] and labels y [N]."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        found = LogisticRegressionCV(max_iter=1000).fit(x.double().numpy(), y.numpy())
    weight, bias = torch.zeros(classes, x.shape[1]), torch.full((classes,), -1e4)
    weight[found.classes_] = torch.from_numpy(found.coef_).float()
    bias[found.classes_] = torch.from_numpy(found.intercept_).float()
    return weight, bias


def samples(bank: Bank, dense: bool) -> tuple[Tensor, Tensor]:
    """Features [N, D] and labels [N]: of images, or of cells drawn from all that are labelled."""
    features, target = bank.batch(torch.arange(len(bank)), dense)
    if not dense:
        return features.pooled, target["label"]
    assert features.dense is not None
    mask, (high, wide) = target["mask"], features.dense.shape[-2:]
    rows = ((torch.arange(high) + 0.5) * mask.shape[-2] / high).long()
    columns = ((torch.arange(wide) + 0.5) * mask.shape[-1] / wide).long()
    x, y = features.dense.movedim(1, -1).flatten(0, 2), mask[:, rows][:, :, columns].flatten()
    some = (y != 255).nonzero().flatten()
    drawn = some[torch.randperm(len(some), generator=torch.Generator().manual_seed(SEED))[:CELLS]]
    return x[drawn], y[drawn]


def standard(encoder: Encoder, task: Any, data: Data, bank: Bank) -> Callable[[], System]:
    """The fit by scikit-learn, as a system with the task's own head."""
    dense = task.reads == "dense"
    x, y = samples(bank, dense)
    variance, mean = torch.var_mean(x, 0)

    def fit() -> System:
        head = task.head(encoder, data.card).eval().requires_grad_(False)
        norm = head.norm if dense else head.scale
        weight, bias = by_scikit_learn((x - mean) / (variance + norm.eps).sqrt(), y, head.linear.weight.shape[0])
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)
        head.linear.weight.copy_(weight.view_as(head.linear.weight))
        head.linear.bias.copy_(bias)
        return System(encoder, head, task)

    return fit


def measured(system: System, bank: Bank) -> str:
    """The figure on the bank's images with its interval, in percent."""
    task, dense, rows = system.task, system.task.reads == "dense", []
    for part in torch.arange(len(bank)).split(50):
        features, target = bank.batch(part, dense)
        with torch.no_grad():
            rows.append(task.counts(system.head(features), target[task.target]))
    counts = {key: torch.cat([row[key] for row in rows]).numpy() for key in rows[0]}
    metric = of(task.name)
    low, high = metric.interval(counts)
    return f"{100 * metric.summary(counts)[metric.headline]:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def verdict(system: System) -> str:
    x = torch.rand(2, 3, 32, 32)
    y = torch.zeros(2, dtype=torch.long) if system.task.target == "label" else torch.zeros(2, 32, 32, dtype=torch.long)
    case = Case(system, build(system.task.attack, "Attack"), build("linf(8/255)", "Threat"), x, y)
    return build("trained", "Check")(case).verdict


def compare(name: str, encoder: Encoder, task_name: str, data: Data, rounds: int) -> None:
    task = build(task_name, "Task")
    dense = task.reads == "dense"
    train, test = data.split("train"), data.split(data.measured_on())
    bank, other = (Bank(encoder, images, choose(images, count), dense) for images, count in ((train, TRAINED), (test, 1000)))
    ways: dict[str, Callable[[], System]] = {
        text: lambda text=text: fit_probe(encoder, task, data, text, SEED, bank=bank) for text in HEADS[task_name]
    }
    ways["scikit-learn, LogisticRegressionCV"] = standard(encoder, task, data, bank)
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    found: dict[str, System] = {}
    for _ in range(rounds):
        for way, fit in ways.items():
            before = time.process_time()
            found[way] = fit()
            seconds[way].append(time.process_time() - before)
    whole = statistics.median(seconds["scikit-learn, LogisticRegressionCV"])
    for way, system in found.items():
        spent = statistics.median(seconds[way])
        said = "–" if way.startswith("scikit") else verdict(system)
        print(f"| {name} | {way} | {measured(system, other)} | {spent:.2f} | {spent / whole:.2f} | {said} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    print(
        f"Seed {SEED}, {asked.rounds} rounds, threads: {asked.threads}; accuracy or mIoU in % with its 95% interval over images.\n"
    )
    print("| features | head | test | CPU s | of scikit-learn's | `trained` says |\n|:--|:--|--:|--:|--:|:--|")
    recipe = load(str(HERE / "cifar10-probes.toml"))
    data = open_data(recipe.data[0])
    for name, text in zip(("ResNet-20", "resnet4b", "MobileNetV2, 96 px"), recipe.encoders, strict=False):
        compare(f"CIFAR-10, {name}", load_encoder(text), "classify", data, asked.rounds)
    recipe = load(str(HERE / "camvid.toml"))
    data = open_data(recipe.data[0])
    for text in recipe.encoders[1:]:
        compare(f"CamVid, {text}", load_encoder(text), "segment", data, rounds=1)


if __name__ == "__main__":
    main()
