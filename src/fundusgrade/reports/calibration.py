"""A clinic's calibration for people: who took part, what is certified, and the probabilities before and after."""

from __future__ import annotations

from rich.table import Table

from fundusgrade.metrics.bootstrap import resample
from fundusgrade.metrics.predictions import ScoredPhotographs
from fundusgrade.metrics.score_keys import ScoreKey
from fundusgrade.metrics.scores import find_score, score_predictions
from fundusgrade.networks.local_calibration import ASSUMPTIONS
from fundusgrade.training.clinic import Calibrated, Participants

_SCORES = (
    ScoreKey.LOG_LOSS,
    ScoreKey.BRIER_SCORE,
    ScoreKey.REFERABLE_CALIBRATION_SLOPE,
    ScoreKey.REFERABLE_CALIBRATION_INTERCEPT,
    ScoreKey.KAPPA,
    ScoreKey.ACCURACY,
)

_UNKNOWN_TRAINING = "- the model was not trained on these patients, which its file does not say"


def recalibration_table(before: ScoredPhotographs, after: ScoredPhotographs) -> Table:
    """Scores of photographs with the model's probabilities, and with recalibrated ones, with 95 % intervals."""
    table = Table("score (95 % CI)", "before", "after (cross-validated by patient)")
    resamples = resample(before.groups)
    scores = [score_predictions(photographs, resamples) for photographs in (before, after)]
    for key in _SCORES:
        table.add_row(key.label, *(find_score(of, key).describe() for of in scores))
    return table


def calibration_lines(calibrated: Calibrated) -> list[str]:
    """Who took part, what is certified, what it assumes, what changes, and where the model is; a line each."""
    calibration, participants = calibrated.calibration, calibrated.participants
    recalibration = calibration.recalibration
    grades = "grades follow from them" if calibration.changes_grades else "grades stay as they were"
    return [
        calibration.describe(),
        *([] if calibrated.relabeled is None else [f"labels: {calibrated.relabeled.describe()}"]),
        *_left_out(participants),
        calibration.certificate.describe(),
        "it holds if",
        *(f"- {assumption}" for assumption in ASSUMPTIONS),
        *([] if calibrated.training_is_known else [_UNKNOWN_TRAINING]),
        f"probabilities: log odds of each grade or worse times {recalibration.slope:.3f}, "
        f"{recalibration.intercept:+.3f}; {grades}",
        f"model: {calibrated.path}",
    ]


def _left_out(participants: Participants) -> list[str]:
    counts = (
        (participants.num_unreadable, "a photograph that could not be prepared, who are referred in any case"),
        (participants.num_unlabeled, "a photograph without a grade"),
    )
    return [f"left out: {count} patients with {reason}" for count, reason in counts if count]
