"""The canonical disc: its place, the colors of each method, and the map back to the photograph."""

from __future__ import annotations

from dataclasses import asdict, replace

import cv2
import numpy as np
import pytest

from fundusgrade.errors import NoRetinaError
from fundusgrade.photographs.field_of_view import FieldOfView, find_field_of_view
from fundusgrade.photographs.loading import load_pixels
from fundusgrade.photographs.local_mean import local_mean
from fundusgrade.photographs.pixels import Image
from fundusgrade.photographs.preprocess import (
    GRAHAM_GAIN,
    GRAHAM_SIGMA_FRACTION,
    Placement,
    canonical_outline,
    image_to_store,
    preprocess,
    preprocess_by_recipes,
    within_outline,
)
from fundusgrade.photographs.recipe import (
    BAND_FRACTION,
    MAX_SIZE_PX,
    MIDDLE_GRAY,
    MIN_SIZE_PX,
    Method,
    Outline,
    PreprocessRecipe,
)
from tests.drawn_eyes import (
    DrawnEye,
    Ellipse,
    cut,
    healthy_eye,
    off_center,
    plain_retina,
    preprocess_photograph,
    squash,
)

SIZE_PX = 96
NATURAL = PreprocessRecipe(method=Method.NATURAL, outline=Outline.DISC, size_px=SIZE_PX)
GRAHAM = PreprocessRecipe(method=Method.BEN_GRAHAM, outline=Outline.DISC, size_px=SIZE_PX)
CLAHE = PreprocessRecipe(method=Method.CLAHE, outline=Outline.DISC, size_px=SIZE_PX)


def views() -> dict[str, DrawnEye]:
    eye = plain_retina(128)
    return {
        "full": eye,
        "cut": cut(eye, top=0.12, bottom=0.12),
        "squashed": squash(cut(eye, top=0.12, bottom=0.12), width_px=112, height_px=140),
        "off center": off_center(eye, width_px=210, height_px=150, dx_px=25, dy_px=-8),
    }


VIEWS = list(views())


def field(ellipse: Ellipse, photograph: Image) -> FieldOfView:
    """The field of view of a drawn disc, up to the edges of the photograph."""
    height, width = photograph.shape[:2]
    return FieldOfView(
        center_x=ellipse.center_x,
        center_y=ellipse.center_y,
        radius_x=ellipse.radius_x,
        radius_y=ellipse.radius_y,
        left=0,
        top=0,
        right=width - 1,
        bottom=height - 1,
        visible_fraction=1.0,
        confidence=1.0,
    )


def as_it_is(recipe: PreprocessRecipe) -> FieldOfView:
    """A field of view whose preprocessed image is the photograph (S, S, 3) itself, pixel by pixel."""
    middle, side = (recipe.size_px - 1) / 2, recipe.size_px
    ellipse = Ellipse(center_x=middle, center_y=middle, radius_x=recipe.radius_px, radius_y=recipe.radius_px)
    return field(ellipse, np.zeros((side, side, 3), np.uint8))


def forward(placement: Placement, x: float, y: float) -> tuple[float, float]:
    return placement.scale_x * x + placement.offset_x, placement.scale_y * y + placement.offset_y


def flat_retina(size_px: int = 256) -> DrawnEye:
    """A disc of one color: every structure in its preprocessed image is made by the preprocessing."""
    eye = plain_retina(size_px)
    y, x = np.mgrid[:size_px, :size_px]
    inside = np.clip((1 - eye.disc.distance(x, y)) * eye.disc.radius_x + 0.5, 0, 1)[..., None]
    return replace(eye, photograph=np.rint(inside * [200, 100, 50]).astype(np.uint8))


# Geometry


@pytest.mark.parametrize("recipe", [NATURAL, GRAHAM], ids=["whole disc", "inner disc"])
@pytest.mark.parametrize("view", VIEWS)
def test_the_disc_is_mapped_to_the_canonical_circle(view: str, recipe: PreprocessRecipe) -> None:
    eye = views()[view]
    placement = preprocess_photograph(eye.photograph, recipe).placement
    middle, radius, disc = (SIZE_PX - 1) / 2, recipe.radius_px, eye.disc
    for x, y in ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1)):
        placed = forward(placement, disc.center_x + x * disc.radius_x, disc.center_y + y * disc.radius_y)
        assert placed == pytest.approx((middle + x * radius, middle + y * radius), abs=0.02 * radius)
    assert (placement.photograph_height, placement.photograph_width) == eye.photograph.shape[:2]


