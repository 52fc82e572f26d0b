"""A model's weights with everything needed to use them: one safetensors file whose header holds the description.

One file, so that one atomic write replaces both; `model.json` beside it is a copy for people. Pickle is never read.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import safetensors.torch
import timm
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from fundusgrade import store
from fundusgrade.data.fingerprints import FINGERPRINT_BYTES
from fundusgrade.data.leakage import HASH_BYTES, TrainingFingerprints
from fundusgrade.errors import CheckpointError, WeightsUnavailableError
from fundusgrade.files import hash_text, write_atomically
from fundusgrade.networks.build import build_backbone, build_network
from fundusgrade.networks.description import CheckpointDescription, parse_description
from fundusgrade.networks.feature_checks import FeatureChecks, checks_from_tensors
from fundusgrade.networks.network import GradingNetwork, NetworkSpec

METADATA_KEY = "fundusgrade"
# SHA-256 of the description: one wrong digit of a mean would change grades without a trace.
HASH_KEY = "fundusgrade_sha256"
FINGERPRINT_TABLES = {"files": HASH_BYTES, "fingerprints": FINGERPRINT_BYTES, "patients": HASH_BYTES}
"""The tables of TrainingFingerprints, and the length of a row of each in bytes."""
# Tensors that are those tables, not weights, start so: a name of the file format, which shipped models use.
_FINGERPRINT_PREFIX = "seen."
# Tensors of the feature checks start so.
_CHECKS_PREFIX = "checks."


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
        state[_FINGERPRINT_PREFIX + name] = torch.from_numpy(getattr(fingerprints, name).copy())
    _write_checks(state, checks)
    if checks is None:
        description = replace(description, checks=None)
    _write(path, state, replace(description, weights_sha256=hash_tensors(state)))


def replace_description(path: Path, description: CheckpointDescription, *, checks: FeatureChecks | None = None) -> None:
    """Write a checkpoint anew with another description, and other feature checks if given; weights stay as they are.

    Raises CheckpointError where the file is not a checkpoint, StoreError where it cannot be written.
    """
    with _open_safetensors(path) as file:
        state = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118  (not a dict)
    if checks is not None:
        state = {name: tensor for name, tensor in state.items() if not name.startswith(_CHECKS_PREFIX)}
        _write_checks(state, checks)
    _write(path, state, replace(description, weights_sha256=hash_tensors(state)))


def _write_checks(state: dict[str, Tensor], checks: FeatureChecks | None) -> None:
    """Add the tensors of feature checks, which are never halved: the weights of 16 bits would move their limits."""
    for name, values in (checks.tensors() if checks is not None else {}).items():
        state[_CHECKS_PREFIX + name] = torch.from_numpy(values)


def _write(path: Path, state: Mapping[str, Tensor], description: CheckpointDescription) -> None:
    text = description.to_json()
    metadata = {METADATA_KEY: text, HASH_KEY: hash_text(text)}
    write_atomically(path, safetensors.torch.save(dict(state), metadata=metadata))
    write_atomically(path.with_name(store.MODEL_JSON), text)


def read_description(path: Path) -> CheckpointDescription:
    """Read a checkpoint's description from the file's header; weights are neither read nor verified.

    Raises CheckpointError as `load_checkpoint`.
    """
    with _open_safetensors(path) as file:
        metadata = file.metadata()
    return parse_description(_description_text(metadata, path), path)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read and verify a checkpoint.

    Raises CheckpointError where the file is not one, is damaged, or is of another version.
    """
    with _open_safetensors(path) as file:
        metadata = file.metadata()
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
    description = parse_description(_description_text(metadata, path), path)
    if hash_tensors(state) != description.weights_sha256:
        raise CheckpointError(
            f"the weights in {path} are not those that were saved (hash differs); copy the file again"
        )
    fingerprints, checks = _pop_fingerprints(state, path), _pop_checks(state, path)
    # Building and loading fail in many ways where the description is correct JSON, but of a network unknown here.
    try:
        network = _network_with_weights(description.network, state)
    except (RuntimeError, ValueError, TypeError, AssertionError, WeightsUnavailableError) as error:
        raise CheckpointError(
            f"the weights in {path} do not fit {description.network.arch} as timm {timm.__version__} builds it "
            f"({error}); install timm {description.provenance.versions.get('timm')}, or copy the file again"
        ) from error
    return Checkpoint(description=description, network=network.eval(), fingerprints=fingerprints, checks=checks)


