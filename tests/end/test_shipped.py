"""What is shipped runs: every recipe, every study, and every `hardsight` line of README and docs, on miniatures, for a few steps.

The lines are read from the files themselves, so a new recipe or line is run without anybody adding it here. What is made smaller:
counts, steps and epochs; pretrained weights of the network, which are not on this machine, become random ones.
"""

from __future__ import annotations

import contextlib
import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hardsight.core.errors import HardsightError
from hardsight.encoders.architectures import plan_of
from hardsight.measure.study import run as run_study
from hardsight.report.study_reading import resolve
from hardsight.specs import study_file as studies
from hardsight.specs.recipe import SHIPPED, load
from tests.end.test_bench import inside
from tests.fixtures import miniatures

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
RECIPES = sorted(SHIPPED.glob("*.toml"))
TRAINING = [path for path in RECIPES if re.search("^method = ", path.read_text(), re.MULTILINE)]
MEASURING = [path for path in RECIPES if path not in TRAINING] + sorted((ROOT / "benchmarks" / "results").glob("*.toml"))
STUDIES = sorted(studies.shipped().values())
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SMALLER = {  # pretrained weights that only the network has
    "timm:vit_base_patch16_224.dino": "timm:test_vit(pretrained=False)",
    "timm:vit_small_patch14_dinov2.lvd142m": "timm:test_vit(pretrained=False)",
    "timm:resnet50.tv_in1k": "timm:test_resnet(pretrained=False)",
    "zoo:dinov2_vits14": "timm:test_vit(pretrained=False)",
}
FEW = [part for one in ("epochs=1", "images=24", "batch=12") for part in ("--set", one)]
LESS = [part for one in ("epochs=1", "images=2", "batch=2") for part in ("--set", one)]
"""For methods with many crops of each image."""
DATA = {"cifar10": miniatures.cifar10, "camvid": miniatures.camvid, "coco": miniatures.coco, "imagenet": miniatures.imagenet}


def lines() -> list[str]:
    """Every `hardsight` command in a block of shell commands, on one line, without its comment; once each."""
    found = []
    for page in PAGES:
        for block in re.findall(r"```sh\n(.*?)```", page.read_text(), re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                line = re.sub(r"\s#.*|;\s*done\b.*", "", line.strip()).removeprefix("pip install uv && uv run ")
                if re.match(r"(\w+=\S+ )*hardsight ", line):
                    found.append(" ".join(line.split()))
    return list(dict.fromkeys(found))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, with the environment variables that recipes use."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CIFAR10", str(miniatures.cifar10(tmp_path / "data" / "cifar10")))
    monkeypatch.setenv("CIFAR100", str(miniatures.cifar100(tmp_path / "data" / "cifar100")))
    monkeypatch.setenv("IMAGENET", str(miniatures.imagenet(tmp_path / "data" / "imagenet")))
    return tmp_path


def run(*words: str) -> None:
    done = inside(*words)
    assert done.returncode == 0, f"hardsight {shlex.join(words)}\n{done.stderr}"


def few_steps(words: list[str]) -> list[str]:
    """The options that make a `bench` of these words small."""
    recipe = load(words[words.index("--recipe") + 1] if "--recipe" in words else "made")
    for word in words:
        recipe = recipe.with_set(word) if word.startswith("probe=") else recipe
    if attacks := [words[at + 1] for at, word in enumerate(words) if word == "--attack"]:
        recipe = replace(recipe, attacks=tuple(attacks))
    more = ["chunk=2", "audit=0", "gallery=1", "probe.epochs=1", "probe.images=24", "probe.batch=8"]
    with contextlib.suppress(HardsightError):  # if none of its attacks takes a number of steps
        recipe.with_set("attacks.steps=3")
        more.append("attacks.steps=3")
    if "--recipe" not in words and "--eps" not in words:
        words = [*words, "--eps", "8/255"]
    return [*words, "--count", "2", *(part for one in more for part in ("--set", one))]


@pytest.mark.parametrize("recipe", MEASURING, ids=lambda path: path.stem)
def test_a_recipe_measures(recipe: Path, place: Path, request: pytest.FixtureRequest) -> None:
    if "$HARDSIGHT_DATA" in recipe.read_text():
        request.getfixturevalue("real_data")
    run(*few_steps(["bench", "--recipe", str(recipe), "--store", "store"]))
    assert list(place.glob("store/cells/*/done.json")) and (place / "store" / "report.html").exists()


