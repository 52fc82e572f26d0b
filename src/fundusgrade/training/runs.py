"""Training runs from a user's request to an installed model: names, directories, what may be overwritten."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from fundusgrade import store
from fundusgrade.data.concatenation import SEPARATOR, open_dataset
from fundusgrade.data.dataset import PreparedDataset
from fundusgrade.data.pixel_cache import write_pixel_cache
from fundusgrade.data.splits import FEWEST_TO_HALVE
from fundusgrade.errors import TrainingError
from fundusgrade.files import make_folder, write_atomically
from fundusgrade.metrics.estimates import describe_number
from fundusgrade.networks.checkpoint_file import read_description
from fundusgrade.networks.description import CheckpointDescription
from fundusgrade.networks.device import DeviceChoice, choose_device
from fundusgrade.networks.model_card import model_card
from fundusgrade.networks.timm_hub import short_name
from fundusgrade.options import DeviceName, FoldsBy, Precision
from fundusgrade.training.class_counts import check_grades, describe_grades, grade_warnings
from fundusgrade.training.degraded_images import describe_too_little_space
from fundusgrade.training.distributed import launch_id, process_group
from fundusgrade.training.history import draw_training_curves
from fundusgrade.training.loop import TrainResult, train
from fundusgrade.training.observers import TrainingProgress, check_event_log, log_events
from fundusgrade.training.options import TrainOptions
from fundusgrade.training.state import STATE_FILE, RunState, start_run

_LAUNCH_FILE = "launch"
_BEFORE_TRAINING = (_LAUNCH_FILE, store.CONFIG_FILE, "train_batch.jpg")
"""Files of a run that are written before its first epoch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPlan:
    """A run that may start: its data, options (filled), name and directory.

    `compiled` requests torch.compile, `events` is the folder of an event log for TensorBoard, `config` the settings
    that repeat the run.
    """

    dataset: PreparedDataset
    options: TrainOptions
    name: str
    directory: Path
    resume: bool
    compiled: bool = False
    events: Path | None = None
    config: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedRun:
    """The result of a run: the file that it installed, and lines to print.

    `path` is None where no epoch was completed, and in all processes but the main one, whose `summary` is "".
    """

    path: Path | None
    summary: str
    interrupted: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRequest:
    """A user's request for a training run."""

    options: TrainOptions
    """The options of the training itself."""

    data: tuple[str, ...] = ()
    """Data sets by name or folder; several are combined with equal weight. Default: the only one in the store."""

    name: str | None = None
    """Name of the model; default DATA-ARCH."""

    resume: bool = False
    """Whether an unfinished run of this name continues from its last complete epoch; otherwise it is an error."""

    overwrite: bool = False
    """Whether a model or an unfinished run of this name is replaced; otherwise it is an error."""

    compiled: bool = False
    """Whether the network is compiled with torch.compile: training starts later, and its steps are usually faster."""

    events: Path | None = None
    """Folder of an event log for TensorBoard; default None, no log."""

    held_out: str | None = None
    """Name of the data set whose fold is the only one to train, of folds by source; default None, as `fold` says."""

    config: str | None = None
    """The settings that repeat the run, which are stored with the model; default None, none."""

    def dataset(self) -> PreparedDataset:
        """The data to train on, one data set or several combined. Raises StoreError or DatasetError.

        Folds by source use neither the training nor the test splits of the data sets, so copies may be in both.
        """
        return open_dataset(self.data, check_splits=self.options.folds_by is not FoldsBy.SOURCE)


def plan_run(request: RunRequest) -> RunPlan:
    """Find the data and the directory of a run. Raises TrainingError where it would discard an unfinished run without
    `overwrite`, StoreError where it would replace a model.

    A run that torchrun restarts, because one of its processes ended, resumes automatically from its last complete
    epoch: its state is of the same launch.
    """
    dataset, options, resume, overwrite = request.dataset(), request.options, request.resume, request.overwrite
    if options.fold is not None:
        dataset = dataset.with_fold(options.fold, options.num_folds, options.folds_by)
    name = store.checked_name(request.name or default_name(dataset, options))
    directory = store.run_directory(name)
    has_state = (directory / STATE_FILE).is_file()
    has_model = (store.model_directory(name) / store.MODEL_FILE).is_file()
    resume = resume or (has_state and is_of_this_launch(directory))
    if resume and not has_state:
        finished = f"; the model {name!r} in the store is finished" if has_model else ""
        raise TrainingError(f"no unfinished run {name!r} to resume{finished}; start it without --resume")
    if not resume and not overwrite and has_state:
        raise TrainingError(
            f"the run {name!r} is unfinished; add --resume to resume it, or --overwrite to discard it and start over"
        )
    if not resume:
        inputs = [Path(options.init_weights)] if options.init_weights else []
        store.folder_of_new_model(name, overwrite=overwrite, inputs=inputs)
    return RunPlan(
        dataset=dataset,
        options=options.filled(),
        name=name,
        directory=directory,
        resume=resume,
        compiled=request.compiled,
        events=request.events,
        config=request.config,
    )


