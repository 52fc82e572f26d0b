"""Robustness to acquisition changes: photographs are changed in ways that leave the retina as it is.

The grade should not change when a photograph is cropped, squashed, compressed or tinted, but it should when lesions are
covered. Both are measured as the absolute change of the expected grade.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from fundusgrade.data.dataset import PreparedDataset
from fundusgrade.data.lesion_masks import any_lesion, find_lesion_photographs, read_lesions
from fundusgrade.errors import DatasetError, NoRetinaError, UngradableError
from fundusgrade.evaluation.resampling import resample_independent, resample_rows
from fundusgrade.grades import Prediction, Ungraded
from fundusgrade.metrics.bootstrap import Resamples, estimate_mean
from fundusgrade.metrics.estimates import Estimate
from fundusgrade.photographs.decoding import decode_image
from fundusgrade.photographs.field_of_view import FieldOfView, find_field_of_view
from fundusgrade.photographs.images import encode_jpeg, read_image
from fundusgrade.photographs.pixels import Image

if TYPE_CHECKING:
    from fundusgrade.grading.grader import Grader

LESIONS = "lesions covered"
CONTROL = "as much retina elsewhere covered"
CUT_FRACTION = 0.75
SQUASHED_ASPECT = 0.75
_LESION_SIDE_PX = 1024
_CHUNK = 32

Change = Callable[[Image, FieldOfView], Image | None]
"""Changes a photograph (H, W, 3); returns None where the change does not apply to it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InterventionEffect:
    """Absolute change of the expected grade, 0 to 4, over the photographs that an intervention applies to.

    `mean_low` and `mean_high` bound the 95 % interval of the mean, `flip_fraction` is the proportion whose predicted
    grade changes, `num_lost` counts photographs in which no retina was found after the change. Changes are None where
    no photograph could be graded twice.
    """

    name: str
    num_photographs: int
    mean_change: float | None
    mean_low: float | None
    mean_high: float | None
    percentile_95: float | None
    flip_fraction: float | None
    num_lost: int

    @property
    def mean_estimate(self) -> Estimate:
        """The mean change with its interval."""
        return Estimate(value=self.mean_change, low=self.mean_low, high=self.mean_high)


