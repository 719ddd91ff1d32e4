"""Encoders: every source gives the model's own numbers, differentiable in the pixels, and bad input one plain line."""

import argparse
import csv
import os
import pickle
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from hardsight.catalog import build, complete, entries, find
from hardsight.encoders import load_encoder, weights_hash
from hardsight.encoders import zoo as zoo_module
from hardsight.encoders.adapt import positions
from hardsight.encoders.base import Encoder
from hardsight.encoders.checkpoint import file
from hardsight.encoders.hub_models import hub
from hardsight.encoders.small import ARCHES, Tiny, tiny
from hardsight.encoders.timm_models import timm as timm_encoder
from hardsight.encoders.tv_models import create, tv
from hardsight.encoders.zoo import known, zoo
from hardsight.errors import HardsightError, MissingDependency, SpecError, WeightsError

DATA = os.environ.get("HARDSIGHT_DATA")
needs_data = pytest.mark.skipif(not DATA, reason="HARDSIGHT_DATA names no folder with real weights and images")
SMALL_VIT = "timm:vit_tiny_patch16_224(pretrained=False, size=64)"


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def no_network(monkeypatch):
    """Names of hosts cannot be resolved, wherever the tests run."""
    import socket

    def refuse(*args, **kwargs):
        raise OSError("no network in tests")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr("urllib.request.getproxies", dict)


def images(side, count=2, seed=0):
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


def differentiable(encoder, x):
    x = x.clone().requires_grad_()
    features = encoder(x)
    weights = torch.linspace(-1, 1, features.pooled.shape[1])
    (grad,) = torch.autograd.grad((features.pooled.square() * weights).sum(), x)
    assert torch.isfinite(grad).all() and grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in encoder.parameters())
    return features


def agrees_with_card(encoder, features):
    card = encoder.card
    assert features.pooled.shape[1] == card.dim
    assert features.dense.shape[1] == card.dense_dim
    assert round(features.covered[1] / features.dense.shape[-1]) == card.stride


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
    cfg = timm.get_pretrained_cfg(name)
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
    encoder = load_encoder(SMALL_VIT)
    assert not encoder.training and not any(p.requires_grad for p in encoder.parameters())
    assert encoder.spec == complete(SMALL_VIT, "Encoder")
    assert load_encoder(encoder.spec).card == encoder.card


def test_the_hash_sees_every_weight_and_every_buffer():
    net = nn.BatchNorm1d(3)
    before = weights_hash(net)
    net.running_mean[1] += 1e-6
    assert weights_hash(net) != before


@pytest.mark.parametrize(
    ("spec", "told"),
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
def test_what_is_misspelt_is_told_with_what_is_right(spec, told):
    with pytest.raises(SpecError, match=told.replace("(", r"\(")) as error:
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


def hf_configs():
    transformers = pytest.importorskip("transformers")
    plain = dict(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=32, patch_size=8
    )
    four = dict(hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1])
    return {
        "dinov2": transformers.Dinov2Config(**{**plain, "patch_size": 14, "image_size": 28}),
        "registers": transformers.Dinov2WithRegistersConfig(**plain),
        "vit": transformers.ViTConfig(**plain),
        "deit": transformers.DeiTConfig(**plain),
        "beit": transformers.BeitConfig(**plain),
        "mae": transformers.ViTMAEConfig(**plain),
        "clip": transformers.CLIPVisionConfig(**plain),
        "siglip": transformers.SiglipVisionConfig(**plain),
        "convnext": transformers.ConvNextConfig(**four),
        "resnet": transformers.ResNetConfig(**four, embedding_size=8, layer_type="basic"),
    }


def hf_saved(kind, folder):
    import transformers

    config = hf_configs()[kind]
    towers = {"clip": transformers.CLIPVisionModel, "siglip": transformers.SiglipVisionModel}
    torch.manual_seed(0)
    model = towers[kind](config) if kind in towers else transformers.AutoModel.from_config(config)
    model.save_pretrained(folder)
    return model.eval()


