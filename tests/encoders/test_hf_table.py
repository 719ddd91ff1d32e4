"""Every vision architecture that the installed transformers knows: read rightly, or refused by its name.

Rightly is: pooled and dense features are the library's own, every layer is a map, the columns and rows that are changed in
the image change the cells that lie there, and nothing is drawn at random, in train mode either.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from hardsight.core.errors import SpecError
from hardsight.encoders import load_encoder
from hardsight.encoders.base import Encoder
from hardsight.encoders.hf_bodies import FAMILIES, family_of
from hardsight.encoders.hf_models import TOWERS
from tests.fixtures.encoders import one_thread
from tests.fixtures.hf_configs import CONFIGS
from tests.fixtures.places import calibrated, reading

transformers = pytest.importorskip("transformers")

__all__ = ["one_thread"]
SLOW = {"textnet", "hgnet_v2", "mobilevit", "mobilevitv2", "mobilenet_v2", "efficientnet"}
WIDE = {"mobilenet_v1", "mobilenet_v2", "efficientnet", "mobilevit", "swiftformer"}
"""Deep ones of small cells, whose last cells see most of the image: they are held to a whole stride, not three quarters."""
GLOBAL = {"mobilevitv2": (0,), "hgnet_v2": (0,), "levit": ()}
"""Those whose last cells follow no place of the image with random weights, by attention everywhere (MobileViTv2, LeViT)
or too many convolutions: their first layers are held to it, but LeViT's, which subsamples by attention from the first on."""


def encoder_of(kind: str, folder: Path) -> Encoder:
    torch.manual_seed(0)
    model: Any = transformers.AutoModel.from_config(transformers.AutoConfig.for_model(kind, **CONFIGS[kind]))
    side = 128 if kind == "levit" else 64
    calibrated(model, torch.rand(4, 3, side, side, generator=torch.Generator().manual_seed(0)))
    model.save_pretrained(folder)
    return load_encoder(f"hf:{folder}")


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=pytest.mark.slow if kind in SLOW else ()) for kind in FAMILIES])
def test_an_architecture_is_read_rightly(kind: str, tmp_path: Path) -> None:
    encoder = encoder_of(kind, tmp_path)
    body, stride = encoder.body, encoder.card.stride
    side = body.fixed or 64
    equals_the_librarys_own(encoder, torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(1)))
    height, width = (body.fixed or 64), (body.fixed or max(159, 8 * stride - 1))
    features = encoder(torch.rand(1, 3, height, width), tuple(range(body.depth)))
    assert features.dense is not None and len(features.layers) == body.depth
    for layer, found in enumerate(features.layers):
        extent, spacing = features.extents[layer], encoder.spacings[layer].stride
        assert extent.covered == (found.shape[2] * spacing, found.shape[3] * spacing)
        assert all(abs(one - whole) < spacing for one, whole in zip(extent.covered, (height, width), strict=True))
    encoder.dense_layers = GLOBAL.get(kind, (-1,))
    for rows in (False, True) if encoder.dense_layers else ():
        lies_where_it_reads(encoder, height, width, rows, 1.0 if kind in WIDE else 0.75)
    encoder.dense_layers = (-1,)
    one, other = (encoder.train()(torch.ones(2, 3, side, side) / 3) for _ in range(2))
    assert torch.equal(one.pooled, other.pooled) and torch.equal(one.dense, other.dense)  # type: ignore[arg-type]


def equals_the_librarys_own(encoder: Encoder, x: torch.Tensor) -> None:
    family, body = encoder.body.family, encoder.body
    with torch.no_grad():
        features, out = encoder(x), body._run((x - encoder.mean) / encoder.std)
    last = out.last_hidden_state if "last_hidden_state" in out else out.hidden_states[-1]
    if family.maps:
        pooler = out.get("pooler_output")
        wanted = features.dense.mean((2, 3)) if pooler is None else pooler.flatten(1)
    else:
        back = getattr(body.model.config, family.back) if family.back else 0
        cells = features.dense[0, 0].numel()
        front = last.shape[1] - back - cells
        wanted = out.pooler_output if family.pool == "pooler" else last[:, 0] if front else last.mean(1)
        last = last[:, front : front + cells]
    torch.testing.assert_close(features.pooled, wanted)
    dense = features.dense if last.dim() == 4 else features.dense.flatten(2).transpose(1, 2)
    torch.testing.assert_close(dense, last[:, -dense.shape[1] :] if last.dim() == 3 else last)


def lies_where_it_reads(encoder: Encoder, height: int, width: int, rows: bool, share: float) -> None:
    features = encoder(torch.rand(1, 3, height, width))
    axis, step = (0 if rows else 1), 4
    cells = features.dense.shape[2 + axis]  # type: ignore[union-attr]
    stride = features.covered[axis] / cells
    read = reading(encoder, height, width, step, rows=rows)
    for cell in range(1, cells - 1) if cells > 2 else range(cells):
        assert abs(read[cell] - (cell + 0.5) * stride) <= share * stride + step, (cell, read)


def known() -> list[str]:
    from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

    return list(MODEL_MAPPING_NAMES)


@pytest.mark.parametrize("kind", sorted({*known()} - {*FAMILIES} - {*TOWERS}))
def test_every_other_architecture_is_refused_by_name(kind: str) -> None:
    with pytest.raises(SpecError, match=rf"hf:x is a (model of timm|{kind})"):
        family_of(SimpleNamespace(model_type=kind), "x")


def test_the_table_names_only_architectures_that_the_library_has() -> None:
    assert {*FAMILIES} <= {*known()} and {*FAMILIES} <= {*CONFIGS}


def test_a_detector_is_refused_before_its_network_is_built(tmp_path: Path) -> None:
    transformers.DeformableDetrConfig().save_pretrained(tmp_path)
    with pytest.raises(
        SpecError, match=r"is a deformable_detr, none of the vision encoders that hf reads: aimv2_vision_model, "
    ):
        load_encoder(f"hf:{tmp_path}(pretrained=False)")


def test_yolos_keeps_its_extra_tokens_at_the_end(tmp_path: Path) -> None:
    """The cell that changes most is the one whose patch was changed: (2, 3), where (3, 5) was before."""
    encoder = encoder_of("yolos", tmp_path)
    x = torch.full((1, 3, 64, 64), 0.5)
    moved = x.clone()
    moved[..., 16:24, 24:32] = 1
    change = (encoder(moved).dense - encoder(x).dense).norm(dim=1)[0]  # type: ignore[operator]
    assert divmod(int(change.argmax()), 8) == (2, 3)


@pytest.mark.parametrize("kind", ["dinov3_vit", "sapiens2"])
def test_positions_are_not_drawn_anew_in_train_mode_and_the_card_says_so(kind: str, tmp_path: Path) -> None:
    """A student in train mode equals its teacher at rest: near is 1 (before: 0.9999, 0.763, 0.937 in three steps)."""
    encoder = encoder_of(kind, tmp_path)
    assert "pos_embed_rescale off" in encoder.card.note
    x = torch.rand(2, 3, 64, 64)
    rest = encoder(x).pooled
    torch.testing.assert_close(encoder.train()(x).pooled, rest)
