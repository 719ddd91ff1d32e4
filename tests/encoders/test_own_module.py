"""`python:FILE:FUNCTION(trust=True)`: a module of one's own, by its structure or by its output, and clear errors."""

import pytest
import torch

from hardsight.core.errors import SpecError, WeightsError
from hardsight.encoders import load_encoder
from hardsight.measure.stamps import fixes_weights, stamp
from tests.fixtures.encoders import agrees_with_card, differentiable, images, one_thread

__all__ = ["one_thread"]
OWN = """
import torch
from torch import nn
from beside import WIDTH

def pooled(width=WIDTH): return nn.Sequential(nn.Conv2d(3, width, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
def dense(): return nn.Sequential(nn.Conv2d(3, 6, 4, 4), nn.ReLU())
def resnet():
    import torchvision
    return torchvision.models.resnet18(weights=None, num_classes=5)
def number(): return 7
def pair(): return Pair()
def broken(): raise RuntimeError("as it happens")
class Pair(nn.Module):
    def forward(self, x): return x, x
"""


@pytest.fixture
def own(tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "beside.py").write_text("WIDTH = 4\n")
    return tmp_path / "own.py"


def test_a_module_is_used_by_its_output(own):
    x = images(32)
    encoder = load_encoder(f"python:{own}:pooled(trust=True, size=32)")
    features = differentiable(encoder, x)
    torch.testing.assert_close(features.pooled, encoder.body.model(x))
    assert features.dense is None and (encoder.card.dim, encoder.card.dense_dim, encoder.card.classes) == (4, 0, 0)
    dense = load_encoder(f"python:{own}:dense(trust=True, size=32, mean=[0.5, 0.5, 0.5], std=[0.25, 0.25, 0.25])")
    features = differentiable(dense, x)
    agrees_with_card(dense, features)
    torch.testing.assert_close(features.dense, dense.body.model((x - 0.5) / 0.25))
    torch.testing.assert_close(features.pooled, features.dense.mean((2, 3)))
    logits = load_encoder(f"python:{own}:pooled(trust=True, size=32, logits=True, options={{'width': 7}})")
    assert logits.card.classes == 7 and torch.equal(logits.classify(logits(x)), logits.body.model(x))


def test_a_known_structure_keeps_its_layers_and_classifier(own):
    encoder = load_encoder(f"python:{own}:resnet(trust=True, size=64)")
    agrees_with_card(encoder, differentiable(encoder, images(64)))
    assert encoder.card.classes == 5 and encoder.body.depth == 5
    assert load_encoder(f"python:{own}:resnet(trust=True, size=64)").card.sha256 == encoder.card.sha256


@pytest.mark.parametrize(
    ("entry", "error", "message"),
    [
        ("pooled", SpecError, "would run the code of .*own.py on this machine; set trust=True"),
        ("poled(trust=True)", SpecError, "has no function 'poled'; did you mean 'pooled'"),
        ("zzz(trust=True)", SpecError, "has no function 'zzz'; it has pooled, dense, resnet, number"),
        ("number(trust=True)", SpecError, "returns a int; it should return a torch.nn.Module"),
        ("pair(trust=True)", SpecError, r"gives a tuple for one image; it should give features \[B, D\]"),
        ("dense(trust=True, size=2)", SpecError, r"fails for an image \[1, 3, 2, 2\].*give size="),
        ("broken(trust=True)", WeightsError, "as it happens"),
    ],
)
def test_errors_are_one_sentence(own, entry, error, message):
    with pytest.raises(error, match=message) as found:
        load_encoder(f"python:{own}:{entry}")
    assert "\n" not in str(found.value)


def test_nothing_runs_without_trust(own):
    own.write_text("raise SystemExit('it ran')\n")
    with pytest.raises(SpecError, match="set trust=True"):
        load_encoder(f"python:{own}:pooled")
    with pytest.raises(WeightsError, match="there is no file"):
        load_encoder(f"python:{own}x:pooled(trust=True)")
    with pytest.raises(SpecError, match="lacks the function's name"):
        load_encoder("python:own(trust=True)")


def test_the_stamp_sees_the_file(own, monkeypatch):
    monkeypatch.chdir(own.parent)
    spec = "python:own.py:pooled(trust=True)"
    before = stamp(spec, "Encoder")
    assert before and not fixes_weights(spec, before)
    own.write_text(OWN + "\n# another\n")
    assert stamp(spec, "Encoder") not in ("", before)
