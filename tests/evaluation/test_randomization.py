"""A map must depend on the trained weights of its network; similarity of maps against known values."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fundusgrade import store
from fundusgrade.evaluation.randomization import UNDEFINED_SIMILARITY, compare_maps, randomized, structural_similarity
from fundusgrade.explanation.heat_map import ExplainOptions
from fundusgrade.explanation.targets import REFERABLE
from fundusgrade.explanation.torch_gradients import explain_image
from fundusgrade.networks.build import build_network, network_spec
from fundusgrade.networks.checkpoint import load_checkpoint
from fundusgrade.networks.device import DeviceChoice
from fundusgrade.networks.network import GradingNetwork
from fundusgrade.networks.tensors import to_tensor
from fundusgrade.options import Precision
from fundusgrade.photographs.preprocess import canonical_outline
from fundusgrade.photographs.recipe import PreprocessRecipe
from tests.drawn_eyes import healthy_eye, paint_lesions, preprocess_photograph
from tests.models_for_tests import random_network

CPU = DeviceChoice(device=torch.device("cpu"), precision=Precision.FLOAT32, reason="exact")
EVERYWHERE = np.ones((40, 40), np.bool_)


def map_of(network: GradingNetwork, image: NDArray[np.uint8], recipe: PreprocessRecipe) -> NDArray[np.float32]:
    options = ExplainOptions(target=REFERABLE)
    return explain_image(network, image, options=options, choice=CPU, outline=canonical_outline(recipe)).values


def shipped_network(name: str) -> GradingNetwork:
    return load_checkpoint(store.shipped_weights() / name / store.MODEL_FILE).network.eval()


@pytest.mark.parametrize(
    ("arch", "size_px"),
    [("aptos-cnn", 288), ("efficientnet-lite2", 288), ("resnet50", 112), ("vit_small_patch14_dinov2", 112)],
)
def test_the_default_map_changes_when_the_network_is_randomized(arch: str, size_px: int) -> None:
    """Adebayo et al. 2018: the rank correlation must fall below 0.3 where all layers are randomized.

    The shipped networks as trained; of other architectures small ones with random weights whose outputs vary.
    """
    recipe = PreprocessRecipe(size_px=size_px)
    network = shipped_network(arch) if (store.shipped_weights() / arch).is_dir() else random_network(arch, 3, recipe)
    eye = paint_lesions(healthy_eye(2 * size_px), seed=4, microaneurysms=30, haemorrhages=16, exudates=20)
    prepared = preprocess_photograph(eye.photograph, recipe)
    learned = map_of(network, prepared.image, recipe)
    similarities = []
    for seed in range(2):
        other = randomized(network, 1.0, to_tensor(prepared.image)[None], seed)
        similarities.append(compare_maps(learned, map_of(other, prepared.image, recipe), prepared.mask))
    assert learned[prepared.mask].max() > 0
    correlations = [each.rank_correlation for each in similarities if each.rank_correlation is not None]
    assert correlations and max(map(abs, correlations)) < 0.3
    assert compare_maps(learned, learned, prepared.mask).rank_correlation == pytest.approx(1.0)


def test_layers_are_randomized_from_the_output_down() -> None:
    network = build_network(network_spec("test_resnet", 64)).eval()
    before = {name: value.clone() for name, value in network.named_parameters()}

    def changed(depth: float) -> set[str]:
        after = dict(randomized(network, depth, torch.rand(2, 3, 64, 64)).named_parameters())
        return {name for name, value in before.items() if not torch.equal(after[name], value)}

    # A layer that is initialized with ones and zeros may keep its values.
    head, half, whole = changed(0.0), changed(0.5), changed(1.0)
    assert head and all(name.startswith("backbone.fc") for name in head)
    assert head < half < whole
    assert any(name.startswith("backbone.conv1") for name in whole)
    assert all(torch.equal(value, before[name]) for name, value in network.named_parameters())


def test_parameters_without_an_initialization_are_shuffled() -> None:
    network = build_network(network_spec("test_vit", 160)).eval()
    torch.manual_seed(0)
    torch.nn.init.normal_(network.backbone.pos_embed)  # type: ignore[arg-type]
    before = network.backbone.pos_embed.detach().clone()  # type: ignore[union-attr, operator]
    after = randomized(network, 1.0, torch.rand(2, 3, 160, 160)).backbone.pos_embed.detach()  # type: ignore[union-attr, operator]
    assert not torch.equal(before, after)
    assert torch.equal(before.flatten().sort().values, after.flatten().sort().values)


def test_randomizing_leaves_the_global_random_state_unchanged() -> None:
    network, images = build_network(network_spec("cnn", 64)), torch.rand(2, 3, 64, 64)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    randomized(network, 1.0, images, seed=9)
    assert torch.equal(torch.rand(3), expected)


def test_similarity_of_known_maps() -> None:
    generator = np.random.default_rng(0)
    first = generator.random((40, 40)).astype(np.float32)
    assert compare_maps(first, first**3, EVERYWHERE).rank_correlation == pytest.approx(1.0)
    assert compare_maps(first, 1 - first, EVERYWHERE).rank_correlation == pytest.approx(-1.0)
    assert compare_maps(first, np.ones_like(first), EVERYWHERE) == UNDEFINED_SIMILARITY
    assert compare_maps(np.zeros_like(first), np.zeros_like(first), EVERYWHERE) == UNDEFINED_SIMILARITY
    mask = EVERYWHERE.copy()
    mask[:20] = False
    upper = first.copy()
    upper[:20] = 0
    assert compare_maps(first, upper, mask).rank_correlation == pytest.approx(1.0)


def test_structural_similarity_depends_on_structure_and_not_on_scale() -> None:
    generator = np.random.default_rng(1)
    first = generator.random((40, 40)).astype(np.float32)
    other = generator.random((40, 40)).astype(np.float32)
    assert structural_similarity(first, 7 * first, EVERYWHERE) == pytest.approx(1.0, abs=1e-6)
    assert structural_similarity(first, other, EVERYWHERE) < 0.5
    assert structural_similarity(first, 1 - first, EVERYWHERE) < 0


def test_structural_similarity_follows_its_formula() -> None:
    """Of two constant maps only the luminance counts: (2 a b + c) / (a a + b b + c)."""
    one, other = np.ones((40, 40), np.float32), np.full((40, 40), 0.5, np.float32)
    other[0, 0] = one[0, 0] = 1.0  # both are scaled to a maximum of 1
    expected = (2 * 1 * 0.5 + 1e-4) / (1 + 0.25 + 1e-4)
    whole = structural_similarity(one, other, EVERYWHERE)
    assert whole == pytest.approx(expected, abs=0.02)
