"""What a linear classifier of pixels is fitted on: pixels drawn from training images."""

from __future__ import annotations

import pytest
import torch

from hardsight.core.errors import DataError
from hardsight.data import open_data
from hardsight.data.base import IGNORE
from hardsight.encoders import load_encoder
from hardsight.probes.bank import Bank
from hardsight.probes.linear import fit_probe
from hardsight.probes.runs import measure
from hardsight.probes.samples import at_pixels, samples
from hardsight.specs.catalog import build
from hardsight.tasks.base import to_pixels

DATA = "made(size=32, train=60, test=4)"


@pytest.mark.parametrize("spec", ["tiny", "tiny_vit", "zoo:made_simclr"])
def test_dense_features_at_pixels_are_those_that_are_upsampled(spec: str) -> None:
    images = open_data("made(size=30, train=4, test=4)").split("train")  # the encoder pads them
    features, _ = Bank(load_encoder(spec), images, [0, 1, 2], dense=True).batch(torch.arange(3), dense=True)
    assert features.dense is not None
    places = torch.arange(900).expand(2, -1)
    some = torch.tensor([True, False, True])
    expected = to_pixels(features.dense, features).flatten(2).movedim(1, 2)[some]
    torch.testing.assert_close(at_pixels(features, some, places), expected, rtol=1e-4, atol=1e-5)


def test_pixels_are_labelled_and_their_own_images_and_follow_the_seed() -> None:
    task, encoder, data = build("segment", "Task"), load_encoder("tiny"), open_data(DATA)
    bank = Bank(encoder, data.split("train"), list(range(8)), dense=True)
    mask = bank.batch(torch.arange(8), dense=True)[1]["mask"]
    assert bank.wide is not None
    bank.wide[1]["mask"][3] = IGNORE  # an image without a class gives no pixel
    head = task.head(encoder, data.card)
    found, again, other = (samples(head, task, bank, seed) for seed in (0, 0, 1))
    assert torch.equal(found.y, again.y)
    assert not torch.equal(found.y, other.y)
    assert set(found.image.tolist()) == {0, 1, 2, 4, 5, 6, 7}
    assert not (found.y == IGNORE).any()
    for image in (0, 7):
        drawn = found.y[found.image == image].bincount(minlength=13) / (found.image == image).sum()
        whole = mask[image][mask[image] != IGNORE].bincount(minlength=13) / (mask[image] != IGNORE).sum()
        assert (drawn - whole).abs().max() < 0.04
    bank.wide[1]["mask"][:] = IGNORE
    with pytest.raises(DataError, match="no pixel of the 8 training images has a class"):
        samples(head, task, bank, 0)


def test_the_tuned_head_of_pixels_is_at_least_as_good_as_one_trained_on_whole_images() -> None:
    encoder, data = load_encoder("zoo:made_supervised"), open_data("made(size=32, train=100, test=60)")
    bank, unseen = (
        Bank(encoder, data.split(split), list(range(count)), dense=True) for split, count in (("train", 100), ("test", 60))
    )
    tuned, run = (fit_probe(encoder, "segment", data, how, bank=bank) for how in ("probe", "probe(epochs=30, batch=16)"))
    assert tuned.fitted is not None
    assert tuned.fitted["converged"]
    assert tuned.fitted["pixels"] == 100 * (2**16 // 100)
    errors = [measure(one.head, one.task, unseen, torch.arange(60), 60).error.mean() for one in (tuned, run)]
    assert errors[0] < errors[1] + 0.005
