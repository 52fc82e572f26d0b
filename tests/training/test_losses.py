"""Losses equal those of other implementations and those computed by hand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.special import log_softmax, softmax
from sklearn.metrics import log_loss
from torch import Tensor

from fundusgrade.errors import TrainingError
from fundusgrade.networks.head_logits import grade_logits
from fundusgrade.networks.heads import NUM_OUTPUTS
from fundusgrade.options import ClassWeights, Head, Loss
from fundusgrade.training.losses import DISTANCE_WEIGHT, HEAD_LOSSES, class_weights, graded_loss, resolve_head_and_loss

NUM_PHOTOGRAPHS = 60
GRADES = np.random.default_rng(1).integers(0, 5, NUM_PHOTOGRAPHS)
WEIGHTS = np.random.default_rng(2).uniform(0.2, 3.0, NUM_PHOTOGRAPHS)
PAIRS = [(head, loss) for head, losses in HEAD_LOSSES.items() for loss in losses]


def outputs_of(head: Head) -> NDArray[np.float64]:
    return np.random.default_rng(3).normal(0.5, 2.0, (NUM_PHOTOGRAPHS, NUM_OUTPUTS[head]))


def loss_of(
    head: Head,
    loss: Loss,
    outputs: NDArray[np.float64] | Tensor,
    grades: NDArray[np.int64] = GRADES,
    weights: NDArray[np.float64] = WEIGHTS,
) -> float:
    tables = (torch.as_tensor(outputs), torch.as_tensor(grades), torch.as_tensor(weights))
    return float(graded_loss(head, loss, *tables))


def weighted_mean(each: NDArray[np.float64], weights: NDArray[np.float64] = WEIGHTS) -> float:
    return float((each * weights).sum() / weights.sum())


# Values


def test_cross_entropy_is_scikit_learn_s_log_loss() -> None:
    outputs = outputs_of(Head.SOFTMAX)
    expected = log_loss(GRADES, softmax(outputs, axis=1), sample_weight=WEIGHTS, labels=range(5))
    assert loss_of(Head.SOFTMAX, Loss.CROSS_ENTROPY, outputs) == pytest.approx(expected, rel=1e-9)


def test_soft_labels_fall_with_the_squared_distance_from_the_grade() -> None:
    """SORD: the label of grade k for a photograph of grade g is exp(-(k - g)^2), normalized."""
    outputs = outputs_of(Head.SOFTMAX)
    closeness = np.exp(-(np.subtract.outer(GRADES, np.arange(5)) ** 2.0))
    labels = closeness / closeness.sum(axis=1, keepdims=True)
    expected = weighted_mean(-(labels * log_softmax(outputs, axis=1)).sum(axis=1))
    assert loss_of(Head.SOFTMAX, Loss.SOFT_LABELS, outputs) == pytest.approx(expected, rel=1e-5)


def test_the_soft_labels_themselves_have_the_smallest_loss() -> None:
    closeness = np.exp(-((np.arange(5) - 2.0) ** 2))
    assert closeness / closeness.sum() == pytest.approx([0.0103, 0.2076, 0.5642, 0.2076, 0.0103], abs=1e-4)
    logits = torch.tensor(np.log(closeness))[None].requires_grad_()
    graded_loss(Head.SOFTMAX, Loss.SOFT_LABELS, logits, torch.tensor([2]), torch.ones(1)).backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None and logits.grad.abs().max() < 1e-6
    certain = np.array([[0.0, 0.0, 50.0, 0.0, 0.0]])
    one, grade = np.ones(1), np.array([2])
    best = loss_of(Head.SOFTMAX, Loss.SOFT_LABELS, logits.detach(), grade, one)
    assert loss_of(Head.SOFTMAX, Loss.SOFT_LABELS, certain, grade, one) > best + 10


def test_distance_adds_the_expected_squared_error_to_the_cross_entropy() -> None:
    outputs = outputs_of(Head.SOFTMAX)
    squared = np.subtract.outer(GRADES, np.arange(5)) ** 2
    probabilities = softmax(outputs, axis=1)
    each = -np.log(probabilities[np.arange(NUM_PHOTOGRAPHS), GRADES])
    each += DISTANCE_WEIGHT * (probabilities * squared).sum(axis=1)
    assert loss_of(Head.SOFTMAX, Loss.DISTANCE, outputs) == pytest.approx(weighted_mean(each), rel=1e-6)


def test_distance_depends_on_how_far_off_the_grade_is_and_cross_entropy_does_not() -> None:
    near, far = np.log([[0.1, 0.7, 0.1, 0.05, 0.05]]), np.log([[0.1, 0.05, 0.1, 0.05, 0.7]])
    one, grade = np.ones(1), np.array([0])
    for loss, difference in ((Loss.CROSS_ENTROPY, 0.0), (Loss.DISTANCE, DISTANCE_WEIGHT * (0.65 * 16 - 0.65))):
        losses = [loss_of(Head.SOFTMAX, loss, outputs, grade, one) for outputs in (near, far)]
        assert losses[1] - losses[0] == pytest.approx(difference, abs=1e-6)


def test_losses_of_severities_by_hand() -> None:
    """Errors of 0.5, -3 and 0: Huber's loss is 0.125, 2.5, 0; the squares are 0.25, 9, 0."""
    outputs, grades, weights = np.array([[0.5], [1.0], [2.0]]), np.array([0, 4, 2]), np.array([1.0, 2.0, 5.0])
    assert loss_of(Head.REGRESSION, Loss.SMOOTH_L1, outputs, grades, weights) == pytest.approx((0.125 + 5.0) / 8)
    assert loss_of(Head.REGRESSION, Loss.SQUARED, outputs, grades, weights) == pytest.approx((0.25 + 18.0) / 8)


