"""Heat maps in units of the score, from networks small enough to know the answer."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import timm
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fundusgrade.errors import ExplanationError
from fundusgrade.explanation.attribution import WITHOUT_UNIT, explain_image, fits
from fundusgrade.explanation.heat_map import ExplainOptions, HeatMap, parse_method
from fundusgrade.explanation.integrated_gradients import blurred_baseline, integrate
from fundusgrade.explanation.targets import EXPECTED, PREDICTED, REFERABLE, Target, parse_target, target_scores
from fundusgrade.grades import Grade
from fundusgrade.networks.device import DeviceChoice
from fundusgrade.networks.network import CNN, GradingNetwork, NetworkSpec, SmallCnn
from fundusgrade.networks.tensors import to_tensor
from fundusgrade.options import Attribution, Layer, Precision

CPU = DeviceChoice(device=torch.device("cpu"), precision=Precision.FLOAT32, reason="exact")
GRAD_CAM = Attribution.GRAD_CAM
CAMS = [each for each in Attribution if each.value.endswith(("cam", "cam++"))]
SEVERE = parse_target("severe")


class InPlace(nn.Module):
    """Goes on from its last map in place, as many networks' activations do, or not."""

    def __init__(self, *, in_place: bool) -> None:
        super().__init__()
        self.in_place = in_place
        self.features = nn.Sequential(nn.Conv2d(3, 4, 8, 8))
        self.head = nn.Linear(4, 5)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.features(images)
        maps = maps.mul_(3).relu_() if self.in_place else (maps * 3).relu()
        logits: Tensor = self.head(maps.mean(dim=(2, 3)))
        return logits


