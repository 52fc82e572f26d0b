"""Pages of results to review, of drawn eyes and made-up results: small ones for tests, large ones for benchmarks."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from fundusgrade.grades import Prediction, Ungraded
from fundusgrade.grading.identities import Eye, Identity
from fundusgrade.grading.patients import graded_photograph, summarize_patients
from fundusgrade.grading.reader import cell_text
from fundusgrade.grading.rows import row_of
from fundusgrade.reports.review_entries import (
    ReviewEntry,
    ReviewPicture,
    ReviewSample,
    rows_of_patients,
    rows_of_photographs,
)
from fundusgrade.reports.review_page import ReviewContent
from fundusgrade.reports.thumbnails import draw_thumbnail
from tests.models_for_tests import drawn_photograph

HOSTILE_NAMES = (
    "</script><script>throw 1</script>.png",
    '=HYPERLINK("x").png',
    "+1.png",
    "-1.png",
    "@SUM(A1).png",
    "'=quoted.png",
    "two\nlines.png",
    "tab\tand;=semicolon.png",
    "\u202egnp.kcab.png",
    "eye \N{EYE} \"double\" & 'single' <b>.png",
    "back\\slash.png",
    "not utf-8 \udcff.png",
)


@functools.cache
def thumbnail(seed: int) -> bytes:
    """A drawn eye as a thumbnail."""
    return draw_thumbnail(drawn_photograph(seed, 200))


def cells(name: str, probability: float, **others: object) -> dict[str, str]:
    """The row of a photograph that is referable with this probability, from 0.3; grade 2 from 0.5."""
    rest = (1 - probability, 0.0, probability, 0.0, 0.0)
    prediction = Prediction(
        image=name, model="tiny", probabilities=rest, referable_threshold=0.3, model_hash="abc123def456", **others
    )  # type: ignore[arg-type]
    return as_cells(prediction)


def as_cells(result: Prediction | Ungraded) -> dict[str, str]:
    return {column: cell_text(value) for column, value in row_of(result, with_ranges=False).items()}


def entry(
    name: str,
    *results: Mapping[str, str],
    patient: str | None = None,
    eye: Eye = Eye.UNKNOWN,
    seed: int = 0,
    maps: Sequence[str] = (),
    photograph: str = "",
) -> ReviewEntry:
    pictures = [ReviewPicture(image=thumbnail(seed))]
    pictures += [ReviewPicture(image=thumbnail(seed + 1), label=label) for label in maps]
    return ReviewEntry(
        name=name, results=results, patient=patient, eye=eye, pictures=tuple(pictures), photograph=photograph
    )


def content(
    entries: Sequence[ReviewEntry], *, sample: ReviewSample | None = None, title: str = "Grades"
) -> ReviewContent:
    """The page of these photographs, a row for each patient where they have some."""
    by_patient = all(each.patient is not None for each in entries)
    rows = rows_of_photographs(entries)
    if by_patient:
        photographs = [
            graded_photograph(each.results[0], Identity(image=each.name, patient=each.patient or "", eye=each.eye))
            for each in entries
        ]
        rows = rows_of_patients(entries, summarize_patients(photographs))
    return ReviewContent(title=title, entries=entries, rows=rows, command="fundusgrade predict", sample=sample)


def patients(num_patients: int, *, folder: Path | None = None) -> list[ReviewEntry]:
    """Both eyes of each patient, with random results: some ungraded, of doubtful quality, or with a warning."""
    rng = np.random.default_rng(0)
    entries = []
    for number in range(num_patients):
        for eye in (Eye.LEFT, Eye.RIGHT):
            name = f"{folder or 'images'}/{number:04d}_{eye.value}.png"
            entries.append(
                entry(name, _random_cells(name, rng), patient=f"{number:04d}", eye=eye, seed=int(rng.integers(20)))
            )
    return entries


def _random_cells(name: str, rng: np.random.Generator) -> dict[str, str]:
    kind = rng.random()
    if kind < 0.02:
        return as_cells(Ungraded(image=name, model="tiny", reason="not an image", referable_threshold=0.3))
    probability = float(np.round(rng.beta(0.5, 1.5), 4))
    if kind < 0.1:
        return cells(name, probability, quality_reasons=("out of focus or veiled",))
    if kind < 0.2:
        return cells(name, probability, warnings=("near the operating point",))
    return cells(name, probability)
