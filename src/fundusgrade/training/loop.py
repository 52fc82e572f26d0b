"""Train one network on one data set: the loop, in the order things happen.

Every random choice follows from the seed and the epoch, and the whole state is written after each epoch, so a run that
was killed resumes from its last whole epoch and ends with the weights that it would have had. Several processes
(`distributed`) take the steps that one would take: each has its part of every batch, and they share gradients and
statistics. Only dropout differs between them, so that a network that has any ends with other, equally good weights.
"""

from __future__ import annotations

import math
import platform
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from timm.optim import param_groups_layer_decay
from torch import Tensor, nn

from fundusgrade import __version__, store
from fundusgrade.data.dataset import PreparedDataset
from fundusgrade.data.leakage import collect_fingerprints
from fundusgrade.errors import TrainingError
from fundusgrade.files import now
from fundusgrade.grades import NUM_GRADES
from fundusgrade.metrics.classification import decide_grades, evaluate_predictions, expected_grades
from fundusgrade.metrics.conformal import conformity_scores
from fundusgrade.networks.build import build_network, network_spec, start_network
from fundusgrade.networks.checkpoint import load_checkpoint, save_checkpoint
from fundusgrade.networks.description import CheckpointDescription, Provenance
from fundusgrade.networks.device import DeviceChoice
from fundusgrade.networks.heads import MIDDLES, NUM_OUTPUTS
from fundusgrade.networks.inference import predict_outputs, to_device, to_memory_format, to_probabilities
from fundusgrade.networks.network import CNN, GradingNetwork
from fundusgrade.networks.tensors import LabeledImages, load_images
from fundusgrade.networks.timm_hub import is_hub_name, public_name
from fundusgrade.options import ClassWeights, Decision, Head, Precision
from fundusgrade.training.batch_norm import share_statistics
from fundusgrade.training.batches import Batch, num_batches, training_batches, with_degraded
from fundusgrade.training.calibration import choose_offsets, fit_calibration, fit_temperature, fit_thresholds
from fundusgrade.training.distributed import ProcessGroup, process_group, share_gradients
from fundusgrade.training.history import EpochRecord
from fundusgrade.training.losses import CLASS_WEIGHT_POWERS, class_weights, graded_loss
from fundusgrade.training.observers import TrainingObserver
from fundusgrade.training.options import TrainOptions
from fundusgrade.training.state import STATE_FILE, RunState, WeightAverage, load_state, save_state

_GRADIENT_NORM = 1.0
_FINAL_RATE = 0.01
_MAX_SEED = 2**32
_AT_ONCE = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainResult:
    """What a run left in its directory; `best_epoch` counts from 1 and is 0 if no epoch was finished."""

    directory: Path
    history: tuple[EpochRecord, ...]
    best_epoch: int
    outcome: str


def train(
    dataset: PreparedDataset,
    options: TrainOptions,
    choice: DeviceChoice,
    directory: Path,
    *,
    observer: TrainingObserver,
    resume: bool = False,
) -> TrainResult:
    """Train on the data set's training split, keep the epoch of best validation kappa, in `directory`.

    Ctrl-C ends the run after what is finished. Raises TrainingError where a run cannot be started or resumed, or the
    loss is no longer a number.
    """
    options = options.filled()
    _check_options(options)
    torch.manual_seed(options.seed)
    run, us = _start_run(dataset, options, choice, resume=resume), process_group()
    if resume:
        load_state(run, directory / STATE_FILE, dataset, options)
    us.agree(
        f"{dataset.hash} {options.recorded()} {choice.device.type} {choice.precision} {choice.compiled} {run.history}"
    )
    training, validation = _load_splits(dataset, options, choice, rows=run.network.spec.rows)
    _refuse_small_batches(min(options.batch_size, len(training)), us)
    outcome = "finished"
    try:
        for epoch in range(len(run.history) + 1, _epochs(options) + 1):
            if epoch - 1 - run.best_epoch >= (options.patience or epoch):
                outcome = f"stopped early: no better kappa for {options.patience} epochs"
                break
            record = _train_epoch(run, training, validation, options, choice, epoch, observer)
            is_best = _finish_epoch(run, record, directory, dataset, options, choice)
            observer.epoch_done(record, is_best)
    except KeyboardInterrupt:
        outcome = "interrupted"
    if options.calibrate and run.history and us.is_main_process:
        calibrate_saved(directory / store.MODEL_FILE, training.grades, validation, choice)
    return TrainResult(directory=directory, history=tuple(run.history), best_epoch=run.best_epoch, outcome=outcome)


