"""Named attacks, each a one-line composition, with the default settings of paper 002: 20 steps of eps/4, random start."""

from __future__ import annotations

from typing import Literal

from hardsight.attacks.aim import itself
from hardsight.attacks.attack import Attack, Single
from hardsight.attacks.search.compose import stay
from hardsight.attacks.search.pgd import pgd
from hardsight.losses.boxes import detection, fabricate, mislabel, vanish
from hardsight.losses.classify import ce
from hardsight.losses.dense import cospgd_ce, segpgd_ce
from hardsight.losses.depth import depth_loss
from hardsight.losses.embed import far_cosine, far_l2
from hardsight.specs.catalog import register


@register
def clean() -> Attack:
    """clean: no attack, the images unchanged."""
    return Single(stay())


@register
def fgsm() -> Attack:
    """FGSM: one step of length eps from the clean image (Goodfellow et al., ICLR 2015)."""
    return Single(pgd(steps=1, step=1.0, start="clean", keep="last"))


@register
def embed(steps: int = 20, step: float = 0.25, distance: Literal["l2", "cosine"] = "l2") -> Attack:
    """EmbedAttack: moves the embedding away from the clean one, without labels (paper 002); pooled or dense by task."""
    loss = far_l2() if distance == "l2" else far_cosine()
    return Single(pgd(steps, step), loss, where="embedding", aim=itself())


@register
def classpgd(steps: int = 20, step: float = 0.25, patience: int = 0) -> Attack:
    """PGD: on the classifier's cross-entropy; misclassified images leave the batch, with `patience` also stagnant ones."""
    return Single(pgd(steps, step, early_exit=True, patience=patience), ce())


@register
def segpgd(steps: int = 20, step: float = 0.25) -> Attack:
    """SegPGD: on every pixel of a segmentation model (Gu et al., ECCV 2022)."""
    return Single(pgd(steps, step), segpgd_ce())


@register
def cospgd(steps: int = 20, step: float = 0.25) -> Attack:
    """CosPGD: on every pixel of a segmentation model (Agnihotri et al., ICML 2024)."""
    return Single(pgd(steps, step), cospgd_ce())


@register
def depthpgd(steps: int = 20, step: float = 0.25) -> Attack:
    """DepthPGD: PGD on the depth head's training loss (paper 002)."""
    return Single(pgd(steps, step), depth_loss())


@register
def detpgd(steps: int = 20, step: float = 0.25) -> Attack:
    """DetPGD: PGD on the detector's training loss, on classes, boxes and centre-ness together."""
    return Single(pgd(steps, step), detection())


@register
def tog(goal: Literal["vanish", "fabricate", "mislabel"] = "vanish", steps: int = 10, step: float = 0.25) -> Attack:
    """TOG: makes a detector's boxes vanish, appear everywhere, or change their class (Chow et al., TPS 2020)."""
    return Single(pgd(steps, step), {"vanish": vanish, "fabricate": fabricate, "mislabel": mislabel}[goal]())
