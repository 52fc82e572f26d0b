"""The fit of feature checks: against scikit-learn, on simulated features, and with a model from the command line."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.decomposition import PCA

from fundusgrade.errors import TrainingError
from fundusgrade.networks.feature_checks import MEASUREMENTS
from fundusgrade.training.feature_checks import (
    LabeledQuality,
    cross_validate,
    fit_quality_check,
    fit_reference,
)

SPREAD = np.array([6.0, 4.0, 3.0] + [0.7] * 37)


def features(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 40)) * SPREAD


def test_the_reference_is_probabilistic_pca_by_maximum_likelihood() -> None:
    train = features(500, 0)
    reference, expected = fit_reference(train, features(100, 1), num_components=3), PCA(3).fit(train)
    # scikit-learn divides by N - 1, maximum likelihood by N.
    assert reference.variances == pytest.approx(expected.explained_variance_ * 499 / 500)
    assert reference.residual_variance[0] == pytest.approx(expected.noise_variance_ * 499 / 500)
    assert np.abs(reference.components @ expected.components_.T) == pytest.approx(np.eye(3), abs=1e-9)


def test_one_percent_of_photographs_like_the_training_photographs_is_flagged_and_all_that_are_unlike() -> None:
    reference = fit_reference(features(2000, 0), features(2000, 1))
    alike = reference.distances(features(4000, 2))
    assert 0.004 < (alike > 1).mean() < 0.02
    in_a_new_direction = features(50, 3) + 8 * np.eye(40)[20]
    assert (reference.distances(in_a_new_direction) > 1).all()


def test_too_few_photographs_are_an_error() -> None:
    with pytest.raises(TrainingError, match=r"19 training and 30 validation photographs; feature checks need 20"):
        fit_reference(features(19, 0), features(30, 1))


def labeled(*, by_patient: bool) -> LabeledQuality:
    """200 photographs of 100 patients; the label follows a direction of the features, or the patient alone."""
    rng = np.random.default_rng(4)
    patients = np.repeat(np.arange(100), 2)
    values = features(200, 5)
    of_patient = rng.normal(size=100)[patients]
    if by_patient:
        values = np.repeat(features(100, 6), 2, axis=0) + 0.01 * values
    is_reject = (of_patient if by_patient else values[:, 30] / 0.7) > 0.8
    return LabeledQuality(
        features=values.astype(np.float32),
        measured=rng.normal(size=(200, len(MEASUREMENTS))),
        names=np.arange(200).astype(str),
        labels=np.where(is_reject, "reject", np.where(rng.random(200) < 0.3, "usable", "good")),
        patients=patients.astype(str),
        is_flagged=np.zeros(200, np.bool_),
    )


def auc(probabilities: np.ndarray, is_positive: np.ndarray) -> float:
    return float((probabilities[is_positive][:, None] > probabilities[~is_positive]).mean())


def test_cross_validation_keeps_the_photographs_of_a_patient_together() -> None:
    """Where only the patient determines the label, other patients' photographs cannot tell it; one's own could."""
    sample = labeled(by_patient=True)
    is_reject = sample.labels == "reject"
    inputs = sample.features.astype(np.float64)
    assert 0.3 < auc(cross_validate(inputs, is_reject, sample.patients), is_reject) < 0.7
    ignoring_patients = np.array([str(index) for index in range(200)])
    assert auc(cross_validate(inputs, is_reject, ignoring_patients), is_reject) > 0.75


def test_the_quality_check_finds_what_the_labels_follow_and_counts_its_own_errors() -> None:
    sample = labeled(by_patient=False)
    reference = fit_reference(features(500, 0), features(100, 1), num_components=40)
    reference = replace(fit_reference(features(500, 0), features(100, 1)), limit=reference.limit)
    check, rates = fit_quality_check(reference, sample)
    probabilities = check.probabilities(reference.coordinates(sample.features), sample.measured)
    is_reject = sample.labels == "reject"
    assert auc(probabilities, is_reject) > 0.8
    assert [rate.label for rate in rates] == ["good", "usable", "reject"]
    assert sum(rate.num_photographs for rate in rates) == 200
    all_flagged = replace(sample, is_flagged=np.ones(200, np.bool_))
    _, flagged = fit_quality_check(reference, all_flagged)
    assert all(rate.num_not_gradable == rate.num_photographs and rate.num_borderline == 0 for rate in flagged)


def test_a_quality_check_needs_rejects() -> None:
    sample = labeled(by_patient=False)
    reference = fit_reference(features(500, 0), features(100, 1))
    with pytest.raises(TrainingError, match=r"0 of 200 photographs are labeled reject"):
        fit_quality_check(reference, replace(sample, labels=np.full(200, "good")))