def _load_splits(
    dataset: PreparedDataset, options: TrainOptions, choice: DeviceChoice, rows: tuple[int, int] | None
) -> tuple[LabeledImages, LabeledImages]:
    """Training and validation, on the device where there is room; `rows` are those that the network looks at."""
    graded = dataset.graded_rows("train")
    training = replace(_weighted(load_images(dataset, graded), dataset, options), rows=rows)
    if options.degrade:
        training = with_degraded(training, dataset, graded, seed=options.seed)
    validation = load_images(dataset, dataset.graded_rows("validation"))
    return training.on(choice.device), validation.on(choice.device)


def _refuse_small_batches(batch_size: int, us: ProcessGroup) -> None:
    if batch_size < 2 * us.size > 2:
        raise TrainingError(
            f"batches of {batch_size} photographs are too small for {us.size} processes: --batch-size counts those of "
            f"all processes together; expected at least two for each, {2 * us.size}"
        )


def calibrate_saved(path: Path, training_grades: Tensor, validation: LabeledImages, choice: DeviceChoice) -> None:
    """Fit a saved model's calibration and thresholds on the validation split, and save it with them and its scores."""
    checkpoint = load_checkpoint(path)
    network, provenance = to_device(checkpoint.network, choice), checkpoint.description.provenance
    options, grades = provenance.options, validation.grades.numpy()
    power = CLASS_WEIGHT_POWERS[ClassWeights(str(options["class_weights"]))]
    counts = torch.bincount(training_grades, minlength=NUM_GRADES).numpy()
    outputs = _outputs_of(network, validation, choice)
    head, by_thresholds = network.spec.head, Decision(str(options["decision"])) is Decision.THRESHOLDS
    if head is Head.SOFTMAX and not by_thresholds:
        chosen = choose_offsets(outputs, grades, counts, class_weight_power=power)
        network.calibrate(fit_temperature(head, outputs, grades, chosen))
    else:
        network.calibrate(fit_calibration(head, outputs, grades, counts, class_weight_power=power))
    probabilities = to_probabilities(network.spec, outputs)
    thresholds = fit_thresholds(grades, expected_grades(probabilities)) if by_thresholds else None
    evaluation = evaluate_predictions(grades, probabilities, thresholds)
    scores = conformity_scores(probabilities, grades, decide_grades(probabilities, thresholds))
    metrics = {
        **provenance.metrics,
        "validation_kappa": evaluation.kappa,
        "validation_accuracy": evaluation.accuracy,
        "validation_loss": log_loss(grades, probabilities),
    }
    description = replace(
        checkpoint.description,
        network=network.spec,
        thresholds=thresholds,
        conformity=tuple(sorted(round(float(score), 4) for score in scores)),
        provenance=replace(provenance, metrics=metrics),
    )
    save_checkpoint(path, network, description, fingerprints=checkpoint.fingerprints)


def _weighted(training: LabeledImages, dataset: PreparedDataset, options: TrainOptions) -> LabeledImages:
    """Photographs with their weights in the loss: by grade, and so that several data sets count alike."""
    assert options.class_weights is not None, "options are filled before use"
    origins = [row.origin or dataset.name for row in dataset.graded_rows("train")]
    names, number, counts = np.unique(origins, return_inverse=True, return_counts=True)
    by_origin = torch.from_numpy(len(origins) / (len(names) * counts))[number].float()
    by_grade = class_weights(training.grades, options.class_weights)[training.grades]
    return replace(training, weights=by_grade * by_origin)


