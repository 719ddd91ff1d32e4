"""Geometry of embeddings: formulas on arrays [n, D] of n images, numpy only.

Figures that are means over images are returned per image, [n]. The others (pairs, spectra, classes) belong to a sample:
`drawn` [draws, n] is how often each bootstrap sample contains each image, and the result is [draws]; None means every image
once. So the same formula gives the figure and its bootstrap. Two copies of one image never count as a pair: their distance
is always 0.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Drawn = Array | None


def on_sphere(z: np.ndarray) -> Array:
    """Rows normalized to length 1; a row of zeros stays zero."""
    z = np.asarray(z, np.float64)
    length = np.linalg.norm(z, axis=1, keepdims=True)
    return z / np.where(length > 0, length, 1.0)


def alignment(one: np.ndarray, other: np.ndarray) -> Array:
    """[n]: squared distance of two views' embeddings on the unit sphere; 0 where the encoder is invariant.

    Source: Wang and Isola, ICML 2020, L_align = E ||f(x) - f(x+)||^2 with its exponent 2.
    """
    return ((on_sphere(one) - on_sphere(other)) ** 2).sum(1)


def uniformity(z: np.ndarray, drawn: Drawn = None, t: float = 2.0) -> Array:
    """[draws]: log of the mean of exp(-t ||u - v||^2) over pairs of images on the unit sphere; 0 if collapsed, -2t at best.

    Source: Wang and Isola, ICML 2020, L_uniform. On a high-dimensional sphere two random points have squared distance 2.
    """
    u = on_sphere(z)
    return np.log(_pairs(np.exp(-t * (2 - 2 * u @ u.T)), drawn))


def effective_rank(z: np.ndarray, drawn: Drawn = None, centred: bool = False) -> Array:
    """[draws]: exp of the entropy of the singular values divided by their sum; from 1 to D.

    centred: the mean embedding is subtracted first, so that a direction shared by all images does not count.
    Source: Roy and Vetterli, EUSIPCO 2007; without centring it is RankMe (Garrido et al., ICML 2023).
    """
    found = []
    for weights in _every(len(z), drawn):
        share = spectrum(z, weights, centred)
        share = share[share > 0]
        found.append(np.exp(-(share * np.log(share)).sum()) if len(share) else np.nan)
    return np.array(found)


def spectrum(z: np.ndarray, weights: Array | None = None, centred: bool = True) -> Array:
    """Singular values of embeddings [n, D], largest first, divided by their sum; weights [n]: how often a row counts."""
    z = np.asarray(z, np.float64)
    weights = np.ones(len(z)) if weights is None else weights
    if centred:
        z = z - weights @ z / weights.sum()
    z = z[weights > 0] * np.sqrt(weights[weights > 0])[:, None]
    small = z.T @ z if z.shape[1] <= len(z) else z @ z.T
    values = np.sqrt(np.linalg.eigvalsh(small)[::-1].clip(0))
    values[values < 1e-7 * values.max(initial=0)] = 0.0  # below this, float64 cannot resolve the squared value
    return values / (values.sum() or 1.0)


def typical_distance(z: np.ndarray, drawn: Drawn = None) -> Array:
    """[draws]: root mean square distance between two images' embeddings; other lengths are compared with it."""
    z = np.asarray(z, np.float64)
    return np.sqrt(_pairs(_squares(z), drawn))


def class_lengths(z: np.ndarray, label: np.ndarray, drawn: Drawn = None) -> tuple[Array, Array]:
    """(spread [draws], distance [draws]), root mean squares on the unit sphere.

    spread: distance of images to their class centre, unbiased (n - 1). distance: between two class centres, corrected for
    the distance that centres of few images have by chance. spread is NaN if no class has two images, distance if fewer than
    two classes do.
    """
    order = np.argsort(label, kind="stable")
    u, (_, starts) = on_sphere(z)[order], np.unique(np.asarray(label)[order], return_index=True)
    spreads, distances = [], []
    for weights in _every(len(z), drawn):
        w = weights[order]
        count = np.add.reduceat(w, starts)
        held = count >= 2
        if not held.any():
            spreads.append(np.nan)
            distances.append(np.nan)
            continue
        sums, squares = np.add.reduceat(w[:, None] * u, starts, axis=0), np.add.reduceat(w * (u**2).sum(1), starts)
        count, sums, squares = count[held], sums[held], squares[held]
        centre = sums / count[:, None]
        within = squares - count * (centre**2).sum(1)
        spreads.append(np.sqrt(max(0.0, within.sum() / (count - 1).sum())))
        classes = len(count)
        if classes < 2:
            distances.append(np.nan)
            continue
        chance = within / (count - 1) / count
        apart = classes * (centre**2).sum() - (centre.sum(0) ** 2).sum()
        mean = apart / (classes * (classes - 1) / 2) - 2 * chance.mean()
        distances.append(np.sqrt(max(0.0, mean)))
    return np.array(spreads), np.array(distances)


