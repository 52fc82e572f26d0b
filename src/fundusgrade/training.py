"""Train one network on one data set: the loop, in the order things happen.

Every random choice follows from the seed and the epoch, and the whole state is written after each epoch, so a run that
was killed resumes from its last whole epoch and ends with the weights that it would have had.
"""

from __future__ import annotations

import json
import math
import platform
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import safetensors.torch
import timm
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from timm.optim import param_groups_layer_decay
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from fundusgrade import __version__, store
from fundusgrade.batches import GradedPictures, load_pictures, num_batches, training_batches
from fundusgrade.checkpoint import CheckpointDescription, Provenance, save_checkpoint
from fundusgrade.dataset import PreparedDataset
from fundusgrade.device import DeviceChoice
from fundusgrade.errors import TrainingError
from fundusgrade.grades import NUM_GRADES
from fundusgrade.metrics import evaluate_predictions
from fundusgrade.model import (
    CNN,
    GradingNetwork,
    lay_out,
    network_spec,
    predict_probabilities,
    prepare_for,
    start_network,
)
from fundusgrade.options import ClassWeights, Precision

STATE_FILE = "state.safetensors"
METRICS_FILE = "metrics.jsonl"
# A class weight is the inverse frequency to this power: 1 is the reference's loss, 0.5 a softer one, 0 none.
CLASS_WEIGHT_POWERS = {ClassWeights.INVERSE: 1.0, ClassWeights.SQRT: 0.5, ClassWeights.NONE: 0.0}
_GRADIENT_NORM = 1.0
_FINAL_RATE = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainOptions:
    """What a user decides; None stands for the architecture's own default. `epochs` includes the warm-up."""

    arch: str = "resnet50"
    init_weights: str | None = None
    pretrained: bool = True
    epochs: int | None = None
    batch_size: int = 32
    learning_rate: float | None = None
    weight_decay: float = 0.05
    layer_decay: float | None = None
    warmup_epochs: float = 1.0
    class_weights: ClassWeights = ClassWeights.INVERSE
    ema_decay: float = 0.99
    patience: int | None = None
    seed: int = 0

    def filled(self) -> TrainOptions:
        """The same options with the architecture's defaults in place of None."""
        defaults = _arch_defaults(self.arch)
        return replace(
            self,
            epochs=self.epochs if self.epochs is not None else defaults.epochs,
            learning_rate=self.learning_rate if self.learning_rate is not None else defaults.learning_rate,
            layer_decay=self.layer_decay if self.layer_decay is not None else defaults.layer_decay,
            patience=self.patience if self.patience is not None else defaults.patience,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochRecord:
    """One line of metrics.jsonl. Validation figures are those of the averaged weights."""

    epoch: int
    train_loss: float
    validation_loss: float
    validation_kappa: float | None
    validation_accuracy: float | None
    learning_rate: float
    seconds: float
    images_per_second: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainResult:
    """What a run left in its directory; `best_epoch` counts from 1 and is 0 if no epoch was finished."""

    directory: Path
    history: tuple[EpochRecord, ...]
    best_epoch: int
    outcome: str


class TrainingObserver(Protocol):
    """Whoever wants to watch: a progress bar, a test."""

    def batch_done(self, epoch: int, step: int, num_steps: int, num_images: int) -> None: ...
    def epoch_done(self, record: EpochRecord, is_best: bool) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class _ArchDefaults:
    epochs: int
    learning_rate: float
    layer_decay: float
    patience: int


@dataclass(slots=True)
class _Run:
    """Everything that changes during training and is saved."""

    network: GradingNetwork
    average: AveragedModel
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    history: list[EpochRecord] = field(default_factory=list)

    @property
    def best_epoch(self) -> int:
        """The epoch of highest validation kappa, the earliest of equals; 0 before the first."""
        kappas = [-2.0 if record.validation_kappa is None else record.validation_kappa for record in self.history]
        return 1 + int(np.argmax(kappas)) if kappas else 0


def _arch_defaults(arch: str) -> _ArchDefaults:
    if arch == CNN:
        return _ArchDefaults(epochs=40, learning_rate=2e-3, layer_decay=1.0, patience=12)
    if arch.startswith(("vit", "deit", "eva", "beit")):
        return _ArchDefaults(epochs=12, learning_rate=3e-4, layer_decay=0.75, patience=5)
    return _ArchDefaults(epochs=12, learning_rate=5e-4, layer_decay=1.0, patience=5)


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
    training = load_pictures(dataset, dataset.graded_rows("train"))
    validation = load_pictures(dataset, dataset.graded_rows("validation"))
    run = _start_run(dataset, options, choice)
    if resume:
        _load_state(run, directory / STATE_FILE, dataset, options, choice)
    weights = class_weights(training.grades, CLASS_WEIGHT_POWERS[options.class_weights]).to(choice.device)
    outcome = "finished"
    try:
        for epoch in range(len(run.history) + 1, _epochs(options) + 1):
            if epoch - 1 - run.best_epoch >= (options.patience or epoch):
                outcome = f"stopped early: no better kappa for {options.patience} epochs"
                break
            record = _train_epoch(run, training, validation, weights, options, choice, epoch, observer)
            run.history.append(record)
            is_best = run.best_epoch == epoch
            if is_best:
                _save_best(run, directory, dataset, options, choice)
            _save_state(run, directory, dataset, options)
            observer.epoch_done(record, is_best)
    except KeyboardInterrupt:
        outcome = "interrupted"
    return TrainResult(directory=directory, history=tuple(run.history), best_epoch=run.best_epoch, outcome=outcome)


def class_weights(grades: Tensor, power: float) -> Tensor:
    """Weights (5,) by inverse frequency to a power, with mean 1 over the photographs; absent grades get 0."""
    counts = torch.bincount(grades, minlength=NUM_GRADES).float()
    raw = torch.where(counts > 0, counts.clamp(min=1) ** -power, 0.0)
    return raw * counts.sum() / (raw * counts).sum()


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
        (not 0 <= options.ema_decay < 1, "the decay of the weight average must be in [0, 1)"),
    ]
    for is_wrong, expected in problems:
        if is_wrong:
            raise TrainingError(f"these options cannot be trained with: {expected}")


