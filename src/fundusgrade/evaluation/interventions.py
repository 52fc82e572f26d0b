"""The same photographs changed in ways that leave the retina alone: does the grade stay where it was?

A model that reads the retina must not mind how a picture was cut, squashed, compressed or tinted, but it must mind when
lesions are covered. Both are measured as the change of the expected grade.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as PilImage

from fundusgrade.data.dataset import PreparedDataset
from fundusgrade.data.lesion_masks import any_lesion, find_lesion_photographs, read_lesions
from fundusgrade.errors import DatasetError, NoRetinaError, UngradableError
from fundusgrade.evaluation.audit import CONTROL, LESIONS, InterventionEffect
from fundusgrade.grades import Prediction, Ungraded
from fundusgrade.grading.grader import Grader
from fundusgrade.metrics.classification import mean_interval
from fundusgrade.photographs.decoding import decode_image
from fundusgrade.photographs.field_of_view import FieldOfView, find_field_of_view
from fundusgrade.photographs.images import read_image
from fundusgrade.photographs.pixels import Image

CUT_FRACTION = 0.75
SQUASHED_ASPECT = 0.75
_LESION_SIDE_PX = 1024
_CHUNK = 32

Change = Callable[[Image, FieldOfView], Image | None]
"""A photograph changed, or None where the change would leave it as it is."""


def measure_interventions(
    grader: Grader,
    dataset: PreparedDataset,
    split: str,
    *,
    limit: int = 300,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[InterventionEffect, ...]:
    """Change up to `limit` photographs of a split, drawn at random with a fixed seed, in every way of INTERVENTIONS.

    Raises DatasetError where photographs are missing.
    """
    rows = dataset.graded_rows(split)
    if not rows:
        raise DatasetError(f"the data set {dataset.name!r} has no graded photographs in the split {split!r}")
    order = np.random.default_rng(0).permutation(len(rows))[:limit]
    paths = [dataset.photograph_path(rows[i]) for i in sorted(order)]
    pairs: dict[str, list[_Pair]] = {name: [] for name in INTERVENTIONS}
    for start in range(0, len(paths), _CHUNK):
        photographs = [_read(path) for path in paths[start : start + _CHUNK]]
        for name, found in _grade_changes(grader, photographs).items():
            pairs[name] += found
        on_progress(min(start + _CHUNK, len(paths)), len(paths))
    return tuple(_effect(name, found) for name, found in pairs.items())


def measure_lesions(grader: Grader, folder: Path) -> tuple[InterventionEffect, ...]:
    """The positive control: lesions covered, and as much retina elsewhere, in IDRiD's layout.

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
        lesions.append((before, covered))
        elsewhere.append((before, control))
    return _effect(LESIONS, lesions), _effect(CONTROL, elsewhere)


_Pair = tuple[Prediction | Ungraded, Prediction | Ungraded]


def _read(path: Path) -> Image:
    try:
        return read_image(path, at_least_px=512)
    except UngradableError as error:
        raise DatasetError(
            f"{path} cannot be read ({error}); prepare the data set where its photographs are"
        ) from error


def _grade_changes(grader: Grader, photographs: Sequence[Image]) -> dict[str, list[_Pair]]:
    seen = [(photograph, fov) for photograph in photographs if (fov := _field_of_view(photograph)) is not None]
    before = grader.grade_images([photograph for photograph, _ in seen])
    pairs: dict[str, list[_Pair]] = {}
    for name, change in INTERVENTIONS.items():
        changed = [change(photograph, fov) for photograph, fov in seen]
        applied = [i for i, image in enumerate(changed) if image is not None]
        after = grader.grade_images([image for image in changed if image is not None])
        pairs[name] = [(before[i], result) for i, result in zip(applied, after, strict=True)]
    return pairs


def _field_of_view(photograph: Image) -> FieldOfView | None:
    """None where there is none any more: the photograph may have been replaced since it was prepared."""
    try:
        return find_field_of_view(photograph)
    except NoRetinaError:
        return None


