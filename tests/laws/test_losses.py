"""Laws of every loss in the catalog: one value per image, independent of the others; and losses on logits and features."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hardsight.attacks.attack import Attack
from hardsight.core import tree
from hardsight.core.errors import SpecError
from hardsight.losses.base import Loss, fits
from hardsight.losses.places import Places
from hardsight.specs.catalog import build, entries
from tests.conftest import toy_images, toy_system

LOSSES = [name for name, entry in entries().items() if entry.kind == "Loss"]
COUNT = 5
ORDER = torch.tensor([3, 0, 4, 1, 2])


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(COUNT, *shape, generator=torch.Generator().manual_seed(seed))


def classes(*shape: int, seed: int = 1) -> Tensor:
    return torch.randint(0, 7, (COUNT, *shape), generator=torch.Generator().manual_seed(seed))


def depths(seed: int) -> Tensor:
    return normal(6, 6, seed=seed).sigmoid() + 0.5


def cells() -> Tensor:
    """Places of two levels of a 32x32 image, with cells of 8 and 16 pixels: [20, 4]."""
    found = []
    for side in (8, 16):
        at = torch.arange(0, 32, side).float()
        corner = torch.stack(torch.meshgrid(at, at, indexing="xy"), -1).view(-1, 2)
        found.append(torch.cat([corner, corner + side], 1))
    return torch.cat(found)


def boxes(logits: Tensor, sides: Tensor, centre: Tensor) -> Places:
    return Places(logits, sides.abs() + 0.1, centre, cells(), (16, 4), (32, 32))


TRUTH = [
    {"boxes": torch.tensor([[1.0, 2, 13 + k, 15], [14, 4, 31, 28]])[: k % 3], "labels": torch.tensor([k, 2])[: k % 3]}
    for k in range(COUNT)
]
SAMPLES: dict[str, tuple[Any, Any, Any]] = {
    "label": (normal(7), torch.tensor([4, 1, 0, 3, 1]), torch.tensor([0, 6, 4, 1, 5])),  # right, wrong, right, wrong, right
    "mask": (normal(7, 6, 6), classes(6, 6), classes(6, 6, seed=2)),
    "depth": (depths(0), depths(1), depths(2)),
    "embedding": (normal(8, 3, 3), normal(8, 3, 3, seed=1), normal(8, 3, 3, seed=2)),
    "boxes": (boxes(normal(20, 7), normal(20, 4), normal(20)), TRUTH, TRUTH[::-1]),
}
"""For each kind of target: an output, the ground truth, and another target that a targeted loss may get."""


def sample(loss: Loss, target: str) -> tuple[Any, Any]:
    """An output and a target that the loss reads: a pair if targeted, another output if it compares outputs."""
    output, truth, wanted = SAMPLES[target]
    if getattr(loss, "clean", False):
        truth = output.flip(0)
    return output, (truth, wanted) if getattr(loss, "pair", False) else truth


def cases(*kinds: str) -> list[tuple[str, str]]:
    return [
        (name, target)
        for name in LOSSES
        for target in (kinds or SAMPLES)
        if target in getattr(build(name, "Loss"), "targets", ("embedding",))
    ]


def test_no_loss_is_left_out() -> None:
    assert {name for name, _ in cases()} == set(LOSSES)


@pytest.mark.parametrize(("name", "target"), cases())
def test_one_value_per_image_and_images_do_not_affect_each_other(name: str, target: str) -> None:
    loss = build(name, "Loss")
    output, truth = sample(loss, target)
    values = loss(output, truth, 0.5)
    assert values.shape == (COUNT,)
    assert torch.isfinite(values).all()
    assert values.unique().numel() > 1
    assert torch.allclose(loss(output[ORDER], tree.take(truth, ORDER), 0.5), values[ORDER], atol=1e-6)
    alone = torch.tensor([2])
    assert torch.allclose(loss(output[alone], tree.take(truth, alone), 0.5), values[alone], atol=1e-6)


@pytest.mark.parametrize(("name", "target"), cases())
def test_gradients_are_finite_at_a_perfect_output(name: str, target: str) -> None:
    loss = build(name, "Loss")
    _, truth = sample(loss, target)
    first = SAMPLES[target][1]
    if target == "boxes":
        leaves = [normal(20, 7), normal(20, 4), normal(20)]
        loss(boxes(*(leaf.requires_grad_() for leaf in leaves)), truth, 1.0).sum().backward()
        assert all(torch.isfinite(leaf.grad).all() for leaf in leaves if leaf.grad is not None)
        return
    hot = target in ("label", "mask")
    perfect = (9 * F.one_hot(first, 7).float().movedim(-1, 1) if hot else first.clone()).requires_grad_()
    loss(perfect, truth, 1.0).sum().backward()
    assert torch.isfinite(perfect.grad).all()


@pytest.mark.parametrize(("name", "target"), cases())
def test_the_gradient_is_not_zero(name: str, target: str) -> None:
    """With a loss that is cut off from the output, an attack would do nothing and report no error."""
    loss = build(name, "Loss")
    if target == "boxes":
        leaf = normal(20, 7).requires_grad_()
        output, truth = boxes(leaf, normal(20, 4), normal(20)), sample(loss, target)[1]
    else:
        output, truth = sample(loss, target)
        output = leaf = output.clone().requires_grad_()
    (grad,) = torch.autograd.grad(loss(output, truth, 0.5).sum(), leaf)
    assert grad.any()


@pytest.mark.parametrize("name", [name for name, _ in cases("mask") if not getattr(build(name, "Loss"), "clean", False)])
def test_pixels_without_a_class_do_not_count(name: str) -> None:
    """If a label shows which pixels those are; a loss that compares two outputs cannot know."""
    loss = build(name, "Loss")
    output, _ = sample(loss, "mask")

    def with_gaps(rows: slice) -> Any:
        _, truth, wanted = SAMPLES["mask"]
        gap = [part.clone() for part in (truth, wanted)]
        for part in gap:
            part[:, rows] = 255
        return (gap[0], gap[1]) if getattr(loss, "pair", False) else gap[0]

    other = output.clone()
    other[:, :, :3] = 99.0
    ignored = with_gaps(slice(3))
    assert torch.allclose(loss(output, ignored, 0.3), loss(other, ignored, 0.3))
    kept = tree.each(ignored, lambda part: part[:, 3:])
    assert torch.allclose(loss(output, ignored, 0.3), loss(output[:, :, 3:], kept, 0.3), atol=1e-6)
    assert not loss(output, with_gaps(slice(None)), 0.3).any()


def test_losses_say_which_targets_they_fit() -> None:
    assert fits(build("segpgd_ce", "Loss"), "mask")
    assert not fits(build("segpgd_ce", "Loss"), "label")
    assert fits(build("far_l2", "Loss"), "embedding")
    assert not fits(build("far_l2", "Loss"), "label")


def test_class_255_is_a_class_among_labels() -> None:
    logits = torch.randn(2, 300, generator=torch.Generator().manual_seed(0))
    assert (build("ce", "Loss")(logits, torch.tensor([255, 3])) > 0).all()


@pytest.mark.parametrize("name", [name for name, _ in cases("label") if getattr(build(name, "Loss"), "signed", False)])
def test_signed_losses_are_zero_on_the_boundary_and_positive_beyond(name: str) -> None:
    loss, y = build(name, "Loss"), torch.tensor([1, 1, 1])
    logits = torch.tensor([[0.0, 2.0, 1.0], [0.0, 2.0, 2.0], [0.0, 2.0, 3.0]])
    values = loss(logits, (y, torch.tensor([2, 2, 2])) if getattr(loss, "pair", False) else y)
    assert torch.equal(values.sign(), torch.tensor([-1.0, 0.0, 1.0]))


@pytest.mark.parametrize("name", ["dlr", "dlr_to"])
def test_ratios_of_logits_forget_their_scale(name: str) -> None:
    """And cross-entropy doesn't: a model whose logits are large has hidden its gradient from it."""
    loss = build(name, "Loss")
    output, truth = sample(loss, "label")
    assert torch.allclose(loss(1e4 * output + 3, truth), loss(output, truth), atol=1e-3)

    def slope(loss: Loss, scale: float, truth: Any) -> Tensor:
        leaf = (9 * F.one_hot(SAMPLES["label"][1], 7).float() + output).requires_grad_()
        return torch.autograd.grad(loss(scale * leaf, truth).sum(), leaf)[0].abs().amax(1)

    assert (slope(loss, 1e4, truth) > 1e-3).all()
    assert not slope(build("ce", "Loss"), 1e4, SAMPLES["label"][1]).any()


