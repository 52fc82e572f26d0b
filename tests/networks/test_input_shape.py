"""Networks get the band, or the square where they do not take it; others are refused with sizes that they take."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from fundusgrade.errors import WeightsUnavailableError
from fundusgrade.networks.build import build_network, network_spec
from fundusgrade.networks.input_shape import find_obstacle, fit_input, takes_shapes
from fundusgrade.networks.spec import NetworkSpec
from fundusgrade.options import Head
from fundusgrade.photographs.recipe import PreprocessRecipe


def band_of(arch: str, size_px: int = 224) -> NetworkSpec:
    return network_spec(arch, size_px, band_rows=PreprocessRecipe(size_px=size_px).band_rows)


@pytest.mark.parametrize("arch", ["cnn", "test_resnet", "pvt_v2_b1", "vit_tiny_patch16_224", "swinv2_tiny_window8_256"])
def test_networks_that_take_the_band_get_it(arch: str) -> None:
    fitted = fit_input(band_of(arch))
    assert (fitted.spec.input_px, fitted.note) == ((176, 224), None)


@pytest.mark.parametrize(
    "arch",
    ["maxvit_nano_rw_256", "coatnext_nano_rw_224", "hiera_small_224", "coat_mini", "gcvit_xtiny", "nest_tiny", "dla34"],
)
def test_networks_that_do_not_take_the_band_get_the_square_and_that_is_said(arch: str) -> None:
    spec = band_of(arch)
    fitted = fit_input(spec)
    assert fitted.spec == replace(spec, rows=None)
    assert fitted.note is not None
    assert fitted.note.startswith(
        f"input: the whole square of 224 x 224 px; {arch} does not take the band of 176 x 224"
    )


@pytest.mark.parametrize(
    ("arch", "size_px", "named"),
    [
        ("crossvit_9_240", 224, "--size 240"),
        ("efficientformer_l1", 160, "224"),
        ("vit_small_patch14_dinov2", 240, "252"),
    ],
)
def test_networks_that_take_neither_are_refused_with_sizes_that_they_take(arch: str, size_px: int, named: str) -> None:
    with pytest.raises(WeightsUnavailableError, match=f"--arch {arch}: this network takes no images of .*px") as raised:
        fit_input(band_of(arch, size_px))
    assert named in str(raised.value)
    sizes = [int(word) for word in str(raised.value).partition("--size ")[2].replace(",", "").split() if word.isdigit()]
    assert sizes
    for size in sizes:
        assert fit_input(band_of(arch, size)).spec.size_px == size


def test_an_encoder_without_a_classifier_is_refused_in_words() -> None:
    with pytest.raises(WeightsUnavailableError, match=r"it has no classifier; choose another network"):
        fit_input(network_spec("qwen3_vit_88m_enc", 224))


@pytest.mark.parametrize("arch", ["test_vit", "test_resnet", "test_efficientnet", "test_convnext"])
@pytest.mark.parametrize("height", [64, 72, 96])
def test_what_is_found_without_values_is_what_happens_with_them(arch: str, height: int) -> None:
    spec = replace(network_spec(arch, 96), rows=(0, height) if height < 96 else None, head=Head.SOFTMAX)
    network = build_network(spec).eval()
    try:
        happens = network(torch.zeros(1, 3, 96, 96)).shape == (1, 5)
    except (RuntimeError, AssertionError):
        happens = False
    cuts_patches = arch == "test_vit" and height % 16 != 0
    assert (find_obstacle(spec) is None) == (happens and not cuts_patches)


def test_trying_a_network_leaves_the_random_numbers_as_they_were() -> None:
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    fit_input(band_of("test_vit", 64))
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    ("arch", "expected"), [("test_resnet", True), ("cnn", True), ("vit_tiny_patch16_224", False), ("halonet_h1", False)]
)
def test_other_shapes_are_tried_on_the_same_network(arch: str, expected: bool) -> None:
    assert takes_shapes(network_spec(arch, 256), [(192, 192), (224, 224)]) is expected
