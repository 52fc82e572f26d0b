"""Every photograph is graded once, by the one network trained without its group, and no fold is trained twice."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from fundusgrade import files, store
from fundusgrade.data.dataset import PreparedDataset, load_dataset
from fundusgrade.data.leakage import find_overlap
from fundusgrade.data.manifest import write_manifest
from fundusgrade.errors import DatasetError, DeviceError, StoreError, TrainingError
from fundusgrade.evaluation.candidates import candidate_from_file
from fundusgrade.grades import Grade
from fundusgrade.grading.datasets import predict_rows
from fundusgrade.grading.grader import Grader
from fundusgrade.metrics.classification import quadratic_weighted_kappa
from fundusgrade.metrics.predictions import TTA_SUFFIX, PredictionSet, fold_name, read_predictions
from fundusgrade.networks.checkpoint import load_checkpoint
from fundusgrade.networks.device import choose_device
from fundusgrade.options import DeviceName, Precision
from fundusgrade.training import cross_validation, loop, runs
from fundusgrade.training.cross_validation import cross_validate, pool_folds
from fundusgrade.training.loop import TrainResult
from fundusgrade.training.observers import TrainingProgress
from fundusgrade.training.options import TrainOptions
from fundusgrade.training.runs import FinishedRun, RunPlan, RunRequest, run_training
from fundusgrade.training.validation import ValidationScores
from tests.prepared import prepared_dataset
from tests.worker_for_tests import HAS_LEARNED

NUM_FOLDS = 3
NUM_PHOTOGRAPHS = 45
QUICK = TrainOptions(arch="cnn", epochs=1, batch_size=8, num_folds=NUM_FOLDS)
CPU = choose_device(DeviceName.CPU, Precision.FLOAT32)


@pytest.fixture(autouse=True)
def _without_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing the curves of every fold would take half of the time."""
    monkeypatch.setattr(runs, "draw_training_curves", lambda *_: None)


