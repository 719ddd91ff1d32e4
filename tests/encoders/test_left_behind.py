"""Checkpoints as training tools leave them: averaged copies, wrappers in wrappers, and files that hold no weights at all."""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save
from torch.optim.swa_utils import AveragedModel

from hardsight.core.errors import WeightsError
from hardsight.encoders.checkpoint import file
from hardsight.encoders.small import Tiny

State = dict[str, Any]


def net(seed: int) -> Tiny:
    torch.manual_seed(seed)
    return Tiny(classes=5)


RAW, AVERAGE = net(1).state_dict(), net(2).state_dict()
ONE = torch.tensor(3)
SWA = AveragedModel(net(2)).state_dict()


def under(prefix: str, state: State) -> State:
    return {prefix + key: value for key, value in state.items()}


LEFT: dict[str, tuple[State, str]] = {
    "torch's AveragedModel alone": (SWA, "average"),
    "torchvision's references": ({"model": RAW, "model_ema": SWA, "optimizer": {}, "epoch": 3}, "average"),
    "an AveragedModel beside the model": ({"state_dict": RAW, "swa_model": SWA}, "average"),
    "Lightning, compiled, DDP": ({"state_dict": under("model._orig_mod.module.", RAW), "loops": {}}, "raw"),
    "DDP, compiled": (under("_orig_mod.module.", RAW), "raw"),
    "compiled, DDP": (under("module._orig_mod.", RAW), "raw"),
    "blocks compiled one by one": ({key.replace("stages.1.", "stages.1._orig_mod."): v for key, v in RAW.items()}, "raw"),
    "FSDP and activation checkpointing": (
        under(
            "_fsdp_wrapped_module.", {key.replace("s.0.", "s.0._checkpoint_wrapped_module."): v for key, v in RAW.items()}
        ),
        "raw",
    ),
    "DeepSpeed": ({"module": under("module.", RAW), "ds_config": {}, "ds_version": "0"}, "raw"),
    "Lightning with an averaged copy": (
        {"state_dict": {**under("model._orig_mod.", RAW), **under("ema_model._orig_mod.", SWA)}},
        "average",
    ),
    "Lightning's WeightAveraging": (
        {
            "state_dict": under("model.", AVERAGE),
            "current_model_state": under("model.", RAW),
            "averaging_state": {"n_averaged": ONE},
        },
        "average",
    ),
    "mmengine's EMAHook": (
        {"state_dict": AVERAGE, "ema_state_dict": {"steps": ONE, **under("module.", RAW)}, "meta": {}, "message_hub": {}},
        "average",
    ),
    "ema-pytorch": (
        {**under("online_model.", RAW), **under("ema_model.", AVERAGE), "initted": ONE > 0, "step": ONE},
        "average",
    ),
    "model_ema": ({"model": RAW, "model_ema": AVERAGE}, "average"),
    "state_dict_ema": ({"state_dict": RAW, "state_dict_ema": AVERAGE}, "average"),
    "ema, with its own counters": ({"model": RAW, "ema": {"module": AVERAGE, "decay": 0.9, "updates": ONE}}, "average"),
    "model_ema_state_dict": ({"model_state_dict": RAW, "model_ema_state_dict": AVERAGE}, "average"),
}


@pytest.mark.parametrize("tool", LEFT)
def test_each_tools_checkpoint_gives_the_network_that_it_evaluates(tool: str, tmp_path: Path) -> None:
    stored, which = LEFT[tool]
    torch.save(stored, tmp_path / "w.pth")
    found = file(str(tmp_path / "w.pth"), "tiny")
    wanted = RAW if which == "raw" else AVERAGE
    assert all(torch.equal(value, wanted[key]) for key, value in found.body.state_dict().items())
    assert found.card.classes == 5 and "counter" not in found.card.note
    if which == "average" and tool != "torch's AveragedModel alone":
        trained = file(str(tmp_path / "w.pth"), "tiny", network="student") if tool in STUDENTS else None
        assert "its teacher network" in found.card.note
        assert trained is None or torch.equal(trained.body.stem[0].weight, RAW["stem.0.weight"])
        assert trained is None or trained.card.classes == 5


STUDENTS = ("Lightning's WeightAveraging", "mmengine's EMAHook", "ema-pytorch")
"""Those whose trained network has a name of its own."""


def test_a_counter_does_not_hide_a_weight_too_many(tmp_path: Path) -> None:
    torch.save({**RAW, "n_averaged": ONE, "steps": torch.ones(2), "blocks.gain": torch.ones(1)}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"2 of \d+ unexpected: steps, blocks.gain"):
        file(str(tmp_path / "w.pth"), "tiny")


def packed(kind: str) -> bytes:
    buffer = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("run/model.pth", "x")
    else:
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            member = tarfile.TarInfo("run/model.pth")
            member.size = 1
            archive.addfile(member, io.BytesIO(b"x"))
    return buffer.getvalue()


def by_torch(**options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(RAW, buffer, **options)
    return buffer.getvalue()


def by_numpy() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **{key: value.numpy() for key, value in RAW.items()})
    return buffer.getvalue()


NO_WEIGHTS = {
    "a pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d\nsize 102530333\n", "a Git LFS pointer, not the file of 102,530,333 bytes.*git lfs pull"),
    "a page": (b"<!DOCTYPE html>\n<html><head><title>404\nNot Found</title></head></html>", r"a web page \('404 Not Found'\)"),
    "an answer": (b"Entry not found", "text that begins 'Entry not found', not weights"),
    "an index": (b'{"metadata": {}, "weight_map": {"a": "model-00001-of-00002.safetensors"}}', "the index of weights .* hf:FOLDER"),
    "nothing": (b"", r"empty \(0 bytes\)"),
    "zeros": (bytes(5000), "not written to its end: it begins with zeros"),
    "a zip": (packed("zip"), r"a zip archive of files \(run/model.pth\); unpack it"),
    "a tar": (packed("tar"), r"a tar archive of files \(run/model.pth\); unpack it"),
    "gzip": (gzip.compress(packed("tar")), "compressed by gzip; unpack it"),
    "half of torch's": (by_torch()[:-500], "cut off: the end of the archive is missing"),
    "half of safetensors": (save(RAW)[:5000], r"cut off: it has 5,000 of at least [\d,]+ bytes"),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(99), "an HDF5 file"),
}  # fmt: skip


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".npz"])
@pytest.mark.parametrize("what", NO_WEIGHTS)
def test_a_file_without_weights_is_refused_by_what_it_is(what: str, suffix: str, tmp_path: Path) -> None:
    content, message = NO_WEIGHTS[what]
    (tmp_path / f"w{suffix}").write_bytes(content)
    with pytest.raises(WeightsError, match=f"w{suffix} is {message}") as error:
        file(str(tmp_path / f"w{suffix}"), "tiny")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".npz", ".bin", ""])
@pytest.mark.parametrize("form", ["safetensors", "torch", "torch's old", "npz"])
def test_weights_are_read_by_what_they_are_whatever_the_suffix(form: str, suffix: str, tmp_path: Path) -> None:
    old = {"_use_new_zipfile_serialization": False}
    content = {"safetensors": save(RAW), "torch": by_torch(), "torch's old": by_torch(**old), "npz": by_numpy()}[form]
    (tmp_path / f"w{suffix}").write_bytes(content)
    found = file(str(tmp_path / f"w{suffix}"), "tiny")
    assert torch.equal(found.body.stem[0].weight, RAW["stem.0.weight"])
