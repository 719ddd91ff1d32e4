"""The resolution of eps: encoders that resize inside, data resized before, and tables that distinguish the two."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hardsight.core.errors import DataError
from hardsight.data import open_data
from hardsight.data.feed import load, pixels
from hardsight.encoders import load_encoder
from hardsight.measure.bench import Bench
from hardsight.measure.plan import plan
from hardsight.probes.linear import fit_probe
from hardsight.report.results import grid
from hardsight.report.table import document, markdown
from hardsight.specs.catalog import build
from hardsight.specs.recipe import Recipe
from hardsight.store.cells import Store
from hardsight.tasks.base import System

DATA = "made(size=32, train=48, test=24)"
WITHIN = "timm:test_resnet(pretrained=False, resize=64)"


def test_everything_is_brought_to_the_size() -> None:
    small, large = open_data(DATA), open_data(f"resized({DATA}, [48, 64])")
    assert (large.card.name, large.card.size, large.card.own) == ("made at 48x64", (48, 64), (32, 32))
    one, two = small.split("test").sample(3), large.split("test").sample(3)
    assert two.id == one.id
    assert two.image.shape == (3, 48, 64) and two.image.dtype == torch.uint8
    assert two.target["mask"].shape == two.target["depth"].shape == (48, 64)
    assert set(two.target["mask"].unique().tolist()) <= set(one.target["mask"].unique().tolist())
    assert set(two.target["depth"].unique().tolist()) <= set(one.target["depth"].unique().tolist())
    assert torch.allclose(two.target["boxes"], one.target["boxes"] * torch.tensor([2, 1.5, 2, 1.5]))
    assert torch.equal(two.target["box_labels"], one.target["box_labels"]) and two.target["label"] == one.target["label"]
    twice = open_data(f"resized(resized({DATA}, 48), 32)")
    assert twice.card.own == (32, 32) and twice.card.name == "made at 48x48 at 32x32"
    assert load(large.split("train"), range(3)).images.shape == (3, 3, 48, 64)


def test_clips_are_resized_frame_by_frame() -> None:
    small, large = (open_data(s) for s in ("moving(size=16, frames=4)", "resized(moving(size=16, frames=4), 24)"))
    clip = large.split("test").sample(1).image
    assert clip.shape == (3, 4, 24, 24)
    own = small.split("test").sample(1).image[:, 2].float()[None]
    wanted = torch.nn.functional.interpolate(own, (24, 24), mode="bilinear", antialias=True).round()[0]
    assert torch.equal(clip[:, 2].float(), wanted)


def test_the_same_pixels_are_read_and_more_of_them_attacked() -> None:
    encoder = load_encoder(WITHIN)
    small, large = (
        pixels(load(open_data(s).split("test"), range(16)).images, "cpu") for s in (DATA, f"resized({DATA}, 64)")
    )
    assert torch.allclose(encoder(small).pooled, encoder(large).pooled, atol=0.02)
    system = fit_probe(encoder, "classify", DATA, "probe(epochs=10)")
    y = load(open_data(DATA).split("test"), range(16)).target["label"]
    threat, found = build("linf(1/255)", "Threat"), {}
    for name, x in (("own", small), ("enlarged", large)):
        rng = torch.Generator().manual_seed(0)
        x_adv = build("attack(pgd(10))", "Attack")(system, x, y, threat, rng).x_adv
        with torch.no_grad():
            found[name] = (system.task.loss(system.output(x_adv), y) - system.task.loss(system.output(x), y)).mean()
    assert isinstance(system, System)
    assert found["enlarged"] > 1.2 * found["own"] > 0, found


def test_tables_say_where_eps_is(tmp_path: Path) -> None:
    recipe = Recipe(
        encoders=(WITHIN, "tiny"), tasks=("classify",), data=(DATA, f"resized({DATA}, 64)"), attacks=("clean", "pgd(1)"),
        count=4, chunk=4, audit=0, probe="probe(epochs=1, images=16)",
    )  # fmt: skip
    cells = Bench(plan(recipe), Store(tmp_path)).run()
    assert cells[0].what["encoder_card"]["resize"] == 64
    table = grid(cells)
    own, enlarged = markdown(table).split("### ")[1:]
    assert "eps at 32x32, which test\\_resnet resizes to 64" in own and "tiny resizes" not in own
    assert "brought" not in own
    assert "images were resized from 32x32 to 64x64 before the attack" in enlarged
    assert "resizes to" not in enlarged
    notes = {key: entry.get("resolution") for key, entry in document(table)["results"].items()}
    assert notes["test_resnet/classify/made"] == ["eps at 32x32, which test_resnet resizes to 64"]
    assert notes["tiny/classify/made"] is None


def test_sizes_that_cannot_be() -> None:
    with pytest.raises(DataError, match="size=0"):
        build(f"resized({DATA}, 0)", "Data")
