"""Training on clips: all frames of a clip share a view, no view turns a motion into another, and a run ends as an encoder of clips."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from hardsight.core import seeds
from hardsight.core.progress import Watch
from hardsight.core.when import When
from hardsight.data.views import View
from hardsight.encoders import load_encoder
from hardsight.specs.catalog import build
from hardsight.training.engine.loop import train
from hardsight.training.engine.recipe import read_recipe

RECIPE = read_recipe("simclr-moving-small")
SMALL = (
    "data=moving(size=16, frames=4, train=24, test=12)", "encoder=small_clips(widths=(8,), size=16)", "method.width=16",
    "epochs=2", "batch=12",
)  # fmt: skip


def to_the_right(count: int = 16) -> Tensor:
    """Clips [count, 3, 4, 16, 16] of a white square that moves to the right in front of black."""
    clips = torch.zeros(count, 3, 4, 16, 16)
    for frame in range(4):
        clips[:, :, frame, 6:10, 3 * frame : 3 * frame + 4] = 1
    return clips


def way(clips: Tensor) -> Tensor:
    """[B]: how far the mean place of a clip's light moves between the first and the last frame, in pixels to the right."""
    light = clips.mean(1).sum(2)
    place = (light * torch.arange(light.shape[-1])).sum(2) / light.sum(2).clamp_min(1e-6)
    return place[:, -1] - place[:, 0]


def test_the_recipes_views_keep_a_motion_and_a_flip_would_not() -> None:
    plan = build(RECIPE.method, "Method").views
    for step in range(4):
        for view in plan(to_the_right(), When(seeds.generator("views", step))):
            assert (way(view) > 0).all()
    flipped = View(scale=(0.5, 1.0), flip=True)(to_the_right(), When(seeds.generator("views", 0)))
    assert 0 < int((way(flipped) < 0).sum()) < 16


def run(folder: Path, *more: str) -> Path:
    recipe = RECIPE
    for one in (*SMALL, *more):
        recipe = recipe.with_set(one)
    found = train(recipe, folder, torch.device("cpu"), Watch(quiet=True))
    assert found is not None
    return found


@pytest.mark.parametrize("negatives", ["all_negatives", "oracle", "oracle(mode=attract)", "ifnd(2, 2)"])
def test_a_run_on_clips_ends_as_an_encoder_of_clips(negatives: str, tmp_path: Path) -> None:
    run(tmp_path / "run", f"method.negatives={negatives}")
    encoder = load_encoder(f"run:{tmp_path / 'run'}")
    with torch.no_grad():
        ahead, back = (encoder(one).pooled for one in (to_the_right(3), to_the_right(3).flip(2)))
    assert ahead.shape == (3, encoder.card.dim) and not torch.allclose(ahead, back)
    start = load_encoder("small_clips(widths=(8,), size=16)").state_dict()
    assert any(not torch.equal(value, start[name]) for name, value in encoder.state_dict().items())


def test_clips_in_channels_last_are_trained_alike(tmp_path: Path) -> None:
    """The memory format changes no weight beyond rounding; torch has another format for clips than for images."""
    one, other = (run(tmp_path / name, "optimizer=sgd(1e-4)", f"channels_last={name}") for name in ("false", "true"))
    plain, last = load_file(one), load_file(other)
    assert all(torch.allclose(value.float(), last[name].float(), rtol=1e-3, atol=1e-4) for name, value in plain.items())
