"""Encoders of timm, torchvision and this package: the model's exact outputs, gradients to the pixels, clear errors."""

import csv
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import nn

from hardsight.core.errors import HardsightError, SpecError, WeightsError
from hardsight.encoders import load_encoder, weights_hash
from hardsight.encoders.adapt import positions
from hardsight.encoders.base import Encoder
from hardsight.encoders.small import tiny
from hardsight.encoders.timm_models import timm as timm_encoder
from hardsight.encoders.tv_models import create, tv
from hardsight.specs.catalog import build, complete, entries, find
from tests.fixtures.encoders import DATA, agrees_with_card, differentiable, images, needs_data, no_network, one_thread

__all__ = ["no_network", "one_thread"]
SMALL_VIT = "timm:vit_tiny_patch16_224(pretrained=False, size=64)"


TIMM = {
    "vit_tiny_patch16_224": 64,
    "test_resnet": 64,
    "convnext_atto": 64,
    "deit_tiny_distilled_patch16_224": 64,
    "levit_128s": None,
    "mobilenetv2_035": 64,
    "swin_tiny_patch4_window7_224": None,
}


@pytest.mark.parametrize("name", TIMM)
def test_timm_gives_the_models_own_logits(name):
    size = TIMM[name]
    encoder = load_encoder(f"timm:{name}(pretrained=False, size={size})")
    cfg: Any = timm.get_pretrained_cfg(name)
    assert encoder.card.mean == tuple(cfg.mean) and encoder.card.std == tuple(cfg.std)
    x = images(size or cfg.input_size[-1], count=1)
    normalized = (x - torch.tensor(cfg.mean).view(1, 3, 1, 1)) / torch.tensor(cfg.std).view(1, 3, 1, 1)
    features = differentiable(encoder, x)
    agrees_with_card(encoder, features)
    wanted = encoder.body.model(normalized)
    torch.testing.assert_close(encoder.classify(features), wanted, rtol=0, atol=1e-6)
    assert encoder.card.classes == wanted.shape[1] == 1000


def test_a_timm_vit_takes_other_sizes_and_pads_to_its_patch():
    encoder = load_encoder(SMALL_VIT)
    assert encoder.card.size == 64 and encoder.card.stride == 16
    padded = encoder(images(70))
    assert padded.size == (70, 70) and padded.covered == (80, 80) and padded.dense.shape[-2:] == (5, 5)
    assert encoder(torch.rand(1, 3, 32, 96)).dense.shape[-2:] == (2, 6)


def test_a_vit_pools_what_its_head_reads():
    encoder = load_encoder(SMALL_VIT)
    x = images(64)
    features = encoder(x)
    model = encoder.body.model
    torch.testing.assert_close(model.get_classifier()(features.pooled), encoder.classify(features))


def test_four_layers_are_joined_in_the_order_asked_for():
    name = "timm:vit_tiny_patch16_224(pretrained=False, size=64, layers={})"
    four, one = load_encoder(name.format("[-4, -3, -2, -1]")), load_encoder(name.format("[-1]"))
    x = images(64)
    dense = four(x).dense
    assert four.card.dense_dim == 4 * 192 == dense.shape[1]
    torch.testing.assert_close(dense[:, -192:], one(x).dense)
    first, last = one(x, layers=(0, -1)).layers
    last_again, first_again = one(x, layers=(-1, 0)).layers
    assert torch.equal(first, first_again) and torch.equal(last, last_again) and not torch.equal(first, last)


def test_stages_of_a_convolutional_network_join_on_the_finest_grid():
    encoder = timm_encoder("test_resnet", pretrained=False, layers=(1, 2, 3, 4))
    features = encoder(images(64))
    assert features.dense.shape[-2:] == (16, 16) and encoder.card.stride == 4
    assert encoder.card.dense_dim == features.dense.shape[1]


def test_resizing_happens_within_the_attacked_graph():
    encoder = load_encoder("timm:vit_tiny_patch16_224(pretrained=False, resize=64)")
    features = differentiable(encoder, images(32))
    assert features.dense.shape[-2:] == (4, 4) and features.size == features.covered == (32, 32)


