"""Checks of a photograph by the network's own features: is it unlike the training photographs, would graders reject it?

The features are the input of the network's last layer, so that grading a photograph computes them anyway. Those of the
training photographs are described by a Gaussian whose covariance has a few free directions and one variance for all
others (probabilistic principal component analysis, Tipping and Bishop 1999): a shrunk covariance that needs little
memory. The distance of a photograph is Mahalanobis' (Lee et al., NeurIPS 2018). Arithmetic is in float64.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fundusgrade.photographs.artifacts import Artifacts
from fundusgrade.photographs.quality import Quality

Floats = NDArray[np.float64]

MEASUREMENTS: tuple[str, ...] = (*Quality.__dataclass_fields__, *Artifacts.__dataclass_fields__)
"""What is measured of a photograph's quality, in the order of the inputs of a quality check."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FeatureReference:
    """The distribution of the training photographs' features (D,), and the distance from which one is unlike them.

    `mean` (D,), `components` (k, D), orthonormal rows, the variances along them (k,), and `residual_variance` (1,), the
    variance along every other direction. `limit` (1,) is the distance that 99 % of held-out photographs do not exceed.
    """

    mean: Floats
    components: Floats
    variances: Floats
    residual_variance: Floats
    limit: Floats

    def coordinates(self, features: NDArray[np.floating]) -> Floats:
        """Coordinates (N, k) of features (N, D) along the components, in standard deviations."""
        projected = (features.astype(np.float64) - self.mean) @ self.components.T
        return np.asarray(projected / np.sqrt(self.variances), np.float64)

    def distances(self, features: NDArray[np.floating]) -> Floats:
        """Mahalanobis distances (N,) of features (N, D) from the mean, as a multiple of the limit."""
        centered = features.astype(np.float64) - self.mean
        projected = centered @ self.components.T
        squared = (projected**2 / self.variances).sum(axis=1)
        residual = np.maximum((centered**2).sum(axis=1) - (projected**2).sum(axis=1), 0)
        return np.asarray(np.sqrt(squared + residual / self.residual_variance) / self.limit, np.float64)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class QualityCheck:
    """A logistic regression of "graders reject this photograph" on features and measurements.

    Its inputs are the k coordinates of a `FeatureReference`, then the MEASUREMENTS, standardized by `center` and
    `scale` (m,). `weights` (k + m,) and `intercept` (1,) give the log-odds. `limits` (2,) are the probabilities from
    which a photograph is borderline, and from which it is not gradable.
    """

    center: Floats
    scale: Floats
    weights: Floats
    intercept: Floats
    limits: Floats

    def probabilities(self, coordinates: Floats, measurements: Floats) -> Floats:
        """Probabilities (N,) that graders reject photographs with these coordinates (N, k) and measurements (N, m)."""
        inputs = np.concatenate([coordinates, (measurements - self.center) / self.scale], axis=1)
        return np.asarray(1 / (1 + np.exp(-(inputs @ self.weights + self.intercept[0]))), np.float64)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FeatureChecks:
    """The reference of a model's training photographs, and its quality check, None where no quality was labeled."""

    reference: FeatureReference
    quality: QualityCheck | None = None

    def tensors(self) -> dict[str, NDArray[np.float32]]:
        """All numbers by name, as they are stored."""
        parts = {"reference": self.reference, "quality": self.quality}
        return {
            f"{part}.{name}": np.ascontiguousarray(getattr(values, name), np.float32)
            for part, values in parts.items()
            if values is not None
            for name in type(values).__dataclass_fields__
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityRates:
    """Of the photographs that graders of image quality call `label`: how many are borderline and not gradable.

    Each is judged by a check that was fitted without its patient, together with the measured reasons.
    """

    label: str
    num_photographs: int
    num_borderline: int
    num_not_gradable: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ChecksProvenance:
    """What a model's feature checks were fitted to.

    `data` names the data sets of the `num_reference` training photographs and of the `num_held_out` validation
    photographs that set the limit; `quality` are the rates of the quality check, empty where there is none.
    """

    data: str
    num_reference: int
    num_held_out: int
    quality: tuple[QualityRates, ...] = ()

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> ChecksProvenance:
        """From the output of `dataclasses.asdict`. Raises KeyError, TypeError or ValueError for others."""
        rates = [
            QualityRates(label=str(rate["label"]), **{name: int(rate[name]) for name in _COUNTS})
            for rate in values["quality"]
        ]
        counts = {name: int(values[name]) for name in ("num_reference", "num_held_out")}
        return cls(data=str(values["data"]), quality=tuple(rates), **counts)


_COUNTS = ("num_photographs", "num_borderline", "num_not_gradable")


def checks_from_tensors(tensors: Mapping[str, NDArray[np.float32]]) -> FeatureChecks | None:
    """The checks that `FeatureChecks.tensors` stored; None for no tensors.

    Raises ValueError where one is missing, has another shape, or is not finite.
    """
    if not tensors:
        return None
    mean, components = _numbers(tensors, "reference.mean", None), _numbers(tensors, "reference.components", None)
    if components.ndim != 2 or mean.shape != components.shape[1:]:
        raise ValueError(f"components of shape {components.shape} for a mean of shape {mean.shape}")
    reference = FeatureReference(
        mean=mean,
        components=components,
        variances=_positive(_numbers(tensors, "reference.variances", (len(components),))),
        residual_variance=_positive(_numbers(tensors, "reference.residual_variance", (1,))),
        limit=_positive(_numbers(tensors, "reference.limit", (1,))),
    )
    return FeatureChecks(reference=reference, quality=_quality_check(tensors, len(components)))


def _quality_check(tensors: Mapping[str, NDArray[np.float32]], num_components: int) -> QualityCheck | None:
    if not any(name.startswith("quality.") for name in tensors):
        return None
    num_measurements = len(MEASUREMENTS)
    return QualityCheck(
        center=_numbers(tensors, "quality.center", (num_measurements,)),
        scale=_positive(_numbers(tensors, "quality.scale", (num_measurements,))),
        weights=_numbers(tensors, "quality.weights", (num_components + num_measurements,)),
        intercept=_numbers(tensors, "quality.intercept", (1,)),
        limits=_numbers(tensors, "quality.limits", (2,)),
    )


def measurements(photographs: Sequence[tuple[Quality, Artifacts]]) -> Floats:
    """The MEASUREMENTS (N, m) of photographs."""
    rows = [(*astuple(quality), *astuple(artifacts)) for quality, artifacts in photographs]
    return np.array(rows, np.float64).reshape(-1, len(MEASUREMENTS))


def _numbers(tensors: Mapping[str, NDArray[np.float32]], name: str, shape: tuple[int, ...] | None) -> Floats:
    values = tensors.get(name)
    if values is None or (shape is not None and values.shape != shape) or not np.isfinite(values).all():
        raise ValueError(f"{name} is missing, not finite, or not of shape {shape}")
    return values.astype(np.float64)


def _positive(values: Floats) -> Floats:
    if not (values > 0).all():
        raise ValueError("a variance, scale or limit is not above 0")
    return values
