"""Coverage of the 95 % intervals of all scores, and of prediction sets with 90 % target coverage, by simulation.

    python benchmarks/coverage.py [--photographs 100 200 550] [--data-sets 1000] [--resamples 500] [--within-grades]

A large population of patients is simulated, with one or two correlated eyes, and graded by two models with correlated
errors. Each data set is a number of patients drawn from it at random, as a study draws them: the number of photographs
of each grade varies. The true score is that of the whole population. `--within-grades` draws the resamples of the
bootstrap within grades (the highest of a patient), for comparison: these intervals leave out the variation of the mix.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fundusgrade.metrics.bootstrap import Resamples, draw_weights, estimate_mean, from_weights, resample
from fundusgrade.metrics.classification import expected_grades, probability_from_grade
from fundusgrade.metrics.comparison import compare_all
from fundusgrade.metrics.conformal import grade_sets, measure_conformity, measure_sets
from fundusgrade.metrics.estimates import Estimate
from fundusgrade.metrics.operating_points import AIMS, choose_threshold, measure_operating_points
from fundusgrade.metrics.predictions import PredictionSet, ScoredPhotographs
from fundusgrade.metrics.reliability import measure_reliability
from fundusgrade.metrics.score_keys import BINARY_DECISIONS
from fundusgrade.metrics.scores import score_predictions

NUM_PATIENTS = 100_000
SINGLE_EYED = 0.3
"""The proportion of patients with one photograph; the others have two."""
# Grades 0-4 of 49, 10, 27, 6 and 8 of 100 eyes.
CUTS = (-0.03, 0.23, 1.08, 1.41)
COVERAGE = 0.9
NUM_VALIDATION = 200
NUM_GRADED = 10_000
"""Photographs of the population that tell how often sets hold the true grade."""
DIFFERENCES = ("difference of kappa", "difference of accuracy", "difference of referable AUC")

Truth = dict[str, float]
Estimates = dict[str, Estimate]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Population:
    """Photographs (N,) of all patients by two models; a patient's photographs are `firsts` (P,) and the next ones."""

    models: tuple[ScoredPhotographs, ScoredPhotographs]
    firsts: NDArray[np.int64]
    sizes: NDArray[np.int64]

    def draw(self, num_photographs: int, rng: np.random.Generator) -> tuple[ScoredPhotographs, ScoredPhotographs]:
        """Random patients with about so many photographs; a patient who is drawn twice counts as two."""
        patients = rng.integers(0, len(self.firsts), round(num_photographs / self.sizes.mean()))
        sizes = self.sizes[patients]
        within = np.arange(sizes.sum()) - np.repeat(sizes.cumsum() - sizes, sizes)
        rows = np.repeat(self.firsts[patients], sizes) + within
        names, groups = tuple(f"{i}.png" for i in range(len(rows))), np.repeat(np.arange(len(patients)), sizes)
        first, second = (replace(model.subset(rows), sources=names, groups=groups) for model in self.models)
        return first, second


def simulate(num_patients: int, rng: np.random.Generator) -> Population:
    """Eyes of a patient are correlated by 0.8; both models are slightly overconfident, and equally good.

    Sicker patients are photographed with other cameras, of four.
    """
    sizes = np.where(rng.random(num_patients) < SINGLE_EYED, 1, 2)
    patient = np.repeat(np.arange(num_patients), sizes)
    severity = np.sqrt(0.8) * rng.normal(size=num_patients)[patient] + np.sqrt(0.2) * rng.normal(size=len(patient))
    hard = 0.2 * rng.normal(size=len(patient))
    worst = np.maximum.reduceat(severity, sizes.cumsum() - sizes)
    cameras = np.clip(np.rint(0.8 * worst + rng.spawn(1)[0].normal(size=num_patients) + 1.5), 0, 3).astype(np.int64)
    models = [_graded(severity, hard, patient, cameras, rng) for _ in range(2)]
    return Population(models=(models[0], models[1]), firsts=sizes.cumsum() - sizes, sizes=sizes)


def _graded(
    severity: NDArray[np.float64],
    hard: NDArray[np.float64],
    patient: NDArray[np.int64],
    cameras: NDArray[np.int64],
    rng: np.random.Generator,
) -> ScoredPhotographs:
    """A model that measures severity with errors which eyes of a patient share in part, and so do all models."""
    error = hard + 0.2 * rng.normal(size=patient[-1] + 1)[patient] + 0.2 * rng.normal(size=len(patient))
    worse = 1 / (1 + np.exp(-((severity + error)[:, None] - CUTS) / 0.16))
    edges = np.concatenate([np.ones((len(worse), 1)), worse, np.zeros((len(worse), 1))], axis=1)
    probabilities = -np.diff(edges, axis=1)
    return ScoredPhotographs(
        sources=("",) * len(patient),
        grades=np.searchsorted(CUTS, severity).astype(np.int64),
        predicted=probabilities.argmax(axis=1).astype(np.int64),
        probabilities=probabilities,
        groups=patient,
        folds=np.zeros(len(patient), np.int64),
        acquisitions=cameras[patient],
    )