@pytest.mark.parametrize(
    ("name", "columns", "message"), [("dlr", 2, "use margin"), ("dlr_to", 3, "use gap_to"), ("dlr_to", 2, "use gap_to")]
)
def test_too_few_classes_are_reported(name: str, columns: int, message: str) -> None:
    loss = build(name, "Loss")
    zeros = torch.zeros(2, dtype=torch.int64)
    target = (zeros, zeros + 1) if getattr(loss, "pair", False) else zeros
    with pytest.raises(SpecError, match=message):
        loss(torch.randn(2, columns), target)
    assert loss(torch.randn(2, columns + 1 if columns != 2 or name == "dlr" else 4), target).shape == (2,)


def test_confidence_bounds_carlini_and_wagners() -> None:
    output, y, _ = SAMPLES["label"]
    margin, cw = build("margin", "Loss")(output, y), build("cw(confidence=0.5)", "Loss")(output, y)
    assert (margin > 0.5).any() and (margin < 0).any()
    assert torch.equal(cw, margin.clamp_max(0.5))
    with pytest.raises(SpecError, match="at least 0"):
        build("cw(confidence=-1)", "Loss")


def test_targeted_cross_entropy_is_least_at_the_wanted_class() -> None:
    loss, (_, y, other) = build("ce_to", "Loss"), SAMPLES["label"]
    there, away = (20 * F.one_hot(classes, 7).float() for classes in (other, y))
    assert (loss(there, (y, other)) > -1e-3).all()
    assert (loss(away, (y, other)) < -19).all()


