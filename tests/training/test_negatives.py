"""False negatives of NT-Xent: each treatment against an explicit loop, the reported detection rates, and memory."""

from __future__ import annotations

import io
import math
from typing import Any

import pytest
import torch
import torch.multiprocessing as processes
import torch.nn.functional as F
from torch import Tensor

from hardsight.core import seeds
from hardsight.core.errors import SpecError
from hardsight.core.when import When
from hardsight.data import open_data
from hardsight.data.base import DataCard
from hardsight.data.feed import load, pixels
from hardsight.encoders import load_encoder
from hardsight.specs.catalog import build, complete, entries
from hardsight.training.criteria.contrast import NTXent, nt_xent, sup_con
from hardsight.training.criteria.gather import own
from hardsight.training.criteria.negatives.detect import drawn
from hardsight.training.methods.base import Learner, Samples
from tests.conftest import toy_card, toy_images

B, D, T = 10, 6, 0.3
TREATMENTS = (
    "all_negatives", "oracle", "oracle(0.5)", "oracle(mode=attract)", "fnc(0, 3, 0.2)", "fnc(2, 3, 0.2)",
    "fnc(3, 4, -1, score=mean, mode=attract)", "glofnd(0.2, wait=0)", "debiased", "debiased(0.3)", "hard", "hard(2, 0.2)",
)  # fmt: skip


def some(seed: int = 0, count: int = B) -> tuple[Tensor, Tensor, Tensor]:
    """Two views' embeddings [B, D] in double precision, close to each other, and labels of three classes."""
    rng = torch.Generator().manual_seed(seed)
    one, more = (torch.randn(count, D, generator=rng, dtype=torch.float64) for _ in range(2))
    return one + 0.5, one + 0.5 * more, torch.randint(0, 3, (count,), generator=rng)


def further(count: int, seed: int = 5) -> tuple[Tensor, ...]:
    one, two, _ = some()
    rng = torch.Generator().manual_seed(seed)
    return tuple(one + 0.4 * torch.randn(one.shape, generator=rng, dtype=torch.float64) for _ in range(count))


def criterion(spec: str, images: int = 3 * B) -> NTXent:
    negatives = build(spec, "Negatives")
    loss_fn = NTXent(T, negatives.begin(images, D)).double()
    loss_fn.support = further(negatives.support)
    return loss_fn


PLACES = torch.arange(B) * 3 % (3 * B) + 1


def by_loop(spec: str, one: Tensor, two: Tensor, label: Tensor) -> float:
    """The mean loss of 2B views, with explicit sums."""
    call = complete(spec, "Negatives")
    name, given = call.name, dict(call.arguments)
    z = [row / row.norm() for row in (*one, *two)]
    support = [[row / row.norm() for row in view] for view in further(given.get("support", 0))]
    total = 0.0
    for i, anchor in enumerate(z):
        partner = (i + B) % (2 * B)
        others = [j for j in range(2 * B) if j % B != i % B]
        cos = {j: float(anchor @ z[j]) for j in range(2 * B)}
        pull, kept, scale = [partner], others, 1.0
        if name == "oracle":
            same = [j for j in others if label[j % B] == label[i % B]]
            chosen = [j for j in same if float(drawn(PLACES[i % B], PLACES[j % B])) < given["share"]]
            pull, kept = (
                (pull + chosen, others) if given["mode"] == "attract" else (pull, [j for j in others if j not in chosen])
            )
        if name == "fnc":
            asked = [view[i % B] for view in support] or [z[i], z[partner]]
            each = {j: [float(view @ z[j]) for view in asked] for j in others}
            score = {j: max(v) if given["score"] == "max" else sum(v) / len(v) for j, v in each.items()}
            best = sorted(others, key=lambda j: -score[j])[: given["top"]]
            chosen = [j for j in best if score[j] > given["threshold"]]
            pull, kept = (
                (pull + chosen, others) if given["mode"] == "attract" else (pull, [j for j in others if j not in chosen])
            )
        if name == "glofnd":  # not yet learned: the quantile of this batch, mean over the image's two views
            above = int(given["share"] * len(others))
            quantiles = []
            for view in (i, partner):
                quantiles.append(sorted((float(z[view] @ z[j]) for j in others), reverse=True)[above])
            kept = [j for j in others if cos[j] <= sum(quantiles) / 2]
            scale = len(others) / len(kept)
        positive = math.exp(cos[partner] / T)
        push = scale * sum(math.exp(cos[j] / T) for j in kept)
        if name in ("debiased", "hard"):
            beta, tau = given.get("beta", 0.0), given["tau_plus"]
            weight = [math.exp(beta * cos[j] / T) for j in others]
            heavy = sum(w * math.exp(cos[j] / T) for w, j in zip(weight, others, strict=True)) / (sum(weight) / len(weight))
            push = max((heavy - tau * len(others) * positive) / (1 - tau), len(others) * math.exp(-1 / T))
        total += math.log(positive + push) - sum(cos[j] / T for j in pull) / len(pull)
    return total / (2 * B)