class RedUpperLeft(nn.Module):
    """Votes for grade 3 by the red in the upper left quadrant, and for grade 0 by the green anywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.AvgPool2d(8), nn.Conv2d(3, 2, 1, bias=False))
        self.features[1].weight.data = torch.tensor([[1.0, 0, 0], [0, 1.0, 0]])[..., None, None]

    def forward(self, images: Tensor) -> Tensor:
        red, green = self.features(images).unbind(1)
        quadrant = red[:, : red.shape[1] // 2, : red.shape[2] // 2]
        zero = torch.zeros(len(images))
        return torch.stack([green.mean(dim=(1, 2)), zero, zero, quadrant.mean(dim=(1, 2)), zero], dim=1)


def wrap(backbone: nn.Module, arch: str = CNN) -> GradingNetwork:
    timm_name = None if arch == CNN else arch
    spec = NetworkSpec(arch=arch, timm_name=timm_name, size_px=160, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    return GradingNetwork(spec, backbone).eval()


def build(name: str, **options: Any) -> GradingNetwork:
    torch.manual_seed(11)
    backbone = SmallCnn() if name == CNN else timm.create_model(name, pretrained=False, num_classes=5, **options)
    return wrap(backbone, name)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Networks this small only wait for a second thread, for long where the machine is busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def image() -> NDArray[np.uint8]:
    return np.random.default_rng(5).integers(0, 256, (160, 160, 3), dtype=np.uint8)


def head_of(network: GradingNetwork) -> nn.Linear:
    backbone: Any = network.backbone
    head = backbone.classifier if isinstance(backbone, SmallCnn) else backbone.get_classifier()
    assert isinstance(head, nn.Linear)
    return head


def explained(
    network: GradingNetwork,
    image: NDArray[np.uint8],
    target: Target = SEVERE,
    method: Attribution = GRAD_CAM,
    layer: Layer = Layer.LAST,
) -> HeatMap:
    return explain_image(network, image, options=ExplainOptions(target=target, method=method, layer=layer), choice=CPU)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        *((str(grade.value), grade) for grade in Grade),
        *((grade.label.upper(), grade) for grade in Grade),
        ("no_dr", Grade.NONE),
        (" Severe ", Grade.SEVERE),
    ],
)
def test_targets_are_grades_and_labels(text: str, expected: Grade) -> None:
    assert parse_target(text).grade is expected


def test_named_targets() -> None:
    assert parse_target("Predicted") is PREDICTED
    assert parse_target("REFERABLE") is REFERABLE
    assert parse_target("3").name == "grade 3 Severe"


@pytest.mark.parametrize("text", ["", "5", "-1", "2.0", "dme", "grade"])
def test_unknown_target_lists_what_exists(text: str) -> None:
    with pytest.raises(ExplanationError, match=r"predicted, referable, expected, .*0 to 4.*\"Proliferative\""):
        parse_target(text)


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


def test_referable_is_explained_as_log_odds(image: NDArray[np.uint8]) -> None:
    network = build("test_resnet")
    with torch.no_grad():
        head_of(network).weight *= 20
    heat = explained(network, image, REFERABLE)
    with torch.no_grad():
        probabilities = network(torch.from_numpy(image).permute(2, 0, 1)[None] / 255).softmax(dim=1)[0]
    referable = float(probabilities[2:].sum())
    assert heat.score == pytest.approx(np.log(referable / (1 - referable)), abs=1e-4)
    assert heat.target is REFERABLE


@pytest.mark.parametrize("grade", list(Grade))
def test_predicted_is_resolved_to_the_most_probable_grade(grade: Grade, image: NDArray[np.uint8]) -> None:
    network = build("test_resnet")
    with torch.no_grad():
        head_of(network).bias[grade] += 100
    heat = explained(network, image, PREDICTED)
    assert heat.target == parse_target(str(grade.value))
    assert np.array_equal(heat.values, explained(network, image, heat.target).values)


def test_peak_is_where_the_network_looks(image: NDArray[np.uint8]) -> None:
    image[:] = 128
    image[24:40, 48:64, 0] = 255
    image[120:136, 120:136, 0] = 255
    heat = explained(wrap(RedUpperLeft()), image)
    y, x = np.unravel_index(heat.values.argmax(), heat.values.shape)
    assert 24 <= y < 40
    assert 48 <= x < 64
    # Mean gradients know channels, not places: red elsewhere shows too, which is Grad-CAM's known weakness.
    assert heat.values[80:110, 10:60].max() < 0.1 * heat.values.max()


def test_vit_peak_is_on_the_patch_that_counts(image: NDArray[np.uint8]) -> None:
    """The grid is laid out in rows: one bright patch among black ones is found where it is."""
    network = build("test_vit", img_size=(96, 160), global_pool="avg", class_token=False)
    image = np.zeros((96, 160, 3), np.uint8)
    image[64:80, 112:128] = 255
    backbone: Any = network.backbone
    for block in backbone.blocks[:-1]:
        nn.init.zeros_(block.attn.proj.weight)  # no patch hears of another
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
    network = wrap(backbone.to_empty(device="cpu"), name)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(0.01)
    with pytest.raises(ExplanationError, match=rf"{name}.*supported are the cnn.*ResNet.*ViT"):
        explained(network, np.zeros((224, 224, 3), np.uint8))
    assert not any(module._forward_hooks for module in network.modules())


def test_a_network_that_returns_no_number_is_refused(image: NDArray[np.uint8]) -> None:
    network = build("test_resnet")
    nn.init.constant_(head_of(network).bias, float("nan"))
    with pytest.raises(ExplanationError, match="not finite"):
        explained(network, image)


def test_the_network_is_left_as_it_was(image: NDArray[np.uint8]) -> None:
    network = build("test_resnet").train()
    backbone: Any = network.backbone
    backbone.bn1.eval()
    parameters = list(network.parameters())
    parameters[0].requires_grad_(False)
    parameters[1].grad = torch.ones_like(parameters[1])
    modes = [module.training for module in network.modules()]
    state = {name: value.clone() for name, value in network.state_dict().items()}
    explained(network, image)
    assert [module.training for module in network.modules()] == modes
    assert [parameter.requires_grad for parameter in parameters] == [False] + [True] * (len(parameters) - 1)
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    assert torch.equal(parameters[1].grad, torch.ones_like(parameters[1]))
    assert all(parameter.grad is None for parameter in [parameters[0], *parameters[2:]])
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


def test_frozen_networks_and_outer_contexts_give_the_same_map(image: NDArray[np.uint8]) -> None:
    network = build("test_vit")
    expected = explained(network, image).values
    network.requires_grad_(False)
    assert np.array_equal(explained(network, image).values, expected)
    with torch.no_grad():
        assert np.array_equal(explained(network, image).values, expected)
    with torch.inference_mode():
        assert np.array_equal(explained(network, image).values, expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert np.array_equal(explained(network, image).values, expected)


def test_thirty_maps_leave_no_tensor_behind(image: NDArray[np.uint8]) -> None:
    network = build("test_efficientnet")

    def count_tensors() -> int:
        gc.collect()
        return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())

    explained(network, image)
    before = count_tensors()
    for _ in range(30):
        explained(network, image)
    assert count_tensors() == before
    assert not any(module._forward_hooks for module in network.modules())


def test_layers_that_work_in_place_do_not_change_the_map(image: NDArray[np.uint8]) -> None:
    """The stored map must be the one the module gave, not what the next layer made of it."""
    aside, in_place = wrap(InPlace(in_place=False)), wrap(InPlace(in_place=True))
    in_place.load_state_dict(aside.state_dict())
    assert np.array_equal(explained(in_place, image).cells, explained(aside, image).cells)


# --- methods ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", list(Layer))
@pytest.mark.parametrize("method", CAMS)
@pytest.mark.parametrize("name", [CNN, "test_resnet", "test_efficientnet", "test_vit"])
def test_every_cam_reads_every_layer(name: str, method: Attribution, layer: Layer, image: NDArray[np.uint8]) -> None:
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


def test_layercam_keeps_what_raises_the_score(image: NDArray[np.uint8]) -> None:
    network = build(CNN)
    features = network.backbone.features  # type: ignore[union-attr]
    maps: list[Tensor] = []
    handle = features.register_forward_hook(lambda module, inputs, output: maps.append(output.detach()))  # type: ignore
    heat = explained(network, image, method=Attribution.LAYER_CAM)
    handle.remove()
    weights = head_of(network).weight.detach()[3].clamp(min=0)
    expected = (maps[0][0] * weights[:, None, None]).sum(dim=0).numpy()
    assert np.allclose(heat.cells, expected / expected.mean(), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("method", sorted(WITHOUT_UNIT))
def test_maps_without_a_unit_are_multiples_of_their_mean(method: Attribution, image: NDArray[np.uint8]) -> None:
    heat = explained(build("test_vit"), image, method=method)
    assert np.maximum(heat.cells, 0).mean() == pytest.approx(1.0, rel=1e-5)
    assert heat.scale.unit == "times the mean"


def test_rollout_follows_the_attention_of_one_block(image: NDArray[np.uint8]) -> None:
    """With one block it is the class token's attention times its gradient, positive parts averaged over the heads."""
    network = build("test_vit", depth=1)
    attention: Any = network.backbone.blocks[0].attn  # type: ignore[union-attr, index]
    attention.fused_attn = False
    shown: list[Tensor] = []
    handle = attention.attn_drop.register_forward_hook(lambda module, inputs, output: shown.append(output))
    score = target_scores(SEVERE, network(to_tensor(image)[None]))[0]
    (gradient,) = torch.autograd.grad(score, shown[0])
    handle.remove()
    attention.fused_attn = True
    expected = (shown[0] * gradient).clamp(min=0)[0].mean(dim=0)[0, 1:].reshape(10, 10).detach()
    heat = explained(network, image, method=Attribution.ROLLOUT)
    assert np.allclose(heat.cells, expected / expected.mean(), rtol=1e-3, atol=1e-5)
    assert attention.fused_attn is True


