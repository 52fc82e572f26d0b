"""Feature checks fitted to a finished model: the reference of its training photographs, and its quality check."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fundusgrade import store
from fundusgrade.data.dataset import PreparedDataset
from fundusgrade.data.manifest import ManifestRow
from fundusgrade.errors import TrainingError, UngradableError
from fundusgrade.metrics.logistic import LogisticRegression, fit_logistic
from fundusgrade.networks.checkpoint import load_checkpoint, replace_description
from fundusgrade.networks.device import DeviceChoice
from fundusgrade.networks.feature_checks import (
    ChecksProvenance,
    FeatureChecks,
    FeatureReference,
    Floats,
    QualityCheck,
    QualityRates,
    measurements,
)
from fundusgrade.networks.inference import predict_with_features, to_device
from fundusgrade.networks.model_folder import write_card
from fundusgrade.networks.network import GradingNetwork
from fundusgrade.networks.tensors import pixels_in_parts, to_pixels
from fundusgrade.photographs.loading import LoadedPhotograph, load_photograph
from fundusgrade.photographs.recipe import PreprocessRecipe
from fundusgrade.photographs.sources import find_images
from fundusgrade.training.operating_point import open_training_data

NUM_COMPONENTS = 64
"""Free directions of the covariance; of 32 to 256, 64 flagged most photographs unlike the training photographs."""
PERCENTILE = 99.0
"""Percent of the held-out photographs within the limit."""
PENALTY = 10.0
"""Of the quality check; between 1,000 and 10 the cross-validated log loss falls from 0.34 to 0.16."""
BORDERLINE_FROM, NOT_GRADABLE_FROM = 0.15, 0.50
"""Probabilities of a reject: above the fraction of rejects among all photographs, and more likely than not."""
LABELS = ("good", "usable", "reject")
"""Labels of image quality, those of EyeQ (Fu et al., MICCAI 2019); others are left out."""
_NUM_FOLDS = 10
_FEWEST = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ChecksRequest:
    """What to add to a model, by name or path.

    `data` are the data sets that it was trained with, those of their recorded names if empty. `quality` is a CSV file
    with columns image, quality (good, usable or reject) and patient, of photographs in the folder `photographs`; no
    quality check is fitted where it is None.
    """

    model: str
    data: tuple[str, ...] = ()
    quality: Path | None = None
    photographs: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LabeledQuality:
    """Features (N, D), measurements (N, m), names, labels, patients, and whether measured reasons flag each (N,)."""

    names: NDArray[np.str_]
    features: NDArray[np.float32]
    measured: Floats
    labels: NDArray[np.str_]
    patients: NDArray[np.str_]
    is_flagged: NDArray[np.bool_]


def add_feature_checks(request: ChecksRequest, choice: DeviceChoice) -> ChecksProvenance:
    """Fit a model's feature checks and write them into its file; its weights and grades stay.

    Raises TrainingError where its features cannot be read, where the data are not those that it was trained with, or
    where there are too few photographs or labels.
    """
    path = store.resolve_model(request.model)
    checkpoint = load_checkpoint(path)
    network = to_device(checkpoint.network, choice)
    if not network.gives_features():
        raise TrainingError(
            f"{path}: the features of {network.spec.arch} cannot be read, because its outputs are not those of one "
            "last layer; train another network, such as efficientnet_lite0"
        )
    dataset = open_training_data(checkpoint.description, request.data)
    train, held_out = (_features_of(network, dataset, dataset.graded_rows(split), choice) for split in _SPLITS)
    reference = fit_reference(train, held_out)
    quality: QualityCheck | None = None
    rates: tuple[QualityRates, ...] = ()
    if request.quality is not None and request.photographs is not None:
        labeled = labeled_photographs(
            request.quality, request.photographs, network, checkpoint.description.recipe, choice
        )
        quality, rates = fit_quality_check(reference, labeled)
    added = ChecksProvenance(data=dataset.name, num_reference=len(train), num_held_out=len(held_out), quality=rates)
    description = replace(checkpoint.description, checks=added)
    replace_description(path, description, checks=FeatureChecks(reference=reference, quality=quality))
    write_card(path)
    return added


_SPLITS = ("train", "validation")


def fit_reference(
    train: NDArray[np.floating], held_out: NDArray[np.floating], num_components: int = NUM_COMPONENTS
) -> FeatureReference:
    """The reference of training features (N, D), its limit from those held out (M, D).

    Maximum likelihood of probabilistic principal component analysis. Raises TrainingError for too few photographs.
    """
    if len(train) < _FEWEST or len(held_out) < _FEWEST:
        raise TrainingError(
            f"{len(train)} training and {len(held_out)} validation photographs; feature checks need {_FEWEST} of each"
        )
    values = train.astype(np.float64)
    mean = values.mean(axis=0)
    centered = values - mean
    size = min(num_components, values.shape[1] // 2, len(values) // 2)
    eigenvalues, directions = np.linalg.eigh(centered.T @ centered / len(values))
    kept = slice(values.shape[1] - size, None)
    reference = FeatureReference(
        mean=mean,
        components=directions[:, kept].T[::-1].copy(),
        variances=np.maximum(eigenvalues[kept][::-1], 1e-12),
        residual_variance=np.maximum(eigenvalues[: values.shape[1] - size].mean(keepdims=True), 1e-12),
        limit=np.ones(1),
    )
    return replace(reference, limit=np.percentile(reference.distances(held_out), [PERCENTILE]))


def fit_quality_check(
    reference: FeatureReference, labeled: LabeledQuality
) -> tuple[QualityCheck, tuple[QualityRates, ...]]:
    """The check that graders reject a photograph, and its rates, cross-validated by patient.

    Raises TrainingError where there are too few rejects or others.
    """
    is_reject = labeled.labels == "reject"
    if min(is_reject.sum(), (~is_reject).sum()) < _FEWEST:
        raise TrainingError(
            f"{is_reject.sum()} of {len(is_reject)} photographs are labeled reject; a quality check needs {_FEWEST} "
            "of them and as many others"
        )
    inputs, center, scale = quality_inputs(reference, labeled)
    probabilities = cross_validate(inputs, is_reject, labeled.patients)
    fitted = fit_logistic(inputs, is_reject, penalty=PENALTY)
    check = QualityCheck(
        center=center,
        scale=scale,
        weights=fitted.weights,
        intercept=np.array([fitted.intercept]),
        limits=np.array([BORDERLINE_FROM, NOT_GRADABLE_FROM]),
    )
    return check, tuple(_rates(label, labeled, probabilities) for label in LABELS)


def quality_inputs(reference: FeatureReference, labeled: LabeledQuality) -> tuple[Floats, Floats, Floats]:
    """Inputs (N, k + m) of the quality check, and the center and scale (m,) of the measurements among them."""
    center, scale = labeled.measured.mean(axis=0), np.maximum(labeled.measured.std(axis=0), 1e-3)
    coordinates = reference.coordinates(labeled.features)
    return np.concatenate([coordinates, (labeled.measured - center) / scale], axis=1), center, scale


def cross_validate(inputs: Floats, is_reject: NDArray[np.bool_], patients: NDArray[np.str_]) -> Floats:
    """Probabilities (N,) of a reject, each by a regression that was fitted to the photographs of other patients."""
    names, patient = np.unique(patients, return_inverse=True)
    folds = (np.random.default_rng(0).permutation(len(names)) % _NUM_FOLDS)[patient]
    probabilities = np.zeros(len(inputs))
    for fold in np.unique(folds):
        is_held_out = folds == fold
        fitted: LogisticRegression = fit_logistic(inputs[~is_held_out], is_reject[~is_held_out], penalty=PENALTY)
        probabilities[is_held_out] = fitted.probabilities(inputs[is_held_out])
    return probabilities


def _rates(label: str, labeled: LabeledQuality, probabilities: Floats) -> QualityRates:
    is_of_label = labeled.labels == label
    is_not_gradable = (probabilities >= NOT_GRADABLE_FROM) | labeled.is_flagged
    is_borderline = (probabilities >= BORDERLINE_FROM) & ~is_not_gradable
    return QualityRates(
        label=label,
        num_photographs=int(is_of_label.sum()),
        num_borderline=int((is_borderline & is_of_label).sum()),
        num_not_gradable=int((is_not_gradable & is_of_label).sum()),
    )


def _features_of(
    network: GradingNetwork, dataset: PreparedDataset, rows: Sequence[ManifestRow], choice: DeviceChoice
) -> NDArray[np.float32]:
    parts = [predict_with_features(network, pixels, choice).features for pixels in pixels_in_parts(dataset, rows)]
    return np.concatenate(parts) if parts else np.zeros((0, 1), np.float32)


def labeled_photographs(
    labels: Path, folder: Path, network: GradingNetwork, recipe: PreprocessRecipe, choice: DeviceChoice
) -> LabeledQuality:
    """Photographs with a label of quality; those that show no retina are left out, as grading refuses them."""
    with labels.open(newline="", encoding="utf-8") as file:
        rows = {Path(row["image"]).stem: row for row in csv.DictReader(file) if row.get("quality") in LABELS}
    paths = [found.path for found in find_images([folder]) if found.path.stem in rows]
    with ThreadPoolExecutor() as pool:
        loaded = [each for each in pool.map(lambda path: _loaded(path, recipe), paths) if each is not None]
    if not loaded:
        raise TrainingError(
            f"{labels} labels the quality of no photograph in {folder}; expected columns image, quality"
        )
    pixels = torch.stack([to_pixels(each.loaded.preprocessed.image) for each in loaded])
    return LabeledQuality(
        features=predict_with_features(network, pixels, choice).features,
        measured=measurements([(each.loaded.quality, each.loaded.artifacts) for each in loaded]),
        names=np.array([each.stem for each in loaded]),
        labels=np.array([rows[each.stem]["quality"] for each in loaded]),
        patients=np.array([rows[each.stem].get("patient") or each.stem for each in loaded]),
        is_flagged=np.array([bool(each.loaded.quality_reasons) for each in loaded]),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Named:
    stem: str
    loaded: LoadedPhotograph


def _loaded(path: Path, recipe: PreprocessRecipe) -> _Named | None:
    try:
        return _Named(stem=path.stem, loaded=load_photograph(path, recipe))
    except UngradableError:
        return None
