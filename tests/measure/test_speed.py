"""Speed: the floor, the variants compared with it, and the command that prints the table. No test asserts a time."""

from __future__ import annotations

import json

import pytest
import torch

from hardsight.attacks.attack import on
from hardsight.core.errors import SpecError
from hardsight.measure.speed import gradient_steps, peak, speed, staying
from hardsight.specs.catalog import build
from tests.conftest import toy_images, toy_system, toy_target
from tests.end.test_bench import inside


def test_variants_find_the_same() -> None:
    system = toy_system(build("classify", "Task"))
    x = toy_images(16)
    y = system.output(x).argmax(1)
    ticks: list[tuple[int, int]] = []
    paces = speed(
        system,
        build("classpgd(steps=5)", "Attack"),
        build("linf(8/255)", "Threat"),
        x,
        y,
        2,
        tick=lambda *at: ticks.append(at),
    )
    names = [pace.name for pace in paces]
    assert names == [
        "floor",
        "attack alone, float32, every image stays",
        "float32, every image stays",
        "float32",
        "bf16, every image stays",
        "bf16",
    ]
    assert paces[0].ratio == 1.0
    assert paces[0].score is None
    by_name = {pace.name: pace for pace in paces}
    assert by_name["float32"].score == by_name["float32, every image stays"].score
    assert by_name["float32"].queries < by_name["float32, every image stays"].queries == 6
    assert ticks[-1] == (18, 18)


def test_gradient_steps_leave_out_looks() -> None:
    steps = {
        "classpgd(steps=7)": 7,
        "embed(steps=7)": 7,
        "cascade([classpgd(steps=7), fgsm])": 8,
        "warm(embed(steps=3), classpgd(steps=4))": 7,
        "attack(eot(pgd(5), draws=3))": 15,
        "attack(restarts(pgd(5), 2))": 10,
        "attack(fab(6), loss=margin)": 6,
        "attack(square(50))": 0,
        "noise": 0,
        "autoattack": 100 + 9 * 100 + 9 * 100,
        "dense_autoattack": 100 + 9 * 100 + 9 * 100,
    }
    assert {spec: gradient_steps(build(spec, "Attack"), "label") for spec in steps} == steps
    assert gradient_steps(build("dense_autoattack", "Attack"), "mask") == 4 * 100
    mask = on(build("dense_autoattack(100, 200)", "Attack"), "mask")
    assert mask.passes == 4 * (103 + 1) + 200 + 1 < build("dense_autoattack(100, 200)", "Attack").passes
    assert on(mask, "mask") is mask
    assert gradient_steps(build("sea(steps=10)", "Attack"), "mask") == 40
    with pytest.raises(SpecError, match="gradients"):
        speed(
            toy_system(build("classify", "Task")),
            build("clean", "Attack"),
            build("linf(0.1)", "Threat"),
            toy_images(2),
            None,
        )


def test_a_suite_is_timed_as_what_runs_at_the_task() -> None:
    system, x = toy_system(build("segment", "Task")), toy_images(2)
    suite, threat = build("dense_autoattack(10, 10)", "Attack"), build("linf(8/255)", "Threat")
    paces = speed(system, suite, threat, x, toy_target(system.task, 2), 1)
    assert [pace.name for pace in paces] == ["floor", "attack alone, float32, every image stays", "float32", "bf16"]
    assert paces[2].queries > 4 * 10  # at least four losses of ten steps, and the black-box attack


def test_staying_switches_early_exit_off() -> None:
    attack = staying(build("cascade([classpgd, segpgd])", "Attack"))
    assert attack.members[0].search.spec["early_exit"] is False  # type: ignore[attr-defined]
    patient = staying(build("classpgd(patience=2)", "Attack")).search.spec  # type: ignore[attr-defined]
    assert (patient["early_exit"], patient["patience"], patient["steps"]) == (False, 0, 20)
    plain = build("segpgd", "Attack")
    assert staying(plain) is plain


def test_peak_counts_what_is_held_at_once() -> None:
    def twice() -> None:
        for _ in range(2):
            torch.zeros(1 << 20)

    def both() -> torch.Tensor:
        one = torch.zeros(1 << 20)
        return one + torch.zeros(1 << 20)

    assert 4e6 < peak(twice, torch.device("cpu"))[0] < 6e6
    assert 12e6 < peak(both, torch.device("cpu"))[0] < 14e6


def test_the_command_prints_a_ratio_to_the_floor() -> None:
    words = [
        "speed",
        "--encoder",
        "tiny",
        "--count",
        "4",
        "--rounds",
        "1",
        "--probe",
        "probe(images=32, epochs=1)",
        "--json",
    ]
    found = inside(*words, "--attack", "classpgd(steps=2)")
    assert found.returncode == 0, found.stderr
    paces = json.loads(found.stdout)["paces"]
    assert paces[0]["name"] == "floor"
    assert all(pace["seconds"] > 0 and pace["megabytes"] > 0 for pace in paces)
    assert "does not fit" in inside(*words, "--attack", "segpgd").stderr


@pytest.mark.parametrize(("search", "most"), [("pgd(6)", 2), ("apgd(20)", 6)])
def test_a_search_holds_its_points_and_no_gradient_of_the_pass_before(search: str, most: int) -> None:
    """Beyond a bare pass: PGD x_adv, best point; APGD also previous point, point of highest loss, its gradient, step."""
    from hardsight.losses.objective import still
    from hardsight.measure.speed import _floor

    system, x = toy_system(build("classify", "Task")), toy_images(32, 64)
    y = system.output(x).argmax(1)
    attack, threat = build(f"attack({search})", "Attack"), build("linf(16/255)", "Threat")
    with still(system.encoder, system.head):
        floor, _ = peak(lambda: _floor(system, attack, x, y, 6), x.device)
    held, _ = peak(lambda: attack(system, x, y, threat, torch.Generator().manual_seed(0)), x.device)
    images = (held - floor) / x.nbytes
    assert images < most + 0.1
