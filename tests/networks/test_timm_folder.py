"""Networks in the layout of timm's hub: timm loads what is exported, and training starts from what timm exports."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import timm
import torch

from fundusgrade import store
from fundusgrade.errors import ExportError, WeightsUnavailableError
from fundusgrade.networks.build import build_network, network_spec, start_network
from fundusgrade.networks.checkpoint import load_checkpoint
from fundusgrade.networks.device import choose_device
from fundusgrade.networks.export import ExportRequest, export_model
from fundusgrade.networks.network import GradingNetwork
from fundusgrade.networks.tensors import scale_pixels
from fundusgrade.networks.timm_hub import public_name, read_hub_network, short_name
from fundusgrade.options import DeviceName, ExportFormat, Precision
from fundusgrade.training.loop import train
from fundusgrade.training.options import TrainOptions
from tests.models_for_tests import install_model
from tests.networks.exports import outputs_of, random_pixels
from tests.prepared import prepared_dataset


def hub_folder(arch: str, folder: Path) -> tuple[Path, GradingNetwork]:
    path = install_model(arch=arch, seed=7)  # training starts from 0: equal weights would look like missing ones
    export_model(ExportRequest(format=ExportFormat.HUB, model="tiny", out=folder))
    return folder, load_checkpoint(path).network


@pytest.mark.parametrize("arch", ["test_resnet", "test_vit", "test_efficientnet"])
def test_timm_loads_the_hub_folder(arch: str, tmp_path: Path) -> None:
    folder, original = hub_folder(arch, tmp_path / "hub")
    loaded = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    with torch.inference_mode():
        images = torch.from_numpy(random_pixels(original.spec, 3)).permute(0, 3, 1, 2)
        batch = original.normalized(scale_pixels(images))
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
    started = start_network(spec, init_weights=None, pretrained=True, hub=name).network
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
    assert np.isfinite(outputs_of(checkpoint.network, random_pixels(checkpoint.network.spec, 2))).all()


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