def learning_rate_factor(step: int, num_steps: int, warmup_steps: int) -> float:
    """Linear warm-up to 1, then a cosine down to 1 %; `step` counts optimizer steps from 0."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, num_steps - warmup_steps)
    return _FINAL_RATE + (1 - _FINAL_RATE) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def _check_options(options: TrainOptions) -> None:
    problems = [
        (
            options.class_weights not in CLASS_WEIGHT_POWERS,
            f"class weights are one of {', '.join(CLASS_WEIGHT_POWERS)}",
        ),
        (_epochs(options) < 1, "epochs must be at least 1"),
        (options.batch_size < 2, "the batch size must be at least 2"),
        (not 0 <= options.mixup <= 1, "mixup must be in [0, 1]"),
        (not 0 <= options.ema_decay < 1, "the decay of the weight average must be in [0, 1)"),
        (not 0 <= options.seed < _MAX_SEED, f"the seed must be in [0, {_MAX_SEED})"),
    ]
    for is_wrong, expected in problems:
        if is_wrong:
            raise TrainingError(f"these options cannot be trained with: {expected}")


def _epochs(options: TrainOptions) -> int:
    assert options.epochs is not None, "options are filled before use"
    return options.epochs


def _start_run(dataset: PreparedDataset, options: TrainOptions, choice: DeviceChoice, *, resume: bool) -> RunState:
    """The state before the first step; a run that is resumed needs no starting weights, so none are looked for."""
    assert options.head is not None, "options are filled before use"
    recipe = dataset.recipe
    spec = network_spec(options.arch, recipe.size_px, band_rows=recipe.band_rows, head=options.head)
    init = Path(options.init_weights) if options.init_weights else None
    hub = options.arch if is_hub_name(options.arch) else None
    pretrained = options.pretrained
    start = build_network(spec) if resume else start_network(spec, init_weights=init, pretrained=pretrained, hub=hub)
    share_statistics(start)
    network = to_device(start, choice)
    average = WeightAverage(network, options.ema_decay)
    learner = share_gradients(_Learner(network))
    optimizer = torch.optim.AdamW(_parameter_groups(network, options), fused=choice.device.type == "cuda")
    scaler = torch.amp.GradScaler(choice.device.type, enabled=choice.precision is Precision.FLOAT16)
    if choice.compiled:
        learner.compile()
    return RunState(network=network, learner=learner, average=average, optimizer=optimizer, scaler=scaler)


class _Learner(nn.Module):
    """What a training step calls: pictures -> outputs of the head."""

    def __init__(self, network: GradingNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network.outputs(images)


def _parameter_groups(network: GradingNetwork, options: TrainOptions) -> list[dict[str, object]]:
    """Groups with their own rate: no decay for biases and norms; early layers of a transformer learn more slowly."""
    rate, layer_decay = options.learning_rate or 0.0, options.layer_decay or 1.0
    if layer_decay < 1:
        groups = param_groups_layer_decay(network.backbone, weight_decay=options.weight_decay, layer_decay=layer_decay)
        return [
            {"params": g["params"], "weight_decay": g["weight_decay"], "base_rate": rate * g["lr_scale"], "lr": rate}
            for g in groups
        ]
    matrices = [p for p in network.parameters() if p.ndim > 1]
    vectors = [p for p in network.parameters() if p.ndim <= 1]
    return [
        {"params": matrices, "weight_decay": options.weight_decay, "base_rate": rate, "lr": rate},
        {"params": vectors, "weight_decay": 0.0, "base_rate": rate, "lr": rate},
    ]


def _train_epoch(
    run: RunState,
    training: LabeledImages,
    validation: LabeledImages,
    options: TrainOptions,
    choice: DeviceChoice,
    epoch: int,
    observer: TrainingObserver,
) -> EpochRecord:
    """One pass over the training split, then validation of the averaged weights."""
    us = process_group()
    torch.manual_seed(options.seed * 1_000_003 + epoch + us.rank * 7_919)  # dropout; resuming starts at an epoch
    steps_per_epoch = num_batches(len(training), options.batch_size)
    warmup_steps, num_steps = round(options.warmup_epochs * steps_per_epoch), _epochs(options) * steps_per_epoch
    started, losses, num_images = time.perf_counter(), [], 0
    run.network.train()
    batches = training_batches(
        training, options.batch_size, seed=options.seed, epoch=epoch, device=choice.device, mixup=options.mixup, us=us
    )
    for step, batch in enumerate(batches):
        factor = learning_rate_factor((epoch - 1) * steps_per_epoch + step, num_steps, warmup_steps)
        for group in run.optimizer.param_groups:
            group["lr"] = group["base_rate"] * factor
        losses.append(_train_step(run, batch, options, choice))
        num_images += min(options.batch_size, len(training))
        observer.batch_done(epoch, step + 1, steps_per_epoch, num_images)
    train_loss = float(us.total(torch.stack(losses).mean())) / us.size  # waits until a GPU is done
    seconds = time.perf_counter() - started
    if not math.isfinite(train_loss):
        raise TrainingError(
            f"the loss of epoch {epoch} is {train_loss}: training has diverged; start again with --overwrite and a "
            "lower --learning-rate, or with --precision float32 if it was another"
        )
    return _validate(run, validation, options, choice, EpochRecord(
        epoch=epoch, train_loss=train_loss, validation_loss=0.0, validation_kappa=None, validation_accuracy=None,
        learning_rate=max(group["lr"] for group in run.optimizer.param_groups), seconds=round(seconds, 2),
        images_per_second=round(num_images / seconds, 2),
    ))  # fmt: skip


def _train_step(run: RunState, batch: Batch, options: TrainOptions, choice: DeviceChoice) -> Tensor:
    """One optimizer step; returns the loss, still on the device so that nothing waits for it."""
    head, kind = options.head, options.loss
    assert head is not None and kind is not None, "options are filled before use"
    with choice.autocast():
        outputs = run.learner(to_memory_format(run.network, batch.images))
    loss = graded_loss(head, kind, outputs, batch.grades, batch.weights)
    if batch.share < 1:
        loss = batch.share * loss + (1 - batch.share) * graded_loss(head, kind, outputs, *batch.mirrored())
    loss = batch.portion * loss
    run.optimizer.zero_grad(set_to_none=True)
    run.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
    run.scaler.unscale_(run.optimizer)
    nn.utils.clip_grad_norm_(run.network.parameters(), _GRADIENT_NORM)
    run.scaler.step(run.optimizer)
    run.scaler.update()
    run.average.update_parameters(run.network)
    return loss.detach()


def _validate(
    run: RunState,
    validation: LabeledImages,
    options: TrainOptions,
    choice: DeviceChoice,
    record: EpochRecord,
) -> EpochRecord:
    """Scores of the averaged network before anything is fitted: thresholds lie in the middle between two grades."""
    network, us = _averaged(run), process_group()
    part = us.stretch(len(validation))
    outputs = torch.zeros(len(validation), NUM_OUTPUTS[network.spec.head])
    outputs[part] = _outputs_of(network, validation, choice, part)
    probabilities = to_probabilities(network.spec, us.total(outputs))
    grades = validation.grades.numpy()
    thresholds = MIDDLES if options.decision is Decision.THRESHOLDS else None
    evaluation = evaluate_predictions(grades, probabilities, thresholds)
    return replace(
        record,
        validation_loss=log_loss(grades, probabilities),
        validation_kappa=evaluation.kappa,
        validation_accuracy=evaluation.accuracy,
    )


def _outputs_of(
    network: GradingNetwork, images: LabeledImages, choice: DeviceChoice, part: slice = slice(None)
) -> Tensor:
    """Outputs of the head for these of the pictures (n, k), not all of which need fit into memory."""
    positions = torch.split(torch.arange(len(images))[part], _AT_ONCE)
    return torch.cat([predict_outputs(network, images.at(each), choice) for each in positions])


def log_loss(grades: NDArray[np.int64], probabilities: NDArray[np.float64]) -> float:
    """Mean of the negative logarithm of each true grade's probability, for any head."""
    return float(-np.log(np.clip(probabilities[np.arange(len(grades)), grades], 1e-12, 1.0)).mean())


