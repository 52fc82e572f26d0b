"""What networks see of a retina, against geometry that is known: reach, and lesions drawn at known places."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fundusgrade.errors import DatasetError
from fundusgrade.evaluation.visibility import measure_unseen_lesions, seen_region, visible_reach
from fundusgrade.photographs.preprocess import canonical_outline
from fundusgrade.photographs.recipe import BAND_FRACTION, GRAHAM_VISIBLE_FRACTION, Method, Outline, PreprocessRecipe
from tests.drawn_eyes import Mask, plain_retina, preprocess_photograph, squash


@pytest.mark.parametrize("size_px", [64, 224, 288])
def test_the_reach_is_that_of_the_outline(size_px: int) -> None:
    def reach(method: Method, outline: Outline) -> float:
        return visible_reach(PreprocessRecipe(method=method, outline=outline, size_px=size_px))

    pixel = 2 / size_px
    assert reach(Method.BEN_GRAHAM, Outline.BAND) == pytest.approx(BAND_FRACTION, abs=pixel)
    assert reach(Method.NATURAL, Outline.BAND) == pytest.approx(BAND_FRACTION, abs=pixel)
    assert reach(Method.BEN_GRAHAM, Outline.DISC) == pytest.approx(GRAHAM_VISIBLE_FRACTION, abs=pixel)
    assert reach(Method.NATURAL, Outline.DISC) == pytest.approx(1, abs=pixel)


def test_the_region_that_is_seen_has_the_place_and_shape_of_the_band_also_in_a_squashed_photograph() -> None:
    eye = squash(plain_retina(600), width_px=500, height_px=700)
    recipe = PreprocessRecipe(size_px=224)
    placement = preprocess_photograph(eye.photograph, recipe).placement
    seen = seen_region(canonical_outline(recipe), placement, (700, 500))
    y, x = np.ogrid[:700, :500]
    up = np.abs(y - eye.disc.center_y) / eye.disc.radius_y
    radius = np.asarray(eye.disc.distance(x, y))
    # A pixel of the network is 0.008 radii wide.
    inside = (up < BAND_FRACTION - 0.02) & (radius < GRAHAM_VISIBLE_FRACTION - 0.02)
    outside = (up > BAND_FRACTION + 0.02) | (radius > GRAHAM_VISIBLE_FRACTION + 0.02)
    assert seen[inside].all() and not seen[outside].any()


def disc_at(shape: tuple[int, int], x: float, y: float, radius_px: float) -> Mask:
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    return np.asarray(np.hypot(columns - x, rows - y) <= radius_px)


def save_with_lesions(folder: Path, places_up: dict[str, list[float]]) -> None:
    """A drawn eye with round lesions of 9 px on its vertical axis, as far below the center as given, in radii."""
    eye = plain_retina(500)
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    Image.fromarray(eye.photograph).save(folder / "images" / "eye.png")
    for kind, places in places_up.items():
        mask = np.zeros((500, 500), np.bool_)
        for up in places:
            mask |= disc_at((500, 500), eye.disc.center_x, eye.disc.center_y + up * eye.disc.radius_y, 9)
        Image.fromarray(mask.astype(np.uint8) * 255).save(folder / "masks" / f"eye_{kind}.png")


def test_lesions_beyond_the_outline_are_counted_by_number_and_by_area(tmp_path: Path) -> None:
    save_with_lesions(tmp_path, {"MA": [0.0, 0.3, -0.5, 0.85], "EX": [BAND_FRACTION, -0.2], "SE": []})
    found = measure_unseen_lesions(tmp_path, PreprocessRecipe(size_px=224))
    by_kind = {each.kind: each for each in found}
    assert [each.kind for each in found] == ["microaneurysms", "hard exudates", "soft exudates"]
    ma, ex, se = (by_kind[kind] for kind in by_kind)
    assert (ma.num_photographs, ma.num_lesions, ma.unseen_lesions) == (1, 4, 0.25)
    assert ma.unseen_area == pytest.approx(0.25, abs=0.005)  # round lesions of 9 px differ by a few pixels
    # The edge of the band halves one of two exudates.
    assert ex.num_lesions == 2 and ex.unseen_area == pytest.approx(0.25, abs=0.04)
    assert (se.num_lesions, se.unseen_area, se.unseen_lesions) == (0, None, None)


def test_the_whole_disc_shows_lesions_that_the_band_does_not(tmp_path: Path) -> None:
    save_with_lesions(tmp_path, {"HE": [0.8, 0.1]})

    def unseen(outline: Outline, method: Method) -> float | None:
        (found,) = measure_unseen_lesions(tmp_path, PreprocessRecipe(method=method, outline=outline, size_px=128))
        return found.unseen_lesions

    assert unseen(Outline.BAND, Method.NATURAL) == 0.5
    assert unseen(Outline.DISC, Method.NATURAL) == unseen(Outline.DISC, Method.BEN_GRAHAM) == 0.0


def test_a_folder_without_masks_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no photographs with lesion masks"):
        measure_unseen_lesions(tmp_path, PreprocessRecipe())
