"""A checkpoint's file, read and verified without PyTorch: description, weights, fingerprints, feature checks."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from fundusgrade.data.fingerprints import FINGERPRINT_BYTES
from fundusgrade.data.leakage import HASH_BYTES, TrainingFingerprints
from fundusgrade.errors import CheckpointError
from fundusgrade.files import hash_text
from fundusgrade.networks.description import CheckpointDescription, parse_description
from fundusgrade.networks.feature_checks import FeatureChecks, checks_from_tensors

METADATA_KEY = "fundusgrade"
HASH_KEY = "fundusgrade_sha256"
"""SHA-256 of the description: one wrong digit of a mean would change grades without a trace."""
FINGERPRINT_TABLES = {"files": HASH_BYTES, "fingerprints": FINGERPRINT_BYTES, "patients": HASH_BYTES}
"""The tables of TrainingFingerprints, and the length of a row of each in bytes."""
FINGERPRINT_PREFIX = "seen."
"""Tensors that are those tables, not weights, start so: a name of the file format, which shipped models use."""
CHECKS_PREFIX = "checks."
"""Tensors of the feature checks start so."""

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CheckpointFile:
    """What a checkpoint's file holds, verified; `weights` are the network's tensors by name, as they are stored."""

    description: CheckpointDescription
    weights: Arrays
    fingerprints: TrainingFingerprints
    checks: FeatureChecks | None


def read_description(path: Path) -> CheckpointDescription:
    """Read a checkpoint's description from the file's header; weights are neither read nor verified.

    Raises CheckpointError as `read_checkpoint_file`.
    """
    with open_safetensors(path) as file:
        metadata = file.metadata()
    return parse_description(description_text(metadata, path), path)


def read_checkpoint_file(path: Path) -> CheckpointFile:
    """Read and verify a checkpoint's file.

    Raises CheckpointError where it is not one, is damaged, or is of another version.
    """
    with open_safetensors(path) as file:
        metadata = file.metadata()
        state: Arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
    description = parse_description(description_text(metadata, path), path)
    if hash_arrays(state) != description.weights_sha256:
        raise CheckpointError(
            f"the weights in {path} are not those that were saved (hash differs); copy the file again"
        )
    fingerprints, checks = _pop_fingerprints(state, path), _pop_checks(state, path)
    return CheckpointFile(description=description, weights=state, fingerprints=fingerprints, checks=checks)


@contextlib.contextmanager
def open_safetensors(path: Path) -> Iterator[Any]:
    """A safetensors file whose tensors are NumPy's. Raises CheckpointError where it is not a whole one."""
    try:
        with safe_open(path, framework="np") as file:
            yield file
    except (SafetensorError, OSError, ValueError, TypeError) as error:  # TypeError: of a type that NumPy lacks
        raise CheckpointError(
            f"{path} is not a whole safetensors file ({error}); copy it again or train the model again"
        ) from error


def description_text(metadata: Mapping[str, str] | None, path: Path) -> str:
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


def hash_arrays(state: Mapping[str, NDArray[Any]]) -> str:
    """SHA-256, in hexadecimal, over names, types, shapes and bytes of arrays in the order of names.

    Types are named as by PyTorch, "torch.float32": so they stand in the hashes of all files.
    """
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(f"{name} torch.{state[name].dtype} {state[name].shape}\n".encode())
        digest.update(np.ascontiguousarray(state[name]).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _pop_fingerprints(state: Arrays, path: Path) -> TrainingFingerprints:
    """The training fingerprints, taken out of the arrays; none where the file has none."""
    tables = {}
    for name, num_bytes in FINGERPRINT_TABLES.items():
        table = state.pop(FINGERPRINT_PREFIX + name, np.zeros((0, num_bytes), np.uint8))
        if table.dtype != np.uint8 or table.ndim != 2 or table.shape[1] != num_bytes:
            raise CheckpointError(f"the training fingerprints in {path} are damaged; copy the file again")
        tables[name] = table
    return TrainingFingerprints(**tables)


def _pop_checks(state: Arrays, path: Path) -> FeatureChecks | None:
    """The feature checks, taken out of the arrays; None where there are none."""
    names = [name for name in state if name.startswith(CHECKS_PREFIX)]
    try:
        return checks_from_tensors({name.removeprefix(CHECKS_PREFIX): state.pop(name) for name in names})
    except ValueError as error:
        raise CheckpointError(
            f"the feature checks in {path} are damaged, or of another version ({error}); copy the file again, or add "
            "them again with `fundusgrade add-checks`"
        ) from error