def _averaged(run: RunState) -> GradingNetwork:
    network = run.average.module
    assert isinstance(network, GradingNetwork), "the average has the network's type"
    return network


def _finish_epoch(
    run: RunState,
    record: EpochRecord,
    directory: Path,
    dataset: PreparedDataset,
    options: TrainOptions,
    choice: DeviceChoice,
) -> bool:
    """Save the run, and the model first if this epoch is the best so far; returns whether it is.

    Of several processes one saves; the others meet it in the next step.
    """
    run.history.append(record)
    is_best = run.best_epoch == record.epoch
    if not process_group().is_main_process:
        return is_best
    try:
        if is_best:
            _save_best(run, directory, dataset, options, choice)
        save_state(run, directory, dataset, options)
    except KeyboardInterrupt:  # an epoch counts once it is on disk
        run.history.pop()
        raise
    return is_best


def _save_best(
    run: RunState, directory: Path, dataset: PreparedDataset, options: TrainOptions, choice: DeviceChoice
) -> None:
    network, best = _averaged(run), run.history[-1]
    metrics = {
        "validation_kappa": best.validation_kappa,
        "validation_accuracy": best.validation_accuracy,
        "validation_loss": best.validation_loss,
        "best_epoch": best.epoch,
    }
    description = CheckpointDescription(
        name=directory.name,
        network=network.spec,
        recipe=dataset.recipe,
        provenance=Provenance(
            created=now(),
            data_name=dataset.name,
            data_hash=dataset.hash,
            init=_describe_init(options),
            options={**options.recorded(), "device": choice.device.type, "precision": choice.precision.value},
            metrics=metrics,
            versions=_versions(),
        ),
    )
    rows = (*dataset.graded_rows("train"), *dataset.graded_rows("validation"))
    save_checkpoint(
        directory / store.MODEL_FILE, network, description, fingerprints=collect_fingerprints(dataset, rows)
    )


def _describe_init(options: TrainOptions) -> str:
    if options.arch == CNN:
        return "random"
    if options.init_weights:
        return Path(options.init_weights).name
    named = public_name(options.arch) if is_hub_name(options.arch) else "timm"
    return f"{named} pretrained" if options.pretrained else "random"


def _versions() -> dict[str, str]:
    return {
        "fundusgrade": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "timm": str(timm.__version__),
        "numpy": np.__version__,
    }
