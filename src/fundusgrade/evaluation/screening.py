"""What a model finds at its operating point: of the gradable and of everyone, by photograph and by patient.

Of the gradable alone, sensitivity is that of the model; of everyone, it is that of a program which refers what cannot
be graded. A model that rejects many photographs looks good by the first and costly by the second.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fundusgrade.data.dataset import PreparedDataset
from fundusgrade.data.manifest import ManifestRow
from fundusgrade.grades import (
    NUM_GRADES,
    REFERABLE_DECIMALS,
    REFERABLE_FROM,
    SIGHT_THREATENING_FROM,
    UNSTATED_THRESHOLD,
)
from fundusgrade.metrics.bootstrap import estimate_proportion, resample
from fundusgrade.metrics.classification import probability_from_grade
from fundusgrade.metrics.estimates import Estimate
from fundusgrade.metrics.predictions import PredictionSet, ScoredPhotographs
from fundusgrade.metrics.predictive_values import PREVALENCE, PredictiveValues, predictive_values
from fundusgrade.metrics.referral import SENSITIVITY, OperatingPoint, is_referable, referral_scores, threshold_for

PHOTOGRAPHS, PATIENTS = "photographs", "patients"
GRADABLE, EVERYONE = "gradable", "everyone"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferralRule:
    """From which P(grade >= 2) a photograph is referable, for each fold (0 without folds), and how that was chosen."""

    thresholds: Mapping[int, float]
    reason: str

    def of(self, test: ScoredPhotographs) -> NDArray[np.float64]:
        """The threshold (N,) of each photograph, by its fold."""
        return np.array([self.thresholds[int(fold)] for fold in test.folds], np.float64)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ScreenedPhotographs:
    """What a referral depends on besides the grade: N photographs that were scored, and M that could not be prepared.

    `gradable` (N,) says whether quality suffices; `patients` (N + M) are None where they are not all known. The true
    grades (M,) and groups (M,) of photographs that could not be prepared are empty where these cannot be told to be of
    the evaluated split. `origins` (N + M) are the data sets, empty where all photographs are of one.
    """

    gradable: NDArray[np.bool_]
    patients: tuple[str, ...] | None
    unprepared_grades: NDArray[np.int64]
    unprepared_groups: NDArray[np.int64]
    origins: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ScreeningRates:
    """Referrals among photographs or patients (`unit`), of the gradable or of everyone (`scope`).

    Of everyone, who is ungradable is referred. A patient has the worst grade of his photographs, is found where one of
    them is, and is ungradable where one of them is and none is found. `num_per_grade` (5) counts true grades,
    `num_missed` (5) those of them that were not referred; of grades 0 and 1 that is right. `predictive` are the
    predictive values at a stated prevalence.
    """

    unit: str
    scope: str
    num_ungradable: int
    num_per_grade: tuple[int, ...]
    num_missed: tuple[int, ...]
    sensitivity: Estimate
    specificity: Estimate
    predictive: PredictiveValues

    @property
    def num_referable(self) -> int:
        """How many are of grade 2 or worse."""
        return sum(self.num_per_grade[REFERABLE_FROM:])

    @property
    def num_others(self) -> int:
        """How many are of grade 0 or 1."""
        return sum(self.num_per_grade[:REFERABLE_FROM])

    @property
    def num_sight_threatening(self) -> int:
        """How many are of grade 3 or 4."""
        return sum(self.num_per_grade[SIGHT_THREATENING_FROM:])

    @property
    def num_sight_threatening_missed(self) -> int:
        """How many of grade 3 or 4 were not referred."""
        return sum(self.num_missed[SIGHT_THREATENING_FROM:])


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceRates:
    """The referrals among the photographs of one of several data sets."""

    name: str
    rates: tuple[ScreeningRates, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Screening:
    """A model's referrals at its operating point; `threshold` is the mean over folds, `reason` how it was chosen.

    There are no rates by patient where the patients are not known. `sources` are empty where all photographs are of one
    data set.
    """

    threshold: float
    reason: str
    rates: tuple[ScreeningRates, ...]
    sources: tuple[SourceRates, ...] = ()

    @property
    def unit(self) -> str:
        """What is referred in a program, as far as it is known: patients, or else photographs."""
        return PATIENTS if any(of.unit == PATIENTS for of in self.rates) else PHOTOGRAPHS

    def of(self, scope: str, source: str | None = None) -> ScreeningRates:
        """The rates of this scope by `unit`, of all photographs or of those of a data set. Raises KeyError."""
        rates = self.rates if source is None else next((of.rates for of in self.sources if of.name == source), ())
        for each in rates:
            if (each.unit, each.scope) == (self.unit, scope):
                return each
        raise KeyError(scope, source)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Referrals:
    """Which photographs are gradable and whose they are, and the rule of each model by its name.

    `prevalence` of referable disease, 0 to 1, is that of the predictive values.
    """

    photographs: ScreenedPhotographs
    rules: Mapping[str, ReferralRule]
    prevalence: float = PREVALENCE

    def screen(self, predictions: PredictionSet, *, num_resamples: int, seed: int) -> Screening | None:
        """The referrals of a model, whose predictions are in the order of the photographs; None without a rule."""
        rule = self.rules.get(predictions.model)
        if rule is None:
            return None
        return measure_screening(
            predictions.test,
            rule,
            self.photographs,
            num_resamples=num_resamples,
            seed=seed,
            prevalence=self.prevalence,
        )

    def referred(self, predictions: PredictionSet) -> NDArray[np.bool_] | None:
        """Whether each scored photograph (N,) is referred, or cannot be graded; None without a rule."""
        rule = self.rules.get(predictions.model)
        return None if rule is None else _found(predictions.test, rule) | ~self.photographs.gradable


def rule_of_point(point: OperatingPoint) -> ReferralRule:
    """The rule of a model's operating point, for predictions of that one model."""
    reason = "the model stores no operating point"
    if point.sensitivity is not None:
        names = ", ".join(scores.data for scores in point.chosen_on)
        reason = f"chosen for a sensitivity of {point.sensitivity:g} on photographs of {names}"
    return ReferralRule(thresholds={0: point.threshold}, reason=reason)


