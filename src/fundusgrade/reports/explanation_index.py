"""The index page of a folder of explanations: the page of results to review on, with heat maps."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fundusgrade.explanation.explainer import Explanation, Explanations
from fundusgrade.grades import Prediction, Ungraded
from fundusgrade.grading.grader import Grader
from fundusgrade.grading.patients import PatientRequest
from fundusgrade.grading.reader import cell_text
from fundusgrade.grading.rows import row_of
from fundusgrade.options import ColorScale
from fundusgrade.photographs.sources import PhotographSource
from fundusgrade.reports.captions import describe_panel, method_name, visible_box
from fundusgrade.reports.overlay import blend
from fundusgrade.reports.review_entries import ReviewEntry, ReviewPicture, identified
from fundusgrade.reports.review_page import ReviewContent, quoted_path, write_review_page
from fundusgrade.reports.review_run import review_rows
from fundusgrade.reports.thumbnails import draw_thumbnail, read_thumbnail
from fundusgrade.text import one_line

_HOW_TO_READ = (
    "Colors of Grad-CAM run from 0 to the maximum of each map: compare places, not maps. Those of evidence maps are "
    "the same on all photographs. A map with nothing to show says so.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexEntry:
    """A photograph on the index page, as a line of the journal holds it.

    `figure` is a path relative to the page, "" where `reason` says why there is none. `rows` are the results of each
    model by column as text, `lines` the predictions and gaps in words. `labels` and `pictures` (JPEG in base64) are
    those of the page; `photograph` is the page's link to the file.
    """

    name: str
    figure: str = ""
    lines: tuple[str, ...] = ()
    reason: str | None = None
    rows: tuple[dict[str, str], ...] = ()
    labels: tuple[str, ...] = ()
    pictures: tuple[str, ...] = ()
    photograph: str = ""

    @property
    def link(self) -> str:
        """The path of the figure as a link of the page."""
        return quoted_path(self.figure)

    @property
    def gaps(self) -> tuple[str, ...]:
        """The lines on gaps without the photograph's name before them, for a page that gives it once."""
        return tuple(line.removeprefix(one_line(f"{self.name}: ")) for line in self.lines[len(self.rows) :])


def map_pictures(explained: Explanations, scale: ColorScale | None = None) -> tuple[ReviewPicture, ...]:
    """The photograph, and each of its heat maps, as small pictures; `scale` is the color scale of all maps."""
    first = explained[0][0]
    maps = (_map_picture(explanation, scale) for row in explained for explanation in row)
    return (ReviewPicture(image=draw_thumbnail(first.photograph[visible_box(first)])), *maps)


def _map_picture(explanation: Explanation, scale: ColorScale | None) -> ReviewPicture:
    box = visible_box(explanation)
    panel = describe_panel(explanation, box, scale or explanation.heat_map.scale.default)
    label = f"{method_name(explanation)}, {explanation.prediction.model}"
    return ReviewPicture(
        image=draw_thumbnail(blend(explanation.photograph[box], panel.heat, shown=panel.shown)),
        label=f"{label}: {' '.join(panel.message.split())}" if panel.message else label,
    )


def explained_entry(
    name: str,
    figure: str,
    predictions: Sequence[Prediction],
    lines: Sequence[str],
    pictures: Sequence[ReviewPicture] = (),
    photograph: str = "",
) -> IndexEntry:
    """The entry of an explained photograph."""
    return IndexEntry(
        name=name,
        figure=figure,
        lines=tuple(lines),
        rows=tuple(map(_cells, predictions)),
        labels=tuple(picture.label for picture in pictures),
        pictures=tuple(base64.b64encode(picture.image).decode() for picture in pictures),
        photograph=photograph,
    )


def failed_entry(source: PhotographSource, graders: Sequence[Grader], reason: str) -> IndexEntry:
    """The entry of a photograph that could not be explained; it is shown where it can be read."""
    failures = [grader.ungraded(source.name, reason) for grader in graders]
    thumbnail = read_thumbnail(source)
    return IndexEntry(
        name=source.name,
        reason=reason,
        rows=tuple(map(_cells, failures)),
        labels=() if thumbnail is None else ("",),
        pictures=() if thumbnail is None else (base64.b64encode(thumbnail).decode(),),
    )


def write_index(
    page: Path,
    entries: Sequence[IndexEntry],
    *,
    command: str,
    notes: Sequence[str] = (),
    patients: PatientRequest | None = None,
) -> None:
    """Write the page; `notes` are sentences about all photographs, such as the coverage of prediction sets."""
    names = [entry.name for entry in entries]
    identities = patients.identify(names).photographs if patients is not None else [None] * len(names)
    shown = []
    for entry, identity in zip(entries, identities, strict=True):
        patient, eye = identified(entry.rows[0], identity)
        shown.append(
            ReviewEntry(
                name=entry.name,
                results=entry.rows,
                patient=patient,
                eye=eye,
                pictures=tuple(
                    ReviewPicture(image=base64.b64decode(picture), label=label)
                    for picture, label in zip(entry.pictures, entry.labels, strict=True)
                ),
                photograph=entry.photograph,
                figure=entry.link,
                notes=entry.gaps,
            )
        )
    num_failed = sum(entry.reason is not None for entry in entries)
    content = ReviewContent(
        title=f"Explanations of {len(entries)} photographs",
        entries=shown,
        rows=review_rows(shown, names, patients),
        command=command,
        notes=(f"explained: {len(entries) - num_failed}; not explained: {num_failed}", *notes, *_HOW_TO_READ),
    )
    write_review_page(page, content)


def _cells(result: Prediction | Ungraded) -> dict[str, str]:
    return {name: cell_text(value) for name, value in row_of(result, with_ranges=False).items()}