def test_random_weights_are_the_seeds_and_the_global_generator_is_not_disturbed():
    torch.manual_seed(7)
    before = torch.get_rng_state()
    one, same, other = (load_encoder(f"timm:test_resnet(pretrained=False, seed={seed})") for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert one.card.sha256 == same.card.sha256 != other.card.sha256
    assert len(one.card.sha256) == 64 and one.card.note == "random weights, seed 1"


def test_load_encoder_freezes_and_keeps_its_spec():
    encoder: Any = load_encoder(SMALL_VIT)
    assert not encoder.training and not any(p.requires_grad for p in encoder.parameters())
    assert encoder.spec == complete(SMALL_VIT, "Encoder")
    assert load_encoder(encoder.spec).card == encoder.card


def test_the_hash_sees_every_weight_and_every_buffer():
    net: Any = nn.BatchNorm1d(3)
    before = weights_hash(net)
    net.running_mean[1] += 1e-6
    assert weights_hash(net) != before


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("timm:vit_tinny_patch16_224", "did you mean 'vit_tiny_patch16_224'"),
        ("timm:vit_small_patch14_dinov2.lvd142", "did you mean 'vit_small_patch14_dinov2.lvd142m'"),
        ("vit_tiny_patch16_224", "did you mean 'timm:vit_tiny_patch16_224'"),
        ("made_simclr", "did you mean 'zoo:made_simclr'"),
        ("tim:resnet18", "did you mean 'timm'"),
        ("zoo:made_simcrl", "did you mean 'made_simclr'"),
        ("tv:resnet19", "did you mean 'resnet"),
        ("file:nowhere.pt(arch='resnet21')", "did you mean 'resnet"),
        ("timm:test_resnet(pretrained=False, layers=[5])", "has 5 layers"),
        ("timm:vit_tiny_patch16_224(pretrained=False, layers=[-13])", "has 12 layers"),
        ("timm:vit_tiny_patch16_224(pretrainde=False)", "did you mean 'pretrained'"),
        ("timm:test_resnet(pretrained=False, resize=0)", "at least 1"),
        ("timm:levit_128s(pretrained=False, size=-3)", "at least 1"),
        ("hub:facebookresearch/dino:dino_vits16", "trust=True"),
        ("hub:dino_vits16", "hub:ORG/REPO:NAME"),
    ],
)
def test_misspelt_names_are_reported_with_the_right_one(spec, message):
    with pytest.raises(SpecError, match=message.replace("(", r"\(")) as error:
        load_encoder(spec)
    assert "\n" not in str(error.value)


def test_a_network_with_one_size_says_so_and_can_be_built_for_another():
    encoder = load_encoder("timm:levit_128s(pretrained=False)")
    with pytest.raises(SpecError, match="built for 224x224"):
        encoder(images(64))
    smaller = load_encoder("timm:beit_base_patch16_224(pretrained=False, size=64)")
    assert smaller(images(64)).dense.shape[-2:] == (4, 4)


@pytest.mark.parametrize("spec", ["timm:vit_tiny_patch16_224", "hf:facebook/dinov2-small", "tv:resnet18"])
def test_without_a_network_one_line_says_what_would_work(spec, no_network, monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(WeightsError, match=r"cannot be reached.*HF_HUB_OFFLINE.*file:PATH") as error:
        load_encoder(spec)
    assert spec.split("(")[0] in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "name", ["resnet18", "vit_b_32", "convnext_tiny", "swin_t", "mobilenet_v3_small", "efficientnet_b0", "regnet_y_400mf"]
)
@pytest.mark.slow
def test_torchvision_gives_the_models_own_logits(name):
    encoder = load_encoder(f"tv:{name}(weights=None)")
    plain, _ = create(name)
    x = images(64 if name != "vit_b_32" else 224, count=1)
    features = differentiable(encoder, x)
    agrees_with_card(encoder, features)
    torch.testing.assert_close(encoder.classify(features), plain((x - encoder.mean) / encoder.std), rtol=0, atol=1e-6)


def test_a_torchvision_vit_takes_other_sizes_and_joins_layers():
    encoder = tv("vit_b_32", weights=None, layers=(-2, -1))
    assert encoder(images(70)).dense.shape == (2, 2 * 768, 3, 3)


def test_a_torchvision_network_of_another_shape_is_refused():
    with pytest.raises(SpecError, match="from timm"):
        tv("squeezenet1_0", weights=None)


def test_tiny_vit_reads_a_class_token_and_takes_any_size():
    encoder = build("tiny_vit(classes=4, layers=(1, -1))")
    features = differentiable(encoder, images(64))
    agrees_with_card(encoder, features)
    assert encoder.card.parameters < 1.3e6 and encoder.card.stride == 8
    assert features.dense.shape[1:] == (256, 8, 8) and features.pooled.shape[1:] == (128,)
    body = encoder.body.train()
    logits = body.classify(body(images(64), (0,)).trunk)
    assert torch.autograd.grad(logits.square().sum(), body.cls_token)[0].abs().max() > 0
    assert build("tiny_vit")(images(40, count=1)).dense.shape[-2:] == (5, 5)
    with pytest.raises(SpecError, match="patch a power of 2"):
        build("tiny_vit(patch=6)")


