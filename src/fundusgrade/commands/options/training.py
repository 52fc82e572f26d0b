"""Options of a training run: the network, its optimization, its loss and decision rule, and cross-validation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fundusgrade.commands.options.names import complete_architectures, complete_datasets
from fundusgrade.commands.options.panels import COMPUTING, DATA, FOLDS, LOSS, MODEL, OPTIMIZATION, OUTPUT, SEVERAL_RUNS
from fundusgrade.options import NUM_FOLDS, ClassWeights, FoldsBy, Head, Loss, Recipe

ArchOption = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="Architecture: cnn (small, from scratch), resnet50, vit (ViT-B/16), a model name of timm, "
        "hf-hub:OWNER/NAME, or local-dir:FOLDER.",
        autocompletion=complete_architectures,
        rich_help_panel=MODEL,
    ),
]
InitWeightsOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Pretrained weights to start from, a .safetensors file (default: none).",
        rich_help_panel=MODEL,
    ),
]
PretrainedOption = Annotated[
    bool,
    typer.Option(
        help="Start from timm's pretrained weights, which are downloaded, or from random weights.",
        rich_help_panel=MODEL,
    ),
]
SeedOption = Annotated[
    int,
    typer.Option(
        metavar="NUMBER", help="Random seed of initialization, batches and augmentation.", rich_help_panel=MODEL
    ),
]
DataOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME",
        help="Prepared data set, by name or folder; repeat to combine data sets with equal weight (default: the only "
        "one).",
        autocompletion=complete_datasets,
        rich_help_panel=DATA,
    ),
]
NameOption = Annotated[
    str | None, typer.Option(metavar="NAME", help="Name of the model (default: DATA-ARCH).", rich_help_panel=OUTPUT)
]
TensorboardOption = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER", help="Folder for TensorBoard logs (default: none).", rich_help_panel=OUTPUT),
]
ResumeOption = Annotated[
    bool, typer.Option("--resume", help="Resume an interrupted run.", rich_help_panel=SEVERAL_RUNS)
]
OverwriteOption = Annotated[
    bool,
    typer.Option(
        "--overwrite",
        help="Discard a model or an interrupted run of this name and start over.",
        rich_help_panel=SEVERAL_RUNS,
    ),
]
EpochsOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="NUMBER",
        help="Maximum number of epochs (default: 12; 40 for cnn).",
        rich_help_panel=OPTIMIZATION,
    ),
]
PatienceOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="NUMBER",
        help="Early stopping: epochs without a better validation kappa (default: 5; 12 for cnn).",
        rich_help_panel=OPTIMIZATION,
    ),
]
BatchSizeOption = Annotated[
    int,
    typer.Option(
        min=2, metavar="NUMBER", help="Images per optimization step, of all processes.", rich_help_panel=OPTIMIZATION
    ),
]
LearningRateOption = Annotated[
    float | None,
    typer.Option(
        min=0.0,
        metavar="RATE",
        help="Maximum learning rate of AdamW, after warm-up (default: 5e-4; 3e-4 for vision transformers, 2e-3 for "
        "cnn).",
        rich_help_panel=OPTIMIZATION,
    ),
]
LayerDecayOption = Annotated[
    float | None,
    typer.Option(
        min=0.1,
        max=1.0,
        metavar="FACTOR",
        help="Layer-wise learning-rate decay factor (default: 0.75 for vision transformers, else 1).",
        rich_help_panel=OPTIMIZATION,
    ),
]
EmaDecayOption = Annotated[
    float,
    typer.Option(
        min=0.0,
        max=0.9999,
        metavar="FACTOR",
        help="Decay per step of the exponential moving average (EMA) of the weights; 0 for none.",
        rich_help_panel=OPTIMIZATION,
    ),
]
MixupOption = Annotated[
    float,
    typer.Option(
        min=0.0,
        max=1.0,
        metavar="STRENGTH",
        help="Mixup of image pairs: parameter of the beta distribution; 0 for none.",
        rich_help_panel=OPTIMIZATION,
    ),
]
DegradeOption = Annotated[
    bool,
    typer.Option(
        "--degrade",
        help="Augment with lower image quality: half of the images are shrunk, blurred, lit unevenly, veiled and "
        "compressed, and all get noise.",
        rich_help_panel=OPTIMIZATION,
    ),
]
ProgressiveOption = Annotated[
    bool,
    typer.Option(
        "--progressive",
        help="Progressive resizing: smaller images in the first epochs, which takes about two thirds of the time.",
        rich_help_panel=OPTIMIZATION,
    ),
]
TeacherOption = Annotated[
    list[Path] | None,
    typer.Option(
        metavar="FILE",
        help="Distillation: learn, beside the grades, the probabilities that larger networks gave to the training "
        "photographs, a CSV file of `train --folds 3 --folds-by training`; repeat to average several (default: none).",
        rich_help_panel=OPTIMIZATION,
    ),
]
TeacherWeightOption = Annotated[
    float,
    typer.Option(
        min=0.01,
        max=1.0,
        metavar="FRACTION",
        help="Part of the teachers' probabilities in what is learned; the rest is the grade.",
        rich_help_panel=OPTIMIZATION,
    ),
]
RecipeOption = Annotated[
    Recipe,
    typer.Option(
        metavar="RECIPE",
        help="Defaults of the options below: this project's (default), or those of the reference study (reference: "
        "softmax, inverse class frequencies, most probable grade, no calibration).",
        rich_help_panel=LOSS,
    ),
]
HeadOption = Annotated[
    Head | None,
    typer.Option(
        metavar="HEAD",
        help="Output head: softmax (class probabilities), regression (of severity), or cumulative (ordinal "
        "probabilities) (default: implied by --loss, else cumulative).",
        rich_help_panel=LOSS,
    ),
]
LossOption = Annotated[
    Loss | None,
    typer.Option(
        metavar="LOSS",
        help="Loss function: cross-entropy, soft-labels (cross-entropy with soft ordinal labels), distance "
        "(cross-entropy with expected squared distance), smooth-l1, or squared (error) (default: implied by --head, "
        "else cross-entropy).",
        rich_help_panel=LOSS,
    ),
]
ClassWeightsOption = Annotated[
    ClassWeights | None,
    typer.Option(
        metavar="WEIGHTS",
        help="Class weights in the loss: inverse (frequency), sqrt (its square root), effective (inverse effective "
        "number of samples), or none (default: sqrt).",
        rich_help_panel=LOSS,
    ),
]
CalibrateOption = Annotated[
    bool | None,
    typer.Option(
        "--calibrate/--no-calibrate",
        help="Calibrate probabilities on half of the validation split; the other half gives prediction sets "
        "(default: calibrate).",
        rich_help_panel=LOSS,
    ),
]
FoldsOption = Annotated[
    int | None,
    typer.Option(
        min=2,
        metavar="NUMBER",
        help="Cross-validate with this number of folds; the out-of-fold predictions are pooled (default: no "
        "cross-validation).",
        rich_help_panel=FOLDS,
    ),
]
FoldsByOption = Annotated[
    FoldsBy | None,
    typer.Option(
        metavar="UNIT",
        help="What a fold holds out: a random group of photographs (group), one of the training split only "
        "(training), or one of several --data (source), which is graded by a network that was trained on the others "
        "(default: group).",
        rich_help_panel=FOLDS,
    ),
]
FoldOption = Annotated[
    str | None,
    typer.Option(
        metavar="FOLD",
        help=f"Train only this fold, of --folds or {NUM_FOLDS}: its number, or with --folds-by source the name of "
        "the data set that it holds out (default: all).",
        rich_help_panel=FOLDS,
    ),
]
TtaOption = Annotated[
    bool,
    typer.Option(
        "--tta",
        help="Test-time augmentation of the out-of-fold predictions: average over mirror images.",
        rich_help_panel=FOLDS,
    ),
]
CompiledOption = Annotated[
    bool, typer.Option("--compile", help="Compile the network with torch.compile.", rich_help_panel=COMPUTING)
]
