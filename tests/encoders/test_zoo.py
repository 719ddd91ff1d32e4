"""The zoo: every entry names an existing architecture of the stated dimension, and files are checked before being read."""

import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

from hardsight.core.errors import SpecError, WeightsError
from hardsight.encoders import load_encoder
from hardsight.encoders import zoo as zoo_module
from hardsight.encoders.architectures import plan_of
from hardsight.encoders.small import Tiny
from hardsight.encoders.zoo import entry, known, zoo
from hardsight.specs.catalog import build, complete
from hardsight.specs.syntax import override
from tests.fixtures.checkpoint_layouts import clip, convnext
from tests.fixtures.encoders import images, one_thread

__all__ = ["one_thread"]


CACHE = "~/.cache/hardsight/"
OTHER_LICENCE = {"clip_vitb16_timm": "apache-2.0", "clip_vitl14_timm": "apache-2.0"}
"""Licences stated by timm for weights whose publisher states another; the entry's note says so."""


def entries_of(source):
    found = [row for row in known() if complete(row.get("spec", "tiny"), "Encoder").name == source]
    return pytest.mark.parametrize("row", found, ids=[row["name"] for row in found])


def test_every_entry_says_what_it_is_and_where_it_is_from():
    rows = {row["name"]: row for row in known()}
    assert {"made_simclr", "made_supervised", "made_deacl", "made_fare"} <= set(rows) and len(rows) >= 50
    for row in rows.values():
        assert row["what"] and row["licence"] and row["dim"] and ("spec" in row) != ("file" in row)
        if "spec" in row:
            call = complete(row["spec"], "Encoder")
            outside = call.name == "file"
            assert outside == ("url" in row) == str(call.get("path", "")).startswith(CACHE), row["name"]
            assert (call.name == "hf") == ("config" in row)
    kind = ("barlowtwins", "byol", "dino", "mocov3", "simclr", "swav", "vicreg")
    assert {f"{name}_resnet50" for name in kind} | {"resnet50_v1", "resnet50_v2", "deacl_resnet18"} <= set(rows)


@entries_of("timm")
def test_timm_has_the_weights_in_that_dimension_under_that_licence(row):
    call = complete(row["spec"], "Encoder")
    assert call["name"] in timm.list_pretrained()
    cfg: Any = timm.get_pretrained_cfg(call["name"])
    assert cfg.license == OTHER_LICENCE.get(row["name"], row["licence"])
    with torch.device("meta"):
        assert timm.create_model(call["name"], pretrained=False).num_features == row["dim"]


@pytest.mark.slow
@entries_of("file")
def test_a_file_of_weights_has_an_architecture_of_its_dimension(row, monkeypatch, tmp_path):
    """A checkpoint with the right shapes is loaded by the entry's spec; the publisher's file is put at the same path."""
    call = complete(row["spec"], "Encoder")
    plan = plan_of(call["arch"], dict(call["options"] or {}), call["size"])
    if row["dim"] >= 768 and "resnet" not in call["arch"]:  # a hundred million weights: only their shapes
        with torch.device("meta"):
            assert plan.make(0).num_features == row["dim"]
        return
    monkeypatch.setenv("HOME", str(tmp_path))
    place = Path(call["path"]).expanduser()
    assert tmp_path in place.parents
    with pytest.raises(WeightsError, match=rf"there is no file .*fetch it from {row['url'][:30]}"):
        load_encoder(f"zoo:{row['name']}")
    place.parent.mkdir(parents=True)
    torch.save({"state_dict": plan.make(0).state_dict()}, place)
    card = load_encoder(f"zoo:{row['name']}").card
    assert card.dim == row["dim"] and card.licence == row["licence"] and card.name == row["name"]
    assert card.mean[0] == {"simclr_resnet50": 0}.get(row["name"], 0.485)
    assert card.size == (32 if "stem" in (call["options"] or {}) else 224)


@pytest.mark.parametrize("name", [row["name"] for row in known() if "/chs20/" in row.get("url", "")])
def test_a_robust_clip_tower_is_read_from_open_clips_file(name, monkeypatch, tmp_path):
    """A miniature with open_clip's names, at the entry's path: the entry's spec gives the network's own features."""
    row = entry(name)
    call = complete(row["spec"], "Encoder")
    monkeypatch.setenv("HOME", str(tmp_path))
    place = Path(call["path"]).expanduser()
    made = convnext(0) if "convnext" in call["arch"] else clip("visual.", "", call["arch"])(0)
    place.parent.mkdir(parents=True)
    save_file({key: value.clone() for key, value in made.stored.items()}, place)
    encoder = build(override(override(call, "options", made.kwargs["options"]), "size", 64), "Encoder")
    assert torch.equal(encoder(images(64)).pooled, made.pooled(images(64)))
    assert encoder.card.mean == pytest.approx(made.mean) and encoder.card.std == pytest.approx(made.std)
    assert row["url"].removeprefix("https://huggingface.co/").split("/")[:2] == list(place.parent.parts[-2:])
    assert row["preprocess"] == f"evaluation(224, {256 if 'convnext' in name else 224}, 'bicubic')"


@entries_of("hf")
def test_transformers_has_the_network_in_that_dimension(row, tmp_path):
    transformers = pytest.importorskip("transformers")
    fields = dict(row["config"])
    config = transformers.AutoConfig.for_model(fields.pop("model_type"), **{**fields, "num_hidden_layers": 1})
    config.save_pretrained(tmp_path)
    card = load_encoder(f"hf:{tmp_path}(pretrained=False)").card
    assert (card.dim, card.stride, card.size) == (row["dim"], fields["patch_size"], fields["image_size"])


@entries_of("tv")
def test_torchvision_has_the_weights(row):
    from torchvision import models

    call = complete(row["spec"], "Encoder")
    assert call["weights"] in [one.name for one in models.get_model_weights(call["name"])]


def test_an_entry_can_be_built_for_another_size_or_enlarge_within():
    plain, large, other = (load_encoder(f"zoo:made_simclr{more}") for more in ("", "(resize=128)", "(layers=[3])"))
    x = images(64)
    assert (plain.card.resize, large.card.resize) == (None, 128) and large.card.sha256 == plain.card.sha256
    assert large(x).size == (64, 64) and large(x).dense.shape[-1] == 2 * plain(x).dense.shape[-1]
    assert other(x).dense.shape[1] == 144 < plain(x).dense.shape[1]
    with pytest.raises(SpecError, match="for 64x64 pixels"):
        load_encoder("zoo:made_simclr(size=32)")


def test_the_zoo_is_listed_without_torch():
    code = (
        "import sys; from hardsight.encoders.zoo import known; assert known() and not {'torch', 'timm'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_zoo_file_is_checked_before_it_is_read(tmp_path, monkeypatch):
    save_file(Tiny().state_dict(), tmp_path / "mine.safetensors")
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
