"""The model of a run: the best epoch's averaged network with its description, calibrated when training ends."""

from __future__ import annotations

import platform
from dataclasses import replace
from pathlib import Path

import numpy as np
import timm
import torch

from fundusgrade import __version__, store
from fundusgrade.data.dataset import PreparedDataset
from fundusgrade.data.leakage import collect_fingerprints
from fundusgrade.files import now
from fundusgrade.metrics.conformal import measure_conformity
from fundusgrade.networks.checkpoint import load_checkpoint, save_checkpoint
from fundusgrade.networks.description import CheckpointDescription, Provenance
from fundusgrade.networks.device import DeviceChoice
from fundusgrade.networks.inference import to_device
from fundusgrade.networks.spec import CNN
from fundusgrade.networks.timm_hub import is_hub_name, public_name
from fundusgrade.training.decision import DecisionRule, GradedOutputs, RatedOutputs, fit_rule, grade_outputs
from fundusgrade.training.operating_point import RatedProbabilities, fit_operating_point
from fundusgrade.training.options import TrainOptions
from fundusgrade.training.state import RunState
from fundusgrade.training.validation import Validation, ValidationScores, score, split_outputs


def save_best_model(
    run: RunState, directory: Path, dataset: PreparedDataset, options: TrainOptions, choice: DeviceChoice
) -> None:
    """Save the averaged weights of the last epoch as the run's model, uncalibrated."""
    network, best = run.averaged_network, run.history[-1]
    description = CheckpointDescription(
        name=directory.name,
        network=network.spec,
        recipe=dataset.recipe,
        provenance=Provenance(
            created=now(),
            data_name=dataset.name,
            data_hash=dataset.hash,
            init=_describe_init(options),
            options={**options.recorded(), "device": choice.device.type, "precision": choice.precision.value},
            metrics={
                "validation_kappa": best.validation_kappa,
                "validation_accuracy": best.validation_accuracy,
                "validation_loss": best.validation_loss,
                "best_epoch": best.epoch,
            },
            versions=_versions(),
        ),
    )
    rows = (*dataset.graded_rows("train"), *dataset.graded_rows("validation"))
    save_checkpoint(
        directory / store.MODEL_FILE, network, description, fingerprints=collect_fingerprints(dataset, rows)
    )


def grade_validation(path: Path, validation: Validation, choice: DeviceChoice) -> GradedOutputs:
    """The validation photographs as a saved model without a fitted rule grades them."""
    network = to_device(load_checkpoint(path).network, choice)
    outputs = split_outputs(network, validation.images, choice, np.arange(len(validation.chooses)))
    return grade_outputs(network.spec, outputs, DecisionRule())


def calibrate_model(path: Path, options: TrainOptions, validation: Validation, choice: DeviceChoice) -> GradedOutputs:
    """Fit a saved model's decision rule and operating point to the photographs that choose, and save it.

    Conformity scores, the rates of the operating point and the recorded validation scores are those of the photographs
    that chose nothing; where there are none, the scores by which the epoch was chosen stay. Returns all validation
    photographs as the fitted model grades them.
    """
    checkpoint, chooses = load_checkpoint(path), validation.chooses
    network, provenance = to_device(checkpoint.network, choice), checkpoint.description.provenance
    outputs = split_outputs(network, validation.images, choice, np.arange(len(chooses)))
    rated = RatedOutputs(outputs=outputs, grades=validation.grades, groups=validation.groups)
    rule = fit_rule(network.spec, rated.subset(chooses), validation.num_training, options)
    network.calibrate(rule.calibration)
    held_out = rated.subset(~chooses)
    graded = grade_outputs(network.spec, held_out.outputs, rule)
    scores = score(held_out.grades, graded) if len(held_out.grades) else None
    graded_all = grade_outputs(network.spec, outputs, rule)
    of_all = RatedProbabilities(
        probabilities=graded_all.probabilities,
        grades=validation.grades,
        groups=validation.groups,
        data=validation.data,
    )
    description = replace(
        checkpoint.description,
        network=network.spec,
        thresholds=rule.thresholds,
        conformity=measure_conformity(graded.probabilities, held_out.grades, graded.predicted),
        operating_point=fit_operating_point(of_all, chooses),
        provenance=replace(provenance, metrics=provenance.metrics | _recorded(scores)),
    )
    save_checkpoint(path, network, description, fingerprints=checkpoint.fingerprints, checks=checkpoint.checks)
    return graded_all


def _recorded(scores: ValidationScores | None) -> dict[str, float | int | None]:
    if scores is None:
        return {}
    return {
        "validation_kappa": scores.kappa,
        "validation_accuracy": scores.accuracy,
        "validation_loss": scores.loss,
    }


def _describe_init(options: TrainOptions) -> str:
    if options.arch == CNN:
        return "random"
    if options.init_weights:
        return Path(options.init_weights).name
    source = public_name(options.arch) if is_hub_name(options.arch) else "timm"
    return f"{source} pretrained" if options.pretrained else "random"


def _versions() -> dict[str, str]:
    return {
        "fundusgrade": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "timm": str(timm.__version__),
        "numpy": np.__version__,
    }
