"""How near the minimal perturbations of an attack come to the best known ones of the same images."""

from __future__ import annotations

import numpy as np


def optimality(sizes: dict[str, np.ndarray]) -> dict[str, float]:
    """The optimality of each attack, in [0, 1], against the smallest size of each image over all of them (the envelope).

    sizes: [n] by attack, of the same images in one norm; 0 where an image is misclassified without a perturbation, infinite
    where none was found. With the robust accuracy as a curve over the radius, up to the envelope's largest finite size e0:
    (clean accuracy * e0 - area under the attack's curve) / (the same of the envelope), which is the sum over images of
    max(e0 - size, 0) where size > 0, over that of the envelope. NaN where the envelope has fewer than two different sizes.

    Source: Cina et al., AttackBench, AAAI 2025, equation 5. differs: the envelope is of these attacks alone.
    """
    envelope = np.minimum.reduce(list(sizes.values()))
    finite = envelope[np.isfinite(envelope)]
    most = finite.max(initial=0.0)
    counted = envelope > 0
    whole = np.maximum(most - envelope[counted], 0).sum()
    if not whole:
        return dict.fromkeys(sizes, float("nan"))
    return {name: float(np.maximum(most - one[counted], 0).sum() / whole) for name, one in sizes.items()}
