"""Weights with everything needed to use them: one safetensors file whose header carries the description as JSON.

The description stands in the header so that one atomic write replaces both; `model.json` beside it is for people.
Nothing on this path loads pickle.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import safetensors.torch
import timm
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from fundusgrade import __version__, store
from fundusgrade.data.dataset import PreparedDataset
from fundusgrade.data.duplicates import FINGERPRINT_BITS
from fundusgrade.data.leakage import MARK_BYTES, TrainingFingerprints
from fundusgrade.errors import CheckpointError, StoreError, WeightsUnavailableError
from fundusgrade.files import hash_text, write_atomically
from fundusgrade.grades import NUM_GRADES
from fundusgrade.networks.build import build_network
from fundusgrade.networks.heads import NO_OFFSETS, NUM_CUTS, Calibration
from fundusgrade.networks.network import GradingNetwork, NetworkSpec
from fundusgrade.options import Head
from fundusgrade.photographs.recipe import RECIPE_VERSION, PreprocessRecipe

FORMAT_VERSION = 1
METADATA_KEY = "fundusgrade"
# SHA-256 of the description: one wrong digit of a mean would change grades without a trace. Early files lack it.
HASH_KEY = "fundusgrade_sha256"
MARKS = {"files": MARK_BYTES, "fingerprints": FINGERPRINT_BITS // 8, "patients": MARK_BYTES}
"""Marks of the photographs that a network was trained on, and their width in bytes."""
# Tensors that are not the network's but such marks.
_SEEN = "seen."


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """Where a model comes from: its data (name and hash of the manifest), options, scores, versions, start."""

    created: str
    data_name: str
    data_hash: str
    init: str
    options: dict[str, object]
    metrics: dict[str, float | int | None]
    versions: dict[str, str]

    def dealt(self, dataset: PreparedDataset) -> PreparedDataset:
        """The data set as it was dealt when the model was trained: a fold has splits of its own."""
        fold, num_folds = self.options.get("fold"), self.options.get("num_folds")
        if isinstance(fold, int) and isinstance(num_folds, int):
            return dataset.with_fold(fold, num_folds)
        return dataset


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointDescription:
    """What stands in the header; `weights_sha256` is that of the tensors' names and bytes.

    `thresholds` are the four of the expected grade that decide the grade; None where the most probable one is taken.
    `conformity` are the sorted conformity scores of the validation photographs, for sets at any coverage.
    """

    name: str
    network: NetworkSpec
    recipe: PreprocessRecipe
    provenance: Provenance
    thresholds: tuple[float, ...] | None = None
    conformity: tuple[float, ...] = ()
    weights_sha256: str = ""

    def to_json(self) -> str:
        """Indented JSON with the fields flat where people look for them."""
        described = {
            "format": FORMAT_VERSION,
            "name": self.name,
            **asdict(self.network),
            "thresholds": self.thresholds,
            "recipe": asdict(self.recipe),
            **asdict(self.provenance),
            "weights_sha256": self.weights_sha256,
            "conformity": self.conformity,
        }
        return json.dumps(described, indent=2) + "\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A network ready to use, in evaluation mode on the CPU, with its description and the marks of what it has seen."""

    description: CheckpointDescription
    network: GradingNetwork
    fingerprints: TrainingFingerprints


