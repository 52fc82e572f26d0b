"""The command `train`: one network, or the folds of a cross-validation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fundusgrade.commands.options import EXIT_INTERRUPTED, DeviceOption, PrecisionOption, checked_decision
from fundusgrade.options import (
    NUM_FOLDS,
    ClassWeights,
    DecideFor,
    Decision,
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

_OPTIMIZATION = "Optimization and augmentation"
_OUTPUT = "Output, loss and decision rule"
_FOLDS = "Cross-validation"


def train(
    arch: Annotated[
        str,
        typer.Option(
            help="Architecture: cnn (small, from scratch), resnet50, vit (ViT-B/16), a model name of timm, "
            "hf-hub:OWNER/NAME, or local-dir:FOLDER."
        ),
    ] = "resnet50",
    data: Annotated[
        list[str] | None,
        typer.Option(
            help="Prepared data set, by name or folder; repeat to combine data sets with equal weight (default: the "
            "only one)."
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the model (default: DATA-ARCH).")] = None,
    init_weights: Annotated[
        Path | None, typer.Option(help="Pretrained weights to start from, a .safetensors file (default: none).")
    ] = None,
    pretrained: Annotated[
        bool, typer.Option(help="Start from timm's pretrained weights, which are downloaded, or from random weights.")
    ] = True,
    seed: Annotated[int, typer.Option(help="Random seed of initialization, batches and augmentation.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Resume an interrupted run.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Discard a model or an interrupted run of this name and start over.")
    ] = False,
    tensorboard: Annotated[Path | None, typer.Option(help="Folder for TensorBoard logs (default: none).")] = None,
    compiled: Annotated[bool, typer.Option("--compile", help="Compile the network with torch.compile.")] = False,
    device: DeviceOption = DeviceName.AUTO,
    precision: PrecisionOption = Precision.AUTO,
    epochs: Annotated[
        int | None,
        typer.Option(min=1, help="Maximum number of epochs (default: 12; 40 for cnn).", rich_help_panel=_OPTIMIZATION),
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Early stopping: epochs without a better validation kappa (default: 5; 12 for cnn).",
            rich_help_panel=_OPTIMIZATION,
        ),
    ] = None,
    batch_size: Annotated[
        int,
        typer.Option(min=2, help="Images per optimization step, of all processes.", rich_help_panel=_OPTIMIZATION),
    ] = 32,
    learning_rate: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            help="Maximum learning rate of AdamW, after warm-up (default: 5e-4; 3e-4 for vision transformers, 2e-3 for "
            "cnn).",
            rich_help_panel=_OPTIMIZATION,
        ),
    ] = None,
    layer_decay: Annotated[
        float | None,
        typer.Option(
            min=0.1,
            max=1.0,
            help="Layer-wise learning-rate decay factor (default: 0.75 for vision transformers, else 1).",
            rich_help_panel=_OPTIMIZATION,
        ),
    ] = None,
    ema_decay: Annotated[
        float,
        typer.Option(
            min=0.0,
            max=0.9999,
            help="Decay per step of the exponential moving average (EMA) of the weights; 0 for none.",
            rich_help_panel=_OPTIMIZATION,
        ),
    ] = 0.99,
    mixup: Annotated[
        float,
        typer.Option(
            min=0.0,
            max=1.0,
            help="Mixup of image pairs: parameter of the beta distribution; 0 for none.",
            rich_help_panel=_OPTIMIZATION,
        ),
    ] = 0.0,
    degrade: Annotated[
        bool,
        typer.Option(
            "--degrade",
            help="Augment with lower image quality: half of the images are shrunk, blurred, lit unevenly, veiled and "
            "compressed, and all get noise.",
            rich_help_panel=_OPTIMIZATION,
        ),
    ] = False,
    progressive: Annotated[
        bool,
        typer.Option(
            "--progressive",
            help="Progressive resizing: smaller images in the first epochs, which takes about two thirds of the time.",
            rich_help_panel=_OPTIMIZATION,
        ),
    ] = False,
    recipe: Annotated[
        Recipe,
        typer.Option(
            help="Defaults of the options below: this project's, or those of the reference study (softmax, inverse "
            "class frequencies, most probable grade, no calibration).",
            rich_help_panel=_OUTPUT,
        ),
    ] = Recipe.DEFAULT,
    head: Annotated[
        Head | None,
        typer.Option(
            help="Output head: class probabilities, a regression of severity, or cumulative (ordinal) probabilities "
            "(default: implied by --loss, else cumulative).",
            rich_help_panel=_OUTPUT,
        ),
    ] = None,
    loss: Annotated[
        Loss | None,
        typer.Option(
            help="Loss function: cross-entropy, cross-entropy with soft ordinal labels or with expected squared "
            "distance, smooth L1, or squared error (default: implied by --head, else cross-entropy).",
            rich_help_panel=_OUTPUT,
        ),
    ] = None,
    class_weights: Annotated[
        ClassWeights | None,
        typer.Option(
            help="Class weights in the loss: inverse frequency, its square root, or inverse effective number of "
            "samples (default: sqrt).",
            rich_help_panel=_OUTPUT,
        ),
    ] = None,
    decision: Annotated[
        Decision | None,
        typer.Option(
            help="Decision rule: the most probable grade, or thresholds of the expected grade, which raise kappa and "
            "lower accuracy a little (default: most-probable).",
            rich_help_panel=_OUTPUT,
        ),
    ] = None,
    decide_for: Annotated[
        DecideFor | None,
        typer.Option(
            help="What thresholds are fitted for: kappa, accuracy, macro F1 (rare grades count as much as common "
            "ones), or all three (balanced); implies `--decision thresholds` (default: balanced).",
            rich_help_panel=_OUTPUT,
        ),
    ] = None,
    calibrate: Annotated[
        bool | None,
        typer.Option(
            "--calibrate/--no-calibrate",
            help="Calibrate probabilities on half of the validation split; the other half gives prediction sets "
            "(default: calibrate).",
            rich_help_panel=_OUTPUT,
        ),
    ] = None,
    folds: Annotated[
        int | None,
        typer.Option(
            min=2,
            help="Cross-validate with this number of folds; the out-of-fold predictions are pooled "
            "(default: no cross-validation).",
            rich_help_panel=_FOLDS,
        ),
    ] = None,
    folds_by: Annotated[
        FoldsBy | None,
        typer.Option(
            help="What a fold holds out: a random group of photographs, or (source) one of several --data, which is "
            "graded by a network that was trained on the others (default: group).",
            rich_help_panel=_FOLDS,
        ),
    ] = None,
    fold: Annotated[
        str | None,
        typer.Option(
            help=f"Train only this fold, of --folds or {NUM_FOLDS}: its number, or with --folds-by source the name of "
            "the data set that it holds out (default: all).",
            rich_help_panel=_FOLDS,
        ),
    ] = None,
    tta: Annotated[
        bool,
        typer.Option(
            "--tta",
            help="Test-time augmentation of the out-of-fold predictions: average over mirror images.",
            rich_help_panel=_FOLDS,
        ),
    ] = False,
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
