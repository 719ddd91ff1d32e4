"""Where paper 002's released code departs from its paper or from standard practice: what each does, and whether it can be switched on.

`segment(official=[A5, D5])` has exactly these quirks, `official=all` every one that the released evaluation has. Found in
layer6ai-labs/ssl-robustness (5 commits of July 2024); the letters are ours: A SegPGD, B DepthPGD, C gradient loss, D utilities,
E classification, F training, G crashes. No torch.
"""

from __future__ import annotations

from dataclasses import dataclass

from hardsight.core.errors import SpecError, nearest

EVERY = "all"
ATTACK, EVALUATE, UTILS, TRAINER = (
    "evaluators/attack.py",
    "evaluators/evaluate.py",
    "evaluators/utils.py",
    "train/trainer.py",
)
DENSE, ANY = ("segment", "depth"), ("classify", "segment", "depth")


@dataclass(frozen=True)
class Quirk:
    """at: file and function of the released code. tasks: those with the switch; none: why there is none."""

    name: str
    at: str
    does: str
    tasks: tuple[str, ...] = ()
    why: str = ""

    @property
    def said(self) -> str:
        end = f"official={self.name} of {', '.join(self.tasks)}" if self.tasks else f"no switch: {self.why}"
        return f"{self.does} ({self.at}; {end})"


QUIRKS = (
    Quirk("A1", f"{ATTACK} SegPGD.run", "the attack's loss leaves out every pixel of class 0", ("segment",)),
    Quirk("A2", f"{ATTACK} SegPGD.run", "right and wrong pixels are each averaged, whatever their number", ("segment",)),
    Quirk("A3", f"{ATTACK} SegPGD.run", "the mean over no pixel makes the loss NaN", (), "with A2 the gradient is that of the other mean"),
    Quirk("A4", f"{ATTACK} SegPGD.run", "the attack's cross-entropy takes a softmax of averaged softmax outputs", ("segment",)),
    Quirk("A5", f"{EVALUATE} adversarial_segmenter_accuracy_miou", "images of SegPGD are evaluated without normalization", ("segment",)),
    Quirk("A6", f"{ATTACK} run of every attack", "the last iterate counts, not each image's best", ANY),
    Quirk("A7", f"{ATTACK} SegPGD.run", "targeted=True lowers the loss of the given label: with the true one the attack helps", ("segment",)),
    Quirk("B1", f"{EVALUATE} adversarial_depth_estimation", "images of DepthPGD are evaluated without normalization", ("depth",)),
    Quirk("B2", f"{ATTACK} DepthPGD.run", "SigLoss stays in its warm-up, the mean log difference, for all steps", ("depth",)),
    Quirk("B3", f"{EVALUATE} adversarial_depth_estimation", "attacked RMSE counts pixels that were not measured, as depth 0", ("depth",)),
    Quirk("B4", f"{EVALUATE} evaluate_depth_estimation", "RMSE is the mean over images of each image's own", ("depth",)),
    Quirk("B5", "evaluators/depth_losses/sigloss.py SigLoss.sigloss", "a square root without a small number under it", ("depth",)),
    Quirk("C", "evaluators/depth_losses/gradientloss.py GradientLoss.gradientloss", "differences over batch and height, at scales 1, 2, 4, 6", ("depth",)),
    Quirk("D1", f"{UTILS} sliding_window_inference", "later windows are computed again and again, and count more in EmbedAttack", (), "logits are the same, only slower; EmbedAttack uses whole images here"),
    Quirk("D2", f"{UTILS} sliding_window_inference", "works for one image at a time", (), "no number changes"),
    Quirk("D3", f"{UTILS} sliding_window_inference", "windows are averaged after the softmax", ("segment",)),
    Quirk("D4", f"{UTILS} correct_total", "mean accuracy is divided by predicted pixels: mean precision", ("segment",)),
    Quirk("D5", f"{UTILS} intersection_union", "class 0 is left out, and so is everything predicted on its pixels", ("segment",)),
    Quirk("D6", "data/transforms.py", "images and masks are reduced (nearest neighbour) and mIoU is computed at that size", ("segment",)),
    Quirk("E1", f"{EVALUATE} adversarial_classification_accuracy", "each attack has another random subset of the images", ("classify",)),
    Quirk("E2", f"{ATTACK} DownstreamPGD.run", "logits are divided by their maximum where it is above 1", ("classify",)),
    Quirk("E3", f"{ATTACK} PGD_Sign", "the random start isn't clamped to [0, 1]", ANY),
    Quirk("E4", f"{ATTACK} PGD.run", "steps are saved at every (0)th one: ZeroDivisionError", (), "a crash"),
    Quirk("E5", f"{ATTACK} AutoAttack", "its results replace a list", (), "no number of the paper's depends on it"),
    Quirk("F1", f"{TRAINER} poly_lr_scheduler", "the rate stays constant until the last steps", (), "a setting: probe(schedule=constant)"),
    Quirk("F2", f"{TRAINER} train_segmenter", "pixels without a class are trained as class 0", ("segment",)),
    Quirk("F3", f"{TRAINER} train_segmenter", "heads are selected on the test split; the number returned is the last epoch's", (), "the probe never sees the test split"),
    Quirk("F4", f"{TRAINER} train_depth_estimator", "fine-tuning gives the optimizer only the head", (), "fine-tuning is not in the paper's protocol"),
    Quirk("F5", "data/transforms.py DepthEstimationTransform", "images are mirrored at random at evaluation, not in training", ("depth",)),
    Quirk("F6", "fine_tune/deacl", "DeACL without momentum, in 16 bits without scaled losses", (), "training: set method and optimizer of a training recipe"),
    Quirk("F7", "fine_tune/deacl", "only the class token is hardened", (), "training: compare the methods deacl and multitask"),
    Quirk("F8", "conf", "learning rates, decays and batch sizes other than the paper's", (), "settings: probe(lr=..., weight_decay=..., batch=...)"),
    Quirk("F9", "data/transforms.py", "the standard deviation of red is .228, not .229", (), "a setting: std= of the encoder"),
    Quirk("F10", "data/transforms.py", "depth images are padded to multiples of 14 for patches of 16 too", (), "needs a transformer of patch 16"),
    Quirk("F11", "conf", "one eps at two image sizes, 518 and 224", (), "a setting: size= of the data or resize= of the encoder"),
    Quirk("G", "main.py and models", "wrong checkpoints in loops, unbound names, missing methods", (), "crashes"),
)  # fmt: skip
"""Every quirk, in the order of the released files."""
NEVER = ("A7",)
"""Switches that the released evaluation leaves off, and that official=all therefore leaves off too."""


def switched(official: str | tuple[str, ...], task: str) -> tuple[str, ...]:
    """The quirks that a task's `official` names, in order, each once; `SpecError` for one that it does not have."""
    known = {quirk.name: quirk for quirk in QUIRKS}
    here = [quirk.name for quirk in QUIRKS if task in quirk.tasks]
    asked = (official,) if isinstance(official, str) else official
    if EVERY in asked:
        return tuple(name for name in here if name not in NEVER or name in asked)
    for name in asked:
        if name not in here:
            quirk = known.get(name)
            hint = f": {quirk.said}" if quirk else nearest(name, [*here, EVERY])
            raise SpecError(f"{task}(official=...) has no '{name}'{hint}; it has {', '.join(here)} and {EVERY}")
    return tuple(name for name in here if name in asked)
