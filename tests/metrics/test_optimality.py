"""Optimality against the envelope: closed form, and the areas under the robust accuracy that define it."""

from __future__ import annotations

import numpy as np
import pytest

from hardsight.metrics.optimality import optimality


def test_the_best_attack_has_one_and_another_its_share() -> None:
    found = optimality({"best": np.array([0.0, 1.0, 2.0, 4.0]), "twice": np.array([0.0, 2.0, 4.0, 8.0])})
    assert found["best"] == 1
    assert found["twice"] == pytest.approx(2 / 5)


def test_it_is_the_ratio_of_areas() -> None:
    rng = np.random.default_rng(0)
    sizes = {name: np.append(rng.exponential(scale, 200), [0.0, 0.0]) for name, scale in (("a", 1.0), ("b", 3.0))}
    sizes["b"][:20] = np.inf
    envelope = np.minimum(*sizes.values())
    radius = np.linspace(0, envelope.max(), 20001)

    def beyond(one: np.ndarray) -> float:
        accuracy = (one[:, None] > radius).mean(0)
        return float((envelope > 0).mean() * radius[-1] - np.trapezoid(accuracy, radius))

    for name, value in optimality(sizes).items():
        assert value == pytest.approx(beyond(sizes[name]) / beyond(envelope), abs=1e-3)
        assert value < 1


def test_without_spread_there_is_none() -> None:
    assert np.isnan(optimality({"a": np.array([np.inf, np.inf])})["a"])
    assert np.isnan(optimality({"a": np.array([1.0, 1.0])})["a"])
