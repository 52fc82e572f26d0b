"""The page of results to review on: one HTML file with its pictures, which loads nothing and opens from disk.

A page with more than `MAX_PAGE_BYTES` of pictures would be slow to open: they are then files of a folder beside it.
"""

from __future__ import annotations

import base64
import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from fundusgrade.files import hash_text, write_atomically
from fundusgrade.grades import Referral
from fundusgrade.outputs import check_outputs
from fundusgrade.photographs.sources import PhotographSource
from fundusgrade.reports.html.environment import read_asset, render
from fundusgrade.reports.prediction_table import shared_folder
from fundusgrade.reports.review_entries import (
    Json,
    ReviewEntry,
    ReviewRow,
    ReviewSample,
    draw_sample,
    entry_values,
    grade_names,
    row_values,
)
from fundusgrade.text import one_line, printable

WARNED_PAGE_BYTES = 20_000_000
"""A page beyond this opens noticeably slowly."""
MAX_PAGE_BYTES = 50_000_000
"""Beyond this many bytes of pictures in a page they are written into a folder beside it."""
_SCRIPTS = ("review_answers.js", "review_order.js", "review_rows.js", "review_controls.js")
# What browsers show; anything else is not linked.
_SHOWN_BY_BROWSERS = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".avif"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ReviewContent:
    """What a page shows: its photographs, a row for each or for each patient, and sentences about all of them."""

    title: str
    entries: Sequence[ReviewEntry]
    rows: Sequence[ReviewRow]
    command: str
    notes: Sequence[str] = ()
    sample: ReviewSample | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenReview:
    """The size of a written page, and the folder of its pictures; None where they are in the page."""

    num_bytes: int
    pictures: Path | None
    num_sampled: int
    """How many rows were drawn for a second reading."""


def pictures_folder(page: Path) -> Path:
    """The folder beside a page in which its pictures are where they are too many for the page."""
    return page.with_name(f"{page.stem}-pictures")


def check_review_outputs(page: Path, inputs: Iterable[Path | None], *, overwrite: bool) -> None:
    """Decide before anything is computed whether page and pictures may be written. Raises StoreError."""
    read = list(inputs)
    check_outputs([page], inputs=read, overwrite=overwrite, suffixes=(".html", ".htm"))
    check_outputs(present_pictures(page), inputs=read, overwrite=overwrite)


def present_pictures(page: Path) -> list[Path]:
    """What is there already where the pictures of a page may be written."""
    folder = pictures_folder(page)
    return sorted(folder.iterdir()) if folder.is_dir() else [folder] if os.path.lexists(folder) else []


def link_to_photograph(source: PhotographSource, page: Path) -> str:
    """The link of a page to a photograph's file; "" for one in an archive, or of a kind that browsers do not show."""
    if source.member is not None or source.frame is not None or source.path.suffix.lower() not in _SHOWN_BY_BROWSERS:
        return ""
    try:
        return quoted_path(Path(os.path.relpath(source.path.absolute(), page.absolute().parent)).as_posix())
    except ValueError:  # on another drive
        return source.path.absolute().as_uri()


def quoted_path(path: str) -> str:
    """A relative path as a link: only what would end the link, or make its beginning a scheme, is escaped."""
    quoted = printable(path)
    for character in "%#?\\:":
        quoted = quoted.replace(character, f"%{ord(character):02X}")
    return quoted


def write_review_page(page: Path, content: ReviewContent) -> WrittenReview:
    """Write the page, and the folder of its pictures where there are too many for it. Raises StoreError."""
    images = [[picture.image for picture in entry.pictures] for entry in content.entries]
    is_large = sum(len(image) for of_entry in images for image in of_entry) * 4 / 3 > MAX_PAGE_BYTES
    folder = pictures_folder(page) if is_large else None
    sources = (
        _embedded(images)
        if folder is None
        else [[f"{quoted_path(folder.name)}/{name}" for name in names] for names in _write_pictures(images, folder)]
    )
    sampled = _sampled(content)
    text = _page_html(content, sources, sampled, are_files=folder is not None)
    write_atomically(page, text)
    return WrittenReview(num_bytes=len(text.encode()), pictures=folder, num_sampled=len(sampled))


