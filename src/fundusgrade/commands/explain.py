"""The command `explain`: heat maps on photographs."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fundusgrade.commands.exit_codes import EXIT_UNGRADED
from fundusgrade.commands.options.heat_maps import (
    MethodsOption,
    ScaleOption,
    TargetOption,
    explain_options,
    report_skipped,
    show_findings,
)
from fundusgrade.commands.options.network import (
    DeviceOption,
    ModelsOption,
    PrecisionOption,
    WorkersOption,
    load_graders,
)
from fundusgrade.commands.options.output import OverwriteOption
from fundusgrade.commands.options.panels import HEAT_MAPS, OUTPUT
from fundusgrade.commands.options.patients import PatientPatternOption, PatientsOption, patients_of_page
from fundusgrade.commands.options.photographs import find_photographs, input_files
from fundusgrade.commands.options.referral import CoverageOption, report_coverage
from fundusgrade.commands.settings import Settings
from fundusgrade.errors import StoreError
from fundusgrade.options import DeviceName, Precision
from fundusgrade.outputs import check_folder, check_outputs
from fundusgrade.store import CONFIG_FILE
from fundusgrade.terminal import command, message, progress

if TYPE_CHECKING:
    from fundusgrade.explanation.heat_map import ExplainOptions
    from fundusgrade.grading.grader import Grader
    from fundusgrade.photographs.sources import PhotographSource
    from fundusgrade.reports.explanation_files import FigureRequest
    from fundusgrade.reports.explanation_index import IndexEntry


def explain(
    photographs: Annotated[
        list[Path],
        typer.Argument(
            metavar="PHOTOGRAPHS", help="A photograph; or several, folders and .zip archives of photographs."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="Figure to write (.png, .jpg) for one photograph, or folder for several (default: named after the "
            "first).",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    model: ModelsOption = None,
    target: TargetOption = "auto",
    method: MethodsOption = None,
    scale: ScaleOption = None,
    masks: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Folder of lesion masks to outline: NAME_MA.png (microaneurysms), NAME_HE.png (hemorrhages), "
            "NAME_EX.png (hard exudates), NAME_SE.png (soft exudates) (default: none).",
            rich_help_panel=HEAT_MAPS,
        ),
    ] = None,
    faithfulness: Annotated[
        bool,
        typer.Option(
            "--faithfulness",
            help="Also test the heat maps; see `fundusgrade faithfulness`.",
            rich_help_panel=HEAT_MAPS,
        ),
    ] = False,
    arrays: Annotated[
        bool,
        typer.Option(
            "--arrays",
            help="Also save each heat map as an .npz file, at the photograph's full size.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    coverage: CoverageOption = None,
    patients: PatientsOption = None,
    patient_pattern: PatientPatternOption = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Keep the figures of an interrupted run of a folder and explain the remaining photographs.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    overwrite: OverwriteOption = False,
    workers: WorkersOption = None,
    device: DeviceOption = DeviceName.AUTO,
    precision: PrecisionOption = Precision.AUTO,
    *,
    settings: Settings,
) -> None:
    """Highlight the regions of a photograph that drove its grade: Grad-CAM, and an evidence map on a fixed scale.

    Several photographs are written to a folder with an index page; the exit code is 3 if one cannot be graded.
    """
    from fundusgrade.explanation.explainer import DEFAULT_METHODS, choose_methods
    from fundusgrade.reports.explanation_files import FigureRequest, figure_files, planned_files

    methods = explain_options(method or DEFAULT_METHODS, target)
    found = find_photographs(photographs)
    several = len(found) > 1 or found[0].member is not None or any(path.is_dir() for path in photographs)
    out = out or Path(
        f"{photographs[0].resolve().name}-explained" if several else f"{found[0].path.stem}-explained.png"
    )
    by_patients = patients_of_page(patients, patient_pattern, [each.name for each in found])
    read = input_files(found, masks, patients, models=model or ())
    _check_place(out, [*read, *photographs], several=several)
    _count_masks(masks, found)
    graders = load_graders(model, device, precision, coverage, as_predict=not faithfulness)
    for grader in graders:
        report_coverage(grader)
    methods, notes = choose_methods(graders, methods) if method is None else (methods, ())
    _check_models(graders, methods, faithfulness=faithfulness)
    request = FigureRequest(
        graders=graders, methods=methods, masks=masks, arrays=arrays, scale=scale, notes=notes,
        patients=by_patients,
    )  # fmt: skip
    planned = [*planned_files(found, request, out), out / CONFIG_FILE] if several else figure_files(request, out)
    is_resumed = _is_resumed(out, resume=resume, overwrite=overwrite)
    check_outputs(planned, inputs=read, overwrite=overwrite or is_resumed)
    if several:
        num_ungraded = _explain_several(found, request, out, workers, resume=is_resumed)
        settings.write(out)
    else:
        num_ungraded = _explain_one(found[0], request, out)
    if faithfulness:
        _test(found, request)
    if num_ungraded:
        raise typer.Exit(EXIT_UNGRADED)


def _count_masks(masks: Path | None, found: Sequence[PhotographSource]) -> None:
    """Say of how many photographs there are lesion masks. Raises DatasetError where there are none."""
    from fundusgrade.data.lesion_masks import check_masks

    if masks is not None:
        num_masked = check_masks([each.name for each in found], masks)
        message(f"lesion masks of {num_masked} of {len(found)} photographs in {masks}")


def _check_models(graders: Sequence[Grader], methods: Sequence[ExplainOptions], *, faithfulness: bool) -> None:
    """Raise ExplanationError where a method does not fit a model, or models to be tested cannot be compared."""
    from fundusgrade.explanation.explainer import check_comparable, check_fit

    check_fit(graders, methods)
    if faithfulness:
        check_comparable(graders)


def _is_resumed(out: Path, *, resume: bool, overwrite: bool) -> bool:
    """Whether figures of an earlier run are kept. Raises StoreError where it is not said what to do."""
    from fundusgrade.reports.explanation_pages import JOURNAL_FILE

    if overwrite or not (out / JOURNAL_FILE).is_file():
        return False
    if not resume:
        raise StoreError(
            f"{out} holds figures of an earlier run; add --resume to keep them, or --overwrite to replace them"
        )
    return True


def _check_place(out: Path, read: Sequence[Path | None], *, several: bool) -> None:
    """Refuse before models are loaded: a folder that is read, or one figure where several are made, and the reverse."""
    from fundusgrade.photographs.images import WRITTEN_SUFFIXES
    from fundusgrade.photographs.sources import IMAGE_SUFFIXES

    if not several:
        check_outputs([out], inputs=read, overwrite=True, suffixes=WRITTEN_SUFFIXES)
        return
    if out.suffix.lower() in (*IMAGE_SUFFIXES, ".gif"):
        raise StoreError(f"--out {out}: several photographs need a folder, not an image; name one, such as maps/")
    check_folder(out, read)


def _explain_one(found: PhotographSource, request: FigureRequest, figure: Path) -> int:
    """Returns 0, as `_explain_several`: a single photograph that cannot be explained is an error."""
    from fundusgrade.reports.explanation_files import write_figure
    from fundusgrade.reports.listings import prediction_line

    written = write_figure(found, request, figure)
    for prediction in written.predictions:
        typer.echo(prediction_line(prediction))
    for line in written.gap_lines:
        typer.echo(line)
    for path in written.paths:
        message(f"written: {path!s}")
    return 0


def _explain_several(
    found: Sequence[PhotographSource], request: FigureRequest, folder: Path, num_workers: int | None, *, resume: bool
) -> int:
    """Returns how many photographs could not be explained."""
    from fundusgrade.reports.explanation_pages import INDEX_FILE
    from fundusgrade.reports.explanation_run import kept_entries, write_figures

    if resume:
        message(f"resuming: {len(kept_entries(found, request, folder))} of {len(found)} photographs are explained")
    figures = write_figures(found, request, folder, command(), num_workers=num_workers, resume=resume)

    entries: list[IndexEntry] = []
    try:
        with (
            progress("explaining") as on_progress,
            closing(figures) as written,
        ):
            for entry in written:
                entries.append(entry)
                on_progress(len(entries), len(found))
    finally:  # an interrupted run reports what it has done
        _report(entries)
    message(f"written: {folder / INDEX_FILE!s}")
    return sum(entry.reason is not None for entry in entries)


def _report(entries: Sequence[IndexEntry]) -> None:
    for entry in entries:
        for line in entry.lines:
            typer.echo(line)
        if entry.reason is not None:
            message(f"not explained: {entry.reason}")


def _test(found: Sequence[PhotographSource], request: FigureRequest) -> None:
    from fundusgrade.evaluation.study import StudyOptions, study_photographs

    methods = tuple(request.methods)
    options = StudyOptions(target=methods[0].target, methods=methods)
    with progress("testing") as on_progress:
        show_findings(
            study_photographs(
                request.graders, found, request.masks, options, "photographs", on_progress, report_skipped
            )
        )
