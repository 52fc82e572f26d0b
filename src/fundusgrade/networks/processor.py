"""The processor of this machine: its cores, and whether it may hold a GPU, as far as can be known without PyTorch."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

# Images per batch on a CPU, where each worker runs a batch of its own on one core: a few images use its vector units
# fully, and with small batches all workers finish at nearly the same time.
CPU_BATCH = 8

# What the drivers of GPUs leave: NVIDIA's and AMD's on Linux, in Linux under Windows, and on Windows.
_GPU_FILES = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg", "C:/Windows/System32/nvcuda.dll")


def allowed_cores() -> int:
    """Number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def may_have_gpu() -> bool:
    """Whether PyTorch might find a GPU that it can use: only then is it worth importing it to ask."""
    has_apple_gpu = sys.platform == "darwin" and platform.machine() == "arm64"
    return has_apple_gpu or any(Path(file).exists() for file in _GPU_FILES)
