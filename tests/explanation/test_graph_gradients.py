"""A graph of OpenVINO gives the gradients that PyTorch gives, and explains where OpenVINO grades, without PyTorch."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fundusgrade import store
from fundusgrade.errors import ExplanationError
from fundusgrade.explanation import gradient_tracing, sources
from fundusgrade.explanation.attribution import heat_maps
from fundusgrade.explanation.explainer import check_fit, explain
from fundusgrade.explanation.gradient_tracing import gradient_files, map_distance, trace_gradients
from fundusgrade.explanation.graph_gradients import SCORES, GraphGradients
from fundusgrade.explanation.heat_map import ExplainOptions
from fundusgrade.explanation.targets import EXPECTED, REFERABLE
from fundusgrade.explanation.torch_gradients import TorchGradients, explain_image_by_methods
from fundusgrade.grading.grader import Grader
from fundusgrade.networks.checkpoint import load_checkpoint
from fundusgrade.networks.graphs import load_openvino_graph
from fundusgrade.networks.heads import Calibration
from fundusgrade.networks.network import GradingNetwork, SmallCnn
from fundusgrade.networks.spec import CNN
from fundusgrade.networks.torch_runtime import TorchRuntime
from fundusgrade.options import Attribution, Head, Layer, Precision, RuntimeName
from tests.command_line import ENVIRONMENT
from tests.explanation.small_networks import CPU, SEVERE, InPlace, Siamese, build, wrap
from tests.models_for_tests import install_model, save_photographs

GRAD_CAM = ExplainOptions(target=SEVERE, method=Attribution.GRAD_CAM)
GRADIENTS = ExplainOptions(target=SEVERE, method=Attribution.INTEGRATED_GRADIENTS)


def graph_of(network: GradingNetwork) -> GraphGradients:
    graph = load_openvino_graph(*gradient_files(network), Precision.FLOAT32.value, "test")
    return GraphGradients(TorchRuntime(network, CPU), graph, network.spec)


def noise(count: int, size_px: int = 160) -> NDArray[np.float32]:
    return np.random.default_rng(3).random((count, 3, size_px, size_px), np.float32)


def assert_near(found: NDArray[np.floating], expected: NDArray[np.floating]) -> None:
    np.testing.assert_allclose(found, expected, atol=2e-3 * float(np.abs(expected).max()))
    assert np.abs(expected).max() > 0, "a network without gradients proves nothing"


@pytest.mark.parametrize("arch", [CNN, "test_efficientnet", "test_vit", "test_resnet", "resnet18"])
def test_gradients_and_maps_are_those_of_pytorch(arch: str, image: NDArray[np.uint8]) -> None:
    network = build(arch)
    size_px = network.spec.size_px
    image, images = image[:size_px, :size_px], noise(3, size_px)
    graph = graph_of(network)
    with TorchGradients.of(network, CPU) as by_torch:
        for target in (SEVERE, REFERABLE, EXPECTED):
            assert_near(graph.gradients(images, target), by_torch.gradients(images, target))
        options = replace(GRAD_CAM, target=REFERABLE)
        assert_near(graph.map_cells(image, options), by_torch.map_cells(image, options))
        assert graph.logits([image, image[::-1]]) == pytest.approx(by_torch.logits([image, image[::-1]]), abs=1e-4)


@pytest.mark.parametrize("head", list(Head))
def test_every_score_of_every_head_has_its_own_gradient(head: Head) -> None:
    torch.manual_seed(2)
    network = wrap(SmallCnn({Head.SOFTMAX: 5, Head.REGRESSION: 1, Head.CUMULATIVE: 4}[head]))
    calibration = Calibration(
        temperature=1.7, offsets=(0.3, -0.2, 0.1, 0.4, -0.6), slopes=(1.2, 0.8, 1.1, 0.9), intercepts=(2, 0.5, 0.2, -1)
    )
    network.spec = replace(network.spec, head=head, calibration=calibration)
    graph, images = graph_of(network), noise(1)
    with TorchGradients.of(network, CPU) as by_torch:
        for target in SCORES:
            assert_near(graph.gradients(images, target), by_torch.gradients(images, target))


class Convolutions(nn.Module):
    """Every kind of convolution whose gradient is written anew, and a pooling whose windows overlap."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.SiLU(), nn.Conv2d(8, 8, 5, stride=3, padding=2, groups=8),
            nn.Hardswish(), nn.Conv2d(8, 12, 3, dilation=2, groups=4), nn.GELU(), nn.MaxPool2d(3, 2, 1),
            nn.Conv2d(12, 6, 1, padding=1), nn.AvgPool2d(2), nn.Conv2d(6, 6, (3, 2), stride=(1, 2), groups=2),
            nn.Sigmoid(),
        )  # fmt: skip
        self.head = nn.Linear(6, 5)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(images).mean(dim=(2, 3)))
        return logits


