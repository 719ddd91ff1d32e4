"""How long commands take to start and reports to be written, in CPU seconds beside an earlier checkout; see docs/performance.md.

    python benchmarks/performance/start.py start --before FOLDER --rounds 5
    python benchmarks/performance/start.py reports --before FOLDER --rounds 3 --encoders 12

FOLDER is a checkout of an earlier commit; without it, only this one is timed. Both run in this environment, in turn.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from hardsight.store.cells import Store

HERE = Path(__file__).resolve().parents[2]
COMMAND = "from hardsight.cli import main; main()"
VIT = "timm:vit_small_patch16_224(pretrained=False)"
STARTS = {
    "bench --dry-run, timm ViT-S": ("bench", "--encoder", VIT, "--dry-run"),
    "bench, eps=abc": ("bench", "--eps", "abc"),
    "bench, unknown attack": ("bench", "--attack", "nope"),
    "bench, no such data folder": ("bench", "--data", "cifar10:nope"),
    "bench, no such run": ("bench", "--encoder", "run:nope"),
    "attack, empty --images": ("attack", "--encoder", "zoo:made_simclr", "--images", "empty", "--out", "out"),
}
COLUMNS = [("clean", 0)] + [(name, eps) for eps in (2, 4, 8) for name in ("embed", "task")]
TASKS = {"classify": "classpgd", "segment": "segpgd", "depth": "depthpgd"}


def seconds(source: Path, words: tuple[str, ...], folder: Path) -> float:
    """CPU seconds, user and system, of one command on one thread."""
    env = {
        **os.environ,
        "PYTHONPATH": str(source / "src"),
        "OMP_NUM_THREADS": "1",
        "PYTHONPYCACHEPREFIX": str(folder / "pyc"),
    }
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", COMMAND, *words], cwd=folder, env=env, capture_output=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def store_of(folder: Path, encoders: int, images: int) -> Store:
    """A store of encoders x 3 tasks x 7 cells with drawn counts, as the tasks write them."""
    rng, store = np.random.default_rng(0), Store(folder)
    for encoder in range(encoders):
        for task, attack in TASKS.items():
            for column, eps in COLUMNS:
                spec = {"clean": "clean", "embed": "embed", "task": attack}[column]
                what = {"encoder": f"timm('net{encoder}')", "encoder_name": f"net{encoder}", "task": task, "task_name": task}
                what |= {"data": "made", "data_name": "made", "attack": spec, "attack_name": column, "column": column}
                what |= {
                    "threat": "linf",
                    "norm": "linf" if eps else "",
                    "eps": eps / 255,
                    "eps_text": f"{eps}/255",
                    "count": images,
                }
                cell = store.open(f"net{encoder}-{task}-{column}-{eps}", what)
                cell.write_chunk(0, drawn(rng, task, images, max(0.05, 0.9 - eps / 10 - encoder / 1000)))
                cell.finish({"finished": "2026-01-01", "seconds": 1.0, "images": images, "queries": 20.0, "versions": {}})
    return store


def drawn(rng: np.random.Generator, task: str, n: int, share: float) -> dict[str, np.ndarray]:
    if task == "classify":
        hits = (rng.random(n) < share).astype(np.int64)
        counts, error = {"hits": hits, "images": np.ones(n, np.int64)}, 1.0 - hits
    elif task == "segment":
        labelled = rng.integers(1, 800, (n, 6))
        hits = (labelled * rng.random((n, 6)) * share).astype(np.int64)
        counts = {"intersection": hits, "predicted": hits + rng.integers(0, 300, (n, 6)), "labelled": labelled}
        error = 1 - hits.sum(1) / labelled.sum(1)
    else:
        error = rng.random(n) * (2 - share)
        counts = {"pixels": np.full(n, 4096.0), "squared": 4096 * error**2, "images": np.ones(n), "image_rmse": error}
        names = ("relative", "log10", "delta1", "delta2", "delta3", "image_silog")
        counts |= {name: 4096 * rng.random(n) for name in names}
    rows = {"id": np.array([f"{at:06d}" for at in range(n)]), "error": error, "size": np.zeros(n), "queries": np.full(n, 20)}
    return rows | {f"counts.{name}": value for name, value in counts.items()}


def table(title: str, lines: dict[str, dict[str, list[float]]]) -> None:
    print(f"{title}\n")
    heads = list(next(iter(lines.values())))
    ratio = len(heads) > 1
    print("| | " + " | ".join(f"{head}, s" for head in heads) + (" | ratio | min–max |" if ratio else " |"))
    print("|:--|" + "--:|" * (len(heads) + 2 * ratio))
    for name, found in lines.items():
        cells = [f"{statistics.median(found[head]):.2f}" if found[head] else "–" for head in heads]
        if ratio and all(found.values()):
            shares = [now / then for then, now in zip(found[heads[0]], found[heads[1]], strict=True)]
            cells += [f"{statistics.median(shares):.2f}", f"{min(shares):.2f}–{max(shares):.2f}"]
        print(f"| {name} | " + " | ".join(cells + ["–"] * (2 * ratio - len(cells) + len(heads))) + " |")
    print(flush=True)


def starts(sources: dict[str, Path], rounds: int, folder: Path) -> None:
    (folder / "empty").mkdir()
    for source in sources.values():
        seconds(source, STARTS["bench --dry-run, timm ViT-S"], folder)  # its compiled modules are written
    lines = {name: {head: [] for head in sources} for name in STARTS}
    for _ in range(rounds):
        for name, words in STARTS.items():
            for head, source in sources.items():
                lines[name][head].append(seconds(source, words, folder))
    table(f"CPU seconds of a command, one thread, {rounds} rounds in turn", lines)


def reports(sources: dict[str, Path], rounds: int, folder: Path, encoders: int, images: int) -> None:
    sizes = [(encoders, 60), (2 * encoders, 60), (encoders, images)]
    for number, (many, n) in enumerate(sizes):
        store = store_of(folder / f"store{number}", many, n).path
        words = ("report", str(store), "--out", str(folder / "out"))
        here = sources if n == 60 else {"now": HERE}  # an earlier commit takes minutes for so many images
        lines = {
            f"{21 * many:,} cells x {n:,} images, {what}": {head: [] for head in here}
            for what in ("first report", "later ones")
        }
        for _ in range(rounds):
            for kept in store.rglob("figures.json"):
                kept.unlink()
            for found in lines.values():
                for head, source in here.items():
                    found[head].append(seconds(source, words, folder))
        table(f"CPU seconds of `hardsight report`, one thread, {rounds} rounds in turn", lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("start", "reports"))
    parser.add_argument("--before", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--encoders", type=int, default=12)
    parser.add_argument("--images", type=int, default=10000)
    given = parser.parse_args()
    sources = ({"before": given.before.resolve()} if given.before else {}) | {"now": HERE}
    with tempfile.TemporaryDirectory() as folder:
        if given.what == "start":
            starts(sources, given.rounds, Path(folder))
        else:
            reports(sources, given.rounds, Path(folder), given.encoders, given.images)


if __name__ == "__main__":
    main()
