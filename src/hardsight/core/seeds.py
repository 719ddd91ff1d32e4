"""Seeds: every generator is seeded from the purpose of its numbers, so that no result depends on what ran before."""

from __future__ import annotations

import hashlib

import torch


def seed_of(*parts: object) -> int:
    """A 63-bit seed from any printable parts, for example the cell's id and the chunk's number."""
    digest = hashlib.sha256("\0".join(str(part) for part in parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(*parts: object, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator seeded by `parts`."""
    return torch.Generator(device=device).manual_seed(seed_of(*parts))


def uniform(shape: torch.Size | tuple[int, ...], rng: torch.Generator | None, like: torch.Tensor) -> torch.Tensor:
    """Uniform in [0, 1), drawn on the generator's own device: a seed gives the same numbers for any device of `like`."""
    source = rng.device if rng is not None else like.device
    return torch.rand(shape, generator=rng, device=source, dtype=torch.float32).to(like.device, like.dtype)


def normal(shape: torch.Size | tuple[int, ...], rng: torch.Generator | None, like: torch.Tensor) -> torch.Tensor:
    """Standard normal, drawn like `uniform`."""
    source = rng.device if rng is not None else like.device
    return torch.randn(shape, generator=rng, device=source, dtype=torch.float32).to(like.device, like.dtype)
