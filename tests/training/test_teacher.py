"""Distillation: targets mix out-of-fold probabilities with grades, and no teacher has seen what is tested."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from rich.console import Console
from scipy.special import log_softmax

from fundusgrade import store
from fundusgrade.data.dataset import PreparedDataset
from fundusgrade.errors import DatasetError, TrainingError
from fundusgrade.grades import Grade
from fundusgrade.metrics.predictions import PredictionSet, ScoredPhotographs, read_predictions, write_predictions
from fundusgrade.networks.checkpoint_file import read_description
from fundusgrade.options import DeviceName, FoldsBy, Head, Loss, Precision
from fundusgrade.training import runs
from fundusgrade.training.batches import load_splits, training_batches
from fundusgrade.training.cross_validation import cross_validate
from fundusgrade.training.losses import graded_loss
from fundusgrade.training.options import TrainOptions
from fundusgrade.training.runs import RunRequest, plan_run, run_training
from fundusgrade.training.teacher import soft_labels
from tests.prepared import dataset_in_memory, memory_row, prepared_dataset
from tests.training.short_runs import FLOAT32

OPTIONS = TrainOptions(arch="cnn", epochs=1, batch_size=8)


@pytest.fixture
def eyes(home: Path, monkeypatch: pytest.MonkeyPatch) -> PreparedDataset:
    monkeypatch.setattr(runs, "draw_training_curves", lambda *_: None)
    dataset = prepared_dataset(home / "datasets" / "eyes", num_train=30, num_validation=20)
    rows = [replace(row, split="test") if number >= 40 else row for number, row in enumerate(dataset.rows)]
    return replace(dataset, rows=tuple(rows))


def write_teacher(path: Path, dataset: PreparedDataset, *, seed: int = 0, split: str = "train") -> NDArray[np.float64]:
    """A file of random probabilities for the photographs of a split, in reverse order; returns them in order."""
    rows = dataset.graded_rows(split)
    probabilities = np.random.default_rng(seed).dirichlet(np.ones(5), len(rows))
    scored = _scored([row.source for row in rows], [int(row.grade or 0) for row in rows], probabilities)
    backwards = scored.subset(np.arange(len(rows))[::-1])
    empty = scored.subset(np.zeros(len(rows), bool))
    write_predictions(PredictionSet(model="teacher", data=dataset.name, test=backwards, validation=empty), path)
    return probabilities


def _scored(sources: list[str], grades: list[int], probabilities: NDArray[np.float64]) -> ScoredPhotographs:
    return ScoredPhotographs(
        sources=tuple(sources),
        grades=np.array(grades),
        predicted=np.array(grades),
        probabilities=probabilities,
        groups=np.arange(len(sources)),
        folds=np.ones(len(sources), np.int64),
    )


def test_targets_are_the_weighted_mean_of_grade_and_teachers(eyes: PreparedDataset, tmp_path: Path) -> None:
    files = [tmp_path / "a.csv", tmp_path / "b.csv"]
    mean = np.mean([write_teacher(path, eyes, seed=seed) for seed, path in enumerate(files)], axis=0)
    grades = np.eye(5)[[int(row.grade or 0) for row in eyes.graded_rows("train")]]
    for weight in (0.25, 1.0):
        targets = soft_labels(files, eyes, weight).numpy()
        np.testing.assert_allclose(targets, (1 - weight) * grades + weight * mean, atol=2e-6)


def test_a_teacher_that_was_trained_on_another_size_is_found_by_the_photographs_names(
    eyes: PreparedDataset, tmp_path: Path
) -> None:
    path = tmp_path / "large.csv"
    other = replace(
        eyes, name="eyes-384+more", rows=tuple(replace(row, source=f"eyes-384/{row.source}") for row in eyes.rows)
    )
    expected = write_teacher(path, other)
    np.testing.assert_allclose(soft_labels([path], eyes, 1.0).numpy(), expected, atol=2e-6)


def test_a_teacher_that_saw_what_is_tested_is_refused(eyes: PreparedDataset, tmp_path: Path) -> None:
    write_teacher(tmp_path / "all.csv", eyes, split="all")
    with pytest.raises(TrainingError, match=r"trained on 0030\.jpg, which is in the validation split.*by training"):
        soft_labels([tmp_path / "all.csv"], eyes, 0.5)


def test_a_teacher_that_lacks_a_training_photograph_is_refused(eyes: PreparedDataset, tmp_path: Path) -> None:
    fewer = replace(eyes, rows=tuple(row for row in eyes.rows if row.source != "0007.jpg"))
    write_teacher(tmp_path / "fewer.csv", fewer)
    with pytest.raises(TrainingError, match=r"no prediction for the training photograph 0007\.jpg"):
        soft_labels([tmp_path / "fewer.csv"], eyes, 0.5)
    (tmp_path / "notes.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DatasetError, match="cannot be read"):
        soft_labels([tmp_path / "notes.csv"], eyes, 0.5)


def test_losses_of_targets_are_expected_losses_of_the_grades() -> None:
    """A cross-entropy is linear in its target: that of probabilities is the mean over grades, weighted by them."""
    rng = np.random.default_rng(5)
    targets, weights = rng.dirichlet(np.ones(5), 12), rng.uniform(0.5, 2, 12)
    for head, num_outputs in ((Head.SOFTMAX, 5), (Head.CUMULATIVE, 4)):
        outputs = torch.from_numpy(rng.normal(0, 2, (12, num_outputs)))
        of_grades = np.array([
            [
                float(graded_loss(head, Loss.CROSS_ENTROPY, outputs[i : i + 1], torch.tensor([g]), torch.ones(1)))
                for g in range(5)
            ]
            for i in range(12)
        ])  # fmt: skip
        expected = ((of_grades * targets).sum(axis=1) * weights).sum() / weights.sum()
        found = graded_loss(
            head, Loss.CROSS_ENTROPY, outputs, torch.zeros(12, dtype=torch.int64), torch.from_numpy(weights),
            torch.from_numpy(targets),
        )  # fmt: skip
        assert float(found) == pytest.approx(expected, rel=1e-9)
        if head is Head.SOFTMAX:
            by_hand = -(targets * log_softmax(outputs.numpy(), axis=1)).sum(axis=1)
            assert float(found) == pytest.approx((by_hand * weights).sum() / weights.sum(), rel=1e-9)


def test_each_image_of_a_batch_has_its_own_target(eyes: PreparedDataset, tmp_path: Path) -> None:
    write_teacher(tmp_path / "t.csv", eyes)
    options = replace(OPTIONS, teacher=(str(tmp_path / "t.csv"),), teacher_weight=0.4).filled()
    training, _ = load_splits(eyes, options, FLOAT32, None)
    expected = {tuple(row.tolist()) for row in soft_labels([tmp_path / "t.csv"], eyes, 0.4)}
    seen = set()
    for batch in training_batches(training, 8, seed=0, epoch=1, device=torch.device("cpu"), mixup=0.5):
        assert batch.targets is not None
        of_grades = torch.nn.functional.one_hot(batch.grades, 5)
        assert (batch.targets >= 0.6 * of_grades - 1e-6).all(), "the grade has 0.6 of the target"
        _, _, partners = batch.mixup_partners()
        assert partners is not None and torch.equal(partners, batch.targets.flip(0))
        seen |= {tuple(row.tolist()) for row in batch.targets}
    assert len(seen) == 24 and seen <= expected


def test_folds_of_the_training_split_use_no_photograph_of_the_test_split() -> None:
    splits = ["train"] * 30 + ["validation"] * 10 + ["test"] * 10
    dataset = dataset_in_memory(
        "eyes", [memory_row(i, grade=Grade(i % 5), group=i // 2, split=split) for i, split in enumerate(splits)]
    )
    tested: list[str] = []
    for fold in (1, 2, 3):
        of_fold = dataset.with_fold(fold, 3, FoldsBy.TRAINING)
        held_out, train = of_fold.graded_rows("test"), of_fold.graded_rows("train")
        assert not {row.group for row in held_out} & {row.group for row in train}
        assert len(held_out) + len(train) == 30 and len(held_out) >= 8
        assert [row.source for row in of_fold.graded_rows("validation")] == [
            row.source for row in dataset.graded_rows("validation")
        ]
        tested += [row.source for row in held_out]
    assert sorted(tested) == sorted(row.source for row in dataset.graded_rows("train"))
    with pytest.raises(DatasetError, match="there is no fold 4 of 3"):
        dataset.with_fold(4, 3, FoldsBy.TRAINING)


def test_from_teacher_to_student_by_the_commands(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folds' pooled file teaches a run on the same data; the model records the file and the weight."""
    monkeypatch.setattr(runs, "draw_training_curves", lambda *_: None)
    prepared_dataset(home / "datasets" / "eyes", num_train=40, num_validation=20)
    console, cpu = Console(file=io.StringIO()), DeviceName.CPU
    options = replace(OPTIONS, epochs=6, num_folds=2, folds_by=FoldsBy.TRAINING)
    request = RunRequest(name="big", data=("eyes",), options=options)
    pooled = cross_validate(request, device=cpu, precision=Precision.FLOAT32, console=console)
    assert pooled.path is not None and len(read_predictions(pooled.path).test) == 40
    taught = replace(OPTIONS, epochs=6, teacher=(str(pooled.path),), teacher_weight=0.7)
    plan = plan_run(RunRequest(name="small", data=("eyes",), options=taught))
    run_training(plan, device=cpu, precision=Precision.FLOAT32, console=console)
    recorded = read_description(store.model_directory("small") / store.MODEL_FILE).provenance.options
    assert (recorded["teacher"], recorded["teacher_weight"]) == (pooled.path.name, 0.7)


def test_only_a_cross_entropy_takes_a_teacher() -> None:
    with pytest.raises(TrainingError, match="a teacher needs the cross-entropy loss"):
        replace(OPTIONS, teacher=("t.csv",), loss=Loss.SMOOTH_L1).filled().check()
    with pytest.raises(TrainingError, match="the teacher's weight must be above 0"):
        replace(OPTIONS, teacher=("t.csv",), teacher_weight=0.0).filled().check()