def save_checkpoint(
    path: Path,
    network: GradingNetwork,
    description: CheckpointDescription,
    *,
    fingerprints: TrainingFingerprints | None = None,
    half: bool = False,
) -> None:
    """Write `path` and its readable copy `model.json`; `half` stores float16, for models that ship."""
    state = {name: _stored(tensor, half) for name, tensor in network.state_dict().items()}
    for name in MARKS if fingerprints is not None else ():
        state[_SEEN + name] = torch.from_numpy(getattr(fingerprints, name).copy())
    description = replace(description, weights_sha256=_hash_tensors(state))
    text = description.to_json()
    metadata = {METADATA_KEY: text, HASH_KEY: hash_text(text)}
    write_atomically(path, safetensors.torch.save(state, metadata=metadata))
    write_atomically(path.with_name(store.MODEL_JSON), text)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read and verify a checkpoint.

    Raises CheckpointError where the file is not one, is damaged, or is of another version.
    """
    text, state = _read(path)
    description = parse_description(text, path)
    if _hash_tensors(state) != description.weights_sha256:
        raise CheckpointError(
            f"the weights in {path} are not those that were saved (hash differs); copy the file again"
        )
    fingerprints = _take_exposure(state, path)
    # building and filling fail in many ways where the description is sound JSON, but of no network that exists here
    try:
        _refuse_other_shapes(description.network, state)
        network = build_network(description.network)
        network.load_state_dict(
            {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
        )
    except (RuntimeError, ValueError, TypeError, AssertionError, WeightsUnavailableError) as error:
        raise CheckpointError(
            f"the weights in {path} do not fit {description.network.arch} as timm {timm.__version__} builds it "
            f"({error}); install timm {description.provenance.versions.get('timm')}, or copy the file again"
        ) from error
    return Checkpoint(description=description, network=network.eval(), fingerprints=fingerprints)


def _refuse_other_shapes(spec: NetworkSpec, state: dict[str, Tensor]) -> None:
    """Compare with a network that holds no numbers: a description that lies could ask for one of many gigabytes."""
    with torch.device("meta"):
        expected = {name: tuple(tensor.shape) for name, tensor in build_network(spec).state_dict().items()}
    unlike = [name for name, shape in expected.items() if name not in state or tuple(state[name].shape) != shape]
    unlike += sorted(state.keys() - expected.keys())
    if unlike:
        raise ValueError(f"{len(unlike)} tensors differ, the first is {unlike[0]}")


def _take_exposure(state: dict[str, Tensor], path: Path) -> TrainingFingerprints:
    """The marks, taken out of the tensors; the first files have none."""
    marks = {}
    for name, num_bytes in MARKS.items():
        table = state.pop(_SEEN + name, torch.zeros((0, num_bytes), dtype=torch.uint8))
        if table.dtype != torch.uint8 or table.ndim != 2 or table.shape[1] != num_bytes:
            raise CheckpointError(f"the marks of training photographs in {path} are damaged; copy the file again")
        marks[name] = table.numpy()
    return TrainingFingerprints(**marks)


def _read(path: Path) -> tuple[str, dict[str, Tensor]]:
    """The description's text and the tensors of a file."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} is not a whole safetensors file ({error}); copy it again or train the model again"
        ) from error
    text = metadata.get(METADATA_KEY)
    if text is None:
        raise CheckpointError(
            f"{path} holds weights, but no description by fundusgrade; "
            "use it as a start with `fundusgrade train --init-weights`"
        )
    if metadata.get(HASH_KEY, hash_text(text)) != hash_text(text):
        raise CheckpointError(
            f"the description in {path} is not the one that was saved (hash differs); copy the file again"
        )
    return text, state


def parse_description(text: str, path: Path) -> CheckpointDescription:
    """Read the header's JSON. Raises CheckpointError where a field is missing or of another version."""
    try:
        described = json.loads(text)
        _check_supported(described, path)
        return CheckpointDescription(
            # It becomes part of file names: one that leads out of a folder is refused.
            name=store.checked_name(str(described["name"])),
            network=_network(described),
            recipe=PreprocessRecipe.from_json(described["recipe"]),
            provenance=_provenance(described),
            weights_sha256=str(described["weights_sha256"]),
            thresholds=_thresholds(described),
            conformity=_row(described.get("conformity", ())),
        )
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError, StoreError) as error:
        raise CheckpointError(f"the description in {path} is damaged: {error!r}; copy the file again") from error


def _check_supported(described: dict[str, Any], path: Path) -> None:
    """Raise CheckpointError for what only another version of fundusgrade can use."""
    if described["format"] != FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has checkpoint format {described['format']}, expected {FORMAT_VERSION}; "
            f"it was written by another version than {__version__}: install that one"
        )
    recipe_version = described["recipe"]["version"]
    if recipe_version != RECIPE_VERSION:
        raise CheckpointError(
            f"{path} was trained with preprocessing version {recipe_version}, this is {RECIPE_VERSION}; "
            "its grades would not be those it was tested with: train it again or install the version that made it"
        )
    if described.get("head") == "corn":
        raise CheckpointError(
            f"{path} has the head 'corn', which fundusgrade {__version__} no longer supports; train the model again "
            f"with --head {Head.CUMULATIVE.value}, or install the version that made it"
        )


