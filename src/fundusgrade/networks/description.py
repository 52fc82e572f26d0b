"""The description of a model: its network, preprocessing, provenance and thresholds, as JSON that is checked."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fundusgrade import __version__, store
from fundusgrade.data.concatenation import SEPARATOR
from fundusgrade.data.dataset import PreparedDataset
from fundusgrade.errors import CheckpointError, MetricsError, StoreError
from fundusgrade.grades import NUM_GRADES
from fundusgrade.metrics.conformal import NO_CONFORMITY, Conformity
from fundusgrade.metrics.referral import UNSTATED_POINT, OperatingPoint
from fundusgrade.networks.feature_checks import ChecksProvenance
from fundusgrade.networks.heads import NUM_CUTS, Calibration
from fundusgrade.networks.local_calibration import LocalCalibration
from fundusgrade.networks.spec import NetworkSpec
from fundusgrade.options import DecideFor, FoldsBy, Head
from fundusgrade.photographs.recipe import RECIPE_VERSION, PreprocessRecipe

FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """Where a model comes from.

    `created` is the time in ISO 8601; `data_name` and `data_hash` are the training data set and the SHA-256 of its
    manifest; `init` names the initial weights; `options`, `metrics` and `versions` are the training options as they
    were recorded, the scores on the validation split, and the versions of the libraries.
    """

    created: str
    data_name: str
    data_hash: str
    init: str
    options: dict[str, object]
    metrics: dict[str, float | int | None]
    versions: dict[str, str]

    def with_training_splits(self, dataset: PreparedDataset) -> PreparedDataset:
        """The data set with the splits that the model was trained with: those of its fold, if it was of one.

        Raises DatasetError where the data set has no such fold.
        """
        fold, num_folds = self.options.get("fold"), self.options.get("num_folds")
        if isinstance(fold, int) and isinstance(num_folds, int):
            return dataset.with_fold(fold, num_folds, self.folds_by)
        return dataset

    @property
    def folds_by(self) -> FoldsBy:
        """What the folds hold out, of one of which the model is; of the first files it is not recorded."""
        return FoldsBy(str(self.options.get("folds_by") or FoldsBy.GROUP))

    @property
    def held_out_source(self) -> str | None:
        """The data set of `data_name` that the model was not trained on, where its fold is by source."""
        fold, names = self.options.get("fold"), self.data_name.split(SEPARATOR)
        if self.folds_by is not FoldsBy.SOURCE or not isinstance(fold, int) or not 1 <= fold <= len(names):
            return None
        return names[fold - 1]


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointDescription:
    """Everything about a model but its weights; `weights_sha256` is the SHA-256 of their names and bytes.

    `thresholds` are four rising values of the expected grade that decide the grade; None where the most probable grade
    is taken. `conformity` are the scores from which conformal prediction sets and upper bounds of any coverage follow;
    empty where there are none. `operating_point` says from which probability a photograph is referable; None in files
    of earlier versions, and where no validation photograph was. `local_calibration` is a clinic's own, None in a model
    as it was trained. `checks` says what the feature checks were fitted to; None where the model has none.
    """

    name: str
    network: NetworkSpec
    recipe: PreprocessRecipe
    provenance: Provenance
    thresholds: tuple[float, ...] | None = None
    conformity: Conformity = NO_CONFORMITY
    operating_point: OperatingPoint | None = None
    local_calibration: LocalCalibration | None = None
    checks: ChecksProvenance | None = None
    weights_sha256: str = ""

    def chosen_point(self, *, sensitivity: float | None = None, threshold: float | None = None) -> OperatingPoint:
        """The operating point: the stored one, or that of another sensitivity or threshold, of which one may be given.

        Of a model that stores none it is a threshold of 0.5. Raises CheckpointError where the model does not store from
        which threshold a sensitivity is reached, MetricsError for a value out of range.
        """
        point = self.operating_point or UNSTATED_POINT
        if sensitivity is not None and threshold is not None:
            raise MetricsError("a sensitivity and a threshold were given; either of them sets the operating point")
        if threshold is not None:
            return point.at_threshold(threshold)
        if sensitivity is None or sensitivity == point.sensitivity:
            return point
        if not point.has_scores:
            raise CheckpointError(
                f"the model {self.name!r} does not store from which threshold a sensitivity is reached; give a "
                "threshold instead, or train the model again"
            )
        return point.at_sensitivity(sensitivity)

    def recalibrated(self, probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
        """The probabilities (N, 5) that are shown, from those of the network: by a clinic's calibration, if any."""
        calibration = self.local_calibration
        return probabilities if calibration is None else calibration.recalibration.apply(probabilities)

    def deciding(self, probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
        """The probabilities (N, 5) that decide grades and sets of grades, from those of the network."""
        calibration = self.local_calibration
        return self.recalibrated(probabilities) if calibration and calibration.changes_grades else probabilities

    @property
    def decide_for(self) -> DecideFor | None:
        """The objective of the thresholds, of the first files the balanced one; None where there are no thresholds."""
        if self.thresholds is None:
            return None
        return DecideFor(str(self.provenance.options.get("decide_for") or DecideFor.BALANCED))

    def to_json(self) -> str:
        """Indented JSON; the fields of network and provenance stand beside the others."""
        described = {
            "format": FORMAT_VERSION,
            "name": self.name,
            **asdict(self.network),
            "thresholds": self.thresholds,
            "recipe": asdict(self.recipe),
            **asdict(self.provenance),
            "weights_sha256": self.weights_sha256,
            "conformity": asdict(self.conformity),
            **{name: _described(getattr(self, name)) for name in _LATER_PARTS},
        }
        return json.dumps(described, indent=2) + "\n"


def parse_description(text: str, path: Path) -> CheckpointDescription:
    """Read the JSON of a description; `path` is named in errors.

    Raises CheckpointError where a field is missing or wrong, or needs another version of fundusgrade.
    """
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
            thresholds=_thresholds(described["thresholds"]),
            conformity=_conformity(described["conformity"]),
            **{name: _part(described.get(name), kind) for name, kind in _LATER_PARTS.items()},
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


def _network(described: dict[str, Any]) -> NetworkSpec:
    """The network. Raises ValueError for an impossible one, before anything of its size is built."""
    spec = NetworkSpec(
        arch=str(described["arch"]),
        timm_name=None if described["timm_name"] is None else str(described["timm_name"]),
        size_px=int(described["size_px"]),
        mean=_finite_numbers(described["mean"], 3),
        std=_finite_numbers(described["std"], 3),
        rows=None if described["rows"] is None else _row_range(described["rows"]),
        head=Head(described["head"]),
        calibration=_calibration(described["calibration"]),
        arguments=dict(described["arguments"]),
    )
    top, bottom = spec.rows or (0, spec.size_px)
    if spec.size_px != int(described["recipe"]["size_px"]) or not 0 <= top < bottom <= spec.size_px:
        raise ValueError(f"rows {top} to {bottom} of {spec.size_px} px are not those of its preprocessed images")
    if min(spec.std) <= 0:
        raise ValueError(f"its normalization divides by {min(spec.std)}")
    return spec


def _provenance(described: dict[str, Any]) -> Provenance:
    provenance = Provenance(**{name: described[name] for name in Provenance.__dataclass_fields__})
    for name in ("options", "metrics", "versions"):
        if not isinstance(getattr(provenance, name), dict):
            raise ValueError(f"its {name} are no table")
    for name, values in (("folds_by", FoldsBy), ("decide_for", DecideFor)):
        if provenance.options.get(name) not in (None, *values):
            raise ValueError(f"{name} is {provenance.options[name]}, expected {' or '.join(values)}")
    return provenance


def _calibration(values: object) -> Calibration:
    """The calibration. Raises ValueError for what is none."""
    names = Calibration.__dataclass_fields__
    if not isinstance(values, dict) or values.keys() != names.keys():
        raise ValueError(f"the calibration is {str(values)[:80]}, expected {', '.join(names)}")
    read: dict[str, Any] = {
        name: (_finite_number if name == "temperature" else _finite_numbers)(values[name]) for name in names
    }
    calibration = Calibration(**read)
    cuts = (calibration.cutpoints, calibration.slopes, calibration.intercepts)
    is_complete = len(calibration.offsets) == NUM_GRADES and all(len(numbers) == NUM_CUTS for numbers in cuts)
    if not is_complete or not min(calibration.temperature, *calibration.slopes) > 0:
        raise ValueError(
            f"the calibration is {values}, expected {NUM_GRADES} offsets, {NUM_CUTS} cutpoints, slopes and intercepts, "
            "with a temperature and slopes above 0"
        )
    return calibration


def _conformity(values: object) -> Conformity:
    """Conformity scores. Raises ValueError for what are none."""
    if not isinstance(values, dict) or len(values["bounds"]) != NUM_GRADES:
        raise ValueError(f"the conformity scores are {str(values)[:80]}, expected sets and {NUM_GRADES} bounds")
    bounds = tuple(_finite_numbers(scores) for scores in values["bounds"])
    sets, grades = _finite_numbers(values["sets"]), tuple(values["set_grades"])
    if not set(grades) <= set(range(NUM_GRADES)) or len(grades) != len(sets):
        raise ValueError(
            f"the grades of {len(sets)} conformity scores are {str(grades)[:80]}, expected 0 to 4 for each"
        )
    return Conformity(sets=sets, bounds=bounds, set_grades=grades)


# What a model may lack: files of earlier versions have none of these.
_LATER_PARTS: dict[str, Any] = {
    "operating_point": OperatingPoint,
    "local_calibration": LocalCalibration,
    "checks": ChecksProvenance,
}


def _described(part: Any) -> dict[str, Any] | None:
    return None if part is None else asdict(part)


def _part(values: Any, kind: Any) -> Any:
    """A part that `_described` described. Raises KeyError, TypeError or ValueError for what is none."""
    return None if values is None else kind.from_json(values)


def _thresholds(values: object) -> tuple[float, ...] | None:
    """Thresholds, or None. Raises ValueError where they are not four rising numbers."""
    if values is None:
        return None
    thresholds: tuple[float, ...] = _finite_numbers(values, NUM_CUTS)
    if list(thresholds) != sorted(thresholds):
        raise ValueError(f"the thresholds are {values}, expected {NUM_CUTS} rising numbers")
    return thresholds


def _finite_numbers(values: object, length: int | None = None) -> Any:
    """A tuple of finite floats from a JSON list, of a length if given. Raises ValueError for anything else."""
    if not isinstance(values, list | tuple) or length not in (None, len(values)):
        raise ValueError(f"{str(values)[:80]} are not {length or 'some'} numbers")
    return tuple(_finite_number(each) for each in values)


def _finite_number(value: object) -> float:
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{value!r} is not a finite number")
    return float(value)


def _row_range(values: list[Any]) -> tuple[int, int]:
    top, bottom = values
    return int(top), int(bottom)
