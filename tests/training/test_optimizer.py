"""The learning rate warms up and falls as a cosine; only weight matrices decay."""

from __future__ import annotations

import itertools

import pytest
import torch

from fundusgrade.networks.build import build_network, network_spec
from fundusgrade.training.optimizer import build_optimizer, learning_rate_factor
from fundusgrade.training.options import TrainOptions


def test_the_learning_rate_warms_up_and_falls_as_a_cosine() -> None:
    factors = [learning_rate_factor(step, 100, 10) for step in range(100)]
    assert factors[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert factors[10] == pytest.approx(1)
    assert factors[55] == pytest.approx((1 + 0.01) / 2)
    assert learning_rate_factor(100, 100, 10) == pytest.approx(0.01)
    assert all(a > b for a, b in itertools.pairwise(factors[10:]))
    assert min(factors) >= 0.01


def test_the_learning_rate_without_warm_up_or_beyond_the_end() -> None:
    assert learning_rate_factor(0, 10, 0) == 1
    assert learning_rate_factor(50, 10, 0) == pytest.approx(0.01)
    assert learning_rate_factor(9, 10, 10) == 1
    assert learning_rate_factor(10, 10, 10) == pytest.approx(1)


@pytest.mark.parametrize("layer_decay", [1.0, 0.7])
def test_biases_norms_and_what_the_architecture_exempts_have_no_weight_decay(layer_decay: float) -> None:
    network = build_network(network_spec("test_vit", 32))
    options = TrainOptions(arch="test_vit", layer_decay=layer_decay).filled()
    optimizer = build_optimizer(network, options, torch.device("cpu"))
    decay_of = {parameter: group["weight_decay"] for group in optimizer.param_groups for parameter in group["params"]}
    decays = {name: decay_of.pop(parameter) for name, parameter in network.named_parameters()}
    assert not decay_of, "every parameter is in one group"
    without = {name for name, decay in decays.items() if decay == 0}
    embeddings = {"backbone.pos_embed", "backbone.cls_token"}
    assert embeddings < without
    assert without == embeddings | {name for name, parameter in network.named_parameters() if parameter.ndim <= 1}
    assert {decay for name, decay in decays.items() if name not in without} == {options.weight_decay}