def test_ben_graham_shows_nine_tenths_of_the_radius_and_the_other_methods_all() -> None:
    assert GRAHAM.radius_px == pytest.approx(SIZE_PX / 2 / 0.9)
    assert NATURAL.radius_px == CLAHE.radius_px == SIZE_PX / 2


@pytest.mark.parametrize("size_px", [40, 64, 224])
@pytest.mark.parametrize("view", VIEWS)
def test_a_spot_is_mapped_back_to_its_place(view: str, size_px: int) -> None:
    """Through the pixels: paint a spot, find what it changed in the preprocessed image, lay that back."""
    eye, recipe = views()[view], PreprocessRecipe(method=Method.NATURAL, outline=Outline.DISC, size_px=size_px)
    fov = preprocess_photograph(eye.photograph, recipe).field_of_view
    height, width = eye.photograph.shape[:2]
    y, x = np.mgrid[:height, :width]
    for dx, dy in ((0.0, 0.0), (0.5, 0.2), (-0.4, -0.45), (0.1, 0.6)):
        spot_x, spot_y = eye.disc.center_x + dx * eye.disc.radius_x, eye.disc.center_y + dy * eye.disc.radius_y
        spot = np.rint(200 * np.exp(-((x - spot_x) ** 2 + (y - spot_y) ** 2) / (2 * 3.0**2))).astype(np.uint8)
        prepared = preprocess(np.dstack([spot] * 3), fov, recipe)
        back = prepared.placement.to_photograph(prepared.image[..., 0].astype(np.float32))
        assert back.shape == (height, width) and back.dtype == np.float32
        peak_y, peak_x = np.unravel_index(int(np.argmax(back)), back.shape)
        # A canonical pixel on the photograph: the peak can stand on whole ones.
        pixel = 1 / min(prepared.placement.scale_x, prepared.placement.scale_y)
        assert np.hypot(peak_x - spot_x, peak_y - spot_y) < max(1.5, 0.75 * pixel)
        centroid = np.average(x, weights=back), np.average(y, weights=back)
        # A tenth of a canonical pixel: half a pixel lost in reducing the photograph would be more.
        assert centroid == pytest.approx((spot_x, spot_y), abs=0.1 * pixel)


def test_a_map_on_the_photograph_keeps_its_values_and_is_zero_outside() -> None:
    eye = off_center(plain_retina(96), width_px=200, height_px=120)
    placement = preprocess_photograph(eye.photograph, NATURAL).placement
    back = placement.to_photograph(np.ones((SIZE_PX, SIZE_PX), np.float32))
    y, x = np.mgrid[:120, :200]
    assert back[eye.disc.distance(x, y) < 0.97] == pytest.approx(1.0, abs=1e-5)
    assert back[:, :40].max() == back[:, -40:].max() == 0


def test_one_eye_is_preprocessed_alike_from_every_camera() -> None:
    """Full, cut, squashed and at another size: where all show retina, the preprocessed images agree."""
    eye = healthy_eye(400)
    images = [
        preprocess_photograph(view.photograph, NATURAL)
        for view in (
            eye,
            cut(eye, top=0.12, bottom=0.12),
            squash(eye, width_px=300, height_px=360),
            squash(eye, width_px=200, height_px=200),
            off_center(eye, width_px=640, height_px=420, dx_px=50),
        )
    ]
    seen_by_all = cv2.erode(np.all([p.mask for p in images], axis=0).astype(np.uint8), np.ones((5, 5))) > 0
    first = images[0].image[seen_by_all].astype(float)
    for other in images[1:]:
        assert np.abs(other.image[seen_by_all] - first).mean() < 2.0


# The mask


