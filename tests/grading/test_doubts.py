"""Doubts about photographs: the three warnings, borderline quality, and what is withheld and how it is stated."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fundusgrade.grades import Gradability, Prediction, Referral, Ungraded
from fundusgrade.grading.doubts import NEAR_THRESHOLD, NOT_A_FUNDUS, REJECTED, UNLIKE_TRAINING, find_doubts
from fundusgrade.grading.grader import Grader
from fundusgrade.metrics.referral import OperatingPoint, ReferralScores
from fundusgrade.networks.checkpoint import load_checkpoint, replace_description
from fundusgrade.networks.feature_checks import MEASUREMENTS, FeatureChecks, FeatureReference, QualityCheck
from fundusgrade.photographs.loading import load_pixels
from fundusgrade.photographs.recipe import PreprocessRecipe
from fundusgrade.reports.listings import doubts_in_words, prediction_line, probabilities_in_words
from tests.drawn_eyes import healthy_eye
from tests.models_for_tests import install_model

NUM_FEATURES = 128


def checks(*, limit: float = 1e3, log_odds: float = -9.0) -> FeatureChecks:
    """Checks of the small CNN's features that flag by `limit` alone, and give every photograph the same log-odds."""
    reference = FeatureReference(
        mean=np.zeros(NUM_FEATURES),
        components=np.eye(2, NUM_FEATURES),
        variances=np.ones(2),
        residual_variance=np.ones(1),
        limit=np.array([limit]),
    )
    count = len(MEASUREMENTS)
    quality = QualityCheck(
        center=np.zeros(count),
        scale=np.ones(count),
        weights=np.zeros(2 + count),
        intercept=np.array([log_odds]),
        limits=np.array([0.15, 0.5]),
    )
    return FeatureChecks(reference=reference, quality=quality)


def graded(added: FeatureChecks | None, **options: bool) -> Prediction | Ungraded:
    path = install_model()
    if added is not None:
        replace_description(path, load_checkpoint(path).description, checks=added)
    grader = Grader.load("tiny", device="cpu", precision="float32", **options)  # type: ignore[arg-type]
    [result] = grader.grade_images([healthy_eye(300).photograph])
    return result


def test_a_model_without_checks_grades_as_before_and_says_nothing() -> None:
    without, harmless = graded(None), graded(checks())
    assert isinstance(without, Prediction) and isinstance(harmless, Prediction)
    assert without.reject_probability is None and without.training_distance is None and without.warnings == ()
    assert harmless.probabilities == without.probabilities
    assert harmless.gradability is Gradability.GRADABLE and not harmless.is_flagged


def test_a_photograph_beyond_the_limit_is_unlike_the_training_photographs() -> None:
    near, far = graded(checks(limit=1e3)), graded(checks(limit=1e-3))
    assert isinstance(near, Prediction) and isinstance(far, Prediction)
    assert near.training_distance is not None and far.training_distance is not None
    assert far.training_distance == pytest.approx(1e6 * near.training_distance, rel=1e-5)
    assert (near.warnings, far.warnings) == ((), (UNLIKE_TRAINING,))


@pytest.mark.parametrize(
    ("log_odds", "gradability"),
    [(-9.0, Gradability.GRADABLE), (-1.0, Gradability.BORDERLINE), (1.0, Gradability.NOT_GRADABLE)],
)
def test_the_probability_of_a_reject_makes_a_photograph_borderline_or_not_gradable(
    log_odds: float, gradability: Gradability
) -> None:
    result = graded(checks(log_odds=log_odds))
    assert isinstance(result, Prediction) and result.gradability is gradability
    assert result.quality_reasons == ((REJECTED,) if gradability is Gradability.NOT_GRADABLE else ())
    assert result.reject_probability == pytest.approx(1 / (1 + np.exp(-log_odds)), abs=1e-6)
    if gradability is Gradability.NOT_GRADABLE:
        assert result.referable is not Referral.NO


def test_what_graders_would_reject_is_withheld_where_only_gradable_ones_are_wanted() -> None:
    result = graded(checks(log_odds=1.0, limit=1e-3), require_gradable=True)
    assert isinstance(result, Ungraded) and result.quality_reasons == (REJECTED,)
    assert result.reason == f"not gradable: {REJECTED}"
    assert result.referable is Referral.UNGRADABLE and result.warnings == (UNLIKE_TRAINING,)
    assert isinstance(graded(checks(log_odds=-1.0), require_gradable=True), Prediction)


def test_what_shows_no_retina_is_refused_with_its_warning_and_an_unreadable_file_is_not_so_called(
    tmp_path: Path,
) -> None:
    install_model()
    grader = Grader.load("tiny", device="cpu")  # type: ignore[arg-type]
    [page] = grader.grade_images([np.full((200, 300, 3), 250, np.uint8)])
    (tmp_path / "broken.png").write_bytes(b"no image")
    assert page.warnings == (NOT_A_FUNDUS,)
    assert grader.grade(tmp_path / "broken.png").warnings == ()


def test_measured_and_learned_reasons_stand_side_by_side() -> None:
    loaded = load_pixels(healthy_eye(300).photograph, PreprocessRecipe(size_px=64))
    dark = replace(loaded, artifacts=replace(loaded.artifacts, shadow_fraction=0.4))
    features = np.zeros((2, NUM_FEATURES), np.float32)
    plain, doubted = find_doubts([loaded, dark], checks(log_odds=1.0), features, near_threshold=[False, True])
    assert plain.quality_reasons == (REJECTED,)
    assert doubted.quality_reasons == ("shadow over part of the retina", REJECTED)
    assert (plain.warnings, doubted.warnings) == ((), (NEAR_THRESHOLD,))


def test_a_tenth_of_the_known_photographs_is_near_the_operating_point() -> None:
    scores = np.round(np.random.default_rng(0).random(1000), 4)
    known = ReferralScores(data="drawn", referable=tuple(scores[:300]), others=tuple(scores[300:]))
    for threshold in (0.0, 0.3, 0.97, 1.0):
        low, high = OperatingPoint(threshold=threshold, chosen_on=(known,)).near_range() or (0.0, 0.0)
        is_near = (scores >= low) & (scores <= high)
        assert low <= threshold <= high and 0.04 < is_near.mean() < 0.11
    assert OperatingPoint(threshold=0.3).near_range() is None


def test_of_a_flagged_photograph_no_probability_beyond_095_is_stated() -> None:
    sure = Prediction(image="a", model="m", probabilities=(0.97, 0.02, 0.005, 0.003, 0.002))
    assert sure.decided_by == "most probable, p = 0.97"
    for doubt in ({"warnings": (UNLIKE_TRAINING,)}, {"is_borderline": True}, {"quality_reasons": ("too dark",)}):
        flagged = replace(sure, **doubt)  # type: ignore[arg-type]
        line = prediction_line(flagged)
        assert "p > 0.95" in line and "p < 0.05" in line and "0.97" not in line
        assert probabilities_in_words(flagged).startswith("no DR > 0.95, mild < 0.05")
        assert line.endswith(doubts_in_words(flagged))
    assert "= 0.60" in replace(sure, probabilities=(0.6, 0.4, 0, 0, 0), is_borderline=True).decided_by
