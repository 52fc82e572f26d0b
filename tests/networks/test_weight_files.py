"""Weight files are freed of prefixes, fit wholly or are refused in a sentence, and are never pickle."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor

from fundusgrade.errors import WeightsUnavailableError
from fundusgrade.networks.build import StartedNetwork, build_network, network_spec, start_network
from fundusgrade.networks.timm_hub import silenced_libraries


def weights_of(arch: str = "test_resnet") -> dict[str, Tensor]:
    torch.manual_seed(1)
    network = build_network(network_spec(arch, 64)).backbone
    for buffer in network.buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 1.5)
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def start(path: Path, arch: str = "test_resnet") -> StartedNetwork:
    return start_network(network_spec(arch, 64), init_weights=path, pretrained=True)


def saved(path: Path, weights: Mapping[str, Tensor]) -> Path:
    safetensors.torch.save_file(dict(weights), path)
    return path


@pytest.mark.parametrize(
    "prefix",
    [
        *("", "model.", "module.", "backbone.", "encoder.", "state_dict.model.", "module.model.backbone."),
        *("_orig_mod.module.", "teacher.", "resnet.trunk.", "learner.net.0."),
    ],
)
@pytest.mark.parametrize("arch", ["test_resnet", "test_vit", "test_efficientnet"])
def test_all_weights_are_those_of_the_file_whatever_stands_before_their_names(
    tmp_path: Path, prefix: str, arch: str
) -> None:
    weights = weights_of(arch)
    path = saved(tmp_path / "w.safetensors", {prefix + name: tensor for name, tensor in weights.items()})
    started = start(path, arch)
    loaded = started.network.backbone.state_dict()
    heads = ("fc.", "head.", "classifier.")
    for name, tensor in weights.items():
        assert name.startswith(heads) or name == "pos_embed" or torch.equal(loaded[name], tensor), name
    assert started.notes == ((f"--init-weights: names in w.safetensors are used without {prefix!r}",) if prefix else ())


def test_other_tensors_of_a_checkpoint_are_counted(tmp_path: Path) -> None:
    weights = {f"model.{name}": tensor for name, tensor in weights_of().items()}
    path = saved(tmp_path / "w.safetensors", {**weights, "criterion.weight": torch.ones(5), "step": torch.ones(1)})
    assert start(path).notes == (
        "--init-weights: names in w.safetensors are used without 'model.'; left out are 2 tensors without it, such as "
        "criterion.weight",
    )
    path = saved(tmp_path / "w.safetensors", {**weights_of(), "decoder.weight": torch.ones(5)})
    assert start(path).notes == ("--init-weights: not used of w.safetensors: 1 tensor, such as decoder.weight",)


def test_two_networks_in_a_file_are_refused(tmp_path: Path) -> None:
    both = {f"{role}.{name}": t.clone() for name, t in weights_of().items() for role in ("student", "teacher")}
    with pytest.raises(WeightsUnavailableError, match=r"holds 2 networks .* begin with 'student\.', 'teacher\.'"):
        start(saved(tmp_path / "w.safetensors", both))


@pytest.mark.parametrize("prefix", ["", "model.", "unknown.wrapper."])
@pytest.mark.parametrize(
    ("lacks", "named"),
    [(("running_mean", "running_var"), "running_mean"), (("bn1.weight",), "bn1.weight"), (("bias",), "bias")],
)
def test_a_file_that_lacks_buffers_or_vectors_does_not_pass(
    tmp_path: Path, prefix: str, lacks: tuple[str, ...], named: str
) -> None:
    weights = {prefix + name: tensor for name, tensor in weights_of().items() if not name.endswith(lacks)}
    with pytest.raises(WeightsUnavailableError, match=rf"does not fit test_resnet: it lacks \d+ tensors? .*{named}"):
        start(saved(tmp_path / "w.safetensors", weights))


@pytest.mark.parametrize(("in_file", "arch"), [("resnet34", "resnet18"), ("deit_tiny_patch16_224", "test_vit")])
def test_a_file_of_a_larger_network_of_the_same_kind_is_refused_in_a_line(
    tmp_path: Path, in_file: str, arch: str
) -> None:
    path = saved(tmp_path / "w.safetensors", weights_of(in_file))
    with pytest.raises(WeightsUnavailableError, match=f"does not fit {arch}") as raised:
        start(path, arch)
    assert len(str(raised.value)) < 600


@pytest.mark.parametrize("arch", ["test_vit", "test_convnext", "test_efficientnet"])
def test_a_file_of_another_architecture_is_refused_in_a_line(tmp_path: Path, arch: str) -> None:
    path = saved(tmp_path / "w.safetensors", weights_of("test_resnet"))
    with pytest.raises(WeightsUnavailableError, match=f"does not fit {arch}") as raised:
        start(path, arch)
    assert len(str(raised.value)) < 600 and "\n" not in str(raised.value)


@pytest.mark.parametrize("num_classes", [2, 3, 5, 1000])
def test_a_classifier_of_any_size_is_left_out(tmp_path: Path, num_classes: int) -> None:
    weights = weights_of()
    weights["fc.weight"] = torch.ones(num_classes, weights["fc.weight"].shape[1])
    weights["fc.bias"] = torch.ones(num_classes)
    started = start(saved(tmp_path / "w.safetensors", weights)).network.backbone.state_dict()
    assert started["fc.weight"].shape[0] == 5 and not started["fc.weight"].any()
    assert torch.equal(started["bn1.running_var"], weights["bn1.running_var"])


def test_values_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    weights = weights_of()
    weights["bn1.running_var"][0] = torch.nan
    with pytest.raises(WeightsUnavailableError, match=r"values are not finite in 1 tensor, such as bn1\.run"):
        start(saved(tmp_path / "w.safetensors", weights))


@pytest.mark.parametrize(
    ("suffix", "layout"),
    [
        *((suffix, layout) for suffix in (".pth", ".pt", ".bin") for layout in ("plain", "state_dict", "model")),
        *((".ckpt", "state_dict"), (".pth.tar", "state_dict"), (".safetensors", "plain")),
    ],
)
def test_pickled_weights_are_refused_with_two_lines_that_convert_them(tmp_path: Path, suffix: str, layout: str) -> None:
    weights = weights_of()
    path = tmp_path / f"it's{suffix}"
    torch.save(weights if layout == "plain" else {layout: weights, "epoch": 3}, path)
    with pytest.raises(WeightsUnavailableError, match="pickled weights are never loaded") as raised:
        start(path)
    lines = str(raised.value).splitlines()
    assert len(lines) == 3
    if suffix == ".safetensors":  # opened without being closed, which is a warning here
        subprocess.run([sys.executable, "-c", "\n".join(lines[1:])], check=True, timeout=300)
    else:
        exec("\n".join(lines[1:]), {})
    (converted,) = [found for found in tmp_path.iterdir() if found != path]
    loaded = start(converted).network.backbone.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in weights.items() if not name.startswith("fc."))


@pytest.mark.parametrize("kept", [0, 4, 100, -1])
def test_a_truncated_file_is_said_to_be_one(tmp_path: Path, kept: int) -> None:
    path = saved(tmp_path / "w.safetensors", weights_of())
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(WeightsUnavailableError, match=r"not a whole safetensors file .*copy or download it again"):
        start(path)


def test_pointers_folders_and_arrays_are_named(tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    (tmp_path / "w.npz").write_bytes(b"PK\x03\x04")
    for name, reason in (("w.safetensors", "git lfs pull"), ("w.npz", "no weights of PyTorch"), ("", "is a folder")):
        with pytest.raises(WeightsUnavailableError, match=reason):
            start(tmp_path / name)


def test_libraries_log_one_line_at_most(capsys: pytest.CaptureFixture[str]) -> None:
    timm, hub = logging.getLogger("timm.models._builder"), logging.getLogger("huggingface_hub.utils._http")
    before = logging.getLogger("timm").handlers, logging.getLogger("huggingface_hub").handlers
    with silenced_libraries("trying again"):
        timm.warning("Unexpected keys (%s)", "x" * 10_000)
        for attempt in range(5):
            hub.warning("Retrying in %ds [Retry %d/5].", 2**attempt, attempt + 1)
    assert capsys.readouterr().err == "trying again\n"
    assert (logging.getLogger("timm").handlers, logging.getLogger("huggingface_hub").handlers) == before


def test_loading_leaves_pytorch_as_it_was(tmp_path: Path) -> None:
    before = torch.nn.Module.load_state_dict
    with pytest.raises(WeightsUnavailableError):
        start(saved(tmp_path / "w.safetensors", {"x": torch.ones(1)}))
    assert torch.nn.Module.load_state_dict is before