def default_name(dataset: PreparedDataset, options: TrainOptions) -> str:
    """DATA-ARCH, without characters that a name must not have."""
    return store.name_from(f"{dataset.name}-{short_name(options.arch)}".replace(SEPARATOR, "-"), dataset.name)


def run_training(plan: RunPlan, *, device: DeviceName, precision: Precision, console: Console) -> FinishedRun:
    """Train, install the best epoch in the store with its model card and curves, and remove the run if it is finished.

    Nothing is written or removed before the network and its weights are there. Of several processes that train
    together, the main one does all but the training. Raises TrainingError where a split has one grade only, or where no
    epoch had a validation kappa above 0: then nothing is installed.
    """
    check_grades(plan.dataset)
    plan.options.check()
    group, choice = process_group(), replace(choose_device(device, precision), compiled=plan.compiled)
    start = start_run(plan.dataset, plan.options, choice, resume=plan.resume)
    group.barrier()  # all processes have made their plan: from here on the store changes
    check_event_log(plan.events)
    if group.is_main_process:
        for line in _prepare_run(plan, choice, start):
            console.print(line, highlight=False, soft_wrap=True, markup=False)
    group.barrier()
    with (
        _no_empty_folder(plan.directory, is_own=group.is_main_process),
        TrainingProgress(console, plan.options.epochs or 0) as progress,
        log_events(progress, plan.events if group.is_main_process else None, plan.name, resume=plan.resume) as observer,
    ):
        result = train(
            plan.dataset, plan.options, choice, plan.directory, observer=observer, resume=plan.resume, start=start
        )
    if not result.is_interrupted and not result.has_learned:
        if group.is_main_process:
            draw_training_curves(result.history, result.best_epoch, result.directory / "curves.png")
            (result.directory / STATE_FILE).unlink(missing_ok=True)  # resuming a finished run cannot help
        group.barrier()
        raise TrainingError(_describe_failure(plan, result))
    finished = _finish(plan, result) if group.is_main_process else _without_output(result)
    if not finished.interrupted:
        group.barrier()
    return finished


def _prepare_run(plan: RunPlan, choice: DeviceChoice, start: RunState) -> list[str]:
    """Make the run's folder and the pixel cache; returns lines that describe the run."""
    if not plan.resume:
        clear_run(plan.directory)
    make_folder(plan.directory)
    record_launch(plan.directory)
    if plan.config is not None:
        write_atomically(plan.directory / store.CONFIG_FILE, plan.config)
    num_processes = process_group().size
    shared = f", {num_processes} processes" if num_processes > 1 else ""
    pixel_cache_warning = write_pixel_cache(plan.dataset)
    degraded_warning = describe_too_little_space(plan.dataset, plan.directory) if plan.options.degrade else None
    lines = [f"device: {choice.describe()}{shared}", *_describe_plan(plan), *start.notes]
    return [*lines, *(warning for warning in (pixel_cache_warning, degraded_warning) if warning)]


@contextlib.contextmanager
def _no_empty_folder(directory: Path, *, is_own: bool) -> Iterator[None]:
    """Remove the folder of a run that fails before its first epoch is complete: it holds nothing to resume."""
    try:
        yield
    except BaseException:
        if is_own:
            _clear_if_empty(directory)
        raise


def _clear_if_empty(directory: Path) -> None:
    """Remove the folder of a run in which no epoch was completed."""
    if directory.is_dir() and all(path.name in _BEFORE_TRAINING for path in directory.iterdir()):
        clear_run(directory)


def _without_output(result: TrainResult) -> FinishedRun:
    return FinishedRun(path=None, summary="", interrupted=result.is_interrupted)