@pytest.mark.parametrize("view", VIEWS)
def test_the_mask_is_where_retina_is_visible(view: str) -> None:
    eye = views()[view]
    prepared = preprocess_photograph(eye.photograph, NATURAL)
    axis = np.arange(SIZE_PX) - (SIZE_PX - 1) / 2
    x = eye.disc.center_x + axis / NATURAL.radius_px * eye.disc.radius_x
    y = eye.disc.center_y + axis / NATURAL.radius_px * eye.disc.radius_y
    height, width = eye.photograph.shape[:2]
    inside = ((x >= 0) & (x <= width - 1))[None] & ((y >= 0) & (y <= height - 1))[:, None]
    truth = inside & (np.hypot(axis[None], axis[:, None]) <= SIZE_PX / 2)
    assert (prepared.mask & truth).sum() / (prepared.mask | truth).sum() > 0.97


@pytest.mark.parametrize("recipe", [NATURAL, GRAHAM, CLAHE], ids=lambda recipe: recipe.method.value)
def test_the_image_is_filled_outside_the_mask(recipe: PreprocessRecipe) -> None:
    eye = cut(plain_retina(128), top=0.2, left=0.1)
    prepared = preprocess_photograph(eye.photograph, recipe)
    assert prepared.image.shape == (SIZE_PX, SIZE_PX, 3) and prepared.image.dtype == np.uint8
    assert prepared.mask.shape == (SIZE_PX, SIZE_PX) and prepared.mask.dtype == np.bool_
    assert 0.5 < prepared.mask.mean() < np.pi / 4
    expected = MIDDLE_GRAY if recipe.method is Method.BEN_GRAHAM else 0
    assert recipe.fill == expected
    assert (prepared.image[~prepared.mask] == expected).all()
    assert not (prepared.image[prepared.mask] == expected).all()


def test_the_mask_is_a_whole_disc_where_nothing_is_cut() -> None:
    axis = np.arange(SIZE_PX) - (SIZE_PX - 1) / 2
    disc = np.hypot(axis[None], axis[:, None]) <= SIZE_PX / 2
    for recipe in (NATURAL, GRAHAM):
        mask = preprocess_photograph(plain_retina(128).photograph, recipe).mask
        # The fit may place the edge of a disc that fills the photograph a fraction of a pixel beyond it.
        assert (mask != disc).sum() <= 4


# Colors


def test_ben_graham_is_four_times_the_difference_to_the_local_mean_plus_128() -> None:
    recipe = PreprocessRecipe(outline=Outline.DISC, size_px=48)
    photograph = np.random.default_rng(0).integers(90, 130, (48, 48, 3)).astype(np.uint8)
    prepared = preprocess(photograph, as_it_is(recipe), recipe)
    sigma = recipe.radius_px * GRAHAM_SIGMA_FRACTION
    rows, columns = np.nonzero(prepared.mask)
    for y, x in ((24, 24), (10, 20), (30, 41), (5, 30), (7, 7), (39, 41)):  # the last two on the rim of the disc
        assert prepared.mask[y, x]
        weights = np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / (2 * sigma**2))
        mean = weights @ photograph[rows, columns] / weights.sum()
        expected = np.clip(GRAHAM_GAIN * (photograph[y, x] - mean) + MIDDLE_GRAY, 0, 255)
        assert prepared.image[y, x] == pytest.approx(expected, abs=1.0)


@pytest.mark.parametrize("view", ["full", "cut", "between dark bars", "squashed"])
def test_ben_graham_leaves_no_rim(view: str) -> None:
    """A retina of one color is gray up to the edge of the disc and of a cut."""
    eye = flat_retina()
    if view != "full":
        eye = cut(eye, top=0.12, bottom=0.15)
    if view == "between dark bars":
        eye = off_center(eye, width_px=300, height_px=256)
    if view == "squashed":
        eye = squash(eye, width_px=224, height_px=224)
    prepared = preprocess_photograph(eye.photograph, GRAHAM)
    assert np.abs(prepared.image[prepared.mask].astype(int) - MIDDLE_GRAY).max() <= 4


def test_ben_graham_hardly_depends_on_brightness() -> None:
    """Half the light gives less contrast, but the same gray on average."""
    eye = healthy_eye(200)
    bright, dark = (
        preprocess_photograph((eye.photograph * factor).astype(np.uint8), GRAHAM).image for factor in (1.0, 0.5)
    )
    assert bright.mean() == pytest.approx(dark.mean(), abs=3)


