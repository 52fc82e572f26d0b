"""Names become networks, pixels become tensors along one path, and weights come from the named source."""

from __future__ import annotations

import pickle
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from fundusgrade.data.labels import find_samples
from fundusgrade.data.prepare import prepare_dataset
from fundusgrade.errors import CheckpointError, WeightsUnavailableError
from fundusgrade.networks.build import build_network, network_spec, start_network
from fundusgrade.networks.device import DeviceChoice, choose_device
from fundusgrade.networks.inference import predict_probabilities, to_device, to_probabilities
from fundusgrade.networks.input_shape import fit_input
from fundusgrade.networks.network import GradingNetwork
from fundusgrade.networks.tensors import load_images, scale_pixels, to_tensor
from fundusgrade.options import DeviceName, Precision
from fundusgrade.photographs.images import read_image, write_image
from fundusgrade.photographs.recipe import Method, PreprocessRecipe
from tests.drawn_eyes import plain_retina, preprocess_photograph

TINY = ("cnn", "test_resnet", "test_vit", "test_efficientnet")


@pytest.fixture
def float32() -> DeviceChoice:
    return choose_device(DeviceName.CPU, Precision.FLOAT32)


def network_of(arch: str, size_px: int = 64, seed: int = 0) -> GradingNetwork:
    torch.manual_seed(seed)
    return build_network(network_spec(arch, size_px)).eval()


def some_pixels(count: int, size_px: int = 64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, 3, size_px, size_px), dtype=torch.uint8, generator=generator)


def start(path: Path, arch: str = "test_resnet") -> GradingNetwork:
    return start_network(network_spec(arch, 64), init_weights=path, pretrained=True).network


@pytest.mark.parametrize(
    ("arch", "timm_name"),
    [
        ("cnn", None),
        ("resnet50", "resnet50"),
        ("vit", "vit_base_patch16_224"),
        ("efficientnet_lite0", "efficientnet_lite0"),
        ("resnet50.a1_in1k", "resnet50.a1_in1k"),
    ],
)
def test_names_of_architectures(arch: str, timm_name: str | None) -> None:
    spec = network_spec(arch, 224)
    assert (spec.arch, spec.timm_name, spec.size_px) == (arch, timm_name, 224)


def test_normalization_is_that_of_the_pretrained_weights() -> None:
    assert network_spec("resnet50", 224).mean == (0.485, 0.456, 0.406)
    assert network_spec("resnet50", 224).std == (0.229, 0.224, 0.225)
    assert network_spec("vit", 224).mean == (0.5, 0.5, 0.5)


def test_an_unknown_name_is_an_error_that_lists_similar_ones() -> None:
    with pytest.raises(WeightsUnavailableError, match=r"--arch resnet5: neither cnn.*similar names: .*resnet50"):
        network_spec("resnet5", 224)
    with pytest.raises(WeightsUnavailableError, match="--arch no-such-net"):
        network_spec("no-such-net", 224)


def test_an_unknown_tag_is_an_error() -> None:
    with pytest.raises(WeightsUnavailableError, match="nosuchtag"):
        network_spec("resnet50.nosuchtag", 224)


@pytest.mark.parametrize("arch", TINY)
@pytest.mark.parametrize("size_px", [64, 96])
def test_five_logits_at_any_size(arch: str, size_px: int) -> None:
    network = network_of(arch, size_px)
    with torch.inference_mode():
        logits = network(scale_pixels(some_pixels(3, size_px)))
    assert logits.shape == (3, 5)
    assert torch.isfinite(logits).all()


def test_a_vit_grid_follows_the_size() -> None:
    assert network_of("test_vit", 64).backbone.patch_embed.grid_size == (4, 4)
    assert network_of("test_vit", 96).backbone.patch_embed.grid_size == (6, 6)


def test_a_size_that_a_vit_cannot_cut_into_patches_is_an_error() -> None:
    with pytest.raises(WeightsUnavailableError, match=r"patches of 16 px, of which 40 px is no multiple.*--size 32"):
        fit_input(network_spec("test_vit", 40))


