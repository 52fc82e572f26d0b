"""The command `train`: one network, or the folds of a cross-validation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fundusgrade.commands.options import EXIT_INTERRUPTED
from fundusgrade.options import NUM_FOLDS, ClassWeights, Decision, DeviceName, Head, Loss, Precision, Recipe
from fundusgrade.terminal import console

if TYPE_CHECKING:
    from fundusgrade.training.runs import RunRequest


def train(
    arch: Annotated[
        str, typer.Option(help="cnn, resnet50, vit (ViT-B/16), a name of timm, hf-hub:..., local-dir:...")
    ] = "resnet50",
    data: Annotated[list[str] | None, typer.Option(help="Data set, by name or folder; several count alike.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the model; DATA-ARCH if not given.")] = None,
    device: Annotated[DeviceName, typer.Option(help="Where to compute.")] = DeviceName.AUTO,
    precision: Annotated[Precision, typer.Option(help="Number format of the network's arithmetic.")] = Precision.AUTO,
    recipe: Annotated[Recipe, typer.Option(help="Loss, weights and decision, where not named.")] = Recipe.DEFAULT,
    init_weights: Annotated[Path | None, typer.Option(help="Pretrained weights, a .safetensors file.")] = None,
    pretrained: Annotated[bool, typer.Option(help="Start from timm's pretrained weights.")] = True,
    epochs: Annotated[int | None, typer.Option(min=1, help="Epochs at most.")] = None,
    batch_size: Annotated[int, typer.Option(min=2, help="Photographs per step, of all processes.")] = 32,
    learning_rate: Annotated[float | None, typer.Option(min=0.0, help="Highest learning rate.")] = None,
    layer_decay: Annotated[float | None, typer.Option(min=0.1, max=1.0, help="Rate of a layer over the next.")] = None,
    head: Annotated[Head | None, typer.Option(help="What the last layer says; the loss's if not given.")] = None,
    loss: Annotated[Loss | None, typer.Option(help="What is minimized; the head's if not given.")] = None,
    class_weights: Annotated[ClassWeights | None, typer.Option(help="Weight of rare grades.")] = None,
    decision: Annotated[Decision | None, typer.Option(help="How probabilities become a grade.")] = None,
    calibrate: Annotated[
        bool | None, typer.Option("--calibrate/--no-calibrate", help="Fit confidence and thresholds on validation.")
    ] = None,
    mixup: Annotated[float, typer.Option(min=0.0, max=1.0, help="Mix pairs of photographs; 0 for none.")] = 0.0,
    degrade: Annotated[
        bool, typer.Option("--degrade", help="Half of the photographs smaller, softer, compressed.")
    ] = False,
    ema_decay: Annotated[float, typer.Option(min=0.0, max=0.9999, help="Memory of the weights' average.")] = 0.99,
    patience: Annotated[int | None, typer.Option(min=1, help="Epochs without a better kappa before stopping.")] = None,
    folds: Annotated[int | None, typer.Option(min=2, help="Train this many folds, each tested on the rest.")] = None,
    fold: Annotated[int | None, typer.Option(min=1, help="Train one fold only, of 5 if --folds is not given.")] = None,
    tta: Annotated[bool, typer.Option("--tta", help="Grade the folds' photographs mirrored too.")] = False,
    compiled: Annotated[bool, typer.Option("--compile", help="Compile the network first (torch.compile).")] = False,
    tensorboard: Annotated[Path | None, typer.Option(help="Folder of a log for TensorBoard.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run that was stopped.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a model or run of this name.")] = False,
) -> None:
    """Train a network, keep its best epoch by validation kappa, and install it in the store.

    Processes that torchrun starts with this command train it together.
    """
    from fundusgrade.training.options import TrainOptions
    from fundusgrade.training.runs import RunRequest

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
        decision=decision,
        calibrate=calibrate,
        mixup=mixup,
        degrade=degrade,
        ema_decay=ema_decay,
        patience=patience,
        fold=fold,
        num_folds=folds or NUM_FOLDS,
        seed=seed,
    )
    request = RunRequest(
        options=options, data=tuple(data or ()), name=name, resume=resume, overwrite=overwrite, compiled=compiled,
        events=tensorboard,
    )  # fmt: skip
    _train(request, device, precision, in_folds=folds is not None or fold is not None, tta=tta)


def _train(request: RunRequest, device: DeviceName, precision: Precision, *, in_folds: bool, tta: bool) -> None:
    """Train with the processes that torchrun started, if it did; the first of them speaks."""
    from fundusgrade.networks.device import choose_device
    from fundusgrade.training import cross_validation, distributed, runs

    with distributed.joined(choose_device(device, precision)) as process_group:
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