@pytest.mark.parametrize("size_px", [64, 95])
def test_the_gradient_of_every_kind_of_convolution_is_exact(size_px: int) -> None:
    torch.manual_seed(4)
    network = wrap(Convolutions(), size_px=size_px)
    traced, (image, weights) = trace_gradients(network.requires_grad_(False))
    leaf = torch.rand(image.shape, generator=torch.Generator().manual_seed(1))
    with TorchGradients.of(network, CPU) as by_torch:
        expected = by_torch.gradients(leaf.numpy(), SEVERE)
    chosen = torch.tensor([[float(each == SEVERE) for each in SCORES]])
    assert weights.shape == chosen.shape
    assert_near(traced(leaf, chosen)[0].detach().numpy(), expected)


def test_networks_without_one_last_map_have_gradients_only() -> None:
    graph = graph_of(wrap(Siamese()))
    assert not graph.has_map and not graph.fits(GRAD_CAM) and graph.fits(GRADIENTS)
    with pytest.raises(ExplanationError, match="--method grad-cam needs PyTorch"):
        graph.map_cells(np.zeros((160, 160, 3), np.uint8), GRAD_CAM)


@pytest.mark.parametrize("in_place", [True, False])
def test_networks_that_work_in_place_are_traced_as_others(in_place: bool, image: NDArray[np.uint8]) -> None:
    torch.manual_seed(0)
    network = wrap(InPlace(in_place=in_place))
    graph = graph_of(network)
    for options in (GRAD_CAM, GRADIENTS):
        expected = explain_image_by_methods(network, image, methods=[options], choice=CPU)[0]
        found = heat_maps(graph, image, [options])[0]
        assert map_distance([found], [expected]) < 1e-3
        assert found.score == pytest.approx(expected.score, abs=1e-4)
        assert (found.gap or 0) == pytest.approx(expected.gap or 0, abs=1e-3)


def test_the_distance_of_maps_is_that_of_all_together(image: NDArray[np.uint8]) -> None:
    expected = explain_image_by_methods(build(CNN), image, methods=[GRADIENTS], choice=CPU)[0]
    nearly_empty, doubled = (replace(expected, values=scale * expected.values) for scale in (1e-4, 2e-4))
    assert map_distance([expected], [expected]) == 0
    assert map_distance([doubled], [nearly_empty]) == pytest.approx(1)
    assert map_distance([expected, doubled], [expected, nearly_empty]) == pytest.approx(1e-4, rel=1e-3)