# Scores that do not depend on validation photographs


def scores_of(models: tuple[ScoredPhotographs, ScoredPhotographs], resamples: Resamples) -> Estimates:
    """The scores, calibration errors and mean change by their names, and the differences of the models."""
    first, second = models
    scores = {each.name: each.estimate for each in score_predictions(first, resamples)}
    scores |= {
        f"calibration error, {each.outcome}": each.calibration_error for each in measure_reliability(first, resamples)
    }
    changes = np.abs(expected_grades(first.probabilities) - expected_grades(second.probabilities))
    return {**scores, "mean change of expected grade": estimate_mean(changes, resamples)}


def differences_of(models: tuple[ScoredPhotographs, ScoredPhotographs], resamples: Resamples) -> Estimates:
    """Paired differences of the two models, which are 0 in the population: both err alike."""
    nothing = models[0].subset(np.zeros(0, np.int64))
    pair = compare_all(
        [PredictionSet(model=str(i), data="", test=model, validation=nothing) for i, model in enumerate(models)],
        resamples,
    )[0]
    return dict(zip(DIFFERENCES, (pair.kappa_difference, pair.accuracy_difference, pair.auc_difference), strict=True))


# Scores at thresholds and limits from validation photographs: true values are the population's at the same threshold


def chosen_scores(test: ScoredPhotographs, validation: ScoredPhotographs, resamples: Resamples) -> Estimates:
    """Operating points and coverage of prediction sets by their names."""
    predictions = PredictionSet(model="", data="", test=test, validation=validation)
    found: Estimates = {}
    for point in measure_operating_points(predictions, resamples):
        found[f"{point.decision}, sensitivity at {point.aim}"] = point.sensitivity
        found[f"{point.decision}, specificity at {point.aim}"] = point.specificity
        found[f"{point.decision}, PPV at {point.aim}"] = point.positive_predictive_value
        found[f"{point.decision}, NPV at {point.aim}"] = point.negative_predictive_value
    for each in measure_sets(predictions, resamples, coverage=COVERAGE):
        among = "all" if each.grade is None else f"grade {each.grade}"
        found |= {f"coverage of sets, {among}": each.covered, f"coverage of bounds, {among}": each.bound_covered}
    return found


class TrueChosen:
    """True values of `chosen_scores` in a population of photographs, for any thresholds and limits."""

    def __init__(self, photographs: ScoredPhotographs) -> None:
        self._positives, self._negatives = {}, {}
        for decision in BINARY_DECISIONS:
            positive = photographs.grades >= decision.from_grade
            scores = probability_from_grade(photographs.probabilities, decision.from_grade)
            self._positives[decision] = np.sort(scores[positive])
            self._negatives[decision] = np.sort(scores[~positive])
        self._some = photographs.subset(np.arange(NUM_GRADED))

    def at(self, validation: ScoredPhotographs) -> Truth:
        """True values at the thresholds and the limit that these validation photographs give."""
        truth: Truth = {}
        for decision in BINARY_DECISIONS:
            positive = validation.grades >= decision.from_grade
            scores = probability_from_grade(validation.probabilities, decision.from_grade)
            positives, negatives = self._positives[decision], self._negatives[decision]
            for measure, aim in AIMS:
                threshold = choose_threshold(positive, scores, measure, aim)
                if threshold is None:
                    continue
                hits = len(positives) - np.searchsorted(positives, threshold)
                alarms = len(negatives) - np.searchsorted(negatives, threshold)
                name = f"at {measure} {aim:.2f}"
                truth[f"{decision.name}, sensitivity {name}"] = hits / len(positives)
                truth[f"{decision.name}, specificity {name}"] = 1 - alarms / len(negatives)
                truth[f"{decision.name}, PPV {name}"] = hits / (hits + alarms)
                truth[f"{decision.name}, NPV {name}"] = (len(negatives) - alarms) / (
                    len(negatives) - alarms + len(positives) - hits
                )
        return truth | self.set_coverage(validation)

    def set_coverage(self, validation: ScoredPhotographs) -> Truth:
        """How often the sets and bounds with limits from these validation photographs hold the true grade."""
        known = measure_conformity(validation.probabilities, validation.grades, validation.predicted)
        some = self._some
        sets = grade_sets(some.probabilities, known.limits(COVERAGE), some.predicted)
        inside, below = (sets.low <= some.grades) & (some.grades <= sets.high), some.grades <= sets.upper_bound
        truth: Truth = {}
        for grade in (None, *range(5)):
            name, among = ("all", np.ones_like(inside)) if grade is None else (f"grade {grade}", some.grades == grade)
            truth[f"coverage of sets, {name}"] = float(inside[among].mean())
            truth[f"coverage of bounds, {name}"] = float(below[among].mean())
        return truth


