"""Cross-validation: train a network for each fold, and pool the out-of-fold predictions.

Folds are random groups of photographs, or data sets: then each is graded by a network that was trained on the others.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from fundusgrade import store
from fundusgrade.data.dataset import PreparedDataset
from fundusgrade.errors import TrainingError
from fundusgrade.grading.datasets import predict_dataset
from fundusgrade.grading.grader import Grader
from fundusgrade.metrics.classification import quadratic_weighted_kappa
from fundusgrade.metrics.estimates import describe_number
from fundusgrade.metrics.predictions import TTA_SUFFIX, PredictionSet, concatenate, fold_name, write_predictions
from fundusgrade.networks.checkpoint import load_checkpoint
from fundusgrade.networks.checkpoint_file import read_description
from fundusgrade.networks.description import Provenance
from fundusgrade.networks.device import DeviceChoice, choose_device
from fundusgrade.networks.torch_runtime import on_pytorch
from fundusgrade.options import DeviceName, FoldsBy, Precision
from fundusgrade.training.class_counts import check_grades
from fundusgrade.training.distributed import process_group
from fundusgrade.training.options import TrainOptions
from fundusgrade.training.runs import (
    FinishedRun,
    RunRequest,
    clear_run,
    default_name,
    is_of_this_launch,
    plan_run,
    record_launch,
    run_training,
)
from fundusgrade.training.state import STATE_FILE, started_network


@dataclass(frozen=True, slots=True, kw_only=True)
class _Folds:
    """How many folds there are, and what each holds out."""

    number: int
    by: FoldsBy


def cross_validate(
    request: RunRequest, *, device: DeviceName, precision: Precision, console: Console, tta: bool = False
) -> FinishedRun:
    """Train the folds that are not in the store yet, one after the other, and pool the out-of-fold predictions.

    Each fold is a run that can be interrupted and resumed; with a `fold` in the options only that one is trained.
    Overwriting discards all folds first. Raises TrainingError where a fold is unfinished and neither resumed nor
    overwritten, has other options or data, lacks grades or has learned nothing. The main process grades and pools.
    """
    dataset, choice = request.dataset(), choose_device(device, precision)
    request = _with_sources(request, dataset)
    options, name = request.options, _checked_name(request, dataset)
    folds = range(1, options.num_folds + 1)
    if request.overwrite and options.fold is None:
        started_network(dataset, options.filled(), resume=False)  # fails before anything is discarded
        if not request.resume and process_group().is_main_process:
            _discard_folds(name, folds)
        request = replace(request, overwrite=False)
    process_group().barrier()
    kept = [fold for fold in folds if fold != options.fold and _is_trained(fold_name(name, fold))]
    _check_same_training(name, kept, options, dataset)
    chosen = folds if options.fold is None else (options.fold,)
    _check_grades_of_folds(dataset, [fold for fold in chosen if fold not in kept], options)
    for fold in chosen:
        if fold in kept:
            console.print(f"fold {fold}: {fold_name(name, fold)} is in the store", highlight=False)
            continue
        console.print(_describe_fold(fold, dataset, options), highlight=False, soft_wrap=True, markup=False)
        fold_request = replace(request, name=fold_name(name, fold), options=replace(options, fold=fold))
        if options.fold is None and request.resume and not _is_unfinished(fold_name(name, fold)):
            fold_request = replace(fold_request, resume=False)
        finished = run_training(plan_run(fold_request), device=device, precision=precision, console=console)
        console.print(finished.summary, highlight=False, soft_wrap=True)
        if finished.interrupted:
            return finished
    if not process_group().is_main_process:
        return FinishedRun(path=None, summary="", interrupted=False)
    finished = pool_folds(name, dataset, num_folds=options.num_folds, folds_by=options.folds_by, choice=choice, tta=tta)
    clear_run(store.run_directory(name))
    return finished


def pool_folds(
    name: str,
    dataset: PreparedDataset,
    *,
    num_folds: int,
    choice: DeviceChoice,
    folds_by: FoldsBy = FoldsBy.GROUP,
    tta: bool = False,
) -> FinishedRun:
    """Grade each fold's photographs with the network trained without them, and write all predictions into one file.

    With test-time augmentation (`tta`) the file's name ends with TTA_SUFFIX. Untrained folds are left out. Raises
    TrainingError where no fold is trained, or where one was trained on another data set.
    """
    trained = [fold for fold in range(1, num_folds + 1) if _is_trained(fold_name(name, fold))]
    if not trained:
        raise TrainingError(f"no folds of {name!r} are in the store; train them with `fundusgrade train --folds`")
    folds = _Folds(number=num_folds, by=folds_by)
    parts = [_grade_fold(name, dataset, fold, folds, choice, tta) for fold in trained]
    pooled_name = name + TTA_SUFFIX if tta else name
    path = store.predictions_file(pooled_name)
    pooled = PredictionSet(
        model=pooled_name,
        data=dataset.name,
        test=concatenate([part.test for part in parts]),
        validation=concatenate([part.validation for part in parts]),
    )
    write_predictions(pooled, path)
    missing = f" (folds {', '.join(map(str, trained))} of {num_folds})" if len(trained) < num_folds else ""
    return FinishedRun(path=path, summary=_summary(pooled, path, missing), interrupted=False)


def _with_sources(request: RunRequest, dataset: PreparedDataset) -> RunRequest:
    """The request with as many folds as there are data sets, and the number of the one whose name is given.

    Raises TrainingError where folds are not by source, or none of the data sets has the name, and DatasetError where
    there is one data set only.
    """
    options, names = request.options, dataset.source_names
    if options.folds_by is not FoldsBy.SOURCE:
        if request.held_out is not None:
            raise TrainingError(f"--fold {request.held_out}: expected a number; only folds by source have names")
        return request
    options = replace(options, num_folds=len(names))
    if request.held_out is not None:
        if request.held_out not in names:
            raise TrainingError(f"--fold {request.held_out}: expected a number or one of {', '.join(names)}")
        options = replace(options, fold=names.index(request.held_out) + 1)
    dataset.with_fold(options.fold or 1, options.num_folds, options.folds_by)
    return replace(request, options=options, held_out=None)


def _checked_name(request: RunRequest, dataset: PreparedDataset) -> str:
    name = store.checked_name(request.name or default_name(dataset, request.options))
    if name.endswith(TTA_SUFFIX):
        raise TrainingError(f"--name {name}: names that end with {TTA_SUFFIX} are reserved for predictions with --tta")
    return name


def _discard_folds(name: str, folds: Sequence[int]) -> None:
    """Remove all folds; nothing where this torchrun launch has done so before a restart."""
    directory = store.run_directory(name)
    if is_of_this_launch(directory):
        return
    for fold in folds:
        shutil.rmtree(store.model_directory(fold_name(name, fold)), ignore_errors=True)
        clear_run(store.run_directory(fold_name(name, fold)))
    record_launch(directory)


def _check_same_training(name: str, folds: Sequence[int], options: TrainOptions, dataset: PreparedDataset) -> None:
    """Raise TrainingError where folds have other options or data: their predictions must not be pooled."""
    expected = {key: value for key, value in options.filled().recorded().items() if key != "fold"}
    all_folds = _Folds(number=options.num_folds, by=options.folds_by)
    for fold in folds:
        path = store.model_directory(fold_name(name, fold)) / store.MODEL_FILE
        provenance = read_description(path).provenance
        _check_same_data(name, provenance, dataset, fold, all_folds)
        used = provenance.options
        different = [f"{key} {used[key]}" for key, value in expected.items() if key in used and used[key] != value]
        if different:
            raise TrainingError(
                f"{fold_name(name, fold)} is in the store, trained with {', '.join(different)}; choose another --name, "
                "or train all folds again with --overwrite"
            )


def _check_grades_of_folds(dataset: PreparedDataset, folds: Sequence[int], options: TrainOptions) -> None:
    """Raise TrainingError, which names the fold, where a training or validation split has one grade only."""
    for fold in folds:
        try:
            check_grades(dataset.with_fold(fold, options.num_folds, options.folds_by))
        except TrainingError as error:
            raise TrainingError(f"{_describe_fold(fold, dataset, options)}: {error}") from error


def _describe_fold(fold: int, dataset: PreparedDataset, options: TrainOptions) -> str:
    """ "fold 2 of 3", and which data set a fold by source holds out."""
    held_out = f": {dataset.source_names[fold - 1]} is held out" if options.folds_by is FoldsBy.SOURCE else ""
    return f"fold {fold} of {options.num_folds}{held_out}"


def _is_unfinished(name: str) -> bool:
    return (store.run_directory(name) / STATE_FILE).is_file()


def _is_trained(name: str) -> bool:
    """Whether a fold is finished: an interrupted one has its best epoch in the store too, but also a saved state."""
    return (store.model_directory(name) / store.MODEL_FILE).is_file() and not _is_unfinished(name)


def _check_same_data(name: str, provenance: Provenance, dataset: PreparedDataset, fold: int, folds: _Folds) -> None:
    options, by_source = provenance.options, {FoldsBy.SOURCE: " by source", FoldsBy.GROUP: ""}
    used = (provenance.data_hash, options.get("fold"), options.get("num_folds"), provenance.folds_by)
    if used != (dataset.hash, fold, folds.number, folds.by):
        raise TrainingError(
            f"{fold_name(name, fold)} was trained on {provenance.data_name}, fold {used[1]} of {used[2]}"
            f"{by_source[used[3]]}; expected {dataset.name}, as it is now, fold {fold} of {folds.number}"
            f"{by_source[folds.by]}; choose another --name, or train it again with --overwrite"
        )


def _grade_fold(
    name: str, dataset: PreparedDataset, fold: int, folds: _Folds, choice: DeviceChoice, tta: bool
) -> PredictionSet:
    """Predictions of one fold's test and validation photographs by its network."""
    path = store.model_directory(fold_name(name, fold)) / store.MODEL_FILE
    checkpoint = load_checkpoint(path)
    _check_same_data(name, checkpoint.description.provenance, dataset, fold, folds)
    grader = Grader(on_pytorch(checkpoint, choice), tta=tta)
    return predict_dataset(grader, dataset.with_fold(fold, folds.number, folds.by), "test", fold=fold)


def _summary(pooled: PredictionSet, path: Path, missing: str) -> str:
    test = pooled.test
    kappa, accuracy = quadratic_weighted_kappa(test.grades, test.predicted), (test.grades == test.predicted).mean()
    return (
        f"out of fold{missing}: {len(test)} photographs, kappa {describe_number(kappa)}, "
        f"accuracy {accuracy:.1%}\npredictions {pooled.model}: {path}"
    )