def test_the_network_normalizes_by_itself() -> None:
    network = network_of("test_efficientnet")
    images = scale_pixels(some_pixels(2))
    mean = torch.tensor((0.485, 0.456, 0.406)).view(1, 3, 1, 1)
    std = torch.tensor((0.229, 0.224, 0.225)).view(1, 3, 1, 1)
    with torch.inference_mode():
        assert torch.equal(network(images), network.backbone((images - mean) / std))


def test_normalization_is_not_stored_with_the_weights() -> None:
    assert not {"mean", "std"} & set(network_of("cnn").state_dict())


@pytest.mark.parametrize(
    ("arch", "expected"),
    [
        *(("cnn", True), ("test_resnet", True), ("test_vit", False), ("resnet18", True)),
        # Gradients of their stems corrupt memory in channels-last format on a CPU.
        *(("fastvit_t12", False), ("mobileone_s0", False), ("repvgg_a0", False)),
    ],
)
def test_only_convolutions_prefer_channels_last(float32: DeviceChoice, arch: str, expected: bool) -> None:
    network = to_device(network_of(arch), float32)
    assert network.prefers_channels_last is expected


def test_to_tensor_scales_and_moves_channels_first() -> None:
    image = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3) * 4
    tensor = to_tensor(image)
    assert tensor.shape == (3, 4, 5)
    assert tensor.dtype is torch.float32
    assert torch.equal(tensor, torch.from_numpy(image.transpose(2, 0, 1).astype(np.float32)) / 255)


@pytest.mark.parametrize("method", list(Method))
def test_the_tensor_at_training_is_the_tensor_at_prediction(tmp_path: Path, method: Method) -> None:
    recipe = PreprocessRecipe(method=method, size_px=64)
    for grade in (0, 2):
        (tmp_path / "eyes" / str(grade)).mkdir(parents=True)
        write_image(tmp_path / "eyes" / str(grade) / "eye.png", plain_retina(160, seed=grade).photograph)
    dataset = prepare_dataset(find_samples([tmp_path / "eyes"]), name="eyes", recipe=recipe, num_workers=1)
    rows = dataset.graded_rows()
    at_training = scale_pixels(load_images(dataset, rows).pixels)
    photographs = [read_image(tmp_path / "eyes" / row.source) for row in rows]
    at_prediction = torch.stack([to_tensor(preprocess_photograph(p, recipe).image) for p in photographs])
    assert len(rows) == 2
    assert torch.equal(at_training, at_prediction)


def test_weights_from_a_file_without_head_in_half_precision(tmp_path: Path) -> None:
    source = network_of("test_resnet", seed=1).backbone.state_dict()
    half = {name: t.half() if t.is_floating_point() else t for name, t in source.items() if not name.startswith("fc.")}
    safetensors.torch.save_file(half, tmp_path / "start.safetensors")
    torch.manual_seed(2)
    started = start(tmp_path / "start.safetensors").backbone.state_dict()
    for name, tensor in half.items():
        assert torch.equal(started[name], tensor.to(started[name].dtype)), name
    assert started["fc.weight"].shape[0] == 5
    assert all(tensor.dtype is torch.float32 for tensor in started.values() if tensor.is_floating_point())


def test_a_vit_of_another_size_starts_from_a_file(tmp_path: Path) -> None:
    source = network_of("test_vit", 160, seed=1).backbone.state_dict()
    headless = {name: tensor for name, tensor in source.items() if not name.startswith("head.")}
    safetensors.torch.save_file(headless, tmp_path / "start.safetensors")
    started = start(tmp_path / "start.safetensors", "test_vit").backbone.state_dict()
    assert torch.equal(started["blocks.0.attn.qkv.weight"], source["blocks.0.attn.qkv.weight"])
    assert started["pos_embed"].shape[1] < source["pos_embed"].shape[1]


def test_no_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(WeightsUnavailableError, match=r"no file .*expected a safetensors file for test_resnet"):
        start(tmp_path / "absent.safetensors")


