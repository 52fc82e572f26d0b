"""Calibration and thresholds of a finished model, fitted anew on out-of-fold outputs of a cross-validation.

A validation split has a few hundred photographs; out of fold, every photograph is graded by a network that was trained
without it. The networks of the folds stand in for the model: same architecture, head, data and options, other weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fundusgrade import store
from fundusgrade.data.concatenation import SEPARATOR, open_dataset
from fundusgrade.data.dataset import PreparedDataset
from fundusgrade.data.manifest import ManifestRow
from fundusgrade.data.splits import held_out_half
from fundusgrade.errors import TrainingError
from fundusgrade.grades import NUM_GRADES
from fundusgrade.metrics.conformal import measure_conformity
from fundusgrade.metrics.estimates import describe_number
from fundusgrade.metrics.predictions import fold_name
from fundusgrade.metrics.referral import OperatingPoint
from fundusgrade.networks.checkpoint import Checkpoint, load_checkpoint
from fundusgrade.networks.checkpoint_file import read_description
from fundusgrade.networks.device import DeviceChoice
from fundusgrade.networks.inference import to_device
from fundusgrade.networks.model_folder import save_derived_model
from fundusgrade.networks.tensors import load_images
from fundusgrade.options import ClassWeights, DecideFor, Decision
from fundusgrade.training.clinic import check_not_calibrated
from fundusgrade.training.decision import RatedOutputs, cross_fit, fit_rule
from fundusgrade.training.operating_point import RatedProbabilities, fit_operating_point, names_of_data
from fundusgrade.training.options import TrainOptions
from fundusgrade.training.validation import score, split_outputs


@dataclass(frozen=True, slots=True, kw_only=True)
class RefitRequest:
    """A model by name or path, a cross-validation by name, and the name of the model to write.

    `decision` is the rule of the new model and `decide_for` the objective of its thresholds, those of the old one if
    None; an objective implies thresholds. `data` are the data sets that the model was trained with, by name or folder,
    those of their recorded names if empty.
    """

    model: str
    folds: str
    name: str
    data: tuple[str, ...] = ()
    decision: Decision | None = None
    decide_for: DecideFor | None = None
    overwrite: bool = False


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _OutOfFold:
    """Outputs for N photographs by networks that were trained without them, and the data set of each."""

    rated: RatedOutputs
    data: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Refitted:
    """The file of the new model, and a line to print."""

    path: Path
    summary: str


def refit_model(request: RefitRequest, choice: DeviceChoice) -> Refitted:
    """Write the model with a decision rule and conformity scores from out-of-fold outputs.

    Used are the photographs of the model's training and validation split: the test split stays untouched. Conformity
    scores and the printed scores are cross-fitted. Raises TrainingError where the folds do not fit the model.
    """
    source = store.resolve_model(request.model)
    target = store.folder_of_new_model(request.name, overwrite=request.overwrite, inputs=[source])
    checkpoint = load_checkpoint(source)
    check_not_calibrated(checkpoint.description)
    provenance = checkpoint.description.provenance
    dataset = open_dataset(request.data or tuple(provenance.data_name.split(SEPARATOR)), check_splits=False)
    own_splits = provenance.with_training_splits(dataset)
    usable = {row.source for split in ("train", "validation") for row in own_splits.graded_rows(split)}
    held_out = _out_of_fold(request.folds, checkpoint, dataset, usable, choice)
    options = _options(checkpoint, request)
    num_training = np.bincount([int(row.grade or 0) for row in own_splits.graded_rows("train")], minlength=NUM_GRADES)
    spec, rated = checkpoint.network.spec, held_out.rated
    rule, graded = fit_rule(spec, rated, num_training, options), cross_fit(spec, rated, num_training, options)
    scores = score(rated.grades, graded)
    checkpoint.network.calibrate(rule.calibration)
    description = replace(
        checkpoint.description,
        name=request.name,
        network=checkpoint.network.spec,
        thresholds=rule.thresholds,
        conformity=measure_conformity(graded.probabilities, rated.grades, graded.predicted),
        operating_point=_operating_point(graded.probabilities, held_out),
        provenance=replace(
            provenance,
            options={**provenance.options, **_recorded(options), "calibrated_on": request.folds},
            metrics={**provenance.metrics, "out_of_fold_kappa": scores.kappa, "out_of_fold_loss": scores.loss},
        ),
    )
    path = save_derived_model(target, checkpoint, description, checkpoint.fingerprints)
    summary = (
        f"calibrated on {len(rated.grades)} photographs out of fold: kappa {describe_number(scores.kappa)}, "
        f"log loss {scores.loss:.3f} (cross-fitted)\nmodel {request.name}: {path}"
    )
    return Refitted(path=path, summary=summary)


def _operating_point(probabilities: NDArray[np.float64], held_out: _OutOfFold) -> OperatingPoint | None:
    """The point chosen on cross-fitted probabilities (N, 5) of half of the photographs, measured on the other half."""
    rated = held_out.rated
    of_all = RatedProbabilities(
        probabilities=probabilities, grades=rated.grades, groups=rated.groups, data=held_out.data
    )
    return fit_operating_point(of_all, ~held_out_half(rated.groups, rated.grades))


def _out_of_fold(
    name: str, model: Checkpoint, dataset: PreparedDataset, usable: set[str], choice: DeviceChoice
) -> _OutOfFold:
    """Outputs for the usable photographs, each by the network of the fold that holds it out."""
    first = store.model_directory(fold_name(name, 1)) / store.MODEL_FILE
    of_first = read_description(first).provenance if first.is_file() else None
    num_folds = of_first.options.get("num_folds") if of_first else None
    if of_first is None or not isinstance(num_folds, int):
        raise TrainingError(
            f"no cross-validation {name!r} in the store: {first} is missing; train one with `fundusgrade train --folds`"
        )
    parts: list[RatedOutputs] = []
    data: list[str] = []
    for fold in range(1, num_folds + 1):
        checkpoint = _checked_fold(fold_name(name, fold), model)
        held_out = dataset.with_fold(fold, num_folds, of_first.folds_by).graded_rows("test")
        rows = [row for row in held_out if row.source in usable]
        if rows:
            parts.append(_outputs(checkpoint, dataset, rows, choice))
            data += names_of_data(dataset, rows)
    rated = RatedOutputs(
        outputs=torch.cat([part.outputs for part in parts]),
        grades=np.concatenate([part.grades for part in parts]),
        groups=np.concatenate([part.groups for part in parts]),
    )
    return _OutOfFold(rated=rated, data=tuple(data))


def _checked_fold(name: str, model: Checkpoint) -> Checkpoint:
    """The network of a fold. Raises TrainingError where it is missing, or of another kind or other data."""
    path = store.model_directory(name) / store.MODEL_FILE
    if not path.is_file():
        raise TrainingError(f"the fold {name!r} is not in the store; train it with `fundusgrade train --folds`")
    fold, expected = load_checkpoint(path), model.description
    found = fold.description
    for what, of_fold, of_model in (
        ("data", found.provenance.data_hash, expected.provenance.data_hash),
        ("architecture", found.network.arch, expected.network.arch),
        ("head", found.network.head, expected.network.head),
        ("preprocessing", found.recipe, expected.recipe),
    ):
        if of_fold != of_model:
            raise TrainingError(
                f"{name} has another {what} than {expected.name!r} ({of_fold}, expected {of_model}); its outputs would "
                "not be those of the model: train the folds with the options of the model"
            )
    return fold


def _outputs(
    checkpoint: Checkpoint, dataset: PreparedDataset, rows: Sequence[ManifestRow], choice: DeviceChoice
) -> RatedOutputs:
    images = load_images(dataset, rows)
    outputs = split_outputs(to_device(checkpoint.network, choice), images, choice, np.arange(len(rows)))
    return RatedOutputs(
        outputs=outputs,
        grades=np.asarray(images.grades.numpy(), np.int64),
        groups=np.array([row.group for row in rows], np.int64),
    )


def _options(checkpoint: Checkpoint, request: RefitRequest) -> TrainOptions:
    """What of the model's recorded options a decision rule depends on, and what is to be changed."""
    description, decision, decide_for = checkpoint.description, request.decision, request.decide_for
    if decision is None and decide_for is None and description.thresholds is not None:
        decision = Decision.THRESHOLDS
    if decide_for is None and decision is Decision.THRESHOLDS:
        decide_for = description.decide_for
    weights = ClassWeights(str(description.provenance.options["class_weights"]))
    options = TrainOptions(class_weights=weights, decision=decision, decide_for=decide_for, calibrate=True).filled()
    options.check()
    return options


def _recorded(options: TrainOptions) -> dict[str, object]:
    return {"decision": options.decision, "decide_for": options.decide_for}
