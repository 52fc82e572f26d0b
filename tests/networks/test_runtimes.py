"""The fastest runtime that is installed grades by itself, as PyTorch would, and every other case is said in words."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fundusgrade import store
from fundusgrade.errors import CheckpointError, DeviceError, ExportError
from fundusgrade.grades import Prediction
from fundusgrade.grading.grader import Grader
from fundusgrade.networks import conversion, graphs, processor
from fundusgrade.networks.checkpoint import load_checkpoint, replace_description
from fundusgrade.networks.conversion import check_agreement, probe_images
from fundusgrade.networks.device import choose_device
from fundusgrade.networks.graphs import GraphRuntime, openvino_has_bfloat16
from fundusgrade.networks.loading import load_model
from fundusgrade.networks.runtime import Outputs, Pixels, predict
from fundusgrade.networks.torch_runtime import TorchRuntime, on_pytorch
from fundusgrade.options import DeviceName, Precision, RuntimeName
from tests.command_line import ENVIRONMENT, Outcome
from tests.grading.test_doubts import checks
from tests.models_for_tests import install_model, save_photographs

FLOAT32, CPU = Precision.FLOAT32, choose_device(DeviceName.CPU, Precision.FLOAT32)
GRAPHS = (RuntimeName.OPENVINO, RuntimeName.ONNXRUNTIME)


@pytest.fixture
def conversions(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """The format of every conversion, as it begins."""
    found: list[Any] = []
    convert = conversion.convert

    def counted(network: Any, format: Any) -> tuple[bytes, ...]:
        found.append(format)
        return convert(network, format)

    monkeypatch.setattr(conversion, "convert", counted)
    yield found


def graph_files() -> list[Path]:
    return sorted((store.home() / "graphs").glob("*/*"))


def test_the_fastest_runtime_grades_by_itself_and_is_converted_once(
    installed_runtimes: None, conversions: list[Any], tmp_path: Path
) -> None:
    path = install_model()
    replace_description(path, load_checkpoint(path).description, checks=checks())
    files = save_photographs(tmp_path, range(5))
    by_torch = Grader.load("tiny", precision=FLOAT32, runtime=RuntimeName.PYTORCH)
    first, again = (Grader.load("tiny", precision=FLOAT32) for _ in range(2))
    assert len(conversions) == 1
    assert again.arithmetic.describe().startswith("runtime: OpenVINO 20")
    for file in files:
        expected, found = by_torch.grade(file), again.grade(file)
        assert isinstance(expected, Prediction) and isinstance(found, Prediction)
        assert found == first.grade(file)
        assert found.probabilities == pytest.approx(expected.probabilities, abs=1e-4)
        assert found.training_distance == pytest.approx(expected.training_distance, rel=1e-3)
        assert found.reject_probability == pytest.approx(expected.reject_probability, rel=1e-3)


@pytest.mark.parametrize("runtime", GRAPHS)
@pytest.mark.parametrize("arch", ["test_vit", "test_efficientnet"])
def test_converted_graphs_equal_pytorch_with_features_for_batches_of_any_size(arch: str, runtime: RuntimeName) -> None:
    path = install_model(arch=arch)
    by_torch = TorchRuntime(load_checkpoint(path).network, CPU)
    model = load_model(path, precision=FLOAT32, runtime=runtime)
    for num in (1, 2, 5):
        pixels = probe_images(model.description.network)[:num]
        expected = by_torch.run(pixels, with_features=True)
        found = model.runtime.run(pixels, with_features=True)
        np.testing.assert_allclose(found.outputs, expected.outputs, atol=1e-4, rtol=1e-4)
        np.testing.assert_allclose(found.features, expected.features, atol=1e-4, rtol=1e-4)
        assert model.runtime.run(pixels, with_features=False).features is None


def test_openvino_computes_in_bfloat16_where_the_processor_does(installed_runtimes: None) -> None:
    install_model(arch="test_efficientnet")
    fast = "bfloat16" if openvino_has_bfloat16("test") else "float32"
    assert Grader.load("tiny").arithmetic.number_format == fast
    assert len({file.parent for file in graph_files()}) == 1
    Grader.load("tiny", precision=FLOAT32)
    folders = {file.parent for file in graph_files()}
    assert len(folders) == (2 if fast == "bfloat16" else 1), "each number format is compared with PyTorch"


@pytest.mark.parametrize("suffix", [".xml", ".bin", ".json"])
def test_a_damaged_graph_is_converted_again(suffix: str, conversions: list[Any]) -> None:
    install_model()
    load = {"precision": FLOAT32, "runtime": RuntimeName.OPENVINO}
    Grader.load("tiny", **load)  # type: ignore[arg-type]
    [file] = [each for each in graph_files() if each.name == ("seal" if suffix == ".json" else "graph") + suffix]
    data = file.read_bytes()
    for count, damaged in enumerate((data[:-2], bytes([data[0] ^ 1]) + data[1:], None), start=2):
        file.unlink() if damaged is None else file.write_bytes(damaged)
        for _ in range(2):
            Grader.load("tiny", **load)  # type: ignore[arg-type]
            assert len(conversions) == count
        for each in graph_files():
            if each.name.startswith("compiled"):
                each.unlink()


@pytest.mark.parametrize("name", ["compiled.blob", "compiled.json"])
def test_a_compiled_graph_is_kept_and_a_damaged_one_is_compiled_again(
    name: str, conversions: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = install_model()
    compile_graph, compiled = graphs.load_openvino_graph, []

    def counted(*arguments: Any) -> Any:
        compiled.append(arguments)
        return compile_graph(*arguments)

    monkeypatch.setattr("fundusgrade.networks.graph_files.load_openvino_graph", counted)
    pixels = probe_images(load_checkpoint(path).description.network)

    def outputs() -> Any:
        runtime = load_model(path, precision=FLOAT32, runtime=RuntimeName.OPENVINO).runtime
        return runtime.run(pixels, with_features=False).outputs

    first = outputs()
    for expected in (2, 2):  # converted, compiled for the store, and taken from there
        np.testing.assert_array_equal(outputs(), first)
        assert len(compiled) == expected
    [file] = [each for each in graph_files() if each.name == name]
    file.write_bytes(file.read_bytes()[:-5])
    for _ in range(2):
        np.testing.assert_array_equal(outputs(), first)
    assert len(compiled) == 3 and len(conversions) == 1
    monkeypatch.setattr("fundusgrade.networks.graph_store.openvino_target", lambda: "another processor")
    outputs()
    assert len(compiled) == 4


def test_other_weights_under_the_same_name_are_converted_anew(conversions: list[Any]) -> None:
    for seed in range(2):
        path = install_model(seed=seed)
        graph = load_model(path, precision=FLOAT32, runtime=RuntimeName.OPENVINO)
        pixels = probe_images(graph.description.network)
        expected = TorchRuntime(load_checkpoint(path).network, CPU).run(pixels, with_features=False).outputs
        np.testing.assert_allclose(graph.runtime.run(pixels, with_features=False).outputs, expected, atol=1e-3)
    assert len(conversions) == 2


def test_a_graph_that_computes_something_else_is_not_used_and_not_tried_again(
    installed_runtimes: None, conversions: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, other = install_model(), load_checkpoint(install_model("other", seed=1)).network
    convert = conversion.convert
    monkeypatch.setattr(conversion, "convert", lambda network, format: convert(other, format))
    for _ in range(2):
        arithmetic = load_model(path).runtime.arithmetic
        assert arithmetic.runtime.startswith("PyTorch")
        assert "openvino is not used: OpenVINO" in arithmetic.reason and "differs from PyTorch by" in arithmetic.reason
    with pytest.raises(ExportError, match="differs from PyTorch by"):
        load_model(path, runtime=RuntimeName.OPENVINO)
    assert len(conversions) == 1


def test_one_of_several_first_runs_converts(conversions: list[Any]) -> None:
    path = install_model()
    with ThreadPoolExecutor(3) as pool:
        loads = [pool.submit(load_model, path, precision=FLOAT32, runtime=RuntimeName.OPENVINO) for _ in range(3)]
        runtimes = [load.result().runtime for load in loads]
    pixels = probe_images(load_checkpoint(path).description.network)
    outputs = [runtime.run(pixels, with_features=False).outputs for runtime in runtimes]
    assert len(conversions) == 1
    np.testing.assert_array_equal(outputs[1:], [outputs[0], outputs[0]])


def test_a_store_that_cannot_be_written_to_keeps_no_graph(
    installed_runtimes: None, conversions: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = install_model().rename(tmp_path / "model.safetensors")
    (tmp_path / "file").touch()
    monkeypatch.setenv("FUNDUSGRADE_HOME", str(tmp_path / "file" / "home"))
    by_default = load_model(path).runtime.arithmetic
    assert by_default.runtime.startswith("PyTorch") and "openvino is not used: cannot make" in by_default.reason
    assert conversions == []
    on_request = load_model(path, runtime=RuntimeName.OPENVINO).runtime.arithmetic
    assert on_request.runtime.startswith("OpenVINO") and len(conversions) == 1


@pytest.mark.parametrize(("runtime", "package"), [(GRAPHS[0], "openvino"), (GRAPHS[1], "onnxruntime")])
def test_a_runtime_that_is_not_installed_is_an_error_where_it_is_asked_for(
    runtime: RuntimeName, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = install_model()
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(CheckpointError, match=rf"needs {package}, which is not installed; .pip install 'fundusgrade\["):
        load_model(path, runtime=runtime)
    assert load_model(path).runtime.arithmetic.runtime.startswith("PyTorch")


def test_what_a_graph_cannot_do_is_refused_or_left_to_pytorch(
    installed_runtimes: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = install_model()
    with pytest.raises(DeviceError, match="--runtime openvino --device cuda: it runs on the CPU"):
        load_model(path, runtime=RuntimeName.OPENVINO, device=DeviceName.CUDA)
    with pytest.raises(DeviceError, match="--runtime onnxruntime --precision bfloat16: here it computes in float32"):
        load_model(path, runtime=RuntimeName.ONNXRUNTIME, precision=Precision.BFLOAT16)
    with pytest.raises(DeviceError, match="float16 needs a GPU"):
        load_model(path, precision=Precision.FLOAT16)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("fundusgrade.networks.loading.may_have_gpu", lambda: True)
    monkeypatch.setattr("fundusgrade.networks.torch_runtime.to_device", lambda network, choice: network)
    assert load_model(path, precision=FLOAT32).runtime.arithmetic.device == "cuda"


def test_a_gpu_is_looked_for_by_what_its_driver_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    for found in (False, True):
        monkeypatch.setattr(processor, "_GPU_FILES", (str(tmp_path) if found else str(tmp_path / "none"),))
        assert processor.may_have_gpu() is found


def test_the_comparison_notices_features_of_another_network() -> None:
    network = load_checkpoint(install_model(arch="test_efficientnet")).network

    class Doubled(TorchRuntime):
        def run(self, pixels: Pixels, *, with_features: bool) -> Outputs:
            found = super().run(pixels, with_features=with_features)
            return found if found.features is None else replace(found, features=2 * found.features)

    assert check_agreement(network, TorchRuntime(network, CPU)).probability_change == 0
    with pytest.raises(ExportError, match=r"100\.0% in the features"):
        check_agreement(network, Doubled(network, CPU))


def test_mirrored_views_are_averaged_before_the_head() -> None:
    network = load_checkpoint(install_model()).network
    runtime, pixels = TorchRuntime(network, CPU), probe_images(network.spec)
    flips = (pixels, pixels[:, :, ::-1], pixels[:, ::-1], pixels[:, ::-1, ::-1])
    mean = np.mean([runtime.run(each.copy(), with_features=False).outputs for each in flips], axis=0)

    class Mean(TorchRuntime):
        def run(self, pixels: Pixels, *, with_features: bool) -> Outputs:
            return Outputs(outputs=mean)

    expected = predict(Mean(network, CPU), network.spec, pixels, batch_size=len(pixels)).probabilities
    found = predict(runtime, network.spec, pixels, batch_size=2, tta=True).probabilities
    np.testing.assert_allclose(found, expected, atol=1e-6)
    plain = predict(runtime, network.spec, pixels, batch_size=2).probabilities
    assert np.abs(found - plain).max() > 1e-3, "these images are not symmetric"


def test_heat_maps_of_a_graph_are_those_of_its_checkpoint() -> None:
    path = install_model()
    graph = Grader(load_model(path, precision=FLOAT32, runtime=RuntimeName.OPENVINO))
    assert isinstance(graph.model.runtime, GraphRuntime)
    expected = on_pytorch(load_checkpoint(path), CPU).runtime
    assert isinstance(expected, TorchRuntime)
    for own, other in zip(graph.pytorch.network.parameters(), expected.network.parameters(), strict=True):
        assert (own == other).all()


def test_rows_of_two_runtimes_are_never_mixed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    install_model()
    save_photographs(tmp_path / "images", range(2))
    command = "fundusgrade predict images --model tiny --csv out.csv --precision float32 --runtime"
    assert Outcome(f"{command} pytorch").code == 0
    mixed = Outcome(f"{command} openvino --resume")
    assert mixed.code == 1 and "was written with runtime PyTorch" in mixed.stderr
    again = Outcome(f"{command} pytorch --resume")
    assert again.code == 0 and "is complete already" in again.stderr


def test_a_graph_grades_without_pytorch(tmp_path: Path, home: Path) -> None:
    install_model()
    Grader.load("tiny", runtime=RuntimeName.OPENVINO)
    save_photographs(tmp_path, range(2))
    program = (
        "import sys\n"
        "from fundusgrade.commands.app import app\n"
        f"sys.argv = ['fundusgrade', 'predict', {str(tmp_path)!r}, '--model', 'tiny', '--runtime', 'openvino']\n"
        "try:\n    app()\nexcept SystemExit as done:\n    assert not done.code\n"
        "print(*sorted({name.split('.')[0] for name in sys.modules}), file=sys.stderr)\n"
    )
    environment = {**ENVIRONMENT, "FUNDUSGRADE_HOME": str(home)}
    words = [sys.executable, "-c", program]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.count("tiny") == 2 and "runtime: OpenVINO" in done.stderr
    loaded = set(done.stderr.splitlines()[-1].split())
    assert "openvino" in loaded
    assert not loaded & {"torch", "torchvision", "timm", "sklearn", "scipy", "matplotlib", "pytorch_grad_cam"}
