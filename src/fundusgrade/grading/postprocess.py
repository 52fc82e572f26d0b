"""The network's outputs -> results: recalibration, prediction set, doubts, and what counts as ungraded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fundusgrade.errors import CheckpointError
from fundusgrade.grades import REFERABLE_FROM, GradeRange, Prediction, Ungraded
from fundusgrade.grading.doubts import NEAR_THRESHOLD, find_doubts
from fundusgrade.grading.failures import GradingFailure
from fundusgrade.grading.grade_ranges import conformal_limits, grade_ranges
from fundusgrade.metrics.conformal import ConformalLimits
from fundusgrade.metrics.referral import OperatingPoint
from fundusgrade.networks.description import CheckpointDescription
from fundusgrade.networks.feature_checks import FeatureChecks
from fundusgrade.networks.model import Model
from fundusgrade.networks.runtime import Graded
from fundusgrade.photographs.loading import LoadedPhotograph


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Postprocessing:
    """What turns the outputs of a model's network into results.

    `near` are the probabilities of referable DR around the threshold of the operating point that are flagged, None
    where the model stores no scores. `limits` are the conformal limits of the target `coverage`, 0 to 1; both are None
    without one. `require_gradable` reports photographs of doubtful quality as ungraded.
    """

    description: CheckpointDescription
    checks: FeatureChecks | None
    operating_point: OperatingPoint
    near: tuple[float, float] | None
    limits: ConformalLimits | None
    coverage: float | None
    require_gradable: bool

    @classmethod
    def of(
        cls,
        model: Model,
        *,
        require_gradable: bool,
        tta: bool,
        coverage: float | None,
        sensitivity: float | None,
        threshold: float | None,
    ) -> Postprocessing:
        """That of a model with the options of `Grader.load`.

        Raises CheckpointError for what the model cannot give: a sensitivity, a prediction set, or a clinic's
        calibration with test-time augmentation; MetricsError for a sensitivity or a threshold out of range.
        """
        description = model.description
        point = description.chosen_point(sensitivity=sensitivity, threshold=threshold)
        limits = None if coverage is None else conformal_limits(description, coverage, tta=tta)
        if tta and description.local_calibration is not None:
            raise CheckpointError(
                f"--tta: {description.name!r} was calibrated for a clinic on single views, and its certificate is for "
                "these; leave --tta out"
            )
        return cls(
            description=description, checks=model.checks, operating_point=point, near=point.near_range(), limits=limits,
            coverage=coverage, require_gradable=require_gradable,
        )  # fmt: skip

    def results(
        self, names: Sequence[str], photographs: Sequence[LoadedPhotograph], graded: Graded
    ) -> list[Prediction | Ungraded]:
        """The result of each photograph; one of doubtful quality is ungraded where only gradable ones are graded."""
        return [self._checked(prediction) for prediction in self.predictions(names, photographs, graded)]

    def predictions(
        self, names: Sequence[str], photographs: Sequence[LoadedPhotograph], graded: Graded
    ) -> list[Prediction]:
        """The prediction of each photograph, whatever its quality."""
        before = graded.probabilities
        probabilities, deciding = self.description.recalibrated(before), self.description.deciding(before)
        decides_otherwise = deciding is before and probabilities is not before
        ranges = self._ranges(deciding)
        doubts = find_doubts(photographs, self.checks, graded.features, near_threshold=self._are_near(probabilities))
        return [
            Prediction(
                image=name,
                model=self.description.name,
                probabilities=tuple(float(p) for p in row),
                thresholds=self.description.thresholds,
                quality_reasons=doubt.quality_reasons,
                is_borderline=doubt.is_borderline,
                reject_probability=doubt.reject_probability,
                training_distance=doubt.training_distance,
                warnings=doubt.warnings,
                grade_range=grade_range,
                laterality=photograph.laterality,
                camera=photograph.camera,
                referable_threshold=self.operating_point.threshold,
                model_hash=self.description.weights_sha256,
                before_recalibration=tuple(float(p) for p in deciding_row) if decides_otherwise else None,
            )
            for name, photograph, row, deciding_row, grade_range, doubt in zip(
                names, photographs, probabilities, deciding, ranges, doubts, strict=True
            )
        ]

    def ungraded(self, name: str, failure: GradingFailure) -> Ungraded:
        """The result of a photograph that cannot be graded."""
        return Ungraded(
            image=name,
            model=self.description.name,
            reason=failure.reason,
            quality_reasons=failure.quality_reasons,
            laterality=failure.laterality,
            camera=failure.camera,
            referable_threshold=self.operating_point.threshold,
            model_hash=self.description.weights_sha256,
            warnings=failure.warnings,
        )

    def _checked(self, prediction: Prediction) -> Prediction | Ungraded:
        if not self.require_gradable or prediction.gradable:
            return prediction
        failure = GradingFailure(
            reason=f"not gradable: {'; '.join(prediction.quality_reasons)}",
            quality_reasons=prediction.quality_reasons,
            laterality=prediction.laterality,
            camera=prediction.camera,
            warnings=tuple(warning for warning in prediction.warnings if warning != NEAR_THRESHOLD),
        )
        return self.ungraded(prediction.image, failure)

    def _are_near(self, probabilities: NDArray[np.float64]) -> list[bool]:
        """Whether the probability of referable DR is near the threshold; never where the model stores no scores."""
        if self.near is None:
            return [False] * len(probabilities)
        low, high = self.near
        return [low <= probability <= high for probability in probabilities[:, REFERABLE_FROM:].sum(axis=1)]

    def _ranges(self, probabilities: NDArray[np.float64]) -> Sequence[GradeRange | None]:
        if self.limits is None or self.coverage is None:
            return [None] * len(probabilities)
        return grade_ranges(probabilities, self.limits, self.description.thresholds, coverage=self.coverage)
