"""Train one network on one data set: the loop, in the order things happen.

Every random choice follows from the seed and the epoch, and the whole state is written after each epoch, so a run that
was killed resumes from its last complete epoch and ends with the same weights as one that was not. Several processes
(`distributed`) take the same steps as one: each computes a part of every batch, and gradients and batch statistics are
those of the whole batch. Only dropout differs between them, so that a network with dropout ends with other weights.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from fundusgrade import store
from fundusgrade.data.dataset import PreparedDataset
from fundusgrade.errors import TrainingError
from fundusgrade.networks.device import DeviceChoice
from fundusgrade.networks.inference import to_memory_format
from fundusgrade.networks.tensors import LabeledImages
from fundusgrade.training.batches import Batch, load_splits, num_batches, training_batches
from fundusgrade.training.best_model import calibrate_model, grade_validation, save_best_model
from fundusgrade.training.distributed import process_group
from fundusgrade.training.history import EpochRecord
from fundusgrade.training.losses import graded_loss
from fundusgrade.training.mosaic import save_train_batch
from fundusgrade.training.observers import TrainingObserver
from fundusgrade.training.optimizer import learning_rate_factor, set_learning_rate
from fundusgrade.training.options import TrainOptions
from fundusgrade.training.resizing import epoch_size_px
from fundusgrade.training.state import STATE_FILE, RunState, load_state, save_state, start_run
from fundusgrade.training.validation import Validation, plan_validation, validate
from fundusgrade.training.worst_photographs import WORST_FILE, draw_worst_photographs

_MAX_GRADIENT_NORM = 1.0
_INTERRUPTED = "interrupted"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainResult:
    """The result of a run; `best_epoch` counts from 1 and is 0 if no epoch was completed.

    `outcome` is "finished", "interrupted" (by Ctrl-C), or "stopped early" with the reason.
    """

    directory: Path
    history: tuple[EpochRecord, ...]
    best_epoch: int
    outcome: str

    @property
    def is_interrupted(self) -> bool:
        """Whether Ctrl-C ended the run."""
        return self.outcome == _INTERRUPTED

    @property
    def has_learned(self) -> bool:
        """Whether the validation kappa was above 0 (chance) after an epoch."""
        return any((record.validation_kappa or 0.0) > 0 for record in self.history)


def train(
    dataset: PreparedDataset,
    options: TrainOptions,
    choice: DeviceChoice,
    directory: Path,
    *,
    observer: TrainingObserver,
    resume: bool = False,
    start: RunState | None = None,
) -> TrainResult:
    """Train on the training split and keep the epoch of best validation kappa in `directory`.

    `start` is what `start_run` gave for them, if it was called. Ctrl-C ends the run after its last complete epoch.
    Raises TrainingError where a run cannot be started or resumed, or the loss is no longer finite.
    """
    options = options.filled()
    options.check()
    run, group = start or start_run(dataset, options, choice, resume=resume), process_group()
    if resume:
        load_state(run, directory / STATE_FILE, dataset, options)
    settings = f"{options.recorded()} {choice.device.type} {choice.precision} {choice.compiled}"
    group.check_same_on_all_ranks(f"{dataset.hash} {settings} {run.history}")
    training, images = load_splits(dataset, options, choice, run.network.spec.rows, folder=directory)
    validation = plan_validation(dataset, training, images, options)
    group.check_batch_size(min(options.batch_size, len(training)))
    if group.is_main_process and not resume:
        save_train_batch(training, options, choice.device, directory)
    outcome = "finished"
    try:
        for epoch in range(len(run.history) + 1, options.num_epochs + 1):
            if epoch - 1 - run.best_epoch >= (options.patience or epoch):
                outcome = f"stopped early: no better kappa for {options.patience} epochs"
                break
            record = _run_epoch(run, training, validation, options, choice, epoch, observer)
            observer.epoch_done(record, _save_epoch(run, record, directory, dataset, options, choice))
    except KeyboardInterrupt:
        outcome = _INTERRUPTED
    if run.history and group.is_main_process:
        _finish_model(directory, dataset, options, validation, choice)
    return TrainResult(directory=directory, history=tuple(run.history), best_epoch=run.best_epoch, outcome=outcome)


def _finish_model(
    directory: Path, dataset: PreparedDataset, options: TrainOptions, validation: Validation, choice: DeviceChoice
) -> None:
    """Fit the decision rule of the best epoch, unless none is wanted, and draw the photographs that it grades worst."""
    path = directory / store.MODEL_FILE
    if options.calibrate:
        graded = calibrate_model(path, options, validation, choice)
    else:
        graded = grade_validation(path, validation, choice)
    sources = [row.source for row in dataset.graded_rows("validation")]
    draw_worst_photographs(validation.images, sources, graded, directory / WORST_FILE)


def _run_epoch(
    run: RunState,
    training: LabeledImages,
    validation: Validation,
    options: TrainOptions,
    choice: DeviceChoice,
    epoch: int,
    observer: TrainingObserver,
) -> EpochRecord:
    """One pass over the training split, then validation of the averaged weights."""
    started = time.perf_counter()
    train_loss = _train_epoch(run, training, options, choice, epoch, observer)
    seconds = time.perf_counter() - started
    scores = validate(run.averaged_network, validation, options, choice)
    num_images = num_batches(len(training), options.batch_size) * min(options.batch_size, len(training))
    return EpochRecord(
        epoch=epoch,
        train_loss=train_loss,
        validation_loss=scores.loss,
        validation_kappa=scores.kappa,
        validation_accuracy=scores.accuracy,
        learning_rate=max(group["lr"] for group in run.optimizer.param_groups),
        seconds=round(seconds, 2),
        images_per_second=round(num_images / seconds, 2),
    )


def _train_epoch(
    run: RunState,
    training: LabeledImages,
    options: TrainOptions,
    choice: DeviceChoice,
    epoch: int,
    observer: TrainingObserver,
) -> float:
    """The steps of an epoch; returns the mean loss of its batches. Raises TrainingError where that is not finite."""
    group = process_group()
    torch.manual_seed(options.seed * 1_000_003 + epoch + group.rank * 7_919)  # dropout; resuming starts at an epoch
    batch_size, losses = options.batch_size, []
    num_steps = num_batches(len(training), batch_size)
    run.network.train()
    size_px = run.network.spec.size_px
    batches = training_batches(
        training,
        batch_size,
        seed=options.seed,
        epoch=epoch,
        device=choice.device,
        mixup=options.mixup,
        size_px=epoch_size_px(size_px, epoch, options.num_epochs) if options.progressive else size_px,
        group=group,
    )
    for step, batch in enumerate(batches, start=1):
        steps_before = (epoch - 1) * num_steps + step - 1
        warmup_steps = round(options.warmup_epochs * num_steps)
        factor = learning_rate_factor(steps_before, options.num_epochs * num_steps, warmup_steps)
        set_learning_rate(run.optimizer, factor)
        losses.append(train_step(run, batch, options, choice, steps_before + 1))
        observer.batch_done(epoch, step, num_steps, step * min(batch_size, len(training)))
    train_loss = float(group.all_reduce(torch.stack(losses).mean())) / group.size  # waits until a GPU is done
    if not math.isfinite(train_loss):
        raise TrainingError(
            f"the loss of epoch {epoch} is {train_loss}: training has diverged; start again with --overwrite and a "
            "lower --learning-rate, or with --precision float32 if it was another"
        )
    return train_loss


def train_step(run: RunState, batch: Batch, options: TrainOptions, choice: DeviceChoice, step: int) -> Tensor:
    """One optimizer step and update of the averaged weights; `step` counts from 1 over all epochs.

    Returns the loss (), still on the device so that the step does not wait for it.
    """
    head, kind = options.head, options.loss
    assert head is not None and kind is not None, "options are filled before use"
    with choice.autocast():
        outputs = run.learner(to_memory_format(run.network, batch.images))
    loss = graded_loss(head, kind, outputs, batch.grades, batch.weights, batch.targets)
    if batch.mixup_weight < 1:
        loss_of_partners = graded_loss(head, kind, outputs, *batch.mixup_partners())
        loss = batch.mixup_weight * loss + (1 - batch.mixup_weight) * loss_of_partners
    loss = batch.loss_scale * loss
    run.optimizer.zero_grad(set_to_none=True)
    run.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
    run.scaler.unscale_(run.optimizer)
    nn.utils.clip_grad_norm_(run.network.parameters(), _MAX_GRADIENT_NORM)
    run.scaler.step(run.optimizer)
    run.scaler.update()
    run.average.update(run.network, step=step)
    return loss.detach()


def _save_epoch(
    run: RunState,
    record: EpochRecord,
    directory: Path,
    dataset: PreparedDataset,
    options: TrainOptions,
    choice: DeviceChoice,
) -> bool:
    """Save the run, and the model first if this epoch is the best so far; returns whether it is.

    Of several processes the main one saves; the others wait for it in the next step.
    """
    run.history.append(record)
    is_best = run.best_epoch == record.epoch
    if not process_group().is_main_process:
        return is_best
    try:
        if is_best:
            save_best_model(run, directory, dataset, options, choice)
        save_state(run, directory, dataset, options)
    except KeyboardInterrupt:  # an epoch counts once it is on disk
        run.history.pop()
        raise
    return is_best
