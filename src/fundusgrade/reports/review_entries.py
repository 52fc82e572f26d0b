"""What a page of results to review shows of each photograph and patient, as values for the page's script."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fundusgrade.data.reviewed import review_cell
from fundusgrade.files import hash_text
from fundusgrade.grades import Gradability, Grade, Referral, stated_probability
from fundusgrade.grading.identities import Eye, Identity
from fundusgrade.grading.patients import PatientResult
from fundusgrade.reports.listings import referable_digits
from fundusgrade.text import one_line, printable

Json = str | int | float | bool | None | Sequence["Json"] | Mapping[str, "Json"]
"""A value as the page's script gets it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReviewPicture:
    """A small picture as JPEG, and what it shows: "" for the photograph, else a heat map's method and model."""

    image: bytes
    label: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReviewEntry:
    """A photograph of the page.

    `results` are the rows of each model, by column as text, the first model's first. `patient` is None where it is not
    known. `pictures` begin with the photograph; there are none of one that cannot be read. `photograph` and `figure`
    are links of the page to the file and to the figure of its explanation, "" where there are none; `notes` are
    sentences about it.
    """

    name: str
    results: tuple[Mapping[str, str], ...]
    patient: str | None = None
    eye: Eye = Eye.UNKNOWN
    pictures: tuple[ReviewPicture, ...] = ()
    photograph: str = ""
    figure: str = ""
    notes: tuple[str, ...] = ()

    @property
    def referable(self) -> Referral:
        """The answer of the first model."""
        return Referral(self.results[0]["referable"])


@dataclass(frozen=True, slots=True, kw_only=True)
class ReviewRow:
    """A row of the page: the positions of a patient's photographs, or that of one photograph, and the answer for it."""

    places: tuple[int, ...]
    referable: Referral
    patient: str | None = None
    reasons: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """What identifies the row in a list of rows."""
        return f"patient {self.patient}" if self.patient is not None else f"photograph {self.places[0]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReviewSample:
    """A share, 0 to 1, of the rows that are not to be referred, drawn by a seed for a second reading."""

    share: float
    seed: int


def rows_of_patients(entries: Sequence[ReviewEntry], patients: Sequence[PatientResult]) -> list[ReviewRow]:
    """A row for each patient, also for one who is listed but has no photograph."""
    places: dict[str | None, list[int]] = {}
    for place, entry in enumerate(entries):
        places.setdefault(entry.patient, []).append(place)
    return [
        ReviewRow(
            places=tuple(places.get(each.patient, ())),
            referable=each.referable,
            patient=each.patient,
            reasons=each.reasons,
        )
        for each in patients
    ]


def rows_of_photographs(entries: Sequence[ReviewEntry]) -> list[ReviewRow]:
    """A row for each photograph, where patients are not known."""
    return [ReviewRow(places=(place,), referable=entry.referable) for place, entry in enumerate(entries)]


def draw_sample(names: Sequence[str], sample: ReviewSample) -> frozenset[str]:
    """The drawn share of some names, rounded up: those of the smallest hashes of seed and name.

    So the draw is the same on every machine, and does not depend on the names' order.
    """
    number = math.ceil(round(sample.share * len(names), 9))
    return frozenset(sorted(names, key=lambda name: hash_text(f"{sample.seed} {printable(name)}"))[:number])


def identified(cells: Mapping[str, str], identity: Identity | None) -> tuple[str | None, Eye]:
    """Patient and eye of a photograph; the eye of a DICOM file counts where nothing else names it."""
    stated = {"R": Eye.RIGHT, "L": Eye.LEFT}.get(cells.get("laterality", ""), Eye.UNKNOWN)
    if identity is None:
        return None, stated
    return identity.patient, identity.eye or stated


def entry_values(entry: ReviewEntry, *, folder: str, is_sampled: bool) -> dict[str, Json]:
    """A photograph for the page's script, named below `folder`: what is shown, and its cells of `reviewed.csv`."""
    first = entry.results[0]
    return {
        "name": one_line(entry.name.removeprefix(folder)),
        "eye": entry.eye.value,
        "photograph": entry.photograph,
        "figure": entry.figure,
        "notes": [one_line(note) for note in entry.notes],
        "sampled": is_sampled,
        "labels": [one_line(picture.label) for picture in entry.pictures],
        "models": [_result_values(cells) for cells in entry.results],
        "before": [review_cell(printable(text)) for text in (entry.name, entry.patient or "", entry.eye.value)],
        "after": [
            review_cell(first.get(column, ""))
            for column in ("model", "model_hash", "grade", "referable_probability", "referable")
        ],
    }


def row_values(row: ReviewRow, entries: Sequence[ReviewEntry], *, folder: str, is_sampled: bool) -> dict[str, Json]:
    """A row for the page's script: positions of photographs by eye, and the answer; names are those below `folder`."""
    of_eye = {eye: [place for place in row.places if entries[place].eye is eye] for eye in Eye}
    return {
        "patient": None if row.patient is None else one_line(row.patient),
        "referable": row.referable.value,
        "reasons": [one_line(reason.replace(folder, "") if folder else reason) for reason in row.reasons],
        "sampled": is_sampled,
        "right": of_eye[Eye.RIGHT],
        "left": of_eye[Eye.LEFT],
        "unknown": of_eye[Eye.UNKNOWN],
    }


def _result_values(cells: Mapping[str, str]) -> dict[str, Json]:
    """The row of one model; numbers are None where the photograph has no grade."""
    probability, threshold = _number(cells.get("referable_probability")), float(cells["referable_threshold"])
    reasons = [reason for reason in cells["quality_reasons"].split("; ") if reason]
    warnings = [warning for warning in cells.get("warnings", "").split("; ") if warning]
    gradability = cells.get("gradability") or (Gradability.GRADABLE if cells["gradable"] == "yes" else "")
    is_flagged = bool(warnings) or gradability != Gradability.GRADABLE
    digits = 2 if probability is None else referable_digits(probability, threshold)
    return {
        "model": one_line(cells["model"]),
        "grade": int(cells["grade"]) if cells["grade"] else None,
        "referable": cells["referable"],
        "p": probability,
        "stated": None
        if probability is None
        else stated_probability(probability, is_flagged=is_flagged, digits=digits).removeprefix("= "),
        "threshold": threshold,
        "from": f"{threshold:.{digits}f}",
        "decided": one_line(cells.get("decided_by", "")),
        "quality": reasons,
        "warnings": warnings,
        "borderline": gradability == Gradability.BORDERLINE,
        "reject": _number(cells.get("reject_probability")),
        "error": one_line(cells["error"]),
    }


def _number(text: str | None) -> float | None:
    return float(text) if text else None


def grade_names() -> list[Json]:
    """The names of the grades 0 to 4."""
    return [grade.label for grade in Grade]
