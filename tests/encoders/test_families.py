"""A broad sample of timm's and torchvision's families: pooled and dense are the library's own, and cells lie where they read.

timm's are its own miniatures for tests, one for each family that it tests.
"""

from __future__ import annotations

import pytest
import timm
import torch

from hardsight.core.errors import SpecError
from hardsight.encoders import load_encoder
from hardsight.encoders.base import Encoder
from hardsight.encoders.tv_models import create
from tests.fixtures.encoders import one_thread
from tests.fixtures.places import calibrated, reading

__all__ = ["one_thread"]
TORCHVISION = ("shufflenet_v2_x0_5", "mobilenet_v3_small", "alexnet", "resnet18")
LARGE = ("densenet121", "efficientnet_b0", "swin_t", "swin_v2_t", "convnext_tiny", "regnet_y_400mf", "vit_b_32", "vgg11")
WIDE = {"mobilenet_v3_small", "efficientnet_b0", "densenet121", "alexnet", "regnet_y_400mf", "shufflenet_v2_x0_5"}
"""Their last cells see most of the image, so that with random weights only the first layer's cells follow its places."""


@pytest.mark.parametrize("name", sorted(timm.list_models("test_*")))
@pytest.mark.slow
def test_a_family_of_timm(name: str) -> None:
    encoder = load_encoder(f"timm:{name}(pretrained=False)")
    model, side = encoder.body.model, encoder.card.size
    x = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    calibrated(model, x)
    features = encoder(x)
    pixels = (x - encoder.mean) / encoder.std
    torch.testing.assert_close(
        features.pooled, model.forward_head(model.forward_features(pixels), pre_logits=True).flatten(1)
    )
    torch.testing.assert_close(features.dense, model.forward_intermediates(pixels, norm=True)[1][-1])
    lies_where_it_reads(encoder, encoder.body.fixed or 159, (-1,))
    stays(encoder, x)


@pytest.mark.parametrize("name", [*TORCHVISION, *(pytest.param(name, marks=pytest.mark.slow) for name in LARGE)])
def test_a_family_of_torchvision(name: str) -> None:
    encoder = load_encoder(f"tv:{name}(weights=None)")
    x = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    plain, _ = create(name)
    torch.testing.assert_close(encoder.classify(encoder(x)), plain((x - encoder.mean) / encoder.std), rtol=0, atol=1e-5)
    lies_where_it_reads(encoder, 159 if name != "vit_b_32" else 224, (0,) if name in WIDE else (-1,))
    stays(encoder, x)


@pytest.mark.parametrize("name", ["squeezenet1_0", "googlenet", "inception_v3", "mnasnet0_5"])
def test_a_structure_that_torchvision_alone_has_is_refused_by_name(name: str) -> None:
    with pytest.raises(SpecError, match=rf"{name} has none of the structures"):
        load_encoder(f"tv:{name}(weights=None)")


def lies_where_it_reads(encoder: Encoder, width: int, layers: tuple[int, ...]) -> None:
    before, encoder.dense_layers = encoder.dense_layers, layers
    height = width if getattr(encoder.body, "fixed", 0) else 64
    features = encoder(torch.zeros(1, 3, height, width))
    assert features.dense is not None
    cells = features.dense.shape[-1]
    stride, read = features.covered[1] / cells, reading(encoder, height, width, 4)
    for cell in range(1, cells - 1):
        assert abs(read[cell] - features.origin[1] - (cell + 0.5) * stride) <= 0.75 * stride + 4, (cell, stride, read)
    encoder.dense_layers = before


def stays(encoder: Encoder, x: torch.Tensor) -> None:
    """In train mode nothing is drawn at random."""
    one, other = (encoder.train()(x).pooled for _ in range(2))
    assert torch.equal(one, other)