def test_natural_keeps_the_colors() -> None:
    photograph = np.random.default_rng(0).integers(0, 256, (SIZE_PX, SIZE_PX, 3)).astype(np.uint8)
    prepared = preprocess(photograph, as_it_is(NATURAL), NATURAL)
    assert np.array_equal(prepared.image[prepared.mask], photograph[prepared.mask])


def test_clahe_raises_the_contrast_of_light_and_keeps_the_color() -> None:
    eye = healthy_eye(256)
    faint = (eye.photograph * 0.4 + 10).astype(np.uint8)
    natural, equalized = (preprocess_photograph(faint, recipe) for recipe in (NATURAL, CLAHE))
    inner = cv2.erode(natural.mask.astype(np.uint8), np.ones((9, 9))) > 0
    before, after = (cv2.cvtColor(p.image, cv2.COLOR_RGB2LAB)[inner].astype(float) for p in (natural, equalized))
    assert after[:, 0].std() > 1.3 * before[:, 0].std()
    assert np.abs(after[:, 1:] - before[:, 1:]).mean() < 4


@pytest.mark.parametrize("recipe", [NATURAL, GRAHAM, CLAHE], ids=lambda recipe: recipe.method.value)
def test_the_same_photograph_gives_the_same_image_and_is_not_changed(recipe: PreprocessRecipe) -> None:
    photograph = cut(plain_retina(128), top=0.1).photograph
    before = photograph.copy()
    first, second = (preprocess_photograph(photograph, recipe) for _ in range(2))
    assert np.array_equal(first.image, second.image) and np.array_equal(first.mask, second.mask)
    assert (first.placement, first.field_of_view) == (second.placement, second.field_of_view)
    assert np.array_equal(photograph, before)


def test_a_strong_reduction_averages_pixels() -> None:
    """Stripes of one pixel become gray, not a pattern of their own."""
    side = 16 * MIN_SIZE_PX
    photograph = np.zeros((side, side, 3), np.uint8)
    photograph[:, ::2] = 200
    disc = Ellipse(center_x=(side - 1) / 2, center_y=(side - 1) / 2, radius_x=side / 2, radius_y=side / 2)
    recipe = PreprocessRecipe(method=Method.NATURAL, outline=Outline.DISC, size_px=MIN_SIZE_PX)
    prepared = preprocess(photograph, field(disc, photograph), recipe)
    assert np.abs(prepared.image[prepared.mask].astype(int) - 100).max() <= 12


def test_without_a_retina_there_is_no_image() -> None:
    with pytest.raises(NoRetinaError):
        preprocess_photograph(np.zeros((64, 64, 3), np.uint8), NATURAL)


# The recipe


def test_the_key_changes_with_each_field() -> None:
    recipe = PreprocessRecipe()
    others = [
        replace(recipe, method=Method.NATURAL),
        replace(recipe, method=Method.CLAHE),
        replace(recipe, size_px=225),
        replace(recipe, outline=Outline.DISC),
    ]
    others.append(replace(recipe, version=recipe.version + 1))
    keys = {candidate.key for candidate in (recipe, *others)}
    assert len(keys) == 6
    assert PreprocessRecipe().key == recipe.key and len(recipe.key) == 12


@pytest.mark.parametrize("size_px", [0, -224, MIN_SIZE_PX - 1, MAX_SIZE_PX + 1])
def test_sizes_beyond_the_limits_are_refused(size_px: int) -> None:
    with pytest.raises(ValueError, match=f"size_px is {size_px}; expected {MIN_SIZE_PX} to {MAX_SIZE_PX}"):
        PreprocessRecipe(size_px=size_px)


@pytest.mark.parametrize("size_px", [MIN_SIZE_PX, MIN_SIZE_PX + 1, 300])
def test_every_size_between_is_made(size_px: int) -> None:
    eye = plain_retina(96)
    prepared = preprocess_photograph(eye.photograph, PreprocessRecipe(size_px=size_px))
    assert prepared.image.shape == (size_px, size_px, 3)
    assert PreprocessRecipe(size_px=MAX_SIZE_PX).size_px == MAX_SIZE_PX


# The neutral outline

BAND = PreprocessRecipe(method=Method.BEN_GRAHAM, size_px=SIZE_PX)


