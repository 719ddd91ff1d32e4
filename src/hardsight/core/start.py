"""What makes a command start and end quickly: modules that hardly a command uses are loaded when they are, garbage is left.

torchvision imports torch's compiler, and so does the first optimizer, each for functions that do nothing unless something is
compiled; this takes longer than to import torch. In its place stands a `Later`, which loads the real module as soon as anything
else of it is asked for. Only the command line does this (`quick`): it would be no good manners in a user's own program.
"""

from __future__ import annotations

import atexit
import gc
import importlib.util
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

COMPILER = "torch._dynamo"
LOGGER = "wandb"
"""Imported by timm where it is installed, for its own training script."""
SELDOM = 50_000
"""New objects between two searches for garbage while modules are loaded, which make a million objects and hardly any garbage."""
_usual: list[tuple[int, int, int]] = []


class Later(ModuleType):
    """Stands for a module that is not loaded; `known` is what it has without being loaded."""

    def __init__(self, name: str, known: dict[str, Callable[..., Any]]) -> None:
        super().__init__(name)
        self.__dict__.update(known)

    def __getattr__(self, name: str) -> Any:
        inside = name == "__path__" and self.__name__ in (COMPILER, LOGGER)
        if name.startswith("__") and not inside:  # what inspects every module does not load it
            raise AttributeError(name)
        return getattr(loaded(self.__name__), name)


def loaded(name: str) -> ModuleType:
    """The real module, in the place of what stood for it and for the rest of its package."""
    top = COMPILER if name.startswith(COMPILER) else name
    for key, module in list(sys.modules.items()):
        if isinstance(module, Later) and (key == top or key.startswith(f"{top}.")):
            del sys.modules[key]
    return importlib.import_module(name)


def quick() -> None:
    """To be called by a program of ours before it imports anything large.

    Nothing is changed if torch is there already: another program has imported it, and may have compiled something.
    """
    if "torch" in sys.modules:
        return
    _usual.append(gc.get_threshold())
    gc.set_threshold(SELDOM)
    atexit.register(_end)
    sys.modules[COMPILER] = Later(COMPILER, {"disable": _disable, "graph_break": _nothing})
    sys.modules[f"{COMPILER}.utils"] = Later(f"{COMPILER}.utils", {"is_compile_supported": _is_compile_supported})
    if LOGGER not in sys.modules and importlib.util.find_spec(LOGGER):
        sys.modules[LOGGER] = Later(LOGGER, {})


def at_work() -> None:
    """Garbage is collected as usual again: from here on it may hold large tensors."""
    if _usual:
        gc.set_threshold(*_usual.pop())


def _end() -> None:
    """A process that ends need not look through its objects for cycles; with the compiler, Triton would print what is left."""
    if isinstance(sys.modules.get(COMPILER), Later):
        gc.freeze()


def _disable(fn: Any = None, recursive: bool = True, **more: Any) -> Any:
    """A function that is not compiled, as it is: no other one can be, while the compiler is not loaded."""
    return fn if fn is not None else (lambda one: one)


def _nothing(*args: Any, **more: Any) -> None:
    pass


def _is_compile_supported(device: Any) -> Any:
    return loaded(f"{COMPILER}.utils").is_compile_supported(device)
