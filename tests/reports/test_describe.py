"""What a report says beside the scores is what manifests, checkpoints and photographs hold."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from fundusgrade.data.dataset import PreparedDataset
from fundusgrade.evaluation.assessment import Assessment
from fundusgrade.evaluation.candidates import Candidate, assess_candidates, candidates_from_models
from fundusgrade.grades import NUM_GRADES
from fundusgrade.options import DeviceName, Precision
from fundusgrade.reports.describe import report_context
from fundusgrade.reports.html.context import ReportContext
from tests.models_for_tests import install_dataset, install_model, photographs_of


@pytest.fixture
def eyes() -> PreparedDataset:
    return install_dataset("eyes")


@pytest.fixture
def graded(eyes: PreparedDataset) -> Candidate:
    install_model()
    return candidates_from_models(
        ["tiny"], eyes, "all", device=DeviceName.CPU, precision=Precision.FLOAT32, allow_leakage=True
    )[0]


def described(candidate: Candidate, dataset: PreparedDataset, num_images: int = 2) -> tuple[Assessment, ReportContext]:
    assessment = assess_candidates([candidate], dataset, part="all", num_resamples=20)
    context = report_context(
        [candidate], dataset, assessment, num_images=num_images, audits=(), command="fundusgrade evaluate"
    )
    return assessment, context


def test_data_are_described_as_the_manifest_says(graded: Candidate, eyes: PreparedDataset) -> None:
    broken = replace(eyes.rows[0], image="", grade=None, split=None, error="no retina found")
    assessment, context = described(graded, replace(eyes, rows=(*eyes.rows, broken)), num_images=0)
    data = context.data
    assert (data.name, data.part, data.num_folds) == ("eyes", "all", 0)
    assert (data.num_photographs, data.num_groups) == (20, assessment.num_groups)
    assert data.num_per_grade == tuple(sum(row.grade == grade for row in eyes.rows) for grade in range(NUM_GRADES))
    assert (data.recipe, data.manifest_hash) == (eyes.recipe.describe(), eyes.hash)
    assert data.num_ungraded == 1
    assert data.num_doubtful == sum(row.quality is not None and not row.quality.gradable for row in eyes.rows)
    assert context.title == "Diabetic retinopathy grading on eyes"
    assert (context.commands, context.gallery) == (("fundusgrade evaluate",), ())
    assert {"fundusgrade", "Python", "PyTorch", "timm"} <= {name for name, _ in context.versions}


def test_a_model_is_described_as_its_checkpoint_says(graded: Candidate, eyes: PreparedDataset) -> None:
    (model,) = described(graded, eyes, num_images=0)[1].models
    assert graded.description is not None
    assert (model.name, model.architecture, model.start) == ("tiny", "cnn", "random")
    assert model.training_data == "drawn (manifest 000000000000)"
    assert (model.validation_kappa, model.weights_hash) == (0.5, graded.description.weights_sha256)
    assert (model.leakage, model.curves) == (graded.leakage, ())
    assert model.rule == "the most probable grade"


def test_of_a_model_that_is_not_available_only_its_predictions_are_known(
    graded: Candidate, eyes: PreparedDataset
) -> None:
    without = replace(graded, description=None, grader=None)
    predictions = replace(graded.predictions, model="elsewhere")
    assessment, context = described(replace(without, predictions=predictions), eyes)
    (model,) = context.models
    assert (model.name, model.architecture, model.validation_kappa, model.options) == ("elsewhere", "", None, ())
    assert [item.source for item in context.gallery] == [of.source for of in assessment.models[0].worst_errors[:2]]
    assert all(item.image and item.heat_map is None for item in context.gallery)


def test_errors_are_shown_with_what_decided_the_wrong_grade(graded: Candidate, eyes: PreparedDataset) -> None:
    install_model("by-thresholds", thresholds=(0.5, 1.5, 2.0, 2.2))
    other = candidates_from_models(
        ["by-thresholds"], eyes, "all", device=DeviceName.CPU, precision=Precision.FLOAT32, allow_leakage=True
    )[0]
    for candidate, words in ((graded, "most probable, p = "), (other, "expected grade ")):
        assessment, context = described(candidate, eyes, num_images=5)
        for item, error in zip(context.gallery, assessment.models[0].worst_errors, strict=False):
            assert item.decision.startswith(words)
            assert ("from" in item.decision or "below" in item.decision) == (candidate is other)
            assert f"p = {max(error.probabilities):.2f}" in item.decision
    unknown = replace(other, grader=None, predictions=replace(other.predictions, model="elsewhere"))
    (item, *_) = described(unknown, eyes)[1].gallery
    assert re.fullmatch(r"expected grade \d\.\d\d; most probable [\w ]+, p = 0\.\d\d", item.decision)


def test_errors_are_shown_with_heat_maps_where_the_photographs_are(graded: Candidate, eyes: PreparedDataset) -> None:
    with photographs_of(eyes):
        assessment, context = described(graded, eyes)
    errors = assessment.models[0].worst_errors[:2]
    assert [(item.source, item.grade, item.predicted) for item in context.gallery] == [
        (of.source, of.grade, of.predicted) for of in errors
    ]
    for item in context.gallery:
        assert item.heat_map is not None and item.heat_map.image != item.image
        assert item.heat_map.maximum > 0 and item.heat_map.unit
    assert all(item.heat_map is None for item in described(graded, eyes)[1].gallery), "of photographs that are gone"