@pytest.mark.parametrize("recipe", TRAINING, ids=lambda path: path.stem)
def test_a_recipe_trains(recipe: Path, place: Path) -> None:
    text = recipe.read_text()
    for old, new in SMALLER.items():
        text = text.replace(f'"{old}"', f'"{new}"')
    (place / recipe.name).write_text(text)
    verb = "harden" if "hardsight harden" in text else "pretrain"
    run(
        verb,
        "--recipe",
        str(place / recipe.name),
        "--out",
        "run",
        *(LESS if "emp" in recipe.stem or "cf-amc" in recipe.stem else FEW),
    )
    assert (place / "run" / "encoder.safetensors").exists()


@pytest.mark.parametrize("file", STUDIES, ids=lambda path: path.stem)
def test_a_study_compares(file: Path, place: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    if "$HARDSIGHT_DATA" in file.read_text():
        request.getfixturevalue("real_data")
    monkeypatch.setenv("CIFAR10", str(miniatures.folder(place / "data" / "classes")))
    study = studies.read_study(file)
    for one in ("count=2", "chunk=2", "gallery=0", "probe.epochs=1", "probe.images=24", "probe.batch=8"):
        study = study.with_set(f"measure.{one}")
    if study.paper == "paper 002":  # the findings of the others name their attacks with the number of steps
        study = study.with_set("measure.attacks.steps=2")
    geometry = study.geometry and replace(study.geometry, count=8, probe="probe(images=24, epochs=1)")
    batch = 6 if "$CIFAR100" in file.read_text() else 12  # no more than the miniature has
    few = ("images=24", f"batch={batch}", "epochs=1")
    arms = tuple(replace(arm, set=(*arm.set, *few)) if arm.recipe else arm for arm in study.arms)
    found = run_study(replace(study, seeds=1, arms=arms, geometry=geometry), place / "study")
    assert found and (place / "study" / "table.md").read_text()
    for name in study.figures:
        if not name.endswith(", minimal"):  # of images that are classified correctly, of which a miniature may have none
            resolve(name, found)  # each exists; on a miniature it may be a ratio to an accuracy of 0


@pytest.mark.parametrize("line", lines())
def test_a_line_of_the_documents_runs(line: str, place: Path, request: pytest.FixtureRequest) -> None:
    words = [word for word in shlex.split(line) if not re.fullmatch(r"[A-Z0-9_]+=.*", word)][1:]
    if words == ["bench"]:  # the recipe `made`
        return
    if words[0] == "study":
        assert words[1] in studies.shipped(), "a study that the tests above run"
        return
    if "--recipe" in words and words[0] == "bench":
        assert ROOT / words[words.index("--recipe") + 1] in MEASURING, "a recipe that the tests above run"
        return
    begins = words[0] in ("board", "compare", "report", "resume") or (words[0] == "export" and "runs/made" in words)
    if begins or any(word.startswith("run:") for word in words):
        request.getfixturevalue("begun")(words)
    for name, make in DATA.items():
        for at, word in enumerate(words):
            if f"{name}:PATH" in word:
                make(place / "PATH" / name)
                words[at] = word.replace("PATH", str(place / "PATH" / name))
    words = [SMALLER.get(word, word) for word in words]
    if "file:resnet20.th(arch=resnet20)" in words:
        torch.save(plan_of("resnet20", {}, None).make(10).state_dict(), "resnet20.th")
    if "--images" in words:
        for number in range(2):
            miniatures.jpeg(Path("photos") / f"{number}.jpg", 3 * number)
    if words[0] == "bench":
        words = few_steps(words)
    if words[0] in ("pretrain", "harden"):
        words += LESS if "cf-amc-ssl-cifar10-small" in words else FEW
    if words[0] == "geometry":
        words += ["--count", "8"]
    if words[0] == "list":
        words = words[:2]
    run(*words)


@pytest.fixture
def begun(place: Path):
    """Makes the run or the store that a line continues, as the line before it in the documents does."""

    def make(words: list[str]) -> None:
        if words[0] in ("board", "compare"):
            of_one = "--store" in words
            stores = [words[words.index("--store") + 1]] if of_one else [word for word in words if word.startswith("runs/")]
            encoders = [f"zoo:{name}" for name in words[1:3]] if of_one else ["tiny"]
            chosen = [part for encoder in encoders for part in ("--encoder", encoder)]
            for store in stores:
                run(*few_steps(["bench", *chosen, "--task", "classify", "--attack", "clean"]), "--store", store)
        elif words[0] in ("report", "export"):
            encoder, store = (words[1], "runs/made") if ":" in words[1] else ("tiny", words[1])
            run(*few_steps(["bench", "--encoder", encoder, "--task", "classify", "--attack", "clean"]), "--store", store)
        else:
            run("pretrain", "--recipe", "cf-amc-ssl-cifar10-small", *LESS)

    return make
