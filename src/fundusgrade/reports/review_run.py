"""From graded photographs to the page of results to review on: rows and thumbnails are put together, and written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fundusgrade.grades import Prediction, Ungraded
from fundusgrade.grading.grader import OnLoaded
from fundusgrade.grading.patients import PatientRequest, patient_results
from fundusgrade.grading.reader import cell_text, read_cells
from fundusgrade.grading.rows import row_of
from fundusgrade.photographs.sources import PhotographSource
from fundusgrade.reports.review_entries import (
    ReviewEntry,
    ReviewPicture,
    ReviewRow,
    ReviewSample,
    identified,
    rows_of_patients,
    rows_of_photographs,
)
from fundusgrade.reports.review_page import ReviewContent, WrittenReview, link_to_photograph, write_review_page
from fundusgrade.reports.thumbnails import Thumbnails


@dataclass(frozen=True, slots=True, kw_only=True)
class ReviewRequest:
    """The page to write, whose patients it shows (None: a row for each photograph), and what is drawn to read again."""

    page: Path
    patients: PatientRequest | None = None
    sample: ReviewSample | None = None


class ReviewMaterial:
    """What a page needs of the photographs of a run: thumbnails, and the rows where they go to no file."""

    def __init__(self, photographs: Sequence[PhotographSource], request: ReviewRequest) -> None:
        self.photographs = photographs
        self.request = request
        self.thumbnails = Thumbnails(photographs)
        self._cells: list[dict[str, str]] = []

    def drawer(self, num_kept: int) -> OnLoaded:
        """What draws thumbnails while photographs are graded, without the first `num_kept`."""
        return lambda place, loaded: self.thumbnails.draw(num_kept + place, loaded)

    def add(self, result: Prediction | Ungraded) -> None:
        """Take the result of the next photograph."""
        self._cells.append({name: cell_text(value) for name, value in row_of(result, with_ranges=False).items()})

    def write(self, rows: Path | None, command: str, num_workers: int) -> WrittenReview:
        """Write the page from a finished file of rows, or from the results that were added where there is none.

        Raises DatasetError where a patient is not known, StoreError where a file cannot be read or written.
        """
        cells = self._cells if rows is None else list(read_cells(rows))
        entries = self._entries(cells, num_workers)
        content = ReviewContent(
            title=f"Grades of {len(entries)} photographs",
            entries=entries,
            rows=review_rows(entries, [each.name for each in self.photographs], self.request.patients),
            command=command,
            sample=self.request.sample,
        )
        return write_review_page(self.request.page, content)

    def _entries(self, cells: Iterable[Mapping[str, str]], num_workers: int) -> list[ReviewEntry]:
        names = [each.name for each in self.photographs]
        patients = self.request.patients
        identities = patients.identify(names).photographs if patients is not None else [None] * len(names)
        entries = []
        for source, of_source, identity, image in zip(
            self.photographs, cells, identities, self.thumbnails.all(num_workers), strict=True
        ):
            patient, eye = identified(of_source, identity)
            entries.append(
                ReviewEntry(
                    name=source.name,
                    results=(of_source,),
                    patient=patient,
                    eye=eye,
                    pictures=() if image is None else (ReviewPicture(image=image),),
                    photograph=link_to_photograph(source, self.request.page),
                )
            )
        return entries


def review_rows(
    entries: Sequence[ReviewEntry], names: Sequence[str], patients: PatientRequest | None
) -> list[ReviewRow]:
    """A row for each patient, or for each photograph where patients are not asked for. Raises DatasetError."""
    if patients is None:
        return rows_of_photographs(entries)
    return rows_of_patients(entries, patient_results([entry.results[0] for entry in entries], names, patients))
