"""What a clinic reads: the certificate with its assumptions, the scores before and after, and drift in plain words."""

from __future__ import annotations

import numpy as np

from fundusgrade.metrics.certification import Certificate
from fundusgrade.metrics.drift import measure_drift, reference_scores
from fundusgrade.metrics.local_calibration import cross_recalibrated, recalibrate_referable, recalibrated
from fundusgrade.metrics.recalibration import Recalibration
from fundusgrade.metrics.score_keys import ScoreKey
from fundusgrade.networks.local_calibration import LocalCalibration
from fundusgrade.reports.calibration import recalibration_table
from fundusgrade.reports.listings import calibration_line, drift_line
from tests.scored import draw_photographs


def calibration(scores: np.ndarray) -> LocalCalibration:
    return LocalCalibration(
        parent="shipped",
        parent_sha256="ab" * 32,
        created="2026-11-26T07:00:00+00:00",
        data_name="clinic",
        data_hash="cd" * 32,
        camera="",
        precision="float32",
        recalibration=Recalibration(slope=0.8, intercept=0.1),
        changes_grades=False,
        certificate=Certificate(
            threshold=0.0873,
            sensitivity=0.9,
            confidence=0.9,
            num_referable=45,
            num_missed=1,
            num_others=155,
            num_others_referred=60,
        ),
        scores=reference_scores(scores, np.arange(len(scores)) // 2),
    )


def test_a_model_of_a_clinic_is_introduced_with_its_certificate() -> None:
    line = calibration_line("mine", calibration(np.linspace(0, 1, 300)), is_certified=True, precision="float32")
    assert line == (
        "mine: made of shipped (weights abababababab) on 300 photographs of 150 patients of clinic, 2026-11-26; a "
        "sensitivity of 0.9 is certified at a confidence of 0.9, from a probability of referable DR of 0.0873: it "
        "refers 44 of the 45 referable patients and 60 of the 155 others"
    )


def test_a_higher_threshold_is_said_not_to_be_certified() -> None:
    line = calibration_line("mine", calibration(np.linspace(0, 1, 300)), is_certified=False, precision="float32")
    assert line.endswith("The threshold of this run is higher, and not certified")


def test_another_arithmetic_than_that_of_the_calibration_is_said() -> None:
    line = calibration_line("mine", calibration(np.linspace(0, 1, 300)), is_certified=True, precision="bfloat16")
    assert "computed in float32 then and are in bfloat16 now" in line and "--precision float32" in line


def test_drift_is_a_warning_and_its_absence_is_said_too() -> None:
    rng = np.random.default_rng(0)
    known = calibration(rng.random(300))
    same, other = (measure_drift((rng.random(200) ** power).tolist(), known.scores) for power in (1, 2))
    assert same is not None and other is not None
    assert drift_line(known, same).startswith("no drift from the calibration on clinic found")
    assert drift_line(known, None).startswith("fewer than 50 graded photographs: not tested")
    warning = drift_line(known, other)
    assert warning.startswith("WARNING: these photographs do not score like those of clinic")
    medians = f"median {other.median:.3f} of 200 photographs, {other.reference_median:.3f} of the calibration's 300"
    assert medians in warning


def test_the_table_compares_probabilities_before_and_after_with_intervals() -> None:
    before = draw_photographs(120, 3)
    # Overconfident: the recalibration has something to mend.
    before = recalibrated(before, Recalibration(slope=2.5, intercept=1.0), None, grades=False)
    after = cross_recalibrated(before, None, grades=False)
    table = recalibration_table(before, after)
    cells = [list(column.cells) for column in table.columns]
    assert cells[0][0] == ScoreKey.LOG_LOSS.label
    assert all(" to " in cell for column in cells[1:] for cell in column)
    first, second = (float(str(column[0]).split()[0]) for column in cells[1:])
    assert second < first
    assert recalibrate_referable(before).slope < 1