def review_html(content: ReviewContent) -> str:
    """The page with its pictures as text; the same content gives the same bytes."""
    images = [[picture.image for picture in entry.pictures] for entry in content.entries]
    return _page_html(content, _embedded(images), _sampled(content), are_files=False)


def _embedded(images: Sequence[Sequence[bytes]]) -> list[list[str]]:
    return [[base64.b64encode(image).decode() for image in of_entry] for of_entry in images]


def _write_pictures(images: Sequence[Sequence[bytes]], folder: Path) -> list[list[str]]:
    """Write pictures as files of the folder and return their names. Raises StoreError."""
    names = []
    for place, of_entry in enumerate(images):
        of_place = [f"{place:06d}-{number}.jpg" for number in range(len(of_entry))]
        for name, image in zip(of_place, of_entry, strict=True):
            write_atomically(folder / name, image)
        names.append(of_place)
    return names


def _sampled(content: ReviewContent) -> frozenset[str]:
    """The keys of the rows that are drawn, among those that are not to be referred."""
    if content.sample is None:
        return frozenset()
    names = _row_names(content)
    negative = [name for name, row in zip(names, content.rows, strict=True) if row.referable is Referral.NO]
    return draw_sample(negative, content.sample)


def _row_names(content: ReviewContent) -> list[str]:
    """What the draw knows a row by: the patient, or the photograph's name."""
    return [row.patient if row.patient is not None else content.entries[row.places[0]].name for row in content.rows]


def _page_html(
    content: ReviewContent, sources: Sequence[Sequence[str]], sampled: frozenset[str], *, are_files: bool
) -> str:
    are_sampled = [name in sampled for name in _row_names(content)]
    in_sample = {place for row, drawn in zip(content.rows, are_sampled, strict=True) if drawn for place in row.places}
    folder = shared_folder([entry.name for entry in content.entries])
    values: dict[str, Json] = {
        "photographs": [
            entry_values(entry, folder=folder, is_sampled=place in in_sample)
            for place, entry in enumerate(content.entries)
        ],
        "rows": [
            row_values(row, content.entries, folder=folder, is_sampled=drawn)
            for row, drawn in zip(content.rows, are_sampled, strict=True)
        ],
        "grades": grade_names(),
        "has_sample": content.sample is not None,
        "pictures_are_files": are_files,
    }
    values["key"] = _key(content)
    return render(
        "review.html",
        title=content.title,
        content=content,
        answers=Counter(row.referable.value for row in content.rows),
        by_patient=any(row.patient is not None for row in content.rows),
        folder=one_line(folder),
        models=_models(content.entries),
        num_sampled=len(sampled),
        has_maps=any(len(entry.pictures) > 1 for entry in content.entries),
        has_several_models=any(len(entry.results) > 1 for entry in content.entries),
        data=json_for_script(values),
        pictures=json_for_script(sources),
        scripts=[read_asset(name) for name in _SCRIPTS],
        review_style=read_asset("review.css"),
    )


def _key(content: ReviewContent) -> str:
    """What tells the grades that a browser keeps for this page from those of another: a hash of its rows of results."""
    results = [[printable(entry.name), *map(dict, entry.results)] for entry in content.entries]
    return hash_text(json.dumps(results, sort_keys=True))[:16]


def json_for_script(value: Json) -> Markup:
    """A value as JSON inside of a script element: in ASCII, and without a character that could end the element."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Model:
    """What the head of the page says of a model."""

    name: str
    hash: str
    threshold: float


def _models(entries: Sequence[ReviewEntry]) -> list[_Model]:
    """The models of all results, each once, in their order."""
    found = {
        (cells["model"], cells.get("model_hash", "")): float(cells["referable_threshold"])
        for entry in entries
        for cells in entry.results
    }
    return [_Model(name=one_line(name), hash=digest, threshold=value) for (name, digest), value in found.items()]
