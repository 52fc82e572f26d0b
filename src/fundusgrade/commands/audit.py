"""The command `audit`: shortcut learning, and robustness to acquisition changes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fundusgrade.options import DeviceName, Precision, Split
from fundusgrade.terminal import counting, message, show

if TYPE_CHECKING:
    from fundusgrade.data.dataset import PreparedDataset
    from fundusgrade.evaluation.audit import InterventionEffect
    from fundusgrade.evaluation.shortcuts import ShortcutProbe
    from fundusgrade.grading.grader import Grader


AUDIT_LIMIT = 300


def audit(
    data: Annotated[str, typer.Argument(help="Data set, by name or folder.")],
    model: Annotated[str | None, typer.Option(help="Model to change photographs for, by name or path.")] = None,
    split: Annotated[Split, typer.Option(help="Photographs that are changed.")] = Split.TEST,
    limit: Annotated[int, typer.Option(min=1, help="Photographs that are changed at most.")] = AUDIT_LIMIT,
    lesions: Annotated[Path | None, typer.Option(help="Folder with images/ and masks/ in IDRiD's layout.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for audit.json and audit.png.")] = None,
    device: Annotated[DeviceName, typer.Option(help="Where to compute.")] = DeviceName.AUTO,
    precision: Annotated[Precision, typer.Option(help="Number format of the network's arithmetic.")] = Precision.AUTO,
) -> None:
    """Show what gives the grade away without any retina, and whether a model minds how a photograph was taken."""
    from fundusgrade import store
    from fundusgrade.data.dataset import load_dataset
    from fundusgrade.evaluation.audit import Audit, conclusion
    from fundusgrade.grading.grader import Grader
    from fundusgrade.reports import tables

    dataset = load_dataset(store.resolve_dataset(data))
    probes, name = show_shortcuts(dataset), None
    effects: tuple[InterventionEffect, ...] = ()
    if model is not None:
        grader = Grader.load(model, device=device, precision=precision)
        name, effects = grader.name, show_interventions(dataset, grader, split, limit, lesions)
    found = Audit(data=dataset.name, model=name, probes=probes, effects=effects)
    typer.echo(conclusion(found))
    if out is not None:
        tables.write_audit(found, out)
        message(f"written: {out / 'audit.json'!s}, {out / 'audit.png'!s}")


def show_shortcuts(dataset: PreparedDataset) -> tuple[ShortcutProbe, ...]:
    """Measure and show what gives the grade away."""
    from fundusgrade.evaluation.shortcuts import measure_shortcuts
    from fundusgrade.reports import tables

    with counting("measuring") as on_progress:
        probes = measure_shortcuts(dataset, on_progress=on_progress)
    show(tables.shortcuts_table(probes))
    return probes


def show_interventions(
    dataset: PreparedDataset, grader: Grader, split: Split, limit: int, lesions: Path | None
) -> tuple[InterventionEffect, ...]:
    """Measure and show how a model minds changes of the photographs."""
    from fundusgrade.evaluation.interventions import measure_interventions, measure_lesions
    from fundusgrade.reports import tables

    with counting("changing") as on_progress:
        effects = measure_interventions(grader, dataset, split.value, limit=limit, on_progress=on_progress)
    effects += measure_lesions(grader, lesions) if lesions is not None else ()
    show(tables.interventions_table(effects, model=grader.name))
    return effects
