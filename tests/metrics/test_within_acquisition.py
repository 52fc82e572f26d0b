"""Scores within acquisition equal brute force over photographs of one cluster, and cameras earn no credit."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import cohen_kappa_score, roc_auc_score

from fundusgrade.metrics import confusion
from fundusgrade.metrics.bootstrap import Resamples, resample
from fundusgrade.metrics.classification import confusion_matrix
from fundusgrade.metrics.predictions import ScoredPhotographs
from fundusgrade.metrics.score_keys import WITHIN_ACQUISITION_KEYS, ScoreKey
from fundusgrade.metrics.scores import (
    aucs_within_acquisition,
    find_score,
    kappas_within_acquisition,
    score_predictions,
)
from tests.scored import by_key, draw_photographs, grade_again, scored

KAPPA, BY_GRADE, AUC, COMMONEST = WITHIN_ACQUISITION_KEYS


def with_cameras(photographs: ScoredPhotographs, seed: int = 0, num_cameras: int = 3) -> ScoredPhotographs:
    """The photographs of three cameras, sicker eyes more often with the later ones."""
    noise = np.random.default_rng(seed).normal(0, 1, len(photographs))
    cameras = np.clip((photographs.grades + noise).astype(int), 0, num_cameras - 1) + 1
    return replace(photographs, acquisitions=cameras.astype(np.int64))


def cameras_of(photographs: ScoredPhotographs) -> NDArray[np.int64]:
    assert photographs.acquisitions is not None
    return photographs.acquisitions


def resampled(photographs: ScoredPhotographs, count: int = 20) -> Resamples:
    return resample(photographs.groups, num_resamples=count)


def brute_force_kappa(photographs: ScoredPhotographs) -> float:
    """1 - observed / expected: expected if answers were exchanged among the photographs of each cluster."""
    observed = expected = 0.0
    for camera in set(cameras_of(photographs).tolist()):
        members = np.flatnonzero(cameras_of(photographs) == camera)
        true, answers = photographs.grades[members], photographs.predicted[members]
        observed += sum((true - answers) ** 2)
        expected += sum((a - b) ** 2 for a, b in product(true, answers)) / len(members)
    return 1 - observed / expected


def brute_force_auc(photographs: ScoredPhotographs) -> float:
    probability, positive = photographs.probabilities[:, 2:].sum(axis=1), photographs.grades >= 2
    wins = [
        (probability[i] > probability[j]) + (probability[i] == probability[j]) / 2
        for i, j in product(range(len(photographs)), repeat=2)
        if positive[i] and not positive[j] and cameras_of(photographs)[i] == cameras_of(photographs)[j]
    ]
    return float(np.mean(wins))


@pytest.mark.parametrize("seed", range(4))
def test_scores_within_acquisition_are_those_of_brute_force(seed: int) -> None:
    photographs = with_cameras(draw_photographs(80, seed), seed)
    ours = by_key(score_predictions(photographs, resampled(photographs)))
    assert ours[KAPPA] == pytest.approx(brute_force_kappa(photographs), abs=1e-12)
    assert ours[AUC] == pytest.approx(brute_force_auc(photographs), abs=1e-7)
    commonest = [
        np.bincount(photographs.grades[cameras_of(photographs) == camera]).max()
        for camera in np.unique(cameras_of(photographs))
    ]
    assert ours[COMMONEST] == pytest.approx(sum(commonest) / 80)


def test_resamples_score_what_was_drawn() -> None:
    photographs = with_cameras(draw_photographs(60, 7))
    resamples = resampled(photographs)
    kappas = kappas_within_acquisition(photographs, resamples)
    aucs = aucs_within_acquisition(photographs, resamples)
    for number in (1, 5, 20):
        # Of 60 groups 59 are drawn, each with the weight 60 / 59.
        drawn = np.rint(resamples.weights[number] * 59 / 60).astype(int)
        again = photographs.subset(np.repeat(np.arange(60), drawn))
        assert kappas[number] == pytest.approx(brute_force_kappa(again), abs=1e-5)
        assert aucs[number] == pytest.approx(brute_force_auc(again), abs=1e-5)


def test_one_cluster_gives_the_ordinary_scores_of_scikit_learn() -> None:
    photographs = with_cameras(draw_photographs(300, 2), num_cameras=1)
    ours = by_key(score_predictions(photographs, resampled(photographs)))
    assert ours[KAPPA] == pytest.approx(ours[ScoreKey.KAPPA]) and ours[KAPPA] == pytest.approx(ours[BY_GRADE])
    theirs = cohen_kappa_score(photographs.grades, photographs.predicted, weights="quadratic")
    assert ours[KAPPA] == pytest.approx(theirs)
    area = roc_auc_score(photographs.grades >= 2, photographs.probabilities[:, 2:].sum(axis=1))
    assert ours[AUC] == pytest.approx(ours[ScoreKey.REFERABLE_AUC]) and ours[AUC] == pytest.approx(area)
    assert ours[COMMONEST] == ours[ScoreKey.COMMONEST_GRADE_ACCURACY] == np.bincount(photographs.grades).max() / 300


def test_within_acquisition_the_kappa_is_the_mean_of_clusters_by_their_disagreement_by_chance() -> None:
    photographs = with_cameras(draw_photographs(200, 3))
    parts = [photographs.subset(cameras_of(photographs) == camera) for camera in (1, 2, 3)]
    kappas, weights = [], []
    for part in parts:
        kappas.append(cohen_kappa_score(part.grades, part.predicted, weights="quadratic"))
        weights.append(sum((a - b) ** 2 for a, b in product(part.grades, part.predicted)) / len(part))
    once = resampled(photographs)
    assert kappas_within_acquisition(photographs, once)[0] == pytest.approx(np.average(kappas, weights=weights))


def test_a_model_that_recognizes_the_camera_earns_nothing_within_it() -> None:
    """Its answers depend on the camera alone: they look right overall, and are worth nothing."""
    photographs = with_cameras(draw_photographs(400, 4))
    by_camera = np.array([0, 1, 3])[cameras_of(photographs) - 1]
    table = np.eye(5)[by_camera] * 0.8 + 0.04
    cameras_only = replace(scored(photographs.grades, table), acquisitions=photographs.acquisitions)
    ours = by_key(score_predictions(cameras_only, resampled(cameras_only)))
    assert ours[KAPPA] == pytest.approx(0, abs=1e-12) and ours[AUC] == 0.5
    assert (ours[BY_GRADE] or 0) > 0.2, "by the same errors, without the camera"
    assert (ours[ScoreKey.KAPPA] or 0) > 0.5 and (ours[ScoreKey.REFERABLE_AUC] or 0) > 0.75


def test_a_model_that_sees_the_retina_keeps_its_auc_whatever_the_cameras() -> None:
    """Cameras drawn without regard to the grade explain nothing, so scores within them are those overall."""
    photographs = draw_photographs(3000, 5)
    cameras = np.random.default_rng(0).integers(1, 5, 3000)
    ours = by_key(score_predictions(replace(photographs, acquisitions=cameras), resampled(photographs)))
    assert ours[KAPPA] == pytest.approx(ours[ScoreKey.KAPPA], abs=0.005)
    assert ours[AUC] == pytest.approx(ours[ScoreKey.REFERABLE_AUC], abs=0.005)


def test_where_answers_depend_on_the_grade_only_the_kappa_within_acquisition_is_as_expected() -> None:
    """It is far below the kappa overall, only because grades vary less within a cluster."""
    photographs = with_cameras(draw_photographs(5000, 8))
    ours = by_key(score_predictions(photographs, resampled(photographs, 2)))
    assert ours[KAPPA] == pytest.approx(ours[BY_GRADE], abs=0.01)
    assert (ours[KAPPA] or 0) < (ours[ScoreKey.KAPPA] or 0) - 0.1


def test_answers_by_grade_only_are_the_mean_of_answers_exchanged_between_photographs_of_one_grade() -> None:
    photographs = with_cameras(draw_photographs(60, 9))
    cameras, rng = cameras_of(photographs), np.random.default_rng(0)
    exact = np.stack([
        confusion_matrix(photographs.grades[cameras == camera], photographs.predicted[cameras == camera])
        for camera in (1, 2, 3)
    ]).astype(float)  # fmt: skip
    mean = np.zeros((3, 5, 5))
    for _ in range(4000):
        exchanged = photographs.predicted.copy()
        for grade in range(5):
            members = np.flatnonzero(photographs.grades == grade)
            exchanged[members] = photographs.predicted[rng.permutation(members)]
        np.add.at(mean, (cameras - 1, photographs.grades, exchanged), 1 / 4000)
    assert np.abs(confusion.answers_by_grade_only(exact[None])[0] - mean).max() < 0.1


def test_intervals_contain_the_score_and_narrow_with_more_groups() -> None:
    photographs = with_cameras(draw_photographs(600, 6))
    few = replace(photographs, groups=photographs.groups // 10)
    wide, narrow = (score_predictions(each, resampled(each, 300)) for each in (few, photographs))
    for key in (*WITHIN_ACQUISITION_KEYS, ScoreKey.REFERABLE_CALIBRATION_SLOPE, ScoreKey.COMMONEST_GRADE_ACCURACY):
        estimate = find_score(narrow, key)
        assert estimate.value is not None and estimate.low is not None and estimate.high is not None
        assert estimate.low < estimate.value < estimate.high
        assert find_score(wide, key).value == pytest.approx(estimate.value)


def test_scores_within_acquisition_are_undefined_with_the_reason_where_it_is_not_known() -> None:
    photographs = draw_photographs(50, 1)
    scores = {each.key: each for each in score_predictions(photographs, resampled(photographs))}
    for key in WITHIN_ACQUISITION_KEYS:
        assert scores[key].estimate.value is None and "not known how" in scores[key].undefined_reason


def test_clusters_in_which_nothing_varies_leave_scores_undefined() -> None:
    """Each camera photographed one grade: there is no pair, and chance leaves no disagreement."""
    photographs = scored([0] * 10 + [3] * 10, np.eye(5)[[0] * 10 + [3] * 10], groups=range(20))
    photographs = replace(photographs, acquisitions=np.repeat([1, 2], 10))
    ours = by_key(score_predictions(photographs, resampled(photographs)))
    assert ours[KAPPA] is None and ours[AUC] is None and ours[COMMONEST] == 1
    wrong = grade_again(photographs, 3)
    assert np.isfinite(kappas_within_acquisition(replace(wrong, acquisitions=photographs.acquisitions),
                                                 resampled(photographs))[0])  # fmt: skip


def test_stratified_kappas_of_empty_strata_are_those_without_them() -> None:
    matrices = np.random.default_rng(0).integers(0, 9, (4, 2, 5, 5)).astype(float)
    padded = np.concatenate([matrices, np.zeros((4, 1, 5, 5))], axis=1)
    assert confusion.stratified_kappas(padded) == pytest.approx(confusion.stratified_kappas(matrices))
    assert confusion.stratified_kappas(matrices[:, :1]) == pytest.approx(confusion.kappas(matrices[:, 0]))
    assert np.isnan(confusion.stratified_kappas(np.zeros((1, 3, 5, 5)))).all()
