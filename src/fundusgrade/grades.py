"""The five ICDR grades, and the result of grading one photograph: a prediction, or the reason why there is none."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Any

NUM_GRADES = 5
RESEARCH_USE = "Research software, not a medical device."


class Grade(IntEnum):
    """International Clinical Diabetic Retinopathy severity scale (Wilkinson et al., Ophthalmology 2003)."""

    NONE = 0
    MILD = 1
    MODERATE = 2
    SEVERE = 3
    PROLIFERATIVE = 4

    @property
    def label(self) -> str:
        """Name for people, as used in tables and figures."""
        return _LABELS[self]

    @property
    def name_in_sentence(self) -> str:
        """The label within a sentence: "no DR", "mild", ..."""
        return self.label[0].lower() + self.label[1:]


_LABELS = {
    Grade.NONE: "No DR",
    Grade.MILD: "Mild",
    Grade.MODERATE: "Moderate",
    Grade.SEVERE: "Severe",
    Grade.PROLIFERATIVE: "Proliferative",
}
REFERABLE_FROM = Grade.MODERATE
"""Lowest grade of referable retinopathy."""
SIGHT_THREATENING_FROM = Grade.SEVERE
"""Lowest grade of sight-threatening retinopathy."""
REFERABLE_DECIMALS = 4
"""Probabilities of referable DR are written and compared with thresholds to this many decimals."""
UNSTATED_THRESHOLD = 0.5
"""Threshold of the probability of referable DR where a model states none."""
PROBABILITY_COLUMNS = (*(f"p{grade}" for grade in range(NUM_GRADES)), "expected_grade", "referable_probability")
COLUMNS = (
    *(
        "image",
        "grade",
        "label",
        "most_probable",
        *PROBABILITY_COLUMNS,
        "referable",
        "referable_threshold",
        "decided_by",
    ),
    *("gradable", "gradability", "quality_reasons", "reject_probability", "training_distance", "warnings"),
    *("laterality", "camera", "model", "model_hash", "error"),
)
"""The values of a result, as a row of a file names them."""
RANGE_COLUMNS = ("grade_low", "grade_high", "could_be_as_bad_as")
"""Additional columns for predictions with a target coverage."""
GRADE_LABELS: tuple[str, ...] = tuple(grade.label for grade in Grade)


MOST_STATED = 0.95
"""A probability beyond this, or below 1 minus this, is not printed as a number for a photograph that is flagged."""


def stated_probability(probability: float, *, is_flagged: bool, digits: int = 2) -> str:
    """A probability as it is printed: "= 0.97", or "> 0.95" and "< 0.05" of a photograph that is flagged."""
    if is_flagged and probability > MOST_STATED:
        return f"> {MOST_STATED}"
    if is_flagged and probability < round(1 - MOST_STATED, 2):
        return f"< {round(1 - MOST_STATED, 2)}"
    return f"= {probability:.{digits}f}"


class Gradability(StrEnum):
    """Whether a photograph's quality suffices for grading."""

    GRADABLE = "gradable"
    BORDERLINE = "borderline"
    NOT_GRADABLE = "not gradable"


class Referral(StrEnum):
    """Whether a photograph, an eye or a patient has referable DR: moderate or worse. Only `NO` needs no referral."""

    YES = "yes"
    NO = "no"
    UNGRADABLE = "ungradable"

    @property
    def refers(self) -> bool:
        """Whether it is to be referred: what cannot be graded is never taken to be healthy."""
        return self is not Referral.NO


