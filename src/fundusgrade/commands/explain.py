"""The commands `explain` and `faithfulness`: heat maps, and tests of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fundusgrade.commands.options import EXIT_UNGRADED, wanted_models
from fundusgrade.errors import DatasetError, StoreError, UngradableError
from fundusgrade.options import DeviceName, Precision, Split
from fundusgrade.terminal import command, counting, message, show

if TYPE_CHECKING:
    from fundusgrade.evaluation.findings import Findings
    from fundusgrade.evaluation.study import StudyOptions
    from fundusgrade.explanation.explainer import Explanations
    from fundusgrade.explanation.heat_map import ExplainOptions
    from fundusgrade.grading.grader import Grader
    from fundusgrade.photographs.sources import FoundImage
    from fundusgrade.reports.explanation_pages import IndexEntry


# Figures show photographs at 1,200 px at most; whoever wants raw maps or has masks gets every pixel.
_SHOWN_PX = 1200

_METHODS = "auto (integrated), integrated, grad-cam, hirescam, grad-cam++, layercam, eigen-cam, rollout"
_MODEL = "Model, by name or path; several stand side by side."
_TARGET = "predicted, referable, expected, or a grade: 0-4 or its name."
_METHOD = f"{_METHODS}; @middle, @fine or @all behind the CAM family read other layers. Several make rows."
_MASKS = "Folder of lesion masks, NAME_MA.png, _HE, _EX, _SE."


def explain(
    photographs: Annotated[
        list[Path], typer.Argument(help="A photograph; several, folders and .zip archives become a folder.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="Figure (.png, .jpg), or folder for several; named after the input if not given."),
    ] = None,
    model: Annotated[list[str] | None, typer.Option(help=_MODEL)] = None,
    target: Annotated[str, typer.Option(help=_TARGET)] = "predicted",
    method: Annotated[list[str] | None, typer.Option(help=_METHOD)] = None,
    tiles: Annotated[int, typer.Option(min=1, max=8, help="See the picture n times as large, in parts.")] = 1,
    masks: Annotated[Path | None, typer.Option(help=f"{_MASKS} They are outlined.")] = None,
    arrays: Annotated[bool, typer.Option("--arrays", help="Save raw maps on the photograph's pixels, .npz.")] = False,
    score: Annotated[bool, typer.Option("--score", help="Test the maps, beside maps that know nothing.")] = False,
    device: Annotated[DeviceName, typer.Option(help="Where to compute.")] = DeviceName.AUTO,
    precision: Annotated[Precision, typer.Option(help="Number format of the network's arithmetic.")] = Precision.AUTO,
) -> None:
    """Show on photographs where the evidence for a grade lies, on a scale that does not exaggerate."""
    from fundusgrade.explanation.explainer import check_comparable, check_fit
    from fundusgrade.photographs.sources import IMAGE_SUFFIXES, find_images

    methods = _methods(method, target, tiles)
    found = find_images(photographs)
    if not found:
        raise DatasetError(f"no photographs in {', '.join(map(str, photographs))}")
    graders = _graders(model, device, precision)
    check_fit(graders, methods)
    if score:
        check_comparable(graders)
    several = len(found) > 1 or found[0].member is not None or any(path.is_dir() for path in photographs)
    if several:
        if out is not None and out.suffix.lower() in (*IMAGE_SUFFIXES, ".gif"):
            raise StoreError(f"--out {out}: several photographs need a folder, not a picture; name one, such as maps/")
        folder = out or Path(f"{photographs[0].resolve().name}-explained")
        num_ungraded = _explain_folder(found, graders, methods, folder, masks, arrays)
    else:
        num_ungraded = 0
        _explain_one(found[0], graders, methods, out, masks, arrays)
    if score:
        show_findings(_studied(found, graders, methods, masks))
    if num_ungraded:
        raise typer.Exit(EXIT_UNGRADED)


def faithfulness(
    data: Annotated[str | None, typer.Argument(help="Data set, by name or folder; none with --lesions alone.")] = None,
    model: Annotated[list[str] | None, typer.Option(help=_MODEL)] = None,
    target: Annotated[str, typer.Option(help=_TARGET)] = "predicted",
    method: Annotated[list[str] | None, typer.Option(help=f"{_METHOD} All that fit if not given.")] = None,
    split: Annotated[Split, typer.Option(help="Which photographs.")] = Split.TEST,
    fold: Annotated[
        int | None, typer.Option(min=1, help="The test split of this fold of 5, as `train` deals it.")
    ] = None,
    limit: Annotated[int, typer.Option(min=0, help="Photographs for all tests; concentration takes all.")] = 40,
    lesions: Annotated[Path | None, typer.Option(help="Folder with images/ and masks/ in IDRiD's layout.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for faithfulness.json and figures.")] = None,
    allow_leakage: Annotated[
        bool, typer.Option("--allow-leakage", help="Take photographs of the training, too.")
    ] = False,
    device: Annotated[DeviceName, typer.Option(help="Where to compute.")] = DeviceName.AUTO,
    precision: Annotated[Precision, typer.Option(help="Number format of the network's arithmetic.")] = Precision.AUTO,
) -> None:
    """Test explanations: do maps have to do with the network and the disease, or would any map do as well?"""
    from fundusgrade.data.lesion_masks import find_lesion_photographs
    from fundusgrade.evaluation.study import StudyOptions, study_lesions
    from fundusgrade.explanation.targets import parse_target
    from fundusgrade.reports.findings_tables import write_findings

    if data is None and lesions is None:
        raise DatasetError("nothing to test on: name a data set, or a folder with lesion masks by --lesions")
    methods = tuple(_methods(method, target, 1)) if method else ()
    options = StudyOptions(target=parse_target(target), methods=methods, limit=limit)
    if lesions is not None:
        find_lesion_photographs(lesions)  # a wrong folder is said now, not after an hour of other tests
    graders = _graders(model, device, precision)
    studies: list[Findings] = []
    if data is not None:
        studies.append(_studied_dataset(data, graders, split, fold, options, allow_leakage))
        show_findings(studies[-1])
    if lesions is not None:
        with counting("lesions") as on_progress:
            studies.append(study_lesions(graders, lesions, options, on_progress, _say_skipped))
        show_findings(studies[-1])
    if out is not None:
        message(f"written: {', '.join(map(str, write_findings(studies, out)))}")


def show_findings(findings: Findings) -> None:
    """All tables of a study, on stdout."""
    from fundusgrade.reports.findings_tables import findings_tables

    for table in findings_tables(findings):
        show(table)


def _methods(named: list[str] | None, target: str, tiles: int) -> list[ExplainOptions]:
    from fundusgrade.explanation.heat_map import ExplainOptions, parse_method
    from fundusgrade.explanation.targets import parse_target

    chosen = parse_target(target)
    parsed = [parse_method(each) for each in named or ["auto"]]
    return [ExplainOptions(target=chosen, method=method, layer=layer, tiles=tiles) for method, layer in parsed]


def _graders(named: list[str] | None, device: DeviceName, precision: Precision) -> list[Grader]:
    from fundusgrade.grading.grader import Grader

    return [Grader.load(each, device=device, precision=precision) for each in wanted_models(named)]


def _explain_one(
    found: FoundImage,
    graders: Sequence[Grader],
    methods: Sequence[ExplainOptions],
    out: Path | None,
    masks: Path | None,
    arrays: bool,
) -> None:
    from fundusgrade.reports.tables import prediction_line

    figure = out or Path(f"{found.path.stem}-explained.png")
    explained, written = _explain_into(figure, found, graders, methods, masks, arrays)
    for explanation in explained[0]:
        typer.echo(prediction_line(explanation.prediction))
    for file in (figure, *written):
        message(f"written: {file!s}")


def _explain_folder(
    found: Sequence[FoundImage],
    graders: Sequence[Grader],
    methods: Sequence[ExplainOptions],
    folder: Path,
    masks: Path | None,
    arrays: bool,
) -> int:
    """Explain all photographs into a folder with an index page; returns how many could not be graded."""
    from fundusgrade.files import make_folder, write_atomically
    from fundusgrade.reports.explanation_pages import INDEX_FILE, IndexEntry, entry_of, figure_names, index_html

    entries: list[IndexEntry] = []
    names = figure_names(found)
    try:
        with counting("explaining") as on_progress:
            for each, name in zip(found, names, strict=True):
                try:
                    make_folder((folder / name).parent)
                    explained, _ = _explain_into(folder / name, each, graders, methods, masks, arrays)
                    entries.append(entry_of(each.name, name, explained))
                except (UngradableError, DatasetError) as error:  # a mask that does not fit must not end the run either
                    entries.append(IndexEntry(name=each.name, reason=str(error)))
                on_progress(len(entries), len(found))
    finally:  # whoever stops halfway keeps what is done
        if folder.is_dir():
            title = f"Explanations of {len(entries)} photographs"
            write_atomically(folder / INDEX_FILE, index_html(entries, title=title, command=command()))
        _report_entries(entries)
    message(f"written: {folder / INDEX_FILE!s}")
    return sum(entry.reason is not None for entry in entries)


def _report_entries(entries: Sequence[IndexEntry]) -> None:
    for entry in entries:
        for line in entry.lines:
            typer.echo(line)
        if entry.reason is not None:
            message(f"not explained: {entry.reason}")


def _explain_into(
    figure: Path,
    found: FoundImage,
    graders: Sequence[Grader],
    methods: Sequence[ExplainOptions],
    masks: Path | None,
    arrays: bool,
) -> tuple[Explanations, list[Path]]:
    """Explain a photograph, draw its figure and, where wanted, write raw maps beside it; returns their paths."""
    from fundusgrade.explanation.explainer import explain_photograph
    from fundusgrade.reports.explanation_pages import draw_figure, write_arrays

    explained = explain_photograph(found, graders, methods, at_least_px=_size_needed(masks, arrays, graders, methods))
    draw_figure(explained, figure, masks)
    return explained, write_arrays(explained, figure.with_suffix("")) if arrays else []


def _size_needed(
    masks: Path | None, arrays: bool, graders: Sequence[Grader], methods: Sequence[ExplainOptions]
) -> int | None:
    """How many pixels a side are decoded: all for masks and arrays, else enough to show, and to fill tiles."""
    if arrays or masks is not None:
        return None
    largest = max(grader.recipe.size_px for grader in graders) * max(method.tiles for method in methods)
    from fundusgrade.photographs.loading import DECODING_MARGIN

    return max(_SHOWN_PX, math.ceil(DECODING_MARGIN * largest))


def _studied(
    found: Sequence[FoundImage], graders: Sequence[Grader], methods: Sequence[ExplainOptions], masks: Path | None
) -> Findings:
    from fundusgrade.evaluation.study import StudyOptions, study_photographs

    if methods[0].tiles > 1:
        message("tests are run on maps without --tiles")
    whole = tuple(replace(each, tiles=1) for each in methods)
    options = StudyOptions(target=methods[0].target, methods=whole)
    with counting("testing") as on_progress:
        return study_photographs(graders, found, masks, options, "photographs", on_progress, _say_skipped)


def _studied_dataset(
    data: str, graders: Sequence[Grader], split: Split, fold: int | None, options: StudyOptions, allow_leakage: bool
) -> Findings:
    from fundusgrade import store
    from fundusgrade.data.dataset import load_dataset
    from fundusgrade.evaluation.candidates import check_leakage
    from fundusgrade.evaluation.study import study_dataset

    dataset = load_dataset(store.resolve_dataset(data))
    dataset = dataset if fold is None else dataset.with_fold(fold)
    for grader in graders:
        leakage = check_leakage(grader, dataset, dataset.graded_rows(split.value), allow_leakage=allow_leakage)
        message(f"{grader.name}: {leakage}")
    with counting("testing") as on_progress:
        return study_dataset(graders, dataset, split.value, options, on_progress, _say_skipped)


def _say_skipped(reason: str) -> None:
    message(f"left out: {reason}")
