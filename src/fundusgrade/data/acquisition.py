"""Acquisition: how photographs were taken and stored, and clusters of them that share a camera, a crop and an encoder.

Diseased eyes are often photographed with other cameras than healthy ones. A model that recognizes the camera then seems
to recognize the disease, so scores are also given within clusters of photographs that were acquired alike. Clusters are
found without any label, from properties of the file and its outline; none of them depends on what the retina shows.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fundusgrade.photographs.field_of_view import FieldOfView
from fundusgrade.photographs.images import jpeg_quantization
from fundusgrade.photographs.loading import LoadedPhotograph

MAX_CLUSTERS = 12
MIN_CLUSTER = 20
MIN_CLUSTER_FRACTION = 0.02
_MAX_FITTED = 5000
_NUM_INITIALIZATIONS = 3
# Fits stop when the criterion has not improved for this many numbers of clusters.
_PATIENCE = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Acquisition:
    """How a photograph was taken and stored.

    `radius_x` and `radius_y` are those of the field of view, as fractions of the photograph's width and height: they
    tell cameras apart even where photographs were scaled to one size or squashed. `cut_x` and `cut_y` are the fractions
    of its width and height that the photograph does not show. `quantization` is the mean of a JPEG file's first
    quantization table, 0 for other files.
    """

    height_px: int
    width_px: int
    radius_x: float
    radius_y: float
    cut_x: float
    cut_y: float
    quantization: float


# Differences that are small for one camera, in the order of `_features`: 1 % of the size, half a hundredth of the
# radii, whose fit varies by up to 0.002 in photographs of one format, 1 % of the disc, and 5 % of the quantization.
_SMALL = np.array([0.01, 0.01, 0.005, 0.005, 0.01, 0.01, 0.05])


def measure_acquisition(path: Path, loaded: LoadedPhotograph) -> Acquisition:
    """How a loaded photograph of this file was taken and stored. Raises OSError."""
    height, width = loaded.photograph.shape[:2]
    field_of_view = loaded.preprocessed.field_of_view
    return Acquisition(
        height_px=loaded.height_px,
        width_px=loaded.width_px,
        radius_x=round(field_of_view.radius_x / width, 5),
        radius_y=round(field_of_view.radius_y / height, 5),
        cut_x=round(_hidden_fraction(field_of_view, horizontal=True), 5),
        cut_y=round(_hidden_fraction(field_of_view, horizontal=False), 5),
        quantization=jpeg_quantization(path),
    )


def _hidden_fraction(fov: FieldOfView, *, horizontal: bool) -> float:
    """The fraction of the ellipse's width, or of its height, that is beyond the visible bounds."""
    center, radius, first, last = (
        (fov.center_x, fov.radius_x, fov.left, fov.right)
        if horizontal
        else (fov.center_y, fov.radius_y, fov.top, fov.bottom)
    )
    before, after = first - 0.5 - (center - radius), center + radius - (last + 0.5)
    return (max(0.0, before) + max(0.0, after)) / (2 * radius)


def cluster_acquisitions(acquisitions: Sequence[Acquisition | None]) -> tuple[int | None, ...]:
    """The number of each photograph's cluster, from 1, the largest first; None where nothing was measured.

    A Gaussian mixture is fitted with 1, 2, ... components, none narrower than differences that are small for one
    camera, and the number is taken for which the Bayesian information criterion is lowest (Schwarz, Annals of
    Statistics 1978; Fraley and Raftery, JASA 2002). Photographs of clusters of fewer than `MIN_CLUSTER`, or of less
    than `MIN_CLUSTER_FRACTION` of all, join the nearest of the others. Seeded, and independent of the order.
    """
    measured = [acquisition for acquisition in acquisitions if acquisition is not None]
    clusters = iter(_cluster(_features(measured)).tolist() if measured else ())
    return tuple(None if acquisition is None else next(clusters) for acquisition in acquisitions)


def _features(acquisitions: Sequence[Acquisition]) -> NDArray[np.float64]:
    """The properties (N, K) in units of small differences."""
    rows = [
        [
            np.log(each.width_px), np.log(each.height_px), each.radius_x, each.radius_y, each.cut_x, each.cut_y,
            np.log1p(each.quantization),
        ]
        for each in acquisitions
    ]  # fmt: skip
    return np.asarray(np.array(rows) / _SMALL, np.float64)


def _cluster(features: NDArray[np.float64]) -> NDArray[np.int64]:
    """Numbers (N,) from 1, by falling size."""
    # Constant properties say nothing; sorted rows, because the fit would depend on the order of the photographs.
    varying = features[:, np.ptp(features, axis=0) > 0]
    rows, row = np.unique(varying, axis=0, return_inverse=True)
    counts = np.bincount(row.ravel())
    if len(rows) < 2 or len(features) < 2 * MIN_CLUSTER:
        return np.ones(len(features), np.int64)
    component = _components(np.repeat(rows, counts, axis=0), rows)
    merged = _merge_small(rows, component, counts)
    sizes = np.bincount(merged, counts)
    # Of equally large clusters that of the first row comes first, whatever number its component has.
    firsts = np.unique(merged, return_index=True)[1]
    by_size = np.lexsort((firsts, -sizes))
    return (np.argsort(by_size) + 1)[merged][row.ravel()]


def _components(features: NDArray[np.float64], rows: NDArray[np.float64]) -> NDArray[np.int64]:
    """The component of each of the rows (M, K) in the mixture of lowest BIC that is fitted to features (N, K)."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    fitted = features[:: -(-len(features) // _MAX_FITTED)]
    best, lowest, num_worse = np.zeros(len(rows), np.int64), np.inf, 0
    for number in range(1, min(MAX_CLUSTERS, len(np.unique(fitted, axis=0))) + 1):
        mixture = GaussianMixture(number, reg_covar=1.0, n_init=_NUM_INITIALIZATIONS, random_state=0)
        with warnings.catch_warnings():
            # Too many components for few different photographs: the criterion is then high, which is all that matters.
            warnings.simplefilter("ignore", ConvergenceWarning)
            mixture.fit(fitted)
        criterion = mixture.bic(fitted)
        if criterion < lowest:
            best, lowest, num_worse = mixture.predict(rows), criterion, 0
        else:
            num_worse += 1
        if num_worse == _PATIENCE:
            break
    return np.asarray(best, np.int64)


def _merge_small(
    rows: NDArray[np.float64], component: NDArray[np.int64], counts: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Clusters (M,), from 0, of rows that stand for `counts` (M,) photographs: small components join the nearest."""
    names, cluster = np.unique(component, return_inverse=True)
    sizes = np.bincount(cluster, counts)
    means = np.stack([np.average(rows[cluster == i], axis=0, weights=counts[cluster == i]) for i in range(len(names))])
    is_large = sizes >= max(MIN_CLUSTER, MIN_CLUSTER_FRACTION * counts.sum())
    is_large[sizes.argmax()] = True
    large = np.flatnonzero(is_large)
    distances = ((rows[:, None] - means[large]) ** 2).sum(axis=2)
    nearest = distances.argmin(axis=1)
    return np.where(is_large[cluster], np.cumsum(is_large)[cluster] - 1, nearest)
