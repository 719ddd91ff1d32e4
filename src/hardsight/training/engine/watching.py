"""Evaluation of the encoder during training: k-NN accuracy, clean and under a short attack, on held-out images.

They are split off the training split before training starts; the test split is never used. Without labels, the result is how
similar the embeddings of attacked images stay to the clean ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from hardsight.attacks.search.base import Search
from hardsight.attacks.search.pgd import pgd
from hardsight.attacks.threats.base import Threat
from hardsight.attacks.threats.linf import linf
from hardsight.core import seeds
from hardsight.core.errors import SpecError
from hardsight.data.base import DataCard
from hardsight.data.feed import pixels
from hardsight.encoders.base import Encoder, Features
from hardsight.losses.classify import ce
from hardsight.losses.embed import far_cosine
from hardsight.losses.objective import against, still
from hardsight.specs.catalog import register
from hardsight.tasks.knn import KnnHead
from hardsight.training.engine.feed import Kept
from hardsight.training.engine.guard import spread_of

SHARE = 8
"""At most one in this many training images is held out."""
BATCH = 128


@dataclass(frozen=True)
class Watching:
    every: int
    held: int
    bank: int
    k: int
    attacked: int
    search: Search
    threat: Threat

    def holds(self, images: int) -> int:
        """How many of this many training images are held out."""
        return min(self.held, images // SHARE)


@register
def watching(
    every: int = 1,
    held: int = 500,
    bank: int = 2000,
    k: int = 20,
    attacked: int = 100,
    search: Search = pgd(3, step=0.5),
    threat: Threat = linf(4 / 255),
) -> Watching:
    """Every `every` epochs, classifies `held` held-out images by k nearest neighbours among `bank` training images.

    attacked: how many of those the search also attacks, within the threat. This is a cheap estimate: robust accuracy under
    such an attack is an upper bound.
    """
    if min(every, held, bank, k, attacked) < 1:
        raise SpecError(
            "watching: every, held, bank, k and attacked must be at least 1; to evaluate nothing, write watch = '' in the recipe"
        )
    return Watching(every, held, bank, k, attacked, search, threat)


def look(
    encoder: Encoder, what: Watching, trained: Kept, held: Kept, card: DataCard, seed: int, device: torch.device
) -> dict[str, float]:
    """The metrics of one evaluation: "spread" of embeddings; with labels "knn", "robust" and "score", without them "firm".

    trained: at most `bank` of its images, evenly spaced, are the neighbours; held: the images that are classified. score:
    the mean of knn and robust. firm: the mean cosine similarity of attacked and clean embeddings.
    """
    rng = seeds.generator("watch", seed)
    with still(encoder):
        z, label = _embed(encoder, held, range(len(held.part)), device)
        x = pixels(held.load(range(min(what.attacked, len(held.part)))).images, device)
        found = {"spread": spread_of(z)}
        if label is None or not card.classes:
            objective = against(lambda x: encoder(x).pooled.float(), far_cosine(), target=z[: len(x)])
            moved = what.search(objective, x, what.threat, rng).x_adv
            with torch.no_grad():
                return {**found, "firm": float(F.cosine_similarity(encoder(moved).pooled.float(), z[: len(x)]).mean())}
        count = len(trained.part)  # images are often sorted by class, so take neighbours from the whole split
        voters, votes = _embed(encoder, trained, range(0, count, -(-count // what.bank)), device)
        assert votes is not None
        head = KnnHead(z.shape[1], len(card.classes), min(what.k, len(voters)), 0.07).to(device)
        head.fill(voters, votes)
        none = Features(z, None, (), None, (0, 0), (0, 0))
        knn = float((head(none).argmax(1) == label).float().mean())
        truth = label[: len(x)]
        objective = against(
            lambda x: head(encoder(x)), ce(), lambda output, target: (output.argmax(1) != target).float(), truth
        )
        error = what.search(objective, x, what.threat, rng).error
        robust = 1 - float(error.mean()) if error is not None else 0.0
    return {**found, "knn": knn, "robust": robust, "score": (knn + robust) / 2}


def _embed(encoder: Encoder, images: Kept, places: range, device: torch.device) -> tuple[Tensor, Tensor | None]:
    """Embeddings [N, D] of the images at these indices, and their labels [N] where they have any."""
    found, labels = [], []
    with torch.no_grad():
        for start in range(0, len(places), BATCH):
            batch = images.load(places[start : start + BATCH])
            found.append(encoder(pixels(batch.images, device)).pooled.float())
            if "label" in batch.target:
                labels.append(batch.target["label"].to(device))
    return torch.cat(found), torch.cat(labels) if labels else None
