"""Counter-based random numbers: every number of a scene is a hash of the scene's key and of the purpose of the number.

There is no generator state, so a scene is the same alone or in a block, and adding a draw changes no other draw. The hashes
use integer arithmetic and the uniforms are 24 bits times a power of two, so they are bitwise equal on every machine.
"""

from __future__ import annotations

import zlib

import numpy as np

GOLDEN = 0x9E3779B97F4A7C15
"""Splitmix64's increment (Steele, Lea, Flood 2014): an odd number, so that counters spread over all 64 bits."""


def mix(values: np.ndarray) -> np.ndarray:
    """Splitmix64's finaliser: uint64 in, uint64 out, one to one."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def keys(seed: int, part: int, places: np.ndarray) -> np.ndarray:
    """A uint64 key for each index (int [S]) of one split, numbered `part`."""
    start = mix(np.array([seed % 2**64], dtype=np.uint64) + np.uint64(GOLDEN))
    start = mix(start ^ mix(np.array([part + 1], dtype=np.uint64)))
    return mix(start + (places.astype(np.uint64) + np.uint64(1)) * np.uint64(GOLDEN))


def bits(key: np.ndarray, purpose: str, *shape: int) -> np.ndarray:
    """uint64 [S, *shape]: hashes of the keys (uint64 [S]) for a named purpose."""
    count = int(np.prod(shape, dtype=np.int64))
    counter = np.arange(count, dtype=np.uint64) + np.uint64(zlib.crc32(purpose.encode()) << 20)
    return mix(key[:, None] ^ mix((counter + np.uint64(1)) * np.uint64(GOLDEN))[None]).reshape(len(key), *shape)


def uniform(key: np.ndarray, purpose: str, *shape: int) -> np.ndarray:
    """float64 [S, *shape] in [0, 1), multiples of 2^-24."""
    return (bits(key, purpose, *shape) >> np.uint64(40)).astype(np.float64) * 2.0**-24


def between(low: float, high: float, u: np.ndarray) -> np.ndarray:
    """Uniforms scaled to [low, high)."""
    return low + (high - low) * u


def choose(count: int | np.ndarray, u: np.ndarray) -> np.ndarray:
    """int64 in 0..count-1 from uniforms."""
    return np.floor(u * count).astype(np.int64)


def speck(key: np.ndarray, *cells: np.ndarray) -> np.ndarray:
    """uint32 hash of integer cells (int32) with a uint32 key: cheap enough to compute for each pixel.

    differs: Wellons' lowbias32 has one more step, which improves only the low bits, and `tone` drops those.
    """
    value = key
    for cell, prime in zip(cells, (0x8DA6B343, 0xD8163841, 0xCB1AB31F), strict=False):
        value = value ^ (cell.view(np.uint32) * np.uint32(prime))
    value = (value ^ (value >> np.uint32(16))) * np.uint32(0x7FEB352D)
    return (value ^ (value >> np.uint32(15))) * np.uint32(0x846CA68B)


def tone(hashed: np.ndarray) -> np.ndarray:
    """float32 in [0, 1) from a uint32 hash."""
    return (hashed >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24)


def spread(table: np.ndarray, owner: np.ndarray) -> np.ndarray:
    """table[..., owner], where owner is sorted."""
    return np.repeat(table, np.diff(np.searchsorted(owner, np.arange(table.shape[-1] + 1))), axis=-1)