def test_a_tensor_of_another_shape_is_an_error(tmp_path: Path) -> None:
    safetensors.torch.save_file({"conv1.0.weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(WeightsUnavailableError, match="does not fit test_resnet"):
        start(tmp_path / "other.safetensors")


def test_weights_of_another_network_are_an_error(tmp_path: Path) -> None:
    safetensors.torch.save_file(network_of("test_vit").backbone.state_dict(), tmp_path / "vit.safetensors")
    with pytest.raises(WeightsUnavailableError, match="test_resnet"):
        start(tmp_path / "vit.safetensors")


def test_a_file_that_is_not_safetensors_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "page.safetensors").write_bytes(b"<!DOCTYPE html>" * 40)
    with pytest.raises(WeightsUnavailableError, match=r"page.safetensors"):
        start(tmp_path / "page.safetensors")


def test_pickled_weights_are_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(network_of("test_resnet").backbone.state_dict(), tmp_path / "weights.pth")
    monkeypatch.setattr(torch, "load", _refuse)
    monkeypatch.setattr(pickle, "load", _refuse)
    monkeypatch.setattr(pickle, "loads", _refuse)
    with pytest.raises(WeightsUnavailableError, match="pickled weights are never loaded"):
        start(tmp_path / "weights.pth")


def test_the_cnn_takes_no_initial_weights(tmp_path: Path) -> None:
    with pytest.raises(WeightsUnavailableError, match="leave the option out"):
        start(tmp_path / "any.safetensors", "cnn")


def test_an_unreachable_hub_is_an_error_with_a_remedy_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("the download is tried again later"))
    with pytest.raises(WeightsUnavailableError, match=r"--init-weights FILE.*--no-pretrained"):
        start_network(network_spec("test_resnet", 64), init_weights=None, pretrained=True)


def test_no_pretrained_starts_at_random() -> None:
    torch.manual_seed(3)
    network = start_network(network_spec("test_resnet", 64), init_weights=None, pretrained=False).network
    expected = dict(network_of("test_resnet", seed=3).named_parameters())
    last_layer = {"backbone.fc.weight", "backbone.fc.bias"}
    for name, parameter in network.named_parameters():
        initial = torch.zeros_like(parameter) if name in last_layer else expected[name]
        assert torch.equal(parameter, initial)


def test_probabilities_are_of_double_precision_and_sum_to_one() -> None:
    outputs = torch.tensor([[-90.0, 0.0, 3.0, 88.0, 1.0], [0.0] * 5]).bfloat16()
    probabilities = to_probabilities(network_spec("cnn", 64), outputs)
    assert probabilities.dtype == np.float64
    assert np.allclose(probabilities.sum(axis=1), 1, atol=1e-12)
    assert np.allclose(probabilities[1], 0.2)


@pytest.mark.parametrize("arch", TINY)
def test_predictions_do_not_depend_on_the_batch_size(float32: DeviceChoice, arch: str) -> None:
    network, pixels = to_device(network_of(arch), float32), some_pixels(7)
    one_by_one = predict_probabilities(network, pixels, float32, batch_size=1)
    for batch_size in (3, 32):
        others = predict_probabilities(network, pixels, float32, batch_size=batch_size)
        assert np.abs(others - one_by_one).max() < 1e-6
    assert one_by_one.shape == (7, 5)
    assert np.abs(one_by_one.sum(axis=1) - 1).max() < 1e-6


@pytest.mark.parametrize("training", [True, False])
def test_prediction_changes_neither_mode_nor_weights(float32: DeviceChoice, training: bool) -> None:
    network = network_of("cnn").train(training)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    predict_probabilities(network, some_pixels(2), float32)
    assert network.training is training
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_no_images_give_no_predictions(float32: DeviceChoice) -> None:
    assert predict_probabilities(network_of("cnn"), some_pixels(0), float32).shape == (0, 5)


def test_outputs_that_are_not_finite_are_an_error(float32: DeviceChoice) -> None:
    network = network_of("cnn")
    with torch.no_grad():
        next(network.parameters()).fill_(torch.nan)
    with pytest.raises(CheckpointError, match="not finite at float32; try --precision float32"):
        predict_probabilities(network, some_pixels(2), float32)


def _refuse(*args: object, **kwargs: object) -> None:
    raise AssertionError("pickle was read")