@pytest.mark.parametrize(
    "kind", ["dinov2", "registers", "vit", "deit", "beit", "mae", "clip", "siglip", "convnext", "resnet"]
)
def test_a_local_folder_of_transformers(kind, tmp_path):
    model = hf_saved(kind, tmp_path)
    encoder = load_encoder(f"hf:{tmp_path}(layers=[-2, -1])")
    x = images(45 if encoder.body.patch else 64)
    features = differentiable(encoder, x)
    agrees_with_card(encoder, features)
    assert torch.equal(encoder(x).dense, features.dense)
    side = encoder.card.size if encoder.body.patch else 64
    x = images(side)
    normalized = (x - encoder.mean) / encoder.std
    options = {"noise": torch.arange((side // 8) ** 2).expand(2, -1).float()} if kind == "mae" else {}
    if kind == "mae":
        model.config.mask_ratio = 0.0
    with torch.no_grad():
        out = model(pixel_values=normalized, **options)
    features = encoder(x)
    if kind in ("clip", "siglip", "convnext", "resnet"):
        wanted = out.pooler_output.flatten(1)
    else:
        wanted = out.last_hidden_state[:, 0]
    torch.testing.assert_close(features.pooled, wanted)
    if encoder.body.patch:
        cells = features.dense.shape[-1] * features.dense.shape[-2]
        tokens = out.last_hidden_state[:, -cells:].transpose(1, 2)
        torch.testing.assert_close(features.dense[:, -32:].flatten(2), tokens)


def test_transformers_reads_the_image_processors_statistics_and_configs_alone(tmp_path):
    hf_configs()["vit"].save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text('{"image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.25, 0.25]}')
    encoder = load_encoder(f"hf:{tmp_path}(pretrained=False)")
    assert encoder.card.mean == (0.5, 0.5, 0.5) and encoder.card.std == (0.25, 0.25, 0.25)
    with pytest.raises(WeightsError):
        load_encoder(f"hf:{tmp_path}")


def test_transformers_never_leaves_an_encoders_weight_random(tmp_path):
    model = hf_saved("vit", tmp_path)
    state = {k: v.contiguous() for k, v in model.state_dict().items() if k != "layernorm.weight"}
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WeightsError, match=r"lacks 1 .*layernorm.weight"):
        load_encoder(f"hf:{tmp_path}")


def test_transformers_missing_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingDependency, match=r"pip install 'hardsight\[hf\]'"):
        load_encoder("hf:facebook/dinov2-small")


HUBCONF = """
dependencies = ["torch"]
import torch
from torch import nn

class Dino(nn.Module):
    def __init__(self, maps):
        super().__init__()
        self.patch_embed = nn.Conv2d(3, 16, 8, 8)
        self.patch_size = 8
        self.blocks = nn.ModuleList(nn.Linear(16, 16) for _ in range(3))

class One(Dino):
    def get_intermediate_layers(self, x, n=1):
        x = self.patch_embed(x).flatten(2).transpose(1, 2)
        x, found = torch.cat([x.mean(1, keepdim=True), x], 1), []
        for block in self.blocks:
            x = torch.relu(block(x))
            found.append(x)
        return found[-n:]

class Two(Dino):
    def get_intermediate_layers(self, x, n=1, reshape=False, return_class_token=False, norm=True):
        x, found = self.patch_embed(x), []
        for block in self.blocks:
            x = torch.relu(block(x.movedim(1, -1))).movedim(-1, 1)
            found.append((x, x.mean((2, 3))))
        return tuple(found[i] for i in n)

def one(): return One(False)
def two(): return Two(True)
def other(): return nn.Linear(3, 3)
def broken(): raise RuntimeError("as it happens")
def resnet(classes=5):
    import torchvision
    return torchvision.models.resnet18(weights=None, num_classes=classes)
def vit():
    import timm
    return timm.create_model("vit_tiny_patch16_224", depth=2, dynamic_img_size=True)
"""


@pytest.fixture
def repository(tmp_path):
    (tmp_path / "hubconf.py").write_text(HUBCONF)
    return tmp_path


@pytest.mark.parametrize("name", ["one", "two", "resnet", "vit"])
def test_a_local_torch_hub_repository_is_adapted_by_what_it_can_do(name, repository):
    encoder = load_encoder(f"hub:{repository}:{name}(layers=[-2, -1], size=64)")
    features = differentiable(encoder, images(60 if encoder.body.multiple > 1 else 64))
    agrees_with_card(encoder, features)
    assert encoder.card.classes == {"resnet": 5, "vit": 1000}.get(name, 0)
    assert load_encoder(f"hub:{repository}:{name}(layers=[-2, -1], size=64)").card.sha256 == encoder.card.sha256


def test_torch_hub_tells_what_is_wrong(repository):
    with pytest.raises(SpecError, match="has no entry 'onee'; did you mean 'one'"):
        hub(f"{repository}:onee")
    with pytest.raises(SpecError, match="no get_intermediate_layers"):
        hub(f"{repository}:other")
    with pytest.raises(WeightsError, match="as it happens"):
        hub(f"{repository}:broken")
    with pytest.raises(WeightsError, match="no hubconf.py"):
        hub(f"{repository / 'nowhere'}:one")
    assert load_encoder(f"hub:{repository}:resnet(options={{'classes': 3}})").card.classes == 3


def tiny_state(classes=0, seed=3):
    torch.manual_seed(seed)
    return Tiny(classes=classes).state_dict()


@pytest.mark.parametrize("suffix", ["safetensors", "npz", "pt", "pth"])
def test_a_file_is_read_in_every_format(suffix, tmp_path):
    state, path = tiny_state(), tmp_path / f"mine.{suffix}"
    if suffix == "safetensors":
        save_file(state, path)
    elif suffix == "npz":
        np.savez(path, **{key: value.numpy() for key, value in state.items()})
    else:
        torch.save(state, path)
    encoder = load_encoder(f"file:{path}(arch='tiny')")
    assert torch.equal(encoder.body.stem[0].weight, state["stem.0.weight"])
    assert encoder.card.name == "mine" and encoder.card.classes == 0
    agrees_with_card(encoder, differentiable(encoder, images(64)))


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda state: {"state_dict": {f"module.{k}": v for k, v in state.items()}, "epoch": 3},
        lambda state: {"model": {f"_orig_mod.backbone.{k}": v for k, v in state.items()}},
        lambda state: {"student": {"x": torch.ones(1)}, "teacher": {f"backbone.{k}": v for k, v in state.items()}},
        lambda state: {"args": argparse.Namespace(lr=0.1), "model": state},
        lambda state: {"state_dict": {"model": state}},
    ],
)
def test_the_state_dict_is_found_under_the_usual_wrappers_and_prefixes(wrapped, tmp_path):
    state = tiny_state()
    torch.save(wrapped(state), tmp_path / "w.pt")
    encoder = file(str(tmp_path / "w.pt"), "tiny")
    assert torch.equal(encoder.body.stages[3].conv2.weight, state["stages.3.conv2.weight"])