@pytest.mark.parametrize("spec", TREATMENTS)
def test_each_is_its_formula(spec: str) -> None:
    one, two, label = some()
    found = criterion(spec)((one, two), None, label, PLACES)
    assert found.shape == (B,)
    assert float(found.mean()) == pytest.approx(by_loop(spec, one, two, label), rel=1e-9)


def test_the_loops_distinguish_treatments() -> None:
    """Negative control: a formula shared by all treatments would pass the test above."""
    values = [by_loop(spec, *some()) for spec in TREATMENTS]
    assert len({round(value, 6) for value in values}) == len(values)


@pytest.mark.parametrize(
    "plain", ["all_negatives", "oracle(0)", "oracle(0, attract)", "fnc(2, 5, 1)", "ifnd", "debiased(0)", "hard(0, 0)"]
)
def test_without_anything_to_treat_it_is_nt_xent(plain: str) -> None:
    one, two, label = some()
    found = criterion(plain)((one, two), None, label, PLACES)
    assert torch.allclose(found, nt_xent(one, two, T), rtol=1e-9)


def test_the_oracle_is_between_simclr_and_supcon() -> None:
    """With attract the oracle equals SupCon; with eliminate only the false negatives' terms leave SimCLR's denominator."""
    one, two, label = some()
    drawn_in = criterion("oracle(mode=attract)")((one, two), None, label, PLACES)
    assert torch.allclose(drawn_in, sup_con((one, two), label, T), rtol=1e-9)
    z = F.normalize(torch.cat([one, two]), dim=1)
    terms = (z @ z.T / T).exp().fill_diagonal_(0)
    labels, image = label.repeat(2), torch.arange(B).repeat(2)
    gone = (labels[:, None] == labels) & (image[:, None] != image)
    partner = terms.gather(1, torch.arange(2 * B).roll(B)[:, None])[:, 0]
    wanted = -(partner / (terms.sum(1) - (terms * gone).sum(1))).log()
    left_out = criterion("oracle")((one, two), None, label, PLACES)
    assert torch.allclose(left_out, wanted.view(2, B).mean(0), rtol=1e-9)


def test_larger_shares_of_the_oracle_hold_smaller_ones() -> None:
    places = torch.randint(0, 50000, (400,), generator=torch.Generator().manual_seed(0)).unique()
    chance = drawn(places[:, None], places)
    assert torch.equal(chance, chance.T) and chance.min() >= 0 and chance.max() < 1
    upper = chance[torch.ones_like(chance, dtype=torch.bool).triu(1)]
    assert upper.histc(10, 0, 1) / len(upper) == pytest.approx([0.1] * 10, abs=0.005)
    one, two, label = some()
    losses = [float(criterion(f"oracle({s / 4})")((one, two), None, label, PLACES).mean()) for s in range(5)]
    assert losses == sorted(losses, reverse=True) and losses[0] > losses[-1]


def test_more_than_two_views_are_the_mean_over_pairs() -> None:
    one, two, label = some()
    three = further(1)[0]
    loss_fn = criterion("oracle")
    pairs = [loss_fn(pair, None, label, PLACES) for pair in ((one, two), (one, three), (two, three))]
    assert torch.allclose(loss_fn((one, two, three), None, label, PLACES), torch.stack(pairs).mean(0))


