"""`calibrate`: from a folder of graded photographs to a model that refers by a certified threshold."""

from __future__ import annotations

from pathlib import Path

import pytest

from fundusgrade import store
from fundusgrade.metrics import drift
from fundusgrade.networks.checkpoint_file import read_description
from fundusgrade.networks.local_calibration import LocalCalibration
from tests.command_line import Outcome, rows_of
from tests.models_for_tests import install_model, save_photographs


@pytest.fixture
def clinic(workplace: Path) -> Path:
    """Twenty patients with one photograph each, twelve of them referable, prepared for the model `tiny`."""
    folder = workplace / "clinic"
    save_photographs(folder / "images", range(20))
    rows = [f"eye{number:02d}.png,{number % 5},p{number}\n" for number in range(20)]
    (folder / "labels.csv").write_text("image,level,patient\n" + "".join(rows))
    install_model()
    outcome = Outcome("fundusgrade preprocess clinic --size 64 --method natural --workers 1")
    assert outcome.code == 0, outcome.stderr
    return folder


def test_calibrate_certifies_a_sensitivity_and_predict_says_so(clinic: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = "fundusgrade calibrate tiny --data clinic --name mine --sensitivity 0.8 --camera Topcon"
    outcome = Outcome(command)
    assert outcome.code == 0, outcome.stderr
    assert "a sensitivity of 0.8 is certified at a confidence of 0.9" in outcome.stdout
    assert "of 20 patients of clinic, camera Topcon" in outcome.stdout
    assert "it holds if\n- future referable patients resemble" in outcome.stdout
    assert "calibration intercept" in outcome.stdout
    monkeypatch.setattr(drift, "MIN_PHOTOGRAPHS", 20)
    predicted = Outcome("fundusgrade predict clinic/images --model mine --csv rows.csv")
    assert "a sensitivity of 0.8 is certified at a confidence of 0.9" in predicted.stderr
    assert "no drift from the calibration on clinic found" in predicted.stderr
    certificate = _calibration("mine").certificate
    rows = rows_of(Path("rows.csv").read_text())
    referred = [float(row["referable_probability"]) >= certificate.threshold for row in rows]
    is_referable = [number % 5 >= 2 for number in range(20)]
    num_found = sum(called and truth for called, truth in zip(referred, is_referable, strict=True))
    assert num_found == certificate.num_referable - certificate.num_missed == 12
    assert sum(referred) == num_found + certificate.num_others_referred
    assert {row["referable_threshold"] for row in rows} == {f"{certificate.threshold:g}"}


def test_another_threshold_than_the_certified_one_is_said_not_to_be_certified(clinic: Path) -> None:
    assert Outcome("fundusgrade calibrate tiny --data clinic --name mine --sensitivity 0.8").code == 0
    predicted = Outcome("fundusgrade predict clinic/images/eye00.png --model mine --csv rows.csv --threshold 1")
    assert "The threshold of this run is higher, and not certified" in predicted.stderr


def test_a_sensitivity_that_is_not_certifiable_ends_with_what_is(clinic: Path) -> None:
    outcome = Outcome("fundusgrade calibrate tiny --data clinic --name mine")
    assert outcome.code == 1
    assert "needs 10 more referable patients (12 of 22); the best that 12 can certify is 0.82" in outcome.stderr


def _calibration(name: str) -> LocalCalibration:
    calibration = read_description(store.resolve_model(name)).local_calibration
    assert calibration is not None
    return calibration
