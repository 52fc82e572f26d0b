"""A model is not tested on images that trained it unless leakage is allowed, and then the results say so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fundusgrade import files, store
from fundusgrade.data.dataset import PreparedDataset
from fundusgrade.data.leakage import collect_fingerprints
from fundusgrade.data.manifest import ManifestRow
from fundusgrade.errors import DatasetError, MetricsError, StoreError
from fundusgrade.evaluation.candidates import (
    Candidate,
    assess_candidates,
    candidate_from_file,
    candidates_from_models,
    explaining_grader,
    manifest_columns,
    network_names,
    only_common,
)
from fundusgrade.grades import Grade
from fundusgrade.grading.datasets import predict_rows
from fundusgrade.metrics.predictions import PredictionSet, write_predictions
from fundusgrade.networks.checkpoint import load_checkpoint, save_checkpoint
from fundusgrade.options import DeviceName, Precision
from tests.models_for_tests import install_dataset, install_model


@pytest.fixture
def eyes() -> PreparedDataset:
    return install_dataset("eyes")


def install_trained(dataset: PreparedDataset, rows: Sequence[ManifestRow], name: str = "tiny") -> Path:
    """A model whose file says that it was trained on these rows of a data set."""
    path = install_model(name)
    checkpoint = load_checkpoint(path)
    provenance = replace(checkpoint.description.provenance, data_name=dataset.name, data_hash=dataset.hash)
    description = replace(checkpoint.description, provenance=provenance)
    save_checkpoint(path, checkpoint.network, description, fingerprints=collect_fingerprints(dataset, rows))
    return path


def not_tested(dataset: PreparedDataset) -> tuple[ManifestRow, ...]:
    return (*dataset.graded_rows("train"), *dataset.graded_rows("validation"))


def candidate(dataset: PreparedDataset, split: str, *, allow_leakage: bool = False, name: str = "tiny") -> Candidate:
    return candidates_from_models(
        [name], dataset, split, device=DeviceName.CPU, precision=Precision.FLOAT32, allow_leakage=allow_leakage
    )[0]


# Leakage


@pytest.mark.parametrize("split", ["train", "validation", "all"])
def test_images_that_trained_or_selected_the_model_are_refused(split: str, eyes: PreparedDataset) -> None:
    install_trained(eyes, not_tested(eyes))
    rows, used = eyes.graded_rows(split), {row.source for row in not_tested(eyes)}
    first = next(row.source for row in rows if row.source in used)
    num_used = sum(row.source in used for row in rows)
    with pytest.raises(
        DatasetError,
        match=rf"^{num_used} of {len(rows)} evaluation images were used to train or select the model 'tiny', such as "
        rf"{first}.*; scores would be inflated\. Choose another --split or --data, or add --allow-leakage",
    ):
        candidate(eyes, split)


def test_where_leakage_is_allowed_the_result_states_it(eyes: PreparedDataset) -> None:
    install_trained(eyes, not_tested(eyes))
    found = candidate(eyes, "all", allow_leakage=True)
    assert found.leakage == (
        "Trained and selected on 15 different files of eyes; 15 of 20 evaluation images were used to train or select "
        "this model: scores are inflated."
    )
    assert len(found.predictions.test) == 20


def test_images_without_leakage_are_graded_and_that_is_said(eyes: PreparedDataset) -> None:
    install_trained(eyes, not_tested(eyes))
    for allow_leakage in (False, True):
        found = candidate(eyes, "test", allow_leakage=allow_leakage)
        assert found.leakage == (
            "Trained and selected on 15 different files of eyes; none of the 5 evaluation images, their copies or "
            "their patients is among them."
        )


def test_images_whose_copies_cannot_be_looked_for_are_counted(eyes: PreparedDataset) -> None:
    """Perceptual fingerprints of version 0.1.0, in a model file or in a data set, cannot be compared."""
    install_trained(eyes, not_tested(eyes))
    rows = tuple(replace(row, fingerprint=None) if i < 2 else row for i, row in enumerate(eyes.graded_rows("test")))
    unchecked = " Copies of 2 of them could not be looked for: the model file or the data set has no perceptual"
    assert unchecked in candidate(replace(eyes, rows=rows), "test").leakage
    install_trained(eyes, [replace(row, fingerprint=None) for row in not_tested(eyes)])
    assert unchecked.replace("2", "5") in candidate(eyes, "test").leakage


def test_copies_under_other_names_in_another_data_set_are_refused(eyes: PreparedDataset) -> None:
    install_trained(eyes, not_tested(eyes))
    renamed = [
        replace(row, source=f"renamed {i}", sha256=files.hash_text(f"saved again {i}"), patient=None)
        for i, row in enumerate(eyes.rows)
    ]
    other = replace(eyes, name="others", hash="another", rows=tuple(renamed))
    with pytest.raises(DatasetError, match=r"^copies of 15 of 20 evaluation images were used .* such as renamed"):
        candidate(other, "all")


def test_other_photographs_of_the_same_patients_are_refused(eyes: PreparedDataset) -> None:
    """All of the training photographs are of one patient, of whom there is one more in the test split."""
    trained = [replace(row, patient="P") for row in eyes.graded_rows("train")]
    install_trained(eyes, trained)
    tested = eyes.graded_rows("test")
    with_patient = replace(eyes, rows=(replace(tested[0], patient="P"), *tested[1:]))
    with pytest.raises(DatasetError, match=rf"^other images of the patients of 1 of 5 .* {tested[0].source};"):
        candidate(with_patient, "test")
    assert candidate(replace(eyes, rows=tested), "test").leakage.endswith("is among them.")


def test_leakage_of_a_model_without_fingerprints_is_not_known(eyes: PreparedDataset) -> None:
    install_model("tiny")
    found = candidate(eyes, "all")
    assert found.leakage == (
        "Trained on drawn; the model file has no training fingerprints, so leakage cannot be checked."
    )
    assert len(found.predictions.test) == 20


# What it predicts


def test_a_candidate_holds_the_model_s_predictions_of_the_split(eyes: PreparedDataset) -> None:
    install_trained(eyes, not_tested(eyes))
    found = candidate(eyes, "test")
    rows = eyes.graded_rows("test")
    assert found.grader is not None and found.description is not None
    assert found.description.name == found.predictions.model == "tiny"
    test = found.predictions.test
    assert test.sources == tuple(row.source for row in rows)
    assert test.groups.tolist() == [row.group for row in rows] and set(test.folds.tolist()) == {0}
    assert np.array_equal(test.probabilities, predict_rows(found.grader, eyes, rows))
    validation = [row.source for row in eyes.graded_rows("validation")]
    assert list(found.predictions.validation.sources) == validation, "thresholds may be chosen on them"


def test_thresholds_are_not_chosen_on_a_data_set_that_did_not_select_the_model(eyes: PreparedDataset) -> None:
    install_model("tiny")
    assert len(candidate(eyes, "test").predictions.validation) == 0


# Files


@pytest.fixture
def predicted(eyes: PreparedDataset) -> PredictionSet:
    install_model("tiny")
    return replace(candidate(eyes, "all").predictions, leakage="")


def test_predictions_of_a_file_find_the_model_that_made_them(predicted: PredictionSet, tmp_path: Path) -> None:
    path = tmp_path / "saved.csv"
    write_predictions(predicted, path)
    found = candidate_from_file(str(path))
    assert found.description is not None and found.description.name == "tiny"
    assert found.grader is None
    assert found.leakage == (
        "Stored predictions: the file does not say whether these images were used to train or select the model."
    )
    write_predictions(replace(predicted, leakage="Trained on 3 of them: inflated."), path)
    assert candidate_from_file(str(path)).leakage == "Trained on 3 of them: inflated.", "what was said once is not lost"
    grader = explaining_grader(found, fold=0)
    assert grader is not None and grader.name == "tiny"
    write_predictions(replace(predicted, model="unknown"), path)
    stranger = candidate_from_file(str(path))
    assert stranger.description is None and explaining_grader(stranger, fold=0) is None


def test_cross_validated_predictions_say_so_and_are_explained_by_the_network_of_the_fold(
    predicted: PredictionSet,
) -> None:
    folds = np.arange(20) % 4 + 1
    write_predictions(
        replace(predicted, test=replace(predicted.test, folds=folds), model="pooled"), store.predictions_file("pooled")
    )
    for fold in (1, 3):
        install_model(f"pooled-fold{fold}", seed=fold)
    found = candidate_from_file("pooled")
    assert found.leakage == (
        "Cross-validated: each image was graded by one of 4 networks, trained without it, its copies and its patient."
    )
    assert found.description is not None and found.description.name == "pooled-fold1"
    names = [None if (grader := explaining_grader(found, fold)) is None else grader.name for fold in (1, 2, 3)]
    assert names == ["pooled-fold1", None, "pooled-fold3"]
    assert network_names(found.predictions) == tuple(f"pooled-fold{fold}" for fold in (1, 2, 3, 4))
    assert network_names(predicted) == ("tiny",)


def test_a_loaded_model_explains_its_own_predictions(eyes: PreparedDataset) -> None:
    install_model("tiny")
    found = candidate(eyes, "test")
    assert explaining_grader(found, fold=0) is found.grader


def test_a_file_that_is_not_there_is_refused() -> None:
    with pytest.raises(StoreError, match="no predictions 'nothing'"):
        candidate_from_file("nothing")


# Columns of the manifest


def test_values_of_columns_are_those_of_the_manifest(eyes: PreparedDataset) -> None:
    first, second, third, fourth = eyes.rows[:4]
    assert first.quality is not None
    sharp, doubtful = replace(first.quality), replace(first.quality, brightness=5.0)
    assert (sharp.gradable, doubtful.gradable) == (True, False)
    rows = (
        replace(first, eye="left", site="north", conflict=True, quality=sharp),
        replace(second, eye=None, site="south", quality=doubtful),
        replace(third, eye="right", grade=Grade.SEVERE, quality=None),
        fourth,
    )
    dataset = replace(eyes, rows=rows)
    sources = [third.source, first.source, second.source, "not in the manifest"]
    assert manifest_columns(dataset, ["quality", "eye", "site", "conflict", "grade"], sources) == {
        "quality": ["", "gradable", "doubtful", ""],
        "eye": ["right", "left", "", ""],
        "site": ["", "north", "south", ""],
        "conflict": ["no", "yes", "no", ""],
        "grade": ["3", str(int(first.grade or 0)), str(int(second.grade or 0)), ""],
    }
    assert manifest_columns(dataset, [], sources) == {}


@pytest.mark.parametrize("column", ["camera", "", "QUALITY"])
def test_a_column_that_the_manifest_lacks_is_refused(column: str, eyes: PreparedDataset) -> None:
    with pytest.raises(
        DatasetError, match=rf"--subgroup {column}: the manifest has no such column; expected quality, eye"
    ):
        manifest_columns(eyes, ["eye", column], [eyes.rows[0].source])


# The whole


def test_candidates_are_assessed_side_by_side_with_subgroups(eyes: PreparedDataset, predicted: PredictionSet) -> None:
    write_predictions(replace(predicted, model="saved"), store.predictions_file("saved"))
    candidates = [candidate(eyes, "all"), candidate_from_file("saved")]
    sided = replace(eyes, rows=tuple(replace(row, eye="left") for row in eyes.rows))
    found = assess_candidates(candidates, sided, part="all", columns=["eye"], num_resamples=20, coverage=0.8)
    assert (found.data, found.part, found.num_photographs, found.coverage) == ("eyes", "all", 20, 0.8)
    assert [model.model for model in found.models] == ["tiny", "saved"]
    first, second = found.models
    assert first.evaluation.kappa == second.evaluation.kappa
    for model in found.models:
        (subgroup,) = model.subgroups
        assert (subgroup.column, subgroup.value, subgroup.num_photographs) == ("eye", "left", 20)
        assert subgroup.accuracy.value == pytest.approx(model.evaluation.accuracy)


def test_clusters_of_acquisition_come_from_the_data_set_where_the_predictions_hold_none(
    eyes: PreparedDataset, predicted: PredictionSet
) -> None:
    unknown = replace(predicted.test, acquisitions=None)
    write_predictions(replace(predicted, model="saved", test=unknown), store.predictions_file("saved"))
    clusters = {row.source: 1 + i % 2 for i, row in enumerate(eyes.graded_rows("all"))}
    known = replace(eyes, rows=tuple(replace(row, acquisition=clusters.get(row.source)) for row in eyes.rows))
    graded = candidate(known, "all").predictions.test
    assert graded.acquisitions is not None
    assert graded.acquisitions.tolist() == [clusters[source] for source in graded.sources]
    found = assess_candidates([candidate_from_file("saved")], known, part="all", num_resamples=20)
    assert [cluster.num_photographs for cluster in found.acquisitions] == [10, 10]
    own = replace(predicted.test, acquisitions=np.ones(20, np.int64))
    write_predictions(replace(predicted, model="own", test=own), store.predictions_file("own"))
    found = assess_candidates([candidate_from_file("own")], known, part="all", num_resamples=20)
    assert [cluster.num_photographs for cluster in found.acquisitions] == [20], "those of the predictions come first"
    first, *_ = clusters
    half = replace(
        eyes, rows=tuple(replace(row, acquisition=None) if row.source == first else row for row in known.rows)
    )
    found = assess_candidates([candidate_from_file("saved")], half, part="all", num_resamples=20)
    assert found.acquisitions == (), "known for all photographs or for none"


def test_the_validation_split_can_be_assessed_and_chooses_no_threshold_on_itself(eyes: PreparedDataset) -> None:
    install_trained(eyes, eyes.graded_rows("train"))
    found = assess_candidates(
        [candidate(eyes, "validation")], eyes, part="validation", columns=["quality"], num_resamples=20
    )
    assert found.num_photographs == len(eyes.graded_rows("validation"))
    assert (found.part, found.models[0].num_validation) == ("validation", 0)


def test_subgroups_of_a_file_s_validation_photographs_are_theirs(
    eyes: PreparedDataset, predicted: PredictionSet
) -> None:
    """Test photographs are left eyes, validation photographs right ones."""
    test, validation = predicted.test.subset(np.arange(5)), predicted.test.subset(np.arange(5, 20))
    write_predictions(replace(predicted, test=test, validation=validation), store.predictions_file("parts"))
    sides = {source: "left" if source in test.sources else "right" for source in predicted.test.sources}
    sided = replace(eyes, rows=tuple(replace(row, eye=sides[row.source]) for row in eyes.rows))
    for part, count in (("test", 5), ("validation", 15)):
        file = candidate_from_file("parts", part)
        found = assess_candidates([file], sided, part=part, columns=["eye"], num_resamples=20)
        (subgroup,) = found.models[0].subgroups
        assert (found.num_photographs, subgroup.num_photographs) == (count, count)
        assert found.models[0].num_validation == (15 if part == "test" else 0)


def test_a_file_is_not_scored_on_a_part_that_it_does_not_hold(predicted: PredictionSet) -> None:
    write_predictions(predicted, store.predictions_file("whole"))
    folds = np.arange(len(predicted.test)) % 2 + 1
    crossed = replace(predicted, test=replace(predicted.test, folds=folds), validation=predicted.test)
    write_predictions(crossed, store.predictions_file("crossed"))
    for name, part, reason in (
        ("whole", "train", "--split train: the stored predictions of tiny are of test photographs"),
        ("whole", "all", "--split all"),
        ("whole", "validation", "the file of tiny holds no validation photographs"),
        ("crossed", "validation", "its folds overlap in validation photographs"),
    ):
        with pytest.raises(DatasetError, match=reason):
            candidate_from_file(name, part)


def test_models_of_different_photographs_are_not_compared(eyes: PreparedDataset) -> None:
    for name in ("tiny", "other"):
        install_model(name)
    candidates = [candidate(eyes, "all"), candidate(eyes, "test", name="other")]
    with pytest.raises(MetricsError, match="not of the same photographs"):
        assess_candidates(candidates, eyes, part="all", num_resamples=20)


def test_photographs_that_not_all_models_graded_are_left_out_on_request(predicted: PredictionSet) -> None:
    """Two folds of one model and one fold of another: what remains is scored, and thresholds are those of its fold."""
    folds = np.arange(len(predicted.test)) % 2 + 1
    test = replace(predicted.test, folds=folds)
    known = replace(test, sources=tuple(f"known {source}" for source in test.sources))
    whole = replace(predicted, model="whole", test=test, validation=known)
    part = replace(whole, model="part", test=test.subset(folds == 2), validation=known.subset(folds == 2))
    candidates = [Candidate(predictions=each, description=None, leakage="None.") for each in (whole, part)]
    first, second = only_common(candidates)
    assert first.predictions.test.sources == second.predictions.test.sources == part.test.sources
    assert set(first.predictions.validation.folds.tolist()) == {2}
    assert first.leakage.endswith(f"Scored on the {len(part.test)} of {len(test)} images that all models graded.")
    assert second.leakage == "None."
    apart = replace(candidates[0], predictions=replace(whole, test=test.subset(folds == 1)))
    with pytest.raises(DatasetError, match="--common: no photograph was graded by all of whole, part"):
        only_common([apart, candidates[1]])
