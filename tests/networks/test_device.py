"""Device and precision are those requested or the fastest here, with the reason, and never a silent fallback."""

from __future__ import annotations

import pytest
import torch

from fundusgrade.errors import DeviceError
from fundusgrade.networks.device import choose_device, cpu_overflows_int8
from fundusgrade.options import DeviceName, Precision


def pretend(
    monkeypatch: pytest.MonkeyPatch,
    *,
    cuda: bool = False,
    mps: bool = False,
    gpu_bfloat16: bool = False,
    cpu: dict[str, object] | None = None,
    kernels: str = "AVX512",
) -> None:
    """Give the machine other hardware."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: gpu_bfloat16)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: cpu or {}, raising=False)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: kernels)


def test_what_is_chosen_on_this_machine_can_compute() -> None:
    choice = choose_device()
    assert choice.precision is not Precision.AUTO
    assert choice.device.type in {"cpu", "cuda", "mps"}
    with choice.autocast():
        product = torch.ones(2, 2, device=choice.device) @ torch.ones(2, 2, device=choice.device)
    expected = {Precision.FLOAT32: torch.float32, Precision.BFLOAT16: torch.bfloat16, Precision.FLOAT16: torch.float16}
    assert product.dtype is expected[choice.precision]
    assert choice.describe() == f"{choice.device.type}, {choice.precision.value}: {choice.reason}"


@pytest.mark.parametrize("device", [DeviceName.CUDA, DeviceName.MPS])
def test_absent_gpu_is_an_error_with_a_remedy(monkeypatch: pytest.MonkeyPatch, device: DeviceName) -> None:
    pretend(monkeypatch)
    with pytest.raises(DeviceError, match=f"--device {device.value}.*--device auto or --device cpu"):
        choose_device(device)


@pytest.mark.parametrize(
    ("cuda", "mps", "expected"), [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")]
)
def test_auto_takes_the_fastest_device(monkeypatch: pytest.MonkeyPatch, cuda: bool, mps: bool, expected: str) -> None:
    pretend(monkeypatch, cuda=cuda, mps=mps)
    choice = choose_device()
    assert choice.device.type == expected
    assert choice.reason.startswith(f"{expected} is the fastest device here" if cuda or mps else "no GPU")


def test_asking_for_the_cpu_beside_a_gpu_gives_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, cuda=True)
    choice = choose_device(DeviceName.CPU, Precision.FLOAT32)
    assert (choice.device.type, choice.precision) == ("cpu", Precision.FLOAT32)
    assert choice.reason == "as requested; precision as requested"


def test_names_may_be_plain_strings() -> None:
    assert choose_device("cpu", "float32") == choose_device(DeviceName.CPU, Precision.FLOAT32)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("cpu", "expected"),
    [
        ({"avx512_bf16": True}, Precision.BFLOAT16),
        ({"avx512_bf16": False, "amx_bf16": True}, Precision.BFLOAT16),
        ({"avx512_f": True, "avx512_bf16": False}, Precision.FLOAT32),
        ({}, Precision.FLOAT32),
    ],
)
def test_a_processor_computes_bfloat16_only_if_it_can(
    monkeypatch: pytest.MonkeyPatch, cpu: dict[str, object], expected: Precision
) -> None:
    pretend(monkeypatch, cpu=cpu)
    choice = choose_device(DeviceName.CPU)
    assert choice.precision is expected
    assert ("the processor has bfloat16" in choice.reason) is (expected is Precision.BFLOAT16)


def test_kernels_without_avx512_give_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, cpu={"avx512_bf16": True}, kernels="AVX2")
    assert choose_device(DeviceName.CPU).precision is Precision.FLOAT32


@pytest.mark.parametrize(
    ("cpu", "isa", "expected"),
    [
        ({"architecture": "x86_64", "avx512_vnni": True}, "", False),
        ({"architecture": "x86_64", "avx_vnni": True}, "", False),
        ({"architecture": "x86_64", "avx2": True}, "", True),
        ({"architecture": "x86_64", "avx512_vnni": True}, "avx2", True),
        ({"architecture": "aarch64"}, "", False),
        ({}, "", False),
    ],
)
def test_8_bit_sums_overflow_without_vnni(
    monkeypatch: pytest.MonkeyPatch, cpu: dict[str, object], isa: str, expected: bool
) -> None:
    pretend(monkeypatch, cpu=cpu)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", isa)
    assert cpu_overflows_int8() is expected


def test_a_pytorch_that_cannot_tell_gives_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch)
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert choose_device().precision is Precision.FLOAT32


@pytest.mark.parametrize(("gpu_bfloat16", "expected"), [(True, Precision.BFLOAT16), (False, Precision.FLOAT16)])
def test_a_gpu_computes_half_precision(
    monkeypatch: pytest.MonkeyPatch, gpu_bfloat16: bool, expected: Precision
) -> None:
    pretend(monkeypatch, cuda=True, gpu_bfloat16=gpu_bfloat16)
    choice = choose_device(DeviceName.CUDA)
    assert choice.precision is expected
    assert "GPU" in choice.reason


def test_mps_stays_at_float32_unless_requested(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, mps=True, cpu={"avx512_bf16": True})
    assert choose_device().precision is Precision.FLOAT32
    assert choose_device(DeviceName.MPS, Precision.FLOAT16).precision is Precision.FLOAT16


@pytest.mark.parametrize("device", [DeviceName.CPU, DeviceName.AUTO])
def test_float16_on_a_cpu_is_refused(monkeypatch: pytest.MonkeyPatch, device: DeviceName) -> None:
    pretend(monkeypatch)
    with pytest.raises(DeviceError, match=r"float16 needs a GPU.*--precision auto or bfloat16"):
        choose_device(device, Precision.FLOAT16)


def test_bfloat16_on_a_gpu_without_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, cuda=True)
    with pytest.raises(DeviceError, match="this GPU does not have it; use --precision float16 or auto"):
        choose_device(DeviceName.CUDA, Precision.BFLOAT16)


def test_float32_switches_no_autocast_on() -> None:
    with choose_device(DeviceName.CPU, Precision.FLOAT32).autocast():
        assert not torch.is_autocast_enabled("cpu")


def test_each_process_of_a_machine_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert choose_device(DeviceName.CUDA, Precision.FLOAT32).device == torch.device("cuda", 1)
    assert choose_device(DeviceName.CPU, Precision.FLOAT32).device == torch.device("cpu")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    with pytest.raises(DeviceError, match=r"3 processes were started, but this machine has 2 cuda.*nproc-per-node=2"):
        choose_device(DeviceName.CUDA, Precision.FLOAT32)