def test_the_cumulative_loss_is_the_sum_of_four_binary_log_losses() -> None:
    outputs = outputs_of(Head.CUMULATIVE)
    probabilities = 1 / (1 + np.exp(-outputs))
    expected = sum(
        log_loss(np.greater(GRADES, cut), probabilities[:, cut], sample_weight=WEIGHTS, labels=[False, True])
        for cut in range(4)
    )
    assert loss_of(Head.CUMULATIVE, Loss.CROSS_ENTROPY, outputs) == pytest.approx(expected, rel=1e-6)


# Weights


@pytest.mark.parametrize(("head", "loss"), PAIRS)
def test_a_photograph_of_weight_three_counts_as_three_photographs(head: Head, loss: Loss) -> None:
    outputs, times = outputs_of(head), np.random.default_rng(4).integers(1, 4, NUM_PHOTOGRAPHS)
    repeated = np.repeat(np.arange(NUM_PHOTOGRAPHS), times)
    alike = np.ones(len(repeated))
    expected = loss_of(head, loss, outputs[repeated], GRADES[repeated], alike)
    assert loss_of(head, loss, outputs, GRADES, times.astype(np.float64)) == pytest.approx(expected, rel=1e-6)
    scaled = loss_of(head, loss, outputs, GRADES, 100 * times.astype(np.float64))
    assert scaled == pytest.approx(expected, rel=1e-6), "only the ratio of weights counts"
    assert expected != pytest.approx(loss_of(head, loss, outputs, GRADES, np.ones(NUM_PHOTOGRAPHS)), rel=1e-3)


@pytest.mark.parametrize(("head", "loss"), PAIRS)
def test_a_photograph_without_weight_has_no_gradient(head: Head, loss: Loss) -> None:
    outputs = torch.from_numpy(outputs_of(head)).requires_grad_()
    weights = torch.ones(NUM_PHOTOGRAPHS)
    weights[:10] = 0
    graded_loss(head, loss, outputs, torch.from_numpy(GRADES), weights).backward()  # type: ignore[no-untyped-call]
    assert outputs.grad is not None
    assert (outputs.grad[:10] == 0).all() and (outputs.grad[10:].abs().sum(dim=1) > 0).all()


