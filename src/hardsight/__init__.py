"""Hardsight: how does a vision encoder break under attack, across every task it serves?

    import hardsight as hs

    encoder = hs.load_encoder("timm:vit_tiny_patch16_224")
    system = hs.fit_probe(encoder, "classify", "made")
    attack = hs.classpgd(steps=20)
    result = attack(system, x, y, hs.linf(8 / 255))

Importing this imports nothing heavy: a name is loaded when it is first used.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "Attack": "attack",
    "AttackResult": "objective",
    "Call": "spec",
    "Card": "encoders.base",
    "Data": "data.base",
    "DataCard": "data.base",
    "Encoder": "encoders.base",
    "Features": "encoders.base",
    "HardsightError": "errors",
    "Objective": "objective",
    "Reading": "objective",
    "Store": "store",
    "System": "tasks.base",
    "autoattack": "suites",
    "build": "catalog",
    "cascade": "attack",
    "classpgd": "presets",
    "clean": "presets",
    "cospgd": "presets",
    "dense_autoattack": "suites",
    "depthpgd": "presets",
    "embed": "presets",
    "fgsm": "presets",
    "fit_probe": "probe",
    "flicker": "threats.clips",
    "l0": "threats.l0",
    "l1": "threats.l1",
    "l2": "threats.l2",
    "linf": "threats.linf",
    "load_encoder": "encoders",
    "load_images": "data",
    "masked": "threats.masked",
    "open_data": "data",
    "patch": "threats.patch",
    "per_frame": "threats.clips",
    "pgd": "search.pgd",
    "read": "spec",
    "register": "catalog",
    "sea": "suites",
    "segpgd": "presets",
    "show": "spec",
    "union": "threats.union",
}

__all__ = ["__version__", *_HOMES]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'hardsight' has no attribute '{name}'")
    return getattr(importlib.import_module(f"hardsight.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
