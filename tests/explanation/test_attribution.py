"""What holds for every method: heat in units of the score, and a network that is left as it was."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from fundusgrade.errors import ExplanationError
from fundusgrade.explanation.attribution import WITHOUT_UNIT, probability_per_log_odds
from fundusgrade.explanation.heat_map import ExplainOptions
from fundusgrade.explanation.targets import EXPECTED, PREDICTED, REFERABLE, parse_target
from fundusgrade.explanation.torch_gradients import explain_image_by_methods, fits
from fundusgrade.grades import Grade
from fundusgrade.networks.spec import CNN
from fundusgrade.networks.tensors import to_tensor
from fundusgrade.options import Attribution
from tests.explanation.small_networks import CPU, build, explained, head_of


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


@pytest.mark.parametrize("method", sorted(WITHOUT_UNIT))
def test_maps_without_a_unit_are_multiples_of_their_mean(method: Attribution, image: NDArray[np.uint8]) -> None:
    heat = explained(build("test_vit"), image, method=method)
    assert np.maximum(heat.cells, 0).mean() == pytest.approx(1.0, rel=1e-5)
    assert heat.scale.unit == "times the mean"


@pytest.mark.parametrize("method", [each for each in Attribution if each is not Attribution.AUTO])
def test_no_method_changes_the_network_or_the_image(method: Attribution, image: NDArray[np.uint8]) -> None:
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
    heat = explained(network, image, EXPECTED, Attribution.INTEGRATED_GRADIENTS)
    with torch.no_grad():
        probabilities = network(to_tensor(image)[None]).softmax(dim=1)[0]
    assert heat.score == pytest.approx(float(probabilities @ torch.arange(5.0)), abs=1e-5)
    assert heat.scale.unit == "grades per 0.1 % of the image"


def test_evidence_of_referable_disease_adds_up_to_the_change_of_its_probability() -> None:
    """On a mirror-symmetric image, where the steps on mirror images are steps on the image itself."""
    network = build(CNN)
    nn.init.normal_(head_of(network).weight)
    quarter = np.random.default_rng(3).integers(60, 200, (80, 80, 3), dtype=np.uint8)
    half = np.concatenate([quarter, quarter[:, ::-1]], axis=1)
    heat = explained(network, np.concatenate([half, half[::-1]]), REFERABLE, Attribution.INTEGRATED_GRADIENTS)
    assert heat.baseline_score is not None and heat.gap is not None
    first, last = (1 / (1 + np.exp(-score)) for score in (heat.baseline_score, heat.score))
    slope = (last - first) / (heat.score - heat.baseline_score)
    per_tenth_of_percent = heat.cells.sum(dtype=np.float64) / (0.001 * heat.cells.size)
    assert per_tenth_of_percent == pytest.approx(last - first + slope * heat.gap, rel=1e-3)
    assert abs(last - first) > 10 * abs(slope * heat.gap) > 0
    assert heat.scale.unit == "probability per 0.1 % of the image"


@pytest.mark.parametrize(("first", "second"), [(-3.0, -6.0), (-1.0, 5.0), (0.4, 0.4), (0.4, 0.4 + 1e-7), (-800, 800)])
def test_a_change_of_log_odds_is_turned_into_one_of_probability(first: float, second: float) -> None:
    slope = probability_per_log_odds(first, second)
    grid = np.linspace(first, second, 200001)
    densities = 0.25 / np.cosh(grid.clip(-1000, 1000) / 2) ** 2 if abs(first) < 100 else None
    expected = 1 / 1600 if densities is None else float(densities.mean())
    assert slope == pytest.approx(expected, rel=1e-4)


def test_several_methods_give_the_maps_that_each_gives_alone(image: NDArray[np.uint8]) -> None:
    network = build("test_resnet")
    methods = [
        ExplainOptions(target=target, method=method)
        for target in (REFERABLE, PREDICTED)
        for method in (Attribution.GRAD_CAM, Attribution.INTEGRATED_GRADIENTS)
    ]
    together = explain_image_by_methods(network, image, methods=methods, choice=CPU)
    for heat_map, options in zip(together, methods, strict=True):
        alone = explained(network, image, options.target, options.method)
        assert (heat_map.method, heat_map.target, heat_map.score) == (alone.method, alone.target, alone.score)
        assert np.array_equal(heat_map.values, alone.values)


def test_several_methods_share_the_forward_pass_of_the_score(image: NDArray[np.uint8]) -> None:
    network = build("test_resnet")
    assert fits(network, ExplainOptions(method=Attribution.GRAD_CAM)), "tried once for each network, before it explains"
    counts = []
    for methods in ([Attribution.GRAD_CAM], [Attribution.GRAD_CAM] * 3):
        calls: list[None] = []
        handle = network.register_forward_hook(lambda *arguments, calls=calls: calls.append(None))
        explain_image_by_methods(
            network, image, methods=[ExplainOptions(method=method) for method in methods], choice=CPU
        )
        handle.remove()
        counts.append(len(calls))
    assert counts == [2, 4]


@pytest.mark.parametrize(
    ("name", "method", "expected"),
    [
        (CNN, Attribution.ATTENTION_ROLLOUT, False),
        ("test_vit", Attribution.ATTENTION_ROLLOUT, True),
        (CNN, Attribution.GRAD_CAM, True),
        ("test_resnet", Attribution.INTEGRATED_GRADIENTS, True),
        ("test_mambaout", Attribution.INTEGRATED_GRADIENTS, True),
        ("test_mambaout", Attribution.GRAD_CAM, False),
    ],
)
def test_which_method_fits_which_network(name: str, method: Attribution, expected: bool) -> None:
    assert fits(build(name), ExplainOptions(method=method)) is expected
