"""After each command, the next one worth typing: one line on stderr, so that what a pipe reads stays as it is."""

from __future__ import annotations

import shlex
import sys

NEXT = {
    "demo": ("hardsight bench", "four encoders on three tasks, clean and under attack, in a few minutes"),
    "bench": ("hardsight board {store}", "ranks its encoders, with ties"),
    "bench one": ("hardsight geometry --encoder {encoder} --data {data}", "statistics of its embeddings"),
    "bench clean": ("hardsight bench --encoder {encoder} --task {task} --data {data}", "the same under attack"),
    "dry run": ("{command}", "runs it; interrupted, the same command resumes"),
    "attack": ("hardsight bench --encoder {encoder} --dry-run", "what it costs to measure its robustness"),
    "speed": ("hardsight bench --encoder {encoder} --task {task} --data {data} --dry-run", "what a whole run costs"),
    "train": ("hardsight bench --encoder {encoder} --data {data}", "its robustness beside its clean accuracy"),
    "stopped": ("hardsight resume {run}", "continues it"),
    "geometry": ("hardsight bench --encoder {encoder} --data {data}", "what its embeddings are good for, under attack"),
    "study": ("hardsight report {store}", "every cell with its interval over images"),
    "report": ("hardsight board {store}", "ranks its encoders, with ties"),
    "board": ("hardsight compare {a} {b} --store {store}", "where two encoders differ, paired on the same images"),
    "board one": ("hardsight report {store}", "every cell with its gallery and audit"),
    "compare": ("hardsight board {stores}", "all of them on one site"),
    "status": ("hardsight report {store}", "the report of what is done"),
    "data get": ("hardsight data check {data}", "reads some of its images"),
    "data check": ("hardsight bench --encoder zoo:made_simclr --data {data} --dry-run", "what a run on it costs"),
    "list": ("hardsight show {name}", "its arguments, description and source"),
    "list studies": ("hardsight study {name}", "trains, measures and compares its arms"),
    "show Attack": ("hardsight bench --attack {name}", "measures with it"),
    "show Search": ("hardsight bench --attack {name}", "measures with it"),
    "show Encoder": ("hardsight bench --encoder {name}", "measures it"),
    "show Task": ("hardsight bench --task {name}", "measures it"),
    "show Data": ("hardsight data check {name}", "reads some of its images"),
    "show Method": ("hardsight harden --method {name} --encoder zoo:made_simclr --data made", "trains with it"),
    "show recipe": ("hardsight bench --recipe {name} --dry-run", "what it costs"),
    "show training recipe": ("hardsight pretrain --recipe {name}", "trains it"),
    "show protocol": ("hardsight bench --protocol {name} --encoder zoo:made_simclr --dry-run", "what it costs"),
    "export": ("hardsight bench --encoder hf:{out} --dry-run", "it is an encoder like any other"),
    "push": ("hardsight bench --encoder {encoder} --dry-run", "it is an encoder like any other"),
    "doctor": ("hardsight demo", "one attack on two tasks, in half a minute"),
}
"""By what was done: the command, with facts of the run in braces, and why it is worth typing."""


def say(done: str, silent: bool = False, **facts: object) -> None:
    """Prints the line of `NEXT[done]` to stderr, facts quoted for a shell (of a tuple, each). silent: --json or --quiet."""
    if silent:
        return
    command, why = NEXT[done]
    print(f" next  {command.format(**{name: _quoted(value) for name, value in facts.items()})}    ({why})", file=sys.stderr)


def _quoted(value: object) -> str:
    return shlex.join(map(str, value)) if isinstance(value, tuple) else shlex.quote(str(value))
