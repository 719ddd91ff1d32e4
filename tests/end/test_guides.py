"""Every guide of the documentation runs, from its own text, on miniatures of data in their original layouts.

A page's blocks run in order, in one empty folder: `sh` as commands, `python` as one program, a block with a title is written to
that file. `text` is what a command prints. `console` is not run: it may only install, start what takes hours, or need several GPUs.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from hardsight.encoders.architectures import plan_of
from hardsight.specs.study_file import shipped
from tests.end.test_bench import inside
from tests.fixtures import miniatures

pytestmark = pytest.mark.slow
DOCS = Path(__file__).parents[2] / "docs"
PAGES = [DOCS / "start.md", *sorted((DOCS / "guides").glob("*.md"))]
LANGUAGES = ("sh", "python", "toml", "text", "console")
BLOCK = re.compile(r"^```(\w*)(?: title=\"([^\"]+)\")?\n(.*?)^```$", re.DOTALL | re.MULTILINE)
NOT_RUN = r"(CIFAR10=\S+ )?hardsight study (?P<study>\S+)|pip install uv|uv sync && source \S+|torchrun .*"


def my_encoder(place: Path) -> None:
    import timm

    network = timm.create_model("resnet18", pretrained=False, num_classes=0)
    torch.save(
        {"model": {f"module.{name}": value for name, value in network.state_dict().items()}}, place / "my_encoder.pth"
    )
    miniatures.folder(place / "flowers")


def reproduce(place: Path) -> None:
    torch.save(plan_of("resnet20", {}, None).make(10).state_dict(), place / "resnet20.th")
    miniatures.cifar10(place / "cifar10")


NEEDS: dict[str, Callable[[Path], None]] = {"my_encoder": my_encoder, "reproduce": reproduce}


def blocks(page: Path) -> list[tuple[str, str, str]]:
    """(language, title, text) of every fenced block."""
    return BLOCK.findall(page.read_text(encoding="utf-8"))


def commands(text: str) -> Iterator[str]:
    """The commands of a block, those over several lines as one."""
    for line in text.replace("\\\n", " ").splitlines():
        if line.strip() and not line.startswith("#"):
            yield line.strip()


def smaller(words: list[str]) -> list[str]:
    """A `bench` with fewer images to measure, to audit and to train heads on; any other command as it is."""
    if words[0] != "bench" or "--protocol" in words:
        return words
    words = [str(min(int(word), 8)) if before == "--count" else word for before, word in pairwise(["", *words])]
    audit = [] if any(word.startswith("audit=") for word in words) else ["--set", "audit=2"]
    return [*words, *audit, "--set", "probe.images=48"]


def run(command: str) -> None:
    """One command: in this process if it is hardsight's alone, else by a shell that finds the same hardsight."""
    words = shlex.split(command)
    if words[0] == "hardsight" and not set(words) & {"|", "&&", "||", ">", "&"}:
        done = inside(*smaller(words[1:]))
    else:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        shell = ["bash", "-euo", "pipefail", "-c", command]
        done = subprocess.run(shell, capture_output=True, text=True, check=False, env={**os.environ, "PATH": path})
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_it_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    NEEDS.get(page.stem, lambda _: None)(tmp_path)
    names: dict[str, Any] = {"__name__": "guide"}
    ran = 0
    for language, title, text in blocks(page):
        assert language in LANGUAGES, f"{page.name}: a block of '{language}'"
        if title:
            Path(title).write_text(text, encoding="utf-8")
        elif language == "python":
            exec(compile(text, str(page), "exec"), names)
        elif language == "sh":
            for command in commands(text):
                run(command)
        ran += language in ("python", "sh")
    assert ran >= 2


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_what_is_not_run_is_an_installation_or_a_known_study(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert text.count("```") == 2 * len(blocks(page))
    for command in (one for language, _, block in blocks(page) if language == "console" for one in commands(block)):
        found = re.fullmatch(NOT_RUN, command)
        assert found, command
        assert found["study"] is None or found["study"] in shipped()


@pytest.mark.parametrize("page", [*PAGES, DOCS.parent / "README.md", DOCS / "cite.md"], ids=lambda page: page.stem)
def test_its_links_lead_to_files_of_the_repository(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        assert link.startswith("https://") or (page.parent / link).exists(), link
