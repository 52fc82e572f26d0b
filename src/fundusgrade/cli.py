"""The command line: each command parses, makes one or two calls of the library, and reports.

Nothing heavy is imported before a command runs, so that help answers at once. Results go to stdout or to files,
everything else to stderr. Exit codes: 0 all graded, 1 error, 2 usage, 3 finished with ungraded photographs.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from fundusgrade import __version__, explain_command, export_command, predict_command
from fundusgrade.decoding import in_words
from fundusgrade.errors import FundusgradeError
from fundusgrade.explain_command import EXIT_UNGRADED, wanted_models
from fundusgrade.grades import RESEARCH_USE
from fundusgrade.options import ClassWeights, Decision, DeviceName, Head, Loss, Precision, Recipe, Split
from fundusgrade.preprocess import MAX_SIZE_PX, MIN_SIZE_PX, Method, Outline, PreprocessRecipe
from fundusgrade.splits import NUM_FOLDS
from fundusgrade.terminal import command, console, counting, message, show, silence_stdout

if TYPE_CHECKING:
    from fundusgrade.assessment import Assessment
    from fundusgrade.audit import Audit, InterventionEffect
    from fundusgrade.dataset import PreparedDataset
    from fundusgrade.evaluating import Candidate
    from fundusgrade.grading import Grader
    from fundusgrade.runs import RunRequest
    from fundusgrade.shortcuts import ShortcutProbe

AUDIT_LIMIT = 300
EXIT_ERROR = 1
EXIT_INTERRUPTED = 130
_ERROR = "[bold red]Error:[/] "


class _ErrorBoundary(TyperGroup):
    """Turns the library's errors into one readable message and an exit code; nothing else does."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except FundusgradeError as error:
            message(str(error), lead=_ERROR)
            for note in getattr(error, "__notes__", ()):
                message(note)
            raise typer.Exit(EXIT_ERROR) from None
        except KeyboardInterrupt as error:
            for note in getattr(error, "__notes__", ()):
                message(note)
            message("Interrupted.")
            raise typer.Exit(EXIT_INTERRUPTED) from None
        except BrokenPipeError:
            silence_stdout()
            raise typer.Exit(EXIT_ERROR) from None
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
                raise
            silence_stdout()
            message(f"cannot write the results: {in_words(error)}; make room, or write elsewhere", lead=_ERROR)
            raise typer.Exit(EXIT_ERROR) from None


