"""Feature checks: distances against a full covariance, probabilities by hand, and the file that holds them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from fundusgrade.errors import CheckpointError
from fundusgrade.networks.build import build_network, network_spec
from fundusgrade.networks.checkpoint import load_checkpoint, replace_description, save_checkpoint
from fundusgrade.networks.device import choose_device
from fundusgrade.networks.feature_checks import (
    MEASUREMENTS,
    ChecksProvenance,
    FeatureChecks,
    FeatureReference,
    QualityCheck,
    QualityRates,
    checks_from_tensors,
)
from fundusgrade.networks.inference import predict_probabilities, predict_with_features
from fundusgrade.networks.model_card import model_card
from fundusgrade.options import DeviceName, Precision
from tests.networks.test_checkpoint import describe, saved

NUM_FEATURES, NUM_COMPONENTS = 12, 3
RECORD = ChecksProvenance(
    data="drawn",
    num_reference=30,
    num_held_out=10,
    quality=(QualityRates(label="reject", num_photographs=7, num_borderline=1, num_not_gradable=5),),
)


def some_checks(num_features: int = NUM_FEATURES, seed: int = 0) -> FeatureChecks:
    rng, num_measurements = np.random.default_rng(seed), len(MEASUREMENTS)
    directions, _ = np.linalg.qr(rng.normal(size=(num_features, NUM_COMPONENTS)))
    reference = FeatureReference(
        mean=rng.normal(size=num_features),
        components=directions.T,
        variances=np.array([5.0, 3.0, 2.0]),
        residual_variance=np.array([0.5]),
        limit=np.array([4.0]),
    )
    quality = QualityCheck(
        center=rng.normal(size=num_measurements),
        scale=rng.uniform(0.5, 2, num_measurements),
        weights=rng.normal(size=NUM_COMPONENTS + num_measurements) / 4,
        intercept=np.array([-0.3]),
        limits=np.array([0.3, 0.6]),
    )
    return FeatureChecks(reference=reference, quality=quality)


def test_the_distance_is_that_of_the_full_covariance() -> None:
    """Few components and one variance for the rest are a covariance matrix, whose inverse gives the same distance."""
    reference = some_checks().reference
    across = np.eye(NUM_FEATURES) - reference.components.T @ reference.components
    covariance = (reference.components.T * reference.variances) @ reference.components
    covariance += reference.residual_variance * across
    features = np.random.default_rng(1).normal(size=(20, NUM_FEATURES)) * 3
    centered = features - reference.mean
    expected = np.sqrt(np.einsum("nd,nd->n", centered @ np.linalg.inv(covariance), centered)) / reference.limit
    assert reference.distances(features) == pytest.approx(expected, rel=1e-9)


def test_coordinates_of_the_mean_are_zero_and_a_standard_deviation_is_one() -> None:
    reference = some_checks().reference
    along = reference.mean + np.sqrt(reference.variances)[:, None] * reference.components
    assert reference.coordinates(np.vstack([reference.mean, along])) == pytest.approx(
        np.vstack([np.zeros(3), np.eye(3)]), abs=1e-12
    )


def test_the_probability_of_a_reject_is_the_logistic_function_of_the_weighted_inputs() -> None:
    quality = some_checks().quality
    assert quality is not None
    coordinates = np.array([[0.5, -1.0, 2.0]])
    measured = quality.center + 2 * quality.scale
    log_odds = quality.weights[:3] @ coordinates[0] + 2 * quality.weights[3:].sum() - 0.3
    assert quality.probabilities(coordinates, measured[None]) == pytest.approx([1 / (1 + np.exp(-log_odds))])


@pytest.mark.parametrize("arch", ["cnn", "test_efficientnet", "test_vit"])
def test_features_change_no_probability_and_give_the_outputs_through_the_last_layer(arch: str) -> None:
    torch.manual_seed(0)
    network, choice = build_network(network_spec(arch, 64)), choose_device(DeviceName.CPU, Precision.FLOAT32)
    pixels = torch.randint(0, 256, (5, 3, 64, 64), dtype=torch.uint8)
    graded = predict_with_features(network, pixels, choice, 2)
    assert np.array_equal(graded.probabilities, predict_probabilities(network, pixels, choice, 2))
    last: torch.nn.Linear = network.backbone.get_classifier()  # type: ignore[operator, assignment]
    assert graded.features.shape == (5, last.in_features)
    outputs = last(torch.from_numpy(graded.features)).double()
    assert torch.softmax(outputs, dim=1).detach().numpy() == pytest.approx(graded.probabilities, abs=1e-6)
    assert network.training


@pytest.mark.parametrize("half", [False, True])
def test_checks_come_back_from_the_file_in_full_precision(tmp_path: Path, *, half: bool) -> None:
    path, checks = tmp_path / "model.safetensors", some_checks(128)
    network = saved(path)
    assert load_checkpoint(path).checks is None
    described = replace(describe(network), checks=RECORD)
    save_checkpoint(path, network, described, checks=checks, half=half)
    loaded = load_checkpoint(path)
    assert loaded.checks is not None and loaded.description.checks == RECORD
    for name, values in checks.tensors().items():
        assert np.array_equal(loaded.checks.tensors()[name], values), name


def test_checks_are_added_to_a_file_without_touching_its_weights_and_stay_with_another_description(
    tmp_path: Path,
) -> None:
    path = tmp_path / "model.safetensors"
    network = saved(path, half=True)
    before = safetensors.torch.load_file(path)
    replace_description(path, replace(describe(network), checks=RECORD), checks=some_checks(128))
    replace_description(path, replace(load_checkpoint(path).description, thresholds=(0.5, 1.5, 2.5, 3.5)))
    after, loaded = safetensors.torch.load_file(path), load_checkpoint(path)
    assert all(
        torch.equal(after[name], tensor) and after[name].dtype is tensor.dtype for name, tensor in before.items()
    )
    assert loaded.checks is not None and loaded.description.checks == RECORD
    replace_description(path, loaded.description, checks=some_checks(128, seed=1))
    changed = load_checkpoint(path).checks
    assert changed is not None and np.allclose(changed.reference.mean, some_checks(128, seed=1).reference.mean)


def test_a_model_saved_without_its_checks_does_not_claim_to_have_them(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    network = saved(path)
    save_checkpoint(path, network, replace(describe(network), checks=RECORD))
    assert load_checkpoint(path).description.checks is None


def test_the_model_card_says_what_the_checks_come_from_or_that_there_are_none() -> None:
    described = describe(build_network(network_spec("cnn", 64)))
    assert "none: photographs unlike the training photographs are not flagged" in model_card(described)
    card = model_card(replace(described, checks=RECORD))
    assert "further from the 30 of `drawn` than 99 % of 10 held out" in card
    assert "quality that graders call reject: 5 of 7 not gradable, 1 borderline" in card


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("reference.limit", np.zeros(1, np.float32)),
        ("reference.variances", np.ones(2, np.float32)),
        ("reference.mean", np.full(128, np.nan, np.float32)),
        ("quality.weights", np.ones(4, np.float32)),
        ("quality.limits", None),
    ],
)
def test_damaged_checks_are_refused(tmp_path: Path, name: str, values: np.ndarray | None) -> None:
    path = tmp_path / "model.safetensors"
    network, tensors = saved(path), some_checks(128).tensors()
    tensors[name] = values  # type: ignore[assignment]
    with pytest.raises(ValueError, match=r"missing|above 0"):
        checks_from_tensors({key: value for key, value in tensors.items() if value is not None})
    broken = replace(some_checks(128).reference, limit=np.zeros(1))
    save_checkpoint(path, network, describe(network), checks=FeatureChecks(reference=broken))
    with pytest.raises(CheckpointError, match=r"feature checks .* add-checks"):
        load_checkpoint(path)