def _finish(plan: RunPlan, result: TrainResult) -> FinishedRun:
    interrupted = result.is_interrupted
    if result.best_epoch == 0:
        _clear_if_empty(plan.directory)
        return FinishedRun(path=None, summary="interrupted in the first epoch; nothing saved", interrupted=True)
    if not result.has_learned:
        summary = (
            f"interrupted after {len(result.history)} epochs; no model is installed, because no validation kappa is "
            "above 0 yet; resume with the same command and --resume"
        )
        return FinishedRun(path=None, summary=summary, interrupted=True)
    description = _write_documents(result)
    path = store.install_model(plan.directory, plan.name)
    if not interrupted:
        clear_run(plan.directory)
    return FinishedRun(path=path, summary=_summary(plan, result, description, path), interrupted=interrupted)


def record_launch(directory: Path) -> None:
    """Record which torchrun launch works on a run, if one does."""
    if (own := launch_id()) is not None:
        write_atomically(directory / _LAUNCH_FILE, own)


def is_of_this_launch(directory: Path) -> bool:
    """Whether a run was started or resumed by the launch that this process belongs to."""
    try:
        return launch_id() == (directory / _LAUNCH_FILE).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return False


def clear_run(directory: Path) -> None:
    """Remove a run, its state first: what remains after a kill cannot be resumed by mistake."""
    with contextlib.suppress(OSError):
        (directory / STATE_FILE).unlink()
    shutil.rmtree(directory, ignore_errors=True)


def _write_documents(result: TrainResult) -> CheckpointDescription:
    """Write model card and training curves beside the checkpoint; returns its description."""
    description = read_description(result.directory / store.MODEL_FILE)
    write_atomically(result.directory / "README.md", model_card(description))
    draw_training_curves(result.history, result.best_epoch, result.directory / "curves.png")
    return description


def _describe_plan(plan: RunPlan) -> list[str]:
    """Lines that say what will be trained on which photographs, warnings included."""
    options = plan.options
    assert options.head is not None and options.loss is not None, "options are filled before use"
    return [
        f"network: {options.arch}, {options.head.value} head, {options.loss.value} loss, up to {options.epochs} epochs",
        describe_grades(plan.dataset),
        *_describe_left_out(plan),
        *(f"Warning: {warning}" for warning in grade_warnings(plan.dataset)),
    ]


def _describe_left_out(plan: RunPlan) -> list[str]:
    """How many photographs neither train nor test, where the fold is a data set of which others hold copies."""
    num_left_out = sum(row.split is None for row in plan.dataset.graded_rows())
    if plan.options.folds_by is not FoldsBy.SOURCE or not num_left_out:
        return []
    return [f"left out: {num_left_out} photographs of the other data sets, which are copies of held-out ones"]


def _describe_failure(plan: RunPlan, result: TrainResult) -> str:
    """Why a finished run gives no model, and what to do."""
    options = plan.options
    fold = "" if options.fold is None else f" (fold {options.fold} of {options.num_folds})"
    return (
        f"{plan.name}{fold}: this model has learned nothing: its validation kappa was above 0 in none of "
        f"{len(result.history)} epochs, so it grades no better than chance; nothing is installed in the store, and "
        f"{result.directory} keeps its curves; start again with more --epochs, a lower or higher --learning-rate, "
        "--ema-decay 0, other starting weights (--init-weights), or more labeled photographs"
    )


def _summary(plan: RunPlan, result: TrainResult, description: CheckpointDescription, path: Path) -> str:
    minutes = sum(record.seconds for record in result.history) / 60
    before = describe_number(result.history[result.best_epoch - 1].validation_kappa)
    after = describe_number(description.provenance.metrics["validation_kappa"])
    kappas = f"{before} of the photographs that chose it"
    if description.conformity.sets:
        kappas += f", {after} of those that chose nothing"
    lines = [
        f"{result.outcome} after {len(result.history)} epochs, {minutes:.1f} minutes of training",
        f"best epoch {result.best_epoch}: validation kappa {kappas}",
        f"model {plan.name}: {path}",
    ]
    point = description.operating_point
    if point is not None:
        lines.append(point.describe())
    if plan.options.calibrate and not description.conformity.sets:
        lines.append(
            f"no prediction sets: a validation split of fewer than {FEWEST_TO_HALVE} photographs is not halved"
        )
    if result.is_interrupted:
        lines.append("resume with the same command and --resume")
    return "\n".join(lines)