def _effect(name: str, pairs: Sequence[_Pair]) -> InterventionEffect:
    kept = [(a, b) for a, b in pairs if isinstance(a, Prediction) and isinstance(b, Prediction)]
    changes = np.array([abs(after.expected_grade - before.expected_grade) for before, after in kept])
    interval = mean_interval(changes)
    return InterventionEffect(
        name=name,
        num_photographs=len(kept),
        mean_change=float(changes.mean()) if kept else None,
        mean_low=interval[0] if interval else None,
        mean_high=interval[1] if interval else None,
        percentile_95=float(np.percentile(changes, 95)) if kept else None,
        flip_fraction=sum(before.grade != after.grade for before, after in kept) / len(kept) if kept else None,
        num_lost=len(pairs) - len(kept),
    )


def _cut_rows(photograph: Image, field_of_view: FieldOfView) -> tuple[int, int] | None:
    """First and last row + 1 of a photograph cut at CUT_FRACTION of the radius; None where it shows no more anyway."""
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
    """The disc as wide as high, or 3/4 as wide where it is round already; the longer side is shortened."""
    factor = _other_aspect(field_of_view)
    return _resized(photograph, min(1.0, factor), min(1.0, 1 / factor))


def _stretched(photograph: Image, field_of_view: FieldOfView) -> Image:
    """The same shape by lengthening the other side, which loses no detail."""
    factor = _other_aspect(field_of_view)
    return _resized(photograph, max(1.0, factor), max(1.0, 1 / factor))


def _other_aspect(field_of_view: FieldOfView) -> float:
    is_round = abs(field_of_view.aspect - 1) < 0.12
    return (SQUASHED_ASPECT if is_round else 1.0) / field_of_view.aspect


def _resized(photograph: Image, share_x: float, share_y: float) -> Image:
    height, width = photograph.shape[:2]
    interpolation = cv2.INTER_AREA if min(share_x, share_y) < 1 else cv2.INTER_CUBIC
    size = (round(width * share_x), round(height * share_y))
    return np.asarray(cv2.resize(photograph, size, interpolation=interpolation), np.uint8)


def _with_margin(photograph: Image, field_of_view: FieldOfView) -> Image:
    height, width = photograph.shape[:2]
    return np.asarray(cv2.copyMakeBorder(photograph, 0, height // 5, width // 5, 0, cv2.BORDER_CONSTANT), np.uint8)


def _recompressed(photograph: Image, quality: int) -> Image:
    encoded = io.BytesIO()
    PilImage.fromarray(photograph).save(encoded, "JPEG", quality=quality)
    return decode_image(encoded.getvalue())


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
    """Photographs of at most 1,024 px and the union of their lesions' masks."""
    for found in find_lesion_photographs(folder):
        photograph = read_image(found.path)
        union = any_lesion(read_lesions(found.path.stem, folder / "masks", photograph.shape))
        scale = min(1.0, _LESION_SIDE_PX / max(photograph.shape[:2]))
        small = _resized(photograph, scale, scale) if scale < 1 else photograph
        share = cv2.resize(union.astype(np.float32), small.shape[1::-1], interpolation=cv2.INTER_AREA)
        yield small, share > 0.1


def _mirrored(mask: NDArray[np.bool_], field_of_view: FieldOfView) -> NDArray[np.bool_]:
    """The mask on the other side of the disc's vertical axis."""
    columns = np.rint(2 * field_of_view.center_x - np.arange(mask.shape[1])).astype(int)
    inside = (columns >= 0) & (columns < mask.shape[1])
    mirrored = np.zeros_like(mask)
    mirrored[:, inside] = mask[:, columns[inside]]
    return mirrored


def _covered(photograph: Image, mask: NDArray[np.bool_]) -> Image:
    """What the mask marks, with a little of its border, is filled from its surroundings."""
    grown = cv2.dilate(mask.astype(np.uint8), cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (7, 7)))
    return np.asarray(cv2.inpaint(photograph, grown, 5, cv2.INPAINT_TELEA), np.uint8)
