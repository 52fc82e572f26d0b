"""The command `train`: one network, or the folds of a cross-validation."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import typer

from fundusgrade.commands.exit_codes import EXIT_INTERRUPTED
from fundusgrade.commands.options.network import DeviceOption, PrecisionOption
from fundusgrade.commands.options.referral import DecideForOption, DecisionOption, checked_decision
from fundusgrade.commands.options.training import (
    ArchOption,
    BatchSizeOption,
    CalibrateOption,
    ClassWeightsOption,
    CompiledOption,
    DataOption,
    DegradeOption,
    EmaDecayOption,
    EpochsOption,
    FoldOption,
    FoldsByOption,
    FoldsOption,
    HeadOption,
    InitWeightsOption,
    LayerDecayOption,
    LearningRateOption,
    LossOption,
    MixupOption,
    NameOption,
    OverwriteOption,
    PatienceOption,
    PretrainedOption,
    ProgressiveOption,
    RecipeOption,
    ResumeOption,
    SeedOption,
    TeacherOption,
    TeacherWeightOption,
    TensorboardOption,
    TtaOption,
)
from fundusgrade.commands.settings import Settings
from fundusgrade.options import (
    NUM_FOLDS,
    DeviceName,
    FoldsBy,
    Precision,
    Recipe,
)
from fundusgrade.terminal import console

if TYPE_CHECKING:
    from fundusgrade.training.runs import RunRequest


def train(
    arch: ArchOption = "resnet50",
    init_weights: InitWeightsOption = None,
    pretrained: PretrainedOption = True,
    seed: SeedOption = 0,
    data: DataOption = None,
    name: NameOption = None,
    tensorboard: TensorboardOption = None,
    resume: ResumeOption = False,
    overwrite: OverwriteOption = False,
    epochs: EpochsOption = None,
    patience: PatienceOption = None,
    batch_size: BatchSizeOption = 32,
    learning_rate: LearningRateOption = None,
    layer_decay: LayerDecayOption = None,
    ema_decay: EmaDecayOption = 0.99,
    mixup: MixupOption = 0.0,
    degrade: DegradeOption = False,
    progressive: ProgressiveOption = False,
    teacher: TeacherOption = None,
    teacher_weight: TeacherWeightOption = 0.5,
    recipe: RecipeOption = Recipe.DEFAULT,
    head: HeadOption = None,
    loss: LossOption = None,
    class_weights: ClassWeightsOption = None,
    decision: DecisionOption = None,
    decide_for: DecideForOption = None,
    calibrate: CalibrateOption = None,
    folds: FoldsOption = None,
    folds_by: FoldsByOption = None,
    fold: FoldOption = None,
    tta: TtaOption = False,
    compiled: CompiledOption = False,
    device: DeviceOption = DeviceName.AUTO,
    precision: PrecisionOption = Precision.AUTO,
    *,
    settings: Settings,
) -> None:
    """Train a network on a prepared data set, and keep the weights of the epoch with the best validation kappa.

    The model is stored with its preprocessing, calibration and a model card. Under torchrun, all processes train one
    network together.
    """
    from fundusgrade.training.options import TrainOptions
    from fundusgrade.training.runs import RunRequest

    number, held_out = _chosen_fold(fold, folds, folds_by)
    options = TrainOptions(
        arch=arch, recipe=recipe, init_weights=str(init_weights) if init_weights else None,
        pretrained=pretrained, epochs=epochs, batch_size=batch_size, learning_rate=learning_rate,
        layer_decay=layer_decay, head=head, loss=loss, class_weights=class_weights,
        decision=checked_decision(decision, decide_for), decide_for=decide_for, calibrate=calibrate,
        mixup=mixup, degrade=degrade, progressive=progressive, teacher=tuple(map(str, teacher or ())),
        teacher_weight=teacher_weight, ema_decay=ema_decay, patience=patience, fold=number,
        num_folds=folds or NUM_FOLDS, folds_by=folds_by or FoldsBy.GROUP, seed=seed,
    )  # fmt: skip
    request = RunRequest(
        options=options, data=tuple(data or ()), name=name, resume=resume, overwrite=overwrite, compiled=compiled,
        events=tensorboard, held_out=held_out,
    )  # fmt: skip
    request = replace(request, config=_config(request, settings))
    _train(request, device, precision, in_folds=(folds, fold, folds_by) != (None, None, None), tta=tta)


def _config(request: RunRequest, settings: Settings) -> str:
    """The settings with the data, the name and the defaults of architecture and recipe in the place of None."""
    from fundusgrade.training.runs import default_name

    dataset = request.dataset()
    filled = {name.replace("_", "-"): value for name, value in asdict(request.options.filled()).items()}
    missing = {name: filled[name] for name, value in settings.values.items() if value is None and name in filled}
    missing = {name: value for name, value in missing.items() if name not in ("fold", "folds-by")}  # asks for folds
    missing |= {"data": request.data or (dataset.name,), "name": request.name or default_name(dataset, request.options)}
    return settings.text(**missing)


def _chosen_fold(fold: str | None, folds: int | None, folds_by: FoldsBy | None) -> tuple[int | None, str | None]:
    """The number of the only fold to train, or the name of the data set that it holds out; None for all folds."""
    if folds_by is FoldsBy.SOURCE and folds is not None:
        raise typer.BadParameter("--folds-by source has one fold for each --data; leave --folds out")
    if fold is None or not fold.isdecimal():
        if fold is not None and folds_by is not FoldsBy.SOURCE:
            raise typer.BadParameter(f"--fold {fold}: expected a number; only folds by source have names")
        return None, fold
    if int(fold) < 1:
        raise typer.BadParameter(f"--fold {fold}: folds count from 1")
    return int(fold), None


def _train(request: RunRequest, device: DeviceName, precision: Precision, *, in_folds: bool, tta: bool) -> None:
    """Train together with the other processes of torchrun, if there are any; only the main process prints."""
    from fundusgrade.networks.device import choose_device
    from fundusgrade.training import cross_validation, distributed, runs

    with distributed.joined_group(choose_device(device, precision)) as process_group:
        screen = console(quiet=not process_group.is_main_process)
        if in_folds:
            finished = cross_validation.cross_validate(
                request, device=device, precision=precision, console=screen, tta=tta
            )
        else:
            finished = runs.run_training(runs.plan_run(request), device=device, precision=precision, console=screen)
    if process_group.is_main_process:
        typer.echo(finished.summary)
    if finished.interrupted:
        raise typer.Exit(EXIT_INTERRUPTED)
