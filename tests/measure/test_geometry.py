"""Embedding statistics: formulas against naive ones and closed forms; the pipeline on encoders with known results."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from typer.testing import CliRunner

from hardsight.attacks.threats.l2 import L2
from hardsight.cli.base import app
from hardsight.core.errors import DataError, SpecError
from hardsight.core.progress import Watch
from hardsight.data.base import Data, DataCard, Sample
from hardsight.encoders.base import BodyOutput, Card, Encoder
from hardsight.measure.geometry import affine, geometry_of, kept_in, over, over_epochs
from hardsight.metrics import geometry
from hardsight.metrics.embeddings import FIGURES, Embeddings, EncoderGeometry, Number, number
from hardsight.metrics.intervals import Z95
from hardsight.probes.linear import fit_probe
from hardsight.report.geometry import chosen, document, html, terminal, warnings, write

SIDE, DIM = 4, 6
SINGULAR = (8.0, 5.0, 3.0, 2.0, 1.0, 0.5)


def cloud(n: int = 40, dim: int = 5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings of three classes, not centred, and their labels."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 3, n)
    return 1 + rng.normal(size=(3, dim))[label] + 0.5 * rng.normal(size=(n, dim)), label


def repeated(counts: np.ndarray, *arrays: np.ndarray) -> list[np.ndarray]:
    return [np.repeat(one, counts.astype(int), axis=0) for one in arrays]


COUNTS = np.random.default_rng(5).multinomial(40, np.full(40, 1 / 40)).astype(float)


def test_alignment() -> None:
    one = np.array([[2.0, 0], [3, 0], [1, 0]])
    other = np.array([[5.0, 0], [-1, 0], [0, 9]])
    assert geometry.alignment(one, other) == pytest.approx([0, 4, 2])


def test_uniformity_is_the_naive_formula() -> None:
    z, _ = cloud()
    u = z / np.linalg.norm(z, axis=1, keepdims=True)
    pairs = [math.exp(-2 * float(((a - b) ** 2).sum())) for i, a in enumerate(u) for b in u[i + 1 :]]
    assert geometry.uniformity(z)[0] == pytest.approx(math.log(np.mean(pairs)), abs=1e-12)
    weights = [COUNTS[i] * COUNTS[j] for i in range(40) for j in range(i + 1, 40)]
    assert geometry.uniformity(z, COUNTS[None])[0] == pytest.approx(math.log(np.average(pairs, weights=weights)), abs=1e-12)


@pytest.mark.parametrize("dim", [2, 3, 16])
def test_uniformity_of_a_uniform_sphere(dim: int) -> None:
    """E exp(-2 ||u - v||^2) = e^-4 E e^{4 u.v} = e^-4 0F1(; dim/2; 4), and 0 for a collapsed encoder."""
    series, term = 0.0, 1.0
    for k in range(60):
        series += term
        term *= 4 / ((dim / 2 + k) * (k + 1))
    z = np.random.default_rng(0).normal(size=(3000, dim))
    assert geometry.uniformity(z)[0] == pytest.approx(-4 + math.log(series), abs=0.01)
    assert geometry.uniformity(np.ones((5, dim)))[0] == pytest.approx(0)


@pytest.mark.parametrize("centred", [False, True])
def test_effective_rank_is_the_naive_formula(centred: bool) -> None:
    for z in (cloud()[0], cloud(12, 30)[0]):
        values = np.linalg.svd(z - z.mean(0) if centred else z, compute_uv=False)
        share = values / values.sum()
        share = share[share > 1e-12]
        assert geometry.effective_rank(z, centred=centred)[0] == pytest.approx(
            math.exp(-(share * np.log(share)).sum()), rel=1e-5
        )
    z, _ = cloud()
    (again,) = repeated(COUNTS, z)
    assert geometry.effective_rank(z, COUNTS[None], centred) == pytest.approx(
        geometry.effective_rank(again, centred=centred)
    )


def test_effective_rank_of_known_rank() -> None:
    basis, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(50, 4)))
    turn, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(20, 20)))
    assert geometry.effective_rank(basis @ turn[:4])[0] == pytest.approx(4, rel=1e-6)
    assert geometry.effective_rank(np.ones((9, 7)))[0] == pytest.approx(1, rel=1e-6)
    far = cloud(200, 5)[0] + 1000
    assert geometry.effective_rank(far)[0] < 1.1 < 3 < geometry.effective_rank(far, centred=True)[0]


def test_class_lengths() -> None:
    two = np.array([[3.0, 0], [1, 0], [-2, 0], [-1, 0]]), np.array([0, 0, 7, 7])
    assert [float(one[0]) for one in geometry.class_lengths(*two)] == pytest.approx([0, 2])
    z, label = cloud()
    u = geometry.on_sphere(z)
    squares, left, terms = 0.0, 0, {}
    for c in range(3):
        own = u[label == c]
        terms[c] = own.mean(0), own.var(0, ddof=1).sum() / len(own)
        squares, left = squares + ((own - own.mean(0)) ** 2).sum(), left + len(own) - 1
    apart = [((terms[a][0] - terms[b][0]) ** 2).sum() - terms[a][1] - terms[b][1] for a, b in ((0, 1), (0, 2), (1, 2))]
    naive = [math.sqrt(squares / left), math.sqrt(np.mean(apart))]
    assert [float(one[0]) for one in geometry.class_lengths(z, label)] == pytest.approx(naive)
    again = repeated(COUNTS, z, label)
    drawn = geometry.class_lengths(z, label, COUNTS[None])
    assert np.concatenate(drawn) == pytest.approx(np.concatenate(geometry.class_lengths(*again)))


def test_random_labels_have_no_distance_between_classes() -> None:
    """The distance expected by chance between centres of few images is subtracted; the plain formula gives above 0.4."""
    rng = np.random.default_rng(0)
    z, label = rng.normal(size=(120, 20)), rng.integers(0, 12, 120)
    u = geometry.on_sphere(z)
    centres = np.stack([u[label == c].mean(0) for c in range(12)])
    plain = math.sqrt(np.mean([((a - b) ** 2).sum() for i, a in enumerate(centres) for b in centres[i + 1 :]]))
    assert geometry.class_lengths(z, label)[1][0] < 0.12 < 0.4 < plain
    alone = geometry.class_lengths(z, np.arange(120))
    assert np.isnan(alone[0][0]) and np.isnan(alone[1][0])


def test_false_negatives_are_the_naive_count() -> None:
    z, label = cloud()
    naive = []
    for i in range(40):
        alike = sorted((j for j in range(40) if j != i), key=lambda j: -float(geometry.cosine(z[[i]], z[[j]])[0]))
        naive.append(np.mean(label[alike[:7]] == label[i]))
    assert geometry.false_negatives(z, label, 7) == pytest.approx(np.array(naive))
    everyone = geometry.false_negatives(z, label, 1000)
    assert everyone == pytest.approx(geometry.same_class(label))


def test_margins_in_closed_form() -> None:
    weight, bias = np.array([[3.0, 4.0], [0, 0]]), np.array([5.0, 0])
    assert geometry.margins(np.array([[1.0, 1], [-1, -1]]), weight, bias, np.array([0, 0])) == pytest.approx(
        [12 / 5, -2 / 5]
    )
    rng = np.random.default_rng(0)
    weight, bias, z = rng.normal(size=(5, 3)), rng.normal(size=5), rng.normal(size=(50, 3))
    label = (z @ weight.T + bias).argmax(1)
    far = geometry.margins(z, weight, bias, label)
    assert (far > 0).all()
    for i, own in enumerate(label):  # the margin is the distance of the closest adversarial point: beyond it the class flips
        hyperplanes = [
            (weight[own] - weight[k], (z[i] @ weight.T + bias)[own] - (z[i] @ weight.T + bias)[k])
            for k in range(5)
            if k != own
        ]
        steps = [-w * gap / (w @ w) for w, gap in hyperplanes]
        step = min(steps, key=np.linalg.norm)
        assert np.linalg.norm(step) == pytest.approx(far[i])
        logits = (z[i] + 1.0001 * step) @ weight.T + bias
        assert logits.argmax() != own and ((z[i] + 0.9999 * step) @ weight.T + bias).argmax() == own


def naive_cka(one: np.ndarray, other: np.ndarray, debiased: bool) -> float:
    n = len(one)
    k, m = one @ one.T, other @ other.T
    centre = np.eye(n) - 1 / n

    def hsic(a: np.ndarray, b: np.ndarray) -> float:
        if not debiased:
            return float(np.trace(a @ centre @ b @ centre))
        a, b, ones = a - np.diag(np.diag(a)), b - np.diag(np.diag(b)), np.ones(n)
        total = (
            np.trace(a @ b) + (ones @ a @ ones) * (ones @ b @ ones) / ((n - 1) * (n - 2)) - 2 / (n - 2) * ones @ a @ b @ ones
        )
        return float(total / (n * (n - 3)))

    return hsic(k, m) / math.sqrt(hsic(k, k) * hsic(m, m))


@pytest.mark.parametrize("debiased", [False, True])
def test_cka_is_the_naive_formula_and_invariant_to_rotation_and_scale(debiased: bool) -> None:
    z, _ = cloud()
    other = z @ np.random.default_rng(2).normal(size=(5, 9)) + np.random.default_rng(3).normal(size=(40, 9))
    value = geometry.cka(z, other, debiased=debiased)[0]
    assert value == pytest.approx(naive_cka(z, other, debiased))
    turn, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(5, 5)))
    assert geometry.cka(7 * z @ turn + 3, other, debiased=debiased)[0] == pytest.approx(value)
    assert geometry.cka(z, -2 * z @ turn, debiased=debiased)[0] == pytest.approx(1)
    if not debiased:
        again = repeated(COUNTS, z, other)
        assert geometry.cka(z, other, COUNTS[None], debiased) == pytest.approx(naive_cka(again[0], again[1], debiased))


def test_debiased_cka_of_what_has_nothing_in_common() -> None:
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(50, 300)), rng.normal(size=(50, 300))
    assert abs(geometry.cka(one, other)[0]) < 0.05
    assert geometry.cka(one, other, debiased=False)[0] > 0.8


def embeddings(seed: int = 0, n: int = 40, **changes: Any) -> Embeddings:
    z, label = cloud(n, seed=seed)
    rng = np.random.default_rng(seed + 1)
    noisy = [z + scale * rng.normal(size=z.shape) for scale in (0.3, 0.1, 0.1)]
    given = {
        "id": np.arange(n).astype(str), "label": label, "clean": z, "attacked": noisy[0], "first": noisy[1],
        "second": noisy[2], "weight": rng.normal(size=(3, 5)), "bias": rng.normal(size=3), "size": np.full(n, 0.1),
        "misclassified": np.zeros(n), "k": 5,
    }  # fmt: skip
    return Embeddings(**{**given, **changes})


@pytest.mark.parametrize("key", FIGURES)
def test_every_figure_has_an_interval_around_it(key: str) -> None:
    found = number(FIGURES[key], embeddings())
    assert found.n == 40 and found.low <= found.value <= found.high
    assert found == number(FIGURES[key], embeddings())


@pytest.mark.parametrize("key", ["rank", "uniformity", "spread", "distance", "cka", "moved"])
def test_intervals_hold_what_they_promise(key: str) -> None:
    """The true value is within the intervals of nearly all samples (95%, up to the uncertainty of 40 samples)."""
    figure = replace(FIGURES[key], draws=200)
    centres = np.random.default_rng(9).normal(size=(3, 4))

    def sample(seed: int, n: int = 80) -> Embeddings:
        rng = np.random.default_rng(seed)
        label = np.arange(n) % 3
        z = 1 + centres[label] + rng.normal(size=(n, 4))
        return embeddings(
            0, n, label=label, clean=z, attacked=z + 0.5 * rng.normal(size=(n, 4)), first=z, second=z, weight=np.eye(3, 4)
        )

    truth = np.mean([figure.of(sample(1000 + seed), None)[0] for seed in range(200)])
    hits = np.mean([(n := number(figure, sample(seed))).low <= truth <= n.high for seed in range(40)])
    assert hits >= 0.95 - 2.5 * math.sqrt(0.95 * 0.05 / 40)
    wide = number(figure, sample(0))
    spread = np.std([figure.of(sample(2000 + seed), None)[0] for seed in range(200)])
    assert (wide.high - wide.low) < 2 * 2 * Z95 * spread  # the interval must not be much too wide either


class Linear(nn.Module):
    """Pixels times a matrix; masked: the pixels are first rounded to 8 bits, which has zero gradient."""

    depth, multiple = 1, 1

    def __init__(self, masked: bool = False) -> None:
        super().__init__()
        rng = torch.Generator().manual_seed(0)
        left, right = (torch.linalg.qr(torch.randn(side, DIM, generator=rng))[0] for side in (DIM, 3 * SIDE * SIDE))
        self.matrix = nn.Parameter(left * torch.tensor(SINGULAR) @ right.T)
        self.masked = masked

    def forward(self, pixels: Tensor, layers: tuple[int, ...]) -> BodyOutput:
        if self.masked:
            pixels = (pixels * 255).round() / 255
        found = pixels.flatten(1) @ self.matrix.T
        return BodyOutput(found, (found[..., None, None],) * len(layers), None)


def linear(masked: bool = False) -> Encoder:
    card = Card("linear", "linear", "test", DIM, DIM, SIDE, SIDE, mean=(0.0,) * 3, std=(1.0,) * 3)
    return Encoder(Linear(masked), card).eval().requires_grad_(False)


class Greys:
    """Images far from 0 and 1, so that pixel bounds never limit an attack; two classes: which half is brighter."""

    def __init__(self, count: int, seed: int) -> None:
        self.images = torch.randint(90, 160, (count, 3, SIDE, SIDE), generator=torch.Generator().manual_seed(seed)).byte()
        self.labels = (
            self.images.float()[..., : SIDE // 2].mean((1, 2, 3)) > self.images.float()[..., SIDE // 2 :].mean((1, 2, 3))
        ).long()

    def __len__(self) -> int:
        return len(self.images)

    def sample(self, place: int) -> Sample:
        return Sample(str(place), self.images[place], {"label": self.labels[place]})


GREYS = Data(DataCard("greys", ("label",), (SIDE, SIDE), ("left", "right")), {"train": Greys(80, 0), "test": Greys(60, 1)})
QUICK: dict[str, Any] = {"count": 60, "probe": "probe(epochs=3)"}


@pytest.fixture(scope="module")
def result() -> EncoderGeometry:
    return geometry_of(linear(), GREYS, L2(0.1), **QUICK)


def test_lipschitz_of_a_linear_encoder_is_its_largest_singular_value(result: EncoderGeometry) -> None:
    found = result.embeddings.rows["lipschitz"]
    assert found == pytest.approx(np.full(60, SINGULAR[0]), rel=0.02) and (found <= SINGULAR[0] * (1 + 1e-4)).all()
    assert result.numbers["lipschitz"].value == pytest.approx(SINGULAR[0], rel=0.02)
    assert result.facts["flat"] == 0 and not [one for one in warnings([result]) if "masked" in one]


def test_a_masked_encoder_hides_its_lipschitz_constant_and_is_reported() -> None:
    found = geometry_of(linear(masked=True), GREYS, L2(0.1), **QUICK)
    assert found.numbers["lipschitz"].value < 0.8 * SINGULAR[0]
    assert found.facts["flat"] > 0.9
    assert any("gradients may be masked" in one for one in warnings([found]))


def test_margins_are_those_of_the_probe(result: EncoderGeometry) -> None:
    encoder = linear()
    system = fit_probe(encoder, "classify", GREYS, QUICK["probe"])
    weight, bias = affine(system.head, DIM)
    test = GREYS.split("test")
    ids = [int(one) for one in result.embeddings.id]
    x = torch.stack([test.sample(place).image for place in ids]).float() / 255
    y = torch.stack([test.sample(place).target["label"] for place in ids])
    logits = system.output(x)
    assert torch.tensor(result.embeddings.clean @ weight.T + bias).float() == pytest.approx(logits, abs=1e-3)
    assert result.embeddings.rows["accuracy"] == pytest.approx((logits.argmax(1) == y).float().numpy())
    gap = logits[torch.arange(60), y] - logits[torch.arange(60), 1 - y]
    expected = gap / np.linalg.norm(weight[0] - weight[1])
    assert result.embeddings.rows["margin"] == pytest.approx(expected.numpy(), abs=1e-3)
    assert result.numbers["accuracy_task"].value <= result.numbers["accuracy"].value

    class Curved(nn.Module):
        def forward(self, features: Any) -> Tensor:
            return features.pooled**2

    with pytest.raises(SpecError, match="linear probe"):
        affine(Curved(), DIM)


def test_the_same_seed_gives_the_same(result: EncoderGeometry) -> None:
    again, other = (geometry_of(linear(), GREYS, L2(0.1), seed=seed, **QUICK) for seed in (0, 1))
    assert document([again]) == document([result])
    assert other.numbers["alignment"] != result.numbers["alignment"]
    assert list(other.embeddings.id) == list(result.embeddings.id)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"count": 3}, "4 to 5000"),
        ({"count": 6000}, "4 to 5000"),
        ({"k": 0}, "nearest"),
        ({"threat": L2(0.0)}, "eps is 0"),
        ({"views": "views(count=1)"}, "draws 1 view"),
        ({"split": "val"}, "no 'val' part"),
        ({"probe": "finetune(epochs=1)"}, "tunes the encoder"),
    ],
)
def test_what_cannot_be_asked(change: dict[str, Any], match: str) -> None:
    with pytest.raises((SpecError, DataError), match=match):
        geometry_of(linear(), GREYS, **{"threat": L2(0.1), **QUICK, **change})


def test_embeddings_that_are_no_numbers_are_refused() -> None:
    broken = linear()
    broken.body.matrix.data[0, 0] = torch.nan
    with pytest.raises((DataError, SpecError)):
        geometry_of(broken, GREYS, L2(0.1), **QUICK)


def test_a_collapsed_encoder_is_reported() -> None:
    broken = linear()
    broken.body.matrix.data[1:] = 0
    found = geometry_of(broken, GREYS, L2(0.1), **QUICK)
    assert any("collapsed" in one for one in warnings([found]))
    assert "collapsed" in html([found])


def test_names_are_escaped_and_nothing_is_loaded(result: EncoderGeometry, tmp_path: Path) -> None:
    bad = "<script>alert(1)</script> [bold]"
    facts = {**result.facts, "classes": ["<i>left", "right&"]}
    named = [replace(result, label=bad, facts=facts, card={**result.card, "note": bad}), replace(result, label="plain")]
    paths = write(named, tmp_path, title="<b>")
    page = paths["html"].read_text()
    for mark in ("<script", "<i>left", "right&<", "<b></h1>", "http://", "https://", "nan"):
        assert mark not in page.replace('xmlns="http://www.w3.org/2000/svg"', ""), mark
    assert page == html(named, title="<b>") and page.count("<svg") >= 9
    stored = json.loads(paths["json"].read_text())
    assert stored == json.loads(json.dumps(document(named)))
    assert set(stored["encoders"][0]["numbers"]) == set(FIGURES)
    assert stored["encoders"][0]["count"] == 60 and stored["encoders"][0]["seed"] == 0
    arrays = np.load(tmp_path / "geometry-01.npz")
    assert arrays["margin"] == pytest.approx(result.embeddings.rows["margin"]) and arrays["clean"].shape == (60, DIM)
    from rich.console import Console

    console = Console(width=120, record=True)
    console.print(terminal(named))
    text = console.export_text()
    assert "[bold]" in text and "within / between" in text and "seed 0" in text


def test_a_number_that_is_none_is_null(result: EncoderGeometry) -> None:
    none = replace(result, numbers={**result.numbers, "ratio": Number(math.nan, math.nan, math.nan, 60)})
    assert document([none])["encoders"][0]["numbers"]["ratio"]["value"] is None
    json.loads(json.dumps(document([none]), allow_nan=False))
    assert "within / between" in html([none])


def test_of_many_encoders_a_few_are_pictured(result: EncoderGeometry) -> None:
    many = [replace(result, label=f"run, epoch {epoch}", series="run", epoch=epoch) for epoch in range(12)]
    assert [place for place, _ in chosen(many)] == [0, 4, 7, 11]
    page = html(many)
    assert "Over epochs" in page and "12 snapshots of run" in page


def test_over_a_training_run(tmp_path: Path) -> None:
    from hardsight.training.engine.loop import train
    from hardsight.training.engine.recipe import TrainingRecipe

    recipe = TrainingRecipe(
        "small", "tiny(widths=(8, 8, 8, 8))", "simclr(width=16)", "made(size=16, train=64)", epochs=2, batch=16, snapshots=1
    )
    train(recipe, tmp_path, torch.device("cpu"), Watch(quiet=True))
    assert list(kept_in(tmp_path)) == [0, 1, 2]
    found = over_epochs(
        tmp_path, "made(size=16, train=64, test=40)", "linf(4/255)", count=20, probe="probe(epochs=1)", attack="embed(2)"
    )
    assert [one.epoch for one in found] == [0, 1, 2] and {one.series for one in found} == {tmp_path.name}
    from hardsight.data import load_images
    from hardsight.encoders import load_encoder

    last = load_encoder("tiny(widths=(8, 8, 8, 8))")
    last.body.load_state_dict(load_file(tmp_path / "encoder.safetensors"))
    x, _ = load_images("made(size=16, train=64, test=40)", "label", 20)
    with torch.no_grad():
        assert found[-1].embeddings.clean == pytest.approx(last(x).pooled.numpy(), abs=1e-5)
        first = load_encoder("tiny(widths=(8, 8, 8, 8))")(x).pooled.numpy()
    assert found[0].embeddings.clean == pytest.approx(first, abs=1e-5)
    assert np.abs(found[-1].embeddings.clean - first).max() > 1e-3
    assert "Over epochs" in html(found)


def test_a_folder_without_encoders_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="snapshots = 1"):
        kept_in(tmp_path)


def test_over_keeps_order_and_says_how_far(result: EncoderGeometry) -> None:
    said: list[tuple[str, int, int]] = []
    found = over(
        [("b", linear()), ("a", linear())], GREYS, "l2(0.1)", lambda *one: said.append(one), attack="embed(steps=2)", **QUICK
    )
    assert [one.label for one in found] == ["b", "a"]
    assert said == [("b", 50, 60), ("b", 60, 60), ("a", 50, 60), ("a", 60, 60)]
    assert found[0].facts["threat"] == "l2(eps=0.1)"


def test_the_verb(tmp_path: Path) -> None:
    words = [
        "geometry",
        "--data",
        "made(size=16, train=64, test=40)",
        "--count",
        "16",
        "--probe",
        "probe(epochs=1)",
        "--json",
    ]
    small = "tiny(widths=(8, 8, 8, 8))"
    done = CliRunner().invoke(app, [*words, "--encoder", small, "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert result["encoders"][0]["threat"] == "linf(eps=4/255)" and result["encoders"][0]["numbers"]["moved"]["n"] == 16
    assert (tmp_path / "geometry.html").is_file()
    for wrong in ([], ["--encoder", small, "--views", "pgd"], ["--run", str(tmp_path)]):
        assert isinstance(CliRunner().invoke(app, [*words, *wrong]).exception, SpecError)


def test_workers_find_the_same_statistics(tmp_path: Path) -> None:
    words = [
        "geometry",
        "--encoder",
        "tiny",
        "--encoder",
        "tiny(widths=(4, 8, 8, 8))",
        "--data",
        "made(size=32, train=64, test=16)",
    ]
    words += ["--count", "8", "--probe", "probe(images=48, epochs=1)", "--device", "cpu", "--json"]
    here, there = (CliRunner().invoke(app, [*words, *on]) for on in ([], ["--on", "local(2)"]))
    assert (here.exit_code, there.exit_code) == (0, 0), there.output
    assert here.stdout == there.stdout and len(json.loads(here.stdout)["encoders"]) == 2