def _epochs(options: TrainOptions) -> int:
    assert options.epochs is not None, "options are filled before use"
    return options.epochs


def _start_run(dataset: PreparedDataset, options: TrainOptions, choice: DeviceChoice) -> _Run:
    spec = network_spec(options.arch, dataset.recipe.size_px)
    init = Path(options.init_weights) if options.init_weights else None
    network = prepare_for(start_network(spec, init_weights=init, pretrained=options.pretrained), choice)
    average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(options.ema_decay), use_buffers=True)  # type: ignore[no-untyped-call]
    optimizer = torch.optim.AdamW(_parameter_groups(network, options), fused=choice.device.type == "cuda")
    scaler = torch.amp.GradScaler(choice.device.type, enabled=choice.precision is Precision.FLOAT16)
    return _Run(network=network, average=average, optimizer=optimizer, scaler=scaler)


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
    run: _Run,
    training: GradedPictures,
    validation: GradedPictures,
    weights: Tensor,
    options: TrainOptions,
    choice: DeviceChoice,
    epoch: int,
    observer: TrainingObserver,
) -> EpochRecord:
    """One pass over the training split, then validation of the averaged weights."""
    torch.manual_seed(options.seed * 1_000_003 + epoch)  # dropout; resuming starts at an epoch
    steps_per_epoch = num_batches(len(training), options.batch_size)
    warmup_steps, num_steps = round(options.warmup_epochs * steps_per_epoch), _epochs(options) * steps_per_epoch
    started, losses, num_images = time.perf_counter(), [], 0
    run.network.train()
    batches = training_batches(training, options.batch_size, seed=options.seed, epoch=epoch, device=choice.device)
    for step, batch in enumerate(batches):
        factor = learning_rate_factor((epoch - 1) * steps_per_epoch + step, num_steps, warmup_steps)
        for group in run.optimizer.param_groups:
            group["lr"] = group["base_rate"] * factor
        losses.append(_train_step(run, batch.pictures, batch.grades, weights, choice))
        num_images += len(batch.grades)
        observer.batch_done(epoch, step + 1, steps_per_epoch, num_images)
    seconds = time.perf_counter() - started
    train_loss = float(torch.stack(losses).mean())
    if not math.isfinite(train_loss):
        raise TrainingError(
            f"the loss of epoch {epoch} is {train_loss}; resume with a lower --learning-rate or --precision float32"
        )
    return _validate(run, validation, weights, choice, EpochRecord(
        epoch=epoch, train_loss=train_loss, validation_loss=0.0, validation_kappa=None, validation_accuracy=None,
        learning_rate=max(group["lr"] for group in run.optimizer.param_groups), seconds=round(seconds, 2),
        images_per_second=round(num_images / seconds, 2),
    ))  # fmt: skip


def _train_step(run: _Run, pictures: Tensor, grades: Tensor, weights: Tensor, choice: DeviceChoice) -> Tensor:
    """One optimizer step; returns the loss, still on the device so that nothing waits for it."""
    with choice.autocast():
        logits = run.network(lay_out(run.network, pictures))
    loss = nn.functional.cross_entropy(logits.float(), grades, weight=weights)
    run.optimizer.zero_grad(set_to_none=True)
    run.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
    run.scaler.unscale_(run.optimizer)
    nn.utils.clip_grad_norm_(run.network.parameters(), _GRADIENT_NORM)
    run.scaler.step(run.optimizer)
    run.scaler.update()
    run.average.update_parameters(run.network)
    return loss.detach()


