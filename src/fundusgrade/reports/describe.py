"""The report builder: the content of a report other than the scores, from manifests, checkpoints and networks."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import timm
import torch

from fundusgrade import __version__, store
from fundusgrade.data.dataset import PreparedDataset
from fundusgrade.data.manifest import ManifestRow
from fundusgrade.errors import FundusgradeError
from fundusgrade.evaluation.assessment import Assessment, WorstError
from fundusgrade.evaluation.audit import Audit, conclusion
from fundusgrade.evaluation.candidates import Candidate, explaining_grader, network_names
from fundusgrade.evaluation.confusion_cells import DifferenceCell, confusion_cells, difference_cells
from fundusgrade.evaluation.flow import study_flow
from fundusgrade.explanation.explainer import Explanation, explain
from fundusgrade.explanation.heat_map import ExplainOptions
from fundusgrade.explanation.targets import grade_target
from fundusgrade.files import now
from fundusgrade.grades import Grade, Prediction, describe_rule
from fundusgrade.grading.grader import Grader
from fundusgrade.photographs.images import encode_jpeg, read_image
from fundusgrade.photographs.pixels import Image
from fundusgrade.reports.html.context import (
    DataDescription,
    GalleryHeatMap,
    GalleryItem,
    KappaCurve,
    ModelDescription,
    ReportContext,
)
from fundusgrade.reports.listings import (
    decision_in_words,
    doubts_in_words,
    operating_point_line,
    undecided_in_words,
)
from fundusgrade.reports.overlay import blend
from fundusgrade.training.history import METRICS_FILE, read_history

_IMAGE_PX = 320


def report_context(
    candidates: Sequence[Candidate],
    dataset: PreparedDataset,
    assessment: Assessment,
    *,
    num_images: int,
    audits: Sequence[Audit],
    command: str,
) -> ReportContext:
    """The content of a report other than the scores.

    Up to `num_images` of each model's largest errors are shown; `command` is the command that makes the report.
    """
    return ReportContext(
        title=f"Diabetic retinopathy grading on {assessment.data}",
        created=now(),
        versions=_versions(),
        data=_describe_data(dataset, assessment, candidates[0]),
        models=tuple(_describe_model(candidate) for candidate in candidates),
        audits=tuple(audits),
        conclusion=conclusion(*audits) if audits else "",
        gallery=_gallery(candidates, dataset, assessment, num_images),
        commands=(command,),
        flow=study_flow(dataset, candidates[0].predictions.test.sources),
        cells=tuple(confusion_cells(candidate.predictions.test) for candidate in candidates),
        difference=_difference(candidates),
    )


def _difference(candidates: Sequence[Candidate]) -> tuple[DifferenceCell, ...]:
    """The difference of the confusion matrices of two models; empty for one, or more than two."""
    if len(candidates) != 2:
        return ()
    first, second = candidates
    return difference_cells(first.predictions.test, second.predictions.test)


def _versions() -> tuple[tuple[str, str], ...]:
    libraries = {"fundusgrade": __version__, "Python": platform.python_version()}
    libraries |= {"PyTorch": str(torch.__version__), "timm": str(timm.__version__), "OpenCV": cv2.__version__}
    return tuple(libraries.items())


def _describe_data(dataset: PreparedDataset, assessment: Assessment, candidate: Candidate) -> DataDescription:
    test = candidate.predictions.test
    counts, scored = Counter(test.grades.tolist()), set(test.sources)
    return DataDescription(
        name=assessment.data,
        part=assessment.part,
        num_folds=len(set(test.folds.tolist()) - {0}),
        num_photographs=assessment.num_photographs,
        num_per_grade=tuple(counts[int(grade)] for grade in Grade),
        num_groups=assessment.num_groups,
        recipe=dataset.recipe.describe(),
        manifest_hash=dataset.hash,
        num_ungraded=sum(row.error is not None for row in dataset.rows),
        num_doubtful=sum(_is_doubtful(row) for row in dataset.rows if row.source in scored),
    )


def _is_doubtful(row: ManifestRow) -> bool:
    return row.quality is not None and not row.quality.gradable


def _describe_model(candidate: Candidate) -> ModelDescription:
    description = candidate.description
    if description is None:
        return ModelDescription(
            name=candidate.predictions.model, architecture="", training_data="", start="", rule="", options=(),
            validation_kappa=None, weights_hash="", leakage=candidate.leakage,
        )  # fmt: skip
    provenance = description.provenance
    return ModelDescription(
        name=candidate.predictions.model,
        architecture=description.network.timm_name or description.network.arch,
        training_data=f"{provenance.data_name} (manifest {provenance.data_hash[:12]})",
        start=provenance.init,
        rule=describe_rule(description.thresholds),
        options=tuple((name, str(value)) for name, value in provenance.options.items() if value is not None),
        validation_kappa=provenance.metrics.get("validation_kappa"),
        weights_hash=description.weights_sha256,
        leakage=candidate.leakage,
        referral=operating_point_line(description.name, description.chosen_point()),
        curves=_curves(candidate),
    )


def _curves(candidate: Candidate) -> tuple[KappaCurve, ...]:
    """Learning curves of the networks that are in the store."""
    folders = {model.name: model.path.parent for model in store.list_models()}
    curves = [
        KappaCurve(name=name, kappas=tuple(record.validation_kappa for record in read_history(folder / METRICS_FILE)))
        for name in network_names(candidate.predictions)
        if (folder := folders.get(name)) is not None
    ]
    return tuple(curve for curve in curves if curve.kappas)


def _gallery(
    candidates: Sequence[Candidate], dataset: PreparedDataset, assessment: Assessment, num_images: int
) -> tuple[GalleryItem, ...]:
    """The largest errors of each model, with heat maps where the network and the photograph are available."""
    rows = {row.source: row for row in dataset.rows if row.image}
    items = []
    for candidate, model in zip(candidates, assessment.models, strict=True):
        folds = dict(zip(candidate.predictions.test.sources, candidate.predictions.test.folds.tolist(), strict=True))
        graders: dict[int, Grader | None] = {}
        for error in [error for error in model.worst_errors if error.source in rows][:num_images]:
            fold = folds[error.source]
            if fold not in graders:
                graders[fold] = explaining_grader(candidate, fold)
            explanation = _explain(graders[fold], dataset, rows[error.source], error)
            image = dataset.directory / rows[error.source].image
            decision = _decision(error, candidate.predictions.model, graders[fold], explanation)
            items.append(_gallery_item(candidate.predictions.model, error, decision, explanation, image))
    return tuple(items)


def _decision(error: WorstError, model: str, grader: Grader | None, explanation: Explanation | None) -> str:
    """What decided the grade, and the doubts about the photograph where it was explained.

    Of predictions whose network is not available the rule is not known.
    """
    thresholds = None if grader is None else grader.description.thresholds
    prediction = Prediction(image=error.source, model=model, probabilities=error.probabilities, thresholds=thresholds)
    if explanation is not None:
        of = explanation.prediction
        prediction = replace(
            prediction, quality_reasons=of.quality_reasons, is_borderline=of.is_borderline, warnings=of.warnings
        )
    is_known = grader is not None and prediction.grade == error.predicted
    decision = decision_in_words(prediction) if is_known else undecided_in_words(prediction)
    return "; ".join(words for words in (decision, doubts_in_words(prediction)) if words)


def _gallery_item(
    model: str, error: WorstError, decision: str, explanation: Explanation | None, image: Path
) -> GalleryItem:
    photograph = read_image(image) if explanation is None else explanation.photograph
    return GalleryItem(
        model=model,
        source=error.source,
        grade=error.grade,
        predicted=error.predicted,
        decision=decision,
        image=encode_jpeg(_small(photograph)),
        heat_map=None if explanation is None else _gallery_heat_map(explanation),
    )


def _gallery_heat_map(explanation: Explanation) -> GalleryHeatMap:
    scale = explanation.heat_map.scale
    shown = scale.shown(explanation.heat)
    blended = blend(explanation.photograph, explanation.heat, shown=shown)
    return GalleryHeatMap(
        image=encode_jpeg(_small(blended)),
        maximum=shown.end,
        unit=scale.unit,
        is_drawn=shown.draws(explanation.heat),
    )


def _explain(
    grader: Grader | None, dataset: PreparedDataset, row: ManifestRow, error: WorstError
) -> Explanation | None:
    """The explanation of the wrong grade; None where the network or the photograph is not available."""
    if grader is None:
        return None
    try:
        return explain(
            grader, dataset.photograph_path(row), ExplainOptions(target=grade_target(Grade(error.predicted)))
        )
    except (FundusgradeError, OSError):
        return None


def _small(photograph: Image) -> Image:
    scale = _IMAGE_PX / max(photograph.shape[:2])
    if scale >= 1:
        return photograph
    size = (max(1, round(photograph.shape[1] * scale)), max(1, round(photograph.shape[0] * scale)))
    return np.asarray(cv2.resize(photograph, size, interpolation=cv2.INTER_AREA), np.uint8)