def measure_interventions(
    grader: Grader,
    dataset: PreparedDataset,
    split: str,
    *,
    limit: int = 300,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[InterventionEffect, ...]:
    """Apply all INTERVENTIONS to up to `limit` photographs of a split, chosen at random with a fixed seed.

    Raises DatasetError where photographs are missing.
    """
    rows = dataset.graded_rows(split)
    if not rows:
        raise DatasetError(f"the data set {dataset.name!r} has no graded photographs in the split {split!r}")
    chosen = [rows[i] for i in sorted(np.random.default_rng(0).permutation(len(rows))[:limit])]
    paths = [dataset.photograph_path(row) for row in chosen]
    pairs: dict[str, list[_Pair | None]] = {name: [] for name in INTERVENTIONS}
    for start in range(0, len(paths), _CHUNK):
        photographs = [_read(path) for path in paths[start : start + _CHUNK]]
        for name, changed in _grade_changes(grader, photographs).items():
            pairs[name] += changed
        on_progress(min(start + _CHUNK, len(paths)), len(paths))
    resamples = resample_rows(chosen)
    return tuple(_effect(name, changed, resamples) for name, changed in pairs.items())


def measure_lesions(grader: Grader, folder: Path) -> tuple[InterventionEffect, ...]:
    """The positive control: lesions covered, and an equal area of other retina covered, in IDRiD's layout.

    `folder` holds images/NAME.jpg and masks/NAME_MA.png, _HE, _EX and _SE (H, W), white on lesions. What is covered is
    filled from its surroundings (Telea 2004). Raises DatasetError where there are no such files.
    """
    lesions: list[_Pair] = []
    elsewhere: list[_Pair] = []
    for photograph, mask in _photographs_with_lesions(folder):
        field_of_view = find_field_of_view(photograph)
        mirrored = _mirrored(mask, field_of_view) & ~mask
        changed = [photograph, _covered(photograph, mask), _covered(photograph, mirrored)]
        before, covered, control = grader.grade_images(changed)
        lesions.append(_Pair(before=before, after=covered))
        elsewhere.append(_Pair(before=before, after=control))
    resamples = resample_independent(len(lesions))
    return _effect(LESIONS, lesions, resamples), _effect(CONTROL, elsewhere, resamples)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pair:
    """The results of grading a photograph before and after a change."""

    before: Prediction | Ungraded
    after: Prediction | Ungraded

    def graded(self) -> tuple[Prediction, Prediction] | None:
        """Both predictions; None where one of them is missing."""
        if isinstance(self.before, Prediction) and isinstance(self.after, Prediction):
            return self.before, self.after
        return None


def _read(path: Path) -> Image:
    try:
        return read_image(path, at_least_px=512)
    except UngradableError as error:
        raise DatasetError(
            f"{path} cannot be read ({error}); prepare the data set where its photographs are"
        ) from error


def _grade_changes(grader: Grader, photographs: Sequence[Image]) -> dict[str, list[_Pair | None]]:
    """Pairs for all photographs by the name of the change; None where a change does not apply."""
    fields = [_field_of_view(photograph) for photograph in photographs]
    before = grader.grade_images(photographs)
    pairs: dict[str, list[_Pair | None]] = {}
    for name, change in INTERVENTIONS.items():
        changed = [
            None if field is None else change(photograph, field)
            for photograph, field in zip(photographs, fields, strict=True)
        ]
        after = iter(grader.grade_images([image for image in changed if image is not None]))
        pairs[name] = [
            None if image is None else _Pair(before=first, after=next(after))
            for first, image in zip(before, changed, strict=True)
        ]
    return pairs


def _field_of_view(photograph: Image) -> FieldOfView | None:
    """None where none is found: the photograph may have been replaced since it was prepared."""
    try:
        return find_field_of_view(photograph)
    except NoRetinaError:
        return None


def _effect(name: str, pairs: Sequence[_Pair | None], resamples: Resamples) -> InterventionEffect:
    graded = [None if pair is None else pair.graded() for pair in pairs]
    both = [pair for pair in graded if pair is not None]
    changes = np.array([np.nan if pair is None else _change(*pair) for pair in graded])
    mean = estimate_mean(changes, resamples)
    return InterventionEffect(
        name=name,
        num_photographs=len(both),
        mean_change=mean.value,
        mean_low=mean.low,
        mean_high=mean.high,
        percentile_95=float(np.nanpercentile(changes, 95)) if both else None,
        flip_fraction=sum(before.grade != after.grade for before, after in both) / len(both) if both else None,
        num_lost=sum(pair is not None for pair in pairs) - len(both),
    )


def _change(before: Prediction, after: Prediction) -> float:
    return abs(after.expected_grade - before.expected_grade)


def _cut_rows(photograph: Image, field_of_view: FieldOfView) -> tuple[int, int] | None:
    """First row and last row + 1 of a crop at CUT_FRACTION of the radius; None where the photograph shows no more."""
    reach = CUT_FRACTION * field_of_view.radius_y
    first, last = round(field_of_view.center_y - reach), round(field_of_view.center_y + reach)
    shows_more = field_of_view.top < first - 0.02 * reach and field_of_view.bottom > last + 0.02 * reach
    return (max(first, 0), last + 1) if shows_more else None


def _cut(photograph: Image, field_of_view: FieldOfView) -> Image | None:
    rows = _cut_rows(photograph, field_of_view)
    return None if rows is None else np.ascontiguousarray(photograph[rows[0] : rows[1]])


def _bars(photograph: Image, field_of_view: FieldOfView) -> Image | None:
    rows = _cut_rows(photograph, field_of_view)
    if rows is None:
        return None
    masked = np.zeros_like(photograph)
    masked[rows[0] : rows[1]] = photograph[rows[0] : rows[1]]
    return masked


def _squashed(photograph: Image, field_of_view: FieldOfView) -> Image:
    """The field of view made round, or 3/4 as wide as high where it is round already, by shortening a side."""
    factor = _other_aspect(field_of_view)
    return _resized(photograph, min(1.0, factor), min(1.0, 1 / factor))


def _stretched(photograph: Image, field_of_view: FieldOfView) -> Image:
    """The shape of `_squashed`, by lengthening the other side, which loses no detail."""
    factor = _other_aspect(field_of_view)
    return _resized(photograph, max(1.0, factor), max(1.0, 1 / factor))


def _other_aspect(field_of_view: FieldOfView) -> float:
    is_round = abs(field_of_view.aspect - 1) < 0.12
    return (SQUASHED_ASPECT if is_round else 1.0) / field_of_view.aspect


def _resized(photograph: Image, factor_x: float, factor_y: float) -> Image:
    height, width = photograph.shape[:2]
    interpolation = cv2.INTER_AREA if min(factor_x, factor_y) < 1 else cv2.INTER_CUBIC
    size = (round(width * factor_x), round(height * factor_y))
    return np.asarray(cv2.resize(photograph, size, interpolation=interpolation), np.uint8)


def _with_margin(photograph: Image, field_of_view: FieldOfView) -> Image:
    height, width = photograph.shape[:2]
    return np.asarray(cv2.copyMakeBorder(photograph, 0, height // 5, width // 5, 0, cv2.BORDER_CONSTANT), np.uint8)


def _recompressed(photograph: Image, quality: int) -> Image:
    return decode_image(encode_jpeg(photograph, quality=quality))


def _scaled(photograph: Image, gains: tuple[float, float, float]) -> Image:
    return np.asarray(np.clip(np.rint(photograph * np.array(gains)), 0, 255), np.uint8)


INTERVENTIONS: dict[str, Change] = {
    "cut above and below": _cut,
    "bars above and below": _bars,
    "squashed to another aspect": _squashed,
    "stretched to another aspect": _stretched,
    "margin on two sides": _with_margin,
    "compressed again (JPEG 75)": lambda photograph, fov: _recompressed(photograph, 75),
    "compressed again (JPEG 50)": lambda photograph, fov: _recompressed(photograph, 50),
    "tinted (red x 0.9, blue x 1.2)": lambda photograph, fov: _scaled(photograph, (0.9, 1.0, 1.2)),
    "darkened (x 0.7)": lambda photograph, fov: _scaled(photograph, (0.7, 0.7, 0.7)),
}


def _photographs_with_lesions(folder: Path) -> Iterator[tuple[Image, NDArray[np.bool_]]]:
    """Photographs, resized to at most 1,024 px a side, and the union of their lesions' masks."""
    for image in find_lesion_photographs(folder):
        photograph = read_image(image.path)
        union = any_lesion(read_lesions(image.path.stem, folder / "masks", photograph.shape))
        scale = min(1.0, _LESION_SIDE_PX / max(photograph.shape[:2]))
        small = _resized(photograph, scale, scale) if scale < 1 else photograph
        fraction = cv2.resize(union.astype(np.float32), small.shape[1::-1], interpolation=cv2.INTER_AREA)
        yield small, fraction > 0.1


def _mirrored(mask: NDArray[np.bool_], field_of_view: FieldOfView) -> NDArray[np.bool_]:
    """The mask mirrored at the vertical axis of the field of view."""
    columns = np.rint(2 * field_of_view.center_x - np.arange(mask.shape[1])).astype(int)
    inside = (columns >= 0) & (columns < mask.shape[1])
    mirrored = np.zeros_like(mask)
    mirrored[:, inside] = mask[:, columns[inside]]
    return mirrored


def _covered(photograph: Image, mask: NDArray[np.bool_]) -> Image:
    """The photograph with the dilated mask inpainted from its surroundings."""
    grown = cv2.dilate(mask.astype(np.uint8), cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (7, 7)))
    return np.asarray(cv2.inpaint(photograph, grown, 5, cv2.INPAINT_TELEA), np.uint8)