# The study


def resample_within_grades(photographs: ScoredPhotographs, num_resamples: int, seed: int) -> Resamples:
    """Resamples of patients within strata of their highest grade, for comparison."""
    highest = np.zeros(photographs.groups.max() + 1, np.int64)
    np.maximum.at(highest, photographs.groups, photographs.grades)
    strata, weights = highest[photographs.groups], np.ones((1 + num_resamples, len(photographs)), np.float32)
    for stratum in np.unique(strata):
        members = strata == stratum
        weights[1:, members] = draw_weights(
            photographs.groups[members], num_resamples=num_resamples, seed=5 * seed + int(stratum)
        )
    return from_weights(weights, photographs.groups)


def measure_intervals(population: Population, num_photographs: int, options: argparse.Namespace) -> None:
    """Print how often intervals cover the true score."""
    rng = np.random.default_rng(1)
    first = population.models[0]
    once = from_weights(np.ones((2, len(first)), np.float32), first.groups)
    scores = scores_of(population.models, once)
    truth = {name: of.value for name, of in scores.items() if of.value is not None} | dict.fromkeys(DIFFERENCES, 0)
    true_chosen, found = TrueChosen(first), defaultdict(list)
    for seed in range(options.data_sets):
        models = population.draw(num_photographs, rng)
        validation = population.draw(NUM_VALIDATION, rng)[0]
        draw = resample_within_grades if options.within_grades else resample_groups
        resamples = draw(models[0], options.resamples, seed)
        estimates = {
            **scores_of(models, resamples),
            **differences_of(models, resamples),
            **chosen_scores(models[0], validation, resamples),
        }
        true_of = truth | true_chosen.at(validation)
        for name in (name for name in estimates if name in true_of):
            # The aims of operating points are summed up.
            found[name.partition(" at ")[0]].append((true_of[name], estimates[name]))
    print(f"\n{options.data_sets} data sets of about {num_photographs} photographs")
    print(f"{'score':38}{'true':>8}{'covered':>9}{'below':>8}{'above':>8}{'width':>8}{'bounded':>9}")
    for name, pairs in found.items():
        _print_coverage(name, pairs)


def resample_groups(photographs: ScoredPhotographs, num_resamples: int, seed: int) -> Resamples:
    """Resamples of patients, as everywhere in fundusgrade."""
    return resample(photographs.groups, num_resamples=num_resamples, seed=seed)


def _print_coverage(name: str, pairs: list[tuple[float, Estimate]]) -> None:
    """One line: mean true value, how often intervals cover it, how often it lies below and above, mean width."""
    bounded = [(true, of.low, of.high) for true, of in pairs if of.low is not None and of.high is not None]
    true, low, high = np.array(bounded, np.float64).reshape(-1, 3).T
    below, above = np.mean(true < low), np.mean(true > high)
    shares = f"{1 - below - above:>9.1%}{below:>8.1%}{above:>8.1%}"
    mean = np.mean([true for true, _ in pairs])
    print(f"{name:38}{mean:>8.4f}{shares}{np.mean(high - low):>8.4f}{len(bounded) / len(pairs):>9.1%}", flush=True)


def measure_set_coverage(population: Population, num_validation: int, num_data_sets: int) -> None:
    """Print the mean true coverage of 90 % sets and bounds with limits from so many validation photographs."""
    rng, true_chosen = np.random.default_rng(2), TrueChosen(population.models[0])
    found = [true_chosen.set_coverage(population.draw(num_validation, rng)[0]) for _ in range(num_data_sets)]
    sets, bounds = (np.mean([each[f"coverage of {kind}, all"] for each in found]) for kind in ("sets", "bounds"))
    print(f"{num_validation} validation photographs: 90 % sets cover {sets:.1%}, bounds {bounds:.1%}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photographs", type=int, nargs="+", default=[100, 200, 550])
    parser.add_argument("--data-sets", type=int, default=1000)
    parser.add_argument("--resamples", type=int, default=500)
    parser.add_argument("--within-grades", action="store_true", help="draw resamples within grades, for comparison")
    options = parser.parse_args()
    population = simulate(NUM_PATIENTS, np.random.default_rng(0))
    first = population.models[0]
    shares = np.bincount(first.grades) / len(first)
    print(f"grades {np.round(shares, 3).tolist()}, accuracy {np.mean(first.grades == first.predicted):.3f}")
    for num_photographs in options.photographs:
        measure_intervals(population, num_photographs, options)
    for num_validation in (50, 200, 1000):
        measure_set_coverage(population, num_validation, 200)


if __name__ == "__main__":
    main()
