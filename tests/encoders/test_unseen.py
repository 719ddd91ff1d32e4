"""What no shape of a checkpoint shows is known for published networks or said, and DINOv2's positions are its authors'."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import timm
import torch

from hardsight.core.errors import SpecError
from hardsight.encoders import load_encoder
from hardsight.encoders.checkpoint import file
from hardsight.encoders.timm_positions import scaled
from hardsight.encoders.zoo import known
from tests.fixtures.encoders import images, one_thread, saved

__all__ = ["one_thread", "saved"]
IMAGENET: dict[str, Any] = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def moco(heads: int = 12) -> torch.nn.Module:
    """MoCo v3's ViT-S for 64 pixels, two blocks deep, with the positions of its `build_2d_sincos_position_embedding`."""
    torch.manual_seed(0)
    net = timm.create_model("vit_small_patch16_224", img_size=64, depth=2, num_heads=heads, num_classes=0).eval()
    places = torch.zeros(1, 17, 384)
    for row in range(4):
        for column in range(4):
            for k in range(96):
                rate = 10000 ** (-k / 96)
                here = [math.sin(row * rate), math.cos(row * rate), math.sin(column * rate), math.cos(column * rate)]
                places[0, 1 + 4 * row + column, k::96] = torch.tensor(here)
    net.pos_embed.data = places
    return net


@pytest.mark.parametrize("prefix", ["module.base_encoder.", ""])
def test_moco_v3s_small_transformer_has_twelve_heads(prefix: str, saved) -> None:
    """Of the same shapes as one with 6, whose features differ (before: loaded with 6 and nothing said)."""
    net = moco()
    path = saved({"state_dict": {prefix + key: value for key, value in net.state_dict().items()}})
    plain: dict[str, Any] = {"arch": "vit_small_patch16_224", "size": 64, **IMAGENET, "options": {"depth": 2}}
    encoder = file(path, **plain)
    x = images(64)
    wanted = net((x - encoder.mean) / encoder.std)
    torch.testing.assert_close(encoder(x).pooled, wanted)
    assert "num_heads=12 of MoCo v3's ViT-S" in encoder.card.note
    six = file(path, **{**plain, "options": {"depth": 2, "num_heads": 6}})
    assert (six(x).pooled - wanted).norm() > 0.01 * wanted.norm() and "MoCo" not in six.card.note


def test_a_number_of_heads_that_the_file_cannot_show_is_on_the_card(saved) -> None:
    net = timm.create_model("vit_small_patch16_224", img_size=64, depth=2, num_classes=0)
    encoder = file(saved(net.state_dict()), arch="vit_small_patch16_224", size=64, options={"depth": 2}, **IMAGENET)
    assert "heads: 6, by the architecture" in encoder.card.note
    resnet = timm.create_model("test_resnet").state_dict()
    assert "heads" not in file(saved(resnet), arch="test_resnet").card.note


def cubic(values: torch.Tensor, cells: int) -> torch.Tensor:
    """[cells, ...]: bicubic samples (a = -0.75) of values [n, ...] at (j + 0.5) n / (cells + 0.1) - 0.5, edges repeated."""
    n, found = len(values), []
    for j in range(cells):
        at = (j + 0.5) * n / (cells + 0.1) - 0.5
        first, total = math.floor(at), torch.zeros_like(values[0])
        for place in range(first - 1, first + 3):
            d = abs(at - place)
            weight = 1.25 * d**3 - 2.25 * d**2 + 1 if d <= 1 else -0.75 * d**3 + 3.75 * d**2 - 6 * d + 3
            total = total + weight * values[min(max(place, 0), n - 1)]
        found.append(total)
    return torch.stack(found)


def test_positions_are_scaled_as_the_authors_of_dinov2_do() -> None:
    grid = torch.randn(37, 37, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).float()
    places = torch.cat([torch.ones(1, 1, 4), grid.flatten(0, 1)[None]], 1)
    found = scaled(places, (37, 37), (16, 20))
    wanted = cubic(cubic(grid, 16).transpose(0, 1), 20).transpose(0, 1)
    torch.testing.assert_close(found[0, 1:].unflatten(0, (16, 20)), wanted, rtol=0, atol=1e-4)
    assert torch.equal(found[:, :1], places[:, :1]) and scaled(places, (37, 37), (37, 37)) is places


SMALL = "timm:vit_small_patch14_dinov2(pretrained=False{})"


def test_dinov2_at_224_pixels_has_its_authors_positions_by_default_and_timms_when_asked() -> None:
    ours, timms = (load_encoder(SMALL.format(f", size=224, positions='{how}'")) for how in ("offset", "size"))
    assert ours.card.size == 224 and "positions interpolated by offset" in ours.card.note
    assert "positions interpolated by size" in timms.card.note
    model = ours.body.model
    assert model.pos_embed.shape[1] == 1 + 37 * 37
    with torch.no_grad():
        model.pos_embed.normal_(generator=torch.Generator().manual_seed(0))
        x = images(224, count=1)
        patches = model.patch_embed((x - ours.mean) / ours.std)
        tokens = model._pos_embed(patches)
        wanted = patches.flatten(1, 2) + scaled(model.pos_embed, (37, 37), (16, 16))[:, 1:]
        torch.testing.assert_close(tokens[:, 1:], wanted)
        again = copy.deepcopy(ours)
        again.body.model.pos_embed.zero_()
        assert torch.equal(model._pos_embed(patches), tokens)
    assert ours(images(70)).dense.shape[-2:] == (5, 5)  # type: ignore[union-attr]


def test_the_zoos_dinov2_networks_have_their_authors_positions() -> None:
    """Plain ones by offset; those with registers were released with an offset of 0 and antialiasing, as timm does."""
    specs = {entry["name"]: entry["spec"] for entry in known() if entry["name"].startswith("dinov2_")}
    assert {name for name, spec in specs.items() if "positions='offset'" in spec} == {
        "dinov2_vits14", "dinov2_vitb14", "dinov2_vitl14", "dinov2_vitb14_four",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["vit_small_patch14_reg4_dinov2", "test_resnet", "vit_small_patch16_dinov3"])
def test_networks_without_such_positions_say_so(name: str) -> None:
    with pytest.raises(SpecError, match="leave positions out"):
        load_encoder(f"timm:{name}(pretrained=False, positions='offset')")
