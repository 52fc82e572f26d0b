"""The keys by which scores are looked up, the names under which people read them, and the binary decisions."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from fundusgrade.grades import GRADE_LABELS, REFERABLE_FROM, SIGHT_THREATENING_FROM


class ScoreKey(StrEnum):
    """Every score of a model, in the order in which tables show them; by these keys scores are looked up."""

    KAPPA = "kappa"
    ACCURACY = "accuracy"
    BALANCED_ACCURACY = "balanced_accuracy"
    MACRO_F1 = "macro_f1"
    F1_NO_DR = "f1_no_dr"
    F1_MILD = "f1_mild"
    F1_MODERATE = "f1_moderate"
    F1_SEVERE = "f1_severe"
    F1_PROLIFERATIVE = "f1_proliferative"
    MEAN_ABSOLUTE_ERROR = "mean_absolute_error"
    OFF_BY_TWO = "off_by_two"
    RANKED_PROBABILITY_SCORE = "ranked_probability_score"
    BRIER_SCORE = "brier_score"
    LOG_LOSS = "log_loss"
    MACRO_AUC = "macro_auc"
    REFERABLE_AUC = "referable_auc"
    REFERABLE_SENSITIVITY = "referable_sensitivity"
    REFERABLE_SPECIFICITY = "referable_specificity"
    SIGHT_THREATENING_AUC = "sight_threatening_auc"
    SIGHT_THREATENING_SENSITIVITY = "sight_threatening_sensitivity"
    SIGHT_THREATENING_SPECIFICITY = "sight_threatening_specificity"
    REFERABLE_AUC_DELONG = "referable_auc_delong"
    SIGHT_THREATENING_AUC_DELONG = "sight_threatening_auc_delong"
    REFERABLE_CALIBRATION_SLOPE = "referable_calibration_slope"
    REFERABLE_CALIBRATION_INTERCEPT = "referable_calibration_intercept"
    COMMONEST_GRADE_ACCURACY = "commonest_grade_accuracy"
    KAPPA_WITHIN_ACQUISITION = "kappa_within_acquisition"
    KAPPA_WITHIN_ACQUISITION_BY_GRADE = "kappa_within_acquisition_by_grade"
    REFERABLE_AUC_WITHIN_ACQUISITION = "referable_auc_within_acquisition"
    COMMONEST_GRADE_ACCURACY_WITHIN_ACQUISITION = "commonest_grade_accuracy_within_acquisition"

    @property
    def label(self) -> str:
        """Name for people, as used in tables and figures."""
        return _LABELS[self]

    @property
    def undefined_reason(self) -> str:
        """Why photographs may leave the score undefined."""
        return _UNDEFINED_REASONS.get(self, "there are no photographs")


F1_KEYS = (
    ScoreKey.F1_NO_DR,
    ScoreKey.F1_MILD,
    ScoreKey.F1_MODERATE,
    ScoreKey.F1_SEVERE,
    ScoreKey.F1_PROLIFERATIVE,
)
"""The F1 of each grade."""

WITHIN_ACQUISITION_KEYS = (
    ScoreKey.KAPPA_WITHIN_ACQUISITION,
    ScoreKey.KAPPA_WITHIN_ACQUISITION_BY_GRADE,
    ScoreKey.REFERABLE_AUC_WITHIN_ACQUISITION,
    ScoreKey.COMMONEST_GRADE_ACCURACY_WITHIN_ACQUISITION,
)
"""Scores that compare only photographs that were acquired alike; undefined where that is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BinaryDecision:
    """A binary decision: its name, and the grade from which on it is answered with yes."""

    name: str
    from_grade: int

    @property
    def auc(self) -> ScoreKey:
        """The area under the ROC curve of the decision's probability."""
        return self._key("auc")

    @property
    def auc_delong(self) -> ScoreKey:
        """The area under the ROC curve with DeLong's interval instead of the bootstrap's."""
        return self._key("auc_delong")

    @property
    def sensitivity(self) -> ScoreKey:
        """The sensitivity of the predicted grade."""
        return self._key("sensitivity")

    @property
    def specificity(self) -> ScoreKey:
        """The specificity of the predicted grade."""
        return self._key("specificity")

    def _key(self, score: str) -> ScoreKey:
        return ScoreKey(f"{self.name.replace('-', '_')}_{score}")


