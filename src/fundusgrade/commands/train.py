"""The command `train`: one network, or the folds of a cross-validation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fundusgrade.commands.exit_codes import EXIT_INTERRUPTED
from fundusgrade.commands.options.names import complete_architectures, complete_datasets
from fundusgrade.commands.options.network import DeviceOption, PrecisionOption
from fundusgrade.commands.options.panels import (
    COMPUTING,
    DATA,
    FOLDS,
    LOSS,
    MODEL,
    OPTIMIZATION,
    OUTPUT,
    SEVERAL_RUNS,
)
from fundusgrade.commands.options.referral import DecideForOption, DecisionOption, checked_decision
from fundusgrade.options import (
    NUM_FOLDS,
    ClassWeights,
    DeviceName,
    FoldsBy,
    Head,
    Loss,
    Precision,
    Recipe,
)
from fundusgrade.terminal import console

if TYPE_CHECKING:
    from fundusgrade.training.runs import RunRequest


def train(
    arch: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Architecture: cnn (small, from scratch), resnet50, vit (ViT-B/16), a model name of timm, "
            "hf-hub:OWNER/NAME, or local-dir:FOLDER.",
            autocompletion=complete_architectures,
            rich_help_panel=MODEL,
        ),
    ] = "resnet50",
    init_weights: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Pretrained weights to start from, a .safetensors file (default: none).",
            rich_help_panel=MODEL,
        ),
    ] = None,
    pretrained: Annotated[
        bool,
        typer.Option(
            help="Start from timm's pretrained weights, which are downloaded, or from random weights.",
            rich_help_panel=MODEL,
        ),
    ] = True,
    seed: Annotated[
        int,
        typer.Option(
            metavar="NUMBER",
            help="Random seed of initialization, batches and augmentation.",
            rich_help_panel=MODEL,
        ),
    ] = 0,
    data: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Prepared data set, by name or folder; repeat to combine data sets with equal weight (default: the "
            "only one).",
            autocompletion=complete_datasets,
            rich_help_panel=DATA,
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Name of the model (default: DATA-ARCH).", rich_help_panel=OUTPUT),
    ] = None,
    tensorboard: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Folder for TensorBoard logs (default: none).", rich_help_panel=OUTPUT),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Resume an interrupted run.", rich_help_panel=SEVERAL_RUNS)
    ] = False,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite",
            help="Discard a model or an interrupted run of this name and start over.",
            rich_help_panel=SEVERAL_RUNS,
        ),
    ] = False,
    epochs: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="NUMBER",
            help="Maximum number of epochs (default: 12; 40 for cnn).",
            rich_help_panel=OPTIMIZATION,
        ),
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="NUMBER",
            help="Early stopping: epochs without a better validation kappa (default: 5; 12 for cnn).",
            rich_help_panel=OPTIMIZATION,
        ),
    ] = None,
    batch_size: Annotated[
        int,
        typer.Option(
            min=2,
            metavar="NUMBER",
            help="Images per optimization step, of all processes.",
            rich_help_panel=OPTIMIZATION,
        ),
    ] = 32,
    learning_rate: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            metavar="RATE",
            help="Maximum learning rate of AdamW, after warm-up (default: 5e-4; 3e-4 for vision transformers, 2e-3 for "
            "cnn).",
            rich_help_panel=OPTIMIZATION,
        ),
    ] = None,
    layer_decay: Annotated[
        float | None,
        typer.Option(
            min=0.1,
            max=1.0,
            metavar="FACTOR",
            help="Layer-wise learning-rate decay factor (default: 0.75 for vision transformers, else 1).",
            rich_help_panel=OPTIMIZATION,
        ),
    ] = None,
    ema_decay: Annotated[
        float,
        typer.Option(
            min=0.0,
            max=0.9999,
            metavar="FACTOR",
            help="Decay per step of the exponential moving average (EMA) of the weights; 0 for none.",
            rich_help_panel=OPTIMIZATION,
        ),
    ] = 0.99,
    mixup: Annotated[
        float,
        typer.Option(
            min=0.0,
            max=1.0,
            metavar="STRENGTH",
            help="Mixup of image pairs: parameter of the beta distribution; 0 for none.",
            rich_help_panel=OPTIMIZATION,
        ),
    ] = 0.0,
    degrade: Annotated[
        bool,
        typer.Option(
            "--degrade",
            help="Augment with lower image quality: half of the images are shrunk, blurred, lit unevenly, veiled and "
            "compressed, and all get noise.",
            rich_help_panel=OPTIMIZATION,
        ),
    ] = False,
    progressive: Annotated[
        bool,
        typer.Option(
            "--progressive",
            help="Progressive resizing: smaller images in the first epochs, which takes about two thirds of the time.",
            rich_help_panel=OPTIMIZATION,
        ),
    ] = False,
    recipe: Annotated[
        Recipe,
        typer.Option(
            metavar="RECIPE",
            help="Defaults of the options below: this project's (default), or those of the reference study (reference: "
            "softmax, inverse class frequencies, most probable grade, no calibration).",
            rich_help_panel=LOSS,
        ),
    ] = Recipe.DEFAULT,
    head: Annotated[
        Head | None,
        typer.Option(
            metavar="HEAD",
            help="Output head: softmax (class probabilities), regression (of severity), or cumulative (ordinal "
            "probabilities) (default: implied by --loss, else cumulative).",
            rich_help_panel=LOSS,
        ),
    ] = None,
    loss: Annotated[
        Loss | None,
        typer.Option(
            metavar="LOSS",
            help="Loss function: cross-entropy, soft-labels (cross-entropy with soft ordinal labels), distance "
            "(cross-entropy with expected squared distance), smooth-l1, or squared (error) (default: implied by "
            "--head, else cross-entropy).",
            rich_help_panel=LOSS,
        ),
    ] = None,
    class_weights: Annotated[
        ClassWeights | None,
        typer.Option(
            metavar="WEIGHTS",
            help="Class weights in the loss: inverse (frequency), sqrt (its square root), effective (inverse effective "
            "number of samples), or none (default: sqrt).",
            rich_help_panel=LOSS,
        ),
    ] = None,
    decision: DecisionOption = None,
    decide_for: DecideForOption = None,
    calibrate: Annotated[
        bool | None,
        typer.Option(
            "--calibrate/--no-calibrate",
            help="Calibrate probabilities on half of the validation split; the other half gives prediction sets "
            "(default: calibrate).",
            rich_help_panel=LOSS,
        ),
    ] = None,
    folds: Annotated[
        int | None,
        typer.Option(
            min=2,
            metavar="NUMBER",
            help="Cross-validate with this number of folds; the out-of-fold predictions are pooled "
            "(default: no cross-validation).",
            rich_help_panel=FOLDS,
        ),
    ] = None,
    folds_by: Annotated[
        FoldsBy | None,
        typer.Option(
            metavar="UNIT",
            help="What a fold holds out: a random group of photographs (group), or one of several --data (source), "
            "which is graded by a network that was trained on the others (default: group).",
            rich_help_panel=FOLDS,
        ),
    ] = None,
    fold: Annotated[
        str | None,
        typer.Option(
            metavar="FOLD",
            help=f"Train only this fold, of --folds or {NUM_FOLDS}: its number, or with --folds-by source the name of "
            "the data set that it holds out (default: all).",
            rich_help_panel=FOLDS,
        ),
    ] = None,
    tta: Annotated[
        bool,
        typer.Option(
            "--tta",
            help="Test-time augmentation of the out-of-fold predictions: average over mirror images.",
            rich_help_panel=FOLDS,
        ),
    ] = False,
    compiled: Annotated[
        bool,
        typer.Option("--compile", help="Compile the network with torch.compile.", rich_help_panel=COMPUTING),
    ] = False,
    device: DeviceOption = DeviceName.AUTO,
    precision: PrecisionOption = Precision.AUTO,
) -> None:
    """Train a network on a prepared data set, and keep the weights of the epoch with the best validation kappa.

    The model is stored with its preprocessing, calibration and a model card. Under torchrun, all processes train one
    network together.
    """
    from fundusgrade.training.options import TrainOptions
    from fundusgrade.training.runs import RunRequest

    number, held_out = _chosen_fold(fold, folds, folds_by)
    options = TrainOptions(
        arch=arch,
        recipe=recipe,
        init_weights=str(init_weights) if init_weights else None,
        pretrained=pretrained,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        layer_decay=layer_decay,
        head=head,
        loss=loss,
        class_weights=class_weights,
        decision=checked_decision(decision, decide_for),
        decide_for=decide_for,
        calibrate=calibrate,
        mixup=mixup,
        degrade=degrade,
        progressive=progressive,
        ema_decay=ema_decay,
        patience=patience,
        fold=number,
        num_folds=folds or NUM_FOLDS,
        folds_by=folds_by or FoldsBy.GROUP,
        seed=seed,
    )
    request = RunRequest(
        options=options, data=tuple(data or ()), name=name, resume=resume, overwrite=overwrite, compiled=compiled,
        events=tensorboard, held_out=held_out,
    )  # fmt: skip
    in_folds = any(option is not None for option in (folds, fold, folds_by))
    _train(request, device, precision, in_folds=in_folds, tta=tta)


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