def _network(described: dict[str, Any]) -> NetworkSpec:
    """The network. Raises ValueError for one that cannot be, before anything of its size is built."""
    spec = NetworkSpec(
        arch=str(described["arch"]),
        timm_name=None if described["timm_name"] is None else str(described["timm_name"]),
        size_px=int(described["size_px"]),
        mean=_row(described["mean"], 3),
        std=_row(described["std"], 3),
        rows=None if described.get("rows") is None else _two(described["rows"]),
        head=Head(described.get("head", Head.SOFTMAX)),
        calibration=_calibration(described),
        arguments=dict(described.get("arguments", {})),
    )
    top, bottom = spec.rows or (0, spec.size_px)
    # timm takes other names for places in the network from which it would fetch a description of its own.
    if spec.timm_name is not None and not timm.is_model(spec.timm_name.split(".")[0]):
        raise ValueError(f"timm {timm.__version__} has no network {spec.timm_name!r}")
    if spec.size_px != int(described["recipe"]["size_px"]) or not 0 <= top < bottom <= spec.size_px:
        raise ValueError(f"rows {top} to {bottom} of {spec.size_px} px are not those of its pictures")
    if min(spec.std) <= 0:
        raise ValueError(f"its normalization divides by {min(spec.std)}")
    return spec


def _provenance(described: dict[str, Any]) -> Provenance:
    provenance = Provenance(**{name: described[name] for name in Provenance.__dataclass_fields__})
    for name in ("options", "metrics", "versions"):
        if not isinstance(getattr(provenance, name), dict):
            raise ValueError(f"its {name} are no table")
    return provenance


def _calibration(described: dict[str, object]) -> Calibration:
    """The calibration; the first files have logit offsets alone, or nothing. Raises ValueError for what is none."""
    values = described.get("calibration", {"offsets": described.get("logit_offsets", NO_OFFSETS)})
    if not isinstance(values, dict):
        raise ValueError(f"the calibration is {values}, expected temperature, offsets and cutpoints")
    fields: dict[str, Any] = {
        name: _number(value) if name == "temperature" else _row(value) for name, value in values.items()
    }
    calibration = Calibration(**fields)
    lengths = (len(calibration.offsets), len(calibration.cutpoints))
    if lengths != (NUM_GRADES, NUM_CUTS) or not calibration.temperature > 0:
        raise ValueError(f"the calibration is {values}, expected {NUM_GRADES} offsets and {NUM_CUTS} cutpoints")
    return calibration


def _thresholds(described: dict[str, object]) -> tuple[float, ...] | None:
    """Thresholds; the first files have none. Raises ValueError where they are not four rising numbers."""
    values = described.get("thresholds")
    if values is None:
        return None
    thresholds: tuple[float, ...] = _row(values, NUM_CUTS)
    if list(thresholds) != sorted(thresholds):
        raise ValueError(f"the thresholds are {values}, expected {NUM_CUTS} rising numbers")
    return thresholds


def _row(values: object, length: int | None = None) -> Any:
    """A tuple of finite numbers, as JSON has them, of a length if given. Raises ValueError for anything else."""
    if not isinstance(values, list | tuple) or length not in (None, len(values)):
        raise ValueError(f"{str(values)[:80]} are not {length or 'some'} numbers")
    return tuple(_number(each) for each in values)


def _number(value: object) -> float:
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{value!r} is not a finite number")
    return float(value)


def _two(values: Sequence[object]) -> tuple[int, int]:
    first, second = values
    return int(first), int(second)  # type: ignore[call-overload]


def _stored(tensor: Tensor, half: bool) -> Tensor:
    tensor = tensor.detach().cpu()
    return (tensor.half() if half and tensor.is_floating_point() else tensor).contiguous()


def _hash_tensors(state: dict[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes, in the order of names."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
