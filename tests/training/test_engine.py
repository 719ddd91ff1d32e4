"""The engine: schedules, optimizers, loading of images, checkpoints, guards, logs, what it exports, and what it refuses."""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from hardsight.core.errors import DataError, MissingDependency, SpecError, StoreError, WeightsError
from hardsight.core.progress import Watch
from hardsight.core.when import When
from hardsight.data import open_data
from hardsight.data.feed import load
from hardsight.encoders import load_encoder
from hardsight.probes.linear import fit_probe
from hardsight.specs.catalog import build
from hardsight.tasks.knn import KnnHead
from hardsight.training.engine import loop, watching
from hardsight.training.engine.feed import Kept, Part, batches, order
from hardsight.training.engine.guard import Guard, NotFinite, norm_of, spread_of
from hardsight.training.engine.logs import named
from hardsight.training.engine.recipe import TrainingRecipe, from_dict, read_recipe, recipe_of_run, to_dict
from hardsight.training.engine.state import checkpoints
from hardsight.training.methods.base import Samples
from hardsight.training.methods.supervised import Classifier
from tests.fixtures.training import Killed, Noted, images_in

CPU = torch.device("cpu")
TINY = "tiny(widths=(8, 8, 8, 8))"
PLAIN = "supervised(views(1, scale=(1.0, 1.0), ratio=(1.0, 1.0), jitter=0.0, grey=0.0, flip=False))"
VIT = "timm:test_vit(pretrained=False, size=16)"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return images_in(tmp_path_factory.mktemp("images"))


@pytest.fixture
def recipe(data: str) -> TrainingRecipe:
    return TrainingRecipe("small", TINY, "supervised", data, epochs=2, batch=8, save=1e-9, watch="")


def quiet(recipe: TrainingRecipe, folder: Path, **more: Any) -> Path:
    path = loop.train(recipe, folder, CPU, Watch(quiet=True), **more)
    assert path is not None
    return path


def lines(folder: Path) -> list[dict[str, Any]]:
    timed = ("images_per_second", "seconds", "memory")
    found = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in timed} for line in found]


# Recipes