@pytest.mark.parametrize("name", [CNN, "test_resnet"])
def test_rollout_is_refused_without_attention(name: str, image: NDArray[np.uint8]) -> None:
    with pytest.raises(ExplanationError, match=r"no attention to read; this method reads plain vision transformers"):
        explained(build(name), image, method=Attribution.ROLLOUT)


def test_shares_of_a_linear_network_are_its_mean_over_mirrored_views(image: NDArray[np.uint8]) -> None:
    """For a network that is linear in the pixels the gradients are the same all along the path."""
    network, outline = wrap(RedUpperLeft()), np.ones((160, 160), np.bool_)
    shares = integrate(network, image, outline, SEVERE, CPU)
    with torch.no_grad():
        scores = [
            float(target_scores(SEVERE, network(to_tensor(each)[None]))[0])
            for each in (image, blurred_baseline(image, outline))
        ]
    # The network is not symmetric, and the shares are the mean over mirrored views: a quarter is in each quadrant.
    everywhere = (image[..., 0].astype(float) - blurred_baseline(image, outline)[..., 0]).mean() / 255 / 0.25
    assert shares.sum() == pytest.approx(everywhere, abs=1e-3)
    assert abs(scores[0] - scores[1]) < 1


def test_shares_add_up_for_a_network_that_does_not_mind_mirroring() -> None:
    network, outline = build(CNN), np.ones((160, 160), np.bool_)
    generator = np.random.default_rng(3)
    quarter = generator.integers(60, 200, (80, 80, 3), dtype=np.uint8)
    half = np.concatenate([quarter, quarter[:, ::-1]], axis=1)
    symmetric = np.concatenate([half, half[::-1]])
    nn.init.normal_(head_of(network).weight)
    with torch.no_grad():
        difference = [
            float(target_scores(SEVERE, network(to_tensor(each)[None]))[0])
            for each in (symmetric, blurred_baseline(symmetric, outline))
        ]
    shares = integrate(network, symmetric, outline, SEVERE, CPU)
    heat = explained(network, symmetric, SEVERE, Attribution.INTEGRATED)
    assert [heat.score, heat.baseline_score] == pytest.approx(difference, abs=1e-5)
    assert abs(difference[0] - difference[1]) > 0.05
    assert shares.sum() == pytest.approx(difference[0] - difference[1], rel=0.1)


