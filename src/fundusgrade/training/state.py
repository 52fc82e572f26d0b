"""The state of a training run: written after each epoch, read back to resume."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from fundusgrade.data.dataset import PreparedDataset
from fundusgrade.errors import TrainingError
from fundusgrade.files import write_atomically
from fundusgrade.networks.network import GradingNetwork
from fundusgrade.training.history import METRICS_FILE, EpochRecord
from fundusgrade.training.options import TrainOptions

STATE_FILE = "state.safetensors"


class WeightAverage(AveragedModel):
    """The exponential average of a network's weights and statistics; updating it does not wait for a GPU."""

    def __init__(self, network: GradingNetwork, decay: float) -> None:
        average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        super().__init__(network, multi_avg_fn=average, use_buffers=True)

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """As the base class does, which however sends the count of updates to the GPU at every step."""
        pairs = [*zip(self.module.parameters(), model.parameters(), strict=True)]
        buffers = [*zip(self.module.buffers(), model.buffers(), strict=True)]
        assert self.multi_avg_fn is not None, "given at the start"
        for is_real in (True, False):
            alike = [pair for pair in (*pairs, *buffers) if pair[0].is_floating_point() is is_real]
            if self.n_averaged == 0:
                for averaged, present in alike:
                    averaged.copy_(present)
            elif alike:
                self.multi_avg_fn([pair[0] for pair in alike], [pair[1] for pair in alike], self.n_averaged)
        self.n_averaged += 1


@dataclass(slots=True)
class RunState:
    """Everything that changes during training and is saved.

    `learner` is the network as a step calls it: pictures -> outputs of the head, perhaps compiled, and with gradients
    that several processes share.
    """

    network: GradingNetwork
    learner: nn.Module
    average: AveragedModel
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    history: list[EpochRecord] = field(default_factory=list)

    @property
    def best_epoch(self) -> int:
        """The epoch of highest validation kappa, the earliest of equals; 0 before the first."""
        kappas = [-2.0 if record.validation_kappa is None else record.validation_kappa for record in self.history]
        return 1 + int(np.argmax(kappas)) if kappas else 0


def save_state(run: RunState, directory: Path, dataset: PreparedDataset, options: TrainOptions) -> None:
    """Write everything needed to go on, in one file, and the history for people."""
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
    """Put a saved run back into one just started. Raises TrainingError where it was another's or is damaged."""
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            header = json.loads((file.metadata() or {})["run"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
        _refuse_other_run(header, dataset, options)
        run.network.load_state_dict(_below(tensors, "network."))
        run.average.load_state_dict(_below(tensors, "average."))
        _load_optimizer(run.optimizer, _below(tensors, "optimizer."))
        if header["scaler"]:
            run.scaler.load_state_dict(header["scaler"])
        run.history = [EpochRecord(**record) for record in header["history"]]
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise TrainingError(
            f"the run in {path.parent} cannot be resumed ({error}); start it again with --overwrite, without --resume"
        ) from error


def _load_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put moments back in their parameter's memory layout: another one is rounded otherwise, or refused by CUDA."""
    parameters = [parameter.detach() for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, key = name.split(".", 1)
        parameter = parameters[int(index)]
        if tensor.shape == parameter.shape:
            tensor = torch.empty_like(parameter, dtype=tensor.dtype).copy_(tensor)
        state.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _refuse_other_run(header: Mapping[str, object], dataset: PreparedDataset, options: TrainOptions) -> None:
    if header["data_hash"] != dataset.hash:
        raise TrainingError(
            f"the data set {dataset.name!r} has changed since this run began; start it again with --overwrite"
        )
    before, asked = header["options"], options.recorded()
    assert isinstance(before, dict), "written by save_state"
    different = [
        f"{name} was {before.get(name)}, is {asked[name]}" for name in asked if before.get(name) != asked[name]
    ]
    if different:
        raise TrainingError(f"this run began with other options: {'; '.join(different)}; give the same to resume")


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
