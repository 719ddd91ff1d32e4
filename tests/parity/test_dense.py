"""SegPGD and CosPGD against their papers' formulas, written out pixel by pixel; metrics against scikit-learn and torchmetrics."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from hardsight.catalog import build
from hardsight.metrics import of
from tests.conftest import MASKS, toy_target

K, SIZE = len(MASKS), 5


@pytest.fixture
def logits() -> torch.Tensor:
    return 3 * torch.randn(3, K, SIZE, SIZE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.fixture
def mask() -> torch.Tensor:
    return toy_target(build("segment", "Task"), 3, SIZE)


def by_hand(logits: torch.Tensor, mask: torch.Tensor, weight) -> list[float]:
    found = []
    for b in range(len(logits)):
        total, count = 0.0, 0
        for i in range(SIZE):
            for j in range(SIZE):
                label = int(mask[b, i, j])
                if label == 255:
                    continue
                scores = [math.exp(float(v)) for v in logits[b, :, i, j]]
                share = [s / sum(scores) for s in scores]
                right = max(range(K), key=lambda k: share[k]) == label
                total += weight(share, label, right) * -math.log(share[label])
                count += 1
        found.append(total / count)
    return found


@pytest.mark.parametrize(("t", "steps"), [(0, 20), (7, 20), (19, 20)])
def test_segpgd_is_the_formula(logits: torch.Tensor, mask: torch.Tensor, t: int, steps: int) -> None:
    lam = t / (2 * steps)
    expected = by_hand(logits, mask, lambda share, label, right: 1 - lam if right else lam)
    mine = build("segpgd_ce", "Loss")(logits, mask, t / steps)
    assert np.allclose(mine.numpy(), expected, atol=1e-9)


def test_cospgd_is_the_formula(logits: torch.Tensor, mask: torch.Tensor) -> None:
    def cosine(share: list[float], label: int, right: bool) -> float:
        one_hot = [float(k == label) for k in range(K)]
        return sum(a * b for a, b in zip(share, one_hot, strict=True)) / math.sqrt(sum(a * a for a in share))

    mine = build("cospgd_ce", "Loss")(logits, mask, 0.5)
    assert np.allclose(mine.numpy(), by_hand(logits, mask, cosine), atol=1e-9)


def test_cospgd_holds_its_weight_fixed(logits: torch.Tensor, mask: torch.Tensor) -> None:
    one = logits.clone().requires_grad_(True)
    build("cospgd_ce", "Loss")(one, mask, 0.0).sum().backward()
    p = logits.softmax(1)
    hot = torch.nn.functional.one_hot(torch.where(mask == 255, 0, mask), K).movedim(-1, 1)
    weight = (p * hot).sum(1) / p.norm(dim=1)
    valid = mask != 255
    expected = (weight * valid)[:, None] * (p - hot) / valid.flatten(1).sum(1).view(-1, 1, 1, 1)
    assert torch.allclose(one.grad, expected, atol=1e-9)


def test_miou_equals_torchmetrics_and_scikit_learn(logits: torch.Tensor, mask: torch.Tensor) -> None:
    from sklearn.metrics import accuracy_score, jaccard_score
    from torchmetrics.classification import MulticlassJaccardIndex

    task = build("segment", "Task")
    found = of("segment").summary({k: v.numpy() for k, v in task.counts(logits, mask).items()})
    valid = mask != 255
    truth, seen = mask[valid].numpy(), logits.argmax(1)[valid].numpy()
    assert math.isclose(found["miou"], jaccard_score(truth, seen, average="macro"), abs_tol=1e-6)
    assert math.isclose(found["pixel_accuracy"], accuracy_score(truth, seen), abs_tol=1e-9)
    metric = MulticlassJaccardIndex(K, ignore_index=255)
    assert math.isclose(found["miou"], float(metric(logits.argmax(1), mask)), abs_tol=1e-6)


def test_depth_figures_are_the_formulas() -> None:
    task = build("depth", "Task")
    target = toy_target(task, 4)
    output = 0.2 + 9 * torch.rand(target.shape, generator=torch.Generator().manual_seed(5))
    found = of("depth").summary({k: v.numpy() for k, v in task.counts(output, target).items()})
    there = target > 0
    d, t = output[there].double().numpy(), target[there].double().numpy()
    ratio = np.maximum(d / t, t / d)
    expected = {
        "rmse": np.sqrt(((d - t) ** 2).mean()),
        "absrel": (np.abs(d - t) / t).mean(),
        "log10": np.abs(np.log10(d) - np.log10(t)).mean(),
        "delta1": (ratio < 1.25).mean(),
        "delta2": (ratio < 1.25**2).mean(),
        "delta3": (ratio < 1.25**3).mean(),
    }
    for key, value in expected.items():
        assert math.isclose(found[key], value, rel_tol=1e-6), key
