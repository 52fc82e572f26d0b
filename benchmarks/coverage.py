"""Coverage of 95 % intervals of all scores, and of conformal prediction sets with 90 % target coverage, by simulation.

    python benchmarks/coverage.py [--patients 200] [--data-sets 1000] [--resamples 500]

A large population of patients with two correlated eyes is simulated, and graded by a model with correlated errors. The
true score is that of the whole population. Data sets take a fixed number of patients of each stratum (highest grade of
the two eyes) from it, in the population's mix.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from fundusgrade.metrics.bootstrap import Resamples, from_weights, resample
from fundusgrade.metrics.conformal import grade_sets, measure_conformity
from fundusgrade.metrics.estimates import Estimate
from fundusgrade.metrics.predictions import ScoredPhotographs
from fundusgrade.metrics.reliability import measure_reliability
from fundusgrade.metrics.scores import score_predictions

POPULATION = 200_000
# Grades 0-4 of 49, 10, 27, 6 and 8 of 100 eyes.
CUTS = (-0.03, 0.23, 1.08, 1.41)


def simulate_population(num_patients: int, rng: np.random.Generator) -> ScoredPhotographs:
    """Two photographs of each patient, one after the other: grade and probabilities; correlation of the eyes 0.8."""
    shape = (num_patients, 2)
    severity = (np.sqrt(0.8) * rng.normal(size=(num_patients, 1)) + np.sqrt(0.2) * rng.normal(size=shape)).ravel()
    grades = np.searchsorted(CUTS, severity)
    # The model measures severity with errors that the two eyes share in part; it is slightly overconfident.
    error = 0.25 * rng.normal(size=(num_patients, 1)) + 0.25 * rng.normal(size=shape)
    worse = 1 / (1 + np.exp(-(severity[:, None] + error.ravel()[:, None] - CUTS) / 0.16))
    edges = np.concatenate([np.ones((len(worse), 1)), worse, np.zeros((len(worse), 1))], axis=1)
    probabilities = -np.diff(edges, axis=1)
    return ScoredPhotographs(
        sources=("",) * len(grades),
        grades=grades.astype(np.int64),
        predicted=probabilities.argmax(axis=1).astype(np.int64),
        probabilities=probabilities,
        groups=np.repeat(np.arange(num_patients), 2),
        folds=np.zeros(len(grades), np.int64),
    )


def strata_of(population: ScoredPhotographs) -> NDArray[np.int64]:
    """The highest grade of each patient."""
    return population.grades.reshape(-1, 2).max(axis=1)


def draw_data_sets(
    population: ScoredPhotographs, counts: NDArray[np.int64], num_data_sets: int, rng: np.random.Generator
) -> Iterator[ScoredPhotographs]:
    """Data sets of `counts` (5,) patients of each stratum."""
    strata = strata_of(population)
    pools = [np.flatnonzero(strata == stratum) for stratum in range(len(counts))]
    for _ in range(num_data_sets):
        patients = np.concatenate([rng.choice(pool, count) for pool, count in zip(pools, counts, strict=True)])
        drawn = population.subset((patients[:, None] * 2 + np.arange(2)).ravel())
        # A patient drawn twice from so many counts as two.
        yield ScoredPhotographs(
            **{name: getattr(drawn, name) for name in ("sources", "grades", "predicted", "probabilities", "folds")},
            groups=np.repeat(np.arange(len(patients)), 2),
        )


def all_scores(photographs: ScoredPhotographs, resamples: Resamples) -> dict[str, Estimate]:
    """The scores and the two calibration errors by their names."""
    reliability = measure_reliability(photographs, resamples)
    errors = {f"calibration, {each.outcome}": each.calibration_error for each in reliability}
    return {each.name: each.estimate for each in score_predictions(photographs, resamples)} | errors


def true_scores(population: ScoredPhotographs, counts: NDArray[np.int64]) -> dict[str, float]:
    """Each score of the whole population, weighted to exactly the mix of the data sets."""
    strata = strata_of(population)
    weights = (counts / np.bincount(strata))[strata].repeat(2)[None].repeat(2, axis=0)
    values = {name: of.value for name, of in all_scores(population, from_weights(weights, population.groups)).items()}
    return {name: value for name, value in values.items() if value is not None}


def measure_intervals(population: ScoredPhotographs, options: argparse.Namespace, rng: np.random.Generator) -> None:
    """Print the fraction of intervals that cover the true score."""
    counts = np.round(np.bincount(strata_of(population)) / POPULATION * options.patients).astype(int)
    truth = true_scores(population, counts)
    found: dict[str, list[tuple[bool, bool, float]]] = {name: [] for name in truth}
    for seed, data in enumerate(draw_data_sets(population, counts, options.data_sets, rng)):
        resamples = resample(data.groups, num_resamples=options.resamples, seed=seed)
        for name, of in all_scores(data, resamples).items():
            if of.low is not None and of.high is not None:
                found[name].append((truth[name] < of.low, truth[name] > of.high, of.high - of.low))
    print(f"{options.data_sets} data sets of {counts.sum()} patients ({counts.tolist()} by worse eye), two eyes each")
    print(f"{'score':32}{'true':>8}{'covered':>9}{'below':>8}{'above':>8}{'width':>8}{'defined':>9}")
    for name, rows in found.items():
        below, above, width = np.array(rows).mean(axis=0)
        shares = f"{1 - below - above:>9.1%}{below:>8.1%}{above:>8.1%}"
        print(f"{name:32}{truth[name]:>8.4f}{shares}{width:>8.4f}{len(rows) / options.data_sets:>9.1%}")


def measure_sets(
    population: ScoredPhotographs, num_validation: int, options: argparse.Namespace, rng: np.random.Generator
) -> None:
    """Print the mean coverage of 90 % sets whose limit is chosen on validation photographs, one of each patient."""
    covered, sizes = [], []
    firsts = population.subset(np.arange(0, len(population), 2))
    for _ in range(options.data_sets):
        known = firsts.subset(rng.choice(len(firsts), num_validation))
        new = firsts.subset(rng.choice(len(firsts), 1000))
        sets = grade_sets(new.probabilities, measure_conformity(known.probabilities, known.grades).limits(0.9))
        low, high = sets.low, sets.high
        covered.append(np.mean((low <= new.grades) & (new.grades <= high)))
        sizes.append(np.mean(high - low + 1))
    print(f"90 % sets, {num_validation} validation: {np.mean(covered):.1%} covered, {np.mean(sizes):.2f} grades")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patients", type=int, default=200)
    parser.add_argument("--data-sets", type=int, default=1000)
    parser.add_argument("--resamples", type=int, default=500)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    population = simulate_population(POPULATION, rng)
    shares = np.bincount(population.grades) / len(population)
    print(f"grades {np.round(shares, 3).tolist()}, accuracy {np.mean(population.grades == population.predicted):.3f}")
    measure_intervals(population, options, rng)
    for num_validation in (50, 200, 1000):
        measure_sets(population, num_validation, options, rng)


if __name__ == "__main__":
    main()