def test_a_batch_without_any_weight_costs_nothing() -> None:
    zeros = np.zeros(NUM_PHOTOGRAPHS)
    assert loss_of(Head.SOFTMAX, Loss.DISTANCE, outputs_of(Head.SOFTMAX), GRADES, zeros) == 0.0


@pytest.mark.parametrize(("head", "loss"), PAIRS)
def test_minimizing_any_loss_of_a_head_predicts_the_grades(head: Head, loss: Loss) -> None:
    """Following the gradient ends where the most probable grade is the true one, whatever the head."""
    grades = torch.arange(5).repeat(2)
    outputs = torch.zeros((10, NUM_OUTPUTS[head]), requires_grad=True)
    optimizer = torch.optim.Adam([outputs], lr=0.2)
    for _ in range(100):
        optimizer.zero_grad()
        graded_loss(head, loss, outputs, grades, torch.ones(10)).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert torch.equal(grade_logits(head, outputs.detach()).argmax(dim=1), grades)


# Which loss fits which head


@pytest.mark.parametrize(
    ("head", "loss", "resolved"),
    [
        (None, None, (Head.SOFTMAX, Loss.CROSS_ENTROPY)),
        (Head.REGRESSION, None, (Head.REGRESSION, Loss.SMOOTH_L1)),
        (Head.CUMULATIVE, None, (Head.CUMULATIVE, Loss.CROSS_ENTROPY)),
        (None, Loss.SQUARED, (Head.REGRESSION, Loss.SQUARED)),
        (None, Loss.CROSS_ENTROPY, (Head.SOFTMAX, Loss.CROSS_ENTROPY)),
        (None, Loss.SOFT_LABELS, (Head.SOFTMAX, Loss.SOFT_LABELS)),
    ],
)
def test_what_is_not_named_is_filled_in(head: Head | None, loss: Loss | None, resolved: tuple[Head, Loss]) -> None:
    assert resolve_head_and_loss(head, loss) == resolved


def test_a_loss_that_cannot_train_the_head_is_refused_with_those_that_can() -> None:
    refused = 0
    for head, loss in itertools.product(Head, Loss):
        if loss in HEAD_LOSSES[head]:
            assert resolve_head_and_loss(head, loss) == (head, loss)
            continue
        fitting = ", ".join(each.value for each in HEAD_LOSSES[head])
        with pytest.raises(TrainingError, match=rf"--loss {loss} cannot train a {head} head; expected {fitting}$"):
            resolve_head_and_loss(head, loss)
        refused += 1
    assert refused == len(Head) * len(Loss) - len(PAIRS) == 9


# Class weights


def test_class_weights_equal_those_by_hand() -> None:
    grades = torch.tensor([0] * 8 + [1] * 4 + [2] * 2 + [4] * 2)  # grade 3 is absent
    inverse = class_weights(grades, ClassWeights.INVERSE)
    assert inverse.tolist() == pytest.approx([16 / (4 * 8), 16 / (4 * 4), 16 / (4 * 2), 0, 16 / (4 * 2)])
    root = class_weights(grades, ClassWeights.SQRT)
    scale = 16 / (math.sqrt(8) + math.sqrt(4) + 2 * math.sqrt(2))
    expected = [scale / math.sqrt(8), scale / math.sqrt(4), scale / math.sqrt(2), 0, scale / math.sqrt(2)]
    assert root.tolist() == pytest.approx(expected)
    assert class_weights(grades, ClassWeights.NONE).tolist() == pytest.approx([1, 1, 1, 0, 1])


@pytest.mark.parametrize("kind", list(ClassWeights))
def test_class_weights_have_mean_one_over_the_photographs(kind: ClassWeights) -> None:
    grades = torch.randint(0, 5, (101,), generator=torch.Generator().manual_seed(0))
    assert float(class_weights(grades, kind)[grades].mean()) == pytest.approx(1)
