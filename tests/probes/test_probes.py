"""Evaluation protocols: nearest neighbours, adversarially trained heads, fine-tuning, mean of crops; runs and resuming."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hardsight.attacks.attack import Attack
from hardsight.core.errors import DataError, SpecError
from hardsight.encoders import load_encoder, weights_hash
from hardsight.encoders.base import Features
from hardsight.measure.bench import Bench
from hardsight.measure.plan import plan
from hardsight.probes.linear import fit_probe
from hardsight.specs.catalog import build
from hardsight.specs.recipe import Recipe
from hardsight.store.cells import Store
from hardsight.tasks.knn import KnnHead, _greatest

DATA = "made(size=32, train=32, test=12)"
SMALL = Recipe(
    name="protocols",
    encoders=("tiny",),
    data=(DATA,),
    attacks=("clean", "pgd(2)"),
    count=6,
    chunk=4,
    gallery=2,
    audit=0,
)
PROBES = {
    "finetune": "finetune(epochs=2, batch=16)",
    "alf": "alf(pgd(1), epochs=2, batch=16)",
    "aff": "aff(pgd(1), epochs=2, batch=16, lr=0.01)",
}


def as_features(pooled: torch.Tensor) -> Features:
    return Features(pooled, None, (), None, (1, 1), (1, 1))


def filled(
    count: int = 300, classes: int = 7, k: int = 20, temperature: float = 0.07
) -> tuple[KnnHead, torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    bank, label = torch.randn(count, 16, generator=rng), torch.randint(0, classes, (count,), generator=rng)
    head = KnnHead(16, classes, k, temperature)
    head.fill(bank, label)
    return head, bank, label


@pytest.mark.parametrize(("k", "count"), [(1, 300), (20, 300), (5, 3000)])
def test_knn_votes_as_scikit_learn_does(k: int, count: int) -> None:
    from sklearn.neighbors import KNeighborsClassifier

    head, bank, label = filled(count, k=k)
    x = torch.randn(50, 16, generator=torch.Generator().manual_seed(1))
    weigh = lambda far: np.exp((1 - far) / 0.07)  # noqa: E731
    theirs = KNeighborsClassifier(k, metric="cosine", algorithm="brute", weights=weigh)  # type: ignore[arg-type]
    share = theirs.fit(bank.double().numpy(), label.numpy()).predict_proba(x.double().numpy())
    logits = head(as_features(x))
    assert np.array_equal(logits.argmax(1).numpy(), theirs.classes_[share.argmax(1)])
    voted = share > 0
    assert np.allclose(logits.exp().numpy()[voted], share[voted], atol=1e-4)
    assert voted.sum() < share.size or k > 5


def test_a_unanimous_vote_still_has_a_gradient_to_the_pixels() -> None:
    """If all neighbours are of one class, the vote itself is constant, and an attack on it would have zero gradient."""
    bank = torch.cat([torch.eye(8)[:1].repeat(30, 1), torch.eye(8)[1:2].repeat(30, 1)])
    bank = bank + 0.01 * torch.randn(60, 8, generator=torch.Generator().manual_seed(0))
    head = KnnHead(8, 2, 20, 0.07)
    head.fill(bank, torch.arange(60) // 30)
    x = (torch.eye(8)[:1] + 0.1).requires_grad_(True)
    logits = head(as_features(x))
    assert float(logits[0, 0].detach()) == pytest.approx(0, abs=1e-5)
    assert torch.isfinite(logits).all()
    torch.nn.functional.cross_entropy(logits, torch.zeros(1, dtype=torch.int64)).backward()
    assert x.grad is not None
    assert float(x.grad.abs().max()) > 0


def test_the_greatest_are_those_of_topk() -> None:
    values = torch.randn(9, 64 * 50 + 17, generator=torch.Generator().manual_seed(2))
    best, places = _greatest(values, 20)
    wanted = values.topk(20, 1)
    assert torch.equal(best, wanted.values)
    assert torch.equal(places, wanted.indices)


def test_a_class_without_a_vote_never_wins() -> None:
    head, _, _ = filled(classes=40, k=3)
    x = torch.randn(200, 16, generator=torch.Generator().manual_seed(3))
    logits = head(as_features(x))
    alike = torch.nn.functional.normalize(x, dim=1) @ head.bank.T
    classes = torch.searchsorted(head.ends, alike.topk(3, 1).indices, right=True)
    assert (logits.argmax(1)[:, None] == classes).any(1).all()


def test_knn_is_attacked_and_refuses() -> None:
    encoder = load_encoder("zoo:made_supervised")
    system = fit_probe(encoder, "classify(head=knn, k=5)", DATA)
    batch = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    y = system.output(batch).argmax(1)
    attack: Attack = build("pgd(5)", "Attack")
    found = attack(system, batch, y, build("linf(8/255)", "Threat"), torch.Generator().manual_seed(0))
    with torch.no_grad():
        after, before = (system.task.loss(system.output(one), y) for one in (found.x_adv, batch))
    assert (after > before).all()
    assert not found.flat.any()
    with pytest.raises(DataError, match="its bank has 32"):
        fit_probe(encoder, "classify(head=knn, k=33)", DATA)
    with pytest.raises(DataError, match="fit_probe fills it"):
        KnnHead(16, 3, 5, 0.07)(as_features(torch.rand(2, 16)))


@pytest.mark.parametrize("task", ["classify", "segment", "depth"])
@pytest.mark.parametrize("name", PROBES)
@pytest.mark.slow
def test_each_cell_runs_and_resumes(tmp_path: Path, name: str, task: str) -> None:
    recipe = replace(SMALL, probe=PROBES[name], tasks=(task,))
    Bench(plan(recipe), Store(tmp_path)).run()
    before = {
        path.relative_to(tmp_path): path.read_bytes()
        for path in tmp_path.rglob("*")
        if path.suffix in (".npz", ".safetensors")
    }
    cells = Store(tmp_path).cells()
    assert all(np.isfinite(cell.rows()["error"]).all() for cell in cells)
    for path in [*tmp_path.glob("cells/*/rows-00001.npz"), *tmp_path.glob("cells/*/done.json")]:
        path.unlink()
    Bench(plan(recipe), Store(tmp_path)).run()  # the head is read from the store
    shas = {cell.what["encoder_card"]["sha256"] for cell in Store(tmp_path).cells()}
    assert (load_encoder("tiny").card.sha256 in shas) == (name == "alf")
    for path in tmp_path.rglob("*.safetensors"):
        path.unlink()
    for path in tmp_path.glob("cells/*/*.npz"):
        path.unlink()
    Bench(plan(recipe), Store(tmp_path)).run()  # trained again
    after = {
        path.relative_to(tmp_path): path.read_bytes()
        for path in tmp_path.rglob("*")
        if path.suffix in (".npz", ".safetensors")
    }
    assert after == before


@pytest.mark.parametrize("probe", ["finetune(epochs=1, batch=8)", "alf(pgd(1), epochs=1, batch=8)"])
def test_detectors_are_tuned_too(probe: str) -> None:
    start = fit_probe(load_encoder("tiny"), "detect(width=16)", DATA, f"{probe[:-1]}, lr=1e-9)").head.state_dict()
    tuned = fit_probe(load_encoder("tiny"), "detect(width=16)", DATA, f"{probe[:-1]}, lr=1e-3)").head.state_dict()
    assert any(not torch.allclose(start[name], tuned[name], atol=1e-6) for name in start)


def test_knn_cell_resumes(tmp_path: Path) -> None:
    recipe = replace(SMALL, tasks=("classify(head=knn, k=5)",))
    Bench(plan(recipe), Store(tmp_path)).run()
    before = {path: path.read_bytes() for path in tmp_path.rglob("rows-*.npz")}
    for path in tmp_path.glob("cells/*/rows-00001.npz"):
        path.unlink()
    Bench(plan(recipe), Store(tmp_path)).run()
    assert {path: path.read_bytes() for path in tmp_path.rglob("rows-*.npz")} == before


def test_the_encoder_that_others_use_is_not_changed() -> None:
    encoder = load_encoder("tiny")
    before = weights_hash(encoder)
    system = fit_probe(encoder, "classify", DATA, PROBES["aff"])
    assert weights_hash(encoder) == before == encoder.card.sha256
    assert system.encoder is not encoder
    assert system.encoder.card.sha256 == weights_hash(system.encoder) != before
    assert "tuned by aff" in system.encoder.card.note
    assert not any(part.training for part in (*encoder.modules(), *system.encoder.modules()))
    assert not any(p.requires_grad for p in (*encoder.parameters(), *system.encoder.parameters()))
    encoder.train().requires_grad_(True)
    frozen = fit_probe(encoder, "classify", DATA, PROBES["alf"])
    assert frozen.encoder is encoder
    assert weights_hash(encoder) == before
    assert encoder.training
    assert all(p.requires_grad and p.grad is None for p in encoder.parameters())


def test_training_images_that_cannot_be_read_are_reported(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for place in range(16):
        path = tmp_path / ("train" if place < 12 else "test") / "ab"[place % 2] / f"{place}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(path)
    (tmp_path / "train" / "a" / "0.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    data = f"folder:{tmp_path}(size=16)"
    with pytest.raises(DataError):
        fit_probe(load_encoder("tiny"), "classify", data, "finetune(epochs=2, batch=4)")
    with pytest.warns(UserWarning, match="left out") as warned:
        fit_probe(load_encoder("tiny"), "classify", data, "finetune(epochs=2, batch=4)", on_error="skip")
    assert len(warned) == 1


def test_attacks_leave_the_statistics_alone() -> None:
    """Batch norm is updated once per training step, for any number of passes of the attack."""
    for steps in (1, 4):
        system = fit_probe(load_encoder("tiny"), "classify", DATA, f"aff(pgd({steps}), loss=attacked, epochs=1, batch=16)")
        norms = [part for part in system.encoder.modules() if isinstance(part, torch.nn.BatchNorm2d)]
        start = [part for part in load_encoder("tiny").modules() if isinstance(part, torch.nn.BatchNorm2d)]
        for one, other in zip(norms, start, strict=True):
            assert one.num_batches_tracked is not None
            assert int(one.num_batches_tracked - other.num_batches_tracked) == 2  # type: ignore[operator]


def test_finetuning_lowers_the_loss_more_than_a_head_alone() -> None:
    data = "made(size=32, train=48, test=12)"
    encoder, images = load_encoder("tiny"), build(data, "Data").split("train")
    from hardsight.data.feed import load, pixels

    batch = load(images, range(48))
    x, y = pixels(batch.images, "cpu"), batch.target["label"]
    losses = []
    for lr in (1e-6, 0.05):
        system = fit_probe(encoder, "classify", data, f"finetune(epochs=8, batch=16, lr={lr})")
        with torch.no_grad():
            losses.append(float(system.task.loss(system.output(x), y).mean()))
    assert losses[1] < 0.8 * losses[0]


@pytest.mark.parametrize(
    ("task", "probe", "message"),
    [
        ("classify(head=knn)", "finetune(epochs=1)", "have no parameters"),
        ("classify(head=knn)", "alf(epochs=1)", "have no parameters"),
        ("classify(head=own)", "alf(epochs=1)", "classes"),
        ("classify(head=own)", "finetune(epochs=1)", "0 classes"),
        ("detect", "aff(epochs=1)", "TRADES"),
    ],
)
def test_what_cannot_be_is_refused(task: str, probe: str, message: str) -> None:
    data = DATA
    with pytest.raises((SpecError, DataError), match=message):
        fit_probe(load_encoder("tiny"), task, data, probe)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("classify(head=knn, k=0)", "at least 1"),
        ("alf(epochs=0)", "above 0"),
        ("aff(beta=0)", "above 0"),
        ("finetune(batch=1)", "at least 2"),
        ("finetune(weight_decay=-1.0)", "at least 0"),
        ("segment(head=knn)", "head"),
        ("crops(tiny, n=0)", "at least 1"),
        ("crops(tiny, scale=(0.5, 0.1))", "minimum <= maximum"),
    ],
)
def test_bad_specs_are_one_line(spec: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        build(spec)


def test_crops_are_the_mean_of_what_the_encoder_says_of_each() -> None:
    encoder, image = load_encoder("crops(tiny, n=3, seed=4)"), load_encoder("tiny")
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    from torchvision.transforms.v2.functional import resized_crop

    parts = [
        image(resized_crop(x, *box, [32, 32], antialias=True).clamp(0, 1)).pooled for box in encoder.cutter.boxes(32, 32)
    ]  # type: ignore[union-attr]
    assert torch.allclose(encoder(x).pooled, torch.stack(parts).mean(0), atol=1e-5)
    assert torch.equal(encoder(x).pooled, encoder(x).pooled)
    assert torch.allclose(encoder(x[1:]).pooled, encoder(x).pooled[1:], atol=1e-6)
    assert not torch.allclose(encoder(x).pooled, image(x).pooled, atol=1e-3)
    whole = load_encoder("crops(tiny, draw=central)")
    assert torch.equal(whole(x).pooled, image(x).pooled)


def test_fresh_crops_differ_and_have_a_gradient_to_the_image() -> None:
    encoder = load_encoder("crops(tiny, n=2, draw=fresh)")
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)).requires_grad_(True)
    one, other = encoder(x).pooled, encoder(x).pooled
    assert not torch.equal(one, other)
    one.square().sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0


@pytest.mark.parametrize("draw", ["fixed", "fresh"])
def test_crops_are_measured_and_resume(tmp_path: Path, draw: str) -> None:
    recipe = replace(SMALL, encoders=(f"crops(tiny, n=2, draw={draw})",), tasks=("classify",), probe="probe(epochs=1)")
    Bench(plan(recipe), Store(tmp_path)).run()
    before = {path: path.read_bytes() for path in tmp_path.rglob("rows-*.npz")}
    for path in [*tmp_path.glob("cells/*/rows-00001.npz"), *tmp_path.glob("heads/*")]:
        path.unlink()
    torch.rand(3)
    Bench(plan(recipe), Store(tmp_path)).run()
    assert {path: path.read_bytes() for path in tmp_path.rglob("rows-*.npz")} == before
