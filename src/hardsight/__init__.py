"""Hardsight: how does a vision encoder break under attack, across every task it serves?

    import hardsight as hs

    encoder = hs.load_encoder("timm:vit_tiny_patch16_224")
    system = hs.fit_probe(encoder, "classify", "made")
    attack = hs.classpgd(steps=20)
    result = attack(system, x, y, hs.linf(8 / 255))

Importing the package is fast: each name is loaded when it is first used.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "Attack": "attacks.attack",
    "AttackResult": "losses.objective",
    "Call": "specs.syntax",
    "Card": "encoders.base",
    "Data": "data.base",
    "DataCard": "data.base",
    "Encoder": "encoders.base",
    "Features": "encoders.base",
    "HardsightError": "core.errors",
    "Objective": "losses.objective",
    "Reading": "losses.objective",
    "Store": "store.cells",
    "System": "tasks.base",
    "autoattack": "attacks.suites",
    "build": "specs.catalog",
    "cascade": "attacks.attack",
    "classpgd": "attacks.presets",
    "clean": "attacks.presets",
    "cospgd": "attacks.presets",
    "dense_autoattack": "attacks.suites",
    "depthpgd": "attacks.presets",
    "embed": "attacks.presets",
    "fgsm": "attacks.presets",
    "fit_probe": "probes.linear",
    "flicker": "attacks.threats.clips",
    "l0": "attacks.threats.l0",
    "l1": "attacks.threats.l1",
    "l2": "attacks.threats.l2",
    "linf": "attacks.threats.linf",
    "load_encoder": "encoders",
    "load_images": "data",
    "masked": "attacks.threats.masked",
    "open_data": "data",
    "patch": "attacks.threats.patch",
    "per_frame": "attacks.threats.clips",
    "pgd": "attacks.search.pgd",
    "read": "specs.syntax",
    "register": "specs.catalog",
    "sea": "attacks.suites",
    "segpgd": "attacks.presets",
    "show": "specs.syntax",
    "union": "attacks.threats.union",
}

__all__ = ["__version__", *_HOMES]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'hardsight' has no attribute '{name}'")
    return getattr(importlib.import_module(f"hardsight.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
