"""Architecture names -> networks, with pretrained or random weights."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from fundusgrade.errors import WeightsUnavailableError
from fundusgrade.networks.heads import NUM_OUTPUTS
from fundusgrade.networks.network import INITIAL_SEVERITY, GradingNetwork, SmallCnn
from fundusgrade.networks.spec import CNN, NetworkSpec
from fundusgrade.networks.timm_hub import (
    NO_ANSWER,
    WEIGHTS_FILE,
    hub_file,
    is_hub_name,
    public_name,
    read_hub_network,
    silenced_libraries,
)
from fundusgrade.networks.weight_files import check_loaded, read_weight_file, recorded_loading
from fundusgrade.options import Head
from fundusgrade.text import error_text, shortened

# Short names for what the reference compares; any other name is timm's own.
_TIMM_NAMES = {"resnet50": "resnet50", "vit": "vit_base_patch16_224"}
_PLAIN_MEAN = (0.5, 0.5, 0.5)
_PLAIN_STD = (0.25, 0.25, 0.25)
# Networks halve the resolution four or five times: a multiple of 16 rows loses none at the edges.
_ROW_STEP = 16
_MAX_REASON = 200


def network_spec(
    arch: str, size_px: int, *, band_rows: tuple[int, int] | None = None, head: Head = Head.SOFTMAX
) -> NetworkSpec:
    """The network that `arch` names, for preprocessed images of size_px x size_px.

    `arch` is "cnn", "resnet50", "vit", any name of timm, or a network in the layout of timm's hub (`timm_hub`).
    `band_rows` are the first row that shows the retina and the one after the last, in px; all rows if None. Raises
    WeightsUnavailableError for an unknown name.
    """
    if arch == CNN:
        spec = NetworkSpec(arch=arch, timm_name=None, size_px=size_px, mean=_PLAIN_MEAN, std=_PLAIN_STD, head=head)
        return replace(spec, rows=_rows(size_px, band_rows, _ROW_STEP))
    if is_hub_name(arch):
        return _hub_spec(arch, size_px, band_rows, head)
    timm_name = _TIMM_NAMES.get(arch, arch)
    base = timm_name.split(".")[0]
    if not timm.is_model(base):
        close = difflib.get_close_matches(arch, [CNN, *_TIMM_NAMES, *timm.list_models()], n=5)
        raise WeightsUnavailableError(
            f"--arch {arch}: neither cnn, resnet50, vit nor a model of timm {timm.__version__}"
            + (f"; similar names: {', '.join(close)}" if close else "")
        )
    try:
        config = timm.get_pretrained_cfg(timm_name)
    except RuntimeError as error:
        known = ", ".join(timm.list_models(f"{base}.*", pretrained=True))
        raise WeightsUnavailableError(f"--arch {arch}: {base} has no such weights; it has {known or 'none'}") from error
    mean, std = (config.mean, config.std) if config is not None else (_PLAIN_MEAN, _PLAIN_STD)
    spec = NetworkSpec(arch=arch, timm_name=timm_name, size_px=size_px, mean=_rgb(mean), std=_rgb(std), head=head)
    return replace(spec, rows=_rows(size_px, band_rows, patch_side_px(spec) or _ROW_STEP))


def _hub_spec(arch: str, size_px: int, band_rows: tuple[int, int] | None, head: Head) -> NetworkSpec:
    """The network that `config.json` describes; all of it is copied, so that a trained model does not need the file."""
    hub_network = read_hub_network(arch)
    if not timm.is_model(hub_network.architecture):
        raise WeightsUnavailableError(
            f"--arch {arch}: its architecture {hub_network.architecture!r} is none of timm {timm.__version__}; "
            "install a timm that has it"
        )
    spec = NetworkSpec(
        arch=public_name(arch),
        timm_name=hub_network.architecture,
        size_px=size_px,
        mean=_rgb(hub_network.mean or _PLAIN_MEAN),
        std=_rgb(hub_network.std or _PLAIN_STD),
        head=head,
        arguments=hub_network.arguments,
    )
    return replace(spec, rows=_rows(size_px, band_rows, patch_side_px(spec) or _ROW_STEP))


def _rows(size_px: int, band_rows: tuple[int, int] | None, step: int) -> tuple[int, int] | None:
    """Rows for the network: the band, enlarged around the middle to a multiple of `step`; None for all rows."""
    if band_rows is None:
        return None
    height = math.ceil((band_rows[1] - band_rows[0]) / step) * step
    top = (size_px - height) // 2
    return (top, top + height) if height < size_px else None


def patch_side_px(spec: NetworkSpec) -> int | None:
    """Side of a vision transformer's patches, from its arguments or its name; None for other architectures."""
    given = spec.arguments.get("patch_size")
    if isinstance(given, int):
        return given
    found = re.search(r"patch(\d+)", spec.timm_name or "")
    return int(found.group(1)) if found else None


def build_network(spec: NetworkSpec) -> GradingNetwork:
    """The network with random weights. Raises WeightsUnavailableError where timm cannot build it."""
    return GradingNetwork(spec, build_backbone(spec))