def test_what_does_not_differ_from_its_surroundings_gets_no_share() -> None:
    image = np.full((160, 160, 3), 120, np.uint8)
    image[100:104, 40:44] = 220
    heat = explained(build("test_resnet"), image, method=Attribution.INTEGRATED)
    assert heat.cells[:60, 90:] == pytest.approx(0, abs=1e-6)
    assert np.abs(heat.cells[95:110, 35:50]).max() > 0


def test_the_blank_image_keeps_what_lies_outside_of_the_outline() -> None:
    generator = np.random.default_rng(4)
    image = generator.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    outline = np.zeros((64, 64), np.bool_)
    outline[16:48] = True
    blank = blurred_baseline(image, outline)
    assert np.array_equal(blank[~outline], image[~outline])
    assert blank[outline].std() < 0.3 * image[outline].std()
    changed = image.copy()
    changed[:16] = 0
    assert np.array_equal(blurred_baseline(changed, outline)[outline], blank[outline])


@pytest.mark.parametrize("method", [each for each in Attribution if each is not Attribution.AUTO])
def test_no_method_leaves_a_trace(method: Attribution, image: NDArray[np.uint8]) -> None:
    network = build("test_vit").train()
    before = image.copy()
    state = {name: value.clone() for name, value in network.state_dict().items()}
    explained(network, image, method=method)
    assert np.array_equal(image, before)
    assert network.training
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in network.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


def test_the_expected_grade_is_explained_in_grades(image: NDArray[np.uint8]) -> None:
    network = build("test_resnet")
    heat = explained(network, image, EXPECTED, Attribution.INTEGRATED)
    with torch.no_grad():
        probabilities = network(to_tensor(image)[None]).softmax(dim=1)[0]
    assert heat.score == pytest.approx(float(probabilities @ torch.arange(5.0)), abs=1e-5)
    assert heat.scale.unit == "evidence (grades per 0.1 % of picture)"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("auto", (Attribution.AUTO, Layer.LAST)),
        (" Grad-CAM ", (Attribution.GRAD_CAM, Layer.LAST)),
        ("grad-cam++@fine", (Attribution.GRAD_CAM_PLUS_PLUS, Layer.FINE)),
        ("layercam@all", (Attribution.LAYER_CAM, Layer.ALL)),
        ("rollout", (Attribution.ROLLOUT, Layer.LAST)),
    ],
)
def test_methods_are_named_with_their_layer(text: str, expected: tuple[Attribution, Layer]) -> None:
    assert parse_method(text) == expected


@pytest.mark.parametrize("text", ["", "gradcam", "grad-cam@first", "integrated@fine", "rollout@all"])
def test_an_unknown_method_lists_what_exists(text: str) -> None:
    with pytest.raises(ExplanationError, match=r"integrated.*grad-cam|read a layer"):
        parse_method(text)


@pytest.mark.parametrize(
    ("name", "method", "expected"),
    [
        (CNN, Attribution.ROLLOUT, False),
        ("test_vit", Attribution.ROLLOUT, True),
        (CNN, Attribution.GRAD_CAM, True),
        ("test_resnet", Attribution.INTEGRATED, True),
        ("test_mambaout", Attribution.INTEGRATED, True),
        ("test_mambaout", Attribution.GRAD_CAM, False),
    ],
)
def test_which_method_fits_which_network(name: str, method: Attribution, expected: bool) -> None:
    assert fits(build(name), ExplainOptions(method=method)) is expected
