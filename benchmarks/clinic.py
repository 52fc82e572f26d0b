"""What a clinic's own calibration reaches on other patients: sensitivity, specificity, refusals, probabilities.

    python benchmarks/clinic.py DATA [--model NAME] [--predictions FILE] [--patients 100 200 400] [--draws 200]
                                [--elsewhere FILE]

DATA is a prepared data set with patients on which the model was not trained. The network's outputs are computed once;
with `--predictions` they are kept in a file, and taken from it if it exists. Each draw calibrates on some patients and
measures on all others. These are few, so that the sensitivity among them varies by itself: "below the target among
the others" is printed beside the share that is expected where every certificate is exact, which follows from the ranks
of the scores alone. Whether certificates are broken is measured on draws with replacement, for which all patients of
the data set are the population, and the true sensitivity of a threshold is known. With `--elsewhere`, predictions of
the same model for photographs of another place, batches of both places are counted of which `predict` would warn.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import comb

from fundusgrade import store
from fundusgrade.grades import REFERABLE_FROM
from fundusgrade.metrics.certification import Certificate, certify, num_misses_allowed
from fundusgrade.metrics.classification import probability_from_grade, quadratic_weighted_kappa
from fundusgrade.metrics.drift import measure_drift, reference_scores
from fundusgrade.metrics.local_calibration import (
    PatientScores,
    certify_patients,
    recalibrate_referable,
    recalibrated,
    score_patients,
)
from fundusgrade.metrics.operating_points import choose_threshold
from fundusgrade.metrics.predictions import PredictionSet, ScoredPhotographs, read_predictions, write_predictions
from fundusgrade.metrics.recalibration import calibration_intercepts, calibration_slopes, log_odds
from fundusgrade.metrics.score_keys import ScoreKey
from fundusgrade.metrics.scores import photograph_losses

TARGETS = (0.80, 0.85, 0.90, 0.95)
CONFIDENCE = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One certificate among the patients who were not drawn; `expected_below` as in the table."""

    sensitivity: float
    specificity: float
    expected_below: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbabilityScores:
    """Scores of the photographs of the patients who were not drawn."""

    log_loss: float
    brier: float
    slope: float
    intercept: float
    kappa: float


def outcome(certificate: Certificate, others: PatientScores) -> Outcome:
    called, positive = others.scores >= certificate.threshold, others.is_referable
    return Outcome(
        sensitivity=float(called[positive].mean()),
        specificity=float((~called[~positive]).mean()),
        expected_below=expected_below(certificate, int(positive.sum())),
    )


def expected_below(certificate: Certificate, num_others: int) -> float:
    """Chance that so many other referable patients show less than the target, at the limit of the certificate.

    Of patients in random order, the number of others below the score that limits the threshold is negative
    hypergeometric, whatever the scores are.
    """
    known = certificate.num_referable
    allowed = num_misses_allowed(known, certificate.sensitivity, certificate.confidence)
    assert allowed is not None, "it was certified"
    missed = np.arange(num_others + 1)
    chances = comb(missed + allowed, allowed) * comb(known - allowed - 1 + num_others - missed, num_others - missed)
    chances /= comb(known + num_others, known)
    return float(chances[1 - missed / num_others < certificate.sensitivity - 1e-9].sum())


def probability_scores(photographs: ScoredPhotographs) -> ProbabilityScores:
    losses, one = photograph_losses(photographs), np.ones((1, len(photographs)), np.float32)
    positive = photographs.grades >= REFERABLE_FROM
    logits = log_odds(probability_from_grade(photographs.probabilities, REFERABLE_FROM))
    return ProbabilityScores(
        log_loss=float(losses[ScoreKey.LOG_LOSS].mean()),
        brier=float(losses[ScoreKey.BRIER_SCORE].mean()),
        slope=float(calibration_slopes(one, positive, logits)[0]),
        intercept=float(calibration_intercepts(one, positive, logits)[0]),
        kappa=quadratic_weighted_kappa(photographs.grades, photographs.predicted) or 0.0,
    )