@pytest.mark.parametrize("method", list(Method))
def test_every_view_fills_the_same_outline(method: Method) -> None:
    recipe = PreprocessRecipe(method=method, size_px=SIZE_PX)
    outline = canonical_outline(recipe)
    height = 2 * BAND_FRACTION * recipe.radius_px
    assert outline.any(axis=1).sum() == pytest.approx(height, abs=1)
    eye = healthy_eye(300)
    for view in (
        eye,
        cut(eye, top=0.12, bottom=0.12),
        cut(eye, top=0.25, left=0.1),
        squash(eye, width_px=240, height_px=300),
    ):
        prepared = preprocess_photograph(view.photograph, recipe)
        assert (prepared.image[~outline] == recipe.fill).all()
        assert not (prepared.mask & ~outline).any()
        filled = (prepared.image != recipe.fill).any(axis=2)
        assert filled[outline].mean() > 0.9


def test_a_cut_beyond_the_band_changes_nothing_inside_it() -> None:
    """Pixels, not only the outline: no local mean and no histogram reaches over the band's edge."""
    photograph = healthy_eye(128).photograph
    fov = field(Ellipse(center_x=63.5, center_y=63.5, radius_x=62, radius_y=62), photograph)
    barred = photograph.copy()
    barred[:16], barred[112:] = 0, 0
    narrow = replace(fov, top=16, bottom=111)
    for method in Method:
        recipe = PreprocessRecipe(method=method, size_px=SIZE_PX)
        whole, view = preprocess(photograph, fov, recipe), preprocess(barred, narrow, recipe)
        assert np.abs(whole.image.astype(int) - view.image).max() <= 2
        assert np.array_equal(whole.mask, view.mask)


@pytest.mark.parametrize("cuts", [{}, {"top": 0.2, "bottom": 0.15}, {"top": 0.3, "left": 0.15}], ids=str)
@pytest.mark.parametrize("method", list(Method))
def test_a_mirrored_disc_has_the_same_outline_however_the_photograph_is_cut(
    method: Method, cuts: dict[str, float]
) -> None:
    recipe = PreprocessRecipe(method=method, outline=Outline.MIRRORED_DISC, size_px=SIZE_PX)
    outline = canonical_outline(recipe)
    assert outline.sum() == pytest.approx(np.pi * SIZE_PX**2 / 4, rel=0.01), "the whole disc"
    prepared = preprocess_photograph(cut(healthy_eye(300), **cuts).photograph, recipe)
    assert (prepared.image[~outline] == recipe.fill).all()
    assert (prepared.image != recipe.fill).any(axis=2)[outline].mean() > 0.9
    assert (
        prepared.mask.sum() < outline.sum() if cuts else prepared.mask.sum() == pytest.approx(outline.sum(), rel=0.01)
    )


@pytest.mark.parametrize("outline", list(Outline))
def test_of_a_band_the_disc_around_it_is_stored_and_gives_the_band_back(outline: Outline) -> None:
    recipe = PreprocessRecipe(outline=outline, size_px=SIZE_PX)
    loaded = load_pixels(cut(healthy_eye(300), top=0.2).photograph, recipe)
    stored = image_to_store(loaded.photograph, loaded.preprocessed, recipe)
    assert np.array_equal(within_outline(stored, recipe), loaded.preprocessed.image)
    disc = replace(recipe, outline=Outline.MIRRORED_DISC)
    around = canonical_outline(disc) & ~canonical_outline(recipe)
    if outline is Outline.BAND:
        expected = preprocess(loaded.photograph, loaded.preprocessed.field_of_view, disc).image
        assert around.sum() > 500
        assert np.array_equal(stored[around], expected[around])