app = typer.Typer(
    cls=_ErrorBoundary,
    name="fundusgrade",
    help="Grade diabetic retinopathy in fundus photographs, and show what the grade rests on.",
    epilog=RESEARCH_USE,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def main() -> None:
    """Entry point of the console script."""
    app()


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"fundusgrade {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Options that come before the command."""


@app.command()
def preprocess(
    sources: Annotated[list[Path], typer.Argument(help="A labeled data set's folder, or photographs and folders.")],
    name: Annotated[str | None, typer.Option(help="Name in the store; the folder's name if not given.")] = None,
    method: Annotated[Method, typer.Option(help="How colors are treated.")] = Method.BEN_GRAHAM,
    outline: Annotated[Outline, typer.Option(help="What is kept: what all cameras show, or all.")] = Outline.BAND,
    size: Annotated[int, typer.Option(min=MIN_SIZE_PX, max=MAX_SIZE_PX, help="Side of the pictures, px.")] = 224,
    labels: Annotated[Path | None, typer.Option(help="The label file, where it is not recognized.")] = None,
    image_column: Annotated[str | None, typer.Option(help="Column of the photograph's name.")] = None,
    grade_column: Annotated[str | None, typer.Option(help="Column of the grade, 0-4.")] = None,
    patient_column: Annotated[str | None, typer.Option(help="Column of the patient; never split apart.")] = None,
    eye_column: Annotated[str | None, typer.Option(help="Column of the eye.")] = None,
    site_column: Annotated[str | None, typer.Option(help="Column of the clinic or camera.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the splits.")] = 0,
    workers: Annotated[int | None, typer.Option(min=1, help="Worker processes; one per core if not given.")] = None,
) -> None:
    """Make a ready data set: canonical pictures, leak-safe splits, a manifest. Goes on where it was stopped."""
    from fundusgrade import dataset as datasets
    from fundusgrade import store
    from fundusgrade.labels import find_samples, label_columns
    from fundusgrade.report import dataset_summary

    columns = label_columns(image_column, grade_column, patient_column, eye_column, site_column)
    found = find_samples(sources, labels=labels, columns=columns)
    with counting("preparing") as on_progress:
        prepared = datasets.prepare_dataset(
            found,
            name=name or store.name_from(sources[0].resolve().name, "dataset"),
            recipe=PreprocessRecipe(method=method, outline=outline, size_px=size),
            seed=seed,
            num_workers=workers,
            on_progress=on_progress,
        )
    typer.echo(dataset_summary(prepared))
    if any(row.error for row in prepared.rows):
        raise typer.Exit(EXIT_UNGRADED)


@app.command()
def train(
    arch: Annotated[
        str, typer.Option(help="cnn, resnet50, vit (ViT-B/16), a name of timm, hf-hub:..., local-dir:...")
    ] = "resnet50",
    data: Annotated[list[str] | None, typer.Option(help="Data set, by name or folder; several count alike.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the model; DATA-ARCH if not given.")] = None,
    device: Annotated[DeviceName, typer.Option(help="Where to compute.")] = DeviceName.AUTO,
    precision: Annotated[Precision, typer.Option(help="Number format of the network's arithmetic.")] = Precision.AUTO,
    recipe: Annotated[Recipe, typer.Option(help="Loss, weights and decision, where not named.")] = Recipe.OWN,
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
    from fundusgrade.runs import RunRequest
    from fundusgrade.training import TrainOptions

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


@app.command()
def evaluate(
    model: Annotated[list[str] | None, typer.Option(help="Model, by name or path; several stand side by side.")] = None,
    predictions: Annotated[
        list[str] | None, typer.Option(help="Predictions made before (`train --folds`), by name or path.")
    ] = None,
    data: Annotated[list[str] | None, typer.Option(help="Data set, by name or folder; several are joined.")] = None,
    split: Annotated[Split, typer.Option(help="Which photographs.")] = Split.TEST,
    common: Annotated[bool, typer.Option("--common", help="Only the photographs that all models graded.")] = False,
    by: Annotated[list[str] | None, typer.Option(help="Score subgroups too: quality, eye, site, ...")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for evaluation.json, confusion.png, predictions.")] = None,
    report: Annotated[Path | None, typer.Option(help="HTML file for the whole report.")] = None,
    pictures: Annotated[int, typer.Option(min=0, help="Worst errors of each model shown in the report.")] = 6,
    audit: Annotated[bool, typer.Option("--audit", help="Audit data and models too; see `fundusgrade audit`.")] = False,
    coverage: Annotated[float, typer.Option(min=0.5, max=0.99, help="How often sets hold the true grade.")] = 0.9,
    tta: Annotated[bool, typer.Option("--tta", help="Grade each photograph mirrored too.")] = False,
    allow_seen: Annotated[bool, typer.Option("--allow-seen", help="Score photographs of the training, too.")] = False,
    draws: Annotated[int, typer.Option(min=100, help="Draws of the bootstrap.")] = 1000,
    device: Annotated[DeviceName, typer.Option(help="Where to compute.")] = DeviceName.AUTO,
    precision: Annotated[Precision, typer.Option(help="Number format of the network's arithmetic.")] = Precision.AUTO,
) -> None:
    """Score models on the same photographs, with intervals, and compare them; write a report."""
    from fundusgrade import evaluating
    from fundusgrade.joining import open_dataset

    files = [evaluating.candidate_from_file(each, split.value) for each in predictions or ()]
    dataset = open_dataset(data or [file.predictions.data for file in files[:1]])
    wanted = wanted_models(model) if model or not files else []
    candidates = files + [
        evaluating.candidate_from_model(
            each, dataset, split.value, device=device, precision=precision, tta=tta, allow_seen=allow_seen
        )
        for each in wanted
    ]
    candidates = evaluating.only_common(candidates) if common else candidates
    found = evaluating.assess_candidates(
        candidates, dataset, part=split.value, columns=by or (), coverage=coverage, num_draws=draws
    )
    _show_assessment(found, candidates, out)
    audited = _audit_candidates(candidates, dataset, split, out) if audit else []
    if report is not None:
        _write_report(report, candidates, dataset, found, pictures, audited)


@app.command()
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
    from fundusgrade import report, store
    from fundusgrade.audit import Audit, conclusion
    from fundusgrade.dataset import load_dataset
    from fundusgrade.grading import Grader

    dataset = load_dataset(store.resolve_dataset(data))
    probes, name = _shortcuts(dataset), None
    effects: tuple[InterventionEffect, ...] = ()
    if model is not None:
        grader = Grader.load(model, device=device, precision=precision)
        name, effects = grader.name, _interventions(dataset, grader, split, limit, lesions)
    found = Audit(data=dataset.name, model=name, probes=probes, effects=effects)
    typer.echo(conclusion(found))
    if out is not None:
        report.write_audit(found, out)
        message(f"written: {out / 'audit.json'!s}, {out / 'audit.png'!s}")


predict = app.command()(predict_command.predict)
merge = app.command()(predict_command.merge)
explain = app.command()(explain_command.explain)
faithfulness = app.command()(explain_command.faithfulness)
export = app.command()(export_command.export)


@app.command("models")
def list_models() -> None:
    """List the models of the store and those that ship with the package."""
    from fundusgrade import report, store

    found = store.list_models()
    show(report.models_table(found, default=store.DEFAULT_MODEL))
    if not found:
        message("no model yet; train one with `fundusgrade train`")


@app.command("datasets")
def list_datasets() -> None:
    """List the prepared data sets of the store."""
    from fundusgrade import report, store

    found = store.list_datasets()
    show(report.datasets_table(found))
    if not found:
        message("no data set yet; make one with `fundusgrade preprocess FOLDER`")


def _shortcuts(dataset: PreparedDataset) -> tuple[ShortcutProbe, ...]:
    """Measure and show what gives the grade away."""
    from fundusgrade import report
    from fundusgrade.shortcuts import measure_shortcuts

    with counting("measuring") as on_progress:
        probes = measure_shortcuts(dataset, on_progress=on_progress)
    show(report.shortcuts_table(probes))
    return probes


def _interventions(
    dataset: PreparedDataset, grader: Grader, split: Split, limit: int, lesions: Path | None
) -> tuple[InterventionEffect, ...]:
    """Measure and show how a model minds changes of the photographs."""
    from fundusgrade import report
    from fundusgrade.interventions import measure_interventions, measure_lesions

    with counting("changing") as on_progress:
        effects = measure_interventions(grader, dataset, split.value, limit=limit, on_progress=on_progress)
    effects += measure_lesions(grader, lesions) if lesions is not None else ()
    show(report.interventions_table(effects, model=grader.name))
    return effects


def _show_assessment(found: Assessment, candidates: Sequence[Candidate], out: Path | None) -> None:
    """Files in `out`, tables on stdout, what each model has seen on stderr."""
    from fundusgrade import report

    # Files come first: whoever reads the tables may have enough and close the pipe.
    if out is not None:
        report.write_evaluation(found, [replace(each.predictions, seen=each.seen) for each in candidates], out)
    show(report.scores_table(found))
    show(report.evaluation_table(report.model_evaluations(found)))
    if found.comparisons:
        show(report.comparisons_table(found))
    for candidate in candidates:
        message(f"{candidate.predictions.model}: {candidate.seen}")
    if out is not None:
        message(f"written: {out / 'evaluation.json'!s}, {out / 'confusion.png'!s}, {out / 'predictions-MODEL.csv'!s}")


def _train(request: RunRequest, device: DeviceName, precision: Precision, *, in_folds: bool, tta: bool) -> None:
    """Train with the processes that torchrun started, if it did; the first of them speaks."""
    from fundusgrade import cross_validation, distributed, runs
    from fundusgrade.device import choose_device

    with distributed.joined(choose_device(device, precision)) as team:
        screen = console(quiet=not team.is_first)
        if in_folds:
            finished = cross_validation.cross_validate(
                request, device=device, precision=precision, console=screen, tta=tta
            )
        else:
            finished = runs.run_training(runs.plan_run(request), device=device, precision=precision, console=screen)
    if team.is_first:
        typer.echo(finished.summary)
    if finished.interrupted:
        raise typer.Exit(EXIT_INTERRUPTED)


def _audit_candidates(
    candidates: Sequence[Candidate], dataset: PreparedDataset, split: Split, out: Path | None
) -> list[Audit]:
    """Audit the data once, and each model that is at hand."""
    from fundusgrade import report
    from fundusgrade.audit import Audit, conclusion

    probes, audited = _shortcuts(dataset), []
    for candidate in candidates:
        name = candidate.predictions.model
        effects = _interventions(dataset, candidate.grader, split, AUDIT_LIMIT, None) if candidate.grader else ()
        audited.append(Audit(data=dataset.name, model=name if effects else None, probes=probes, effects=effects))
        if out is not None:
            report.write_audit(audited[-1], out / f"audit-{name}")
    typer.echo(conclusion(*audited))
    return audited


def _write_report(
    path: Path,
    candidates: Sequence[Candidate],
    dataset: PreparedDataset,
    found: Assessment,
    num_pictures: int,
    audited: Sequence[Audit],
) -> None:
    from fundusgrade import store
    from fundusgrade.describing import report_context
    from fundusgrade.html_report import report_html

    context = report_context(candidates, dataset, found, num_pictures=num_pictures, audits=audited, command=command())
    store.write_atomically(path, report_html(found, context))
    message(f"written: {path!s}")
