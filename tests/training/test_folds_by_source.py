"""Leave one source out: every data set is graded once, by a network trained without it, its copies and its patients."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from fundusgrade import files, store
from fundusgrade.data.concatenation import open_dataset
from fundusgrade.data.dataset import PreparedDataset
from fundusgrade.data.leakage import find_overlap
from fundusgrade.data.manifest import write_manifest
from fundusgrade.errors import DatasetError, TrainingError
from fundusgrade.evaluation.candidates import candidate_from_file
from fundusgrade.grades import Grade
from fundusgrade.grading.datasets import predict_rows
from fundusgrade.grading.grader import Grader
from fundusgrade.metrics.predictions import PredictionSet, fold_name, read_predictions
from fundusgrade.networks.checkpoint import load_checkpoint
from fundusgrade.networks.model_card import model_card
from fundusgrade.options import DeviceName, FoldsBy, Precision
from fundusgrade.training import runs
from fundusgrade.training.cross_validation import cross_validate
from fundusgrade.training.options import TrainOptions
from fundusgrade.training.refit import RefitRequest, refit_model
from fundusgrade.training.runs import FinishedRun, RunRequest, plan_run, run_training
from tests.prepared import prepared_dataset
from tests.training.short_runs import FLOAT32

SOURCES = ("north", "south", "west")
NUM_OF_EACH = 20
BY_SOURCE = TrainOptions(arch="cnn", epochs=1, batch_size=8, folds_by=FoldsBy.SOURCE)


@pytest.fixture(autouse=True)
def sources(home: Path, monkeypatch: pytest.MonkeyPatch) -> PreparedDataset:
    """Three data sets in the store; four photographs of the south are also in the north, where they have other splits.

    Two photographs of each patient follow one another.
    """
    monkeypatch.setattr(runs, "draw_training_curves", lambda *_: None)
    for seed, name in enumerate(SOURCES):
        dataset = prepared_dataset(home / "datasets" / name, num_train=14, num_validation=6, seed=seed)
        rows = []
        for number, row in enumerate(dataset.rows):
            is_copy = name == "south" and number < 4
            original = f"north {NUM_OF_EACH - 1 - number}" if is_copy else f"{name} {number}"
            split = "test" if number in (4, 5) else row.split
            rows.append(replace(row, group=number // 2, sha256=files.hash_text(original), split=split))
        write_manifest(dataset.directory, rows)
    return open_dataset(SOURCES, check_splits=False)


def run(
    options: TrainOptions = BY_SOURCE, *, data: tuple[str, ...] = SOURCES, held_out: str | None = None
) -> tuple[FinishedRun, str]:
    """A cross-validation, and what it printed."""
    printed = io.StringIO()
    request = RunRequest(name="cv", data=data, options=options, held_out=held_out)
    console = Console(file=printed, width=300)
    finished = cross_validate(request, device=DeviceName.CPU, precision=Precision.FLOAT32, console=console)
    return finished, printed.getvalue()


def pooled() -> PredictionSet:
    return read_predictions(store.resolve_predictions("cv"))


def grader(fold: int) -> Grader:
    return Grader.load(fold_name("cv", fold), device=DeviceName.CPU, precision=Precision.FLOAT32)


def test_every_photograph_is_tested_once_by_a_network_that_saw_neither_its_source_nor_a_copy_nor_its_patient(
    sources: PreparedDataset,
) -> None:
    _, printed = run()
    test, validation, rows = pooled().test, pooled().validation, {row.source: row for row in sources.rows}
    assert sorted(test.sources) == sorted(rows)
    for fold, name in enumerate(SOURCES, 1):
        held_out = [rows[source] for source in test.subset(test.folds == fold).sources]
        assert {row.origin for row in held_out} == {name} and len(held_out) == NUM_OF_EACH
        used = [rows[source] for source in find_overlap(grader(fold).fingerprints, sources, sources.rows).files]
        assert not {row.sha256 for row in used} & {row.sha256 for row in held_out}
        assert not {row.group for row in used} & {row.group for row in held_out}
        assert len(used) == (40 if name == "west" else 36), "four photographs are in the north and in the south"
        choosing = set(validation.subset(validation.folds == fold).sources)
        assert choosing and choosing <= {row.source for row in used}
        of_fold = sources.with_fold(fold, 3, FoldsBy.SOURCE)
        assert choosing == {row.source for row in of_fold.graded_rows("validation")}
        assert f"fold {fold} of 3: {name} is held out" in printed
    assert printed.count("left out: 4 photographs of the other data sets") == 2


def test_predictions_of_a_source_are_those_of_the_network_that_was_trained_without_it(sources: PreparedDataset) -> None:
    run()
    test, rows = pooled().test, {row.source: row for row in sources.rows}
    for fold in (1, 2, 3):
        mine = test.subset(test.folds == fold)
        order = tuple(rows[source] for source in mine.sources)
        assert mine.probabilities == pytest.approx(predict_rows(grader(fold), sources, order), abs=2e-6)
        other = predict_rows(grader(fold % 3 + 1), sources, order)
        assert np.abs(mine.probabilities - other).max() > 1e-3, "networks must differ, or this test proves nothing"


def test_a_single_source_is_held_out_by_its_name_or_number_and_finished_ones_are_not_trained_again() -> None:
    finished, _ = run(held_out="south")
    assert "out of fold (folds 2 of 3): 20 photographs" in finished.summary
    description = load_checkpoint(store.resolve_model("cv-fold2")).description
    assert description.provenance.held_out_source == "south"
    assert "held out: `south`" in model_card(description)
    run(replace(BY_SOURCE, fold=3))
    assert set(pooled().test.folds.tolist()) == {2, 3}
    _, printed = run()
    assert "fold 2: cv-fold2 is in the store" in printed and "fold 3: cv-fold3 is in the store" in printed
    after = load_checkpoint(store.resolve_model("cv-fold2")).description
    assert after.weights_sha256 == description.weights_sha256
    leakage = candidate_from_file("cv").leakage
    assert "one of 3 networks, trained without the data set that it is of, its copies and its patient" in leakage


def test_a_name_that_no_source_has_is_refused() -> None:
    with pytest.raises(TrainingError, match=r"--fold east: expected a number or one of north, south, west"):
        run(held_out="east")
    with pytest.raises(TrainingError, match=r"--fold west: expected a number; only folds by source have names"):
        run(replace(BY_SOURCE, folds_by=FoldsBy.GROUP), data=("north", "west"), held_out="west")
    with pytest.raises(DatasetError, match=r"no fold 4 of 3 by source"):
        run(replace(BY_SOURCE, fold=4))


def test_one_data_set_has_no_folds_by_source(home: Path) -> None:
    with pytest.raises(DatasetError, match=r"'north' is one data set only; name two or more with --data, or use --fo"):
        run(data=("north",))
    assert not (home / "models").exists()


def test_folds_by_group_are_not_pooled_with_folds_by_source() -> None:
    run(data=("north", "west"), held_out="north")
    with pytest.raises(TrainingError, match=r"cv-fold1 was trained on .*, fold 1 of 2 by source; expected .* of 2;"):
        run(replace(BY_SOURCE, folds_by=FoldsBy.GROUP, num_folds=2), data=("north", "west"))


def test_a_fold_whose_other_sources_have_one_grade_is_refused_before_any_is_trained(home: Path) -> None:
    for name in ("north", "west"):
        dataset = open_dataset([name])
        write_manifest(dataset.directory, [replace(row, grade=Grade.NONE) for row in dataset.rows])
    with pytest.raises(TrainingError, match=r"fold 2 of 3: south is held out: all \d+ photographs of the training"):
        run()
    assert not (home / "models").exists()


def test_a_model_is_calibrated_on_photographs_of_sources_that_a_network_was_not_trained_on() -> None:
    south = open_dataset(["south"])
    rows = [replace(row, sha256=files.hash_text(f"south {number}")) for number, row in enumerate(south.rows)]
    write_manifest(south.directory, rows)  # no copies: the model is trained with the data sets' own splits
    request = RunRequest(name="all", data=SOURCES, options=replace(BY_SOURCE, folds_by=FoldsBy.GROUP))
    console = Console(file=io.StringIO())
    run_training(plan_run(request), device=DeviceName.CPU, precision=Precision.FLOAT32, console=console)
    run()
    found = refit_model(RefitRequest(model="all", folds="cv", name="new"), FLOAT32)
    num_used = sum(len(open_dataset(SOURCES).graded_rows(split)) for split in ("train", "validation"))
    assert f"calibrated on {num_used} photographs out of fold" in found.summary