def _network_with_weights(spec: NetworkSpec, state: Mapping[str, Tensor]) -> GradingNetwork:
    """The network with these weights, in float32. Raises ValueError where their names or shapes are not its own.

    It is built without memory for its weights, on the meta device: a wrong description could ask for many gigabytes.
    """
    with torch.device("meta"):
        backbone = build_backbone(spec)
    network = GradingNetwork(spec, backbone)
    _check_shapes(network, state)
    if any(buffer.is_meta and name not in state for name, buffer in network.named_buffers()):
        network = build_network(spec)  # some networks compute tables that are not stored, such as relative positions
    # Copies: safetensors maps the file into memory, and Windows cannot replace a mapped file.
    copies = {
        name: tensor.to(torch.float32 if tensor.is_floating_point() else tensor.dtype, copy=True)
        for name, tensor in state.items()
    }
    network.load_state_dict(copies, assign=True)
    return network


def _check_shapes(network: GradingNetwork, state: Mapping[str, Tensor]) -> None:
    expected = network.state_dict()
    different = [name for name, tensor in expected.items() if name not in state or state[name].shape != tensor.shape]
    different += sorted(state.keys() - expected.keys())
    if different:
        raise ValueError(f"{len(different)} tensors differ, the first is {different[0]}")


def _pop_fingerprints(state: dict[str, Tensor], path: Path) -> TrainingFingerprints:
    """The training fingerprints, taken out of the tensors; none where the file has none."""
    tables = {}
    for name, num_bytes in FINGERPRINT_TABLES.items():
        table = state.pop(_FINGERPRINT_PREFIX + name, torch.zeros((0, num_bytes), dtype=torch.uint8))
        if table.dtype != torch.uint8 or table.ndim != 2 or table.shape[1] != num_bytes:
            raise CheckpointError(f"the training fingerprints in {path} are damaged; copy the file again")
        tables[name] = table.numpy().copy()
    return TrainingFingerprints(**tables)


def _pop_checks(state: dict[str, Tensor], path: Path) -> FeatureChecks | None:
    """The feature checks, taken out of the tensors; None where there are none."""
    names = [name for name in state if name.startswith(_CHECKS_PREFIX)]
    try:
        return checks_from_tensors({name.removeprefix(_CHECKS_PREFIX): state.pop(name).numpy() for name in names})
    except ValueError as error:
        raise CheckpointError(
            f"the feature checks in {path} are damaged, or of another version ({error}); copy the file again, or add "
            "them again with `fundusgrade add-checks`"
        ) from error


@contextlib.contextmanager
def _open_safetensors(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} is not a whole safetensors file ({error}); copy it again or train the model again"
        ) from error


def _description_text(metadata: Mapping[str, str] | None, path: Path) -> str:
    """The description's JSON from a file's metadata. Raises CheckpointError without it, or where its hash differs."""
    text = (metadata or {}).get(METADATA_KEY)
    if metadata is None or text is None:
        raise CheckpointError(
            f"{path} holds weights, but no description by fundusgrade; "
            "use it as a start with `fundusgrade train --init-weights`"
        )
    if metadata.get(HASH_KEY) != hash_text(text):
        raise CheckpointError(
            f"the description in {path} is not the one that was saved (hash differs); copy the file again"
        )
    return text


def _to_stored(tensor: Tensor, *, half: bool) -> Tensor:
    """A copy of a tensor as it is written: on the CPU, contiguous, in float16 if `half`.

    Some networks use a tensor in several places, and safetensors refuses tensors that share memory.
    """
    tensor = tensor.detach().cpu()
    return (tensor.half() if half and tensor.is_floating_point() else tensor.clone()).contiguous()


def hash_tensors(state: Mapping[str, Tensor]) -> str:
    """SHA-256, in hexadecimal, over names, types, shapes and bytes of tensors in the order of names."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