@pytest.mark.parametrize("spec", TREATMENTS)
def test_the_loss_changes_no_state_and_follows_the_order_of_images(spec: str) -> None:
    one, two, label = some()
    loss_fn = criterion(spec)
    before = {name: value.clone() for name, value in loss_fn.state_dict().items()}
    first = loss_fn((one, two), None, label, PLACES)
    assert torch.equal(first, loss_fn((one, two), None, label, PLACES))
    assert all(torch.equal(value, before[name]) for name, value in loss_fn.state_dict().items())
    order = torch.randperm(B, generator=torch.Generator().manual_seed(3))
    loss_fn.support = tuple(view[order] for view in loss_fn.support)
    assert torch.allclose(loss_fn((one[order], two[order]), None, label[order], PLACES[order]), first[order])


@pytest.mark.parametrize("spec", TREATMENTS)
@pytest.mark.parametrize("case", ["all alike", "one class", "one image", "cold"])
def test_gradients_are_numbers(spec: str, case: str) -> None:
    """Where every negative is suspect, where there are no negatives, and where exponentials overflow."""
    one, two, label = some()
    count = 1 if case == "one image" else B
    one, two = one[:count].float(), two[:count].float()
    if case == "all alike":
        one, two = (torch.ones_like(z) + 1e-3 * z for z in (one, two))
    label = torch.zeros_like(label) if case == "one class" else label
    loss_fn = criterion(spec).float()
    loss_fn.support = tuple(view[:count].float() for view in loss_fn.support)
    loss_fn.temperature = 0.005 if case == "cold" else T
    one.requires_grad_(True)
    loss = loss_fn((one, two), None, label[:count], PLACES[:count])
    loss.sum().backward()
    assert loss.isfinite().all() and one.grad is not None and one.grad.isfinite().all()


def test_what_a_detector_says_of_itself() -> None:
    """Counted by hand: 2 x 4 images of two classes, the first two of each class with equal embeddings."""
    label = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    axes = torch.eye(8, dtype=torch.float64)
    one = axes[[0, 0, 1, 2, 3, 3, 4, 2]]  # images 3 and 7, of different classes, are equal too
    loss_fn = NTXent(T, build("fnc(0, 8, 0.5)", "Negatives").begin(8, 8))
    loss_fn((one, one), None, label, torch.arange(8))
    # of 7 other images, 3 are of an image's class; equal: 0-1, 4-5 (same class), 3-7 (not): precision 2 of 3, recall 2 of 12
    rates = rates_of(loss_fn)
    assert rates == pytest.approx(
        {
            "false_negative_rate": 3 / 7,
            "detector_precision": 2 / 3,
            "detector_recall": 2 / 12,
            "false_negatives_left": 10 / 25,
        }
    )
    loss_fn((one, one), None, None, torch.arange(8))
    assert rates_of(loss_fn) == {}


def test_the_oracle_finds_all_and_nothing_else() -> None:
    one, two, label = some()
    loss_fn = criterion("oracle")
    loss_fn((one, two), None, label, PLACES)
    rates = rates_of(loss_fn)
    assert rates["detector_precision"] == rates["detector_recall"] == 1 and rates["false_negatives_left"] == 0
    loss_fn = criterion("oracle(0.5)")
    loss_fn((one, two), None, label, PLACES)
    assert rates_of(loss_fn)["detector_precision"] == 1 and 0.2 < rates_of(loss_fn)["detector_recall"] < 0.8
    loss_fn = criterion("debiased")
    loss_fn((one, two), None, label, PLACES)
    assert set(rates_of(loss_fn)) == {"false_negative_rate"}


