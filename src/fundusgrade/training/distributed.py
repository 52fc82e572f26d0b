"""The processes that train one network together: started by torchrun, each with its part of every batch.

All of them draw the same random numbers and hold the same weights; `rank` 0 alone writes and speaks. The store must be
one that all of them see.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import os
import platform
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType
from typing import NoReturn

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from fundusgrade.errors import TrainingError
from fundusgrade.networks.device import DeviceChoice

# The first process may decode a large data set or grade a validation split while the others wait.
TIMEOUT = datetime.timedelta(minutes=30)
_LOST = (
    "another process of this run ended or took too long, or the run was told to stop; what it printed says why. Go on "
    "from the last whole epoch with the same command and --resume, or let torchrun do so with --max-restarts"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessGroup:
    """The processes of a run: this one is number `rank` of `size`, from 0."""

    rank: int = 0
    size: int = 1

    @property
    def is_main_process(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0

    def positions(self, count: int) -> Tensor:
        """Which of a batch's pictures 0..count-1 are this process's, rising.

        Each picture is with its mirror image in the batch, the one that it may be mixed with: position i and
        count - 1 - i go together, so that flipping a part pairs the same pictures as flipping the whole batch.
        """
        # From the middle outward: a picture that is its own mirror image goes to those who have one pair more.
        pairs = torch.arange((count + 1) // 2).flip(0).tensor_split(self.size)[self.rank].flip(0)
        partners = count - 1 - pairs
        return torch.cat([pairs, partners[partners != pairs].flip(0)])

    def stretch(self, count: int) -> slice:
        """This process's piece of 0..count-1; the pieces of all, one after the other, are the whole."""
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def total(self, tensor: Tensor) -> Tensor:
        """The sum of a tensor over all processes, the same on each; on the tensor's device, without gradients."""
        if self.size == 1:
            return tensor
        summed = tensor.to(_device(), copy=True, memory_format=torch.contiguous_format)
        dist.all_reduce(summed)
        return summed.to(tensor.device)

    def wait(self) -> None:
        """Go on when all processes have come here."""
        self.total(torch.zeros(1))

    def agree(self, what: str) -> None:
        """Raise TrainingError where `what` is not the same text for all processes."""
        digest = torch.frombuffer(bytearray(hashlib.sha256(what.encode()).digest()), dtype=torch.uint8).long()
        if not torch.equal(self.total(digest), digest * self.size):
            raise TrainingError(
                "the processes of this run do not find the same data set, options, precision and state; give all of "
                "them the same command, with --precision, and a FUNDUSGRADE_HOME on a disk that all machines share"
            )


SINGLE_PROCESS = ProcessGroup()


def process_group() -> ProcessGroup:
    """The processes that this one has joined; only itself where it has not."""
    if dist.is_available() and dist.is_initialized():
        return ProcessGroup(rank=dist.get_rank(), size=dist.get_world_size())
    return SINGLE_PROCESS


def launch() -> str | None:
    """What names the launch by torchrun that this process belongs to, also after a restart; None without one."""
    run_id = os.environ.get("TORCHELASTIC_RUN_ID")
    # Without an id of its own a launch is known by its agent, which starts all processes of a machine.
    return f"agent {os.getppid()} of {platform.node()}" if run_id == "none" else run_id


@contextlib.contextmanager
def joined(choice: DeviceChoice) -> Iterator[ProcessGroup]:
    """Join the processes that torchrun started with this one; nothing where it did not, or started only this one.

    Raises TrainingError where one of the others ends before the block does, and where the system asks this one to end.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield SINGLE_PROCESS
        return
    on_cuda = choice.device.type == "cuda"
    if on_cuda:
        torch.cuda.set_device(choice.device.index or 0)
    before = signal.signal(signal.SIGTERM, _end)
    try:
        _meet("nccl" if on_cuda else "gloo")
        yield process_group()
    except BaseException as error:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun ends those that are left; let this one say why
        if isinstance(error, RuntimeError) and _is_lost(error):
            raise TrainingError(_LOST) from error
        raise
    dist.destroy_process_group()
    signal.signal(signal.SIGTERM, before)


def _is_lost(error: RuntimeError) -> bool:
    """Whether it tells of another process: gloo raises plain errors, which only their text tells apart."""
    return isinstance(error, dist.DistError) or "gloo" in str(error) or "NCCL" in str(error)


def _meet(backend: str) -> None:
    """Find the other processes.

    On one machine torchrun's meeting place outlives a restart, and still holds the addresses of those that have died:
    each start meets under a name of its own. Several machines do not count restarts alike; there it must not outlive
    one (TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1).
    """
    store, rank, size = next(rendezvous("env://", timeout=TIMEOUT))
    num_restarts = (
        os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") if os.environ.get("GROUP_WORLD_SIZE") == "1" else ""
    )
    fresh = PrefixStore(f"start {num_restarts}", store)
    dist.init_process_group(backend, store=fresh, rank=rank, world_size=size, timeout=TIMEOUT)


def _end(number: int, frame: FrameType | None) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise TrainingError(_LOST)


def _device() -> torch.device:
    """Where tensors must be that processes exchange."""
    return torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")


def share_gradients(module: nn.Module) -> nn.Module:
    """The module with gradients that are the mean over all processes; the module itself where there is only one."""
    if process_group().size == 1:
        return module
    shared = DistributedDataParallel(module, gradient_as_bucket_view=True)
    shared.broadcast_buffers = False  # every process computes the same statistics: nothing has to be sent
    return shared
