"""Offsets of the logits: what they do to probabilities, and which are chosen."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fundusgrade import adjustment
from fundusgrade.adjustment import SHARES, choose_adjustment, frequency_offsets
from fundusgrade.batches import GradedPictures
from fundusgrade.device import choose_device
from fundusgrade.metrics import quadratic_weighted_kappa
from fundusgrade.model import NO_OFFSETS, GradingNetwork, build_network, network_spec, predict_probabilities
from fundusgrade.options import DeviceName, Precision

COUNTS = np.array([500, 100, 300, 60, 40])
CHOICE = choose_device(DeviceName.CPU, Precision.FLOAT32)


def network() -> GradingNetwork:
    torch.manual_seed(3)
    built = build_network(network_spec("cnn", 32))
    built.backbone.classifier.weight.data *= 40  # opinions differ between pictures
    return built.eval()


def pictures(num: int = 80) -> GradedPictures:
    generator = torch.Generator().manual_seed(5)
    pixels = torch.randint(0, 256, (num, 3, 1, 1), generator=generator).expand(num, 3, 32, 32).to(torch.uint8)
    return GradedPictures(pixels=pixels, grades=torch.randint(0, 5, (num,), generator=generator), fill=0)


def test_offsets_are_the_log_of_the_frequencies() -> None:
    assert frequency_offsets(COUNTS, 1.0) == pytest.approx(np.log(COUNTS / 1000))
    assert frequency_offsets(COUNTS, 0.5) == pytest.approx(0.5 * np.log(COUNTS / 1000))
    assert frequency_offsets(COUNTS, 0.0) == NO_OFFSETS


def test_a_grade_that_was_never_seen_stays_improbable_and_finite() -> None:
    offsets = frequency_offsets(np.array([10, 0, 10, 10, 10]), 1.0)
    assert np.isfinite(offsets).all()
    assert offsets[1] == min(offsets)


def test_a_network_with_offsets_gives_the_shifted_probabilities() -> None:
    with_offsets, validation = network(), pictures()
    plain = predict_probabilities(with_offsets, validation.pixels, CHOICE)
    offsets = frequency_offsets(COUNTS, 0.75)
    with_offsets.set_offsets(offsets)
    expected = plain * np.exp(offsets)
    expected /= expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(predict_probabilities(with_offsets, validation.pixels, CHOICE), expected, atol=1e-6)
    assert with_offsets.spec.logit_offsets == offsets


def test_the_share_of_highest_kappa_is_chosen_whatever_offsets_were_there() -> None:
    validation, chooser = pictures(), network()
    kappas = []
    for share in SHARES:
        chooser.set_offsets(frequency_offsets(COUNTS, share))
        probabilities = predict_probabilities(chooser, validation.pixels, CHOICE)
        kappas.append(quadratic_weighted_kappa(validation.grades.numpy(), probabilities.argmax(axis=1)))
    assert len(set(kappas)) > 1, "the shares must differ for this test to say something"
    chosen = choose_adjustment(chooser, validation, COUNTS, CHOICE, class_weight_power=1.0)
    assert chosen.share == SHARES[int(np.argmax(kappas))]
    assert chosen.evaluation.kappa == pytest.approx(max(kappas))
    assert chosen.offsets == pytest.approx(frequency_offsets(COUNTS, chosen.share))


def test_nothing_is_undone_where_nothing_was_weighted() -> None:
    chosen = choose_adjustment(network(), pictures(), COUNTS, CHOICE, class_weight_power=0.0)
    assert chosen.share == 0.0
    assert chosen.offsets == NO_OFFSETS


def test_softer_weights_are_undone_by_softer_offsets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adjustment, "SHARES", (1.0,))
    chosen = choose_adjustment(network(), pictures(), COUNTS, CHOICE, class_weight_power=0.5)
    assert chosen.offsets == pytest.approx(0.5 * np.log(COUNTS / 1000))