def rule_of_predictions(
    predictions: PredictionSet, *, sensitivity: float | None = None, threshold: float | None = None
) -> ReferralRule:
    """The rule for stored predictions: a given threshold, or one of each fold, chosen on its validation photographs.

    0.5 where a fold has no validation photographs of grade 2 or worse.
    """
    folds = np.unique(predictions.test.folds).tolist()
    if threshold is not None:
        return ReferralRule(thresholds=dict.fromkeys(folds, round(threshold, REFERABLE_DECIMALS)), reason="given")
    chosen = {}
    for fold in folds:
        validation = predictions.validation.subset(predictions.validation.folds == fold)
        if not (validation.grades >= REFERABLE_FROM).any():
            reason = "no validation photographs from which one could be chosen"
            return ReferralRule(thresholds=dict.fromkeys(folds, UNSTATED_THRESHOLD), reason=reason)
        referable = probability_from_grade(validation.probabilities, REFERABLE_FROM)
        names = [predictions.data] * len(validation)
        scores = referral_scores(names, validation.grades, referable, validation.groups)
        chosen[fold] = threshold_for(scores, sensitivity or SENSITIVITY)
    where = "validation photographs" if len(folds) == 1 else "the validation photographs of each fold"
    return ReferralRule(
        thresholds=chosen, reason=f"chosen for a sensitivity of {sensitivity or SENSITIVITY:g} on {where}"
    )


def screened_photographs(dataset: PreparedDataset, sources: Sequence[str]) -> ScreenedPhotographs:
    """What the manifest says of scored photographs, and of those that could not be prepared.

    The latter have no split; they count where all usable photographs of the data set are scored.
    """
    rows = {row.source: row for row in dataset.rows}
    scored = [rows.get(source) for source in sources]
    are_all = {row.source for row in dataset.graded_rows()} <= set(sources)
    unprepared = [row for row in dataset.rows if row.error is not None and row.grade is not None] if are_all else []
    patients = [_patient(row) for row in (*scored, *unprepared)]
    known = [patient for patient in patients if patient is not None]
    origins = [row.origin for row in (*scored, *unprepared) if row is not None and row.origin is not None]
    return ScreenedPhotographs(
        gradable=np.array([row is None or row.quality is None or row.quality.gradable for row in scored], bool),
        patients=tuple(known) if len(known) == len(patients) else None,
        unprepared_grades=np.array([row.grade for row in unprepared], np.int64),
        unprepared_groups=np.array([row.group for row in unprepared], np.int64),
        origins=tuple(origins) if len(origins) == len(patients) else (),
    )


