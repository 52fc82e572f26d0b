"""Options of the model and of the device that computes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from fundusgrade.commands.options.names import complete_models
from fundusgrade.commands.options.panels import COMPUTING, GRADING, MODEL
from fundusgrade.options import DeviceName, Precision, RuntimeName

if TYPE_CHECKING:
    from fundusgrade.grading.grader import Grader

DeviceOption = Annotated[
    DeviceName,
    typer.Option(
        "--device",
        metavar="DEVICE",
        help="Where to compute: auto (a GPU if PyTorch can use one), cpu, cuda or mps.",
        rich_help_panel=COMPUTING,
    ),
]
PrecisionOption = Annotated[
    Precision,
    typer.Option(
        "--precision",
        metavar="FORMAT",
        help="Floating-point format of the network: auto (16 bits where that is fast), float32, bfloat16 or float16.",
        rich_help_panel=COMPUTING,
    ),
]
RuntimeOption = Annotated[
    RuntimeName,
    typer.Option(
        "--runtime",
        metavar="NAME",
        help="What computes the network: auto (on a CPU the fastest that is installed), pytorch, openvino or "
        "onnxruntime.",
        rich_help_panel=COMPUTING,
    ),
]
ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="NAME",
        help="Model, by name or path, also of an exported graph (.onnx, .xml) (default: the shipped model).",
        autocompletion=complete_models,
        rich_help_panel=MODEL,
    ),
]
ModelsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        metavar="NAME",
        help="Model, by name or path; repeat to compare several (default: the shipped model).",
        autocompletion=complete_models,
        rich_help_panel=MODEL,
    ),
]
TtaOption = Annotated[
    bool,
    typer.Option(
        "--tta",
        help="Test-time augmentation: average the outputs for an image and its mirror images.",
        rich_help_panel=GRADING,
    ),
]
BatchSizeOption = Annotated[
    int | None,
    typer.Option(
        "--batch-size",
        min=1,
        metavar="NUMBER",
        help="Photographs that go through the network at once (default: chosen for the device).",
        rich_help_panel=COMPUTING,
    ),
]
WorkersOption = Annotated[
    int | None,
    typer.Option(
        "--workers",
        min=1,
        metavar="NUMBER",
        help="Number of worker threads (default: one per core, at most 32).",
        rich_help_panel=COMPUTING,
    ),
]


def chosen_models(named: Sequence[str] | None) -> Sequence[str | None]:
    """The models of `ModelsOption`; [None], the shipped one, where none is named."""
    return named or [None]


def load_graders(
    named: Sequence[str] | None,
    device: DeviceName,
    precision: Precision,
    coverage: float | None = None,
    *,
    as_predict: bool = False,
) -> list[Grader]:
    """A grader for each model of `ModelsOption`: in PyTorch, or in the runtime that predict takes if `as_predict`.

    Raises as `Grader.load`.
    """
    load: Callable[..., Grader]
    if as_predict:
        from fundusgrade.grading.grader import Grader

        load = Grader.load
    else:
        from fundusgrade.grading.datasets import load_for_figures

        load = load_for_figures
    return [load(name, device=device, precision=precision, coverage=coverage) for name in chosen_models(named)]
