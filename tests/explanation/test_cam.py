"""The CAM family in units of the score, from networks small enough to know the answer."""

from __future__ import annotations

import gc
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import timm
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fundusgrade.errors import ExplanationError
from fundusgrade.explanation.targets import REFERABLE
from fundusgrade.networks.spec import CNN
from fundusgrade.options import Attribution, Layer
from tests.explanation.small_networks import InPlace, RedUpperLeft, Siamese, build, explained, head_of, wrap

CAMS = [each for each in Attribution if each.value.endswith(("cam", "cam++"))]


@pytest.mark.parametrize(
    "name", [CNN, "test_resnet.r160_in1k", "test_efficientnet.r160_in1k", "test_byobnet.r160_in1k"]
)
def test_mean_of_the_map_is_the_score_less_its_bias(name: str, image: NDArray[np.uint8]) -> None:
    network = build(name)
    head = head_of(network)
    nn.init.normal_(head.bias)
    nn.init.normal_(head.weight)
    heat = explained(network, image)
    assert abs(heat.score) > 0.01
    assert heat.cells.mean() == pytest.approx(heat.score - float(head.bias.detach()[3]), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize(
    "name",
    [
        *(
            CNN,
            "test_resnet",
            "test_efficientnet",
            "test_convnext",
            "test_nfnet",
            "test_byobnet",
            "test_vit",
            "test_vit4",
        ),
        *("test_efficientnet_ln", "mobilenetv3_small_050", "densenet121", "resnetv2_18", "mobilenetv2_035"),
    ],
)
def test_maps_are_finite_not_negative_and_as_large_as_the_image(name: str, image: NDArray[np.uint8]) -> None:
    heat = explained(build(name), image, REFERABLE)
    assert heat.values.shape == (160, 160)
    assert heat.values.dtype == np.float32
    assert np.isfinite(heat.values).all()
    assert heat.values.min() >= 0
    assert heat.values.max() <= max(0.0, float(heat.cells.max())) + 1e-6
    assert np.ptp(heat.cells) > 0


def test_the_scale_is_absolute(image: NDArray[np.uint8]) -> None:
    network = build("test_resnet")
    weak = explained(network, image)
    with torch.no_grad():
        head_of(network).weight *= 7
    assert np.allclose(explained(network, image).values, 7 * weak.values, rtol=1e-4)


def test_the_peak_is_in_the_region_that_the_score_depends_on(image: NDArray[np.uint8]) -> None:
    image[:] = 128
    image[24:40, 48:64, 0] = 255
    image[120:136, 120:136, 0] = 255
    heat = explained(wrap(RedUpperLeft()), image)
    y, x = np.unravel_index(heat.values.argmax(), heat.values.shape)
    assert 24 <= y < 40
    assert 48 <= x < 64
    # Mean gradients weight channels, not places: red elsewhere is hot too, a known weakness of Grad-CAM.
    assert heat.values[80:110, 10:60].max() < 0.1 * heat.values.max()


def test_vit_peak_is_on_the_patch_that_counts(image: NDArray[np.uint8]) -> None:
    """The grid is laid out in rows: one bright patch among black ones is found where it is."""
    network = build("test_vit", img_size=(96, 160), global_pool="avg", class_token=False)
    image = np.zeros((96, 160, 3), np.uint8)
    image[64:80, 112:128] = 255
    backbone: Any = network.backbone
    for block in backbone.blocks[:-1]:
        nn.init.zeros_(block.attn.proj.weight)  # no patch attends to another
        nn.init.zeros_(block.attn.proj.bias)
    nn.init.zeros_(backbone.pos_embed)
    nn.init.normal_(head_of(network).weight)
    cells = explained(network, image).cells
    assert cells.shape == (6, 10)
    others = np.delete(cells.ravel(), 4 * 10 + 7)
    assert np.ptp(others) < 1e-5
    assert abs(cells[4, 7] - others[0]) > 1e-3


@pytest.mark.parametrize(
    ("name", "options", "num_prefix_tokens"),
    [
        ("test_vit", {}, 1),
        ("test_vit", {"reg_tokens": 4}, 5),
        ("test_vit", {"class_token": False, "global_pool": "avg"}, 0),
        ("test_vit", {"img_size": 208}, 1),
        ("test_vit", {"dynamic_img_size": True, "img_size": 224}, 1),
        ("test_vit", {"class_token": False, "global_pool": "map"}, 0),
        ("deit_tiny_distilled_patch16_224", {"depth": 2}, 2),
        ("eva02_tiny_patch14_224", {"depth": 2}, 1),
    ],
)
def test_vit_grid_comes_from_the_model(name: str, options: dict[str, Any], num_prefix_tokens: int) -> None:
    network = build(name, **options)
    backbone: Any = network.backbone
    size = 192 if "dynamic_img_size" in options else backbone.patch_embed.img_size[0]
    patch = backbone.patch_embed.patch_size[0]
    image = np.random.default_rng(5).integers(0, 256, (size, size, 3), dtype=np.uint8)
    heat = explained(network, image)
    assert backbone.num_prefix_tokens == num_prefix_tokens
    assert heat.cells.shape == (size // patch, size // patch)
    assert heat.values.shape == (size, size)
    assert np.ptp(heat.cells) > 0


@pytest.mark.parametrize(
    "name", ["swin_tiny_patch4_window7_224", "mixer_s32_224", "test_mambaout", "hrnet_w18_small", "coat_tiny"]
)
def test_networks_without_a_known_last_map_are_refused(name: str) -> None:
    with torch.device("meta"):
        backbone = timm.create_model(name, pretrained=False, num_classes=5)
    network = wrap(backbone.to_empty(device="cpu"), name, 224)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(0.01)
        for buffer in network.backbone.buffers():
            buffer.fill_(1)
    with pytest.raises(ExplanationError, match=rf"{name}.*supported are the cnn.*ResNet.*ViT"):
        explained(network, np.zeros((224, 224, 3), np.uint8))
    assert not any(module._forward_hooks for module in network.modules())


def test_a_network_that_computes_its_last_map_twice_is_refused(image: NDArray[np.uint8]) -> None:
    network = wrap(Siamese())
    with pytest.raises(ExplanationError, match="does not depend on one last feature map"):
        explained(network, image)
    assert not any(module._forward_hooks for module in network.modules())


def test_thirty_maps_leave_no_tensor_behind(image: NDArray[np.uint8]) -> None:
    network = build("test_efficientnet")

    def count_tensors() -> int:
        gc.collect()
        return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())

    small = image[:64, :64]
    explained(network, small)
    before = count_tensors()
    for _ in range(30):
        explained(network, small)
    assert count_tensors() == before
    assert not any(module._forward_hooks for module in network.modules())


def test_layers_that_work_in_place_do_not_change_the_map(image: NDArray[np.uint8]) -> None:
    """The stored feature map must be the output of its module, not what the next layer makes of it."""
    aside, in_place = wrap(InPlace(in_place=False)), wrap(InPlace(in_place=True))
    in_place.load_state_dict(aside.state_dict())
    assert np.array_equal(explained(in_place, image).cells, explained(aside, image).cells)


@pytest.mark.parametrize("layer", list(Layer))
@pytest.mark.parametrize("method", CAMS)
@pytest.mark.parametrize("name", [CNN, "test_resnet", "test_efficientnet", "test_vit"])
def test_every_cam_uses_every_layer(name: str, method: Attribution, layer: Layer, image: NDArray[np.uint8]) -> None:
    heat = explained(build(name), image, REFERABLE, method, layer)
    assert heat.method is method
    assert heat.values.shape == (160, 160)
    assert np.isfinite(heat.values).all()
    assert heat.values.min() >= 0
    assert np.ptp(heat.cells) > 0


@pytest.mark.parametrize("name", [CNN, "test_resnet", "test_efficientnet"])
def test_finer_layers_have_more_cells(name: str, image: NDArray[np.uint8]) -> None:
    network = build(name)
    sizes = [explained(network, image, layer=layer).cells.size for layer in (Layer.LAST, Layer.MIDDLE, Layer.FINE)]
    assert sizes[0] < sizes[1] < sizes[2]
    assert explained(network, image, layer=Layer.ALL).cells.size == sizes[2]


def test_all_layers_are_the_mean_of_three(image: NDArray[np.uint8]) -> None:
    network = build("test_vit")
    layers = [explained(network, image, layer=each).cells for each in (Layer.LAST, Layer.MIDDLE, Layer.FINE)]
    assert np.allclose(explained(network, image, layer=Layer.ALL).cells, np.mean(layers, axis=0), atol=1e-5)


def test_hirescam_is_grad_cam_where_the_last_map_is_averaged(image: NDArray[np.uint8]) -> None:
    """Draelos and Carin 2020: for a mean and a linear layer all gradients of a channel are alike."""
    network = build(CNN)
    hirescam = explained(network, image, method=Attribution.HIRES_CAM)
    assert np.allclose(hirescam.cells, explained(network, image).cells, rtol=1e-3, atol=1e-5)


def test_layercam_weights_channels_by_their_positive_gradients(image: NDArray[np.uint8]) -> None:
    network = build(CNN)
    features = network.backbone.features  # type: ignore[union-attr]
    maps: list[Tensor] = []
    handle = features.register_forward_hook(lambda module, inputs, output: maps.append(output.detach()))  # type: ignore
    heat = explained(network, image, method=Attribution.LAYER_CAM)
    handle.remove()
    weights = head_of(network).weight.detach()[3].clamp(min=0)
    expected = (maps[-1][0] * weights[:, None, None]).sum(dim=0).numpy()
    assert np.allclose(heat.cells, expected / expected.mean(), rtol=1e-3, atol=1e-5)


def test_grad_cam_is_imported_without_scikit_learn_whose_classes_work_when_they_are_called() -> None:
    program = """
import sys
from fundusgrade.explanation.cam import scikit_learn_on_demand
with scikit_learn_on_demand():
    import pytorch_grad_cam
assert not {name for name in sys.modules if name.split(".")[0] == "sklearn"}
from pytorch_grad_cam.utils import svd_on_activations
from sklearn.decomposition import KernelPCA
assert isinstance(svd_on_activations.KernelPCA(n_components=1), KernelPCA)
"""
    subprocess.run([sys.executable, "-c", program], check=True)
