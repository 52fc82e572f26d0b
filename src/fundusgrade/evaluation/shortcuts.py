"""Shortcut learning: how well outline, file, color and sharpness predict the grade.

Where diseased eyes were photographed with other cameras than healthy ones, a model can learn the camera instead of the
disease (Geirhos et al., Nature Machine Intelligence 2020). Here a simple classifier is given only such properties, of
the original photographs or of the preprocessed images; its out-of-fold kappa measures how much they predict. Outline
and file say nothing of the retina. Color and sharpness are measured on the retina: they differ between cameras, and
between eyes with and without lesions, so that their kappa is no proof of a shortcut.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from fundusgrade.data.dataset import PreparedDataset
from fundusgrade.data.manifest import ManifestRow
from fundusgrade.errors import DatasetError, NoRetinaError, UngradableError
from fundusgrade.evaluation.resampling import resample_rows
from fundusgrade.grades import NUM_GRADES
from fundusgrade.metrics.bootstrap import Resamples
from fundusgrade.metrics.classification import evaluate_predictions
from fundusgrade.metrics.estimates import Estimate
from fundusgrade.metrics.scores import estimate_kappa
from fundusgrade.photographs.edges import bright_region
from fundusgrade.photographs.field_of_view import WORKING_SIZE_PX
from fundusgrade.photographs.images import jpeg_quantization, read_image
from fundusgrade.photographs.pixels import Image
from fundusgrade.photographs.preprocess import within_outline

if TYPE_CHECKING:
    from sklearn.ensemble import HistGradientBoostingClassifier

Features = NDArray[np.float64]
_MIN_PHOTOGRAPHS = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class ShortcutProbe:
    """How well one kind of property predicts the grade; scores are out of fold, copies and patients kept together.

    `kind` is "outline", "file" or "color and sharpness", `stage` "photograph" (the original) or "prepared" (the
    preprocessed image). `kappa_low` and `kappa_high` bound the 95 % interval.
    """

    kind: str
    stage: str
    num_photographs: int
    kappa: float | None
    kappa_low: float | None
    kappa_high: float | None
    accuracy: float | None
    referable_auc: float | None

    @property
    def kappa_estimate(self) -> Estimate:
        """The kappa with its interval."""
        return Estimate(value=self.kappa, low=self.kappa_low, high=self.kappa_high)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Properties:
    """Properties (N, P) of the N graded photographs of a data set by kind and stage, and their rows in its manifest."""

    rows: tuple[ManifestRow, ...]
    values: Mapping[tuple[str, str], Features]

    @property
    def grades(self) -> NDArray[np.int64]:
        """Grades (N,)."""
        return np.array([int(row.grade) for row in self.rows if row.grade is not None])

    @property
    def folds(self) -> NDArray[np.int64]:
        """Folds (N,)."""
        return np.array([row.fold for row in self.rows])


def measure_properties(
    dataset: PreparedDataset, *, on_progress: Callable[[int, int], None] = lambda done, total: None
) -> Properties:
    """Measure outline, file, and color with sharpness of all photographs, before and after preprocessing.

    Raises DatasetError where photographs are missing or too few to train on.
    """
    if dataset.parts:
        raise DatasetError(f"{dataset.name!r} is a combination of data sets; audit each separately")
    rows = dataset.graded_rows()
    if len(rows) < _MIN_PHOTOGRAPHS or len({row.fold for row in rows}) < 2:
        raise DatasetError(
            f"the data set {dataset.name!r} has {len(rows)} graded photographs; an audit needs {_MIN_PHOTOGRAPHS}"
        )
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        measured = []
        for properties in pool.map(lambda row: _measure(dataset, row), rows):
            measured.append(properties)
            on_progress(len(measured), len(rows))
    return Properties(
        rows=tuple(rows), values={key: np.array([properties[key] for properties in measured]) for key in measured[0]}
    )


def measure_shortcuts(
    dataset: PreparedDataset, *, on_progress: Callable[[int, int], None] = lambda done, total: None
) -> tuple[ShortcutProbe, ...]:
    """Measure all properties of a data set and predict the grade from each kind; raises as `measure_properties`."""
    return probe_shortcuts(measure_properties(dataset, on_progress=on_progress))


def probe_shortcuts(properties: Properties) -> tuple[ShortcutProbe, ...]:
    """Predict the grade from each kind of property."""
    grades, folds, resamples = properties.grades, properties.folds, resample_rows(properties.rows)
    return tuple(
        _probe(kind, stage, out_of_fold(values, grades, folds), grades, resamples)
        for (kind, stage), values in properties.values.items()
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OutlineClassifier:
    """Grades photographs by their outline alone: a model that is known to depend on how a photograph was cut.

    A photograph of a fold is graded by trees that were fitted to the other folds.
    """

    by_fold: Mapping[int, HistGradientBoostingClassifier]

    @classmethod
    def fit(cls, properties: Properties) -> OutlineClassifier:
        """Fit to the outlines of the original photographs."""
        features = properties.values["outline", "photograph"]
        return cls(by_fold=dict(_fitted_to_other_folds(features, properties.grades, properties.folds)))

    def expected_grades(self, photographs: Sequence[Image], folds: Sequence[int]) -> NDArray[np.float64]:
        """Expected grades (N,), 0 to 4, of N photographs (H, W, 3) of these folds."""
        features = np.array([outline_features(_region(_reduced(photograph))) for photograph in photographs])
        grades = np.empty(len(features))
        for fold in np.unique(folds):
            chosen, classifier = np.array(folds) == fold, self.by_fold[int(fold)]
            grades[chosen] = classifier.predict_proba(features[chosen]) @ classifier.classes_
        return grades


def _measure(dataset: PreparedDataset, row: ManifestRow) -> dict[tuple[str, str], list[float]]:
    path = dataset.photograph_path(row)
    try:
        photograph = read_image(path)
        prepared = within_outline(read_image(dataset.directory / row.image), dataset.recipe)
        num_bytes, quantization = path.stat().st_size, jpeg_quantization(path)
    except (UngradableError, OSError) as error:
        raise DatasetError(
            f"{row.source} of the data set {dataset.name!r} cannot be read ({error}); an audit needs the photographs "
            f"below {dataset.root}: prepare them again where they are now"
        ) from error
    height, width = photograph.shape[:2]
    small = _reduced(photograph)
    region = _region(small)
    visible = (prepared != dataset.recipe.fill).any(axis=2)
    return {
        ("outline", "photograph"): outline_features(region),
        ("outline", "prepared"): outline_features(visible),
        ("file", "photograph"): [width, height, width / height, num_bytes, num_bytes / (width * height), quantization],
        ("color and sharpness", "photograph"): appearance_features(small, region),
        ("color and sharpness", "prepared"): appearance_features(prepared, visible),
    }


def _reduced(photograph: Image) -> Image:
    height, width = photograph.shape[:2]
    scale = min(1.0, WORKING_SIZE_PX / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(photograph, size, interpolation=cv2.INTER_AREA), np.uint8) if scale < 1 else photograph


def _region(small: Image) -> NDArray[np.bool_]:
    try:
        return bright_region(small)
    except NoRetinaError:
        return np.ones(small.shape[:2], np.bool_)


def outline_features(region: NDArray[np.bool_]) -> list[float]:
    """Nine numbers of a region (H, W): bounding box, area, and how much of each image edge it touches, all 0 to 1."""
    if not region.any():
        return [0.0] * 9
    height, width = region.shape
    rows, columns = np.flatnonzero(region.any(axis=1)), np.flatnonzero(region.any(axis=0))
    box = [columns[0] / width, rows[0] / height, (columns[-1] + 1) / width, (rows[-1] + 1) / height]
    edges = [region[:, 0].mean(), region[0].mean(), region[:, -1].mean(), region[-1].mean()]
    return [float(value) for value in (*box, region.mean(), *edges)]


def appearance_features(image: Image, region: NDArray[np.bool_]) -> list[float]:
    """Eight numbers of an image in a region: mean and standard deviation of each channel, sharpness at two scales."""
    if not region.any():
        return [0.0] * 8
    inside = image[region].astype(np.float64)
    green = image[..., 1].astype(np.float32)
    fine = cv2.Laplacian(green, cv2.CV_32F)[region].std()
    coarse = (cv2.GaussianBlur(green, (0, 0), 1) - cv2.GaussianBlur(green, (0, 0), 3))[region].std()
    return [float(value) for value in (*inside.mean(axis=0), *inside.std(axis=0), fine, coarse)]


def _probe(
    kind: str, stage: str, probabilities: Features, grades: NDArray[np.int64], resamples: Resamples
) -> ShortcutProbe:
    scores = evaluate_predictions(grades, probabilities)
    kappa = estimate_kappa(grades, probabilities.argmax(axis=1), resamples)
    return ShortcutProbe(
        kind=kind,
        stage=stage,
        num_photographs=len(grades),
        kappa=kappa.value,
        kappa_low=kappa.low,
        kappa_high=kappa.high,
        accuracy=scores.accuracy,
        referable_auc=scores.referable.auc,
    )


def out_of_fold(features: Features, grades: NDArray[np.int64], folds: NDArray[np.int64]) -> Features:
    """Probabilities (N, 5) from gradient-boosted trees (scikit-learn's defaults), fitted to the other folds."""
    probabilities = np.zeros((len(grades), NUM_GRADES))
    for fold, classifier in _fitted_to_other_folds(features, grades, folds):
        held_out = folds == fold
        probabilities[np.ix_(held_out, classifier.classes_)] = classifier.predict_proba(features[held_out])
    return probabilities


def _fitted_to_other_folds(
    features: Features, grades: NDArray[np.int64], folds: NDArray[np.int64]
) -> Iterator[tuple[int, HistGradientBoostingClassifier]]:
    """Each fold, and the trees that were fitted to all others."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    for fold in np.unique(folds).tolist():
        classifier = HistGradientBoostingClassifier(random_state=0, early_stopping=False)
        yield fold, classifier.fit(features[folds != fold], grades[folds != fold])
