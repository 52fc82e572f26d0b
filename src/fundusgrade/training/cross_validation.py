"""Folds: train each, and pool what the networks say of the photographs that they have not seen."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from fundusgrade import store
from fundusgrade.data.dataset import PreparedDataset
from fundusgrade.errors import TrainingError
from fundusgrade.grading.datasets import predict_dataset
from fundusgrade.grading.grader import Grader
from fundusgrade.metrics.classification import quadratic_weighted_kappa
from fundusgrade.metrics.predictions import TTA_SUFFIX, PredictionSet, concatenate, fold_name, write_predictions
from fundusgrade.networks.checkpoint import load_checkpoint, read_description
from fundusgrade.networks.description import Provenance
from fundusgrade.networks.device import DeviceChoice, choose_device
from fundusgrade.options import DeviceName, Precision
from fundusgrade.training.distributed import process_group
from fundusgrade.training.options import TrainOptions
from fundusgrade.training.runs import (
    FinishedRun,
    RunRequest,
    clear_run,
    default_name,
    is_of_this_launch,
    mark_launch,
    plan_run,
    run_training,
)
from fundusgrade.training.state import STATE_FILE


def cross_validate(
    request: RunRequest, *, device: DeviceName, precision: Precision, console: Console, tta: bool = False
) -> FinishedRun:
    """Train the folds that are not there yet, one after the other, and pool the predictions of all.

    Each fold is a run of its own that can be stopped and resumed; with a `fold` in the options only that one is
    trained. To overwrite gives all folds up at once, so that what is there after a stop is of the new training. Raises
    TrainingError where a fold was stopped before its end and is neither resumed nor given up, or where a fold that is
    there already was trained with other options or on other data. Of several processes that train together the first
    grades and pools.
    """
    wanted, dataset, choice = request.options, request.dataset(), choose_device(device, precision)
    name = store.checked_name(request.name or default_name(dataset, wanted))
    if name.endswith(TTA_SUFFIX):
        raise TrainingError(f"--name {name}: names that end with {TTA_SUFFIX} are those of predictions with --tta")
    folds = range(1, wanted.num_folds + 1)
    if request.overwrite and wanted.fold is None:
        if not request.resume and process_group().is_main_process:
            _give_up(name, folds)
        request = replace(request, overwrite=False)
    process_group().wait()
    kept = [fold for fold in folds if fold != wanted.fold and _is_trained(fold_name(name, fold))]
    _refuse_other_training(name, kept, wanted, dataset)
    for fold in folds if wanted.fold is None else (wanted.fold,):
        if fold in kept:
            console.print(f"fold {fold}: {fold_name(name, fold)} is in the store", highlight=False)
            continue
        console.print(f"fold {fold} of {wanted.num_folds}", highlight=False)
        of_fold = replace(request, name=fold_name(name, fold), options=replace(wanted, fold=fold))
        if wanted.fold is None and request.resume and not _is_begun(fold_name(name, fold)):
            of_fold = replace(of_fold, resume=False)
        finished = run_training(plan_run(of_fold), device=device, precision=precision, console=console)
        console.print(finished.summary, highlight=False, soft_wrap=True)
        if finished.interrupted:
            return finished
    if not process_group().is_main_process:
        return FinishedRun(path=None, summary="", interrupted=False)
    finished = pool_folds(name, dataset, num_folds=wanted.num_folds, choice=choice, tta=tta)
    clear_run(store.run_directory(name))
    return finished


def pool_folds(
    name: str, dataset: PreparedDataset, *, num_folds: int, choice: DeviceChoice, tta: bool = False
) -> FinishedRun:
    """Grade each fold's photographs with the network that was trained without it, and write all in one file.

    Where mirrored photographs are graded too (`tta`), the file's name ends with TTA_SUFFIX. Folds that were not trained
    are left out. Raises TrainingError where there are none, or where one is not of this data set.
    """
    trained = [fold for fold in range(1, num_folds + 1) if _is_trained(fold_name(name, fold))]
    if not trained:
        raise TrainingError(f"no folds of {name!r} are in the store; train them with `fundusgrade train --folds`")
    parts = [_grade_fold(name, dataset, fold, num_folds, choice, tta) for fold in trained]
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


def _give_up(name: str, folds: Sequence[int]) -> None:
    """Remove all folds, but not what was trained before a restart: this launch has done so already."""
    mark = store.run_directory(name)
    if is_of_this_launch(mark):
        return
    for fold in folds:
        shutil.rmtree(store.model_directory(fold_name(name, fold)), ignore_errors=True)
        clear_run(store.run_directory(fold_name(name, fold)))
    mark_launch(mark)


def _refuse_other_training(name: str, folds: Sequence[int], options: TrainOptions, dataset: PreparedDataset) -> None:
    """Pooled networks are one model only where they were trained alike, on the same data."""
    wanted = {key: value for key, value in options.filled().recorded().items() if key != "fold"}
    for fold in folds:
        path = store.model_directory(fold_name(name, fold)) / store.MODEL_FILE
        provenance = read_description(path).provenance
        _refuse_other_data(name, provenance, dataset, fold, options.num_folds)
        used = provenance.options
        different = [f"{key} {used[key]}" for key, value in wanted.items() if key in used and used[key] != value]
        if different:
            raise TrainingError(
                f"{fold_name(name, fold)} is in the store, trained with {', '.join(different)}; choose another --name, "
                "or train all folds again with --overwrite"
            )


def _is_begun(name: str) -> bool:
    return (store.run_directory(name) / STATE_FILE).is_file()


def _is_trained(name: str) -> bool:
    """Whether a fold is finished: one that was stopped has its best epoch in the store, and its state beside it."""
    return (store.model_directory(name) / store.MODEL_FILE).is_file() and not _is_begun(name)


def _refuse_other_data(name: str, provenance: Provenance, dataset: PreparedDataset, fold: int, num_folds: int) -> None:
    used = (provenance.data_hash, provenance.options.get("fold"), provenance.options.get("num_folds"))
    if used != (dataset.hash, fold, num_folds):
        raise TrainingError(
            f"{fold_name(name, fold)} was trained on {provenance.data_name}, fold {used[1]} of {used[2]}; expected "
            f"{dataset.name}, as it is now, fold {fold} of {num_folds}; train it again with --overwrite"
        )


def _grade_fold(
    name: str, dataset: PreparedDataset, fold: int, num_folds: int, choice: DeviceChoice, tta: bool
) -> PredictionSet:
    """Predictions of one fold's photographs and of the photographs on which its network was chosen."""
    path = store.model_directory(fold_name(name, fold)) / store.MODEL_FILE
    checkpoint = load_checkpoint(path)
    _refuse_other_data(name, checkpoint.description.provenance, dataset, fold, num_folds)
    grader = Grader(checkpoint, choice, tta=tta)
    return predict_dataset(grader, dataset.with_fold(fold, num_folds), "test", fold=fold)


def _summary(pooled: PredictionSet, path: Path, missing: str) -> str:
    test = pooled.test
    kappa, accuracy = quadratic_weighted_kappa(test.grades, test.predicted), (test.grades == test.predicted).mean()
    return (
        f"out of fold{missing}: {len(test)} photographs, kappa {'undefined' if kappa is None else f'{kappa:.3f}'}, "
        f"accuracy {accuracy:.1%}\npredictions {pooled.model}: {path}"
    )
