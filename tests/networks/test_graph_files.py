"""Exported graphs compute what their originals do, carry what checkpoints do, and are refused if one bit differs."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fundusgrade import store
from fundusgrade.data.leakage import TrainingFingerprints
from fundusgrade.errors import CheckpointError, DeviceError, ExplanationError, ExportError, WeightsUnavailableError
from fundusgrade.explanation.explainer import explain
from fundusgrade.explanation.heat_map import ExplainOptions
from fundusgrade.grades import Prediction
from fundusgrade.grading.grader import Grader
from fundusgrade.metrics.conformal import Conformity
from fundusgrade.networks import graphs
from fundusgrade.networks.build import network_spec, start_network
from fundusgrade.networks.checkpoint import load_checkpoint, save_checkpoint
from fundusgrade.networks.export import ExportRequest, export_model
from fundusgrade.networks.graph_files import graph_paths
from fundusgrade.networks.graphs import GraphRuntime, openvino_has_bfloat16
from fundusgrade.networks.loading import load_model
from fundusgrade.options import Attribution, DeviceName, ExportFormat, Precision, RuntimeName
from tests.models_for_tests import install_model, save_photographs
from tests.networks.exports import GRAPHS, exported, graph_outputs, outputs_of, random_pixels

FLOAT32 = Precision.FLOAT32
CONFORMITY = Conformity(sets=(0.25, 0.5), set_grades=(4, 0), bounds=((0.0,), (), (0.125, 0.5), (), (0.75,)))
FILES = [(format, number) for format, count in ((GRAPHS[0], 2), (GRAPHS[1], 3)) for number in range(count)]

pytestmark = pytest.mark.usefixtures("one_core")


@pytest.mark.parametrize("name", ["efficientnet-lite2", "aptos-cnn"])
def test_shipped_networks_compute_the_same_as_graphs(name: str, tmp_path: Path) -> None:
    path = store.shipped_weights() / name / store.MODEL_FILE
    original = load_checkpoint(path)
    images = random_pixels(original.network.spec, 2)
    expected = outputs_of(original.network, images)
    for format in GRAPHS:
        graph = load_model(exported(path, tmp_path, format), precision=FLOAT32)
        np.testing.assert_allclose(graph_outputs(graph, images), expected, atol=1e-4)
        assert graph.description == replace(original.description, name=f"{name}-{format.value}", checks=None)
        assert len(original.fingerprints.files) > 3000
        for table in ("files", "fingerprints", "patients"):
            np.testing.assert_array_equal(getattr(graph.fingerprints, table), getattr(original.fingerprints, table))


@pytest.mark.parametrize("arch", ["cnn", "test_resnet", "test_vit", "test_efficientnet"])
def test_batches_of_any_size(arch: str, tmp_path: Path) -> None:
    path = install_model(arch=arch)
    original = load_checkpoint(path).network
    for format in GRAPHS:
        graph = load_model(exported(path, tmp_path, format), precision=FLOAT32)
        for num in (1, 2, 7):
            images = random_pixels(original.spec, num, seed=num)
            np.testing.assert_allclose(graph_outputs(graph, images), outputs_of(original, images), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("format", GRAPHS)
def test_grades_equal(format: ExportFormat, tmp_path: Path) -> None:
    path = exported(install_model(), tmp_path, format)
    files = save_photographs(tmp_path, range(8))
    original = Grader.load("tiny", device=DeviceName.CPU, precision=Precision.FLOAT32)
    graph = Grader.load(str(path), precision=FLOAT32)
    assert re.match(r"runtime: (ONNX Runtime|OpenVINO) \d+\.\d+, float32, cpu: an exp", graph.arithmetic.describe())
    for file in files:
        before, after = original.grade(file), graph.grade(file)
        assert isinstance(before, Prediction) and isinstance(after, Prediction)
        assert before.grade is after.grade
        np.testing.assert_allclose(after.probabilities, before.probabilities, atol=1e-4)
        assert after.model == f"tiny-{format.value}"


def test_openvino_computes_float32_graphs_in_bfloat16_if_requested(tmp_path: Path) -> None:
    model = install_model(arch="test_efficientnet")
    file = exported(model, tmp_path, ExportFormat.OPENVINO)
    plain = Grader.load(str(file), precision=FLOAT32)
    if not openvino_has_bfloat16("test"):
        with pytest.raises(DeviceError, match="this processor has no bfloat16 instructions"):
            Grader.load(str(file), precision=Precision.BFLOAT16)
        return
    short = Grader.load(str(file), precision=Precision.BFLOAT16)
    assert [each.arithmetic.number_format for each in (plain, short)] == ["float32", "bfloat16"]
    images = random_pixels(plain.description.network, 3)
    expected = graph_outputs(plain.model, images)
    np.testing.assert_allclose(graph_outputs(short.model, images), expected, atol=0.05 * np.abs(expected).max())
    with pytest.raises(DeviceError, match=r"this graph runs as ONNX Runtime .* float32"):
        Grader.load(str(exported(model, tmp_path)), precision=Precision.BFLOAT16)


def test_thresholds_conformity_scores_and_fingerprints_are_in_the_files(tmp_path: Path) -> None:
    checkpoint = load_checkpoint(install_model())
    described = replace(checkpoint.description, thresholds=(0.1, 0.7, 1.9, 3.0), conformity=CONFORMITY)
    rng = np.random.default_rng(0)
    fingerprints = TrainingFingerprints(
        **{
            name: rng.integers(0, 256, (num, width), np.uint8)
            for name, num, width in (("files", 5, 8), ("fingerprints", 4, 128), ("patients", 0, 8))
        }
    )
    path = tmp_path / "own.safetensors"
    save_checkpoint(path, checkpoint.network, described, fingerprints=fingerprints)
    for format in GRAPHS:
        found = load_model(exported(path, tmp_path, format))
        assert (found.description.thresholds, found.description.conformity) == ((0.1, 0.7, 1.9, 3.0), CONFORMITY)
        for name in ("files", "fingerprints", "patients"):
            np.testing.assert_array_equal(getattr(found.fingerprints, name), getattr(fingerprints, name))


@pytest.mark.parametrize(("format", "number"), FILES)
def test_one_changed_bit_in_any_file_is_refused(format: ExportFormat, number: int, tmp_path: Path) -> None:
    path = exported(install_model(), tmp_path, format)
    file = graph_paths(path, format)[number]
    data = file.read_bytes()
    for place in [0, 1, *np.random.default_rng(0).integers(0, len(data), 30).tolist(), len(data) - 1]:
        file.write_bytes(_flipped(data, place))
        with pytest.raises(CheckpointError, match=r"hash differs.*export again"):
            load_model(path)
    for length in (0, 10, len(data) // 2, len(data) - 1):
        file.write_bytes(data[:length])
        with pytest.raises(CheckpointError, match="hash differs"):
            load_model(path)
    file.write_bytes(data)
    assert isinstance(load_model(path).runtime, GraphRuntime)


@pytest.mark.parametrize(("format", "number"), FILES)
def test_a_missing_file_is_named(format: ExportFormat, number: int, tmp_path: Path) -> None:
    path = exported(install_model(), tmp_path, format)
    files = graph_paths(path, format)
    files[number].unlink()
    names = " and ".join(file.name for file in files)
    with pytest.raises(CheckpointError, match=f"cannot read .*{files[number].name}: .*{names} in one folder"):
        load_model(path)


def test_graphs_of_one_name_have_files_of_their_own(tmp_path: Path) -> None:
    model = install_model()
    paths = [exported(model, tmp_path, format) for format in GRAPHS]
    assert [load_model(path).description.name for path in paths] == ["tiny-onnx", "tiny-openvino"]
    assert len(list(tmp_path.iterdir())) == 5


def test_the_sidecar_of_another_graph_is_refused(tmp_path: Path) -> None:
    paths = [exported(install_model(arch=arch), tmp_path / arch) for arch in ("cnn", "test_resnet")]
    sidecars = [path.with_name("graph.onnx.json") for path in paths]
    sidecars[0].write_bytes(sidecars[1].read_bytes())
    with pytest.raises(CheckpointError, match="hash differs"):
        load_model(paths[0])


def test_a_foreign_graph_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "foreign.onnx"
    path.write_bytes(b"\x08\x0a" * 200)
    with pytest.raises(CheckpointError, match=r"foreign\.onnx and foreign\.onnx\.json in one folder"):
        load_model(path)
    for text in ("", "{}", "[]", "null", "[" * 10**5, json.dumps({"sha256": {}, "format": 1})):
        path.with_name("foreign.onnx.json").write_text(text)
        with pytest.raises(CheckpointError, match="not as `fundusgrade export` wrote them together"):
            load_model(path)


@pytest.mark.parametrize("format", GRAPHS)
def test_files_contain_no_path_of_this_machine(format: ExportFormat, tmp_path: Path) -> None:
    exported(install_model(arch="test_resnet"), tmp_path, format)
    for file in tmp_path.glob("graph.*"):
        data = file.read_bytes()
        assert not [each for each in (str(Path.home()), str(tmp_path), "site-packages") if each.encode() in data]


@pytest.mark.parametrize("format", GRAPHS)
def test_several_threads_compute_what_one_does(format: ExportFormat, tmp_path: Path) -> None:
    graph = load_model(exported(install_model(arch="test_efficientnet"), tmp_path, format))
    batches = [random_pixels(graph.description.network, 1 + seed % 5, seed) for seed in range(24)]
    expected = [graph_outputs(graph, batch) for batch in batches]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(3):
            found = list(pool.map(lambda batch: graph_outputs(graph, batch), batches))
            for one, other in zip(expected, found, strict=True):
                np.testing.assert_array_equal(one, other)


def test_what_a_graph_cannot_do(tmp_path: Path) -> None:
    path = exported(install_model(), tmp_path)
    for device in (DeviceName.CUDA, DeviceName.MPS):
        with pytest.raises(DeviceError, match=f"--device {device.value}: an exported graph runs on the CPU"):
            Grader.load(str(path), device=device)
    with pytest.raises(DeviceError, match=r"this graph runs as ONNX Runtime .* float32"):
        Grader.load(str(path), precision=Precision.BFLOAT16)
    with pytest.raises(DeviceError, match="--runtime pytorch: an exported graph of the format onnx runs in onnxrun"):
        Grader.load(str(path), runtime=RuntimeName.PYTORCH)
    grader = Grader.load(str(path), device=DeviceName.CPU, precision=Precision.FLOAT32)
    photograph = save_photographs(tmp_path, [0])[0]
    for method in (Attribution.AUTO, Attribution.GRAD_CAM):
        with pytest.raises(ExplanationError, match=r"exported graph .*explain the safetensors model"):
            explain(grader, photograph, ExplainOptions(method=method))
    with pytest.raises(WeightsUnavailableError, match="holds no weights of PyTorch"):
        start_network(network_spec("test_resnet", 64), init_weights=path, pretrained=False)
    with pytest.raises(ExportError, match="exported graph already"):
        export_model(ExportRequest(format=ExportFormat.OPENVINO, model=str(path)))
    with pytest.raises(ExportError, match=r"openvino files end in \.xml"):
        export_model(ExportRequest(format=ExportFormat.OPENVINO, model="tiny", out=path))


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = exported(install_model(), tmp_path)

    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(graphs.importlib, "import_module", missing)
    with pytest.raises(CheckpointError, match=r"needs onnxruntime.*pip install 'fundusgrade\[onnx\]'"):
        load_model(path)


def _flipped(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 1 << place % 8]) + data[place + 1 :]
