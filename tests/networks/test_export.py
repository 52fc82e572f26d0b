"""Exports are checked on photographs: grades, probabilities and speed stand beside those of the original."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fundusgrade import store
from fundusgrade.errors import DatasetError, DeviceError, ExportError
from fundusgrade.evaluation.robustness import measure_interventions
from fundusgrade.grading.grader import Grader
from fundusgrade.networks.checkpoint import load_checkpoint
from fundusgrade.networks.device import cpu_overflows_int8
from fundusgrade.networks.export import ExportRequest, export_model
from fundusgrade.networks.tensors import load_images
from fundusgrade.options import DeviceName, ExportFormat, Precision, Split
from tests.command_line import Outcome
from tests.models_for_tests import install_dataset, install_model, photographs_of, save_photographs
from tests.networks.exports import GRAPHS, exported, graph_outputs, outputs_of
from tests.prepared import prepared_dataset

pytestmark = pytest.mark.usefixtures("one_core")


@pytest.mark.parametrize("format", GRAPHS)
def test_eight_bits_stay_near(format: ExportFormat, tmp_path: Path) -> None:
    dataset = install_dataset("drawn")
    out = tmp_path / ("tiny.onnx" if format is ExportFormat.ONNX else "tiny.xml")
    original = load_checkpoint(install_model()).network
    request = ExportRequest(format=format, model="tiny", int8=True, split=Split.ALL, out=out)
    if cpu_overflows_int8():
        with pytest.raises(DeviceError, match="8-bit products overflow on this processor"):
            export_model(request)
        return
    found = export_model(request)
    assert found.check is not None
    assert found.check.num_photographs == 20
    assert found.check.max_probability_change < 0.25  # a random network's outputs are spread far
    graph = Grader.load(str(out))
    images = load_images(dataset, dataset.graded_rows()).pixels.permute(0, 2, 3, 1).numpy()
    before, after = outputs_of(original, images), graph_outputs(graph.model, images)
    assert not np.array_equal(before, after)
    assert np.corrcoef(before.ravel(), after.ravel())[0, 1] > 0.99
    assert graph.arithmetic.number_format == "int8"
    assert graph.name == f"tiny-{format.value}-int8"


def test_the_check_is_written_beside_the_graph(tmp_path: Path) -> None:
    import onnx

    install_dataset("drawn")
    install_model()
    out = tmp_path / "a.onnx"
    found = export_model(ExportRequest(format=ExportFormat.ONNX, model="tiny", split=Split.ALL, limit=12, out=out))
    check = found.check
    assert check is not None
    assert (check.num_photographs, check.num_changed, check.agreement) == (12, 0, pytest.approx(1))
    assert check.max_probability_change < 1e-4
    assert check.kappa_loss == pytest.approx(0) and not check.loses_much
    assert min(each.ms_per_image for each in (check.reference, check.usual, check.export)) > 0
    assert check.export.size_mb == pytest.approx(out.stat().st_size / 1e6)
    onnx.checker.check_model(onnx.load(out))
    assert found.paths == (out, tmp_path / "a.onnx.json")
    assert json.loads(found.paths[1].read_text())["check"] == json.loads(json.dumps(check.to_json()))
    worse = replace(check, export=replace(check.export, kappa=(check.reference.kappa or 0) - 0.006))
    assert worse.loses_much
    assert replace(check, export=replace(check.export, kappa=None)).kappa_loss is None


def test_nothing_to_check_on(tmp_path: Path) -> None:
    install_model()
    with pytest.raises(ExportError, match=r"'drawn'.*not in the store.*--data.*--no-check"):
        export_model(ExportRequest(format=ExportFormat.ONNX, model="tiny", out=tmp_path / "a.onnx"))
    with pytest.raises(ExportError, match="no images to quantize with"):
        export_model(ExportRequest(format=ExportFormat.ONNX, model="tiny", int8=True, check=False))
    prepared_dataset(store.dataset_directory("other"))
    with pytest.raises(DatasetError, match=r"'other' is .*the model 'tiny' needs .*again with"):
        export_model(ExportRequest(format=ExportFormat.ONNX, model="tiny", data="other"))
    assert not list(tmp_path.iterdir())


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    install_dataset("drawn")
    install_model()
    save_photographs(tmp_path / "images", [0, 1])
    done = Outcome("fundusgrade export tiny --format openvino --split all --limit 10")
    assert (done.code, done.stderr) == (0, "written: tiny.xml, tiny.bin, tiny.json\n")
    assert "10 photographs of drawn, all" in done.stdout
    for row in ("PyTorch ", "OpenVINO ", "kappa between export and float32 ", "grades that differ "):
        assert row in done.stdout
    predicted = Outcome("fundusgrade predict images --model tiny.xml")
    assert (predicted.code, predicted.stdout.count("tiny-openvino")) == (0, 2)
    arithmetic = r"runtime: OpenVINO [0-9.]+, b?float(16|32), cpu: an exported graph"
    assert re.search(rf"model tiny-openvino\n{arithmetic}", predicted.stderr)
    evaluated = Outcome("fundusgrade evaluate --model tiny.xml --model tiny --data drawn --resamples 100")
    assert evaluated.code == 0 and "tiny-openvino" in evaluated.stdout
    refused = Outcome("fundusgrade explain images/eye00.png --model tiny.xml")
    assert refused.code == 1 and "explain the safetensors model" in refused.stderr
    assert Outcome("fundusgrade predict images --model tiny.xml --device cuda").code == 1


def test_onnx_is_loaded_from_its_two_files_and_a_large_loss_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("fundusgrade.networks.export_check.MAX_KAPPA_LOSS", -1.0)
    install_dataset("drawn")
    install_model()
    save_photographs(tmp_path / "images", [0, 1])
    done = Outcome("fundusgrade export tiny --split all --out tiny.onnx")
    assert done.code == 0 and done.stderr.endswith("written: tiny.onnx, tiny.onnx.json\n")
    assert re.search(r"Warning: the export loses -?0\.0000 of kappa; use the original", done.stderr)
    predicted = Outcome("fundusgrade predict images --model tiny.onnx")
    assert (predicted.code, predicted.stdout.count("tiny-onnx")) == (0, 2)
    Path("tiny.onnx.json").unlink()
    refused = Outcome("fundusgrade predict images --model tiny.onnx")
    assert refused.code == 1 and "tiny.onnx and tiny.onnx.json in one folder" in refused.stderr


def test_the_audit_takes_graphs(tmp_path: Path) -> None:
    path = exported(install_model(), tmp_path)
    dataset = install_dataset("drawn")
    with photographs_of(dataset):
        graph, original = (
            measure_interventions(
                Grader.load(each, device=DeviceName.CPU, precision=Precision.FLOAT32), dataset, "all", limit=3
            )
            for each in (str(path), "tiny")
        )
    assert [each.name for each in graph] == [each.name for each in original]
    for one, other in zip(graph, original, strict=True):
        assert one.change.value == pytest.approx(other.change.value, abs=1e-3)
