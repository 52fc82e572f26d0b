"""Data-parallel training: the processes that torchrun started train one network, each on a part of every batch.

All of them draw the same random numbers and hold the same weights; only the main process, rank 0, writes files and
prints. The store must lie on a file system that all of them share.
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

from fundusgrade.errors import TrainingError
from fundusgrade.networks.device import DeviceChoice

# The main process may decode a large data set or grade a validation split while the others wait.
TIMEOUT = datetime.timedelta(minutes=30)
_CONNECTION_LOST = (
    "another process of this run ended or timed out, or the run was terminated; its own output says why. Resume from "
    "the last complete epoch with the same command and --resume, or let torchrun do so with --max-restarts"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessGroup:
    """The `size` processes of a run, of which this one has the number `rank`, counted from 0."""

    rank: int = 0
    size: int = 1

    @property
    def is_main_process(self) -> bool:
        """Whether this is the process that writes files and prints."""
        return self.rank == 0

    def batch_indices(self, batch_size: int) -> Tensor:
        """Which images 0..batch_size-1 of a batch this process computes, ascending (n,) int64.

        Image i and its mixup partner batch_size - 1 - i always belong to the same process, so that flipping a part
        pairs the same images as flipping the whole batch.
        """
        # From the middle outward: the middle image, its own partner, goes to a process that has one pair more.
        pairs = torch.arange((batch_size + 1) // 2).flip(0).tensor_split(self.size)[self.rank].flip(0)
        partners = batch_size - 1 - pairs
        return torch.cat([pairs, partners[partners != pairs].flip(0)])

    def rank_slice(self, count: int) -> slice:
        """This process's contiguous part of 0..count-1; the parts of all ranks in order are the whole."""
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """The sum of a tensor over all processes, on the tensor's device, without gradients."""
        if self.size == 1:
            return tensor
        summed = tensor.to(_device(), copy=True, memory_format=torch.contiguous_format)
        dist.all_reduce(summed)
        return summed.to(tensor.device)

    def barrier(self) -> None:
        """Wait until all processes have reached this call."""
        self.all_reduce(torch.zeros(1))

    def check_same_on_all_ranks(self, text: str) -> None:
        """Raise TrainingError where the text differs between processes."""
        digest = torch.frombuffer(bytearray(hashlib.sha256(text.encode()).digest()), dtype=torch.uint8).long()
        if not torch.equal(self.all_reduce(digest), digest * self.size):
            raise TrainingError(
                "the processes of this run do not have the same data set, options, precision and state; start all of "
                "them with the same command, with --precision, and a FUNDUSGRADE_HOME that all machines share"
            )

    def check_batch_size(self, batch_size: int) -> None:
        """Raise TrainingError where a batch is too small to give each of several processes two photographs."""
        if batch_size < 2 * self.size > 2:
            raise TrainingError(
                f"batches of {batch_size} photographs are too small for {self.size} processes: --batch-size counts "
                f"those of all processes together; expected at least two per process, {2 * self.size}"
            )


SINGLE_PROCESS = ProcessGroup()


def process_group() -> ProcessGroup:
    """The processes that train together with this one; `SINGLE_PROCESS` outside of `joined_group`."""
    if dist.is_available() and dist.is_initialized():
        return ProcessGroup(rank=dist.get_rank(), size=dist.get_world_size())
    return SINGLE_PROCESS


def launch_id() -> str | None:
    """The identifier of the torchrun launch that started this process, the same after a restart; None without one."""
    run_id = os.environ.get("TORCHELASTIC_RUN_ID")
    # A launch without an id of its own is identified by its agent, which starts all processes of a machine.
    return f"agent {os.getppid()} of {platform.node()}" if run_id == "none" else run_id


@contextlib.contextmanager
def joined_group(choice: DeviceChoice) -> Iterator[ProcessGroup]:
    """Join the processes that torchrun started with this one; a single process where it started no other.

    Raises TrainingError where another process ends before the block does, or where this one receives SIGTERM.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield SINGLE_PROCESS
        return
    on_cuda = choice.device.type == "cuda"
    if on_cuda:
        torch.cuda.set_device(choice.device.index or 0)
    before = signal.signal(signal.SIGTERM, _raise_connection_lost)
    try:
        _init_process_group("nccl" if on_cuda else "gloo")
        yield process_group()
    except BaseException as error:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun terminates the remaining processes; print why first
        if isinstance(error, RuntimeError) and _is_lost_connection(error):
            raise TrainingError(_CONNECTION_LOST) from error
        raise
    dist.destroy_process_group()
    signal.signal(signal.SIGTERM, before)


def _is_lost_connection(error: RuntimeError) -> bool:
    """Whether an error comes from the communication: gloo raises plain errors, which only their text identifies."""
    return isinstance(error, dist.DistError) or "gloo" in str(error) or "NCCL" in str(error)


def _init_process_group(backend: str) -> None:
    """Connect the processes.

    On one machine torchrun's key-value store outlives a restart and still holds the addresses of processes that have
    ended: each start uses a prefix of its own. Several machines do not count restarts alike; there the store must not
    outlive a restart (TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1).
    """
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    store, rank, size = next(rendezvous("env://", timeout=TIMEOUT))
    num_restarts = (
        os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") if os.environ.get("GROUP_WORLD_SIZE") == "1" else ""
    )
    fresh = PrefixStore(f"start {num_restarts}", store)
    dist.init_process_group(backend, store=fresh, rank=rank, world_size=size, timeout=TIMEOUT)


def _raise_connection_lost(number: int, frame: FrameType | None) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise TrainingError(_CONNECTION_LOST)


def _device() -> torch.device:
    """The device of tensors that processes exchange."""
    return torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")


def average_gradients(module: nn.Module) -> nn.Module:
    """The module with gradients averaged over all processes; the module itself where there is only one."""
    if process_group().size == 1:
        return module
    from torch.nn.parallel import DistributedDataParallel

    parallel = DistributedDataParallel(module, gradient_as_bucket_view=True)
    parallel.broadcast_buffers = False  # every process computes the same statistics: nothing has to be sent
    return parallel
