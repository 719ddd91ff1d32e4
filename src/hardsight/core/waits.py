"""Counts where the host would wait for a GPU, on a machine without one: a simulated device.

A tensor on it says that it is on another device (torch's `meta`), so that code takes the way it takes on a GPU; its values are in
a tensor on the CPU, where they are computed. Each operation that needs one of them on the host is counted.

    with Waits() as waits:
        result = attack(system_on(waits.device), x.to(waits.device), ...)
    print(waits.total, waits.places)

What a vendor's library waits for within an operation (the choice of a convolution's kernel, a solver's check) is not seen.
"""

from __future__ import annotations

import functools
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

READS = {
    "_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select", "bincount", "histc", "unique_dim", "_unique",
    "_unique2", "_linalg_check_errors", "linalg_eigh", "_linalg_eigh",
}  # fmt: skip
"""Operations whose result, its shape or its error the device computes and the host needs: `item`, `float`, `bool` end here."""
INDEXING = ("index", "index_put", "index_put_", "_index_put_impl_")
PACKAGE, HERE = str(Path(__file__).parents[1]), str(Path(__file__))


class Simulated(Tensor):
    """A tensor on the simulated device; `values` has the same shape, on the CPU."""

    values: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, values: Tensor) -> Simulated:
        return Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, values.shape, strides=values.stride(), storage_offset=values.storage_offset(), dtype=values.dtype,
            device=Waits.device,
        )  # fmt: skip

    def __init__(self, values: Tensor) -> None:
        self.values = values

    def __deepcopy__(self, memo: dict[int, Any]) -> Simulated:
        if id(self) not in memo:
            made = memo[id(self)] = Simulated(self.values.detach().clone())
            made.requires_grad_(self.requires_grad)
            for key, value in self.__dict__.items():  # that it is a parameter
                if key != "values":
                    setattr(made, key, value)
        return memo[id(self)]

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"Simulated({self.values!r})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class Waits(TorchDispatchMode):
    """Within it `device` is the simulated one: `tensor.to(device)`, `module.to(device)` and new tensors are there.

    places: how often the host waited for a value, by "operation at file:line", the innermost line of this package; total: their
    sum. copies: how often values were copied to the device from memory that is not pinned, by file and line.
    """

    device: ClassVar[torch.device] = torch.device("meta")

    def __init__(self) -> None:
        super().__init__()
        self.places: Counter[str] = Counter()
        self.copies: Counter[str] = Counter()
        self._making = Making()

    @property
    def total(self) -> int:
        return self.places.total()

    def __enter__(self) -> Waits:
        self._making.__enter__()
        self._autocast = torch.autocast.__init__
        torch.autocast.__init__ = _autocast_of(self._autocast)  # type: ignore[method-assign]
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        torch.autocast.__init__ = self._autocast  # type: ignore[method-assign]
        self._making.__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.removeprefix("aten::")
        if _reads(name, args, kwargs):
            self.places[f"{name} at {_place()}"] += 1
        elif _copies(name, args, kwargs):
            self.copies[_place()] += 1
        return _run(func, args, kwargs)


class Making(TorchFunctionMode):
    """Tensors made of Python numbers are made on the CPU and moved, since torch makes those on `meta` without any values."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is Tensor.tolist and isinstance(args[0], Simulated):
            return args[0].cpu().tolist()
        if func is Tensor.new_tensor:
            like, *args = args
            func, kwargs = torch.tensor, {"device": like.device, "dtype": like.dtype, **kwargs}
        if func not in (torch.tensor, torch.as_tensor) or isinstance(args[0], Tensor):
            return func(*args, **kwargs)
        device = kwargs.pop("device", None)
        made = func(*args, **kwargs)
        return made if device is None else made.to(device)


def _autocast_of(usual: Callable[..., None]) -> Callable[..., None]:
    """The constructor of `torch.autocast` that knows the simulated device, as a CPU."""

    @functools.wraps(usual)
    def made(self: torch.autocast, device_type: str, *args: Any, **kwargs: Any) -> None:
        usual(self, "cpu" if device_type == Waits.device.type else device_type, *args, **kwargs)

    return made


def _reads(name: str, args: Any, kwargs: dict[str, Any]) -> bool:
    if name in READS:
        return _there(args)
    if name == "_to_copy":
        return _there(args[0]) and kwargs.get("device") not in (None, Waits.device)
    if name == "copy_":
        return _there(args[1]) and not _there(args[0])
    if name in INDEXING:  # one value for all marked places needs no list of them
        single = name != "index" and args[2].numel() == 1
        return not single and any(
            one is not None and _there(one) and one.dtype in (torch.bool, torch.uint8) for one in args[1]
        )
    return name == "repeat_interleave" and _there(args) and kwargs.get("output_size") is None


def _copies(name: str, args: Any, kwargs: dict[str, Any]) -> bool:
    if name == "_to_copy":
        return not _there(args[0]) and kwargs.get("device") == Waits.device and not kwargs.get("non_blocking")
    if name == "copy_":
        return _there(args[0]) and not _there(args[1]) and args[1].dim() > 0 and not (len(args) > 2 and args[2])
    return name in INDEXING and _there(args[0]) and any(one is not None and not _there(one) for one in args[1])


def _there(tree: Any) -> bool:
    return any(isinstance(leaf, Simulated) for leaf in tree_leaves(tree))


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """The operation on the values; its results are on the simulated device if an argument is, or if it says so."""
    device, any_there = kwargs.get("device"), _there((args, kwargs))
    to = any_there if device is None else torch.device(device) == Waits.device
    if not (any_there or to):
        return func(*args, **kwargs)
    on_cpu, more = _values(args), _values(kwargs)
    found = func(*on_cpu, **(more if device is None else {**more, "device": torch.device("cpu")}))
    if not to:
        return found
    found = tree_map(lambda leaf: Simulated(leaf) if isinstance(leaf, Tensor) else leaf, found)
    return return_and_correct_aliasing(func, args, kwargs, found) if any_there else found


def _values(tree: Any) -> Any:
    return tree_map(lambda leaf: leaf.values if isinstance(leaf, Simulated) else leaf, tree)


def _place() -> str:
    frame = sys._getframe(1)
    while frame is not None:
        path = frame.f_code.co_filename
        if path.startswith(PACKAGE) and path != HERE:
            return f"{path[len(PACKAGE) + 1 :]}:{frame.f_lineno}"
        frame = frame.f_back
    return "outside the package"
