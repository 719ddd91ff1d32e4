"""What an attack reports about models and losses that cannot be attacked as requested; NaN does not affect a batch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from hardsight.core import tree
from hardsight.core.errors import ShapeError, SpecError
from hardsight.measure.evaluate import evaluate
from hardsight.specs.catalog import build
from hardsight.tasks.base import System
from tests.conftest import toy_images, toy_system, toy_target

COUNT = 6


def changed(task: str, back: Any) -> System:
    """The toy system with a function applied to its output."""
    whole = toy_system(build(task, "Task"))

    class Changed(System):
        def output(self, x: Tensor) -> Any:
            return back(super().output(x), x)

    return Changed(whole.encoder, whole.head, whole.task)


@pytest.mark.parametrize(
    ("task", "back", "shapes"),
    [
        ("classify", lambda out, x: out[:-1], ("[5, 5]", "[6, 3, 16, 16]")),
        ("classify", lambda out, x: out[:, :, None], ("[6, 5, 1]", "[6, K]")),
        ("segment", lambda out, x: out[:, :, ::2], ("[6, 6, 8, 16]", "[6, K, 16, 16]")),
        ("depth", lambda out, x: out[:, None], ("[6, 1, 16, 16]", "[6, 16, 16]")),
        ("detect", lambda out, x: out[:-1], ("Places [5, ", "[6, 3, 16, 16]", "classes [6, P, K]")),
        ("detect", lambda out, x: out.classes, ("Tensor [6, ", "Places of classes [6, P, K]")),
        ("detect", lambda out, x: [{}] * len(x), ("returns list for", "Places of classes [6, P, K]")),
        ("detect", lambda out, x: replace(out, sides=out.sides[..., :2]), ("sides [6, ", "classes [6, ")),
        ("detect", lambda out, x: replace(out, levels=(1,)), ("levels of 1 places",)),
    ],
)
def test_a_wrong_shape_is_named_with_the_right_one(task: str, back: Any, shapes: tuple[str, ...]) -> None:
    system = changed(task, back)
    with pytest.raises(ShapeError) as error:
        build("pgd(2)", "Attack")(system, toy_images(COUNT), toy_target(system.task, COUNT), build("linf(0.1)", "Threat"))
    assert all(shape in str(error.value) for shape in shapes)


@pytest.mark.parametrize(
    "search", ["pgd(8)", "pgd(8, early_exit=True)", "pgd(8, patience=2)", "pgd(8, momentum=1)", "apgd(8)", "square(20)"]
)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_nan_stops_its_image_and_no_other(search: str, bad: float) -> None:
    """A model that is not finite on bright images: these are counted, and the other results are the same as without them."""

    def back(out: Tensor, x: Tensor) -> Tensor:
        bright = x.flatten(1).mean(1) > 0.6
        return out * torch.where(bright, bad, 1.0)[:, None]

    system = changed("classify", back)
    x = toy_images(COUNT) * 0.8
    x[2] = x[2] * 0.1 + 0.8
    y, threat = toy_target(system.task, COUNT), build("linf(8/255)", "Threat")
    start = threat.inside(x, torch.Generator().manual_seed(0))
    attack = build(search, "Attack")
    found = attack.search(attack.objective(system, x, y), x, threat, torch.Generator().manual_seed(1), start)
    assert found.halted.tolist() == [place == 2 for place in range(COUNT)]
    assert torch.isfinite(found.x_adv).all()
    rest = torch.tensor([0, 1, 3, 4, 5])
    if not search.startswith("square"):  # its windows depend on the batch
        alone = attack.search(
            attack.objective(system, x[rest], y[rest]), x[rest], threat, torch.Generator().manual_seed(1), start[rest]
        )
        assert torch.allclose(found.x_adv[rest], alone.x_adv, atol=1e-6)
    rows, _ = evaluate(system, attack, threat, x, y, ["i"] * COUNT, torch.Generator().manual_seed(0))
    assert rows["halted"].sum() == 1
    assert rows["error"][2] == 1  # an output that is not finite is an error


def test_a_zero_gradient_is_counted() -> None:
    system = changed("classify", lambda out, x: out.detach() + 0 * x.flatten(1).sum(1, keepdim=True))
    x, y = toy_images(COUNT), toy_target(system.task, COUNT)
    rows, _ = evaluate(system, build("pgd(5)", "Attack"), build("linf(0.1)", "Threat"), x, y, ["i"] * COUNT)
    assert rows["flat"].tolist() == [5] * COUNT


def test_coupled_losses_are_refused_by_name() -> None:
    loss = build("ce", "Loss")
    loss.coupled = True
    from hardsight.attacks.attack import Cascade, Single

    with pytest.raises(SpecError, match="ce couples the images"):
        Cascade((Single(build("pgd(2)", "Search"), loss),))
    system = toy_system(build("classify", "Task"))
    objective = Single(build("pgd(2)", "Search"), loss).objective(system, toy_images(2), toy_target(system.task, 2))
    with pytest.raises(SpecError, match="ce couples the images"):
        objective[torch.tensor([0])]


def test_unsigned_losses_are_refused_by_fab() -> None:
    with pytest.raises(SpecError, match=r"fab searches.*ce is not"):
        build("attack(fab, loss=ce)", "Attack")
    with pytest.raises(SpecError, match="restarts searches"):
        build("attack(restarts(fab(start=halfway), 2), loss=ce)", "Attack")


def test_a_warm_start_begins_where_the_first_attack_ended() -> None:
    system = toy_system(build("segment", "Task"))
    x, y, threat = toy_images(COUNT), toy_target(system.task, COUNT), build("linf(4/255)", "Threat")
    rng = torch.Generator().manual_seed
    first, warm = build("embed(steps=5)", "Attack"), build("warm(embed(steps=5), attack(pgd(0), loss=segpgd_ce))", "Attack")
    found = warm(system, x, y, threat, rng(0))
    assert torch.allclose(found.x_adv, first(system, x, y, threat, rng(0)).x_adv, atol=1e-6)
    assert found.queries.tolist() == [7] * COUNT
    longer = build("warm(embed(steps=5), segpgd(steps=5))", "Attack")(system, x, y, threat, rng(0))
    assert (longer.error >= found.error).all()
    with pytest.raises(SpecError, match="one search"):
        build("warm(embed, autoattack)", "Attack")


@pytest.mark.parametrize("chosen", [[], [2], [0, 1, 3], [0, 1, 2, 3]])
def test_images_are_chosen_whole_and_the_others_do_not_matter(chosen: list[int]) -> None:
    mask = torch.zeros(4, dtype=torch.bool)
    mask[chosen] = True
    yes, no = toy_images(4), 1 - toy_images(4)
    wanted = torch.stack([yes[k] if k in chosen else no[k] for k in range(4)])
    yes[~mask], no[mask] = torch.nan, torch.inf
    before = yes.clone(), no.clone()
    assert torch.equal(tree.where(mask, yes, no), wanted)
    assert torch.equal(yes.nan_to_num(), before[0].nan_to_num())
    assert torch.equal(no, before[1])
    assert torch.equal(tree.where(mask, yes[:, 0, 0, 0], no[:, 0, 0, 0]), wanted[:, 0, 0, 0])


@pytest.mark.parametrize(
    ("attack", "task", "back", "parts"),
    [
        ("embed(3)", "depth", lambda out, x: out[:, None], ("[6, 1, 16, 16]", "[6, 16, 16]")),
        ("embed(3)", "classify", lambda out, x: out[:, :, None], ("[6, 5, 1]", "[6, K]")),
        ("embed(3)", "classify", lambda out, x: out[:, :2], ("distinguishes 2 classes", "is class ")),
        ("pgd(3)", "classify", lambda out, x: out[:, :2], ("distinguishes 2 classes", "is class ")),
        ("clean", "classify", lambda out, x: out[:, :2], ("distinguishes 2 classes", "is class ")),
        ("autoattack(steps=5, queries=5)", "classify", lambda out, x: out[:, :2], ("distinguishes 2 classes", "is class ")),
    ],
)
def test_a_wrong_shape_is_named_for_any_attack(attack: str, task: str, back: Any, parts: tuple[str, ...]) -> None:
    system, x = changed(task, back), toy_images(COUNT)
    y, threat = toy_target(system.task, COUNT), build("linf(0.1)", "Threat")
    with pytest.raises(ShapeError) as error:
        evaluate(system, build(attack, "Attack"), threat, x, y, ["i"] * COUNT, torch.Generator().manual_seed(0))
    assert all(part in str(error.value) for part in parts)


@pytest.mark.parametrize("loss", ["segpgd_ce", "depth_rmse"])
def test_a_loss_that_does_not_read_the_target_is_refused(loss: str) -> None:
    system, x = toy_system(build("classify", "Task")), toy_images(COUNT)
    with pytest.raises(SpecError, match=f"{loss} does not read a label"):
        build(f"attack(pgd(2), loss={loss})", "Attack")(
            system, x, toy_target(system.task, COUNT), build("linf(0.1)", "Threat")
        )


def test_autoattack_takes_two_classes_and_no_nonsense() -> None:
    system, x = changed("classify", lambda out, x: out[:, :2]), toy_images(COUNT)
    y = system.output(x).argmax(1)
    for version in ("standard", "plus", "rand"):
        attack = build(f"autoattack('{version}', steps=6, queries=6)", "Attack")
        found = attack(system, x, y, build("linf(16/255)", "Threat"), torch.Generator().manual_seed(0))
        assert found.error is not None
        assert found.error.shape == (COUNT,)
    for nonsense in ("targets=0", "targets=-3", "steps=0", "queries=0"):
        with pytest.raises(SpecError, match="at least 1"):
            build(f"autoattack({nonsense})", "Attack")


def test_warm_restarts_would_repeat() -> None:
    with pytest.raises(SpecError, match="one start"):
        build("warm(embed(3), attack(restarts(pgd(3), 5)))", "Attack")
