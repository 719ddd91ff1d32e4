"""The command line: one function per command. Results go to stdout, progress and errors to stderr; imports are lazy.

Exit codes: 0 done, 1 failed, 2 wrong input (one line says what would be right), 3 a comparison
fails, 75 a training run was stopped by a scheduler or lost a process (the same command goes on), 130 interrupted (finished parts
are kept).
"""

from hardsight.cli import (  # each adds its commands to the app
    board,
    compare,
    data,
    demo,
    export,
    geometry,
    measure,
    show,
    status,
    study,
    train,
)
from hardsight.cli.base import app, main

__all__ = [
    "app",
    "board",
    "compare",
    "data",
    "demo",
    "export",
    "geometry",
    "main",
    "measure",
    "show",
    "status",
    "study",
    "train",
]