def false_negatives(z: np.ndarray, label: np.ndarray, k: int = 10) -> Array:
    """[n]: the share of an image's k nearest neighbours, by cosine, that are of its class: false negatives.

    They have the largest weight in a contrastive loss that treats every other image as a negative (Huynh et al., WACV 2022).
    """
    u = on_sphere(z)
    alike = u @ u.T
    np.fill_diagonal(alike, -np.inf)
    k = min(k, len(u) - 1)
    nearest = np.argpartition(-alike, k - 1, axis=1)[:, :k]
    return (np.asarray(label)[nearest] == np.asarray(label)[:, None]).mean(1)


def same_class(label: np.ndarray) -> Array:
    """[n]: the share of all other images that are of an image's class: the chance level of `false_negatives`."""
    _, inverse, counts = np.unique(label, return_inverse=True, return_counts=True)
    return (counts[inverse] - 1) / max(1, len(label) - 1)


def margins(z: np.ndarray, weight: np.ndarray, bias: np.ndarray, label: np.ndarray) -> Array:
    """[n]: signed distance of embeddings [n, D] to the nearest decision boundary of their class; logits z W^T + b, W [K, D].

    min over k != y of (l_y - l_k) / ||w_y - w_k||: positive if the prediction is correct, and then the exact distance.
    """
    z, weight = np.asarray(z, np.float64), np.asarray(weight, np.float64)
    logits = z @ weight.T + bias
    own = np.arange(len(z)), np.asarray(label)
    gap = logits[own][:, None] - logits
    length = np.sqrt(_squares(weight))[np.asarray(label)]
    with np.errstate(divide="ignore", invalid="ignore"):
        far = gap / length
    far[np.isnan(far) | (length == 0)] = np.inf  # classes with identical weights have no boundary between them
    far[own] = np.inf
    return far.min(1)


def cosine(one: np.ndarray, other: np.ndarray) -> Array:
    """[n]: cosine similarity of corresponding rows."""
    return (on_sphere(one) * on_sphere(other)).sum(1)


def cka(one: np.ndarray, other: np.ndarray, drawn: Drawn = None, debiased: bool = True) -> Array:
    """[draws]: linear centred kernel alignment of two embeddings of the same images; 1: the same up to rotation and scale.

    debiased: use the unbiased estimate of HSIC; the biased one tends to 1 if there are fewer images than dimensions.
    Source: Kornblith et al., ICML 2019; Song et al., JMLR 2012 (HSIC_1).
    """
    k, m = (z @ z.T for z in (np.asarray(z, np.float64) - np.mean(z, 0) for z in (one, other)))
    if debiased:
        np.fill_diagonal(k, 0.0)
        np.fill_diagonal(m, 0.0)
    w = _every(len(k), drawn)
    crossed, first, second = _hsic(k, m, w, debiased), _hsic(k, k, w, debiased), _hsic(m, m, w, debiased)
    with np.errstate(divide="ignore", invalid="ignore"):
        return crossed / np.sqrt(first * second)


def _hsic(k: Array, m: Array, w: Array, debiased: bool) -> Array:
    """[draws], up to a factor that is the same for all pairs of kernels and cancels in the ratio."""
    n = w.sum(1)
    kw, mw = w @ k, w @ m
    direct = ((w @ (k * m)) * w).sum(1)
    sums = (kw * w).sum(1) * (mw * w).sum(1)
    mixed = (kw * mw * w).sum(1)
    if debiased:
        return direct + sums / ((n - 1) * (n - 2)) - 2 / (n - 2) * mixed
    return direct + sums / n**2 - 2 / n * mixed


def _every(n: int, drawn: Drawn) -> Array:
    return np.ones((1, n)) if drawn is None else drawn


def _pairs(values: Array, drawn: Drawn) -> Array:
    """[draws]: the mean of values [n, n] over pairs of two images."""
    w = _every(len(values), drawn)
    own = values.diagonal()
    total = ((w @ values) * w).sum(1) - (w**2) @ own
    return total / (w.sum(1) ** 2 - (w**2).sum(1))


def _squares(z: Array) -> Array:
    """[n, n]: squared distances between rows."""
    lengths = (z**2).sum(1)
    return (lengths[:, None] + lengths - 2 * z @ z.T).clip(0)