@dataclass(frozen=True, slots=True, kw_only=True)
class GradeRange:
    """The prediction set of one photograph, from grade `low` to `high`, and an upper bound, for a target coverage.

    Of photographs like those that the model's limits come from, the fraction `coverage` (0 to 1) has a set that
    contains the true grade. `upper_bound` >= `high` is for screening: of the photographs of each grade, at least this
    fraction has a bound at or above it, so that the eye could be as bad as this.
    """

    low: Grade
    high: Grade
    upper_bound: Grade
    coverage: float

    def describe(self) -> str:
        """In words: "90 % prediction set mild to severe, could be as bad as proliferative"."""
        grades = [grade.name_in_sentence for grade in (self.low, self.high)]
        return (
            f"{100 * self.coverage:g} % prediction set {' to '.join(dict.fromkeys(grades))}, "
            f"could be as bad as {self.upper_bound.name_in_sentence}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """The grade of one photograph; `probabilities` are those of grades 0-4 and sum to 1.

    `thresholds` are the model's four thresholds of the expected grade; the most probable grade is predicted where they
    are None. `before_recalibration` are the probabilities that decide the grade, where a clinic's calibration changed
    `probabilities` but not the grade; else None. `quality_reasons` say why the photograph is of doubtful quality.
    `grade_range` is the prediction set for the target coverage; None without a target. `laterality` ("R", "L", "B" for
    both) and `camera` are those of a DICOM file, else "". From `referable_threshold` the probability of referable DR
    means referable; `model_hash` is the SHA-256 of the weights, "" where it is not known. `is_borderline`,
    `reject_probability`, `training_distance` and `warnings` are those of `grading.doubts`.
    """

    image: str
    model: str
    probabilities: tuple[float, ...]
    thresholds: tuple[float, ...] | None = None
    quality_reasons: tuple[str, ...] = ()
    grade_range: GradeRange | None = None
    laterality: str = ""
    camera: str = ""
    referable_threshold: float = UNSTATED_THRESHOLD
    model_hash: str = ""
    before_recalibration: tuple[float, ...] | None = None
    is_borderline: bool = False
    reject_probability: float | None = None
    training_distance: float | None = None
    warnings: tuple[str, ...] = ()

    @property
    def gradability(self) -> Gradability:
        """Gradable, borderline, or not gradable where there are reasons."""
        if self.quality_reasons:
            return Gradability.NOT_GRADABLE
        return Gradability.BORDERLINE if self.is_borderline else Gradability.GRADABLE

    @property
    def is_flagged(self) -> bool:
        """Whether there is a warning, or a doubt about the quality: probabilities are then stated with reserve."""
        return bool(self.warnings) or self.gradability is not Gradability.GRADABLE

    def stated(self, probability: float, *, digits: int = 2) -> str:
        """A probability as it is printed: "= 0.97", or "> 0.95" of a photograph that is flagged."""
        return stated_probability(probability, is_flagged=self.is_flagged, digits=digits)

    @property
    def gradable(self) -> bool:
        """Whether the photograph's quality suffices for grading."""
        return not self.quality_reasons

    @property
    def grade(self) -> Grade:
        """Number of thresholds that the expected grade reaches, or the most probable grade (the lowest of equals)."""
        if self.thresholds is not None:
            expected = _expected_grade(self._deciding)
            return Grade(sum(expected >= threshold for threshold in self.thresholds))
        return _most_probable(self._deciding)

    @property
    def most_probable(self) -> Grade:
        """The most probable grade, the lowest of equals; thresholds of the expected grade may decide for another."""
        return _most_probable(self.probabilities)

    @property
    def decided_by(self) -> str:
        """The quantity that decided the grade: "expected grade 2.99, severe from 2.58" or "most probable, p = 0.53".

        Grade 0 is given below the lowest threshold: "expected grade 0.31, no DR below 0.52".
        """
        grade, expected = self.grade, _expected_grade(self._deciding)
        before = "" if self.before_recalibration is None else " before recalibration"
        if self.thresholds is None:
            return f"most probable{before}, p {self.stated(self._deciding[grade])}"
        name, cut = grade.name_in_sentence, self.thresholds[max(grade - 1, 0)]
        if grade > Grade.NONE:
            return f"expected grade{before} {expected:.2f}, {name} from {cut:.2f}"
        # A value just below the threshold, rounded like it, would seem to have reached it.
        digits = 2 if round(expected, 2) < round(cut, 2) else 4
        return f"expected grade{before} {expected:.{digits}f}, {name} below {cut:.{digits}f}"

    @property
    def expected_grade(self) -> float:
        """Mean of the grades weighted by their probabilities, 0.0 to 4.0."""
        return _expected_grade(self.probabilities)

    def to_dict(self) -> dict[str, Any]:
        """Every value by the name of its column in a file of predictions, probabilities unrounded.

        All are text, numbers, booleans, lists of text or None, so that `json.dumps` takes them.
        """
        of = self.grade_range
        return {
            **_values_of_all(self),
            "grade": int(self.grade),
            "label": self.grade.label,
            "most_probable": int(self.most_probable),
            **{f"p{grade}": float(probability) for grade, probability in enumerate(self.probabilities)},
            "expected_grade": float(self.expected_grade),
            "referable_probability": float(self.referable_probability),
            "decided_by": self.decided_by,
            "gradable": self.gradable,
            "reject_probability": None if self.reject_probability is None else float(self.reject_probability),
            "training_distance": None if self.training_distance is None else float(self.training_distance),
            "grade_low": None if of is None else int(of.low),
            "grade_high": None if of is None else int(of.high),
            "could_be_as_bad_as": None if of is None else int(of.upper_bound),
        }

    def __repr__(self) -> str:
        grade, doubts = self.grade, ", ".join((*self.quality_reasons, *self.warnings))
        return (
            f"Prediction({self.image!r}: grade {int(grade)} {grade.label}, p {self.stated(self.probabilities[grade])}; "
            f"referable: {self.referable}, p {self.stated(self.referable_probability)}; {self.model}"
            f"{f'; beware: {doubts}' if doubts else ''})"
        )

    @property
    def _deciding(self) -> tuple[float, ...]:
        """The probabilities that decide the grade."""
        return self.probabilities if self.before_recalibration is None else self.before_recalibration

    @property
    def referable_probability(self) -> float:
        """Probability of referable DR: moderate or worse."""
        return sum(self.probabilities[REFERABLE_FROM:])

    @property
    def referable(self) -> Referral:
        """Yes where the probability, as it is written, reaches the threshold; else ungradable if quality is doubtful.

        Disease that is found on a poor photograph is found; only that none is found means nothing there.
        """
        if round(self.referable_probability, REFERABLE_DECIMALS) >= self.referable_threshold:
            return Referral.YES
        return Referral.NO if self.gradable else Referral.UNGRADABLE


@dataclass(frozen=True, slots=True, kw_only=True)
class Ungraded:
    """A photograph that could not be graded, and the reason; other fields as in `Prediction`."""

    image: str
    model: str
    reason: str
    quality_reasons: tuple[str, ...] = ()
    laterality: str = ""
    camera: str = ""
    referable_threshold: float = UNSTATED_THRESHOLD
    model_hash: str = ""
    warnings: tuple[str, ...] = ()

    @property
    def gradability(self) -> Gradability:
        """Not gradable, for whatever reason."""
        return Gradability.NOT_GRADABLE

    @property
    def referable(self) -> Referral:
        """Ungradable, whatever the threshold."""
        return Referral.UNGRADABLE

    def to_dict(self) -> dict[str, Any]:
        """As that of a prediction: the reason is the `error`, and what is not known is None."""
        return {**_values_of_all(self), "error": self.reason}

    def __repr__(self) -> str:
        return f"Ungraded({self.image!r}: {self.reason}; {self.model})"


def _values_of_all(result: Prediction | Ungraded) -> dict[str, Any]:
    """All columns, filled as far as predictions and photographs without a grade have them in common."""
    return {
        **dict.fromkeys((*COLUMNS, *RANGE_COLUMNS)),
        "image": result.image,
        "referable": result.referable.value,
        "referable_threshold": result.referable_threshold,
        "gradable": False,
        "gradability": result.gradability.value,
        "quality_reasons": list(result.quality_reasons),
        "warnings": list(result.warnings),
        "laterality": result.laterality,
        "camera": result.camera,
        "model": result.model,
        "model_hash": result.model_hash,
    }


def _expected_grade(probabilities: tuple[float, ...]) -> float:
    return sum(grade * probability for grade, probability in enumerate(probabilities))


def _most_probable(probabilities: tuple[float, ...]) -> Grade:
    """The most probable grade, the lowest of equals."""
    return Grade(max(range(NUM_GRADES), key=lambda grade: probabilities[grade]))


def describe_rule(thresholds: tuple[float, ...] | None) -> str:
    """The rule that decides grades, for people; `thresholds` as in `Prediction`.

    "the expected grade: mild from 0.52, moderate from 1.62, ..." or "the most probable grade".
    """
    if thresholds is None:
        return "the most probable grade"
    from_grades = zip(list(Grade)[1:], thresholds, strict=True)
    return "the expected grade: " + ", ".join(
        f"{grade.name_in_sentence} from {value:.2f}" for grade, value in from_grades
    )