@pytest.mark.parametrize("outline", list(Outline))
def test_contrast_below_one_level_is_not_rounded_away_before_it_is_multiplied(outline: Outline) -> None:
    """Steps of a quarter of a level, four times larger after Ben Graham's method; rounded before, they were gone."""
    recipe = PreprocessRecipe(outline=outline, size_px=SIZE_PX)
    columns = 100 + 0.25 * (np.arange(SIZE_PX) % 2)
    photograph = np.repeat(np.repeat(columns[None, :, None], SIZE_PX, axis=0), 3, axis=2).astype(np.float32)
    image = preprocess(photograph, as_it_is(recipe), recipe).image.astype(int)
    row = image[SIZE_PX // 2, 10:-10, 0]
    assert (np.abs(np.diff(row)) == 1).all()
    assert np.ptp(row) == 1


def test_a_photograph_that_is_reduced_first_keeps_fractions_of_a_level() -> None:
    """Each pixel of another four times as high and wide, plus a checkerboard of mean 0.5: half a level brighter."""
    recipe = PreprocessRecipe(method=Method.BEN_GRAHAM, outline=Outline.DISC, size_px=MIN_SIZE_PX)
    small = healthy_eye(330).photograph
    checkerboard = np.tile(np.array([[0, 1], [1, 0]], np.uint8), (660, 660))[..., None]
    large = small.repeat(4, axis=0).repeat(4, axis=1)
    loaded = load_pixels(large + checkerboard * ((large > 60) & (large < 255)), recipe)
    assert loaded.photograph.dtype == np.float32 and loaded.photograph.shape == small.shape
    assert np.abs(loaded.photograph - (small + 0.5 * ((small > 60) & (small < 255)))).max() < 1e-3


def test_the_part_of_the_band_that_a_photograph_lacks_is_its_reflection() -> None:
    recipe = PreprocessRecipe(method=Method.NATURAL, size_px=SIZE_PX)
    photograph = np.random.default_rng(0).integers(1, 255, (SIZE_PX, SIZE_PX, 3)).astype(np.uint8)
    last = SIZE_PX // 2 + 20
    prepared = preprocess(photograph, replace(as_it_is(recipe), bottom=last), recipe)
    outline = canonical_outline(recipe)
    for row in range(last + 1, last + 8):
        both = outline[row] & outline[2 * last - row]
        assert both.sum() > 50
        assert np.array_equal(prepared.image[row][both], prepared.image[2 * last - row][both])
        assert not prepared.mask[row].any()


def test_a_wide_local_mean_is_the_same_on_a_reduced_copy() -> None:
    rng = np.random.default_rng(0)
    values = cv2.GaussianBlur(rng.uniform(0, 255, (256, 256, 3)).astype(np.float32), (0, 0), 2)
    mask = canonical_outline(PreprocessRecipe(size_px=256, outline=Outline.DISC))
    weight = mask.astype(np.float32)
    exact = cv2.GaussianBlur(values * weight[..., None], (0, 0), 9.0)
    exact /= np.maximum(cv2.GaussianBlur(weight, (0, 0), 9.0), 1e-6)[..., None]
    assert np.abs(local_mean(values, mask, 9.0) - exact)[mask].max() < 1.0


def test_recipes_together_and_repeated_give_the_images_of_each_alone() -> None:
    eye = cut(plain_retina(700), top=0.2)
    field_of_view = find_field_of_view(eye.photograph)
    recipes = [BAND, PreprocessRecipe(size_px=300, outline=Outline.DISC), PreprocessRecipe(method=Method.NATURAL)]
    for _ in range(2):  # the second time with what was kept of the first
        together = preprocess_by_recipes(eye.photograph, field_of_view, recipes)
        for recipe, shared in zip(recipes, together, strict=True):
            alone = preprocess(eye.photograph, field_of_view, recipe)
            assert np.array_equal(shared.image, alone.image) and np.array_equal(shared.mask, alone.mask)


def test_a_changed_outline_changes_no_later_image() -> None:
    canonical_outline(BAND)[:] = False
    assert canonical_outline(BAND).any()


def test_a_recipe_is_read_back_from_its_description() -> None:
    recipe = PreprocessRecipe(method=Method.CLAHE, outline=Outline.DISC, size_px=77)
    assert PreprocessRecipe.from_json(asdict(recipe)) == recipe
    for broken in ({}, {"method": "magic", "outline": "band"}, {**asdict(recipe), "extra": 1}):
        with pytest.raises((KeyError, ValueError, TypeError)):
            PreprocessRecipe.from_json(broken)


def test_a_placement_resized_there_and_back_is_unchanged() -> None:
    placement = preprocess_photograph(plain_retina(128).photograph, BAND).placement
    twice = placement.resized_to(512, 384).resized_to(128, 128)
    assert asdict(twice) == pytest.approx(asdict(placement))
