"""What a run needs of its recipe and its data, checked before the first step, and the layout of its weights in memory."""

from __future__ import annotations

import torch
from torch import nn

from hardsight.core.errors import SpecError
from hardsight.training.engine.parallel import Group
from hardsight.training.engine.recipe import TrainingRecipe
from hardsight.training.methods.base import Learner


def in_channels_last(learner: nn.Module) -> None:
    """Stores the weights of convolutions with the channels last, of images and of clips each in its own format."""
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    for weight in learner.parameters():
        if weight.dim() in formats:
            weight.data = weight.data.contiguous(memory_format=formats[weight.dim()])


def need_batch(recipe: TrainingRecipe, name: str, images: int, apart: int) -> None:
    if images - apart < recipe.batch:
        held = f", {apart} of them held out" if apart else ""
        raise SpecError(f"{recipe.name}: batch is {recipe.batch}, and {name} has only {images} training images{held}")


def need_fitting(recipe: TrainingRecipe, learner: Learner, group: Group) -> None:
    """`SpecError` where the learner cannot be trained as the recipe says."""
    if learner.replays > 1 and recipe.accumulate > 1:
        raise SpecError(f"{recipe.name}: {recipe.method} replays each batch, which needs accumulate = 1")
    if recipe.ema and recipe.parallel == "fsdp" and group.world > 1:
        raise SpecError(f"{recipe.name}: ema needs full weights, and fsdp shards them; use ddp, or ema = 0")
    share = recipe.batch // recipe.accumulate // group.world
    norms = [part for part in learner.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    if share == 1 and norms:
        raise SpecError(
            f"{recipe.name}: {type(norms[0]).__name__} needs the statistics of a batch, and one image has none; "
            "give a batch of at least 2 for each process and part"
        )
