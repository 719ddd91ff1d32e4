"""What the tests of encoders share: images, one thread, no network, and the two questions asked of every encoder."""

from __future__ import annotations

import os

import pytest
import torch

DATA = os.environ.get("HARDSIGHT_DATA", "")
needs_data = pytest.mark.skipif(not DATA, reason="HARDSIGHT_DATA names no folder with real weights and images")


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def no_network(monkeypatch):
    """Names of hosts cannot be resolved, wherever the tests run."""
    import socket

    def refuse(*args, **kwargs):
        raise OSError("no network in tests")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr("urllib.request.getproxies", dict)


def images(side, count=2, seed=0):
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


def differentiable(encoder, x):
    """The features of x, once it is seen that a gradient reaches the pixels and no weight."""
    x = x.clone().requires_grad_()
    features = encoder(x)
    weights = torch.linspace(-1, 1, features.pooled.shape[1])
    (grad,) = torch.autograd.grad((features.pooled.square() * weights).sum(), x)
    assert torch.isfinite(grad).all() and grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in encoder.parameters())
    return features


def agrees_with_card(encoder, features):
    card = encoder.card
    assert features.pooled.shape[1] == card.dim
    assert features.dense.shape[1] == card.dense_dim
    assert round(features.covered[1] / features.dense.shape[-1]) == card.stride


def normalized(encoder, x):
    return (x - encoder.mean) / encoder.std


@pytest.fixture
def saved(tmp_path):
    def save(stored, name="w.pt"):
        torch.save(stored, tmp_path / name)
        return str(tmp_path / name)

    return save
