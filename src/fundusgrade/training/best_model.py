"""The model of a run: the best epoch's averaged network with its description, calibrated when training ends."""

from __future__ import annotations

import platform
from dataclasses import replace
from pathlib import Path

import numpy as np
import timm
import torch
from torch import Tensor

from fundusgrade import __version__, store
from fundusgrade.data.dataset import PreparedDataset
from fundusgrade.data.leakage import collect_fingerprints
from fundusgrade.files import now
from fundusgrade.grades import NUM_GRADES
from fundusgrade.metrics.classification import decide_grades, evaluate_predictions, expected_grades
from fundusgrade.metrics.conformal import measure_conformity
from fundusgrade.networks.checkpoint import load_checkpoint, save_checkpoint
from fundusgrade.networks.description import CheckpointDescription, Provenance
from fundusgrade.networks.device import DeviceChoice
from fundusgrade.networks.inference import to_device, to_probabilities
from fundusgrade.networks.network import CNN
from fundusgrade.networks.tensors import LabeledImages
from fundusgrade.networks.timm_hub import is_hub_name, public_name
from fundusgrade.options import Decision, Head
from fundusgrade.training.calibration import choose_offsets, fit_calibration, fit_temperature
from fundusgrade.training.losses import CLASS_WEIGHT_POWERS
from fundusgrade.training.options import TrainOptions
from fundusgrade.training.state import RunState
from fundusgrade.training.thresholds import fit_thresholds
from fundusgrade.training.validation import log_loss, split_outputs


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


def calibrate_model(
    path: Path, options: TrainOptions, training_grades: Tensor, validation: LabeledImages, choice: DeviceChoice
) -> None:
    """Fit a saved model's calibration and thresholds on the validation split, and save it with its new scores."""
    assert options.class_weights is not None, "options are filled before use"
    checkpoint, grades = load_checkpoint(path), validation.grades.numpy()
    network, provenance = to_device(checkpoint.network, choice), checkpoint.description.provenance
    power = CLASS_WEIGHT_POWERS[options.class_weights]
    counts = torch.bincount(training_grades, minlength=NUM_GRADES).numpy()
    outputs = split_outputs(network, validation, choice)
    head, by_thresholds = network.spec.head, options.decision is Decision.THRESHOLDS
    if head is Head.SOFTMAX and not by_thresholds:
        chosen = choose_offsets(outputs, grades, counts, class_weight_power=power)
        network.calibrate(fit_temperature(head, outputs, grades, chosen))
    else:
        network.calibrate(fit_calibration(head, outputs, grades, counts, class_weight_power=power))
    probabilities = to_probabilities(network.spec, outputs)
    thresholds = fit_thresholds(grades, expected_grades(probabilities)) if by_thresholds else None
    evaluation = evaluate_predictions(grades, probabilities, thresholds)
    metrics = {
        **provenance.metrics,
        "validation_kappa": evaluation.kappa,
        "validation_accuracy": evaluation.accuracy,
        "validation_loss": log_loss(grades, probabilities),
    }
    description = replace(
        checkpoint.description,
        network=network.spec,
        thresholds=thresholds,
        conformity=measure_conformity(probabilities, grades, decide_grades(probabilities, thresholds)),
        provenance=replace(provenance, metrics=metrics),
    )
    save_checkpoint(path, network, description, fingerprints=checkpoint.fingerprints)


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
