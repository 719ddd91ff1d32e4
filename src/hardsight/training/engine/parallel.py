"""One run over several processes started by `torchrun`: each takes its share of every batch, and the first one writes files.

DDP averages gradients over processes, so the loss is the mean over the whole batch; FSDP2 (`fully_shard`) does so too, and
each process stores only a shard of each weight. Every decision to end or skip a step is taken by all processes together.
"""

from __future__ import annotations

import datetime
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from hardsight.core.errors import HardsightError, ProcessLost, SpecError
from hardsight.core.when import When
from hardsight.encoders.base import Encoder
from hardsight.training.methods.base import Learner, Samples, Step

PATIENCE = datetime.timedelta(minutes=30)
"""How long processes wait for each other: the first one may be decoding a data set."""
LOST = ("gloo", "NCCL", "Connection closed by peer", "Connection reset by peer", "Timed out")
"""What errors of torch contain when another process has gone."""
BLOCKS = (".blocks", ".layers", ".layer")
"""Names of the lists of blocks in transformers: each block is sharded by itself."""
State = dict[str, Any]
Forward = Callable[[Samples, When], Step]


@dataclass(frozen=True)
class Group:
    """The processes of a run: this one's rank among `world`, and its device."""

    device: torch.device
    rank: int = 0
    world: int = 1

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def total(self, numbers: list[float]) -> list[float]:
        """Each number's sum over the processes; NaN where any process has NaN."""
        if self.world == 1:
            return numbers
        kept = torch.tensor(numbers, dtype=torch.float64, device=self.device)
        dist.all_reduce(kept)
        return kept.tolist()

    def summed(self, values: Tensor) -> Tensor:
        """The same of a tensor, without waiting for it."""
        if self.world > 1:
            dist.all_reduce(values)
        return values

    def gathered(self, value: Any) -> list[Any]:
        """The values of all processes, by rank."""
        if self.world == 1:
            return [value]
        found: list[Any] = [None] * self.world
        dist.all_gather_object(found, value)
        return found

    def meet(self) -> None:
        """Waits until all processes get here."""
        if self.world > 1:
            dist.barrier()

    def share(self, places: list[int]) -> list[int]:
        """This process's part of a batch."""
        part = len(places) // self.world
        return places[self.rank * part : (self.rank + 1) * part]


@contextmanager
def joined(device: torch.device) -> Iterator[Group]:
    """The process group that `torchrun`'s environment variables describe, closed at the end; without them, this process
    alone. Raises `ProcessLost` when another process has ended: at once, or after `PATIENCE` if its machine is gone.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1 or dist.is_initialized():
        rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        yield Group(device, rank, world)
        return
    rank = int(os.environ["RANK"])
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", rank)))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    try:
        yield Group(device, rank, world)
        dist.barrier()
    except RuntimeError as error:
        if isinstance(error, HardsightError) or not any(word in str(error) for word in LOST):
            raise
        raise ProcessLost(
            "another process of this run has ended, and this one cannot go on alone; give the same command again: the run goes "
            "on from its last checkpoint"
        ) from error
    finally:
        dist.destroy_process_group()


def spread(learner: Learner, how: str, group: Group, sync_norm: bool, compiled: bool) -> tuple[Learner, Forward]:
    """The learner to train, and its forward: the learner itself or DDP around it; batch norms are synchronized on GPUs.

    Synchronized batch norm runs on GPUs only; on CPUs each process has its own statistics, and those of the first one are
    exported.
    """
    if group.world > 1 and sync_norm and group.device.type == "cuda":
        learner = nn.SyncBatchNorm.convert_sync_batchnorm(learner)  # type: ignore[assignment]
    if compiled:
        learner.encoder.body.compile()
    if group.world == 1:
        return learner, learner
    if how == "fsdp":
        return _sharded(learner, group), learner
    ids = [group.device] if group.device.type == "cuda" else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # its successor is not in torch 2.6
        wrapped = nn.parallel.DistributedDataParallel(
            learner, device_ids=ids, broadcast_buffers=False, find_unused_parameters=True
        )
    return learner, wrapped


def states(learner: nn.Module, optimizer: torch.optim.Optimizer, sharded: bool) -> tuple[State, State]:
    """The full state of the learner and the optimizer; all processes must call it, and the first one gets the result."""
    if not sharded:
        return learner.state_dict(), optimizer.state_dict()
    from torch.distributed.checkpoint import state_dict as parts

    options = parts.StateDictOptions(full_state_dict=True, cpu_offload=True)
    return parts.get_state_dict(learner, optimizer, options=options)  # type: ignore[return-value]


def load_states(learner: nn.Module, optimizer: torch.optim.Optimizer, saved: tuple[State, State], sharded: bool) -> None:
    """Restores what `states` returned. Raises `RuntimeError`, `KeyError` or `ValueError` where it doesn't fit."""
    if not sharded:
        learner.load_state_dict(saved[0])
        optimizer.load_state_dict(saved[1])
        return
    from torch.distributed.checkpoint import state_dict as parts

    options = parts.StateDictOptions(full_state_dict=True)
    parts.set_state_dict(learner, optimizer, model_state_dict=saved[0], optim_state_dict=saved[1], options=options)


def need_shares(batch: int, accumulate: int, group: Group) -> None:
    """`SpecError` for a batch that cannot be divided evenly over processes and parts."""
    if batch % (group.world * accumulate):
        parts = f"{group.world} processes" + (f" in {accumulate} parts" if accumulate > 1 else "")
        raise SpecError(
            f"a batch of {batch} cannot be divided evenly over {parts}; give a multiple of {group.world * accumulate}"
        )


def mean_gradients(weights: list[nn.Parameter], group: Group) -> None:
    """Averages over processes the gradients of the weights that FSDP does not shard."""
    for one in weights:
        if one.grad is not None and not hasattr(one, "full_tensor"):
            dist.all_reduce(one.grad)
            one.grad /= group.world


def _sharded(learner: Learner, group: Group) -> Learner:
    """Applies FSDP2 to every encoder in the learner, to each transformer block by itself; heads are not sharded.

    An inner attack runs an encoder forward and backward several times within one step of the learner. FSDP gathers and frees
    a module's weights around each of the module's own passes, so it is applied to the encoders and not to the learner.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(group.device.type, (group.world,))
    for encoder in [part for part in learner.modules() if isinstance(part, Encoder)]:
        for block in [b for name, part in encoder.named_modules() if name.endswith(BLOCKS) for b in part.children()]:
            fully_shard(block, mesh=mesh)
        # weights that stay gathered after a pass of an attack would stay frozen, as they are in the attack
        fully_shard(encoder, mesh=mesh, reshard_after_forward=True)
    return learner
