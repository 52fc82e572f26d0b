"""A model file, a checkpoint or an exported graph -> a model ready to grade, in the fastest runtime: the one way in."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

from fundusgrade.errors import DeviceError, FundusgradeError
from fundusgrade.networks.checkpoint_file import CheckpointFile, read_checkpoint_file
from fundusgrade.networks.graph_files import graph_format, open_graph, read_graph
from fundusgrade.networks.graph_store import GraphRequest, converted_runtime
from fundusgrade.networks.graphs import openvino_has_bfloat16
from fundusgrade.networks.model import Model
from fundusgrade.networks.processor import may_have_gpu
from fundusgrade.options import DeviceName, ExportFormat, Precision, RuntimeName

_FORMATS = {RuntimeName.OPENVINO: ExportFormat.OPENVINO, RuntimeName.ONNXRUNTIME: ExportFormat.ONNX}
"""Runtimes besides PyTorch, the faster one first, and the format of their graphs."""


def load_model(
    path: Path,
    *,
    device: DeviceName = DeviceName.AUTO,
    precision: Precision = Precision.AUTO,
    runtime: RuntimeName = RuntimeName.AUTO,
) -> Model:
    """Read and verify a model: a checkpoint, or an exported graph, by its suffix.

    A checkpoint is computed by the runtime that is asked for. With `auto` it is PyTorch on a GPU, and on a CPU the
    first of OpenVINO and ONNX Runtime that is installed, if the model can be converted for it; else PyTorch. Raises
    CheckpointError where the file is no model, a file beside it is missing, one is damaged, or a package or another
    version is needed; DeviceError for what this machine lacks; ExportError and StoreError where the runtime that is
    asked for cannot run it.
    """
    device, precision, runtime = DeviceName(device), Precision(precision), RuntimeName(runtime)
    format = graph_format(path)
    if format is not None:
        return open_graph(read_graph(path, format), str(path), device=device, precision=precision, runtime=runtime)
    if runtime is RuntimeName.PYTORCH:
        return _by_pytorch(path, device, precision)
    if runtime is not RuntimeName.AUTO:
        request = replace(_request(path, runtime, device, precision), reason="as requested", keeps_in_memory=True)
        return _by_graph(request, read_checkpoint_file(path))
    fastest = _fastest(device, precision)
    if fastest is RuntimeName.PYTORCH:
        return _by_pytorch(path, device, precision)
    file = read_checkpoint_file(path)
    if file.description.local_calibration is not None:
        return _by_pytorch(path, device, precision, because="the certificate of the calibration is of its scores")
    try:
        return _by_graph(_request(path, fastest, device, precision), file)
    except FundusgradeError as error:  # what is wrong with the model itself is an error of PyTorch's too
        return _by_pytorch(path, device, precision, because=f"{fastest.value} is not used: {error}")


def _fastest(device: DeviceName, precision: Precision) -> RuntimeName:
    """The fastest runtime that is installed and computes on this device at this precision."""
    is_for_cpu = device is DeviceName.CPU or (device is DeviceName.AUTO and not _has_gpu())
    if not is_for_cpu or precision is Precision.FLOAT16:
        return RuntimeName.PYTORCH
    can_run = {
        RuntimeName.OPENVINO: True,
        RuntimeName.ONNXRUNTIME: precision is not Precision.BFLOAT16 and is_installed("onnxscript"),
    }
    return next((name for name, can in can_run.items() if can and is_installed(name.value)), RuntimeName.PYTORCH)


def is_installed(package: str) -> bool:
    """Whether a package can be imported."""
    return importlib.util.find_spec(package) is not None


def _has_gpu() -> bool:
    """Whether PyTorch finds a GPU; it is imported only where there may be one."""
    if not may_have_gpu():
        return False
    from fundusgrade.networks.device import choose_device

    return choose_device(precision=Precision.FLOAT32).device.type != DeviceName.CPU.value


def _request(path: Path, runtime: RuntimeName, device: DeviceName, precision: Precision) -> GraphRequest:
    """The graph of a checkpoint for a runtime that was asked for. Raises DeviceError where it cannot be had."""
    if device not in (DeviceName.AUTO, DeviceName.CPU):
        raise DeviceError(
            f"--runtime {runtime.value} --device {device.value}: it runs on the CPU; leave out either of the two"
        )
    formats = _number_formats(runtime)
    number_format = formats[0] if precision is Precision.AUTO else precision.value
    if number_format not in formats:
        raise DeviceError(
            f"--runtime {runtime.value} --precision {precision.value}: here it computes in {' or '.join(formats)}; "
            "use --precision auto"
        )
    return GraphRequest(
        checkpoint=path,
        format=_FORMATS[runtime],
        number_format=number_format,
        reason="the fastest runtime that is installed" if precision is Precision.AUTO else "precision as requested",
    )


def _number_formats(runtime: RuntimeName) -> tuple[str, ...]:
    """What a runtime computes in on this processor, the fastest one first. Raises CheckpointError if not installed."""
    if runtime is RuntimeName.OPENVINO and openvino_has_bfloat16(f"--runtime {runtime.value}"):
        return (Precision.BFLOAT16.value, Precision.FLOAT32.value)
    return (Precision.FLOAT32.value,)


def _by_graph(request: GraphRequest, file: CheckpointFile) -> Model:
    return Model(
        description=file.description,
        fingerprints=file.fingerprints,
        checks=file.checks,
        runtime=converted_runtime(request, file.description),
        checkpoint=request.checkpoint,
    )


def _by_pytorch(path: Path, device: DeviceName, precision: Precision, *, because: str = "") -> Model:
    from fundusgrade.networks.checkpoint import load_checkpoint
    from fundusgrade.networks.device import choose_device
    from fundusgrade.networks.torch_runtime import on_pytorch

    choice = choose_device(device, precision)
    if because:
        choice = replace(choice, reason=f"{because}; {choice.reason}")
    return replace(on_pytorch(load_checkpoint(path), choice), checkpoint=path)