def test_heads_are_left_out_and_listed_and_the_query_encoder_wins(tmp_path):
    state, key_encoder = tiny_state(seed=1), tiny_state(seed=2)
    moco = {f"module.encoder_q.{k}": v for k, v in state.items()}
    moco |= {f"module.encoder_k.{k}": v for k, v in key_encoder.items()}
    moco |= {"module.encoder_q.projector.0.weight": torch.ones(2, 2), "module.queue": torch.ones(2, 2)}
    torch.save({"state_dict": moco}, tmp_path / "moco.pth.tar")
    encoder = file(str(tmp_path / "moco.pth.tar"), "tiny")
    assert torch.equal(encoder.body.stem[0].weight, state["stem.0.weight"])
    assert all(word in encoder.card.note for word in ("projector (1)", "queue (1)", "encoder_k ("))
    other = file(str(tmp_path / "moco.pth.tar"), "tiny", prefix="module.encoder_k")
    assert torch.equal(other.body.stem[0].weight, key_encoder["stem.0.weight"])


def test_a_flat_pair_of_networks_gives_the_teacher(tmp_path):
    student, teacher = tiny_state(seed=1), tiny_state(seed=2)
    pair = {f"student.backbone.{k}": v for k, v in student.items()} | {
        f"teacher.backbone.{k}": v for k, v in teacher.items()
    }
    save_file(pair, tmp_path / "pair.safetensors")
    encoder = file(str(tmp_path / "pair.safetensors"), "tiny")
    assert torch.equal(encoder.body.stem[0].weight, teacher["stem.0.weight"])
    assert "another copy, student.backbone" in encoder.card.note


def test_the_classifier_is_read_with_as_many_classes_as_the_file_has(tmp_path):
    save_file(tiny_state(classes=7), tmp_path / "seven.safetensors")
    encoder = file(str(tmp_path / "seven.safetensors"), "tiny")
    assert encoder.card.classes == 7
    assert encoder.classify(encoder(images(64))).shape == (2, 7)


