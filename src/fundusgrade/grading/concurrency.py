"""How many photographs are graded at a time and by how many workers, and the threads that do it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import torch

from fundusgrade.networks.device import CPU_BATCH, DeviceChoice, allowed_cores

# A GPU wants many photographs at once, as far as a small one's memory reaches (at 224 px; less at more).
GPU_BATCH = 64
_GPU_BATCH_PX = 224
# Beyond this many, photographs of a disk or a network come no faster, and each worker may hold one in full.
MAX_WORKERS = 32
_QUOTA_FILE = Path("/sys/fs/cgroup/cpu.max")


@dataclass(frozen=True, slots=True, kw_only=True)
class Concurrency:
    """Workers that make photographs ready, photographs that go through the network at once, and why so many."""

    num_workers: int
    batch_size: int
    reason: str

    def describe(self) -> str:
        """One line for people."""
        workers = "1 worker" if self.num_workers == 1 else f"{self.num_workers} workers"
        return f"{workers}, {self.batch_size} photographs at a time: {self.reason}"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerPools:
    """Where photographs are made ready, and where the network runs: on a CPU these are the same."""

    photographs: ThreadPoolExecutor
    network: ThreadPoolExecutor


def choose_concurrency(
    choice: DeviceChoice, *, size_px: int, num_workers: int | None = None, batch_size: int | None = None
) -> Concurrency:
    """What fits this machine and a network for pictures of `size_px`, or what was asked for."""
    num_cores, of_what = _cores()
    on_cpu = choice.device.type == "cpu"
    fitting = CPU_BATCH if on_cpu else max(1, round(GPU_BATCH * min(1.0, (_GPU_BATCH_PX / size_px) ** 2)))
    workers_why = f"{num_cores} {of_what}" if num_workers is None else "workers as asked"
    batch_why = "as many as asked" if batch_size is not None else _batch_reason(on_cpu=on_cpu)
    return Concurrency(
        num_workers=num_workers or min(MAX_WORKERS, num_cores),
        batch_size=batch_size or fitting,
        reason=f"{workers_why}; {batch_why}",
    )


@contextlib.contextmanager
def worker_pools(concurrency: Concurrency, choice: DeviceChoice) -> Iterator[WorkerPools]:
    """Threads at this pace; what nobody has begun is dropped at the end, so that a reader may stop early.

    Meanwhile OpenCV, and on a CPU PyTorch in these threads, compute on one core each: photographs side by side keep all
    cores busy without waiting for each other, and results do not depend on how many there are.
    """
    on_cpu = choice.device.type == "cpu"
    num_threads, num_opencv_threads = torch.get_num_threads(), cv2.getNumThreads()
    cv2.setNumThreads(1)
    photographs = ThreadPoolExecutor(concurrency.num_workers, initializer=_compute_alone if on_cpu else None)
    network = photographs if on_cpu else ThreadPoolExecutor(1)
    try:
        yield WorkerPools(photographs=photographs, network=network)
    finally:
        for pool in {photographs, network}:
            pool.shutdown(cancel_futures=True)
        cv2.setNumThreads(num_opencv_threads)
        torch.set_num_threads(num_threads)


def _compute_alone() -> None:
    torch.set_num_threads(1)


def _batch_reason(*, on_cpu: bool) -> str:
    if on_cpu:
        return "each worker runs the network on its own small batch"
    return "a GPU is filled by a large batch"


def _cores() -> tuple[int, str]:
    """How many cores there are for this process, and what says so: a container's share counts, not the machine."""
    allowed, quota = allowed_cores(), _quota()
    num_beside = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if num_beside > 1:
        num_own = max(1, min(allowed, quota or allowed) // num_beside)
        return num_own, f"{'core' if num_own == 1 else 'cores'} for each of {num_beside} processes"
    if quota is not None and quota < allowed:
        return quota, "core is this container's share" if quota == 1 else "cores are this container's share"
    return allowed, "core may be used" if allowed == 1 else "cores may be used"


def _quota() -> int | None:
    """Whole cores of the control group (Linux, version 2), at least 1; None where it has no limit."""
    try:
        limit, period = _QUOTA_FILE.read_text(encoding="ascii").split()
        return max(1, int(limit) // int(period))
    except (OSError, ValueError, ZeroDivisionError):
        return None
