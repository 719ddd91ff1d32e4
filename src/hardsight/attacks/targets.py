"""Attacks with a target class: what one wants, which images it leaves out, and what it found, judged as any other attack.

An image whose label already is the target would be helped, not attacked: it stays unchanged, and no figure counts it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hardsight.attacks.inputs import shaped
from hardsight.core import tree
from hardsight.data.base import IGNORE
from hardsight.losses.objective import AttackResult
from hardsight.tasks.base import System


def goal(attack: Any) -> Callable[[Tensor], Tensor] | None:
    """What the attack, or the one within it that has the last word, wants the output to become; None if no target is set."""
    if (aim := getattr(attack, "aim", None)) is not None:
        return aim.wanted
    inner = (getattr(attack, name, None) for name in ("second", "single", "attack"))
    return next((goal(part) for part in inner if part is not None and not isinstance(part, str)), None)


def judged(attack: Any, y: Any) -> tuple[Any, Tensor | None]:
    """(y as it counts, mask [B] of images left out): where the label already is the target, there is nothing to attack.

    Pixels of a mask where that is so become IGNORE, and an image is left out if none remain. Attacks in sequence leave out
    what every one of them does. The mask is None if the attack has no target class.
    """
    members = getattr(attack, "members", ())
    goals = [goal(member) for member in members] if isinstance(members, tuple) and members else [goal(attack)]
    wanted = [one for one in goals if one is not None]
    if len(wanted) < len(goals) or not isinstance(y, Tensor) or y.is_floating_point():
        return y, None
    same = torch.stack([one(y) == y for one in wanted]).all(0)
    if y.dim() == 1:
        return y, same
    rest = torch.where(same, IGNORE, y)
    had, has = ((one != IGNORE).flatten(1).any(1) for one in (y, rest))
    return rest, had & ~has


def arrived(found: AttackResult, single: Any, system: System, x: Tensor, y: Tensor) -> AttackResult:
    """What a search for a target found, evaluated once more: its error is the task's, as for any other attack.

    single: the attack, with its aim and loss. Images that are left out are as they were.
    """
    (counted, left_out), wanted = judged(single, y), single.aim.wanted(y)
    if left_out is not None:
        x_adv, top = (tree.where(left_out, x, points) for points in (found.x_adv, found.x_best_loss))
        found = found._replace(x_adv=x_adv, x_best_loss=top)
    with torch.no_grad():
        output = shaped(system.output(found.x_adv), x, y, system.task)
        loss = single.loss(output, (y, wanted), 1.0)
        error, reached = system.task.error(output, counted), 1 - system.task.error(output, wanted)
    return found._replace(loss=loss, error=error, queries=found.queries + 1, reached=reached, left_out=left_out)
