"""A model's weights with everything needed to use them: one safetensors file whose header holds the description.

One file, so that one atomic write replaces both; `model.json` beside it is a copy for people. Pickle is never read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import safetensors.torch
import timm
import torch
from numpy.typing import NDArray
from torch import Tensor

from fundusgrade import store
from fundusgrade.data.leakage import TrainingFingerprints
from fundusgrade.errors import CheckpointError, WeightsUnavailableError
from fundusgrade.files import hash_text, write_atomically
from fundusgrade.networks.build import build_backbone, build_network
from fundusgrade.networks.checkpoint_file import (
    CHECKS_PREFIX,
    FINGERPRINT_PREFIX,
    FINGERPRINT_TABLES,
    HASH_KEY,
    METADATA_KEY,
    hash_arrays,
    open_safetensors,
    read_checkpoint_file,
)
from fundusgrade.networks.description import CheckpointDescription
from fundusgrade.networks.feature_checks import FeatureChecks
from fundusgrade.networks.network import GradingNetwork
from fundusgrade.networks.spec import NetworkSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A network ready to use, in evaluation mode on the CPU, with its description.

    `fingerprints` identify the photographs that it was trained and chosen on; empty where the file has none. `checks`
    are None where none were added: `training.feature_checks.add_feature_checks`.
    """

    description: CheckpointDescription
    network: GradingNetwork
    fingerprints: TrainingFingerprints
    checks: FeatureChecks | None = None


def save_checkpoint(
    path: Path,
    network: GradingNetwork,
    description: CheckpointDescription,
    *,
    fingerprints: TrainingFingerprints | None = None,
    checks: FeatureChecks | None = None,
    half: bool = False,
) -> None:
    """Write `path`, a safetensors file, and `model.json` beside it; the hash of the weights is filled in.

    `half` stores the weights as float16, half as large. Raises StoreError where the files cannot be written.
    """
    state = {name: _to_stored(tensor, half=half) for name, tensor in network.state_dict().items()}
    for name in FINGERPRINT_TABLES if fingerprints is not None else ():
        state[FINGERPRINT_PREFIX + name] = torch.from_numpy(getattr(fingerprints, name).copy())
    _write_checks(state, checks)
    if checks is None:
        description = replace(description, checks=None)
    _write(path, state, replace(description, weights_sha256=hash_tensors(state)))


def replace_description(path: Path, description: CheckpointDescription, *, checks: FeatureChecks | None = None) -> None:
    """Write a checkpoint anew with another description, and other feature checks if given; weights stay as they are.

    Raises CheckpointError where the file is not a checkpoint, StoreError where it cannot be written.
    """
    with open_safetensors(path) as file:
        state = {name: torch.from_numpy(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118  (not a dict)
    if checks is not None:
        state = {name: tensor for name, tensor in state.items() if not name.startswith(CHECKS_PREFIX)}
        _write_checks(state, checks)
    _write(path, state, replace(description, weights_sha256=hash_tensors(state)))


def _write_checks(state: dict[str, Tensor], checks: FeatureChecks | None) -> None:
    """Add the tensors of feature checks, which are never halved: the weights of 16 bits would move their limits."""
    for name, values in (checks.tensors() if checks is not None else {}).items():
        state[CHECKS_PREFIX + name] = torch.from_numpy(values)


def _write(path: Path, state: Mapping[str, Tensor], description: CheckpointDescription) -> None:
    text = description.to_json()
    metadata = {METADATA_KEY: text, HASH_KEY: hash_text(text)}
    write_atomically(path, safetensors.torch.save(dict(state), metadata=metadata))
    write_atomically(path.with_name(store.MODEL_JSON), text)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read and verify a checkpoint.

    Raises CheckpointError where the file is not one, is damaged, or is of another version.
    """
    stored = read_checkpoint_file(path)
    description = stored.description
    # Building and loading fail in many ways where the description is correct JSON, but of a network unknown here.
    try:
        network = _network_with_weights(description.network, stored.weights)
    except (RuntimeError, ValueError, TypeError, AssertionError, WeightsUnavailableError) as error:
        raise CheckpointError(
            f"the weights in {path} do not fit {description.network.arch} as timm {timm.__version__} builds it "
            f"({error}); install timm {description.provenance.versions.get('timm')}, or copy the file again"
        ) from error
    return Checkpoint(
        description=description, network=network.eval(), fingerprints=stored.fingerprints, checks=stored.checks
    )


def _network_with_weights(spec: NetworkSpec, state: Mapping[str, NDArray[Any]]) -> GradingNetwork:
    """The network with these weights, in float32. Raises ValueError where their names or shapes are not its own.

    It is built without memory for its weights, on the meta device: a wrong description could ask for many gigabytes.
    """
    with torch.device("meta"):
        backbone = build_backbone(spec)
    network = GradingNetwork(spec, backbone)
    _check_shapes(network, state)
    if any(buffer.is_meta and name not in state for name, buffer in network.named_buffers()):
        network = build_network(spec)  # some networks compute tables that are not stored, such as relative positions
    tensors = {name: torch.from_numpy(array) for name, array in state.items()}
    weights = {name: each.float() if each.is_floating_point() else each for name, each in tensors.items()}
    network.load_state_dict(weights, assign=True)
    return network


def _check_shapes(network: GradingNetwork, state: Mapping[str, NDArray[Any]]) -> None:
    expected = network.state_dict()
    different = [
        name for name, tensor in expected.items() if name not in state or state[name].shape != tuple(tensor.shape)
    ]
    different += sorted(state.keys() - expected.keys())
    if different:
        raise ValueError(f"{len(different)} tensors differ, the first is {different[0]}")


def _to_stored(tensor: Tensor, *, half: bool) -> Tensor:
    """A copy of a tensor as it is written: on the CPU, contiguous, in float16 if `half`.

    Some networks use a tensor in several places, and safetensors refuses tensors that share memory.
    """
    tensor = tensor.detach().cpu()
    return (tensor.half() if half and tensor.is_floating_point() else tensor.clone()).contiguous()


def hash_tensors(state: Mapping[str, Tensor]) -> str:
    """SHA-256 of tensors, as of `checkpoint_file.hash_arrays`."""
    return hash_arrays({name: tensor.contiguous().numpy() for name, tensor in state.items()})