def test_tiny_vit_knows_where_a_patch_is():
    """Two images of the same patches in another order have other embeddings only through the positions."""
    encoder = build("tiny_vit(patch=2, depth=1)")
    encoder.body.patch_embed = nn.Conv2d(3, 128, 2, 2)
    left, right = torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 8)
    left[..., :2, :2], right[..., 6:, 4:6] = 1, 1
    assert not torch.allclose(encoder(left).pooled, encoder(right).pooled, atol=1e-5)


def test_tiny_is_small_and_learns():
    encoder = build("tiny(classes=4)")
    assert isinstance(encoder, Encoder)
    assert encoder.card.parameters <= 450_000 and encoder.card.stride == 4
    assert sum(v.numel() * v.element_size() for v in encoder.state_dict().values()) <= 2_000_000
    assert [tuple(m.shape[-2:]) for m in encoder(images(64), layers=(0, 1, 2, 3)).layers] == [
        (32,) * 2,
        (16,) * 2,
        (8,) * 2,
        (4,) * 2,
    ]
    encoder.train()
    x, y = images(64, count=16), torch.arange(16) % 4
    optimizer = torch.optim.AdamW(encoder.parameters(), 3e-3)
    losses = []
    for _ in range(15):
        loss = nn.functional.cross_entropy(encoder.classify(encoder(x)), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_positions_count_from_the_end_and_refuse_what_is_not_there():
    assert positions((-1, 0, 2), 4, "x") == (3, 0, 2)
    with pytest.raises(SpecError, match="4 layers"):
        positions((4,), 4, "x")
    with pytest.raises(SpecError, match="4 layers"):
        tiny()(images(64), layers=(7,))


def test_every_source_is_in_the_catalog_as_an_encoder():
    assert {n for n, e in entries().items() if e.kind == "Encoder"} >= {"timm", "tv", "hf", "hub", "file", "zoo", "tiny"}
    assert all(find(name).summary for name in ("timm", "tv", "hf", "hub", "file", "zoo", "tiny"))
    assert issubclass(WeightsError, HardsightError)


def test_a_size_that_windows_do_not_divide_is_refused():
    encoder = load_encoder("timm:halonet26t(pretrained=False)")
    with pytest.raises(SpecError, match="cannot take 72x72"):
        encoder(images(72))
    assert load_encoder("timm:swin_tiny_patch4_window7_224(pretrained=False, size=64)").card.size == 64


def cifar_images():
    batches = []
    for path in sorted(Path(DATA, "cifar10", "cifar-10-batches-py").glob("test_batch*")):
        with path.open("rb") as opened:
            batches.append(pickle.load(opened, encoding="bytes"))
    x = np.concatenate([batch[b"data"] for batch in batches]).reshape(-1, 3, 32, 32)
    return torch.from_numpy(x).float() / 255, torch.tensor([label for batch in batches for label in batch[b"labels"]])


@needs_data
@pytest.mark.parametrize(
    ("name", "arch", "accuracy"), [("resnet20-12fca82f.th", "resnet20", 0.917), ("resnet4b_adv_eps2.pth", "resnet4b", 0.766)]
)
def test_real_cifar_weights_have_their_accuracy(name, arch, accuracy):
    x, y = cifar_images()
    encoder = load_encoder(f"file:$HARDSIGHT_DATA/weights/{name}(arch='{arch}')")
    with torch.no_grad():
        right = (encoder.classify(encoder(x)).argmax(1) == y).float().mean().item()
    assert len(x) == 700 and right == pytest.approx(accuracy, abs=0.0015)


@needs_data
def test_real_imagenet_weights_have_their_accuracy():
    from PIL import Image

    encoder = load_encoder(
        "file:$HARDSIGHT_DATA/weights/mobilenetv2_100_imagenet_int8deq.npz"
        "(arch='mobilenetv2_100', options={'pad_type': 'same'}, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))"
    )
    right, total = 0, 0
    with Path(DATA, "imagenet_samples", "labels.csv").open() as opened:
        for row in csv.DictReader(opened):
            with Image.open(Path(DATA, "imagenet_samples", row["file"])) as image:
                width, height = image.size
                left, top = (width - 224) // 2, (height - 224) // 2
                crop = np.asarray(image.convert("RGB").crop((left, top, left + 224, top + 224)))
            x = torch.from_numpy(crop.copy()).permute(2, 0, 1)[None].float() / 255
            with torch.no_grad():
                right += int(encoder.classify(encoder(x)).argmax().item() == int(row["class_index"]))
            total += 1
    assert (right, total) == (84, 100)


@pytest.mark.parametrize("stem", ["cifar", "cifar_pad2", "cifar_bare"])
def test_a_cifar_stem_keeps_the_size_and_says_so(stem):
    encoder = load_encoder(f"tv:resnet18(weights=None, stem='{stem}', mean=(0, 0, 0), std=(1, 1, 1))")
    features = differentiable(encoder, images(32))
    side = 34 if stem == "cifar_pad2" else 32
    assert encoder(images(32), layers=(0,)).layers[0].shape[-1] == side and features.dense.shape[-1] == -(-side // 8)
    assert encoder.card.size == 32 and encoder.card.mean == (0, 0, 0) and stem in encoder.card.note
    negative = bool((encoder(images(32), layers=(0,)).layers[0] < 0).any())
    assert negative == (stem == "cifar_bare")


def test_a_stem_is_a_resnets_and_never_a_trained_ones():
    with pytest.raises(SpecError, match="needs weights=None"):
        tv("resnet18", stem="cifar")
    with pytest.raises(SpecError, match="options of ResNets"):
        tv("vit_b_32", weights=None, stem="cifar")


@pytest.mark.parametrize("side", [31, 32, 33])
def test_the_padding_of_tensorflow_is_what_it_says(side):
    """The output side is ceil(side / stride); the padding is split in half, an odd pixel goes right and to the bottom."""
    net: Any = create("resnet18", padding="same")[0]
    x = torch.rand(1, 3, side, side)
    short = max((-(-side // 2) - 1) * 2 + 7 - side, 0)
    wanted = nn.functional.conv2d(nn.functional.pad(x, (short // 2, short - short // 2) * 2), net.conv1.weight, stride=2)
    torch.testing.assert_close(net.conv1(x), wanted, rtol=0, atol=0)
    assert net.conv1(x).shape[-1] == -(-side // 2)
    assert not torch.equal(net(x), create("resnet18")[0](x)) or side == 33
    assert net.state_dict().keys() == create("resnet18")[0].state_dict().keys()


def test_a_transformer_pools_the_class_token_or_the_mean_as_it_is_asked():
    spec = "timm:vit_small_patch16_dinov3(pretrained=False, pooled='{}')"
    x = images(64)
    cls, mean, auto = (load_encoder(spec.format(how)) for how in ("cls", "mean", "auto"))
    tokens = cls.body.model.forward_features((x - cls.mean) / cls.std)
    torch.testing.assert_close(cls(x).pooled, tokens[:, 0])
    torch.testing.assert_close(mean(x).pooled, tokens[:, 5:].mean(1))
    torch.testing.assert_close(mean(x).pooled, cls(x).dense.mean((2, 3)))
    torch.testing.assert_close(auto(x).pooled, mean(x).pooled)
    for bad in (
        "timm:test_resnet(pretrained=False, pooled='mean')",
        "timm:vit_base_patch16_siglip_gap_224(pretrained=False, pooled='cls')",
    ):
        with pytest.raises(SpecError, match="pooled="):
            load_encoder(bad)


def test_clips_are_refused_by_an_encoder_of_images():
    with pytest.raises(ValueError, match=r"images \[B, 3, H, W\].*clip encoder"):
        tiny()(torch.rand(1, 3, 4, 32, 32))


def test_an_eps_counts_at_the_images_own_size_where_the_encoder_enlarges():
    """An encoder that enlarges images keeps the threat at their original size: more pixels would be a stronger threat."""
    small = tiny()
    large = Encoder(small.body, small.card, small.dense_layers).with_card(resize=64).eval()
    x = images(32, count=4).requires_grad_()
    features = large(x)
    assert features.size == (32, 32) and large.card.resize == 64
    (grad,) = torch.autograd.grad(features.pooled.square().sum(), x)
    before = nn.functional.interpolate(x.detach(), size=(64, 64), mode="bilinear", antialias=True).requires_grad_()
    torch.testing.assert_close(small(before).pooled, features.pooled)
    (outer,) = torch.autograd.grad(small(before).pooled.square().sum(), before)
    assert outer[0].numel() == 4 * grad[0].numel()
    room = outer.abs().flatten(1).sum(1) / grad.abs().flatten(1).sum(1)
    assert (room > 1).all()  # gain of a first-order Linf step: larger if images are enlarged beforehand
    same = images(64)
    torch.testing.assert_close(large(same).pooled, small(same).pooled, rtol=0, atol=0)