@pytest.fixture(autouse=True)
def toy(home: Path) -> PreparedDataset:
    """45 photographs in the store, each with a neighbor of its group."""
    dataset = prepared_dataset(home / "datasets" / "toy", num_train=NUM_PHOTOGRAPHS, num_validation=0)
    rows = [
        replace(row, group=number // 2, sha256=files.hash_text(row.source)) for number, row in enumerate(dataset.rows)
    ]
    write_manifest(dataset.directory, rows)
    return load_dataset(dataset.directory)


def run(
    options: TrainOptions = QUICK,
    printed: io.StringIO | None = None,
    *,
    resume: bool = False,
    overwrite: bool = False,
    device: DeviceName = DeviceName.CPU,
) -> FinishedRun:
    request = RunRequest(name="toy", options=options, resume=resume, overwrite=overwrite)
    console = Console(file=printed or io.StringIO(), width=200)
    return cross_validate(request, device=device, precision=Precision.FLOAT32, console=console)


def pooled() -> PredictionSet:
    return read_predictions(store.resolve_predictions("toy"))


def network_of(fold: int) -> Grader:
    return Grader.load(fold_name("toy", fold), device=DeviceName.CPU, precision=Precision.FLOAT32)


def weights_of(fold: int) -> str:
    path = store.model_directory(fold_name("toy", fold)) / store.MODEL_FILE
    return load_checkpoint(path).description.weights_sha256


class Trained:
    """Records which folds are trained, and trains them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.names: list[str] = []
        monkeypatch.setattr(cross_validation, "run_training", self)

    def __call__(self, plan: RunPlan, *, device: DeviceName, precision: Precision, console: Console) -> FinishedRun:
        self.names.append(plan.name)
        return run_training(plan, device=device, precision=precision, console=console)


def interrupt_in_run(monkeypatch: pytest.MonkeyPatch, number: int, epoch: int) -> None:
    """Press Ctrl-C in an epoch of the number-th run that starts."""
    begun: list[object] = []

    def batch_done(self: TrainingProgress, at_epoch: int, step: int, num_steps: int, num_images: int) -> None:
        if (at_epoch, step) == (1, 1):
            begun.append(self)
        if (len(begun), at_epoch, step) == (number, epoch, 2):
            raise KeyboardInterrupt

    monkeypatch.setattr(TrainingProgress, "batch_done", batch_done)


# What is pooled


def test_every_photograph_is_in_the_pooled_file_once_graded_by_the_network_of_its_fold(toy: PreparedDataset) -> None:
    finished = run()
    test = pooled().test
    assert finished.path == store.predictions_file("toy") and not finished.interrupted
    assert sorted(test.sources) == sorted(row.source for row in toy.rows)
    assert (pooled().model, pooled().data) == ("toy", "toy")
    grades = {row.source: row.grade for row in toy.rows}
    groups = {row.source: row.group for row in toy.rows}
    assert test.grades.tolist() == [grades[source] for source in test.sources]
    assert test.groups.tolist() == [groups[source] for source in test.sources]
    others = 0
    for fold in range(1, NUM_FOLDS + 1):
        of_fold = toy.with_fold(fold, NUM_FOLDS)
        mine = test.subset(test.folds == fold)
        rows = of_fold.graded_rows("test")
        assert mine.sources == tuple(row.source for row in rows)
        expected = predict_rows(network_of(fold), of_fold, rows)
        assert mine.probabilities == pytest.approx(expected, abs=2e-6)
        other = predict_rows(network_of(fold % NUM_FOLDS + 1), of_fold, rows)
        others += int(np.abs(mine.probabilities - other).max() > 1e-3)
    assert others == NUM_FOLDS, "networks must differ, or this test proves nothing"


def test_no_network_is_tested_on_a_photograph_of_its_training_or_on_one_of_the_same_group(toy: PreparedDataset) -> None:
    run()
    predictions = pooled()
    for fold in range(1, NUM_FOLDS + 1):
        test, validation = (part.subset(part.folds == fold) for part in (predictions.test, predictions.validation))
        of_fold = toy.with_fold(fold, NUM_FOLDS)
        assert set(validation.sources) == {row.source for row in of_fold.graded_rows("validation")}
        fingerprints = network_of(fold).fingerprints
        used = find_overlap(fingerprints, toy, toy.rows).files
        assert set(used) == {row.source for row in toy.rows} - set(test.sources)
        groups_used = {row.group for row in toy.rows if row.source in used}
        assert not groups_used & set(test.groups.tolist())
        assert not set(validation.groups.tolist()) & {row.group for row in of_fold.graded_rows("train")}


def test_the_summary_scores_what_the_pooled_file_holds() -> None:
    summary = run().summary
    test = pooled().test
    kappa = quadratic_weighted_kappa(test.grades, test.predicted)
    accuracy = float((test.grades == test.predicted).mean())
    assert kappa is not None
    assert f"out of fold: {NUM_PHOTOGRAPHS} photographs, kappa {kappa:.3f}, accuracy {accuracy:.1%}" in summary
    assert str(store.predictions_file("toy")) in summary


def test_grading_mirrored_photographs_too_makes_a_file_of_its_own(toy: PreparedDataset) -> None:
    run(replace(QUICK, fold=1))
    plain = store.predictions_file("toy").read_bytes()
    finished = pool_folds("toy", toy, num_folds=NUM_FOLDS, choice=CPU, tta=True)
    assert finished.path == store.predictions_file("toy" + TTA_SUFFIX)
    assert store.predictions_file("toy").read_bytes() == plain
    mirrored = read_predictions(store.resolve_predictions("toy-tta"))
    assert mirrored.model == "toy-tta"
    assert mirrored.test.sources == pooled().test.sources
    assert np.abs(mirrored.test.probabilities - pooled().test.probabilities).max() > 1e-4
    described = candidate_from_file("toy-tta").description
    assert described is not None and described.name == "toy-fold1"


# What is trained


def test_a_finished_fold_is_not_trained_again(monkeypatch: pytest.MonkeyPatch) -> None:
    trained, printed = Trained(monkeypatch), io.StringIO()
    run(replace(QUICK, fold=2))
    assert trained.names == ["toy-fold2"]
    before = weights_of(2)
    run(printed=printed)
    assert trained.names == ["toy-fold2", "toy-fold1", "toy-fold3"]
    assert "fold 2: toy-fold2 is in the store" in printed.getvalue()
    text = store.predictions_file("toy").read_text(encoding="utf-8")
    run()
    assert len(trained.names) == 3, "nothing is left to do"
    assert weights_of(2) == before
    assert store.predictions_file("toy").read_text(encoding="utf-8") == text


def test_overwrite_trains_every_fold_again(monkeypatch: pytest.MonkeyPatch) -> None:
    run()
    trained, before = Trained(monkeypatch), [weights_of(fold) for fold in (1, 2, 3)]
    run(replace(QUICK, seed=1), overwrite=True)
    assert trained.names == ["toy-fold1", "toy-fold2", "toy-fold3"]
    assert all(weights_of(fold) != old for fold, old in zip((1, 2, 3), before, strict=True))


def test_a_single_fold_is_pooled_by_itself_and_the_summary_says_so(toy: PreparedDataset) -> None:
    finished = run(replace(QUICK, fold=3))
    assert f"out of fold (folds 3 of {NUM_FOLDS})" in finished.summary
    assert set(pooled().test.sources) == {row.source for row in toy.with_fold(3, NUM_FOLDS).graded_rows("test")}
    assert set(pooled().test.folds.tolist()) == {3}
    with pytest.raises(StoreError, match=r"a model 'toy-fold3' is in the store; .*--overwrite"):
        run(replace(QUICK, fold=3))


def test_a_fold_that_does_not_exist_is_refused() -> None:
    with pytest.raises(DatasetError, match="there is no fold 4 of 3"):
        run(replace(QUICK, fold=4))


# Interruptions


def test_an_interrupted_fold_is_not_finished_and_resumes_to_the_same_predictions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = replace(QUICK, epochs=2)
    run(options)
    whole = store.predictions_file("toy").read_bytes()
    store.predictions_file("toy").unlink()
    with monkeypatch.context() as patch:
        interrupt_in_run(patch, 2, epoch=2)
        assert run(options, overwrite=True).interrupted
    assert not store.predictions_file("toy").exists(), "nothing is pooled before all are trained"
    with pytest.raises(TrainingError, match=r"the run 'toy-fold2' is unfinished; add --resume"):
        run(options)
    trained = Trained(monkeypatch)
    assert not run(options, resume=True).interrupted
    assert trained.names == ["toy-fold2", "toy-fold3"], "the earlier third was discarded with the others"
    assert store.predictions_file("toy").read_bytes() == whole


def test_an_interrupted_overwriting_is_resumed_by_the_same_command_with_resume(monkeypatch: pytest.MonkeyPatch) -> None:
    options = replace(QUICK, epochs=2)
    run(options)
    with monkeypatch.context() as patch:
        interrupt_in_run(patch, 2, epoch=2)
        assert run(options, overwrite=True).interrupted
    trained = Trained(monkeypatch)
    run(options, overwrite=True, resume=True)
    assert trained.names == ["toy-fold2", "toy-fold3"], "the first was finished since"


def test_nothing_is_discarded_where_the_device_is_missing() -> None:
    run()
    before = weights_of(1)
    absent = DeviceName.MPS if torch.cuda.is_available() else DeviceName.CUDA
    with pytest.raises(DeviceError):
        run(overwrite=True, device=absent)
    assert weights_of(1) == before


def test_resuming_begins_the_folds_that_were_not_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    options = replace(QUICK, epochs=2)
    with monkeypatch.context() as patch:
        interrupt_in_run(patch, 1, epoch=2)
        assert run(options).interrupted
    trained = Trained(monkeypatch)
    run(options, resume=True)
    assert trained.names == ["toy-fold1", "toy-fold2", "toy-fold3"]
    assert len(pooled().test) == NUM_PHOTOGRAPHS


def test_a_fold_that_is_being_trained_is_not_pooled(toy: PreparedDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    options = replace(QUICK, epochs=2)
    with monkeypatch.context() as patch:
        interrupt_in_run(patch, 2, epoch=2)
        run(options)
    assert (store.model_directory("toy-fold2") / store.MODEL_FILE).is_file(), "its best epoch so far"
    assert "(folds 1 of 3)" in pool_folds("toy", toy, num_folds=NUM_FOLDS, choice=CPU).summary
    assert set(pooled().test.folds.tolist()) == {1}


# What is not of this data


def regraded(toy: PreparedDataset, sources: Sequence[str]) -> PreparedDataset:
    """The data set after the grades of some photographs were corrected."""
    rows = [replace(row, grade=Grade.NONE) if row.source in sources else row for row in toy.rows]
    write_manifest(toy.directory, rows)
    return load_dataset(toy.directory)


def test_folds_of_another_data_set_are_refused(toy: PreparedDataset) -> None:
    run(replace(QUICK, fold=1))
    changed = regraded(toy, [toy.rows[3].source])
    with pytest.raises(TrainingError, match=r"toy-fold1 was trained on toy, .* as it is now, .* with --overwrite"):
        pool_folds("toy", changed, num_folds=NUM_FOLDS, choice=CPU)


def test_folds_of_another_number_are_refused(toy: PreparedDataset) -> None:
    run(replace(QUICK, fold=1))
    with pytest.raises(TrainingError, match=r"toy-fold1 was trained on toy, fold 1 of 3; expected .* fold 1 of 5"):
        pool_folds("toy", toy, num_folds=5, choice=CPU)


def test_pooling_nothing_says_how_to_train_folds(toy: PreparedDataset) -> None:
    with pytest.raises(TrainingError, match=r"no folds of 'other' are in the store; .*`fundusgrade train --folds`"):
        pool_folds("other", toy, num_folds=NUM_FOLDS, choice=CPU)


def test_folds_of_other_options_are_not_pooled(toy: PreparedDataset) -> None:
    run(replace(QUICK, fold=2))
    with pytest.raises(TrainingError, match=r"toy-fold2 is in the store, trained with seed 0; choose another --name"):
        run(replace(QUICK, seed=1))
    with pytest.raises(TrainingError, match="trained with seed 0"):
        run(replace(QUICK, seed=1, fold=1), overwrite=True)
    run(replace(QUICK, seed=1, fold=2), overwrite=True)
    assert set(pooled().test.folds.tolist()) == {2}


def test_a_name_of_predictions_is_no_name_of_folds() -> None:
    request = RunRequest(name="toy-tta", options=QUICK)
    with pytest.raises(TrainingError, match="names that end with -tta"):
        cross_validate(request, device=DeviceName.CPU, precision=Precision.FLOAT32, console=Console(file=io.StringIO()))


# A fold that cannot learn, or did not


def test_a_fold_that_has_learned_nothing_is_an_error_that_names_it(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kappas = iter([0.5, 0.0])
    monkeypatch.setattr(TrainResult, "has_learned", HAS_LEARNED)
    monkeypatch.setattr(loop, "validate", lambda *_: ValidationScores(loss=1.0, kappa=next(kappas), accuracy=0.5))
    with pytest.raises(TrainingError, match=r"toy-fold2 \(fold 2 of 3\): this model has learned nothing"):
        run()
    assert [path.parent.name for path in (home / "models").glob("*/model.safetensors")] == ["toy-fold1"]
    assert not store.predictions_file("toy").exists()


def test_a_fold_with_one_grade_is_refused_before_any_is_trained(
    toy: PreparedDataset, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    last_group = max(row.group for row in toy.rows)
    rows = [replace(row, grade=Grade.NONE if row.group < last_group else Grade.SEVERE) for row in toy.rows]
    write_manifest(toy.directory, rows)
    trained = Trained(monkeypatch)
    with pytest.raises(TrainingError, match=r"fold \d of 3: all \d+ photographs of the \w+ split of toy have grade 0"):
        run()
    assert trained.names == []
