"""Robustness to acquisition changes, beside controls: how far photographs that were changed move the expected grade.

The grade should not change when a photograph is cut, squashed, compressed or tinted; it must not change when nothing
that the network sees has changed, and it must change when lesions are removed or covered. The same changes are shown to
a classifier that reads only the outline: a model known to depend on how a photograph was cut.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from fundusgrade.data.dataset import PreparedDataset
from fundusgrade.data.lesion_masks import any_lesion, find_lesion_photographs, read_lesions
from fundusgrade.data.manifest import ManifestRow
from fundusgrade.errors import DatasetError, NoRetinaError, UngradableError
from fundusgrade.evaluation.interventions import INTERVENTIONS, Role, resized
from fundusgrade.evaluation.resampling import resample_independent, resample_rows
from fundusgrade.evaluation.shortcuts import OutlineClassifier
from fundusgrade.grades import Prediction, Ungraded
from fundusgrade.metrics.bootstrap import Resamples, estimate_mean
from fundusgrade.metrics.estimates import UNDEFINED, Estimate
from fundusgrade.photographs.field_of_view import FieldOfView, find_field_of_view
from fundusgrade.photographs.images import read_image
from fundusgrade.photographs.pixels import Image

if TYPE_CHECKING:
    from fundusgrade.grading.grader import Grader

LESIONS = "lesions covered"
LESIONS_CONTROL = "as much retina elsewhere covered"
_LESION_SIDE_PX = 1024
_CHUNK = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class InterventionEffect:
    """Changes of the expected grade, 0 to 4, over the photographs that an intervention applies to.

    `change` is the mean absolute change, `shift` the mean signed one, above 0 towards disease; `outline_change` is the
    mean absolute change of the classifier that reads only the outline, where one was given. `flip_fraction` is the
    proportion whose predicted grade changes, `num_lost` counts photographs in which no retina was found after the
    change. All are undefined where no photograph could be graded twice. `cut_fraction` is that of the intervention.
    """

    name: str
    role: Role
    num_photographs: int
    change: Estimate
    shift: Estimate
    outline_change: Estimate
    percentile_95: float | None
    flip_fraction: float | None
    num_lost: int
    cut_fraction: float | None = None


def measure_interventions(
    grader: Grader,
    dataset: PreparedDataset,
    split: str,
    *,
    limit: int = 300,
    outline_classifier: OutlineClassifier | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[InterventionEffect, ...]:
    """Apply all INTERVENTIONS to up to `limit` photographs of a split, chosen at random with a fixed seed.

    Raises DatasetError where photographs are missing.
    """
    rows = dataset.graded_rows(split)
    if not rows:
        raise DatasetError(f"the data set {dataset.name!r} has no graded photographs in the split {split!r}")
    chosen = [rows[i] for i in sorted(np.random.default_rng(0).permutation(len(rows))[:limit])]
    pairs: dict[str, list[_Pair | None]] = {intervention.name: [] for intervention in INTERVENTIONS}
    for start in range(0, len(chosen), _CHUNK):
        chunk = chosen[start : start + _CHUNK]
        photographs = [_read(dataset.photograph_path(row)) for row in chunk]
        for name, changed in _grade_changes(grader, photographs, chunk, outline_classifier).items():
            pairs[name] += changed
        on_progress(min(start + _CHUNK, len(chosen)), len(chosen))
    resamples = resample_rows(chosen)
    return tuple(
        replace(
            _effect(intervention.name, intervention.role_for(grader.recipe), pairs[intervention.name], resamples),
            cut_fraction=intervention.cut_fraction,
        )
        for intervention in INTERVENTIONS
    )


def measure_lesions(grader: Grader, folder: Path) -> tuple[InterventionEffect, ...]:
    """A positive control, lesions covered, and its negative one, an equal area of other retina, in IDRiD's layout.

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
    return (
        _effect(LESIONS, Role.POSITIVE_CONTROL, lesions, resamples),
        _effect(LESIONS_CONTROL, Role.NEGATIVE_CONTROL, elsewhere, resamples),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pair:
    """The results of grading a photograph before and after a change.

    `outline_change` is the absolute change of the expected grade by the outline alone, NaN where it was not measured.
    """

    before: Prediction | Ungraded
    after: Prediction | Ungraded
    outline_change: float = float("nan")

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


def _grade_changes(
    grader: Grader, photographs: Sequence[Image], rows: Sequence[ManifestRow], classifier: OutlineClassifier | None
) -> dict[str, list[_Pair | None]]:
    """Pairs for all photographs by the name of the change; None where a change does not apply."""
    fields = [_field_of_view(photograph) for photograph in photographs]
    before, outline_before = grader.grade_images(photographs), _outline_grades(classifier, photographs, rows)
    pairs: dict[str, list[_Pair | None]] = {}
    for intervention in INTERVENTIONS:
        changed = [
            None if field is None else intervention.change(photograph, field)
            for photograph, field in zip(photographs, fields, strict=True)
        ]
        applies = [number for number, image in enumerate(changed) if image is not None]
        images = [image for image in changed if image is not None]
        after = grader.grade_images(images)
        outline_after = _outline_grades(classifier, images, [rows[number] for number in applies])
        found: list[_Pair | None] = [None] * len(photographs)
        for place, number in enumerate(applies):
            outline_change = abs(float(outline_after[place] - outline_before[number]))
            found[number] = _Pair(before=before[number], after=after[place], outline_change=outline_change)
        pairs[intervention.name] = found
    return pairs


def _outline_grades(
    classifier: OutlineClassifier | None, photographs: Sequence[Image], rows: Sequence[ManifestRow]
) -> NDArray[np.float64]:
    """Expected grades (N,) by the outline alone; NaN without a classifier."""
    if classifier is None or not photographs:
        return np.full(len(photographs), np.nan)
    return classifier.expected_grades(photographs, [row.fold for row in rows if row.fold is not None])


def _field_of_view(photograph: Image) -> FieldOfView | None:
    """None where none is found: the photograph may have been replaced since it was prepared."""
    try:
        return find_field_of_view(photograph)
    except NoRetinaError:
        return None


def _effect(name: str, role: Role, pairs: Sequence[_Pair | None], resamples: Resamples) -> InterventionEffect:
    graded = [None if pair is None else pair.graded() for pair in pairs]
    both = [pair for pair in graded if pair is not None]
    shifts = np.array([np.nan if pair is None else pair[1].expected_grade - pair[0].expected_grade for pair in graded])
    outline_changes = np.array([np.nan if pair is None else pair.outline_change for pair in pairs])
    return InterventionEffect(
        name=name,
        role=role,
        num_photographs=len(both),
        change=estimate_mean(np.abs(shifts), resamples),
        shift=estimate_mean(shifts, resamples),
        outline_change=UNDEFINED if np.isnan(outline_changes).all() else estimate_mean(outline_changes, resamples),
        percentile_95=float(np.nanpercentile(np.abs(shifts), 95)) if both else None,
        flip_fraction=sum(before.grade != after.grade for before, after in both) / len(both) if both else None,
        num_lost=sum(pair is not None for pair in pairs) - len(both),
    )


def _photographs_with_lesions(folder: Path) -> Iterator[tuple[Image, NDArray[np.bool_]]]:
    """Photographs, resized to at most 1,024 px a side, and the union of their lesions' masks."""
    for image in find_lesion_photographs(folder):
        photograph = read_image(image.path)
        union = any_lesion(read_lesions(image.path.stem, folder / "masks", photograph.shape))
        scale = min(1.0, _LESION_SIDE_PX / max(photograph.shape[:2]))
        small = resized(photograph, scale, scale) if scale < 1 else photograph
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
