"""Defences: what they do to images, the gradient that passes through them, and the adaptive attack by default."""

import pytest
import torch
from torch import nn

from hardsight.attacks.threats.linf import linf
from hardsight.core.errors import SpecError
from hardsight.encoders import load_encoder
from hardsight.measure.checks.base import Case
from hardsight.measure.stamps import fixes_weights
from hardsight.specs.catalog import build
from hardsight.tasks.base import System
from tests.fixtures.encoders import images, one_thread

__all__ = ["one_thread"]
DEFENCES = {"jpeg(75)": 1, "bits(5)": 1, "median(3)": 1, "dither(3)": 10, "smooth(0.25)": 10, "recrop(0.8)": 10}


def system(spec):
    encoder = load_encoder(spec)
    rng = torch.Generator().manual_seed(2)
    head = nn.Linear(encoder.card.dim, 5).requires_grad_(False)
    head.weight.copy_(torch.randn(head.weight.shape, generator=rng))
    return System(encoder, Pooled(head), build("classify", "Task"))


class Pooled(nn.Module):
    def __init__(self, head):
        super().__init__()
        self.head = head

    def forward(self, features):
        return self.head(features.pooled)


@pytest.mark.parametrize("defence", DEFENCES)
def test_a_gradient_passes_and_random_ones_are_attacked_in_their_mean(defence):
    attacked = system(f"defended('zoo:made_supervised', {defence})")
    encoder, x = attacked.encoder, images(64)
    x.requires_grad_()
    (grad,) = torch.autograd.grad(encoder(x).pooled.square().sum(), x)
    assert torch.isfinite(grad).all() and grad.abs().amax((1, 2, 3)).min() > 0
    assert encoder.draws == DEFENCES[defence] and (encoder.draws > 1) == encoder.defence.random
    assert (
        f"defended by {defence}, attacked by" in encoder.card.note and ("EOT" in encoder.card.note) == encoder.defence.random
    )
    assert bool(torch.equal(encoder(x).pooled, encoder(x).pooled)) == (encoder.draws == 1)
    found = build("attack(pgd(2))", "Attack")(attacked, x.detach(), torch.zeros(2, dtype=torch.int64), linf(8 / 255))
    assert int(found.queries.max()) <= 3 * encoder.draws and (found.queries % encoder.draws == 0).all()
    assert fixes_weights(f"defended('zoo:made_supervised', {defence})", "known")


def test_transforms_are_what_they_say():
    x = images(32)
    assert build("bits(1)", "Defence")(x).unique().tolist() == [0.0, 1.0]
    assert len(build("bits(5)", "Defence")(x).unique()) <= 32
    grey = torch.full((1, 3, 16, 16), 128 / 255)
    torch.testing.assert_close(build("jpeg(75)", "Defence")(grey), grey)
    assert 0 < (build("jpeg(20)", "Defence")(x) - x).abs().mean() < 0.3
    torch.manual_seed(0)
    many = torch.stack([build("dither(2)", "Defence")(grey) for _ in range(40)])
    assert abs(float(many.mean()) - 128 / 255) < 0.02 and len(many.unique()) == 2
    assert abs(float((build("smooth(0.25)", "Defence")(x) - x).std()) - 0.25) < 0.02
    spot = torch.zeros(1, 3, 9, 9)
    spot[..., 4, 4] = 1
    assert build("median", "Defence")(spot).sum() == 0
    assert (
        build("recrop", "Defence")(x).shape == x.shape and load_encoder("defended(tiny, recrop)")(images(64)).dense is None
    )


def test_bpda_takes_the_identity_and_an_attack_keeps_its_own_eot():
    x = images(32).requires_grad_()
    (grad,) = torch.autograd.grad((build("jpeg(50)", "Defence")(x) * 3).sum(), x)
    assert torch.equal(grad, torch.full_like(grad, 3.0))
    attacked, y = system("defended(tiny, smooth(0.25))"), torch.zeros(2, dtype=torch.int64)
    found = build("attack(eot(pgd(1), draws=3))", "Attack")(attacked, images(64), y, linf(1 / 255))
    assert int(found.queries.max()) <= 2 * 3


def test_the_audit_says_that_the_mean_is_attacked():
    attacked = system("defended(tiny, smooth(0.25))")
    case = Case(attacked, build("attack(pgd(2))", "Attack"), linf(1 / 255), images(64), torch.zeros(2, dtype=torch.int64))
    found = build("repeats", "Check")(case)
    assert found.verdict == "warn" and "follows the mean of 10 draws" in found.reason
    assert (
        build("repeats", "Check")(Case(system("defended(tiny, jpeg)"), case.attack, case.threat, case.x, case.y)).verdict
        == "pass"
    )


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("defended(defended(tiny, jpeg), bits)", "a defence around a defence is not measured"),
        ("defended(crops(defended(tiny, jpeg)), bits)", "a defence around a defence"),
        ("defended(tiny, jpeg(0))", "from 1 to 95"),
        ("defended(tiny, bits(9))", "from 1 to 8"),
        ("defended(tiny, smooth(0))", "above 0"),
        ("defended(tiny, median(4))", "odd"),
        ("defended(tiny, jpeg, draws=0)", "at least 1"),
        ("defended(tiny, crops)", "is a encoder, but a defence is wanted"),
    ],
)
def test_what_is_refused(spec, message):
    with pytest.raises(SpecError, match=message) as found:
        load_encoder(spec)
    assert "\n" not in str(found.value)