BINARY_DECISIONS = (
    BinaryDecision(name="referable", from_grade=int(REFERABLE_FROM)),
    BinaryDecision(name="sight-threatening", from_grade=int(SIGHT_THREATENING_FROM)),
)

_LABELS = {
    ScoreKey.KAPPA: "quadratic weighted kappa",
    ScoreKey.ACCURACY: "accuracy",
    ScoreKey.BALANCED_ACCURACY: "balanced accuracy",
    ScoreKey.MACRO_F1: "macro F1",
    **{key: f"F1, {label}" for key, label in zip(F1_KEYS, GRADE_LABELS, strict=True)},
    ScoreKey.MEAN_ABSOLUTE_ERROR: "mean absolute error",
    ScoreKey.OFF_BY_TWO: "off by two or more",
    ScoreKey.RANKED_PROBABILITY_SCORE: "ranked probability score",
    ScoreKey.BRIER_SCORE: "Brier score",
    ScoreKey.LOG_LOSS: "log loss",
    ScoreKey.MACRO_AUC: "macro AUC",
    **{decision.auc: f"{decision.name} AUC" for decision in BINARY_DECISIONS},
    **{decision.sensitivity: f"{decision.name} sensitivity" for decision in BINARY_DECISIONS},
    **{decision.specificity: f"{decision.name} specificity" for decision in BINARY_DECISIONS},
    **{decision.auc_delong: f"{decision.name} AUC (DeLong)" for decision in BINARY_DECISIONS},
    ScoreKey.REFERABLE_CALIBRATION_SLOPE: "calibration slope, referable",
    ScoreKey.REFERABLE_CALIBRATION_INTERCEPT: "calibration intercept, referable",
    ScoreKey.COMMONEST_GRADE_ACCURACY: "accuracy of always the commonest grade",
    ScoreKey.KAPPA_WITHIN_ACQUISITION: "kappa within acquisition",
    ScoreKey.KAPPA_WITHIN_ACQUISITION_BY_GRADE: "the same, if answers depended on the grade only",
    ScoreKey.REFERABLE_AUC_WITHIN_ACQUISITION: "referable AUC within acquisition",
    ScoreKey.COMMONEST_GRADE_ACCURACY_WITHIN_ACQUISITION: "accuracy of the commonest grade of each acquisition",
}

_UNKNOWN_ACQUISITION = "it is not known how the photographs were acquired"
_UNDEFINED_REASONS = {
    ScoreKey.KAPPA: "all photographs have one grade and are predicted so",
    **dict.fromkeys(F1_KEYS, "no photograph has or is given the grade"),
    ScoreKey.MACRO_AUC: "all photographs have one grade",
    **{decision.auc: f"all photographs are {decision.name}, or none is" for decision in BINARY_DECISIONS},
    **{decision.auc_delong: f"all photographs are {decision.name}, or none is" for decision in BINARY_DECISIONS},
    **{decision.sensitivity: f"no photograph is {decision.name}" for decision in BINARY_DECISIONS},
    **{decision.specificity: f"all photographs are {decision.name}" for decision in BINARY_DECISIONS},
    ScoreKey.REFERABLE_CALIBRATION_SLOPE: "a threshold separates referable photographs perfectly, or there are none",
    ScoreKey.REFERABLE_CALIBRATION_INTERCEPT: "all photographs are referable, or none is",
    **dict.fromkeys(
        (ScoreKey.KAPPA_WITHIN_ACQUISITION, ScoreKey.KAPPA_WITHIN_ACQUISITION_BY_GRADE),
        f"{_UNKNOWN_ACQUISITION}, or grades do not vary among those acquired alike",
    ),
    ScoreKey.REFERABLE_AUC_WITHIN_ACQUISITION: f"{_UNKNOWN_ACQUISITION}, or those acquired alike are all referable, or "
    "none is",
    ScoreKey.COMMONEST_GRADE_ACCURACY_WITHIN_ACQUISITION: _UNKNOWN_ACQUISITION,
}
