"""Runs that write predictions, for tests of files, of resuming and of shards."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fundusgrade.grades import Prediction, Ungraded
from fundusgrade.grading.resume import ResumeRequest, RowProvenance
from fundusgrade.grading.rows import NEEDED_COLUMNS
from fundusgrade.grading.writer import PredictionWriter

ODD_NAMES = [
    "a.png",
    "a,b.png",
    'a"b.png',
    "a\nb.png",
    "=cmd|' /C calc'!A0",
    os.fsdecode(b"eye\xff.png"),
    "ä\u202e.png",
]


NAMES = [f"eye{number:02d}.png" for number in range(20)] + ODD_NAMES


PROVENANCE = RowProvenance(
    fundusgrade="1.2.3",
    model="m",
    description="0" * 64,
    device="cpu",
    runtime="PyTorch 2.8",
    precision="float32",
    batch_size=4,
    require_gradable=False,
    tta=False,
    coverage=None,
    referable_threshold=0.5,
)


def result_of(name: str, number: int = 0) -> Prediction | Ungraded:
    """A result that depends on the name and its number only; every fifth is ungraded."""
    if number % 5 == 4:
        return Ungraded(image=name, model="m", reason="truncated JPEG")
    p = np.random.default_rng(number).dirichlet(np.ones(5))
    return Prediction(
        image=name, model="m", probabilities=tuple(map(float, p)), quality_reasons=("dark",) * (number % 2)
    )


def request(
    names: Sequence[str] = NAMES, *, resume: bool = False, overwrite: bool = False, precision: str = "float32"
) -> ResumeRequest:
    provenance = dataclasses.replace(PROVENANCE, precision=precision)
    return ResumeRequest(names=names, provenance=provenance, resume=resume, overwrite=overwrite)


def write_all(path: Path, request: ResumeRequest, *, stop_after: int | None = None) -> PredictionWriter:
    """Write the missing rows; `stop_after` leaves the files as an interruption does."""
    with PredictionWriter(path, request=request) as writer:
        for number in range(writer.num_kept, len(request.names)):
            if number == stop_after:
                raise InterruptedError
            writer.write(result_of(request.names[number], number))
    return writer


def of_an_earlier_version(path: Path) -> None:
    """Take from a file of rows the columns that earlier versions did not write."""
    if path.name.removesuffix(".partial").endswith(".jsonl"):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        path.write_text("".join(json.dumps({name: row[name] for name in NEEDED_COLUMNS}) + "\n" for row in rows))
        return
    content = list(csv.DictReader(io.StringIO(path.read_text(), newline="")))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, NEEDED_COLUMNS, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(content)
