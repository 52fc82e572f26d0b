"""An exported graph grades like its original, carries what a checkpoint does, and is refused where one bit differs."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from numpy.typing import NDArray

from fundusgrade import store
from fundusgrade.data.leakage import TrainingFingerprints
from fundusgrade.errors import (
    CheckpointError,
    DatasetError,
    DeviceError,
    ExplanationError,
    ExportError,
    WeightsUnavailableError,
)
from fundusgrade.evaluation.interventions import measure_interventions
from fundusgrade.explanation.explainer import explain
from fundusgrade.explanation.heat_map import ExplainOptions
from fundusgrade.grades import Prediction
from fundusgrade.grading.grader import Grader
from fundusgrade.networks import graphs
from fundusgrade.networks.build import build_network, network_spec, start_network
from fundusgrade.networks.checkpoint import load_checkpoint, save_checkpoint
from fundusgrade.networks.device import choose_device
from fundusgrade.networks.export import ExportRequest, export_model
from fundusgrade.networks.graphs import GraphBackbone, load_model
from fundusgrade.networks.network import GradingNetwork
from fundusgrade.networks.tensors import load_images, scale_pixels
from fundusgrade.networks.timm_hub import public_name, read_hub_network, short_name
from fundusgrade.options import Attribution, DeviceName, ExportFormat, Precision, Split
from fundusgrade.training.loop import train
from fundusgrade.training.options import TrainOptions
from tests.command_line import Outcome
from tests.models_for_tests import install_dataset, install_model, photographs_of, save_photographs
from tests.prepared import prepared_dataset

WEIGHTS = Path(__file__).parents[2] / "weights"
FLOAT32 = Precision.FLOAT32
GRAPHS = (ExportFormat.ONNX, ExportFormat.OPENVINO)
ARCHS = ("cnn", "test_resnet", "test_vit", "test_efficientnet")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def exported(model: Path, folder: Path, format: ExportFormat = ExportFormat.ONNX, *, int8: bool = False) -> Path:
    """The file of a graph of the model, which nothing was checked on."""
    suffix = ".onnx" if format is ExportFormat.ONNX else ".xml"
    data = "drawn" if int8 else None
    wanted = ExportRequest(
        format=format, model=str(model), out=folder / f"graph{suffix}", int8=int8, data=data, check=False
    )
    return export_model(wanted).paths[0]


def images(network: GradingNetwork, num: int, seed: int = 0) -> torch.Tensor:
    size = network.spec.size_px
    noise = torch.rand(num, 3, size, size, generator=torch.Generator().manual_seed(seed))
    return noise * torch.linspace(0.2, 1, num).view(-1, 1, 1, 1)


@torch.inference_mode()
def outputs(network: GradingNetwork, of: torch.Tensor) -> NDArray[np.float32]:
    return network.outputs(of).numpy()


@pytest.mark.parametrize("format", GRAPHS)
@pytest.mark.parametrize("name", ["aptos-efficientnet-lite0", "aptos-cnn"])
def test_shipped_networks_say_the_same_as_graphs(name: str, format: ExportFormat, tmp_path: Path) -> None:
    path = WEIGHTS / name / store.MODEL_FILE
    original, graph = load_checkpoint(path), load_model(exported(path, tmp_path, format), FLOAT32)
    seen = images(original.network, 3)
    np.testing.assert_allclose(outputs(graph.network, seen), outputs(original.network, seen), atol=1e-4)
    assert graph.description == replace(original.description, name=f"{name}-{format.value}")
    assert len(original.fingerprints.files) > 3000
    for table in ("files", "fingerprints", "patients"):
        np.testing.assert_array_equal(getattr(graph.fingerprints, table), getattr(original.fingerprints, table))


@pytest.mark.parametrize("format", GRAPHS)
@pytest.mark.parametrize("arch", ARCHS)
def test_any_number_of_images(arch: str, format: ExportFormat, tmp_path: Path) -> None:
    path = install_model(arch=arch)
    original, graph = load_checkpoint(path).network, load_model(exported(path, tmp_path, format), FLOAT32).network
    for num in (1, 2, 7):
        seen = images(original, num, seed=num)
        np.testing.assert_allclose(outputs(graph, seen), outputs(original, seen), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("format", GRAPHS)
def test_grades_equal(format: ExportFormat, tmp_path: Path) -> None:
    path = exported(install_model(), tmp_path, format)
    files = save_photographs(tmp_path, range(8))
    original = Grader.load("tiny", device=DeviceName.CPU, precision=Precision.FLOAT32)
    graph = Grader.load(str(path), precision=FLOAT32)
    assert graph.choice.describe().startswith(("cpu, onnxruntime float32: ", "cpu, OpenVINO float32: "))
    for file in files:
        before, after = original.grade(file), graph.grade(file)
        assert isinstance(before, Prediction) and isinstance(after, Prediction)
        assert before.grade is after.grade
        np.testing.assert_allclose(after.probabilities, before.probabilities, atol=1e-4)
        assert after.model == f"tiny-{format.value}"


def test_openvino_computes_float32_graphs_in_bfloat16_where_asked(tmp_path: Path) -> None:
    path = WEIGHTS / "aptos-efficientnet-lite0" / store.MODEL_FILE
    file = exported(path, tmp_path, ExportFormat.OPENVINO)
    plain = Grader.load(str(file), precision=FLOAT32)
    short = Grader.load(str(file), precision=Precision.BFLOAT16)
    assert [each.choice.runtime for each in (plain, short)] == ["OpenVINO float32", "OpenVINO bfloat16"]
    seen = images(plain.network, 3)
    np.testing.assert_allclose(outputs(short.network, seen), outputs(plain.network, seen), atol=0.3)
    with pytest.raises(DeviceError, match="this graph runs as onnxruntime float32"):
        Grader.load(str(exported(path, tmp_path, ExportFormat.ONNX)), precision=Precision.BFLOAT16)


def test_thresholds_conformity_and_marks_travel(tmp_path: Path) -> None:
    checkpoint = load_checkpoint(install_model())
    described = replace(checkpoint.description, thresholds=(0.1, 0.7, 1.9, 3.0), conformity=(0.25, 0.5))
    rng = np.random.default_rng(0)
    marks = TrainingFingerprints(
        **{
            name: rng.integers(0, 256, (num, width), np.uint8)
            for name, num, width in (("files", 5, 8), ("fingerprints", 4, 32), ("patients", 0, 8))
        }
    )
    path = tmp_path / "own.safetensors"
    save_checkpoint(path, checkpoint.network, described, fingerprints=marks)
    for format in GRAPHS:
        found = load_model(exported(path, tmp_path, format))
        assert (found.description.thresholds, found.description.conformity) == ((0.1, 0.7, 1.9, 3.0), (0.25, 0.5))
        for name in ("files", "fingerprints", "patients"):
            np.testing.assert_array_equal(getattr(found.fingerprints, name), getattr(marks, name))


def test_one_changed_bit_anywhere_is_refused(tmp_path: Path) -> None:
    path = exported(install_model(), tmp_path)
    data = path.read_bytes()
    places = [0, 1, *np.random.default_rng(0).integers(0, len(data), 40).tolist(), len(data) - 70, len(data) - 1]
    for place in places:
        path.write_bytes(_flipped(data, place))
        with pytest.raises(CheckpointError, match=r"hash differs.*export it again"):
            load_model(path)
    for length in (0, 10, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:length])
        with pytest.raises(CheckpointError, match="not a whole ONNX file"):
            load_model(path)
    path.write_bytes(data)
    assert isinstance(load_model(path).network.backbone, GraphBackbone)


@pytest.mark.parametrize("suffix", [".xml", ".bin", ".json"])
def test_one_changed_bit_in_any_file_of_openvino_is_refused(suffix: str, tmp_path: Path) -> None:
    path = exported(install_model(), tmp_path, ExportFormat.OPENVINO)
    file = path.with_suffix(suffix)
    data = file.read_bytes()
    for place in [0, *np.random.default_rng(0).integers(0, len(data), 20).tolist(), len(data) - 1]:
        file.write_bytes(_flipped(data, place))
        with pytest.raises(CheckpointError, match="hash differs"):
            load_model(path)
    file.write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckpointError, match="hash differs"):
        load_model(path)
    file.unlink()
    with pytest.raises(CheckpointError, match="cannot read"):
        load_model(path)


def test_a_foreign_graph_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "foreign.onnx"
    path.write_bytes(b"\x08\x0a" * 200)
    with pytest.raises(CheckpointError, match="not a whole ONNX file by `fundusgrade export`"):
        load_model(path)


@pytest.mark.parametrize("format", GRAPHS)
def test_files_tell_nothing_of_the_machine(format: ExportFormat, tmp_path: Path) -> None:
    exported(install_model(arch="test_resnet"), tmp_path, format)
    for file in tmp_path.glob("graph.*"):
        data = file.read_bytes()
        assert not [each for each in (str(Path.home()), str(tmp_path), "site-packages") if each.encode() in data]


@pytest.mark.parametrize("format", GRAPHS)
def test_several_threads_get_what_one_gets(format: ExportFormat, tmp_path: Path) -> None:
    network = load_model(exported(install_model(arch="test_efficientnet"), tmp_path, format)).network
    batches = [images(network, 1 + seed % 5, seed) for seed in range(40)]
    alone = [outputs(network, batch) for batch in batches]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(3):
            together = list(pool.map(lambda batch: outputs(network, batch), batches))
            for one, other in zip(alone, together, strict=True):
                np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("format", GRAPHS)
def test_eight_bits_stay_near(format: ExportFormat, tmp_path: Path) -> None:
    dataset = install_dataset("drawn")
    out = tmp_path / ("tiny.onnx" if format is ExportFormat.ONNX else "tiny.xml")
    original = load_checkpoint(install_model()).network
    found = export_model(ExportRequest(format=format, model="tiny", int8=True, split=Split.ALL, out=out))
    assert found.check is not None
    assert found.check.num_photographs == 20
    assert found.check.max_probability_change < 0.25  # a random network's outputs are spread far
    graph = Grader.load(str(out))
    seen = scale_pixels(load_images(dataset, dataset.graded_rows()).pixels)
    before, after = outputs(original, seen), outputs(graph.network, seen)
    assert not np.array_equal(before, after)
    assert np.corrcoef(before.ravel(), after.ravel())[0, 1] > 0.99
    assert graph.choice.describe().split(":")[0].endswith(" int8")
    assert graph.name == f"tiny-{format.value}-int8"


def test_the_check_travels_with_the_graph(tmp_path: Path) -> None:
    import onnx

    install_dataset("drawn")
    install_model()
    request = ExportRequest(format=ExportFormat.ONNX, model="tiny", split=Split.ALL, limit=12, out=tmp_path / "a.onnx")
    check = export_model(request).check
    assert check is not None
    assert (check.num_photographs, check.num_changed, check.agreement) == (12, 0, pytest.approx(1))
    assert check.max_probability_change < 1e-4
    assert check.kappa_loss == pytest.approx(0) and not check.loses_much
    assert min(each.ms_per_image for each in (check.reference, check.usual, check.export)) > 0
    model = onnx.load(tmp_path / "a.onnx")
    onnx.checker.check_model(model)
    assert '"max_probability_change"' in next(each.value for each in model.metadata_props if each.key == "fundusgrade")
    worse = replace(check, export=replace(check.export, kappa=(check.reference.kappa or 0) - 0.006))
    assert worse.loses_much
    assert replace(check, export=replace(check.export, kappa=None)).kappa_loss is None


def test_nothing_to_check_on(tmp_path: Path) -> None:
    install_model()
    with pytest.raises(ExportError, match=r"'drawn'.*not in the store.*--data.*--no-check"):
        export_model(ExportRequest(format=ExportFormat.ONNX, model="tiny", out=tmp_path / "a.onnx"))
    with pytest.raises(ExportError, match="nothing to quantize on"):
        export_model(ExportRequest(format=ExportFormat.ONNX, model="tiny", int8=True, check=False))
    prepared_dataset(store.dataset_directory("other"))
    with pytest.raises(DatasetError, match=r"'other' is .*name another with --data"):
        export_model(ExportRequest(format=ExportFormat.ONNX, model="tiny", data="other"))
    assert not list(tmp_path.iterdir())


def test_what_a_graph_cannot_do(tmp_path: Path) -> None:
    path = exported(install_model(), tmp_path)
    for device in (DeviceName.CUDA, DeviceName.MPS):
        with pytest.raises(DeviceError, match=f"--device {device.value}: an exported graph runs on the CPU"):
            Grader.load(str(path), device=device)
    with pytest.raises(DeviceError, match="this graph runs as onnxruntime float32"):
        Grader.load(str(path), precision=Precision.BFLOAT16)
    grader = Grader.load(str(path), device=DeviceName.CPU, precision=Precision.FLOAT32)
    photograph = save_photographs(tmp_path, [0])[0]
    for method in (Attribution.AUTO, Attribution.GRAD_CAM):
        with pytest.raises(ExplanationError, match=r"exported graph .*explain the safetensors model"):
            explain(grader, photograph, ExplainOptions(method=method))
    with pytest.raises(WeightsUnavailableError, match=r"not \.safetensors"):
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


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    install_dataset("drawn")
    install_model()
    save_photographs(tmp_path / "images", [0, 1])
    done = Outcome("fundusgrade export tiny --format openvino --split all --limit 10")
    assert (done.code, done.stderr) == (0, "written: tiny.xml, tiny.bin, tiny.json\n")
    assert "10 photographs of drawn, all" in done.stdout
    for row in ("PyTorch float32 ", "OpenVINO ", "kappa between export and float32 ", "grades that differ "):
        assert row in done.stdout
    predicted = Outcome("fundusgrade predict images --model tiny.xml")
    assert (predicted.code, predicted.stdout.count("tiny-openvino")) == (0, 2)
    assert re.search(r"model tiny-openvino; cpu, OpenVINO (b?float(16|32)): an exported graph", predicted.stderr)
    evaluated = Outcome("fundusgrade evaluate --model tiny.xml --model tiny --data drawn --draws 100")
    assert evaluated.code == 0 and "tiny-openvino" in evaluated.stdout
    refused = Outcome("fundusgrade explain images/eye00.png --model tiny.xml")
    assert refused.code == 1 and "explain the safetensors model" in refused.stderr
    assert Outcome("fundusgrade predict images --model tiny.xml --device cuda").code == 1


def test_a_large_loss_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("fundusgrade.networks.export_check.MAX_KAPPA_LOSS", -1.0)
    install_dataset("drawn")
    install_model()
    done = Outcome("fundusgrade export tiny --split all --out tiny.onnx")
    assert done.code == 0 and Path("tiny.onnx").is_file()
    assert re.search(r"Warning: the export loses -?0\.0000 of kappa; use the original", done.stderr)


def test_the_audit_takes_graphs(tmp_path: Path) -> None:
    path = exported(install_model(), tmp_path)
    dataset = install_dataset("drawn")
    with photographs_of(dataset):
        graph, original = (
            measure_interventions(Grader.load(each, device=DeviceName.CPU), dataset, "all", limit=3)
            for each in (str(path), "tiny")
        )
    assert [each.name for each in graph] == [each.name for each in original]
    for one, other in zip(graph, original, strict=True):
        assert one.mean_change == pytest.approx(other.mean_change, abs=0.05)


# --- timm's hub -------------------------------------------------------------------------------------------------------


def hub_folder(arch: str, folder: Path) -> tuple[Path, GradingNetwork]:
    path = install_model(arch=arch, seed=7)  # training starts from 0: equal weights would look like missing ones
    export_model(ExportRequest(format=ExportFormat.HUB, model="tiny", out=folder))
    return folder, load_checkpoint(path).network


@pytest.mark.parametrize("arch", ["test_resnet", "test_vit", "test_efficientnet"])
def test_timm_loads_the_hub_folder(arch: str, tmp_path: Path) -> None:
    folder, original = hub_folder(arch, tmp_path / "hub")
    loaded = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    with torch.inference_mode():
        batch = original.normalized(images(original, 3))
        torch.testing.assert_close(loaded(batch), original.backbone(batch), rtol=0, atol=0)
    config = timm.data.resolve_model_data_config(loaded)
    assert tuple(config["input_size"]) == (3, *original.spec.input_px)
    assert (tuple(config["mean"]), tuple(config["std"])) == (original.spec.mean, original.spec.std)
    assert config["crop_pct"] == 1.0
    assert {path.name for path in folder.iterdir()} == {
        "config.json", "model.safetensors", "README.md", "fundusgrade.json",
    }  # fmt: skip


def test_what_the_hub_cannot_hold(tmp_path: Path) -> None:
    install_model()
    with pytest.raises(ExportError, match="a cnn, which timm does not have; use --format onnx"):
        export_model(ExportRequest(format=ExportFormat.HUB, model="tiny", out=tmp_path / "hub"))
    with pytest.raises(ExportError, match="--int8"):
        export_model(ExportRequest(format=ExportFormat.HUB, model="tiny", int8=True))


@pytest.mark.parametrize("arch", ["test_resnet", "test_vit"])
def test_training_starts_from_a_folder_that_is_gone_later(arch: str, tmp_path: Path) -> None:
    folder, original = hub_folder(arch, tmp_path / "start")
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(
        config.replace('"model_args": {', '"model_args": {"drop_rate": 0.25, ', 1).replace(", }", "}")
    )
    name = f"local-dir:{folder}"
    spec = network_spec(name, 64)
    assert (spec.arch, spec.timm_name) == ("local-dir:start", arch)
    started = start_network(spec, init_weights=None, pretrained=True, hub=name)
    weights = dict(started.backbone.named_parameters())
    head = {"weight", "bias"}
    same = [torch.equal(weights[key], value) for key, value in original.backbone.named_parameters()]
    assert sum(not each for each in same) <= len(head)
    dataset = prepared_dataset(
        tmp_path / "data", recipe=load_checkpoint(store.resolve_model("tiny")).description.recipe
    )
    options = TrainOptions(arch=name, epochs=1, batch_size=20, calibrate=False)
    choice = choose_device(DeviceName.CPU, Precision.FLOAT32)
    result = train(dataset, options, choice, tmp_path / "run", observer=Silent())
    shutil.rmtree(folder)
    checkpoint = load_checkpoint(result.directory / store.MODEL_FILE)
    assert checkpoint.network.spec.arguments["drop_rate"] == 0.25
    assert str(tmp_path) not in checkpoint.description.to_json()
    assert checkpoint.description.provenance.init == "local-dir:start pretrained"
    assert np.isfinite(outputs(checkpoint.network, images(checkpoint.network, 2))).all()


class Silent:
    def batch_done(self, epoch: int, step: int, num_steps: int, num_images: int) -> None: ...
    def epoch_done(self, record: object, is_best: bool) -> None: ...


def test_hub_names_and_their_errors(tmp_path: Path) -> None:
    assert short_name("hf-hub:timm/resnet18.a1_in1k@main") == "resnet18.a1_in1k@main"
    assert (public_name("local-dir:/home/me/x"), public_name("resnet50")) == ("local-dir:x", "resnet50")
    with pytest.raises(WeightsUnavailableError, match=r"expected a folder with config\.json"):
        network_spec(f"local-dir:{tmp_path}", 64)
    file = tmp_path / "config.json"
    for text, said in [
        ("{", "does not describe"),
        ('{"architecture": "no_such_net"}', "none of timm"),
        ('{"architecture": "test_vit", "model_args": {"norm_layer": {"a": 1}}}', "'norm_layer'.*--init-weights"),
        ('{"architecture": "test_vit", "pretrained_cfg": {"mean": [1, 2]}}', "three numbers"),
    ]:
        file.write_text(text)
        with pytest.raises(WeightsUnavailableError, match=said):
            network_spec(f"local-dir:{tmp_path}", 64)
    file.write_text('{"architecture": "test_vit", "model_args": {"no_such": 1, "num_classes": 7}}')
    assert read_hub_network(f"local-dir:{tmp_path}").arguments == {"no_such": 1}
    with pytest.raises(WeightsUnavailableError, match="cannot build test_vit with"):
        build_network(network_spec(f"local-dir:{tmp_path}", 64))
    with pytest.raises(WeightsUnavailableError, match=r"cannot be downloaded.*--arch local-dir"):
        network_spec("hf-hub:owner/name-that-is-not-there", 64)


def _flipped(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 1 << place % 8]) + data[place + 1 :]