@pytest.mark.parametrize("arch", ["test_resnet", "timm:test_vit", "tv:resnet18"])
def test_a_file_without_its_classifier_has_no_classes_and_no_random_weights(arch, tmp_path):
    torch.manual_seed(5)
    name = arch.partition(":")[2] or arch
    net = create(name)[0] if arch.startswith("tv:") else timm.create_model(name)
    whole, x = tmp_path / "whole.safetensors", images(160, count=1)
    save_file(net.state_dict(), whole)
    full = file(str(whole), arch)
    torch.testing.assert_close(full.classify(full(x)), net.eval()((x - full.mean) / full.std))
    without = {key: value for key, value in net.state_dict().items() if not key.startswith(("fc.", "head."))}
    save_file(without, tmp_path / "without.safetensors")
    bare = file(str(tmp_path / "without.safetensors"), arch)
    assert bare.card.classes == 0 and full.card.classes == 1000
    torch.testing.assert_close(bare(x).pooled, full(x).pooled)
    assert sum(p.numel() for p in bare.parameters()) == sum(
        v.numel() for k, v in without.items() if "running" not in k
    ) - sum(v.numel() for k, v in without.items() if k.endswith("num_batches_tracked"))


def test_keys_that_do_not_fit_are_counted_and_named(tmp_path):
    state = tiny_state()
    del state["stem.0.weight"]
    state["layer9.weight"] = torch.ones(2)
    state["stages.0.conv1.weight"] = torch.ones(2, 2)
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(WeightsError) as error:
        file(str(tmp_path / "w.safetensors"), "tiny")
    text = str(error.value)
    assert "1 of 56 missing, first stem.0.weight" in text.replace(f"of {len(tiny_state())}", "of 56")
    assert "unexpected, first layer9.weight" in text and "1 of" in text
    assert "wrongly shaped, first stages.0.conv1.weight [2, 2] where [16, 16, 3, 3] is wanted" in text
    assert "\n" not in text


def test_a_deeper_networks_weights_are_not_taken_for_heads(tmp_path):
    torch.manual_seed(0)
    deep = timm.create_model("test_vit", depth=8)
    shallow = timm.create_model("test_vit")
    assert len(deep.blocks) > len(shallow.blocks)
    save_file(deep.state_dict(), tmp_path / "deep.safetensors")
    with pytest.raises(WeightsError, match="unexpected, first blocks"):
        file(str(tmp_path / "deep.safetensors"), "test_vit")


class Malicious:
    def __reduce__(self):
        return os.system, (f"touch {Path(Malicious.mark)}",)

    mark = ""


@pytest.mark.parametrize("how", ["torch", "plain"])
def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(how, tmp_path):
    Malicious.mark = str(tmp_path / "ran")
    path = tmp_path / "bad.pt"
    if how == "torch":
        torch.save({"state_dict": tiny_state(), "x": Malicious()}, path)
    else:
        path.write_bytes(pickle.dumps({"x": Malicious()}))
    with pytest.raises(WeightsError, match="would run code.*safetensors") as error:
        load_encoder(f"file:{path}(arch='tiny')")
    assert "\n" not in str(error.value) and not (tmp_path / "ran").exists()


def test_objects_in_npz_are_refused(tmp_path):
    np.savez(tmp_path / "bad.npz", x=np.array([{"a": 1}], dtype=object))
    with pytest.raises(WeightsError, match="cannot be read as .npz"):
        file(str(tmp_path / "bad.npz"), "tiny")


def test_missing_broken_and_empty_files_are_told(tmp_path, monkeypatch):
    monkeypatch.setenv("WEIGHTS_HERE", str(tmp_path))
    with pytest.raises(WeightsError, match=f"there is no file {tmp_path}"):
        load_encoder("file:$WEIGHTS_HERE/none.pt(arch='tiny')")
    for suffix in ("pt", "safetensors", "npz"):
        (tmp_path / f"cut.{suffix}").write_bytes(b"\x80\x02 nothing of use")
        with pytest.raises(WeightsError):
            load_encoder(f"file:$WEIGHTS_HERE/cut.{suffix}(arch='tiny')")
    torch.save({"epoch": 3, "weights_of_mine": {"a": torch.ones(1)}}, tmp_path / "odd.pt")
    with pytest.raises(WeightsError, match=r"key=.*epoch, weights_of_mine"):
        file(str(tmp_path / "odd.pt"), "tiny")
    with pytest.raises(WeightsError, match=r"has no 'a.b'"):
        file(str(tmp_path / "odd.pt"), "tiny", key="a.b")
    with pytest.raises(SpecError, match="no architecture"):
        file(str(tmp_path / "odd.pt"), "quux_unheard_of")


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