@pytest.mark.parametrize("share", [0.05, 0.2, 0.5])
def test_thresholds_come_to_the_quantile(share: float) -> None:
    """Over all of fixed data, in batches of a quarter: no single batch contains all negatives of an image."""
    count = 200
    one, two, _ = some(1, count)
    loss_fn = NTXent(T, build(f"glofnd({share}, rate=0.01)", "Negatives").begin(count, D))
    rng = torch.Generator().manual_seed(0)
    found = torch.zeros(count, dtype=torch.float64)
    for epoch in range(80):
        order = torch.randperm(count, generator=rng)
        for places in order.split(50):
            loss_fn((one[places], two[places]), None, None, places)
            loss_fn.keep(loss_fn.remember((), None))  # type: ignore[arg-type]
        found += loss_fn.treatment.threshold / 40 if epoch >= 40 else 0
    z = F.normalize(torch.cat([one, two]), dim=1)
    cosine, image = z @ z.T, torch.arange(count).repeat(2)
    above = ((cosine > found.repeat(2)[:, None]) & (image[:, None] != image)).sum(1) / (2 * count - 2)
    assert float(above.mean()) == pytest.approx(share, abs=0.015)
    assert float((above.view(2, -1).mean(0) - share).abs().mean()) < 0.03
    assert loss_fn.treatment.visits.tolist() == [80] * count


def test_negatives_wait_until_an_image_is_known() -> None:
    one, two, label = some()
    loss_fn, plain = criterion("glofnd(0.2, wait=2)"), nt_xent(some()[0], some()[1], T)
    for step in range(3):
        loss = loss_fn((one, two), None, label, PLACES)
        assert torch.allclose(loss, plain) == (step < 2)
        loss_fn.keep(loss_fn.remember((), None))  # type: ignore[arg-type]


def in_classes(count: int, classes: int, noise: float) -> tuple[Tensor, Tensor, Tensor]:
    """Two views' embeddings [count, D] around one direction for each class, and the labels."""
    rng = torch.Generator().manual_seed(3)
    label = torch.arange(count) % classes
    one, two = (torch.eye(D)[label] + noise * torch.randn(count, D, generator=rng) for _ in range(2))
    return one.double(), two.double(), label


def rates_of(loss_fn: NTXent) -> dict[str, float]:
    """The logs as numbers: a rate is (part, whole), so that the engine reads both later, and a share of nothing is left out."""
    logs = {key: value if isinstance(value, tuple) else (value, 1) for key, value in loss_fn.logs().items()}
    return {key: float(part) / float(whole) for key, (part, whole) in logs.items() if whole}


def epochs_of(loss_fn: NTXent, one: Tensor, two: Tensor, label: Tensor, epochs: int) -> list[dict[str, float]]:
    """Shows all images in batches of 12, each epoch in another order; the mean of each epoch's rates."""
    rng, found = torch.Generator().manual_seed(0), []
    for _ in range(epochs):
        rates: list[dict[str, float]] = []
        for places in torch.randperm(len(one), generator=rng).split(12):
            loss_fn((one[places], two[places]), None, label[places], places)
            loss_fn.keep(loss_fn.remember((), None))  # type: ignore[arg-type]
            rates.append(rates_of(loss_fn))
        found.append({key: sum(one.get(key, 0.0) for one in rates) / len(rates) for key in rates[-1]})
    return found


def test_pseudo_labels_find_classes_that_embeddings_show() -> None:
    """Of three classes apart, none is trusted in the first epoch, a part in the second, all in the fourth: then the oracle."""
    one, two, label = in_classes(60, 3, 0.1)
    loss_fn = NTXent(T, build("ifnd(3, ramp=3)", "Negatives").begin(60, D)).double()
    first, second, third, fourth = epochs_of(loss_fn, one, two, label, 4)
    assert "detector_precision" not in first and first["detector_recall"] == 0
    assert 0.03 < second["detector_recall"] < 0.3 < third["detector_recall"] < 0.7
    assert fourth["detector_precision"] == fourth["detector_recall"] == 1 and fourth["false_negatives_left"] == 0
    places = torch.arange(12)
    found = loss_fn((one[places], two[places]), None, label[places], places)
    oracle = NTXent(T, build("oracle", "Negatives").begin(60, D))
    assert torch.allclose(found, oracle((one[places], two[places]), None, label[places], places))


