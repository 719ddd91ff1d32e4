"""Checks for what can be wrong with a robustness evaluation: (Case) -> Finding; one file per subject of the check."""