def measure_screening(
    test: ScoredPhotographs,
    rule: ReferralRule,
    photographs: ScreenedPhotographs,
    *,
    num_resamples: int,
    seed: int,
    prevalence: float = PREVALENCE,
) -> Screening:
    """Referrals of scored photographs by a rule, and with them those of photographs that could not be prepared."""
    found, num_unprepared = _found(test, rule), len(photographs.unprepared_grades)
    table = _Referrals(
        grades=np.concatenate([test.grades, photographs.unprepared_grades]),
        found=np.concatenate([found, np.zeros(num_unprepared, bool)]),
        gradable=np.concatenate([photographs.gradable, np.zeros(num_unprepared, bool)]),
        groups=np.concatenate([test.groups, photographs.unprepared_groups]),
    )
    drawing = _Drawing(num_resamples=num_resamples, seed=seed, prevalence=prevalence)
    names = list(dict.fromkeys(photographs.origins))
    return Screening(
        threshold=float(np.mean(list(rule.thresholds.values()))),
        reason=rule.reason,
        rates=_all_rates(table, photographs.patients, np.ones(len(table.grades), bool), drawing),
        sources=tuple(
            SourceRates(name=name, rates=_all_rates(table, photographs.patients, members, drawing))
            for name in (names if len(names) > 1 else ())
            if (members := np.array(photographs.origins, dtype=object) == name).any()
        ),
    )


def _found(test: ScoredPhotographs, rule: ReferralRule) -> NDArray[np.bool_]:
    """Whether the probability of each photograph (N,) reaches the threshold of its fold."""
    return is_referable(probability_from_grade(test.probabilities, REFERABLE_FROM), rule.of(test))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Drawing:
    """How many resamples are drawn, from which seed, and the prevalence of the predictive values."""

    num_resamples: int
    seed: int
    prevalence: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Referrals:
    """True grades (N,), whether disease was found (N,), whether the rest was gradable (N,), and groups (N,)."""

    grades: NDArray[np.int64]
    found: NDArray[np.bool_]
    gradable: NDArray[np.bool_]
    groups: NDArray[np.int64]

    def subset(self, among: NDArray[np.bool_]) -> _Referrals:
        return _Referrals(
            grades=self.grades[among], found=self.found[among], gradable=self.gradable[among], groups=self.groups[among]
        )


def _by_patient(table: _Referrals, patients: Sequence[str]) -> _Referrals:
    """One entry for each patient: worst grade, found in any photograph, gradable in all."""
    names, firsts, numbers = np.unique(np.array(patients, dtype=str), return_index=True, return_inverse=True)
    grades, found, gradable = np.zeros(len(names), np.int64), np.zeros(len(names), bool), np.ones(len(names), bool)
    np.maximum.at(grades, numbers, table.grades)
    np.logical_or.at(found, numbers, table.found)
    np.logical_and.at(gradable, numbers, table.gradable)
    return _Referrals(grades=grades, found=found, gradable=gradable, groups=table.groups[firsts])


def _all_rates(
    table: _Referrals, patients: Sequence[str] | None, members: NDArray[np.bool_], drawing: _Drawing
) -> tuple[ScreeningRates, ...]:
    """The rates among the members (N,): by photograph, then by patient where they are known, in both scopes."""
    tables = {PHOTOGRAPHS: table.subset(members)}
    if patients is not None:
        chosen = [patient for patient, is_member in zip(patients, members.tolist(), strict=True) if is_member]
        tables[PATIENTS] = _by_patient(tables[PHOTOGRAPHS], chosen)
    return tuple(_rates(unit, scope, of, drawing) for unit, of in tables.items() for scope in (GRADABLE, EVERYONE))


def _rates(unit: str, scope: str, table: _Referrals, drawing: _Drawing) -> ScreeningRates:
    of = table.subset(table.gradable) if scope == GRADABLE else table
    referred, positive = of.found | ~of.gradable, of.grades >= REFERABLE_FROM
    resamples = resample(of.groups, num_resamples=drawing.num_resamples, seed=drawing.seed)
    sensitivity = estimate_proportion(resamples, referred, positive)
    specificity = estimate_proportion(resamples, ~referred, ~positive)
    return ScreeningRates(
        unit=unit,
        scope=scope,
        num_ungradable=int((~of.gradable & ~of.found).sum()),
        num_per_grade=tuple(np.bincount(of.grades, minlength=NUM_GRADES).tolist()),
        num_missed=tuple(np.bincount(of.grades[~referred], minlength=NUM_GRADES).tolist()),
        sensitivity=sensitivity,
        specificity=specificity,
        predictive=predictive_values(sensitivity, specificity, drawing.prevalence),
    )


def _patient(row: ManifestRow | None) -> str | None:
    """The patient, told from those of other data sets that have the same number."""
    return None if row is None or row.patient is None else f"{row.origin or ''} {row.patient}"
