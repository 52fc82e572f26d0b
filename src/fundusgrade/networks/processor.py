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

# Parts of oneDNN's names of instruction sets that include products of bfloat16.
_SETS_WITH_BFLOAT16 = ("BF16", "FP16", "AMX", "AVX10")


def allowed_cores() -> int:
    """Number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def may_have_gpu() -> bool:
    """Whether PyTorch might find a GPU that it can use: only then is it worth importing it to ask."""
    has_apple_gpu = sys.platform == "darwin" and platform.machine() == "arm64"
    return has_apple_gpu or any(Path(file).exists() for file in _GPU_FILES)


def onednn_limit() -> str:
    """The instruction set to which the environment holds oneDNN, in capitals, such as "AVX2"; "" without a limit.

    PyTorch and OpenVINO compute by oneDNN (its documentation of ONEDNN_MAX_CPU_ISA).
    """
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper()
    return "" if limit in ("ALL", "DEFAULT") else limit


def onednn_allows_bfloat16() -> bool:
    """Whether oneDNN may use instructions for bfloat16 if the processor has them."""
    limit = onednn_limit()
    return not limit or any(name in limit for name in _SETS_WITH_BFLOAT16)