def test_openvino_explains_where_it_grades_and_several_threads_agree(
    installed_runtimes: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    install_model(arch="test_efficientnet")
    [file] = save_photographs(tmp_path, [1])
    by_torch = Grader.load("tiny", precision=Precision.FLOAT32, runtime=RuntimeName.PYTORCH)
    grader = Grader.load("tiny", precision=Precision.FLOAT32)
    assert sources.graph_for(by_torch, [GRADIENTS]) is None
    assert sources.for_own_thread(grader, [GRAD_CAM, GRADIENTS]) is grader
    others = replace(GRAD_CAM, method=Attribution.HIRES_CAM)
    assert sources.for_own_thread(grader, [GRAD_CAM, others]) is not grader, "this method is PyTorch's"
    assert "once, for explaining" in capsys.readouterr().err
    for options in (GRAD_CAM, GRADIENTS):
        expected = explain(by_torch, file, options)
        with ThreadPoolExecutor(3) as pool:
            heats = [each.heat for each in pool.map(lambda _, each=options: explain(grader, file, each), range(3))]
        distance = np.linalg.norm(heats[0] - expected.heat) / np.linalg.norm(expected.heat)
        assert distance < 5e-3
        np.testing.assert_array_equal(heats[1:], [heats[0], heats[0]])


def test_a_graph_that_computes_something_else_explains_nothing(
    installed_runtimes: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    install_model()
    other = load_checkpoint(install_model("other", seed=1)).network
    files = gradient_tracing.gradient_files
    monkeypatch.setattr(gradient_tracing, "gradient_files", lambda network: files(other))
    [file] = save_photographs(tmp_path, [1])
    by_torch = Grader.load("tiny", precision=Precision.FLOAT32, runtime=RuntimeName.PYTORCH)
    for _ in range(2):
        grader = Grader.load("tiny", precision=Precision.FLOAT32)
        check_fit([grader], [GRADIENTS])
        said = capsys.readouterr().err
        assert "PyTorch computes the heat maps of tiny: integrated-gradients by OpenVINO" in said
        np.testing.assert_allclose(
            explain(grader, file, GRADIENTS).heat, explain(by_torch, file, GRADIENTS).heat, rtol=1e-4, atol=1e-5
        )


def test_maps_that_bfloat16_would_move_too_far_are_computed_in_float32(
    installed_runtimes: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    install_model(arch="test_efficientnet")
    monkeypatch.setattr(gradient_tracing, "TOLERANCES", {"float32": 0.02, "bfloat16": -1.0})
    [file] = save_photographs(tmp_path, [1])
    grader = Grader.load("tiny")
    by_torch = Grader.load("tiny", precision=Precision.FLOAT32, runtime=RuntimeName.PYTORCH)
    assert sources.graph_for(grader, [GRADIENTS]) is not None
    found, expected = (explain(each, file, GRADIENTS) for each in (grader, by_torch))
    assert map_distance([found.heat_map], [expected.heat_map]) < 5e-3


def test_a_second_explanation_imports_no_pytorch(installed_runtimes: None, tmp_path: Path) -> None:
    install_model(arch="test_efficientnet")
    [file] = save_photographs(tmp_path, [1])
    check_fit([Grader.load("tiny")], [GRADIENTS])
    words = ["explain", str(file), "--model", "tiny", "--out", str(tmp_path / "map.png")]
    program = (
        "import sys\nfrom typer.testing import CliRunner\nfrom fundusgrade.commands.app import app\n"
        f"done = CliRunner().invoke(app, {words})\n"
        "print(done.exit_code, sorted({'torch', 'timm', 'torchvision', 'pytorch_grad_cam'} & set(sys.modules)))"
    )
    environment = {**ENVIRONMENT, "FUNDUSGRADE_HOME": str(store.home())}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1:] == ["0 []"], done.stderr


def test_options_that_are_no_default_need_pytorch() -> None:
    network: Any = build(CNN)
    graph = graph_of(network)
    for method in Attribution:
        is_known = method in (Attribution.AUTO, Attribution.INTEGRATED_GRADIENTS, Attribution.GRAD_CAM)
        assert graph.fits(ExplainOptions(method=method)) is is_known
    assert not graph.fits(ExplainOptions(method=Attribution.GRAD_CAM, layer=Layer.ALL))
