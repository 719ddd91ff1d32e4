"""One training run, from a recipe to an encoder's weights; if it is killed, it resumes from its last checkpoint.

A step's random numbers derive only from the seed and the step, an epoch's order from the seed and the epoch, so a resumed
run equals an uninterrupted one. Before a run stops, it finishes the current batch with all its replays, then saves.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from hardsight.core import seeds
from hardsight.core.errors import SpecError, StoreError
from hardsight.core.progress import Bar, Watch
from hardsight.core.when import When
from hardsight.data.base import DataCard
from hardsight.data.feed import choose
from hardsight.encoders import load_encoder
from hardsight.encoders.base import Encoder
from hardsight.encoders.runs import BEST, LAST, snapshot
from hardsight.specs.catalog import build
from hardsight.specs.schedules import Schedule
from hardsight.store.files import write_json
from hardsight.training.engine import logs, parallel, state
from hardsight.training.engine.decoding import Decoder, is_unlike, open_training, pictures, workers_for
from hardsight.training.engine.export import write_encoder
from hardsight.training.engine.feed import Kept, Part, batches, order
from hardsight.training.engine.guard import BACK_OFFS, COLLAPSED, NotFinite, device_memory, norm_of
from hardsight.training.engine.needs import in_channels_last, need_batch, need_fitting
from hardsight.training.engine.parallel import Forward, Group
from hardsight.training.engine.recipe import TrainingRecipe, need_same, to_dict
from hardsight.training.engine.settle import Asked, patient, settings
from hardsight.training.engine.state import Training
from hardsight.training.engine.watching import Watching, look
from hardsight.training.engine.window import EVERY, Taken, Window, finite, numbers, wide
from hardsight.training.methods.base import Samples


@torch.inference_mode(False)  # gradients are recorded, also where the caller has switched that off
def train(
    recipe: TrainingRecipe, folder: Path, device: torch.device, watch: Watch, minutes: float | None = None
) -> Path | None:
    """Trains, or resumes from the last checkpoint in `folder`; returns the path of the encoder's safetensors file.

    minutes: after this time the run is saved and left, and None is returned. On Ctrl-C, SIGTERM and SIGUSR2, in any of the
    processes, the current batch is finished, the run is saved, and then the signal takes effect in all. Raises `StoreError`
    where the folder holds another run, and where the loss stays non-finite; `ProcessLost` where another process has ended.
    """
    recipe.check(recipe.name)
    logs.named(recipe.log)
    with parallel.joined(device) as group, settings(recipe, group), patient(minutes) as asked:
        run = begin(recipe, folder, group, watch)
        try:
            finished = run.go(asked)
        finally:
            run.close()
        asked.agree(group)
        if asked.signal is not None:
            asked.obey()
        if not finished:
            return None
        return run.export(LAST)


@dataclass
class Run:
    """The state of an active run; `training` is the part that a checkpoint stores. rate: a factor on the lr.

    decoder: of pictures of unlike sizes; None where all images have one size.
    """

    training: Training
    forward: Forward
    trained: Kept
    held: Kept | None
    watching: Watching | None
    rate: Schedule
    card: DataCard
    folder: Path
    watch: Watch
    weights: list[nn.Parameter]
    lrs: list[float]
    window: Window
    decoder: Decoder | None = None
    logs: list[logs.Log] = field(default_factory=list)
    saved: float = 0.0

    @property
    def recipe(self) -> TrainingRecipe:
        return self.training.recipe

    @property
    def per_epoch(self) -> int:
        return len(self.trained.part) // self.recipe.batch

    @property
    def encoder(self) -> Encoder:
        """The exported encoder."""
        return self.training.average or self.training.learner.encoder

    def go(self, asked: Asked) -> bool:
        """Whether all epochs are done; False where the run was asked to stop."""
        whole = self.recipe.epochs * self.per_epoch
        with self.watch, self.watch.bar(self.recipe.name, whole, self.training.batches) as bar:
            while self.training.batches < whole:
                epoch = self.training.batches // self.per_epoch
                try:
                    if not self._epoch(epoch, bar, asked) and self.training.batches < whole:
                        return False
                except NotFinite:
                    before = self.training.batches
                    self._back_off()
                    bar.advance(self.training.batches - before)
        return True

    def _epoch(self, epoch: int, bar: Bar, asked: Asked) -> bool:
        training, recipe = self.training, self.recipe
        training.learner.train()
        first = training.batches - epoch * self.per_epoch
        for parts in self.batches(epoch, first):
            started = time.perf_counter()
            self.batch(parts, epoch)
            training.seconds += time.perf_counter() - started
            bar.advance(1, recipe.batch)
            bar.say(
                f"{recipe.name} epoch {epoch + 1}/{recipe.epochs}, loss {training.means()['loss']:.3f}, "
                f"{device_memory(training.group.device):,.0f} MiB"
                if training.totals
                else recipe.name
            )
            if training.batches % self.per_epoch and not self.window.batches and self._saves(asked):
                return False
        self._end_of(epoch)
        return not self._stops(asked)

    def batches(self, epoch: int, first: int) -> Iterator[list[Samples]]:
        """The epoch's batches from the first one that is not done, each as a list of its parts."""
        recipe, group = self.recipe, self.training.group
        size = recipe.batch // recipe.accumulate
        plan = enumerate(
            order(len(self.trained.part), recipe.batch, recipe.seed, epoch)[first:], epoch * self.per_epoch + first
        )
        shares = ((n, group.share(b[start : start + size])) for n, b in plan for start in range(0, len(b), size))
        parts: list[Samples] = []
        if self.decoder is None:
            found = batches(self.trained, (places for _, places in shares), group.device)
        else:
            found = pictures(self.decoder, shares, group.device, workers_for(recipe.workers, group.world))
        for samples in found:
            parts.append(samples)
            if len(parts) == recipe.accumulate:
                yield parts
                parts = []

    def batch(self, parts: list[Samples], epoch: int) -> None:
        """All steps on one batch; where the host need not ask at each, it reads their numbers after `EVERY` batches."""
        window = self.window
        if not window.asks:
            window.before = window.before if window.batches else state.copied(self.training)
            window.batches.append((parts, epoch))
        for replay in range(self.training.learner.replays):
            self.step(parts, epoch, replay)
        self.training.batches += 1
        if len(window.batches) == EVERY:
            self.settle()

    def settle(self) -> None:
        """Reads the numbers of the steps since the last time; if one was not finite, runs their batches again, one by one."""
        window, training = self.window, self.training
        (taken, window.taken), (batches, window.batches) = (window.taken, []), (window.batches, [])
        found = numbers(taken, training.group.world)
        if window.asks or all(finite(one) for one in found):
            for one, values in zip(taken, found, strict=True):
                self._record(one, values)
            return
        state.restore(training, window.before)
        window.asks = True
        try:
            for parts, epoch in batches:
                self.batch(parts, epoch)
        finally:
            window.asks = False

    def step(self, parts: list[Samples], epoch: int, replay: int) -> None:
        training, recipe, group = self.training, self.recipe, self.training.group
        learner, optimizer = training.learner, training.optimizer
        step = training.batches * learner.replays + replay
        steps = recipe.epochs * self.per_epoch * learner.replays
        torch.manual_seed(seeds.seed_of("step", recipe.seed, step, group.rank))  # dropout has no generator argument
        optimizer.zero_grad(set_to_none=True)
        loss, found, keep, when = 0.0, None, None, None
        for place, samples in enumerate(parts):
            rng = seeds.generator("step", recipe.seed, step, place)
            when = When(rng, step, steps, epoch, recipe.epochs, replay, group.rank, group.world)
            with torch.autocast(group.device.type, torch.bfloat16, enabled=recipe.precision == "bf16"):
                found = self.forward(samples, when)
            (found.loss / len(parts)).backward()
            learner.after_backward(when)
            loss, keep = loss + wide(found.loss) / len(parts), found.keep
        assert when is not None
        assert found is not None
        for lr, options in zip(self.lrs, optimizer.param_groups, strict=True):
            options["lr"] = lr * self.rate(when) * training.guard.factor
        if training.sharded:
            parallel.mean_gradients(self.weights, group)
        sums = group.summed(torch.stack([torch.as_tensor(loss), norm_of(self.weights, recipe.clip)]))
        if self.window.asks:
            loss, norm = (value / group.world for value in sums.tolist())
            if not training.guard.passes(loss, norm, learner):
                return
        optimizer.step()
        learner.after_step(keep, when)
        training.follow()
        self.window.taken.append(Taken(step, sums, found.logs, optimizer.param_groups[0]["lr"]))
        if self.window.asks:
            self.settle()

    def _record(self, step: Taken, found: dict[str, float]) -> None:
        """Adds a step's numbers to the epoch's, and to the log if it is due."""
        gradient = found.pop("gradient")
        self.training.guard.row = 0
        self.training.count(found)
        if self.recipe.every and (step.step + 1) % self.recipe.every == 0:
            self._write(step.step + 1, {**found, "gradient": gradient, "lr": step.lr})

    def _saves(self, asked: Asked) -> bool:
        """Within an epoch: saves if it is time to, or if the run must stop; returns whether it must stop."""
        stops = self._stops(asked)
        due = bool(self.recipe.save) and time.perf_counter() - self.saved > 60 * self.recipe.save
        if stops or self.training.group.total([float(due)])[0]:
            self._save()
        return stops

    def _stops(self, asked: Asked) -> bool:
        """Whether any process was asked to stop."""
        return bool(self.training.group.total([float(asked.now)])[0])

    def _end_of(self, epoch: int) -> None:
        training, recipe = self.training, self.recipe
        self.settle()
        numbers = training.means()
        training.totals = {}
        if self.watching and self.held and ((epoch + 1) % self.watching.every == 0 or epoch + 1 == recipe.epochs):
            numbers |= self._look(epoch)
        if training.guard.skipped:
            numbers["skipped"] = training.guard.skipped
        self._write(training.batches * training.learner.replays, {"epoch": epoch + 1, **numbers, **self._pace()})
        if recipe.snapshots and (epoch + 1) % recipe.snapshots == 0:
            self.export(snapshot(epoch + 1))
        self._save()
        summary = " ".join(f"{key} {value:.4f}" for key, value in numbers.items())
        self._note(f"{recipe.name}: epoch {epoch + 1}/{recipe.epochs} {summary}")

    def _look(self, epoch: int) -> dict[str, float]:
        training, recipe = self.training, self.recipe
        assert self.watching is not None
        assert self.held is not None
        device = training.group.device
        with torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bf16"):
            found = look(self.encoder, self.watching, self.trained, self.held, self.card, recipe.seed, device)
        sums = training.group.total(list(found.values()))
        found = {key: value / training.group.world for key, value in zip(found, sums, strict=True)}
        if found["spread"] < COLLAPSED:
            self._note(
                f"{recipe.name}: epoch {epoch + 1}: embeddings have collapsed: their spread is {found['spread']:.4f} of 1"
            )
        if "score" in found and (training.best is None or found["score"] > training.best):
            training.best = found["score"]
            self.export(BEST, **found)
        return found

    def _pace(self) -> dict[str, float]:
        training = self.training
        images = training.batches * self.recipe.batch
        pace = images / training.seconds if training.seconds else 0.0
        return {
            "lr": training.optimizer.param_groups[0]["lr"],
            "images_per_second": round(pace, 1),
            "memory": round(device_memory(training.group.device), 1),
            "seconds": round(training.seconds, 1),
        }

    def _back_off(self) -> None:
        """Reloads the last checkpoint and halves the lr; `StoreError`, with the step, after `BACK_OFFS` times."""
        guard = self.training.guard
        step = self.training.batches * self.training.learner.replays + 1
        if guard.halved == BACK_OFFS:
            raise StoreError(
                f"{self.recipe.name}: the loss or its gradient is not finite at step {step}, with the learning rate halved "
                f"{BACK_OFFS} times; try a smaller lr, or clip"
            )
        state.load(self.training, self.folder)
        self.training.guard = type(guard)(guard.skipped, 0, guard.halved + 1)
        self._note(f"{self.recipe.name}: not finite at step {step}; back to batch {self.training.batches}, lr halved")
        self._save()

    def _save(self) -> None:
        state.save(self.training, self.folder)
        self.saved = time.perf_counter()

    def _write(self, step: int, numbers: dict[str, float]) -> None:
        for log in self.logs:
            log.write(step, numbers)

    def _note(self, text: str) -> None:
        if self.training.group.leads:
            self.watch.note(text)

    def export(self, name: str, **scores: float) -> Path:
        """Writes the current encoder and its card."""
        training = self.training
        whole = parallel.states(training.learner, training.optimizer, True)[0] if training.sharded else None
        names = {part: name for name, part in training.learner.named_modules()}
        prefix = f"{names[training.learner.encoder]}.body."
        weights = whole and {key.removeprefix(prefix): v for key, v in whole.items() if key.startswith(prefix)}
        place = {"epoch": training.batches // self.per_epoch, "step": training.batches * training.learner.replays}
        if training.group.leads:
            write_encoder(self.folder / name, self.encoder, weights, self.recipe, self.card, {**place, **scores})
        return self.folder / name

    def close(self) -> None:
        for log in self.logs:
            log.close()
        for part in filter(None, (self.trained, self.held, self.decoder)):
            part.close()


def begin(recipe: TrainingRecipe, folder: Path, group: Group, watch: Watch) -> Run:
    """The run at its start, or where its last checkpoint left it."""
    need_same(folder, recipe)
    encoder = load_encoder(recipe.encoder, device=group.device).requires_grad_(True)
    data, note = open_training(recipe.data, encoder.card)
    split = data.split("train")
    watching: Watching | None = build(recipe.watch, "Watching") if recipe.watch else None
    places = choose(split, recipe.images)
    apart = watching.holds(len(places)) if watching else 0
    trained = Kept(Part(split, sorted(places[apart:])))
    need_batch(recipe, data.card.name, len(places), apart)
    parallel.need_shares(recipe.batch, recipe.accumulate, group)
    with torch.random.fork_rng():
        torch.manual_seed(seeds.seed_of("parts", recipe.seed))
        learner = build(recipe.method, "Method").begin(encoder, data.card, len(trained.part)).to(group.device)
        learner.prepare(trained.part)
    need_fitting(recipe, learner, group)
    if recipe.channels_last:
        in_channels_last(learner)
    average = copy.deepcopy(learner.encoder).requires_grad_(False).eval() if recipe.ema else None
    learner, forward = parallel.spread(learner, recipe.parallel, group, recipe.sync_norm, recipe.compile)
    weights = [one for one in learner.parameters() if one.requires_grad]
    if not weights:
        raise SpecError(f"{recipe.name}: {recipe.method} leaves no weights to train")
    make: Callable[[list[nn.Parameter]], torch.optim.Optimizer] = build(recipe.optimizer, "Optimizer")
    optimizer = make(weights)
    lrs = [float(options["lr"]) for options in optimizer.param_groups]
    training = Training(recipe, group, learner, optimizer, average)
    resumed = state.load(training, folder)
    held = Kept(Part(split, places[:apart])) if apart else None
    rate: Schedule = build(recipe.schedule, "Schedule")
    decoder = Decoder(trained.part, data.card.size, recipe.seed) if is_unlike(trained.part) else None
    window = Window(asks=group.device.type in ("cpu", "mps") or training.sharded)
    run = Run(training, forward, trained, held, watching, rate, data.card, folder, watch, weights, lrs, window, decoder)
    run.saved = time.perf_counter()
    if group.leads:
        write_json(folder / "recipe.json", to_dict(recipe))
        run.logs = logs.open_logs(folder, recipe, training.batches * learner.replays)
    if note:
        run._note(f"{recipe.name}: {note}")
    if not resumed:
        run._save()
    elif group.leads:
        watch.note(f"{recipe.name}: resumes after batch {training.batches} of {recipe.epochs * run.per_epoch}")
    return run
