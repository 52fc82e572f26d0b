"""Images go to a device as bytes, and only a GPU gets them from page-locked memory."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from torch import Tensor

from fundusgrade.networks import inference, torch_runtime
from fundusgrade.networks.device import choose_device
from fundusgrade.networks.inference import predict_outputs
from fundusgrade.networks.tensors import LabeledImages, copy_to_device, pinned
from fundusgrade.networks.torch_runtime import TorchRuntime
from fundusgrade.options import DeviceName, Precision
from fundusgrade.photographs.recipe import Method, PreprocessRecipe
from fundusgrade.training import batches
from fundusgrade.training.batches import training_batches
from fundusgrade.training.resizing import Frame, scaled_frame
from tests.models_for_tests import random_network

CPU, CUDA, META = torch.device("cpu"), torch.device("cuda"), torch.device("meta")
"""`meta` stands for a device that is not the CPU: PyTorch has it everywhere."""


@pytest.fixture
def pins(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The threads in which memory is page-locked from now on, without a GPU that could do it."""
    found: list[str] = []

    def pin_memory(tensor: Tensor) -> Tensor:
        found.append(threading.current_thread().name)
        return tensor

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin_memory)
    return found


def numbered(count: int) -> LabeledImages:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=generator)
    return LabeledImages(stored=pixels, grades=torch.arange(count), fill=128)


@pytest.mark.parametrize(("device", "num_pins"), [(CPU, 0), (META, 0), (CUDA, 1)])
def test_only_a_gpu_gets_page_locked_memory(pins: list[str], device: torch.device, num_pins: int) -> None:
    pixels = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    assert pinned(pixels, device) is pixels
    assert len(pins) == num_pins


def test_what_is_on_a_device_already_is_not_pinned(pins: list[str]) -> None:
    pinned(torch.zeros(2, device=META), CUDA)
    assert not pins


@pytest.mark.parametrize("device", [CPU, META])
def test_a_copy_keeps_bytes_bytes(pins: list[str], device: torch.device) -> None:
    copied = copy_to_device(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), device)
    assert copied.dtype is torch.uint8 and copied.device.type == device.type
    assert not pins


def test_photographs_that_are_graded_go_to_the_device_as_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    copied: list[torch.dtype] = []

    def record(tensor: Tensor, device: torch.device) -> Tensor:
        copied.append(tensor.dtype)
        return tensor

    for module in (inference, torch_runtime):
        monkeypatch.setattr(module, "copy_to_device", record)
    choice = choose_device(DeviceName.CPU, Precision.FLOAT32)
    network = random_network("cnn", 0, PreprocessRecipe(method=Method.NATURAL, size_px=32))
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)
    graded = TorchRuntime(network, choice).run(images, with_features=False).outputs
    pixels = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    evaluated = predict_outputs(network, pixels, choice, batch_size=4)
    assert copied == [torch.uint8, torch.uint8]
    assert np.allclose(graded, evaluated.numpy(), rtol=1e-4, atol=1e-4)


def test_batches_of_training_go_to_the_device_as_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    copied: list[torch.dtype] = []

    def record(tensor: Tensor, device: torch.device) -> Tensor:
        if tensor.ndim == 4:
            copied.append(tensor.dtype)
        return tensor

    monkeypatch.setattr(batches, "copy_to_device", record)
    (first, second) = training_batches(numbered(8), 4, seed=0, epoch=1, device=CPU)
    assert copied == [torch.uint8, torch.uint8]
    assert first.images.dtype is second.images.dtype is torch.float32


def test_threads_lock_the_memory_of_the_next_batches_ahead_of_the_network(
    pins: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "copy_to_device", lambda tensor, device: tensor)
    monkeypatch.setattr(batches, "scaled_frame", lambda images, size_px, device: _frame(images))
    own = threading.current_thread().name
    assert len(list(training_batches(numbered(20), 4, seed=0, epoch=1, device=CUDA))) == 5
    assert len(pins) == 5 and own not in pins


def _frame(images: LabeledImages) -> Frame:
    return scaled_frame(images, None, CPU)
