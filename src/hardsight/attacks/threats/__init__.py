"""Threat models, what an attacker may change: one threat per file, each of them a geometry (see `base`)."""
