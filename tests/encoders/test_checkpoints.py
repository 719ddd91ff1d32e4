"""Checkpoint files: read in every format without running code, loaded strictly, refused with a line that says what to do."""

import argparse
import os
import pickle
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from hardsight.core.errors import SpecError, WeightsError
from hardsight.encoders import load_encoder
from hardsight.encoders.checkpoint import file
from hardsight.encoders.small import ARCHES, Tiny
from hardsight.encoders.tv_models import create
from tests.fixtures.checkpoint_layouts import LAYOUTS
from tests.fixtures.checkpoint_networks import RESNET, network
from tests.fixtures.encoders import agrees_with_card, differentiable, images, one_thread, saved

__all__ = ["one_thread", "saved"]


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
    text, total = str(error.value), len(tiny_state())
    assert f"1 of {total} missing: stem.0.weight;" in text
    assert f"1 of {total} unexpected: layer9.weight;" in text
    assert f"1 of {total} wrongly shaped: stages.0.conv1.weight [2, 2] where [16, 16, 3, 3] is wanted" in text
    assert "\n" not in text


def test_a_deeper_networks_weights_are_not_taken_for_heads(tmp_path):
    torch.manual_seed(0)
    deep = timm.create_model("test_vit", depth=8)
    shallow = timm.create_model("test_vit")
    assert "blocks.7.norm1.weight" in deep.state_dict() and "blocks.6.norm1.weight" not in shallow.state_dict()
    save_file(deep.state_dict(), tmp_path / "deep.safetensors")
    with pytest.raises(WeightsError, match=r"24 of 104 unexpected: blocks.\d.\S+, \S+, \S+, \.\."):
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
    with pytest.raises(WeightsError, match="would run code.*weights_only=False and save its state_dict") as error:
        load_encoder(f"file:{path}(arch='tiny')")
    assert "\n" not in str(error.value) and not (tmp_path / "ran").exists()


def test_objects_in_npz_are_refused(tmp_path):
    np.savez(tmp_path / "bad.npz", x=np.array([{"a": 1}], dtype=object))
    with pytest.raises(WeightsError, match="cannot be read as .npz"):
        file(str(tmp_path / "bad.npz"), "tiny")


def test_missing_broken_and_empty_files_are_reported(tmp_path, monkeypatch):
    monkeypatch.setenv("WEIGHTS_HERE", str(tmp_path))
    with pytest.raises(WeightsError, match=f"there is no file {tmp_path}"):
        load_encoder("file:$WEIGHTS_HERE/none.pt(arch='tiny')")
    for suffix in ("pt", "safetensors", "npz"):
        (tmp_path / f"cut.{suffix}").write_bytes(b"\x80\x02 nothing of use")
        with pytest.raises(WeightsError):
            load_encoder(f"file:$WEIGHTS_HERE/cut.{suffix}(arch='tiny')")
    torch.save({"epoch": 3, "weights_of_mine": {"a": torch.ones(1)}}, tmp_path / "odd.pt")
    with pytest.raises(WeightsError, match=r"under weights_of_mine; give prefix=, key="):
        file(str(tmp_path / "odd.pt"), "tiny")
    torch.save({"epoch": 3, "lr": 0.1}, tmp_path / "none.pt")
    with pytest.raises(WeightsError, match="holds no state dict; it has epoch, lr"):
        file(str(tmp_path / "none.pt"), "tiny")
    with pytest.raises(WeightsError, match=r"has no 'a.b'"):
        file(str(tmp_path / "odd.pt"), "tiny", key="a.b")
    with pytest.raises(SpecError, match="no architecture"):
        file(str(tmp_path / "odd.pt"), "quux_unheard_of")


@pytest.mark.parametrize("arch", ARCHES)
def test_every_small_architecture_can_be_a_files(arch, tmp_path):
    small = ARCHES[arch]
    net = small.make(small.classes)
    torch.save({"state_dict": net.state_dict()}, tmp_path / "w.th")
    encoder = file(str(tmp_path / "w.th"), arch)
    agrees_with_card(encoder, encoder(images(small.side)))
    assert encoder.card.classes == small.classes and encoder.card.mean == small.mean


def test_a_vit_of_other_heads_is_built_by_options_and_sizes_are_translated(tmp_path):
    torch.manual_seed(0)
    net = timm.create_model("test_vit", num_heads=4)
    x = images(160, count=1)
    save_file({f"module.backbone.{k}": v for k, v in net.state_dict().items()}, tmp_path / "moco.safetensors")
    encoder = load_encoder(f"file:{tmp_path}/moco.safetensors(arch='test_vit', options={{'num_heads': 4}})")
    torch.testing.assert_close(encoder.classify(encoder(x)), net.eval()((x - encoder.mean) / encoder.std))
    smaller = load_encoder(f"file:{tmp_path}/moco.safetensors(arch='test_vit', options={{'num_heads': 4}}, size=64)")
    assert smaller(images(64)).dense.shape[-2:] == (4, 4) and smaller.card.size == 64


def test_settings_are_read_as_nothing_and_none_of_their_code_runs(saved, monkeypatch):
    """solo-learn's checkpoints contain omegaconf objects, which `weights_only` refuses although no weight needs them."""
    config: Any = types.ModuleType("omegaconf.dictconfig")
    config.DictConfig = type("DictConfig", (), {"__module__": "omegaconf.dictconfig", "__setstate__": lambda *_: 1 / 0})
    monkeypatch.setitem(sys.modules, "omegaconf", types.ModuleType("omegaconf"))
    monkeypatch.setitem(sys.modules, "omegaconf.dictconfig", config)
    made = LAYOUTS["solo-learn"](0)
    settings: Any = config.DictConfig()
    settings.lr, settings.parent = 0.1, settings
    path = saved(
        {**made.stored, "hyper_parameters": settings, "best": np.float64(0.5), "args": argparse.Namespace(a=Path("x"))}
    )
    assert torch.equal(file(path, **made.kwargs)(images(64)).pooled, made.pooled(images(64)))


def test_whole_networks_and_torchscript_are_refused_with_a_way_out(saved, tmp_path):
    net = network(RESNET, 0)
    with pytest.raises(WeightsError, match=r"an object of timm.models.resnet.ResNet.*save its state_dict\(\)") as error:
        file(saved({"model": net}), **RESNET)
    assert "\n" not in str(error.value)
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), str(tmp_path / "jit.pt"))
    with pytest.raises(WeightsError, match=r"TorchScript archive.*torch.jit.load\(..\).state_dict\(\)"):
        file(str(tmp_path / "jit.pt"), **RESNET)
