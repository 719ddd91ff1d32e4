"""The command line: one verb a function. Data goes to stdout, progress and errors to stderr; nothing heavy is imported at the top.

Exit codes: 0 done, 1 failed, 2 wrong input (one line says what would be right), 130 interrupted with everything finished kept.
"""

from hardsight.cli import data, geometry, measure, show, study, train  # each adds its verbs to the app
from hardsight.cli.base import app, main

__all__ = ["app", "data", "geometry", "main", "measure", "show", "study", "train"]
