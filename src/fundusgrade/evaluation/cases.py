"""The cases of a study of explanations: photographs, with everything that its tests need besides the heat maps."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from fundusgrade.data.lesion_masks import LESION_NAMES, LesionMask, any_lesion
from fundusgrade.evaluation.findings import LESIONS
from fundusgrade.evaluation.landmarks import Landmarks, find_landmarks
from fundusgrade.evaluation.lesion_agreement import lesion_coverage
from fundusgrade.explanation.explainer import visible_region
from fundusgrade.explanation.targets import Target
from fundusgrade.grading.grader import Grader
from fundusgrade.photographs.loading import LoadedPhotograph
from fundusgrade.photographs.preprocess import PreprocessedImage, preprocess
from fundusgrade.photographs.recipe import Method, Outline


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Case:
    """A photograph of a study: its number, from 0, how it was loaded, and masks of its lesions where they are known."""

    number: int
    loaded: LoadedPhotograph
    lesions: tuple[LesionMask, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LesionCoverage:
    """The fraction of each pixel (S, S) that lesions cover; `test` is "lesions" for all kinds, else the kind."""

    test: str
    coverage: NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ModelCase:
    """A case with one model and target; all but `grader` and `target` is the same for every model.

    `natural` is the preprocessed image in natural colors, `outline` (S, S) the region that can show retina.
    """

    case: Case
    grader: Grader
    target: Target
    preprocessed: PreprocessedImage
    natural: PreprocessedImage
    outline: NDArray[np.bool_]
    landmarks: Landmarks
    coverages: tuple[LesionCoverage, ...]


def make_model_case(case: Case, grader: Grader, target: Target) -> ModelCase:
    """Compute once for a photograph all that its tests share: lesion masks have many megapixels."""
    preprocessed, lesions = case.loaded.preprocessed, case.lesions
    natural, landmarks = _natural(case.loaded, grader)
    masks = [(LESIONS, any_lesion(lesions))] if lesions else []
    masks += [(LESION_NAMES[lesion.kind], lesion.mask) for lesion in lesions]
    return ModelCase(
        case=case,
        grader=grader,
        target=target,
        preprocessed=preprocessed,
        outline=visible_region(grader.recipe, preprocessed),
        natural=natural,
        landmarks=landmarks,
        coverages=tuple(
            LesionCoverage(test=test, coverage=lesion_coverage(mask, preprocessed.placement, len(preprocessed.image)))
            for test, mask in masks
        ),
    )


def _natural(loaded: LoadedPhotograph, grader: Grader) -> tuple[PreprocessedImage, Landmarks]:
    """The photograph in natural colors, aligned with the model's input pixel by pixel, and its landmarks."""
    recipe = replace(grader.recipe, method=Method.NATURAL, outline=Outline.DISC)
    natural = preprocess(loaded.photograph, loaded.preprocessed.field_of_view, recipe)
    # Landmarks are located on the whole field of view: the model's input may be cropped.
    landmarks = find_landmarks(natural, recipe.radius_px)
    scale, middle = grader.recipe.radius_px / recipe.radius_px, (recipe.size_px - 1) / 2
    matrix = np.array([[scale, 0, middle - scale * middle], [0, scale, middle - scale * middle]])
    size = (recipe.size_px, recipe.size_px)
    image = cv2.warpAffine(natural.image, matrix, size, flags=cv2.INTER_LINEAR)
    mask = cv2.warpAffine(natural.mask.astype(np.uint8), matrix, size, flags=cv2.INTER_NEAREST) > 0
    placed = replace(natural, image=np.asarray(image, np.uint8), mask=mask)
    return placed, landmarks.magnified(scale, middle)
