"""Calibration: known distortions are undone, and what is fitted moves as little as the outputs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from scipy.stats import logistic
from sklearn.linear_model import LogisticRegression

from fundusgrade.networks.head_logits import grade_logits
from fundusgrade.networks.heads import NO_OFFSETS, NUM_OUTPUTS, UNCALIBRATED, Calibration
from fundusgrade.options import Head
from fundusgrade.training.calibration import fit_calibration, frequency_offsets
from tests.scored import MIX

Floats = NDArray[np.float64]
Grades = NDArray[np.int64]

COUNTS = np.array([500, 100, 300, 60, 40])
NUM_PHOTOGRAPHS = 4000


def draw_grades(probabilities: Floats, seed: int = 0) -> Grades:
    """Grades sampled from these probabilities (N, 5), which are therefore calibrated."""
    points = np.random.default_rng(seed).uniform(size=(len(probabilities), 1))
    return np.asarray((points > probabilities.cumsum(axis=1)).sum(axis=1).clip(max=4), np.int64)


def read(head: Head, outputs: Floats, calibration: Calibration = UNCALIBRATED) -> Floats:
    logits = grade_logits(head, torch.from_numpy(outputs), calibration)
    return np.asarray(torch.softmax(logits, dim=1).numpy(), np.float64)


def calibrated_sample(head: Head, seed: int = 0, *, num_photographs: int = NUM_PHOTOGRAPHS) -> tuple[Floats, Grades]:
    """Outputs of a head, and grades sampled from the probabilities of those outputs; cumulative logits fall."""
    outputs = np.random.default_rng(seed).normal(1.0, 1.5, (num_photographs, NUM_OUTPUTS[head]))
    if head is Head.CUMULATIVE:
        outputs = 1.2 * (outputs[:, :1] + 0.3 * np.abs(outputs[:, 1:2]) * -np.arange(4) - np.arange(4) + 0.5)
    return outputs, draw_grades(read(head, outputs), seed + 1)


def fit(
    head: Head, outputs: Floats, grades: Grades, *, power: float = 0.0, counts: NDArray[np.int64] = COUNTS
) -> Calibration:
    return fit_calibration(head, torch.from_numpy(outputs), grades, counts, class_weight_power=power)


def log_loss(probabilities: Floats, grades: Grades) -> float:
    return float(-np.log(probabilities[np.arange(len(grades)), grades]).mean())


def expected_calibration_error(probabilities: Floats, grades: Grades) -> float:
    """Mean absolute difference of confidence and accuracy, over ten bins of equal width (Guo et al., ICML 2017)."""
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == grades
    bins = np.minimum((confidence * 10).astype(int), 9)
    gaps = [abs((confidence - right)[bins == each].sum()) for each in range(10)]
    return float(sum(gaps) / len(grades))


# Temperature, slopes and intercepts


@pytest.mark.parametrize("distortion", [0.4, 1.0, 3.0])
def test_the_temperature_finds_a_known_distortion_again(distortion: float) -> None:
    outputs, grades = calibrated_sample(Head.SOFTMAX)
    fitted = fit(Head.SOFTMAX, distortion * outputs, grades)
    assert fitted == replace(UNCALIBRATED, temperature=fitted.temperature)
    assert fitted.temperature == pytest.approx(distortion, rel=0.08)


SLOPES, INTERCEPTS = np.array([0.5, 1.0, 1.5, 2.0]), np.array([-1.0, 0.5, 0.0, 1.0])


def test_slope_and_intercept_of_each_cut_find_a_known_distortion_again() -> None:
    """Of many photographs: the prior of ten still draws the steepest slope of 4,000 by 5 % towards 1."""
    outputs, grades = calibrated_sample(Head.CUMULATIVE, num_photographs=40_000)
    fitted = fit(Head.CUMULATIVE, (outputs - INTERCEPTS) / SLOPES, grades)
    assert fitted == replace(UNCALIBRATED, slopes=fitted.slopes, intercepts=fitted.intercepts)
    assert fitted.slopes == pytest.approx(SLOPES, rel=0.05)
    assert fitted.intercepts == pytest.approx(INTERCEPTS, abs=0.1)
    others, grades_of_others = calibrated_sample(Head.CUMULATIVE, seed=7)
    after = read(Head.CUMULATIVE, (others - INTERCEPTS) / SLOPES, fitted)
    assert log_loss(after, grades_of_others) < log_loss(read(Head.CUMULATIVE, others), grades_of_others) + 0.005
    assert after[:, 2:].sum(axis=1).mean() == pytest.approx((grades_of_others >= 2).mean(), abs=0.02)


def test_slopes_and_intercepts_are_those_of_logistic_regression() -> None:
    outputs, grades = calibrated_sample(Head.CUMULATIVE, seed=2)
    fitted = fit(Head.CUMULATIVE, 2 * outputs, grades)
    for cut in range(4):
        regression = LogisticRegression(C=np.inf).fit(2 * outputs[:, [cut]], grades > cut)
        assert fitted.slopes[cut] == pytest.approx(regression.coef_.item(), rel=0.03)
        assert fitted.intercepts[cut] == pytest.approx(regression.intercept_.item(), abs=0.03)


def test_a_cut_that_no_photograph_or_every_photograph_is_beyond_is_fitted_too() -> None:
    outputs = calibrated_sample(Head.CUMULATIVE)[0][:60]
    fitted = fit(Head.CUMULATIVE, outputs, np.full(60, 2, np.int64))
    assert np.isfinite(fitted.intercepts).all() and min(fitted.slopes) > 0
    assert min(fitted.intercepts[:2]) > 0 > max(fitted.intercepts[2:])


@pytest.mark.parametrize("head", [Head.SOFTMAX, Head.CUMULATIVE])
def test_overconfidence_is_taken_back_on_photographs_that_were_not_fitted(head: Head) -> None:
    fitted = fit(head, 3 * calibrated_sample(head)[0], calibrated_sample(head)[1])
    outputs, grades = calibrated_sample(head, seed=7)
    before, after = read(head, 3 * outputs), read(head, 3 * outputs, fitted)
    assert log_loss(after, grades) < log_loss(before, grades) - 0.2
    assert expected_calibration_error(before, grades) > 0.1
    assert expected_calibration_error(after, grades) < 0.04


def test_a_temperature_does_not_change_a_softmax_s_most_probable_grade() -> None:
    outputs, grades = calibrated_sample(Head.SOFTMAX)
    fitted = fit(Head.SOFTMAX, 3 * outputs, grades)
    assert np.array_equal(read(Head.SOFTMAX, 3 * outputs, fitted).argmax(axis=1), outputs.argmax(axis=1))


def test_temperatures_of_uninformative_and_of_perfect_outputs_are_finite() -> None:
    grades = np.arange(200) % 5
    right = np.where(np.arange(5) == grades[:, None], 5.0, 0.0)
    for outputs in (np.zeros((200, 5)), np.random.default_rng(0).normal(size=(200, 5)), right):
        fitted = fit(Head.SOFTMAX, outputs, grades)
        assert np.exp(-3) <= fitted.temperature <= np.exp(3)


def small_sample(head: Head, kind: str) -> tuple[Floats, Grades]:
    """20 outputs of a head: of a trained network, that hardly differ, or that no grade contradicts."""
    grades = np.arange(20) % 5
    if kind == "trained":
        outputs = calibrated_sample(head, seed=3)[0][:20]
        return outputs, draw_grades(read(head, outputs), seed=4)
    if head is Head.REGRESSION:
        outputs = grades[:, None].astype(np.float64)
    elif head is Head.SOFTMAX:
        outputs = np.where(np.arange(5) == grades[:, None], 4.0, 0.0)
    else:
        outputs = np.where(np.arange(4) < grades[:, None], 4.0, -4.0) - np.arange(4)
    return outputs * (1e-3 if kind == "nearly equal" else 1.0), grades


@pytest.mark.parametrize("kind", ["trained", "nearly equal", "separable"])
@pytest.mark.parametrize("head", [Head.SOFTMAX, Head.CUMULATIVE, Head.REGRESSION])
def test_a_calibration_moves_as_little_as_the_outputs(head: Head, kind: str) -> None:
    """Also where the log loss alone is nearly flat: then rounding must not choose the temperature."""
    outputs, grades = small_sample(head, kind)
    fitted = fit(head, outputs, grades)
    assert all(1e-3 < scale < 1e3 for scale in (fitted.temperature, *fitted.slopes))
    for relative in (1e-9, 1e-8, 1e-7, 1e-6):
        noise = np.random.default_rng(0).normal(size=outputs.shape)
        moved = fit(head, outputs * (1 + relative * noise), grades)
        assert moved.temperature == pytest.approx(fitted.temperature, rel=20 * relative)
        for name in ("cutpoints", "slopes", "intercepts"):
            before, after = getattr(fitted, name), getattr(moved, name)
            assert after == pytest.approx(before, rel=20 * relative, abs=20 * relative)


def test_the_prior_hardly_moves_the_temperature_of_a_few_hundred_photographs() -> None:
    outputs, grades = (part[:500] for part in calibrated_sample(Head.SOFTMAX))

    def loss(log_temperature: float) -> float:
        return log_loss(
            read(Head.SOFTMAX, 2 * outputs, Calibration(temperature=float(np.exp(log_temperature)))), grades
        )

    most_likely = float(np.exp(minimize_scalar(loss, bracket=(0.0, 1.0)).x))
    assert most_likely > 1.5
    assert fit(Head.SOFTMAX, 2 * outputs, grades).temperature == pytest.approx(most_likely, rel=0.01)


def test_slopes_and_intercepts_are_optima_of_cross_entropy_and_prior() -> None:
    outputs, grades = small_sample(Head.CUMULATIVE, "trained")

    def objective(cut: int, slope: float, intercept: float) -> float:
        is_worse, logits = grades > cut, slope * outputs[:, cut] + intercept
        loss = np.logaddexp(0, np.where(is_worse, -logits, logits)).mean()
        return float(loss + 10 / len(grades) * (slope - 1 - np.log(slope) + intercept**2 / 2))

    found = fit(Head.CUMULATIVE, outputs, grades)
    for cut, (slope, intercept) in enumerate(zip(found.slopes, found.intercepts, strict=True)):
        best = objective(cut, slope, intercept)
        for moved in ((1.001, 0.0), (0.999, 0.0), (1.0, 0.001), (1.0, -0.001)):
            assert best < objective(cut, slope * moved[0], intercept + moved[1])


def test_an_optimum_is_that_of_log_loss_and_prior() -> None:
    outputs, grades = small_sample(Head.SOFTMAX, "trained")

    def objective(temperature: float) -> float:
        prior = 1 / temperature - 1 + np.log(temperature)
        return log_loss(read(Head.SOFTMAX, outputs, Calibration(temperature=temperature)), grades) + prior / 20

    found = fit(Head.SOFTMAX, outputs, grades).temperature
    assert objective(found) < min(objective(0.999 * found), objective(1.001 * found))


# Offsets


def test_offsets_are_the_log_of_the_frequencies() -> None:
    assert frequency_offsets(COUNTS, 1.0) == pytest.approx(np.log(COUNTS / 1000))
    assert frequency_offsets(COUNTS, 0.5) == pytest.approx(0.5 * np.log(COUNTS / 1000))
    assert frequency_offsets(COUNTS, 0.0) == NO_OFFSETS


def test_an_absent_grade_stays_improbable_and_finite() -> None:
    offsets = frequency_offsets(np.array([10, 0, 10, 10, 10]), 1.0)
    assert np.isfinite(offsets).all()
    assert offsets[1] == min(offsets)


def weighted_sample(power: float, seed: int = 0, skill: float = 1.0) -> tuple[Floats, Grades, NDArray[np.int64]]:
    """Logits as a loss with class weights trains them, grades of a population, and the number of each.

    Where grade g counts n_g^-power, the best probabilities are proportional to n_g^-power times the true ones.
    """
    rng = np.random.default_rng(seed)
    grades = rng.choice(5, NUM_PHOTOGRAPHS, p=MIX).astype(np.int64)
    observed = grades + rng.normal(0, 1 / skill, NUM_PHOTOGRAPHS)
    true_logits = -(skill**2) * (observed[:, None] - np.arange(5)) ** 2 / 2 + np.log(MIX)
    counts = np.round(1000 * np.array(MIX)).astype(np.int64)
    return log_softmax(true_logits, axis=1) - power * np.log(MIX), grades, counts


@pytest.mark.parametrize("power", [1.0, 0.5])
def test_undoing_class_weights_gives_back_how_frequent_grades_are(power: float) -> None:
    logits, grades, counts = weighted_sample(power)
    fitted = fit(Head.SOFTMAX, logits, grades, power=power, counts=counts)
    assert fitted.offsets == pytest.approx(power * np.log(MIX), abs=1e-9), "the whole weight is undone"
    assert fitted.temperature == pytest.approx(1.0, abs=0.1)
    frequencies = np.bincount(grades, minlength=5) / len(grades)
    before, after = read(Head.SOFTMAX, logits), read(Head.SOFTMAX, logits, fitted)
    assert after.mean(axis=0) == pytest.approx(frequencies, abs=0.015)
    assert np.abs(before.mean(axis=0) - frequencies).max() > 0.05
    assert log_loss(after, grades) < log_loss(before, grades) - 0.02


def test_where_class_weights_took_half_effect_half_of_it_is_undone() -> None:
    logits, grades, counts = weighted_sample(0.5)
    fitted = fit(Head.SOFTMAX, logits, grades, power=1.0, counts=counts)
    assert fitted.offsets == pytest.approx(0.5 * np.log(MIX), abs=1e-9)


def test_nothing_is_undone_where_nothing_was_weighted() -> None:
    logits, grades, counts = weighted_sample(1.0)
    assert fit(Head.SOFTMAX, logits, grades, power=0.0, counts=counts).offsets == NO_OFFSETS
    for head in (Head.CUMULATIVE, Head.REGRESSION):
        assert fit(head, calibrated_sample(head)[0], grades, power=1.0).offsets == NO_OFFSETS


# Cutpoints of a severity


def draw_severities(cutpoints: tuple[float, ...], scale: float, seed: int = 0) -> tuple[Floats, Grades]:
    """Severities (N, 1) and grades of an ordered logit with these cutpoints and this scale."""
    severities = np.random.default_rng(seed).uniform(-0.5, 4.5, (NUM_PHOTOGRAPHS, 1))
    at_most = logistic.cdf(np.array(cutpoints), loc=severities, scale=scale)
    return severities, draw_grades(np.diff(at_most, axis=1, prepend=0.0, append=1.0), seed + 1)


@pytest.mark.parametrize("scale", [0.1, 0.5])
@pytest.mark.parametrize("cutpoints", [(0.5, 1.5, 2.5, 3.5), (0.2, 0.9, 2.0, 3.4), (1.2, 1.5, 3.0, 3.3)])
def test_cutpoints_and_scale_of_an_ordered_logit_are_found_again(cutpoints: tuple[float, ...], scale: float) -> None:
    severities, grades = draw_severities(cutpoints, scale)
    fitted = fit(Head.REGRESSION, severities, grades)
    assert fitted.cutpoints == pytest.approx(cutpoints, abs=0.1)
    assert fitted.temperature == pytest.approx(scale / 0.25, rel=0.1)
    others, grades_of_others = draw_severities(cutpoints, scale, seed=5)
    after = read(Head.REGRESSION, others, fitted)
    assert log_loss(after, grades_of_others) <= log_loss(read(Head.REGRESSION, others), grades_of_others) + 0.002
    assert expected_calibration_error(after, grades_of_others) < 0.04


@pytest.mark.parametrize("present", [(0,), (0, 4), (1, 2, 3), (0, 1, 2, 3, 4)])
def test_cutpoints_rise_whatever_grades_there_are(present: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    grades = rng.choice(present, 80).astype(np.int64)
    for severities in (
        grades[:, None].astype(np.float64) + rng.normal(0, 0.3, (80, 1)),
        rng.normal(2, 1, (80, 1)),
        -grades[:, None].astype(np.float64),
    ):
        fitted = fit(Head.REGRESSION, severities, grades)
        assert len(fitted.cutpoints) == 4 and np.isfinite(fitted.cutpoints).all()
        assert (np.diff(fitted.cutpoints) > 0).all()
        before, after = (read(Head.REGRESSION, severities, each) for each in (UNCALIBRATED, fitted))
        assert log_loss(after, grades) <= log_loss(before, grades) + 1e-9


# The same outputs give the same


@pytest.mark.parametrize("head", list(Head))
def test_the_same_outputs_give_the_same_calibration(head: Head) -> None:
    outputs, grades = calibrated_sample(head)
    first = fit(head, 2 * outputs, grades, power=0.5)
    np.random.seed(4)
    torch.manual_seed(4)
    assert fit(head, 2 * outputs, grades, power=0.5) == first


def test_calibrating_leaves_the_outputs_as_they_were() -> None:
    outputs, grades = calibrated_sample(Head.SOFTMAX)
    tensor = torch.from_numpy(outputs).float()
    before = tensor.clone()
    fit_calibration(Head.SOFTMAX, tensor, grades, COUNTS, class_weight_power=1.0)
    assert torch.equal(tensor, before)
    assert np.allclose(softmax(outputs, axis=1), read(Head.SOFTMAX, outputs))
