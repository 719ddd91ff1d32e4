"""Robust pretraining methods by their papers' names: a contrastive or coding loss combined with one of the five wrappers.

Each has the paper's settings. mode="corrected" is the method as the paper's text describes it; "official" is what its
released code does, with each quirk named; a single quirk is an argument of the wrapper. The quirk of the learning rate,
lr_bounce, is a schedule.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hardsight.attacks.search.pgd import pgd
from hardsight.attacks.threats.base import Threat
from hardsight.attacks.threats.linf import linf
from hardsight.data.base import DataCard
from hardsight.data.views import Views, views
from hardsight.data.views.plans import random_crops
from hardsight.encoders.base import Encoder
from hardsight.specs.catalog import register
from hardsight.training.criteria.asymmetric import InfoNCE
from hardsight.training.criteria.base import Criterion
from hardsight.training.criteria.contrast import NTXent
from hardsight.training.methods.base import Learner, Method, mlp
from hardsight.training.methods.emp import emp
from hardsight.training.methods.joint import Joint
from hardsight.training.methods.robust.adversary import Adversary, adversary
from hardsight.training.methods.robust.dual import dual
from hardsight.training.methods.robust.extra import extra
from hardsight.training.methods.robust.free import free
from hardsight.training.methods.robust.replace import replace
from hardsight.training.methods.robust.trajectory import trajectory


@dataclass(frozen=True)
class Contrastive:
    """A contrastive method with a projector of these widths; norm: with batch norm between its layers."""

    criterion: Criterion
    widths: tuple[int, ...]
    views: Views
    norm: bool = True
    last_norm: bool = False

    def begin(self, encoder: Encoder, data: DataCard, images: int) -> Learner:
        projector = mlp((encoder.card.dim, *self.widths), last_norm=self.last_norm, norm=self.norm)
        return Joint(encoder, self.views, self.criterion, projector)


@register
def rocl(
    temperature: float = 0.5,
    again: float = 1 / 256,
    widths: tuple[int, ...] = (2048, 128),
    adversary: Adversary = adversary(pgd(steps=7, step=0.223, keep="last"), linf(0.0314), which="first"),
    views: Views = views(2, scale=(0.08, 1.0), jitter=0.4, hue=0.1, grey=0.2, prob=0.8),
) -> Method:
    """RoCL (Kim et al., NeurIPS 2020): one view, attacked away from the other, joins both as a third positive.

    again: weight of the additional contrast of the attacked view with the other one alone, the paper's 1 / lambda. The
    paper's run: ResNet-18, 1000 epochs, batch 256 on each of two devices, LARS at 0.1 x 15, weight decay 1e-6.

    Source: Kim-Minseon/RoCL. differs: its code stops the gradient of all keys (only the anchor gets a gradient, not what it
    is compared with), and sums over an anchor's two positives where this takes their mean; to first order these scale the
    loss by 2 and 1/2, but the gradient is not the same.
    """
    method = Contrastive(InfoNCE(temperature), widths, views, norm=False)
    return extra(method, adversary, again=again)


@register
def acl(
    temperature: float = 0.5,
    widths: tuple[int, ...] = (512, 512, 512),
    adversary: Adversary = adversary(pgd(steps=5, step=0.25, keep="last"), linf(8 / 255)),
    views: Views = views(2, scale=(0.1, 1.0), jitter=0.4, hue=0.1, grey=0.2, prob=0.8),
) -> Method:
    """ACL, dual stream (Jiang et al., NeurIPS 2020): SimCLR of clean and of attacked views, half of each, two batch norms.

    The paper's run: ResNet-18, 1000 epochs, batch 512, LARS at 5, cosine with 10 epochs of warm-up. The exported encoder has
    the batch norm of the attacked views, which the release finetunes for robustness.

    Source: VITA-Group/Adversarial-Contrastive-Learning. differs: its random start may leave the pixel range in the attack's
    first pass, which is clamped here; its projector's last batch norm is affine, and its inner attack leaves weight
    gradients that it then zeroes.
    """
    return dual(Contrastive(NTXent(temperature), widths, views, last_norm=True), adversary, share=0.5)


@register
def adv_simclr(
    mode: Literal["corrected", "official"] = "corrected",
    temperature: float = 0.07,
    widths: tuple[int, ...] = (4096, 4096, 128),
    threat: Threat = linf(8 / 255),
    steps: int = 5,
    step: float = 0.31875,
    views: Views = random_crops(2),
) -> Method:
    """Adversarial SimCLR of paper 003: the second view is attacked to raise the contrastive loss.

    mode="official" has the quirks accumulate_attack_grads (the optimizer gets the sum of six gradients), attack_bn=train
    (the attack's passes update batch norm statistics) and simclr_attack_pair=self (the attack compares the second view with
    its own clean copy, training compares it with the first view). step: a share of eps. The paper's run: 500 epochs, batch
    512, LARS around SGD at 0.3.

    Source: Ghofrani and Jamshidi 2025; softsys4ai/CF-AMC-SSL, main_simclr_adv.py.
    """
    method = Contrastive(NTXent(temperature), widths, views)
    if mode == "official":
        return trajectory(method, threat, steps, step, which="last", faces="itself")
    return replace(method, adversary(pgd(steps, step, "clean", keep="last"), threat, which="last"))


@register
def adv_emp(
    mode: Literal["corrected", "official"] = "corrected",
    threat: Threat = linf(8 / 255),
    steps: int = 5,
    step: float = 0.31875,
    widths: tuple[int, ...] = (4096, 4096, 1024),
    views: Views = random_crops(16),
) -> Method:
    """Robust EMP-SSL of paper 003: all crops are attacked to raise the whole loss, and replace the clean ones.

    mode="official" has the quirks accumulate_attack_grads, attack_bn=train and tcr_eps_is_squared. step: a share of eps. The
    paper's run: 30 epochs, batch 128, LARS around SGD at 0.3.

    Source: Ghofrani and Jamshidi 2025; softsys4ai/CF-AMC-SSL, main_empssl_adv.py.
    """
    method = emp(mode=mode, widths=widths, views=views)
    if mode == "official":
        return trajectory(method, threat, steps, step)
    return replace(method, adversary(pgd(steps, step, "clean", keep="last"), threat))


@register
def free_simclr(
    mode: Literal["corrected", "official"] = "corrected",
    replays: int = 3,
    temperature: float = 0.07,
    widths: tuple[int, ...] = (4096, 4096, 128),
    threat: Threat = linf(8 / 255),
    step: float = 0.31875,
    views: Views = random_crops(2),
) -> Method:
    """Free SimCLR of paper 003: one backward pass updates the weights and the second view's perturbation.

    mode="official": the perturbation is added to a new batch without clamping. The paper's run: 167 epochs of 3 replays,
    batch 512, and the quirk lr_bounce: the schedule advances at every replay but is sized for one step per batch.

    Source: Ghofrani and Jamshidi 2025; softsys4ai/CF-AMC-SSL, main_simclr_free_adv.py.
    """
    method = Contrastive(NTXent(temperature), widths, views)
    return free(method, threat, step, replays, which="last", first="loose" if mode == "official" else "clamped")


@register
def cf_amc_ssl(
    mode: Literal["corrected", "official"] = "corrected",
    replays: int = 3,
    threat: Threat = linf(8 / 255),
    step: float = 0.31875,
    widths: tuple[int, ...] = (4096, 4096, 1024),
    views: Views = random_crops(16),
) -> Method:
    """CF-AMC-SSL: EMP-SSL on random crops with free adversarial training (Ghofrani and Jamshidi 2025, arXiv 2501.03507).

    mode="official" has the quirk tcr_eps_is_squared, and adds the perturbation to a new batch without clamping. The paper's
    run: 10 epochs of 3 replays (the script's default is 5), batch 100, LARS around SGD at 0.3, and lr_bounce, as in
    `free_simclr`.

    Source: softsys4ai/CF-AMC-SSL, main_empssl_free_adv.py.
    """
    method = emp(mode=mode, widths=widths, views=views)
    return free(method, threat, step, replays, first="loose" if mode == "official" else "clamped")
