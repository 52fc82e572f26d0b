"""A model exported in the layout of timm's hub, from which timm loads the network, for inference or for training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import safetensors.torch

from fundusgrade import __version__
from fundusgrade.errors import ExportError
from fundusgrade.files import write_atomically
from fundusgrade.networks.checkpoint import Checkpoint
from fundusgrade.networks.model_card import model_card
from fundusgrade.networks.network import GradingNetwork
from fundusgrade.networks.timm_hub import CONFIG_FILE, WEIGHTS_FILE
from fundusgrade.outputs import MARK

DESCRIPTION_FILE = "fundusgrade.json"
# Of timm's own description, which is of other weights, what is needed to adapt the architecture.
_COPIED_KEYS = ("first_conv", "classifier", "fixed_input_size")
_CARD_HEADER = """---
library_name: timm
pipeline_tag: image-classification
tags: [image-classification, timm, diabetic-retinopathy, fundus-photography]
---
"""
_CARD_USE = """
## With timm

`timm.create_model("hf-hub:OWNER/NAME", pretrained=True)`, or `"local-dir:FOLDER"`, builds the network without its
calibration. Head, calibration, thresholds and preprocessing are described in `fundusgrade.json`. timm's own transforms
are a different preprocessing, with which grades would be wrong.
"""


def hub_files(folder: Path) -> tuple[Path, ...]:
    """The files that `write_hub_folder` writes."""
    return tuple(folder / name for name in (WEIGHTS_FILE, "README.md", DESCRIPTION_FILE, CONFIG_FILE))


def write_hub_folder(checkpoint: Checkpoint, folder: Path) -> tuple[Path, ...]:
    """Write config.json, model.safetensors, README.md and fundusgrade.json into `folder`; returns their paths.

    Raises ExportError for a network that is not timm's, StoreError where the folder cannot be written.
    """
    description, network = checkpoint.description, checkpoint.network
    if network.spec.timm_name is None:
        raise ExportError(
            f"{description.name} is a {network.spec.arch}, which timm does not have; use --format onnx or openvino"
        )
    state = {name: tensor.contiguous().clone() for name, tensor in network.backbone.state_dict().items()}
    contents: tuple[bytes | str, ...] = (
        safetensors.torch.save(state, metadata={"format": "pt", "software": MARK}),
        _CARD_HEADER + model_card(description) + _CARD_USE + f"\n<!-- {MARK} -->\n",
        description.to_json(),
        json.dumps(_config(network), indent=2) + "\n",
    )
    files = hub_files(folder)
    for file, content in zip(files, contents, strict=True):
        write_atomically(file, content)
    return files


def _config(network: GradingNetwork) -> dict[str, object]:
    """timm's description of the network; images have the size of its input, nothing is cropped."""
    spec, backbone = network.spec, network.backbone
    model: Any = backbone  # for timm's attributes
    assert spec.timm_name is not None, "only timm's networks have one"
    kept = {name: model.pretrained_cfg[name] for name in _COPIED_KEYS if model.pretrained_cfg.get(name) is not None}
    fixed_size = {"img_size": list(spec.input_px)} if kept.get("fixed_input_size") else {}
    return {
        "fundusgrade": __version__,
        "architecture": spec.timm_name.split(".")[0],
        "num_classes": model.num_classes,
        "num_features": model.num_features,
        "model_args": {**spec.arguments, **fixed_size},
        "pretrained_cfg": {
            **kept,
            "input_size": [3, *spec.input_px],
            "pool_size": None,
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            "crop_mode": "squash",
            "mean": list(spec.mean),
            "std": list(spec.std),
            "num_classes": model.num_classes,
            "custom_load": False,
        },
    }
