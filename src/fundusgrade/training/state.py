"""The state of a training run: made at its start, written after each epoch, read back to resume."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from fundusgrade.data.dataset import PreparedDataset
from fundusgrade.errors import TrainingError
from fundusgrade.files import write_atomically
from fundusgrade.networks.build import StartedNetwork, build_network, network_spec, start_network
from fundusgrade.networks.device import DeviceChoice
from fundusgrade.networks.inference import to_device
from fundusgrade.networks.input_shape import fit_input, takes_shapes
from fundusgrade.networks.network import GradingNetwork
from fundusgrade.networks.timm_hub import is_hub_name
from fundusgrade.options import Precision
from fundusgrade.training.batch_norm import synchronize_batch_norm
from fundusgrade.training.distributed import average_gradients
from fundusgrade.training.history import METRICS_FILE, EpochRecord, best_epoch
from fundusgrade.training.optimizer import build_optimizer
from fundusgrade.training.options import TrainOptions
from fundusgrade.training.resizing import training_shapes

STATE_FILE = "state.safetensors"


@dataclass(slots=True)
class RunState:
    """The state that changes during training and is saved.

    `learner` is the network as a training step calls it: images -> outputs of the head, perhaps compiled, with
    gradients averaged over all processes. `average` holds the exponential moving average of the network's weights.
    `notes` say what people should know about the network's start.
    """

    network: GradingNetwork
    learner: nn.Module
    average: WeightAverage
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    history: list[EpochRecord] = field(default_factory=list)
    notes: tuple[str, ...] = ()

    @property
    def averaged_network(self) -> GradingNetwork:
        """The network with averaged weights: it is validated and saved."""
        network = self.average.module
        assert isinstance(network, GradingNetwork), "a copy of the network"
        return network

    @property
    def best_epoch(self) -> int:
        """The epoch of highest validation kappa; of equals the one of lowest validation loss. 0 before the first."""
        return best_epoch(self.history)


class WeightAverage(ModelEmaV3):  # type: ignore[misc]  # timm has no type hints
    """An exponential moving average whose decay warms up.

    The decay of step n, counted from 1, is min(decay, (1 + n) / (10 + n)), as in TensorFlow's
    ExponentialMovingAverage: with a decay of 0.99 and a few steps per epoch, a constant one would keep the starting
    weights for many epochs. The average of the first step is its weights.
    """

    def get_decay(self, step: int | None = None) -> float:
        """The weight of the average so far in an update at this step; after the warm-up where it is None."""
        decay: float = super().get_decay(step)
        return decay if step is None else min(decay, (1 + step) / (10 + step))


def start_run(dataset: PreparedDataset, options: TrainOptions, choice: DeviceChoice, *, resume: bool) -> RunState:
    """The state before the first step, of filled options; a run that is resumed reads no pretrained weights.

    Raises WeightsUnavailableError and TrainingError as `started_network`.
    """
    start = started_network(dataset, options, resume=resume)
    synchronize_batch_norm(start.network)
    network = to_device(start.network, choice)
    average = WeightAverage(network, decay=options.ema_decay)
    learner = average_gradients(_Learner(network))
    optimizer = build_optimizer(network, options, choice.device)
    scaler = torch.amp.GradScaler(choice.device.type, enabled=choice.precision is Precision.FLOAT16)
    if choice.compiled:
        learner.compile()
    return RunState(
        network=network, learner=learner, average=average, optimizer=optimizer, scaler=scaler, notes=start.notes
    )


def started_network(dataset: PreparedDataset, options: TrainOptions, *, resume: bool) -> StartedNetwork:
    """The network that a run starts from, and lines on its input and its weights; random weights are those of the seed.

    Raises WeightsUnavailableError where it does not take the data's images, or its weights cannot be had, and
    TrainingError where progressive resizing is asked of a network that takes one size only.
    """
    assert options.head is not None, "options are filled before use"
    torch.manual_seed(options.seed)
    recipe = dataset.recipe
    fitted = fit_input(network_spec(options.arch, recipe.size_px, band_rows=recipe.band_rows, head=options.head))
    spec, notes = fitted.spec, () if fitted.note is None else (fitted.note,)
    if options.progressive and not takes_shapes(spec, training_shapes(spec.size_px, spec.rows, options.num_epochs)):
        raise TrainingError(
            f"--progressive: {options.arch} takes images of one size only; train it without --progressive"
        )
    if resume:
        return StartedNetwork(network=build_network(spec), notes=notes)
    start = start_network(
        spec,
        init_weights=Path(options.init_weights) if options.init_weights else None,
        pretrained=options.pretrained,
        hub=options.arch if is_hub_name(options.arch) else None,
    )
    return replace(start, notes=notes + start.notes)


class _Learner(nn.Module):
    """A network as a module whose call gives the outputs of the head."""

    def __init__(self, network: GradingNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network.outputs(images)


def save_state(run: RunState, directory: Path, dataset: PreparedDataset, options: TrainOptions) -> None:
    """Write all that resuming needs to one file, and the history as metrics.jsonl. Raises StoreError where it fails."""
    tensors: dict[str, Tensor] = {}
    for prefix, state in (("network", run.network.state_dict()), ("average", run.average.state_dict())):
        tensors |= {f"{prefix}.{name}": tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}
    for index, state in run.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value.cpu().contiguous().clone() for name, value in state.items()}
    header = {
        "data_hash": dataset.hash,
        "options": options.recorded(),
        "history": [asdict(record) for record in run.history],
        "scaler": run.scaler.state_dict(),
    }
    metrics = "".join(json.dumps(asdict(record)) + "\n" for record in run.history)
    write_atomically(directory / STATE_FILE, safetensors.torch.save(tensors, {"run": json.dumps(header)}))
    write_atomically(directory / METRICS_FILE, metrics)


def load_state(run: RunState, path: Path, dataset: PreparedDataset, options: TrainOptions) -> None:
    """Restore a saved run. Raises TrainingError where it has other data or options, or its file is damaged."""
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            header = json.loads((file.metadata() or {})["run"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
        _check_same_run(header, dataset, options)
        run.network.load_state_dict(_with_prefix(tensors, "network."))
        run.average.load_state_dict(_with_prefix(tensors, "average."))
        _load_optimizer(run.optimizer, _with_prefix(tensors, "optimizer."))
        if header["scaler"]:
            run.scaler.load_state_dict(header["scaler"])
        run.history = [EpochRecord(**record) for record in header["history"]]
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise TrainingError(
            f"the run in {path.parent} cannot be resumed ({error}); start it again with --overwrite, without --resume"
        ) from error


def _load_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Restore moments in their parameter's memory layout: another is rounded differently, or refused by CUDA."""
    parameters = [parameter.detach() for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, key = name.split(".", 1)
        parameter = parameters[int(index)]
        if tensor.shape == parameter.shape:
            tensor = torch.empty_like(parameter, dtype=tensor.dtype).copy_(tensor)
        state.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _check_same_run(header: Mapping[str, object], dataset: PreparedDataset, options: TrainOptions) -> None:
    if header["data_hash"] != dataset.hash:
        raise TrainingError(
            f"the data set {dataset.name!r} has changed since this run began; start it again with --overwrite"
        )
    before, now = header["options"], options.recorded()
    assert isinstance(before, dict), "written by save_state"
    before = {**TrainOptions().recorded(), **before}  # an earlier version did not record all of them
    different = [f"{name} was {before.get(name)}, is {now[name]}" for name in now if before.get(name) != now[name]]
    if different:
        raise TrainingError(f"this run began with other options: {'; '.join(different)}; give the same to resume")


def _with_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with a prefix, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
