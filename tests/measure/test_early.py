"""Wrong arguments are refused before torch is imported, and commands don't load what they don't use."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from hardsight.core.errors import DataError, HardsightError, SpecError
from hardsight.data import open_data
from hardsight.encoders import load_encoder
from hardsight.measure.early import check_data, check_encoders, images_for
from hardsight.specs.catalog import entries

COMMANDS = (
    ("bench", "--recipe", "nope"),
    ("bench", "--eps", "abc"),
    ("bench", "--attack", "nope"),
    ("bench", "--encoder", "zoo:nope"),
    ("bench", "--encoder", "run:nope"),
    ("bench", "--encoder", "file:nope.pt(arch=resnet18)"),
    ("bench", "--data", "cifar10:nope"),
    ("bench", "--data", "voc:empty"),
    ("bench", "--data", "pairs('nope/*.png', masks='nope/*.gif')"),
    ("attack", "--encoder", "zoo:made_simclr", "--images", "empty", "--out", "out"),
    ("attack", "--encoder", "zoo:made_simclr", "--images", "texts", "--out", "out"),
    ("attack", "--encoder", "zoo:made_simclr", "--images", ".", "--out", "out"),
    ("speed", "--encoder", "zoo:made_simclr", "--data", "folder:nope"),
    ("pretrain", "--recipe", "nope"),
)
"""Each has one error in its arguments."""
RUN = """
import json, sys, time
from hardsight.cli import main
heavy = ("torch", "torchvision", "timm", "transformers")
for words in json.loads(sys.argv[1]):
    sys.argv = ["hardsight", *words]
    try:
        main()
    except SystemExit as stopped:
        print(json.dumps([stopped.code, [name for name in heavy if name in sys.modules]]))
"""


def answered(code: str, *words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-c", code, *words], cwd=folder, env=env, capture_output=True, text=True, timeout=300, check=True
    )


def test_wrong_arguments_are_refused_without_torch(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "one.txt").write_text("x")
    done = answered(RUN, json.dumps(COMMANDS), folder=tmp_path)
    assert [json.loads(line) for line in done.stdout.splitlines()] == [[2, []]] * len(COMMANDS), done.stderr
    lines = [line for line in done.stderr.splitlines() if "passed over" not in line]
    assert len(lines) == len(COMMANDS) and all(line.startswith("hardsight: ") for line in lines)


@pytest.mark.parametrize(
    "spec", [f"{entry.name}:/nowhere/at/all" for entry in entries().values() if entry.kind == "Data" and entry.parameters[0].name == "root"]
)  # fmt: skip
def test_a_missing_data_folder_is_refused_as_its_reader_refuses_it(spec: str) -> None:
    with pytest.raises(DataError) as early:
        check_data([spec])
    with pytest.raises(DataError, match=re.escape(str(early.value))):
        open_data(spec)


@pytest.mark.parametrize("spec", ["zoo:made_simclx", "run:nowhere", "file:nowhere.pt(arch=resnet18)", "clips(zoo:nope)"])
def test_a_missing_encoder_is_refused_as_when_it_is_loaded(spec: str) -> None:
    with pytest.raises(HardsightError) as early:
        check_encoders([spec])
    with pytest.raises(HardsightError, match=re.escape(str(early.value))):
        load_encoder(spec)


def test_what_is_there_passes(tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(b"x")
    (tmp_path / "run").mkdir()
    check_encoders(["zoo:made_simclr", f"file:{tmp_path}/a.pt(arch=resnet18)", f"run:{tmp_path}/run", "tiny"])
    check_data(["made", "resized(made, 32)", f"cifar10:{tmp_path}"])
    with pytest.raises(SpecError):
        check_encoders(["zoo:nope"])


def test_images_for_wants_images_and_another_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is empty"):
        images_for(tmp_path, tmp_path.parent / "out")
    (tmp_path / "a.png").write_bytes(b"x")
    assert images_for(tmp_path, tmp_path.parent / "out") == [tmp_path / "a.png"]
    with pytest.raises(DataError, match="lies within"):
        images_for(tmp_path, tmp_path / "out")


LOADS = """
import sys
from hardsight.cli import main
sys.argv = ["hardsight", *sys.argv[1:]]
try:
    main()
except SystemExit as stopped:
    assert not stopped.code, stopped.code
import torch
weight = torch.nn.Parameter(torch.ones(3))
step = torch.optim.AdamW([weight], lr=0.1)
weight.sum().backward()
step.step()
names = ("torch._dynamo.eval_frame", "sympy", "wandb.sdk", "transformers")
print([name for name in names if name in sys.modules], weight.tolist(), file=sys.stderr)
double = torch.compile(lambda x: 2 * x, backend="eager")
assert double(torch.ones(2)).tolist() == [2, 2] and "torch._dynamo.eval_frame" in sys.modules
step.step()
import torch._dynamo.config, torch._dynamo.utils
assert torch._dynamo.utils.is_compile_supported("cpu") in (True, False) and torch._dynamo.config.cache_size_limit
"""


def test_a_dry_run_loads_no_compiler_and_the_compiler_works_when_it_is_asked_for(tmp_path: Path) -> None:
    words = (
        "bench",
        "--dry-run",
        "--encoder",
        "timm:vit_tiny_patch16_224(pretrained=False)",
        "--task",
        "classify",
        "--count",
        "4",
    )
    done = answered(LOADS, *words, folder=tmp_path)
    loaded, _, weights = done.stderr.strip().splitlines()[-1].partition("] ")
    assert loaded == "["
    assert weights.startswith("[0.89")  # AdamW's first step of 0.1, with its decay
