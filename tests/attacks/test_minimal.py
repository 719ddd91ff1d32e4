"""Minimal perturbations: sizes found by FMN and FAB against closed form, when they are stored, and how reports show them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hardsight.measure import evaluate as evaluation
from hardsight.metrics.intervals import quantile
from hardsight.report import table
from hardsight.report.nearest import nearest, sentences, text
from hardsight.report.page import html
from hardsight.specs.catalog import build
from hardsight.store.cells import Store
from hardsight.tasks.base import System
from tests.conftest import toy_images, toy_system
from tests.report.test_report import HOSTILE, N, add

CLASSIFY = build("classify", "Task")
SEARCHES = {"fmn": "attack(fmn(200), loss=margin)", "fab": "attack(fab(50), loss=margin)"}
NORMS = {"linf": ("linf(1/255)", 1), "l2": ("l2(0.05)", 2), "l1": ("l1(0.5)", torch.inf)}


class Flat(nn.Module):
    """Features that are linear in the pixels."""

    depth, multiple = 1, 4

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.2 * torch.randn(12, 3 * 16 * 16, generator=torch.Generator().manual_seed(3)))

    def forward(self, pixels: Tensor, layers: tuple[int, ...]) -> object:
        found = (pixels.flatten(1) @ self.weight.T)[:, :, None, None]
        return type(self.seen)(found[..., 0, 0], (found,) * len(layers), None)


@pytest.fixture(scope="module")
def system() -> System:
    """A classifier whose logits are linear in the pixels: its decision boundaries are hyperplanes."""
    toy = toy_system(CLASSIFY)
    body = Flat()
    with torch.no_grad():
        body.seen = toy.encoder.body(toy_images(1), (0,))
    toy.encoder.body = body
    return System(toy.encoder.requires_grad_(False), toy.head, CLASSIFY)


@pytest.fixture(scope="module")
def images() -> tuple[Tensor, Tensor]:
    return 0.35 + 0.3 * toy_images(8), torch.arange(8) % 5


def closed(system: System, x: Tensor, label: Tensor, dual: float) -> tuple[Tensor, Tensor]:
    """The distance of each image to its closest boundary, and to that of the most likely other class; 0 if it is beyond."""
    slope = torch.autograd.functional.jacobian(lambda one: system.output(one[None])[0], x[0]).flatten(1)
    logits = system.output(x)
    away = []
    for place, own in enumerate(label.tolist()):
        others = [k for k in range(logits.shape[1]) if k != own]
        gaps = torch.stack([logits[place, own] - logits[place, k] for k in others])
        lengths = torch.stack([(slope[own] - slope[k]).norm(p=dual) for k in others])
        away.append(torch.stack([(gaps / lengths).min(), (gaps / lengths)[gaps.argmin()]]))
    return tuple(torch.stack(away).clamp_min(0).unbind(1))  # type: ignore[return-value]


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("search", SEARCHES)
def test_the_size_found_is_the_distance_to_the_hyperplane(
    system: System, images: tuple[Tensor, Tensor], search: str, norm: str
) -> None:
    """At any distance beyond eps; 0 if misclassified from the start. The margin leads to the most likely other class."""
    x, _ = images
    label = system.output(x).argmax(1)
    label[:2] = (label[:2] + 1) % 5
    spec, place = NORMS[norm]
    threat = build(spec, "Threat")
    wanted, other = closed(system, x, label, {1: 1, 2: 2, torch.inf: torch.inf}[place])
    rows, _ = evaluation.evaluate(system, build(SEARCHES[search], "Attack"), threat, x, label, ["?"] * len(x))
    found = torch.from_numpy(rows["nearest"])
    assert (found[:2] == 0).all()
    assert (wanted[2:] > threat.eps).any(), "some are robust within eps"
    assert (found[2:] >= wanted[2:] * 0.999).all(), "no search comes closer than the hyperplane"
    assert (found[2:] <= other[2:] * 1.1).all(), (found[2:] / other[2:]).tolist()
    assert ((rows["error"] >= 1) == (rows["nearest"] <= threat.eps * (1 + 1e-5))).all()


def test_only_a_whole_search_in_one_ball_stores_it(system: System, images: tuple[Tensor, Tensor]) -> None:
    x, label = images
    for attack, threat in (
        ("attack(fmn(5, early_exit=True), loss=margin)", "linf(1/255)"),
        ("attack(fmn(5), loss=margin)", "union([linf(1/255), l2(0.1)])"),
        ("pgd(2)", "linf(1/255)"),
        ("autoattack(steps=3, queries=2, targets=1)", "linf(1/255)"),
    ):
        rows, _ = evaluation.evaluate(system, build(attack, "Attack"), build(threat, "Threat"), x, label, ["?"] * 8)
        assert "nearest" not in rows, attack


def test_bf16_is_not_used_to_find_the_boundary(system: System, images: tuple[Tensor, Tensor]) -> None:
    x, label = images
    attack, threat = build("attack(fmn(20), loss=margin)", "Attack"), build("linf(1/255)", "Threat")
    one, other = (evaluation.evaluate(system, attack, threat, x, label, ["?"] * 8, None, p)[0] for p in ("float32", "bf16"))
    assert np.array_equal(one["nearest"], other["nearest"])
    assert np.isfinite(one["nearest"]).any()


@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
def test_quantiles_cover_the_truth(share: float) -> None:
    """19 times in 20, for 1,000 samples of 40 from a known distribution; and the values are numpy's inverted ones."""
    rng, hits = np.random.default_rng(0), 0
    for _ in range(1000):
        drawn = rng.exponential(size=40)
        value, low, high = quantile(drawn, share)
        assert low <= value <= high
        assert value == pytest.approx(
            np.quantile(drawn, share, method="averaged_inverted_cdf" if share == 0.5 else "inverted_cdf")
        )
        hits += low <= -np.log(1 - share) <= high
    assert 925 <= hits <= 985


