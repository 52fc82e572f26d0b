"""Changes of photographs: each does what its name says to drawn eyes, and has the role that a recipe gives it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fundusgrade.evaluation.interventions import (
    BARS_FRACTION,
    CUT_FRACTIONS,
    INTERVENTIONS,
    SQUASHED_ASPECT,
    Intervention,
    Role,
)
from fundusgrade.photographs.field_of_view import FieldOfView, find_field_of_view
from fundusgrade.photographs.pixels import Image
from fundusgrade.photographs.preprocess import preprocess
from fundusgrade.photographs.recipe import BAND_FRACTION, Method, Outline, PreprocessRecipe
from tests.drawn_eyes import DrawnEye, cut, healthy_eye, paint_lesions, plain_retina

BY_NAME = {intervention.name: intervention for intervention in INTERVENTIONS}
BARS = f"bars from {BARS_FRACTION:.2f} of the radius"


def cut_at(fraction: float) -> Intervention:
    return BY_NAME[f"cut at {fraction:.2f} of the radius"]


def changed(name: str, size_px: int = 256) -> tuple[np.ndarray, np.ndarray]:
    photograph = plain_retina(size_px).photograph
    after = BY_NAME[name].change(photograph, find_field_of_view(photograph))
    assert after is not None
    return photograph, after


@pytest.mark.parametrize("fraction", CUT_FRACTIONS)
def test_a_cut_keeps_the_center(fraction: float) -> None:
    eye = plain_retina(256)
    field_of_view = find_field_of_view(eye.photograph)
    narrow = cut_at(fraction).change(eye.photograph, field_of_view)
    assert narrow is not None
    assert narrow.shape[0] == pytest.approx(2 * fraction * eye.disc.radius_y, abs=3)
    first = round(eye.disc.center_y - fraction * eye.disc.radius_y)
    assert any(np.array_equal(narrow, eye.photograph[top : top + len(narrow)]) for top in range(first - 2, first + 3))
    found = find_field_of_view(narrow)
    assert found.radius_y == pytest.approx(eye.disc.radius_y, rel=0.02), "and its field of view is still located"


def test_bars_keep_the_size_and_blacken_what_a_cut_removes() -> None:
    photograph, barred = changed(BARS)
    _, narrow = changed(f"cut at {BARS_FRACTION:.2f} of the radius")
    assert barred.shape == photograph.shape
    first = int(np.flatnonzero(barred.max(axis=(1, 2)))[0])
    assert np.array_equal(barred[first : first + narrow.shape[0]], narrow)
    assert barred[:first].max() == barred[first + narrow.shape[0] :].max() == 0


def test_a_photograph_that_is_cut_already_is_not_cut_again_where_it_shows_no_more() -> None:
    photograph = cut(plain_retina(256), top=0.14, bottom=0.14).photograph
    field_of_view = find_field_of_view(photograph)
    assert cut_at(0.75).change(photograph, field_of_view) is None
    assert cut_at(0.60).change(photograph, field_of_view) is not None
    narrower = cut(plain_retina(256), top=0.22, bottom=0.22).photograph
    assert BY_NAME[BARS].change(narrower, find_field_of_view(narrower)) is None


def cut_out(photograph: Image, field_of_view: FieldOfView, fraction: float) -> tuple[Image, FieldOfView]:
    """The photograph cut at a fraction of the radius, and its field of view without an error of locating it again."""
    narrow = cut_at(fraction).change(photograph, field_of_view)
    assert narrow is not None
    height = len(narrow)
    (top,) = (top for top in range(len(photograph) - height) if np.array_equal(photograph[top : top + height], narrow))
    center_y = field_of_view.center_y - top
    return narrow, replace(field_of_view, center_y=center_y, top=0.0, bottom=height - 1.0)


@pytest.mark.parametrize("method", [Method.BEN_GRAHAM, Method.NATURAL])
@pytest.mark.parametrize("outline", [Outline.BAND, Outline.DISC])
def test_cuts_within_what_a_recipe_shows_change_its_images_and_the_others_are_negative_controls(
    outline: Outline, method: Method
) -> None:
    """A cut that a network cannot see proves nothing: then its role must say so, and the image must not change."""
    photograph = healthy_eye(250).photograph  # so small that it is not halved, from another row, before it is warped
    field_of_view = find_field_of_view(photograph)
    recipe = PreprocessRecipe(outline=outline, method=method, size_px=128)
    before = preprocess(photograph, field_of_view, recipe).image
    for fraction in CUT_FRACTIONS:
        after = preprocess(*cut_out(photograph, field_of_view, fraction), recipe).image
        difference = float(np.abs(after.astype(float) - before).mean())
        is_seen = outline is Outline.DISC or fraction < BAND_FRACTION
        assert difference > 0.2 if is_seen else difference < 0.05, fraction
        expected = Role.ACQUISITION if is_seen else Role.NEGATIVE_CONTROL
        assert cut_at(fraction).role_for(recipe) is expected


def test_squashing_and_stretching_change_the_aspect_that_is_found() -> None:
    photograph, squashed = changed("squashed to another aspect")
    _, stretched = changed("stretched to another aspect")
    assert find_field_of_view(photograph).aspect == pytest.approx(1, rel=0.01)
    assert squashed.shape[0] == photograph.shape[0] < stretched.shape[0]
    for image in (squashed, stretched):
        fov = find_field_of_view(image)
        assert fov.aspect == pytest.approx(SQUASHED_ASPECT, rel=0.01)
        undone = BY_NAME["squashed to another aspect"].change(image, fov)
        assert undone is not None
        assert find_field_of_view(undone).aspect == pytest.approx(1, rel=0.01)


def test_light_color_and_compression_change_what_they_should() -> None:
    photograph, dark = changed("darkened (x 0.7)")
    _, tinted = changed("tinted (red x 0.9, blue x 1.2)")
    _, compressed = changed("compressed again (JPEG 50)")
    assert dark.mean() == pytest.approx(0.7 * photograph.mean(), rel=0.02)
    assert tinted[..., 0].mean() < photograph[..., 0].mean() and tinted[..., 2].mean() > photograph[..., 2].mean()
    assert np.array_equal(tinted[..., 1], photograph[..., 1])
    assert 0 < np.abs(compressed.astype(int) - photograph).mean() < 4


def test_a_margin_leaves_every_pixel_of_the_photograph() -> None:
    photograph, margin = changed("margin on two sides")
    assert BY_NAME["margin on two sides"].role is Role.NEGATIVE_CONTROL
    assert np.array_equal(margin[: photograph.shape[0], -photograph.shape[1] :], photograph)


def test_the_positive_control_removes_lesions_and_leaves_the_outline() -> None:
    eye: DrawnEye = paint_lesions(plain_retina(400), seed=1, microaneurysms=20, haemorrhages=12, exudates=12)
    field_of_view = find_field_of_view(eye.photograph)
    control = BY_NAME["blurred until no lesion is left"]
    after = control.change(eye.photograph, field_of_view)
    assert after is not None and control.role is Role.POSITIVE_CONTROL

    def contrast(image: np.ndarray, mask: np.ndarray) -> float:
        ring = eye.disc_mask & ~eye.masks.union
        return abs(float(image[mask].mean()) - float(image[ring].mean()))

    for mask in (eye.masks.haemorrhages, eye.masks.exudates):
        assert contrast(after, mask) < 0.4 * contrast(eye.photograph, mask)
    found = find_field_of_view(after)
    assert (found.center_x, found.radius_x) == pytest.approx((field_of_view.center_x, field_of_view.radius_x), rel=0.01)
    assert np.array_equal(after[:5], eye.photograph[:5]), "the ground around the retina"