def test_pseudo_labels_of_noise_are_no_better_than_chance() -> None:
    """Negative control: where embeddings show no class, precision is the rate of false negatives."""
    one, two, _ = in_classes(120, 1, 5.0)
    label = torch.randint(0, 3, (120,), generator=torch.Generator().manual_seed(1))
    loss_fn = NTXent(T, build("ifnd(3, ramp=1)", "Negatives").begin(120, D)).double()
    rates = epochs_of(loss_fn, one, two, label, 4)[-1]
    assert rates["detector_precision"] == pytest.approx(rates["false_negative_rate"], abs=0.1)


def test_the_most_confident_images_are_trusted_first() -> None:
    one, two, label = in_classes(60, 3, 0.3)
    loss_fn = NTXent(T, build("ifnd(3, ramp=4)", "Negatives").begin(60, D)).double()
    epochs_of(loss_fn, one, two, label, 2)
    treatment = loss_fn.treatment
    confidence = (10 * treatment.memory @ treatment.centre.T).softmax(1).amax(1)
    trusted = treatment.label >= 0
    assert int(trusted.sum()) == 30
    assert confidence[trusted].min() >= confidence[~trusted].max()


def learner_of(
    spec: str, encoder: str = "tiny(widths=(8, 8, 8, 8))", card: DataCard | None = None, images: int = 12
) -> Learner:
    net = load_encoder(encoder).requires_grad_(True).train()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build(spec, "Method").begin(net, card or toy_card(), images)


def train(learner: Learner, batch: Samples, first: int, last: int, same: bool = False) -> list[float]:
    weights = [one for one in learner.parameters() if one.requires_grad]
    optimizer = torch.optim.SGD(weights, lr=0.05)
    losses = []
    for step in range(first, last):
        when = When(seeds.generator("negatives", 0 if same else step), step, last)
        found = learner(batch, when)
        optimizer.zero_grad()
        found.loss.backward()
        learner.after_backward(when)
        optimizer.step()
        learner.after_step(found.keep, when)
        losses.append(float(found.loss.detach()))
    return losses


def images_of(count: int = 12) -> Samples:
    return Samples(toy_images(count), {"label": torch.arange(count) % 3}, torch.arange(count))


NAMES = [name for name, entry in entries().items() if entry.kind == "Negatives"]


@pytest.mark.parametrize("name", NAMES)
def test_it_trains_on_images_and_on_clips(name: str) -> None:
    losses = train(learner_of(f"simclr(width=16, negatives={name})"), images_of(), 0, 12, same=True)
    assert losses[-1] < losses[0]
    data = open_data("moving(size=16, frames=4, train=24, test=12)")
    batch = load(data.split("train"), range(12))
    clips = Samples(pixels(batch.images, "cpu"), batch.target, torch.arange(12))
    learner = learner_of(f"simclr(width=16, negatives={name})", "small_clips(widths=[8, 16])", data.card)
    losses = train(learner, clips, 0, 10, same=True)
    assert losses[-1] < losses[0]
    assert "false_negative_rate" in learner(clips, When(seeds.generator("logs", 0))).logs


@pytest.mark.parametrize("name", ["oracle", "fnc(2)", "ifnd(2, 2)", "glofnd(0.3)"])
@pytest.mark.parametrize("wrapper", ["replace", "dual", "extra", "free", "trajectory"])
def test_it_trains_with_an_adversary(name: str, wrapper: str) -> None:
    rest = {"free": "", "trajectory": ", steps=2"}.get(wrapper, ", adversary(pgd(2, keep=last))")
    learner = learner_of(f"{wrapper}(simclr(width=16, negatives={name}){rest})")
    losses = train(learner, images_of(), 0, 10, same=True)
    assert losses[-1] < losses[0]