def test_quantiles_of_few_and_of_infinite_values() -> None:
    assert quantile(np.array([3.0, np.inf, 1.0]), 0.5)[0] == 3.0
    assert quantile(np.array([3.0, np.inf, np.inf]), 0.5)[0] == np.inf
    assert np.isnan(quantile(np.zeros(0), 0.5)).all()


@pytest.fixture
def filled(tmp_path, monkeypatch: pytest.MonkeyPatch) -> table.Table:
    """A store of two encoders; for one of them FMN succeeded only on a part of the images."""
    store = Store(tmp_path / "store")
    for name, sizes in (("plain", np.linspace(0, 11, N) / 255), (HOSTILE, np.where(np.arange(N) < 6, 1 / 255, np.inf))):
        add(store, name, "classify", "clean", 0, error=np.zeros(N))
        add(store, name, "classify", "fmn", 4, error=(sizes <= 4 / 255).astype(float))
        cell = store.cells()[-1] if "fmn" in store.cells()[-1].what["column"] else store.cells()[0]
        rows = cell.rows()
        for chunk, start in enumerate(range(0, N, 6)):
            part = {key: value[start : start + 6] for key, value in rows.items()}
            cell.write_chunk(chunk, part | {"nearest": sizes[start : start + 6].astype(np.float32)})
    return table.grid(store.cells())


def test_report_shows_sizes_of_images_that_were_correct(filled: table.Table) -> None:
    lines = {line["n"]: line for line in nearest(filled)}
    assert sorted(lines) == [N - 1, N], "the image of size 0 was misclassified from the start"
    assert lines[N - 1]["text"][1] == "6.00/255"
    assert (lines[N]["felled"], lines[N]["text"][4]) == (6, "none found")
    assert text(0.25, "L2") == "0.25"
    page, shown = html(filled), sentences(filled, [0, 1])
    assert "Minimal perturbations" in page
    assert "6.00/255" in page
    assert HOSTILE not in page
    assert len(shown) == 2
    assert "over the 11 correctly classified images" in " ".join(shown)
    assert sorted(int(line.split(",")[-2]) for line in table.csv(filled).splitlines() if "nearest.median" in line) == [
        N - 1,
        N,
    ]
    assert "6.00/255" in table.markdown(filled)
    entries = [one["fmn@linf(4/255)"]["nearest"] for one in table.document(filled)["results"].values()]
    assert sorted((one["felled"], one["n"]) for one in entries) == [(6, N), (N - 1, N - 1)]
    assert [one["threequarters"] for one in entries if one["felled"] == 6] == [None]


def test_report_shows_nothing_without_such_a_search(tmp_path) -> None:
    store = Store(tmp_path / "store")
    add(store, "plain", "classify", "clean", 0)
    add(store, "plain", "classify", "task", 4)
    grid = table.grid(store.cells())
    assert nearest(grid) == []
    assert "Minimal perturbations" not in html(grid)
