"""Laws of every loss in the catalog: one number an image, and each image's own."""

from __future__ import annotations

import pytest
import torch

from hardsight.catalog import build, entries
from hardsight.losses.base import fits

LOSSES = [name for name, entry in entries().items() if entry.kind == "Loss"]
OUTPUTS = {
    "label": (torch.randn(5, 7, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 6, 3, 2])),
    "mask": (
        torch.randn(5, 7, 6, 6, generator=torch.Generator().manual_seed(0)),
        torch.randint(0, 7, (5, 6, 6), generator=torch.Generator().manual_seed(1)),
    ),
    "depth": (
        torch.rand(5, 6, 6, generator=torch.Generator().manual_seed(0)) + 0.5,
        torch.rand(5, 6, 6, generator=torch.Generator().manual_seed(1)) + 0.5,
    ),
    "embedding": (
        torch.randn(5, 8, 3, 3, generator=torch.Generator().manual_seed(0)),
        torch.randn(5, 8, 3, 3, generator=torch.Generator().manual_seed(1)),
    ),
}


def cases() -> list[tuple[str, str]]:
    found = []
    for name in LOSSES:
        loss = build(name, "Loss")
        named = getattr(loss, "targets", ("embedding",))
        found += [(name, target) for target in OUTPUTS if target in named]
    return found


@pytest.mark.parametrize(("name", "target"), cases())
def test_one_number_an_image_and_no_image_minds_its_neighbours(name: str, target: str) -> None:
    loss = build(name, "Loss")
    output, truth = OUTPUTS[target]
    values = loss(output, truth, 0.5)
    assert values.shape == (5,)
    assert torch.isfinite(values).all()
    order = torch.tensor([3, 0, 4, 1, 2])
    assert torch.allclose(loss(output[order], truth[order], 0.5), values[order], atol=1e-6)
    assert torch.allclose(loss(output[2:3], truth[2:3], 0.5), values[2:3], atol=1e-6)


@pytest.mark.parametrize(("name", "target"), cases())
def test_gradients_are_finite_at_a_perfect_output(name: str, target: str) -> None:
    output, truth = OUTPUTS[target]
    perfect = {"label": 9 * torch.nn.functional.one_hot(truth, 7).float() if target == "label" else None}.get(target)
    perfect = truth.clone() if target in ("depth", "embedding") else output if perfect is None else perfect
    perfect = perfect.requires_grad_(True)
    build(name, "Loss")(perfect, truth, 1.0).sum().backward()
    assert torch.isfinite(perfect.grad).all()


@pytest.mark.parametrize("name", [name for name, target in cases() if target == "mask"])
def test_pixels_without_a_class_do_not_count(name: str) -> None:
    loss, (output, truth) = build(name, "Loss"), OUTPUTS["mask"]
    ignored = truth.clone()
    ignored[:, :3] = 255
    other = output.clone()
    other[:, :, :3] = 99.0
    assert torch.allclose(loss(output, ignored, 0.3), loss(other, ignored, 0.3))
    assert torch.allclose(loss(output, ignored, 0.3), loss(output[:, :, 3:], truth[:, 3:], 0.3), atol=1e-6)
    everything = torch.full_like(truth, 255)
    assert not loss(output, everything, 0.3).any()


def test_losses_say_which_targets_they_fit() -> None:
    assert fits(build("segpgd_ce", "Loss"), "mask")
    assert not fits(build("segpgd_ce", "Loss"), "label")
    assert fits(build("far_l2", "Loss"), "embedding")
    assert not fits(build("far_l2", "Loss"), "label")


def test_class_255_is_a_class_among_labels() -> None:
    logits = torch.randn(2, 300, generator=torch.Generator().manual_seed(0))
    assert (build("ce", "Loss")(logits, torch.tensor([255, 3])) > 0).all()
