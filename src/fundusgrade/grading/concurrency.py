"""How many workers load photographs, how many photographs go through the network at once, and the worker pools."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2

from fundusgrade.networks.processor import CPU_BATCH, allowed_cores
from fundusgrade.options import DeviceName

# A large batch uses a GPU well; this one fits the memory of a small GPU at 224 px, and is reduced for larger images.
GPU_BATCH = 64
_GPU_BATCH_PX = 224
# More workers do not read faster from a disk or a network, and each may hold a whole photograph in memory.
MAX_WORKERS = 32
_QUOTA_FILE = Path("/sys/fs/cgroup/cpu.max")


@dataclass(frozen=True, slots=True, kw_only=True)
class Concurrency:
    """Number of workers that load and preprocess photographs, batch size of the network, and the reason for both."""

    num_workers: int
    batch_size: int
    reason: str

    def describe(self) -> str:
        """One line for people."""
        workers = "1 worker" if self.num_workers == 1 else f"{self.num_workers} workers"
        return f"{workers}, {self.batch_size} photographs at a time: {self.reason}"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerPools:
    """The pool that loads and preprocesses photographs and the pool that runs the network; the same one on a CPU."""

    photographs: ThreadPoolExecutor
    network: ThreadPoolExecutor


def choose_concurrency(
    device: str, *, size_px: int, num_workers: int | None = None, batch_size: int | None = None
) -> Concurrency:
    """Workers and batch size for a device of this machine and images of `size_px`, where they are not given."""
    num_cores, core_limit = available_cores()
    on_cpu = device == DeviceName.CPU
    fitting_batch = CPU_BATCH if on_cpu else max(1, round(GPU_BATCH * min(1.0, (_GPU_BATCH_PX / size_px) ** 2)))
    workers_reason = f"{num_cores} {core_limit}" if num_workers is None else "workers as requested"
    batch_reason = "batch size as requested" if batch_size is not None else _batch_reason(on_cpu=on_cpu)
    return Concurrency(
        num_workers=num_workers or min(MAX_WORKERS, num_cores),
        batch_size=batch_size or fitting_batch,
        reason=f"{workers_reason}; {batch_reason}",
    )


@contextlib.contextmanager
def worker_pools(concurrency: Concurrency, device: str) -> Iterator[WorkerPools]:
    """Pools of worker threads for the block; tasks that have not started when it ends are cancelled.

    During the block OpenCV, and on a CPU PyTorch within these threads, use one core each: photographs in parallel use
    all cores without threads that wait for each other, and results do not depend on the number of workers.
    """
    on_cpu = device == DeviceName.CPU
    num_threads, num_opencv_threads = _num_torch_threads(), cv2.getNumThreads()
    cv2.setNumThreads(1)
    photographs = ThreadPoolExecutor(concurrency.num_workers, initializer=_use_one_core if on_cpu else None)
    network = photographs if on_cpu else ThreadPoolExecutor(1)
    try:
        yield WorkerPools(photographs=photographs, network=network)
    finally:
        for pool in {photographs, network}:
            pool.shutdown(cancel_futures=True)
        cv2.setNumThreads(num_opencv_threads)
        _set_torch_threads(num_threads)


def _use_one_core() -> None:
    _set_torch_threads(1)


def _num_torch_threads() -> int:
    """The number of PyTorch's threads, 1 where it is not imported: then another runtime grades."""
    torch = sys.modules.get("torch")
    return 1 if torch is None else int(torch.get_num_threads())


def _set_torch_threads(number: int) -> None:
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(number)


def _batch_reason(*, on_cpu: bool) -> str:
    return "each worker runs the network on its own small batch" if on_cpu else "a large batch uses the GPU well"


def available_cores() -> tuple[int, str]:
    """Number of cores for this process, and what limits it: the processes of a launch, a container, or the system."""
    allowed, quota = allowed_cores(), _quota()
    num_processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if num_processes > 1:
        num_own = max(1, min(allowed, quota or allowed) // num_processes)
        return num_own, f"{'core' if num_own == 1 else 'cores'} for each of {num_processes} processes"
    if quota is not None and quota < allowed:
        return quota, f"{'core is' if quota == 1 else 'cores are'} this container's limit"
    return allowed, f"{'core is' if allowed == 1 else 'cores are'} available"


def _quota() -> int | None:
    """Cores that the control group allows (Linux, cgroup v2), rounded down, at least 1; None without a limit."""
    try:
        limit, period = _QUOTA_FILE.read_text(encoding="ascii").split()
        return max(1, int(limit) // int(period))
    except (OSError, ValueError, ZeroDivisionError):
        return None