def _validate(
    run: _Run, validation: GradedPictures, weights: Tensor, choice: DeviceChoice, record: EpochRecord
) -> EpochRecord:
    probabilities = predict_probabilities(_averaged(run), validation.pixels, choice)
    grades = validation.grades.numpy()
    evaluation = evaluate_predictions(grades, probabilities)
    return replace(
        record,
        validation_loss=_weighted_log_loss(grades, probabilities, weights.cpu().double().numpy()),
        validation_kappa=evaluation.kappa,
        validation_accuracy=evaluation.accuracy,
    )


def _weighted_log_loss(
    grades: NDArray[np.int64], probabilities: NDArray[np.float64], weights: NDArray[np.float64]
) -> float:
    """The training loss on predictions already made."""
    chosen = np.clip(probabilities[np.arange(len(grades)), grades], 1e-12, 1.0)
    weight = weights[grades]
    return float(-(weight * np.log(chosen)).sum() / max(weight.sum(), 1e-12))


def _averaged(run: _Run) -> GradingNetwork:
    network = run.average.module
    assert isinstance(network, GradingNetwork), "the average has the network's type"
    return network


def _save_best(
    run: _Run, directory: Path, dataset: PreparedDataset, options: TrainOptions, choice: DeviceChoice
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
            created=store.now(),
            data_name=dataset.name,
            data_hash=dataset.hash,
            init=_describe_init(options),
            options={**_comparable(options), "device": choice.device.type, "precision": choice.precision.value},
            metrics=metrics,
            versions=_versions(),
        ),
    )
    save_checkpoint(directory / store.MODEL_FILE, network, description)


def _describe_init(options: TrainOptions) -> str:
    if options.arch == CNN:
        return "random"
    if options.init_weights:
        return Path(options.init_weights).name
    return "timm pretrained" if options.pretrained else "random"


def _comparable(options: TrainOptions) -> dict[str, object]:
    """Options as they are recorded: the start's file by name only, for its folder says something of the machine."""
    recorded = asdict(options)
    recorded["init_weights"] = Path(options.init_weights).name if options.init_weights else None
    return recorded


def _versions() -> dict[str, str]:
    return {
        "fundusgrade": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "timm": str(timm.__version__),
        "numpy": np.__version__,
    }


def _save_state(run: _Run, directory: Path, dataset: PreparedDataset, options: TrainOptions) -> None:
    """Everything needed to go on, in one file, and the history for people."""
    tensors: dict[str, Tensor] = {}
    for prefix, state in (("network", run.network.state_dict()), ("average", run.average.state_dict())):
        tensors |= {f"{prefix}.{name}": tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}
    for index, state in run.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value.cpu().contiguous().clone() for name, value in state.items()}
    header = {
        "data_hash": dataset.hash,
        "options": _comparable(options),
        "history": [asdict(record) for record in run.history],
        "scaler": run.scaler.state_dict(),
    }
    metrics = "".join(json.dumps(asdict(record)) + "\n" for record in run.history)
    store.write_atomically(directory / STATE_FILE, safetensors.torch.save(tensors, {"run": json.dumps(header)}))
    store.write_atomically(directory / METRICS_FILE, metrics)


def _load_state(run: _Run, path: Path, dataset: PreparedDataset, options: TrainOptions, choice: DeviceChoice) -> None:
    """Put a saved run back. Raises TrainingError where it was another run's."""
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            header = json.loads((file.metadata() or {})["run"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise TrainingError(f"no run to resume in {path.parent} ({error}); start it without --resume") from error
    _refuse_other_run(header, dataset, options)
    run.history = [EpochRecord(**record) for record in header["history"]]
    run.network.load_state_dict(_below(tensors, "network."))
    run.average.load_state_dict(_below(tensors, "average."))
    optimizer_state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in _below(tensors, "optimizer.").items():
        index, key = name.split(".", 1)
        optimizer_state.setdefault(int(index), {})[key] = tensor
    run.optimizer.load_state_dict(
        {"state": optimizer_state, "param_groups": run.optimizer.state_dict()["param_groups"]}
    )
    if header["scaler"]:
        run.scaler.load_state_dict(header["scaler"])


def _refuse_other_run(header: Mapping[str, object], dataset: PreparedDataset, options: TrainOptions) -> None:
    if header["data_hash"] != dataset.hash:
        raise TrainingError(f"the data set {dataset.name!r} has changed since this run began; train without --resume")
    before, asked = header["options"], _comparable(options)
    assert isinstance(before, dict), "written by _save_state"
    different = [
        f"{name} was {before.get(name)}, is {asked[name]}" for name in asked if before.get(name) != asked[name]
    ]
    if different:
        raise TrainingError(f"this run began with other options: {'; '.join(different)}; give the same to resume")


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