@pytest.mark.parametrize("name", ["made-simclr", "made-supervised", "made-deacl"])
def test_shipped_recipes_are_read(name: str) -> None:
    assert read_recipe(name).name == name


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("epoch = 3", "no 'epoch'; did you mean 'epochs'"),
        ("lr = 0.1", "write optimizer = 'adamw"),
        ("epochs = 0", "epochs is 0; it must be a whole number of at least 1"),
        ("epochs = 1.5", "epochs is 1.5; it must be a whole number"),
        ("batch = true", "batch is True"),
        ("accumulate = 3", "cannot be divided into 3"),
        ('precision = "half"', "it must be float32 or bf16"),
        ('parallel = "dp"', "it must be ddp or fsdp"),
        ('compile = "yes"', "it must be true or false"),
        ("ema = 1.0", "below 1"),
        ('optimizer = "adam"', "did you mean 'adamw'"),
        ('optimizer = "sgd(rl=1)"', "did you mean 'lr'"),
        ('schedule = "pgd"', "a schedule is wanted here"),
        ('watch = "look"', "there is no watching 'look'"),
        ("method = 3", "needs 'method', a spec"),
        ("epochs = [", "is not TOML"),
    ],
)
def test_recipes_that_cannot_be_meant(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "r.toml"
    rest = ['encoder = "tiny"', 'method = "simclr"', 'data = "made"']
    path.write_text("\n".join([*[one for one in rest if one.split()[0] != line.split()[0]], line]))
    with pytest.raises(SpecError, match=message) as error:
        read_recipe(str(path))
    assert "\n" not in str(error.value)


def test_a_recipe_is_changed_and_written_down(recipe: TrainingRecipe) -> None:
    changed = recipe.with_set("epochs=7").with_set("method=simclr").with_set("method.temperature=0.5")
    changed = changed.with_set("log=tensorboard,wandb").with_set("compile=true").with_set("optimizer.lr=0.5")
    assert (changed.epochs, changed.method, changed.compile) == (7, "simclr(0.5)", True)
    assert changed.log == ("tensorboard", "wandb")
    assert changed.optimizer == "adamw(0.5)"
    assert from_dict(json.loads(json.dumps(to_dict(changed))), "here") == changed
    for wrong in ("epochs", "epoch=3", "epochs.x=3", "method.temprature=1"):
        with pytest.raises(SpecError):
            recipe.with_set(wrong)


# Schedules and optimizers


def at(step: int, steps: int, epochs: int = 10) -> When:
    return When(torch.Generator(), step, steps, step * epochs // steps, epochs)


def test_the_rate_rises_and_falls_by_steps() -> None:
    rate = build("warmup(cosine)", "Schedule")
    rising = 5
    for step in range(100):
        wanted = (step + 1) / rising if step < rising else 0.5 * (1 + math.cos(math.pi * (step - rising) / (100 - rising)))
        assert rate(at(step, 100)) == pytest.approx(wanted, rel=1e-12)
    assert build("warmup(constant(1), epochs=2)", "Schedule")(at(9, 100)) == 0.5
    falls = build("drops((0.5, 0.75))", "Schedule")
    assert [round(falls(at(step, 100)), 6) for step in (0, 49, 50, 74, 75)] == [1, 1, 0.1, 0.1, 0.01]
    with pytest.raises(SpecError, match="shares of the run"):
        build("drops((30, 60))", "Schedule")


def test_lars_is_the_formula_and_spares_biases() -> None:
    """You et al. 2017, equation 6: the step is lr * trust * |w| / |g + decay w| times g + decay w; biases take lr * g."""
    torch.manual_seed(0)
    layer = torch.nn.Linear(5, 3)
    weight, bias = layer.weight.detach().clone(), layer.bias.detach().clone()
    layer(torch.randn(7, 5)).square().sum().backward()
    assert layer.weight.grad is not None and layer.bias.grad is not None
    build("lars(lr=0.4, momentum=0.0, weight_decay=0.01, trust=0.02)", "Optimizer")(layer.parameters()).step()
    update = layer.weight.grad + 0.01 * weight
    assert torch.allclose(layer.weight, weight - 0.4 * 0.02 * weight.norm() / update.norm() * update, atol=1e-6)
    assert torch.allclose(layer.bias, bias - 0.4 * layer.bias.grad)


@pytest.mark.parametrize(("spec", "decays"), [("sgd", [1e-4]), ("adamw(spare=True)", [1e-4, 0.0]), ("lars", [1e-6, 0.0])])
def test_decay_is_on_what_it_should_be(spec: str, decays: list[float]) -> None:
    optimizer = build(spec, "Optimizer")(torch.nn.Linear(2, 2).parameters())
    assert [group["weight_decay"] for group in optimizer.param_groups] == decays


def test_impossible_optimizers() -> None:
    for spec in ("sgd(lr=0.0)", "adamw(weight_decay=-1.0)", "sgd(momentum=0.0, nesterov=True)"):
        with pytest.raises(SpecError):
            build(spec, "Optimizer")


# Images


def test_an_epoch_takes_every_image_once() -> None:
    found = order(50, 8, seed=0, epoch=3)
    assert [len(batch) for batch in found] == [8] * 6
    flat = [place for batch in found for place in batch]
    assert len(set(flat)) == 48 and set(flat) <= set(range(50))
    assert order(50, 8, 0, 3) == found != order(50, 8, 0, 4)


@pytest.mark.parametrize("memory", [2**30, 10])
def test_images_are_read_once_where_they_fit(data: str, memory: int) -> None:
    split, reads = open_data(data).split("train"), []

    class Spied(Part):
        def sample(self, place: int) -> Any:
            reads.append(place)
            return super().sample(place)

        def load(self, places: Any) -> Any:
            reads.extend(places)
            return super().load(places)

    part = Spied(split, [5, 3, 8, 30])
    kept = Kept(part, memory)
    reads.clear()
    for places in ([0, 2], [2, 1], [3, 0, 1, 2]):
        found, wanted = kept.load(places), load(split, [part.places[place] for place in places])
        assert torch.equal(found.images, wanted.images)
        assert torch.equal(found.target["label"], wanted.target["label"])
    assert sorted(reads) == ([0, 1, 2, 3] if memory > 10 else [0, 0, 1, 1, 2, 2, 2, 3])
    kept.close()


def test_batches_come_in_order_and_their_errors_too(data: str) -> None:
    kept = Kept(Part(open_data(data).split("train"), range(36)))
    plan = [[n, 35 - n] for n in range(9)]
    found = list(batches(kept, plan, CPU))
    assert [one.places.tolist() for one in found] == plan
    assert found[0].x.dtype == torch.float32 and float(found[0].x.max()) <= 1

    class Broken(Part):
        def load(self, places: Any) -> Any:
            raise DataError("b/007.png cannot be read")

    with pytest.raises(DataError, match="007"):
        list(batches(Kept(Broken(open_data(data).split("train"), range(4)), memory=0), [[0], [1]], CPU))


# Steps


def test_a_batch_in_parts_is_the_batch(tmp_path: Path, data: str) -> None:
    """Without batch statistics and with views equal to the image: the same weights, up to rounding."""
    one = TrainingRecipe("parts", VIT, PLAIN, data, epochs=1, batch=12, optimizer="sgd(0.05)", watch="")
    whole = load_file(quiet(one, tmp_path / "one"))
    parts = load_file(quiet(replace(one, accumulate=3), tmp_path / "three"))
    assert max(float((whole[key] - parts[key]).abs().max()) for key in whole) < 1e-5
    assert any(not torch.equal(whole[key], parts[key]) for key in whole)


def test_replays_are_steps(tmp_path: Path, recipe: TrainingRecipe) -> None:
    quiet(replace(recipe, method="free(simclr(width=16), replays=3)", every=1), tmp_path)
    found = lines(tmp_path)
    assert [line["step"] for line in found if "epoch" not in line] == list(range(1, 25))
    assert [line["step"] for line in found if "epoch" in line] == [12, 24]
    rates = [line["lr"] for line in found if "epoch" not in line]
    assert rates == sorted(rates, reverse=True) and len(set(rates)) == 23  # the first step is still in the warm-up


def test_clipping_bounds_the_step(tmp_path: Path, recipe: TrainingRecipe) -> None:
    still = replace(
        recipe, encoder=VIT, epochs=1, optimizer="sgd(1.0, momentum=0.0, weight_decay=0.0)", schedule="constant(1)"
    )
    start = {name: value.clone() for name, value in load_encoder(VIT).body.model.named_parameters()}
    moved = load_file(quiet(replace(still, clip=1e-3), tmp_path))
    size = math.sqrt(sum(float((moved[key] - start[key]).square().sum()) for key in start))
    assert 0 < size <= 4 * 1e-3


def test_the_average_is_what_is_exported(tmp_path: Path, recipe: TrainingRecipe) -> None:
    once = replace(recipe, batch=36, epochs=1)
    last = load_file(quiet(once, tmp_path / "last"))
    mean = load_file(quiet(replace(once, ema=0.75), tmp_path / "mean"))
    start = load_encoder(TINY).body.state_dict()
    for key, value in last.items():
        wanted = 0.75 * start[key] + 0.25 * value if key.endswith("weight") else value
        if key.endswith(("weight", "running_mean")):
            assert torch.allclose(mean[key], wanted, atol=1e-6), key


# Stopping and resuming


def test_a_mended_run_has_an_uninterrupted_run_s_log(tmp_path: Path, recipe: TrainingRecipe) -> None:
    watched = replace(recipe, watch="watching(held=4, k=3, attacked=2)", every=1, ema=0.9)
    whole = quiet(watched, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        loop.train(replace(watched, save=0), tmp_path / "broken", CPU, Killed(6))  # three steps after the last checkpoint
    assert len(lines(tmp_path / "broken")) == 8
    resumed = quiet(watched, tmp_path / "broken")
    assert resumed.read_bytes() == whole.read_bytes()
    assert lines(tmp_path / "broken") == lines(tmp_path / "whole")
    assert recipe_of_run(tmp_path / "broken") == watched


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_for_the_batch_and_saves(tmp_path: Path, recipe: TrainingRecipe, number: int) -> None:
    class Asking(Killed):
        def after(self) -> None:
            self.left = 99
            os.kill(os.getpid(), number)

    def handler(*_: object) -> None:
        raise InterruptedError

    before = signal.signal(number, handler)
    try:
        with pytest.raises(InterruptedError):
            loop.train(replace(recipe, save=0), tmp_path, CPU, Asking(1))
        assert signal.getsignal(number) is handler
    finally:
        signal.signal(number, before)
    assert [one.name for one in checkpoints(tmp_path)] == ["step-000000002.pt"]
    assert quiet(replace(recipe, save=0), tmp_path).read_bytes() == quiet(recipe, tmp_path / "whole").read_bytes()


def test_a_run_in_pieces(tmp_path: Path, recipe: TrainingRecipe) -> None:
    pieces = 0
    while loop.train(recipe, tmp_path / "pieces", CPU, Watch(quiet=True), minutes=0) is None:
        pieces += 1
    assert pieces == 7
    assert (tmp_path / "pieces" / "encoder.safetensors").read_bytes() == quiet(recipe, tmp_path / "one").read_bytes()
    assert quiet(recipe, tmp_path / "pieces").exists()  # a finished run is not trained further


def test_checkpoints_and_encoders_that_stay(tmp_path: Path, recipe: TrainingRecipe) -> None:
    quiet(replace(recipe, epochs=4, keep=2, snapshots=2, save=0, watch="watching(held=4, k=3)"), tmp_path)
    assert [one.name for one in checkpoints(tmp_path)] == ["step-000000012.pt", "step-000000016.pt"]
    assert sorted(one.name for one in tmp_path.glob("*.safetensors")) == [
        "best.safetensors", "encoder.safetensors", "epoch-00002.safetensors", "epoch-00004.safetensors",
    ]  # fmt: skip
    last, second = (load_encoder(f"run({str(tmp_path)!r}{more})").card for more in ("", ", epoch=2"))
    assert last.sha256 != second.sha256 == json.loads((tmp_path / "epoch-00002.json").read_text())["sha256"]
    scores = [line["score"] for line in lines(tmp_path) if "score" in line]
    assert json.loads((tmp_path / "best.json").read_text())["score"] == max(scores)
    assert load_encoder(f"run({str(tmp_path)!r}, best=True)").card.source.endswith("(best)")


def test_checkpoints_of_something_else_are_refused(tmp_path: Path, recipe: TrainingRecipe) -> None:
    quiet(replace(recipe, epochs=1), tmp_path)
    with pytest.raises(StoreError, match=r"another recipe: epochs \(1, now 2\); seed \(0, now 1\)"):
        loop.train(replace(recipe, seed=1), tmp_path, CPU, Watch(quiet=True))
    (path,) = checkpoints(tmp_path)
    saved = torch.load(path, weights_only=True)
    torch.save({**saved, "engine": 0}, path)
    with pytest.raises(StoreError, match=f"{path.name} was written by version 0 of the training engine, and this is"):
        quiet(replace(recipe, epochs=1), tmp_path)
    saved["learner"]["classifier.weights"] = saved["learner"].pop("classifier.weight")
    torch.save(saved, path)
    with pytest.raises(StoreError, match=f"{path.name} does not fit this recipe's networks: other code wrote it"):
        quiet(replace(recipe, epochs=1), tmp_path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(StoreError, match=f"cannot read .*{path.name}"):
        quiet(replace(recipe, epochs=1), tmp_path)
    with pytest.raises(StoreError, match="holds no run"):
        recipe_of_run(tmp_path / "nowhere")


# Guards


def broken_at(monkeypatch: pytest.MonkeyPatch, steps: set[int], times: int = 10**9) -> list[int]:
    """From now on supervised training has a NaN loss at these steps, at most `times` times; returns where it was."""
    real, seen = Classifier.read, []

    def read(self: Classifier, views: Any, samples: Samples, when: When) -> Any:
        found = real(self, views, samples, when)
        if when.step in steps and len(seen) < times:
            seen.append(when.step)
            return found._replace(loss=found.loss * math.nan)
        return found

    monkeypatch.setattr(Classifier, "read", read)
    return seen


def test_a_step_that_is_not_finite_is_skipped(
    tmp_path: Path, recipe: TrainingRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = broken_at(monkeypatch, {1, 2, 5})
    weights = load_file(quiet(recipe, tmp_path))
    assert seen == [1, 2, 5] and lines(tmp_path)[-1]["skipped"] == 3
    assert all(value.isfinite().all() for value in weights.values())


def test_three_in_a_row_go_back_with_half_the_rate(
    tmp_path: Path, recipe: TrainingRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    quiet(replace(recipe, every=1), tmp_path / "whole")
    seen = broken_at(monkeypatch, {5, 6, 7}, times=3)
    watch = Noted()
    loop.train(replace(recipe, every=1, save=0), tmp_path / "broken", CPU, watch)
    assert seen == [5, 6, 7]
    assert any("not finite at step 8; back to batch 4, lr halved" in line for line in watch.lines)
    rates, wanted = (
        {line["step"]: line["lr"] for line in lines(tmp_path / name) if "epoch" not in line} for name in ("broken", "whole")
    )
    assert rates[6] == 0.5 * wanted[6] and rates[4] == wanted[4]


def test_a_run_that_stays_broken_stops_and_names_the_step(
    tmp_path: Path, recipe: TrainingRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = broken_at(monkeypatch, set(range(4, 100)))
    with pytest.raises(StoreError, match="not finite at step 7, with the learning rate halved 3 times"):
        quiet(replace(recipe, save=0), tmp_path)
    assert len(seen) == 12


def test_statistics_that_are_not_finite_go_back_at_once() -> None:
    norm = torch.nn.BatchNorm1d(2)
    guard = Guard()
    assert not guard.passes(math.nan, 1.0, norm) and guard.row == 1
    norm(torch.tensor([[math.inf, 0.0], [0.0, 0.0]]))
    with pytest.raises(NotFinite):
        guard.passes(1.0, math.inf, norm)
    assert guard.skipped == 2


def test_collapse_is_reported_with_the_epoch(
    tmp_path: Path, recipe: TrainingRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = torch.Generator().manual_seed(0)
    assert spread_of(torch.randn(500, 64, generator=rng)) == pytest.approx(1, abs=0.02)
    assert spread_of(torch.ones(50, 64) + 1e-4 * torch.randn(50, 64, generator=rng)) < 0.001
    watch = Noted()
    watched = replace(recipe, epochs=1, watch="watching(held=4, k=3, attacked=2)")
    loop.train(watched, tmp_path / "spread", CPU, watch)
    assert not any("collapsed" in line for line in watch.lines)
    constant = "tiny(widths=(8, 8, 8, 8))"
    monkeypatch.setattr(loop, "load_encoder", lambda spec, device: dead(load_encoder(constant)))
    loop.train(watched, tmp_path / "one", CPU, watch)
    assert any("epoch 1: embeddings have collapsed" in line for line in watch.lines)


def dead(encoder: Any) -> Any:
    """The encoder with embeddings that are nearly one constant for all images."""
    real = encoder.body.forward
    encoder.body.forward = lambda pixels, layers: (seen := real(pixels, layers))._replace(pooled=seen.pooled * 1e-6 + 1)
    return encoder


def test_gradients_are_measured_together() -> None:
    layer = torch.nn.Linear(3, 2)
    layer(torch.ones(1, 3)).sum().backward()
    assert norm_of(list(layer.parameters()), 0) == pytest.approx(math.sqrt(8))
    assert norm_of(list(layer.parameters()), 0.1) == pytest.approx(math.sqrt(8))
    assert norm_of(list(layer.parameters()), 0) == pytest.approx(0.1, rel=1e-4)


# Evaluation during training


def test_a_look_is_the_task_s_own_number(data: str) -> None:
    """k-NN accuracy on held-out images equals that of classify(head=knn) fitted on the same training images."""
    opened = open_data(data)
    split, encoder = opened.split("train"), load_encoder(TINY)
    trained, held = Kept(Part(split, range(8, 36))), Kept(Part(split, range(8)))
    what = build("watching(k=5, attacked=8, search=pgd(2))", "Watching")
    found = watching.look(encoder, what, trained, held, opened.card, 0, CPU)
    fitted = fit_probe(encoder, "classify(head='knn', k=5)", replace(opened, splits={"train": trained.part}))
    x = load(held.part, range(8))
    right = fitted.output(x.images.float() / 255).argmax(1) == x.target["label"]
    assert found["knn"] == float(right.float().mean()) > 0.3
    assert found["robust"] <= found["knn"]
    assert found["score"] == (found["knn"] + found["robust"]) / 2
    weak = watching.look(encoder, replace(what, threat=build("linf(0.0)", "Threat")), trained, held, opened.card, 0, CPU)
    assert weak["robust"] == weak["knn"]
    none = watching.look(encoder, what, trained, held, replace(opened.card, classes=()), 0, CPU)
    assert set(none) == {"spread", "firm"} and none["firm"] < 1


def test_voters_are_of_every_class(data: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder's images are sorted by class: the first ones would all be of one class."""
    voted: list[int] = []

    class Spied(KnnHead):
        def fill(self, pooled: torch.Tensor, label: torch.Tensor) -> None:
            voted.extend(label.tolist())
            super().fill(pooled, label)

    monkeypatch.setattr(watching, "KnnHead", Spied)
    opened = open_data(data)
    trained, held = (Kept(Part(opened.split("train"), places)) for places in (range(36), range(4)))
    what = build("watching(bank=6, k=2, attacked=1)", "Watching")
    watching.look(load_encoder(TINY), what, trained, held, opened.card, 0, CPU)
    assert sorted(voted) == [0, 0, 1, 1, 2, 2]


def test_what_is_held_out_is_never_trained_on(
    tmp_path: Path, recipe: TrainingRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = []

    class Spied(Kept):
        def __init__(self, part: Part, *rest: Any) -> None:
            super().__init__(part, *rest)
            parts.append(part)

    monkeypatch.setattr(loop, "Kept", Spied)
    quiet(replace(recipe, epochs=1, watch="watching(held=4, k=3)"), tmp_path)
    trained, held = parts
    assert trained.images is held.images and len(held) == 4 and len(trained) == 32
    assert not set(trained.places) & set(held.places)


def test_fewer_images(tmp_path: Path, recipe: TrainingRecipe) -> None:
    quiet(replace(recipe, images=16), tmp_path)
    assert lines(tmp_path)[-1]["step"] == 4


# Export


def test_a_run_is_an_encoder_with_a_card(tmp_path: Path, recipe: TrainingRecipe) -> None:
    path = quiet(recipe, tmp_path / "a")
    encoder = load_encoder(f"run:{tmp_path / 'a'}")
    card = json.loads((tmp_path / "a" / "encoder.json").read_text())
    assert card["sha256"] == encoder.card.sha256 != load_encoder(TINY).card.sha256
    assert (card["name"], card["arch"], card["dim"], card["epoch"], card["step"]) == ("small", "tiny", 8, 2, 8)
    assert card["recipe"]["method"] == "supervised" and "licence" in card["licence_note"]
    assert encoder.card.name == "small" and "supervised" in encoder.card.note
    again = quiet(replace(recipe, encoder=f"run:{tmp_path / 'a'}", epochs=1), tmp_path / "b")
    assert load_encoder(f"run:{tmp_path / 'b'}").card.sha256 != encoder.card.sha256 and again.exists()
    assert load_encoder(f"run({str(tmp_path / 'a')!r}, layers=(0,))").dense_layers == (0,)
    with pytest.raises(WeightsError, match="there is no run"):
        load_encoder("run:nowhere")
    with pytest.raises(WeightsError, match=r"holds no best.safetensors \(it has: encoder.safetensors\)"):
        load_encoder(f"run({str(tmp_path / 'a')!r}, best=True)")
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(WeightsError, match="is not the file of its card"):
        load_encoder(f"run:{tmp_path / 'a'}")


def test_a_timm_model_goes_back_to_timm(tmp_path: Path, recipe: TrainingRecipe) -> None:
    import timm

    spec = "timm:test_resnet(pretrained=False)"
    path = quiet(replace(recipe, encoder=spec, epochs=1), tmp_path)
    model = timm.create_model("test_resnet", checkpoint_path=str(path)).eval()
    ours = load_encoder(f"run:{tmp_path}")
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        wanted = ours(x).pooled
        found = model.forward_head(model.forward_features((x - ours.mean) / ours.std), pre_logits=True)
    assert torch.equal(found, wanted)
    assert not torch.equal(load_encoder(spec)(x).pooled, wanted)
    assert load_encoder(f"file({str(path)!r}, arch='test_resnet')").card.sha256 == ours.card.sha256


# Logs


def test_logs_by_name(tmp_path: Path, recipe: TrainingRecipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hardsight.training.engine.logs._installed", lambda name: name != "mlflow")
    assert named(("auto", "wandb")) == ["tensorboard", "wandb"]
    with pytest.raises(MissingDependency, match=r"pip install 'hardsight\[mlflow\]'"):
        quiet(replace(recipe, log=("mlflow",)), tmp_path)
    with pytest.raises(SpecError, match="no log 'tensorbord'; did you mean 'tensorboard'"):
        quiet(replace(recipe, log=("tensorbord",)), tmp_path)
    assert not any(tmp_path.iterdir())
    monkeypatch.setattr("hardsight.training.engine.logs._installed", lambda name: False)
    assert named(("auto",)) == []


def test_what_trackers_receive(tmp_path: Path, recipe: TrainingRecipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand-ins with the trackers' own signatures: each gets every number of the file, and a resumed run is the same run."""
    received: dict[str, list[Any]] = {"wandb": [], "mlflow": [], "tensorboard": []}

    class Run:
        id = "w1"
        info = types.SimpleNamespace(run_id="m1")

        def log(self, numbers: dict[str, float], step: int) -> None:
            received["wandb"].append((step, numbers))

        def finish(self) -> None:
            received["wandb"].append("end")

    class SummaryWriter:
        def __init__(self, log_dir: str, purge_step: int) -> None:
            received["tensorboard"].append(purge_step)

        def add_text(self, *_: Any) -> None: ...

        def add_scalar(self, name: str, value: float, step: int) -> None:
            received["tensorboard"].append((step, name, value))

        def close(self) -> None:
            received["tensorboard"].append("end")

    started: list[Any] = []
    wandb: Any = types.ModuleType("wandb")
    wandb.init = lambda **given: started.append(given["id"]) or Run()
    mlflow: Any = types.ModuleType("mlflow")
    mlflow.start_run = lambda run_id, run_name: started.append(run_id) or Run()
    mlflow.log_params = lambda given: received["mlflow"].append(given["epochs"])
    mlflow.log_metrics = lambda numbers, step: received["mlflow"].append((step, numbers))
    mlflow.end_run = lambda: received["mlflow"].append("end")
    board: Any = types.ModuleType("torch.utils.tensorboard")
    board.SummaryWriter = SummaryWriter
    for name, module in (("wandb", wandb), ("mlflow", mlflow), ("torch.utils.tensorboard", board)):
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr("hardsight.training.engine.logs._installed", lambda name: True)
    with pytest.raises(KeyboardInterrupt):
        loop.train(replace(recipe, log=("auto", "wandb", "mlflow")), tmp_path, CPU, Killed(5))
    quiet(replace(recipe, log=("auto", "wandb", "mlflow")), tmp_path)
    assert started == [None, None, "w1", "m1"]
    wanted = [line["step"] for line in lines(tmp_path)]
    assert [one[0] for one in received["wandb"] if one != "end"] == wanted == [4, 8]
    assert received["mlflow"][0] == 2 and [one[0] for one in received["mlflow"] if isinstance(one, tuple)] == wanted
    assert {one[:2] for one in received["tensorboard"] if isinstance(one, tuple)} >= {(4, "loss"), (8, "accuracy")}
    assert received["tensorboard"][0] == 1 and received["tensorboard"][-1] == "end"


def test_a_tracker_that_cannot_write_is_reported_with_its_own_message(
    tmp_path: Path, recipe: TrainingRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = []

    def refuse(folder: Path, recipe: TrainingRecipe, step: int) -> Any:
        raise RuntimeError("no such server")

    fine = types.SimpleNamespace(close=lambda: closed.append(1))
    monkeypatch.setattr("hardsight.training.engine.logs.KNOWN", {"wandb": lambda *_: fine, "mlflow": refuse})
    monkeypatch.setattr("hardsight.training.engine.logs._installed", lambda name: True)
    with pytest.raises(StoreError, match="the log 'mlflow' could not be opened: no such server; leave it out"):
        quiet(replace(recipe, log=("wandb", "mlflow")), tmp_path)
    assert closed == [1]
    assert recipe.with_set("log=").log == ()


# Refusals


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch": 40}, "small: batch is 40, and .* has only 36 training images$"),
        ({"batch": 34, "watch": "watching(held=4)"}, "only 36 training images, 4 of them held out"),
        ({"batch": 1}, "BatchNorm2d needs the statistics of a batch, and one image has none"),
        ({"batch": 4, "accumulate": 4}, "one image has none"),
        ({"method": "free(simclr(width=16))", "accumulate": 2}, "replays each batch"),
    ],
)
def test_runs_that_cannot_be(tmp_path: Path, recipe: TrainingRecipe, change: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        quiet(replace(recipe, **change), tmp_path)
    assert not any(tmp_path.iterdir())


def test_a_batch_of_one_without_statistics_trains(tmp_path: Path, recipe: TrainingRecipe) -> None:
    quiet(replace(recipe, encoder=VIT, batch=1, images=2, epochs=1), tmp_path)


def test_compiled_and_channels_last_and_half_train(tmp_path: Path, recipe: TrainingRecipe) -> None:
    path = quiet(replace(recipe, epochs=1, channels_last=True, precision="bf16"), tmp_path)
    assert all(value.isfinite().all() for value in load_file(path).values())


def test_training_leaves_the_process_as_it_was(tmp_path: Path, recipe: TrainingRecipe) -> None:
    torch.manual_seed(5)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    quiet(replace(recipe, epochs=1, threads=1), tmp_path)
    assert torch.equal(torch.get_rng_state(), state) and torch.get_num_threads() == threads
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