def build_backbone(spec: NetworkSpec) -> nn.Module:
    """The network without normalization and calibration, on the default device. Raises as `build_network`."""
    return SmallCnn(NUM_OUTPUTS[spec.head]) if spec.timm_name is None else _timm_model(spec)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StartedNetwork:
    """A network to train, and lines on how its weights were read."""

    network: GradingNetwork
    notes: tuple[str, ...] = ()


def start_network(
    spec: NetworkSpec, *, init_weights: Path | None, pretrained: bool, hub: str | None = None
) -> StartedNetwork:
    """A network to train, initialized from a file, from pretrained weights, or at random.

    `init_weights` is a safetensors file with timm's names. The pretrained weights are timm's, or those of the folder or
    repository that `hub` names (`timm_hub`). Raises WeightsUnavailableError where the weights cannot be had.
    """
    if spec.timm_name is None:
        if init_weights is not None:
            raise WeightsUnavailableError("--init-weights: the cnn is trained from scratch; leave the option out")
        return StartedNetwork(network=build_network(spec))
    notes: tuple[str, ...] = ()
    if init_weights is not None:
        backbone, notes = _from_file(spec, init_weights)
    elif not pretrained:
        backbone = _timm_model(spec)
    elif hub is not None:
        backbone, notes = _from_file(spec, hub_file(hub, WEIGHTS_FILE), f"--arch {hub}")
    else:
        backbone = _from_hub(spec)
    return StartedNetwork(network=GradingNetwork(spec, zero_init_head(spec, backbone)), notes=notes)


def has_fixed_input(spec: NetworkSpec) -> bool:
    """Whether the network takes images of one size only, as most vision transformers do."""
    config = None if spec.timm_name is None else timm.get_pretrained_cfg(spec.timm_name)
    return config is not None and bool(config.fixed_input_size)


def zero_init_head(spec: NetworkSpec, backbone: Any) -> nn.Module:
    """Set the last layer's weights to zero: timm's random ones start with a loss that takes an epoch to undo.

    The bias becomes zero too; that of a regression the mean severity of usual data sets.
    """
    last = backbone.get_classifier()
    if isinstance(last, nn.Linear):
        nn.init.zeros_(last.weight)
        nn.init.constant_(last.bias, INITIAL_SEVERITY if spec.head is Head.REGRESSION else 0.0)
    model: nn.Module = backbone
    return model


def _timm_model(spec: NetworkSpec, **arguments: object) -> nn.Module:
    """timm's model at our input size (only models with a fixed input size take `img_size`)."""
    # For other names, such as "hf-hub:...", timm would download a description.
    if spec.timm_name is None or not timm.is_model(spec.timm_name.split(".")[0]):
        raise WeightsUnavailableError(
            f"timm {timm.__version__} has no network {spec.timm_name!r}; install a version of timm that has it"
        )
    if has_fixed_input(spec):
        arguments["img_size"] = spec.input_px
    arguments = {"pretrained": False, "num_classes": NUM_OUTPUTS[spec.head], **spec.arguments, **arguments}
    try:
        model: nn.Module = timm.create_model(spec.timm_name, **arguments)
    except TypeError as error:  # arguments come from a file, and every network has its own
        raise WeightsUnavailableError(
            f"timm {timm.__version__} cannot build {spec.timm_name} with {dict(spec.arguments)} ({error}); "
            "install the version of timm that described it so"
        ) from error
    return model


def _from_file(spec: NetworkSpec, path: Path, option: str = "--init-weights") -> tuple[nn.Module, tuple[str, ...]]:
    """A network with the weights of a file, and lines on what of the file is not used."""
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        names = _timm_model(spec).state_dict().keys()
    file = read_weight_file(path, names, option=option, network=spec.arch)
    config = timm.get_pretrained_cfg(spec.timm_name)
    classifier = () if config is None else config.classifier or ()
    heads = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    overlay = {"state_dict": file.tensors, "custom_load": False}
    failure: Exception | None = None
    with recorded_loading() as calls, silenced_libraries():
        try:
            _timm_model(spec, pretrained=True, pretrained_cfg_overlay=overlay)
        except Exception as error:  # timm converts names and shapes as it expects them, and fails in any way if not
            failure = error
    if calls:
        model, loaded = calls[-1]
        unused = check_loaded(model, loaded, heads, option=option, path=path, arch=spec.arch)
        if failure is None:
            return model, file.notes + unused
    reason = shortened(error_text(failure), _MAX_REASON) if failure is not None else "timm does not load it"
    raise WeightsUnavailableError(
        f"{option}: {path} does not fit {spec.arch} ({reason}); expected a safetensors file of this architecture, with "
        "timm's names"
    ) from failure


def _from_hub(spec: NetworkSpec) -> nn.Module:
    try:
        with silenced_libraries(NO_ANSWER):
            return _timm_model(spec, pretrained=True)
    except Exception as error:  # the hub's client raises its own, its transport's and the operating system's errors
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsUnavailableError(
            f"pretrained weights of {spec.timm_name} cannot be downloaded ({reason}); give a file with --init-weights "
            "FILE (safetensors, from a machine that reaches the model hub), or train from scratch with --no-pretrained"
        ) from error


def _rgb(values: Sequence[float]) -> tuple[float, float, float]:
    """One number per color channel."""
    red, green, blue = values
    return float(red), float(green), float(blue)