def test_divergence_is_torchs_and_zero_at_the_clean_output() -> None:
    loss = build("kl", "Loss")
    for output in (SAMPLES["label"][0], SAMPLES["mask"][0]):
        clean = output.flip(0) * 2
        dims = output.dim()
        pixels = F.kl_div(output.log_softmax(1), clean.softmax(1), reduction="none").sum(1)
        assert torch.allclose(loss(output, clean), pixels if dims == 2 else pixels.mean((1, 2)), atol=1e-6)
        assert torch.allclose(loss(output, output), torch.zeros(COUNT), atol=1e-6)
        assert (loss(output, clean) > 0).all()


@pytest.mark.parametrize(("near", "far"), [("near_l2", "far_l2"), ("near_cosine", "far_cosine")])
@pytest.mark.parametrize("grid", [True, False])
def test_near_is_the_negative_of_far(near: str, far: str, grid: bool) -> None:
    output, own, other = (part if grid else part[:, :, 0, 0] for part in SAMPLES["embedding"])
    near_loss, far_loss = build(near, "Loss"), build(far, "Loss")
    assert torch.equal(near_loss(output, (own, other)), -far_loss(output, other))
    assert (near_loss(other, (own, other)) >= near_loss(output, (own, other))).all()


def attacked(spec: str, count: int = 6) -> tuple[Attack, Any, Tensor, Any]:
    system, x = toy_system(build("classify", "Task")), toy_images(count)
    attack = build(spec, "Attack")
    return attack, system, x, attack(system, x, None, build("linf(8/255)", "Threat"), torch.Generator().manual_seed(0))


def test_divergence_from_itself_needs_no_label() -> None:
    attack, system, x, found = attacked("attack(pgd(10), loss=kl, aim=itself)")
    assert found.error is None
    loss = build("kl", "Loss")
    assert torch.allclose(loss(system.output(found.x_adv), system.output(x)), found.loss, atol=1e-5)
    assert (found.loss > 0.01).all()
    assert int(found.queries.max()) + 1 == attack.passes
    assert not attack.fits(build("depth", "Task"))


def test_partner_moves_an_embedding_towards_another_images() -> None:
    _, system, x, found = attacked("attack(pgd(20), loss=near_cosine, where=pooled, aim=partner)")
    wanted = system.pooled(x).roll(-1, 0)
    cosine = build("far_cosine", "Loss")
    assert (cosine(system.pooled(found.x_adv), wanted) < 0.9 * cosine(system.pooled(x), wanted)).all()


@pytest.mark.parametrize("layer", [0, -1])
def test_a_layer_is_attacked_by_its_number(layer: int) -> None:
    _, system, x, found = attacked(f"attack(pgd(5), loss=far_l2, where={layer}, aim=itself)")
    maps = [system.encoder(z, (layer,)).layers[0] for z in (found.x_adv, x)]
    assert torch.allclose(build("far_l2", "Loss")(*maps), found.loss, atol=1e-5)
    assert (found.loss > 0).all()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("attack(pgd, loss=kl)", "aim=itself"),
        ("attack(pgd, loss=kl, where=pooled, aim=itself)", "not an embedding"),
        ("attack(pgd, loss=ce, aim=itself)", "loss=kl"),
        ("attack(pgd(start='clean'), loss=kl, aim=itself)", "has no gradient"),
        ("attack(pgd, loss=near_l2, where=pooled, aim=itself)", "aim=partner"),
        ("attack(pgd, loss=far_l2, where=pooled, aim=partner)", "near_l2"),
        ("attack(pgd, loss=dlr_to)", "aim=rival"),
        ("attack(pgd, loss=dlr, aim=rival)", "dlr_to"),
        ("attack(pgd, loss=ce, where=2)", "aim=itself"),
    ],
)
def test_losses_and_aims_that_do_not_fit(spec: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        build(spec, "Attack")