@pytest.mark.parametrize("arch", ARCHES)
def test_every_small_architecture_can_be_a_files(arch, tmp_path):
    small = ARCHES[arch]
    net = small.make(small.classes)
    torch.save({"state_dict": net.state_dict()}, tmp_path / "w.th")
    encoder = file(str(tmp_path / "w.th"), arch)
    agrees_with_card(encoder, encoder(images(small.side)))
    assert encoder.card.classes == small.classes and encoder.card.mean == small.mean


def test_the_zoo_lists_names_that_timm_has_with_their_licences():
    rows = {row["name"]: row for row in known()}
    assert {"made_simclr", "made_supervised", "made_deacl"} <= set(rows)
    for row in rows.values():
        assert row["what"] and row["licence"] and ("spec" in row) != ("file" in row)
        if "spec" in row:
            call = complete(row["spec"], "Encoder")
            if call.name == "timm":
                assert call["name"] in timm.list_pretrained(), row
                assert timm.get_pretrained_cfg(call["name"]).license == row["licence"], row


def test_the_zoo_is_listed_without_torch():
    code = (
        "import sys; from hardsight.encoders.zoo import known; assert known() and not {'torch', 'timm'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_zoo_file_is_checked_before_it_is_read(tmp_path, monkeypatch):
    save_file(tiny_state(), tmp_path / "mine.safetensors")
    toml = """
        [mine]
        file = "mine.safetensors"
        arch = "tiny"
        licence = "MIT"
        note = "for a test"
        what = "a test"
        [wrong]
        file = "mine.safetensors"
        arch = "tiny"
        sha256 = "00"
        what = "a test"
        [gone]
        file = "gone.safetensors"
        arch = "tiny"
        what = "a test"
        [other]
        spec = "timm:test_resnet(pretrained=False)"
        what = "a test"
        """
    table = tomllib.loads(textwrap.dedent(toml))
    monkeypatch.setattr(zoo_module, "HERE", tmp_path)
    monkeypatch.setattr(zoo_module, "_table", lambda: table)
    mine = load_encoder("zoo:mine")
    assert (mine.card.name, mine.card.licence, mine.card.source) == ("mine", "MIT", "zoo:mine")
    assert mine.card.note.startswith("for a test") and mine.card.sha256
    assert zoo("other").card.arch == "test_resnet"
    with pytest.raises(WeightsError, match="not the file that zoo.toml lists"):
        zoo("wrong")
    with pytest.raises(WeightsError, match="lacks its weights"):
        zoo("gone")


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


def test_a_size_that_windows_do_not_divide_is_told():
    encoder = load_encoder("timm:halonet26t(pretrained=False)")
    with pytest.raises(SpecError, match="cannot take 72x72"):
        encoder(images(72))
    assert load_encoder("timm:swin_tiny_patch4_window7_224(pretrained=False, size=64)").card.size == 64


def test_a_vit_of_other_heads_is_built_by_options_and_sizes_are_translated(tmp_path):
    torch.manual_seed(0)
    net = timm.create_model("test_vit", num_heads=4)
    x = images(160, count=1)
    save_file({f"module.base_encoder.{k}": v for k, v in net.state_dict().items()}, tmp_path / "moco.safetensors")
    encoder = load_encoder(f"file:{tmp_path}/moco.safetensors(arch='test_vit', options={{'num_heads': 4}})")
    torch.testing.assert_close(encoder.classify(encoder(x)), net.eval()((x - encoder.mean) / encoder.std))
    smaller = load_encoder(f"file:{tmp_path}/moco.safetensors(arch='test_vit', options={{'num_heads': 4}}, size=64)")
    assert smaller(images(64)).dense.shape[-2:] == (4, 4) and smaller.card.size == 64
