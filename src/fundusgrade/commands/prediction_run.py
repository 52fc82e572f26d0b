"""A run of `predict`: print what grades, write rows one by one or in parts, and print what was found."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from fundusgrade.commands.options.patients import report_patients
from fundusgrade.commands.options.referral import report_checks, report_coverage, report_operating_point
from fundusgrade.commands.options.review import report_review
from fundusgrade.commands.settings import Settings
from fundusgrade.grades import Prediction, Ungraded
from fundusgrade.terminal import detail, message, progress

if TYPE_CHECKING:
    from fundusgrade.grading.counts import RowCounts
    from fundusgrade.grading.engine import PartsOutcome, PartsRun
    from fundusgrade.grading.grader import Grader
    from fundusgrade.grading.patients import PatientRequest
    from fundusgrade.grading.writer import PredictionWriter
    from fundusgrade.photographs.sources import PhotographSource
    from fundusgrade.reports.review_run import ReviewMaterial


def announce(grader: Grader) -> None:
    """Print what grades, where, and from which probability it refers."""
    message(f"model {grader.name}")
    message(grader.arithmetic.describe())
    detail(grader.concurrency.describe())
    report_coverage(grader)
    report_operating_point(grader)
    report_checks(grader)


def grade_rows(
    out: Path | None,
    grader: Grader,
    found: Sequence[PhotographSource],
    settings: Settings,
    material: ReviewMaterial | None,
    *,
    resume: bool,
    overwrite: bool,
) -> PartsOutcome:
    """Grade photographs row by row into a file, or to standard output."""
    from fundusgrade.grading.engine import PartsOutcome
    from fundusgrade.grading.resume import ResumeRequest
    from fundusgrade.grading.writer import PredictionWriter

    names = [each.name for each in found]
    request = ResumeRequest(names=names, provenance=grader.provenance(), resume=resume, overwrite=overwrite)
    in_words = _begin_table(names) if _is_on_screen(out) else None
    with_ranges = grader.coverage is not None
    with PredictionWriter(out, with_ranges=with_ranges, request=request, in_words=in_words) as writer:
        scores = _write_rows(writer, grader, found, settings, material)
    file = out if writer.is_file else None
    return PartsOutcome(counts=writer.counts, file=file, was_finished=writer.was_finished, scores=scores)


def _write_rows(
    writer: PredictionWriter,
    grader: Grader,
    found: Sequence[PhotographSource],
    settings: Settings,
    material: ReviewMaterial | None,
) -> list[float]:
    """Grade the photographs that have no row yet; returns P(referable DR) of these for a model that tests for drift."""
    scores: list[float] = []
    tests_drift = grader.description.local_calibration is not None
    if writer.path is not None and writer.is_file:
        settings.write_beside(writer.path)
    if writer.num_kept and not writer.was_finished:
        message(f"resuming after {writer.num_kept} rows")
    with progress("grading", hidden=_is_on_screen(writer.path)) as on_progress:  # it would be mixed with the rows
        on_loaded = None if material is None else material.drawer(writer.num_kept)
        results = grader.grade_all(found[writer.num_kept :], on_loaded=on_loaded)
        for done, result in enumerate(results, start=writer.num_kept + 1):
            writer.write(result)
            if material is not None and not writer.is_file:
                material.add(result)
            on_progress(done, len(found))
            if tests_drift and isinstance(result, Prediction):
                scores.append(result.referable_probability)
    return scores


def _begin_table(names: Sequence[str]) -> Callable[[Prediction | Ungraded], str]:
    """Print the header of the table on a terminal; returns what turns results into its rows."""
    from fundusgrade.reports.prediction_table import PredictionTable

    table = PredictionTable(names, shutil.get_terminal_size().columns)
    typer.echo(table.header())
    return table.row


def _is_on_screen(path: Path | None) -> bool:
    """Whether rows without a file go to a terminal."""
    return path is None and sys.stdout.isatty()


def grade_parts(run: PartsRun, settings: Settings) -> PartsOutcome:
    """Grade in parts, with a progress bar, and write the settings beside the rows."""
    from fundusgrade.grading.engine import grade_in_parts

    def begin(what: str, num_kept: int) -> None:
        message(f"graded by {what}")
        if num_kept:
            message(f"resuming after {num_kept} rows")
        run.output.write_settings(settings.text())

    with progress("grading") as on_progress:
        outcome = grade_in_parts(run, begin, on_progress)
    if outcome.num_repeated:
        message(f"{outcome.num_repeated} parts were begun again, because their workers ended before they were finished")
    return outcome


def report_outcome(
    outcome: PartsOutcome,
    place: str,
    grader: Grader,
    found: Sequence[PhotographSource],
    by_patients: PatientRequest | None,
    material: ReviewMaterial | None,
) -> None:
    """Print what was found, and write the rows by patient and the page that are wanted of all rows."""
    _report_counts(outcome, place)
    if by_patients is not None and outcome.file is not None:
        report_patients(by_patients, outcome.file, [each.name for each in found])
    report_review(material, outcome.file, grader.concurrency.num_workers)
    _report_drift(grader, outcome.scores)


def _report_counts(outcome: PartsOutcome, place: str) -> None:
    """Print how many rows are where, how many photographs have each grade, and how many refer."""
    counts = outcome.counts
    in_words = f"{counts.num_graded} graded, {counts.num_ungraded} failed, {counts.num_doubtful} of doubtful quality"
    if outcome.was_finished:
        message(f"{place} is complete already ({in_words}); leave --resume out to grade again")
    else:
        message(f"wrote {counts.num_rows} rows to {place}: {in_words}")
    report_grades(counts)


def report_grades(counts: RowCounts, *, with_referral: bool = True) -> None:
    """Print how many photographs have each grade, and how many refer."""
    from fundusgrade.reports.listings import grades_line, referral_line

    message(grades_line(counts.num_per_grade))
    if not with_referral:
        return
    message(
        referral_line(
            num_referable=counts.num_referable,
            num_failed=counts.num_ungraded,
            num_doubtful=counts.num_ungradable - counts.num_ungraded,
            num_healthy=counts.num_rows - counts.num_referable - counts.num_ungradable,
        )
    )


def _report_drift(grader: Grader, scores: Sequence[float]) -> None:
    """Say whether the photographs of this run score like those of the clinic that the model was calibrated for."""
    from fundusgrade.metrics.drift import measure_drift
    from fundusgrade.reports.listings import drift_line

    calibration = grader.description.local_calibration
    if calibration is not None and scores:
        message(drift_line(calibration, measure_drift(scores, calibration.scores)))