def draw(photographs: ScoredPhotographs, num_patients: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Which photographs (N,) are those of so many random patients."""
    patients = np.unique(photographs.groups)
    return np.isin(photographs.groups, rng.choice(patients, num_patients, replace=False))


def measure(
    photographs: ScoredPhotographs, thresholds: tuple[float, ...] | None, num_patients: int, num_draws: int
) -> None:
    """Print the rows of both tables for one number of patients."""
    rng = np.random.default_rng(num_patients)
    outcomes: dict[float, list[Outcome]] = {target: [] for target in TARGETS}
    scores: dict[str, list[ProbabilityScores]] = {"before": [], "after": [], "after, with grades": []}
    num_referable = []
    for _ in range(num_draws):
        drawn = draw(photographs, num_patients, rng)
        known, others = photographs.subset(drawn), photographs.subset(~drawn)
        recalibration = recalibrate_referable(known)
        fitted = recalibrated(known, recalibration, thresholds, grades=False)
        after = recalibrated(others, recalibration, thresholds, grades=False)
        num_referable.append(int(score_patients(known).is_referable.sum()))
        for target in TARGETS:
            found = certify_patients(fitted, sensitivity=target, confidence=CONFIDENCE)
            if isinstance(found, Certificate):
                outcomes[target].append(outcome(found, score_patients(after)))
        scores["before"].append(probability_scores(others))
        scores["after"].append(probability_scores(after))
        regraded = recalibrated(others, recalibration, thresholds, grades=True)
        scores["after, with grades"].append(probability_scores(regraded))
    for target, reached in outcomes.items():
        print_outcomes(photographs, num_patients, num_referable, target, reached, num_draws)
    PROBABILITY_ROWS.extend(probability_row(num_patients, name, found) for name, found in scores.items())


PROBABILITY_ROWS: list[str] = []


def print_outcomes(
    photographs: ScoredPhotographs,
    num_patients: int,
    num_referable: list[int],
    target: float,
    reached: list[Outcome],
    num_draws: int,
) -> None:
    refused = f"{100 * (1 - len(reached) / num_draws):.0f} %"
    lead = f"| {num_patients} ({np.mean(num_referable):.0f}) | {target:.2f} | {refused} |"
    if not reached:
        print(f"{lead} - | - | - | - | - |")
        return
    sensitivities = np.array([each.sensitivity for each in reached])
    below = float((sensitivities < target - 1e-9).mean())
    expected = float(np.mean([each.expected_below for each in reached]))
    specificities = [each.specificity for each in reached]
    population = score_patients(photographs)
    broken = share_broken(population, num_patients, target, certified_threshold)
    uncertified = share_broken(population, num_patients, target, plain_threshold)
    print(
        f"{lead} {spread(sensitivities)} | {spread(np.array(specificities))} | {100 * below:.0f} % "
        f"({100 * expected:.0f} %) | {broken} | {uncertified} |",
        flush=True,
    )


def certified_threshold(patients: PatientScores, target: float) -> float | None:
    found = certify(patients.scores, patients.is_referable, sensitivity=target, confidence=CONFIDENCE)
    return found.threshold if isinstance(found, Certificate) else None


def plain_threshold(patients: PatientScores, target: float) -> float | None:
    """The threshold that reaches the sensitivity on the very patients that it is chosen on."""
    return choose_threshold(patients.is_referable, patients.scores, "sensitivity", target)


def share_broken(
    population: PatientScores,
    num_patients: int,
    target: float,
    choose: Callable[[PatientScores, float], float | None],
    num_draws: int = 2000,
) -> str:
    """How often the true sensitivity of a chosen threshold is below the target, of patients drawn with replacement.

    Scores of the population are moved apart by less than their last digit, because equal scores are referred together.
    """
    rng = np.random.default_rng(num_patients + round(1000 * target))
    scores = population.scores + rng.uniform(0, 1e-9, len(population.scores))
    num_broken = num_chosen = 0
    for _ in range(num_draws):
        drawn = rng.integers(0, len(scores), num_patients)
        patients = PatientScores(scores=scores[drawn], is_referable=population.is_referable[drawn])
        threshold = choose(patients, target)
        if threshold is not None:
            num_chosen += 1
            truth = (scores[population.is_referable] >= threshold).mean()
            num_broken += bool(truth < target - 1e-9)
    return f"{100 * num_broken / num_chosen:.1f} % of {num_chosen}" if num_chosen else "-"


def print_drift(photographs: ScoredPhotographs, elsewhere: ScoredPhotographs, num_draws: int) -> None:
    """How many batches are reported as drift from 150 patients: of the same place, and of another."""
    rng = np.random.default_rng(0)
    here, there = (probability_from_grade(each.probabilities, REFERABLE_FROM) for each in (photographs, elsewhere))
    positive = elsewhere.grades >= REFERABLE_FROM
    share = float((photographs.grades >= REFERABLE_FROM).mean())
    print("\n| photographs in a batch | same place | elsewhere, as often referable | elsewhere, as it is |")
    print("|---|---|---|---|")
    for size in (50, 100, 200):
        reported: list[list[bool]] = [[], [], []]
        for _ in range(num_draws):
            drawn = draw(photographs, 150, rng)
            reference, rest = reference_scores(here[drawn], photographs.groups[drawn]), photographs.subset(~drawn)
            same = here[~drawn][draw(rest, size // 2, rng)]
            alike = np.concatenate([
                rng.choice(there[positive], round(share * size), replace=False),
                rng.choice(there[~positive], size - round(share * size), replace=False),
            ])  # fmt: skip
            for found, scores in zip(reported, (same, alike, rng.choice(there, size, replace=False)), strict=True):
                drift = measure_drift(scores.tolist(), reference)
                found.append(drift is not None and drift.is_significant)
        print(f"| {size} | {' | '.join(f'{100 * np.mean(found):.1f} %' for found in reported)} |")


def spread(values: NDArray[np.float64]) -> str:
    low, high = np.quantile(values, [0.05, 0.95])
    return f"{values.mean():.3f} ({low:.2f} to {high:.2f})"


def probability_row(num_patients: int, name: str, found: list[ProbabilityScores]) -> str:
    def mean(of: Callable[[ProbabilityScores], float]) -> str:
        return f"{np.nanmean([of(each) for each in found]):.3f}"

    cells = [mean(lambda s: s.log_loss), mean(lambda s: s.brier), mean(lambda s: s.slope), mean(lambda s: s.intercept)]
    return f"| {num_patients} | {name} | {' | '.join(cells)} | {mean(lambda s: s.kappa)} |"


def predictions_of(data: str, model: str | None, file: Path | None) -> tuple[ScoredPhotographs, str]:
    """The photographs of patients who can take part, graded by the model once, and the model's name."""
    if file is not None and file.is_file():
        stored = read_predictions(file)
        return stored.test, stored.model
    # PyTorch is loaded only where the network runs.
    from fundusgrade.data.concatenation import open_dataset
    from fundusgrade.grading.datasets import score_rows
    from fundusgrade.grading.grader import Grader
    from fundusgrade.training.clinic import find_participants

    dataset, grader = open_dataset([data]), Grader.load(model)
    photographs = score_rows(grader, dataset, find_participants(dataset).rows)
    if file is not None:
        nothing = photographs.subset(np.zeros(0, np.int64))
        write_predictions(
            PredictionSet(model=grader.name, data=dataset.name, test=photographs, validation=nothing), file
        )
    return photographs, grader.name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--model")
    parser.add_argument("--predictions", type=Path)
    parser.add_argument("--elsewhere", type=Path)
    parser.add_argument("--patients", type=int, nargs="*", default=[100, 200, 400])
    parser.add_argument("--draws", type=int, default=200)
    options = parser.parse_args()
    photographs, name = predictions_of(options.data, options.model, options.predictions)
    described = json.loads(store.resolve_model(options.model).with_name(store.MODEL_JSON).read_text(encoding="utf-8"))
    thresholds = None if described["thresholds"] is None else tuple(described["thresholds"])
    patients = score_patients(photographs)
    print(f"{name}: {len(photographs)} photographs of {len(patients.scores)} patients, {patients.is_referable.sum()}")
    print(
        "| patients (referable) | asked for | refused | sensitivity | specificity | below (expected) | broken "
        "| broken without a certificate |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for num_patients in options.patients:
        measure(photographs, thresholds, num_patients, options.draws)
    print(
        "\n| patients | probabilities | log loss | Brier | slope | intercept | kappa |\n|---|---|---|---|---|---|---|"
    )
    print("\n".join(PROBABILITY_ROWS))
    if options.elsewhere is not None:
        print_drift(photographs, read_predictions(options.elsewhere).test, options.draws)


if __name__ == "__main__":
    main()
