"""Device and precision: one function chooses both, with the reason."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass

import torch

from fundusgrade.errors import DeviceError
from fundusgrade.options import DeviceName, Precision


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceChoice:
    """The device and precision to use (never "auto"), with the reason in words.

    `compiled` says whether training compiles the network.
    """

    device: torch.device
    precision: Precision
    reason: str
    compiled: bool = False

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """A context in which PyTorch computes at the chosen precision."""
        if self.precision is Precision.FLOAT32:
            return contextlib.nullcontext()
        dtype = torch.bfloat16 if self.precision is Precision.BFLOAT16 else torch.float16
        return torch.autocast(self.device.type, dtype=dtype)

    def describe(self) -> str:
        """One line for people."""
        return f"{self.device.type}, {self.precision.value}{', compiled' if self.compiled else ''}: {self.reason}"


def choose_device(device: DeviceName = DeviceName.AUTO, precision: Precision = Precision.AUTO) -> DeviceChoice:
    """Choose the fastest device and precision of this machine where they are `auto`; else those that are given.

    The names may be plain strings, such as "cpu" and "float32". Raises DeviceError where the machine does not have
    them: there is no silent fallback.
    """
    device, precision = DeviceName(device), Precision(precision)
    available = {DeviceName.CUDA: torch.cuda.is_available(), DeviceName.MPS: torch.backends.mps.is_available()}
    if device is DeviceName.AUTO:
        chosen = next((name for name, is_available in available.items() if is_available), DeviceName.CPU)
        why = f"{chosen.value} is the fastest device here" if chosen is not DeviceName.CPU else "no GPU"
    elif available.get(device, True):
        chosen, why = device, "as requested"
    else:
        raise DeviceError(
            f"--device {device.value}: this machine has none that PyTorch {torch.__version__} can use; "
            "use --device auto or --device cpu, or install a PyTorch built for your GPU"
        )
    chosen_precision, precision_why = _choose_precision(chosen, precision)
    return DeviceChoice(device=_local_device(chosen), precision=chosen_precision, reason=f"{why}; {precision_why}")


def _local_device(device: DeviceName) -> torch.device:
    """The device of this process: one GPU each where torchrun has started several processes on this machine."""
    local_rank, num_local = int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if num_local == 1 or device is DeviceName.CPU:
        return torch.device(device.value)
    num_devices = torch.cuda.device_count() if device is DeviceName.CUDA else 1
    if num_local > num_devices:
        raise DeviceError(
            f"{num_local} processes were started, but this machine has {num_devices} {device.value} device(s); use "
            f"torchrun --nproc-per-node={num_devices}, or --device cpu"
        )
    return torch.device(device.value, local_rank)


def _choose_precision(device: DeviceName, requested: Precision) -> tuple[Precision, str]:
    if requested is Precision.FLOAT16 and device is DeviceName.CPU:
        raise DeviceError(
            "--precision float16 needs a GPU: on a CPU it is slower than float32; use --precision auto or bfloat16"
        )
    if requested is Precision.BFLOAT16 and device is DeviceName.CUDA and not torch.cuda.is_bf16_supported():
        raise DeviceError("--precision bfloat16: this GPU does not have it; use --precision float16 or auto")
    if requested is not Precision.AUTO:
        return requested, "precision as requested"
    if device is DeviceName.CUDA:
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return Precision.BFLOAT16, "this GPU computes bfloat16 fast, and it needs no loss scaling"
        return Precision.FLOAT16, "this GPU lacks bfloat16"
    if device is DeviceName.CPU and cpu_has_bfloat16():
        return Precision.BFLOAT16, "the processor has bfloat16"
    return Precision.FLOAT32, "no faster format is safe here"


def cpu_has_bfloat16() -> bool:
    """Whether PyTorch finds AVX512-BF16 or AMX instructions, and may use them (ATEN_CPU_CAPABILITY is not lower).

    False with versions of PyTorch that cannot detect them.
    """
    found = _cpu_capabilities()
    may_use = torch.backends.cpu.get_cpu_capability() not in ("DEFAULT", "NO AVX", "AVX2")
    return may_use and bool(found.get("avx512_bf16") or found.get("amx_bf16"))


def cpu_overflows_int8() -> bool:
    """Whether sums of 8-bit products overflow on this processor: x86 without VNNI instructions, or forbidden them.

    There two products are added in 16 bits, which are too few (ONNX Runtime's and OpenVINO's documentation of
    quantization). False where PyTorch cannot detect the instructions.
    """
    found = _cpu_capabilities()
    lacks_vnni = found.get("architecture") == "x86_64" and not (found.get("avx512_vnni") or found.get("avx_vnni"))
    return lacks_vnni or os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper() in ("SSE41", "AVX", "AVX2")


def _cpu_capabilities() -> dict[str, object]:
    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return capabilities
