"""Commands run as a user runs them, and what they leave."""

from __future__ import annotations

import csv
import io
import os
import re
import shlex
from pathlib import Path

from typer.testing import CliRunner

from fundusgrade import store
from fundusgrade.commands.app import app

COLUMNS = [
    *("image", "grade", "label", "most_probable", "p0", "p1", "p2", "p3", "p4"),
    *("expected_grade", "referable_probability", "referable", "referable_threshold", "decided_by", "gradable"),
    *("gradability", "quality_reasons", "reject_probability", "training_distance", "warnings"),
    *("laterality", "camera", "model", "model_hash", "error"),
]
TRAIN = ["train", "--arch", "cnn", "--epochs", "1", "--batch-size", "8", "--device", "cpu", "--precision", "float32"]
"""The shortest training."""

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(store.__file__).resolve().parents[1]), "OMP_NUM_THREADS": "1"}
"""For processes that begin in another folder and must find the same sources."""


class Outcome:
    """What a command left: its exit code, and its two streams without colors; anything but an exit is raised."""

    def __init__(self, command: str | list[str]) -> None:
        words = shlex.split(command)[1:] if isinstance(command, str) else command
        result = CliRunner().invoke(app, words, env={"COLUMNS": "200", "NO_COLOR": "1"})
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        self.code = result.exit_code
        self.stdout = re.sub(r"\x1b\[[0-9;]*m", "", result.stdout)
        self.stderr = re.sub(r"\x1b\[[0-9;]*m", "", result.stderr)


def run(*words: str) -> tuple[int, str]:
    """A command's exit code and its messages on standard error."""
    outcome = Outcome(list(words))
    return outcome.code, outcome.stderr


def rows_of(text: str) -> list[dict[str, str]]:
    """The rows of a CSV of predictions; fails where anything but the CSV is in the text."""
    header, *rows = list(csv.reader(io.StringIO(text, newline="")))
    assert header == COLUMNS
    assert all(len(row) == len(COLUMNS) for row in rows), text
    return [dict(zip(header, row, strict=True)) for row in rows]


def visible_files(folder: Path) -> list[str]:
    """All files below a folder, as sorted paths relative to it."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