def test_support_views_are_drawn_apart_and_have_no_gradient() -> None:
    learner, batch = learner_of("simclr(width=16, negatives=fnc(3))"), images_of()
    drawn_views = learner.draw(batch, When(seeds.generator("s", 0)))
    support = learner.inner.criterion.support  # type: ignore[union-attr]
    assert len(drawn_views) == 2 and len(support) == 3
    assert not any(z.requires_grad for z in support)
    plain = learner_of("simclr(width=16)").draw(batch, When(seeds.generator("s", 0)))
    assert all(torch.equal(one, other) for one, other in zip(drawn_views, plain, strict=True))
    assert len({round(float(z.sum()), 4) for z in support}) == 3
    saved = list(learner.state_dict(keep_vars=True).values())
    assert len({id(value) for value in saved}) == len(saved)


@pytest.mark.parametrize("negatives", ["glofnd(0.3)", "ifnd(3, 5)"])
def test_memories_resume_where_they_stopped(negatives: str) -> None:
    """Saved after 4 steps and loaded into a new learner: equal, bit for bit, to 8 steps without a stop."""
    spec, batch = f"simclr(width=16, negatives={negatives})", images_of()
    whole, begun = learner_of(spec), learner_of(spec)
    train(whole, batch, 0, 8)
    train(begun, batch, 0, 4)
    file = io.BytesIO()
    torch.save(begun.state_dict(), file)
    file.seek(0)
    resumed = learner_of(spec)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    train(resumed, batch, 4, 8)
    names = [name for name in whole.state_dict() if "treatment" in name]
    assert len(names) == 4
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in whole.state_dict().items())
    assert not torch.equal(whole.state_dict()[names[0]], begun.state_dict()[names[0]])


def _share(rank: int, file: str, specs: tuple[str, ...], answers: Any) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    one, two, label = some()
    rows = slice(rank * B // 2, (rank + 1) * B // 2)
    for place, spec in enumerate(specs):
        loss_fn = criterion(spec)
        loss_fn.support = tuple(view[rows] for view in loss_fn.support)
        assert own(one[rows]).tolist() == list(range(B))[rows]
        for _ in range(2):
            loss = loss_fn((one[rows], two[rows]), None, label[rows], PLACES[rows])
            kept = loss_fn.remember((), None)
            if kept is not None:
                loss_fn.keep(kept)
        answers[place, rows] = loss
        if spec.startswith("glofnd"):
            answers[-1 - rank] = loss_fn.treatment.threshold[PLACES]
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_see_each_others_negatives(tmp_path: Any) -> None:
    """Two processes with 5 images each equal one with 10, and both know all thresholds."""
    answers = torch.zeros(len(TREATMENTS) + 2, B, dtype=torch.float64).share_memory_()
    processes.start_processes(_share, (str(tmp_path / "meet"), TREATMENTS, answers), 2, start_method="fork")  # type: ignore[attr-defined]
    one, two, label = some()
    for place, spec in enumerate(TREATMENTS):
        loss_fn = criterion(spec)
        for _ in range(2):
            loss = loss_fn((one, two), None, label, PLACES)
            kept = loss_fn.remember((), None)
            if kept is not None:
                loss_fn.keep(kept)
        assert torch.allclose(answers[place], loss), spec
        if spec.startswith("glofnd"):
            assert torch.equal(answers[-1], answers[-2])
            assert torch.allclose(answers[-1], loss_fn.treatment.threshold[PLACES])


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("oracle(1.5)", "between 0 and 1"), ("fnc(-1)", "at least 0"), ("fnc(top=0)", "at least 1"),
        ("fnc(threshold=2)", "a cosine"), ("glofnd(0)", "within"), ("glofnd(0.1, 0)", "above 0"),
        ("ifnd(1)", "clusters 1"), ("ifnd(sharpness=0)", "sharpness 0"), ("debiased(1)", "tau_plus 1"), ("hard(-1)", "beta is -1"),
    ],
)  # fmt: skip
def test_wrong_arguments(spec: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        build(spec, "Negatives")


def test_the_oracle_needs_labels() -> None:
    with pytest.raises(SpecError, match="these negatives need labels, and bare has no classes"):
        learner_of("simclr(negatives=oracle)", card=DataCard("bare", (), (16, 16)))
    one, two, _ = some()
    with pytest.raises(ValueError, match="oracle needs labels"):
        criterion("oracle")((one, two), None, None, PLACES)
