"""`predict` on a terminal: lines in words, which the progress bar is not mixed with."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from rich.progress import Progress

from fundusgrade.commands.app import app
from fundusgrade.grades import Prediction, Ungraded
from fundusgrade.reports.prediction_table import PredictionTable
from fundusgrade.terminal import ProgressLog
from tests.command_line import rows_of
from tests.models_for_tests import install_model, save_photographs


class Screen:
    """A terminal of which one can read what was written to it."""

    def __init__(self) -> None:
        self.master, slave = os.openpty()
        self.stream = open(slave, "w", encoding="utf-8")  # noqa: SIM115, PTH123  (closed in `text`)
        self.content = b""
        self.reader = threading.Thread(target=self.read)
        self.reader.start()

    def read(self) -> None:
        with contextlib.suppress(OSError):  # how Linux says that the other end is closed
            while part := os.read(self.master, 4096):
                self.content += part

    def text(self) -> str:
        self.stream.close()
        self.reader.join()
        os.close(self.master)
        return self.content.decode().replace("\r\n", "\n")


def shown_by(words: list[str], monkeypatch: pytest.MonkeyPatch) -> str:
    """What a command prints on a terminal of 80 columns."""
    screen = Screen()
    with monkeypatch.context() as patch:
        patch.setenv("COLUMNS", "80")
        patch.setattr(sys, "stdout", screen.stream)
        patch.setattr(sys, "stderr", screen.stream)
        try:
            app(words, standalone_mode=False)
        finally:  # its thread would wait for ever
            text = screen.text()
    return text


def test_predict_on_a_terminal_shows_a_table_or_a_bar_but_not_both(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_model()
    save_photographs(workplace / "images", range(3))
    (workplace / "images" / "x-broken.png").write_bytes(b"text")
    monkeypatch.setenv("TERM", "xterm")
    text = shown_by(["predict", "images"], monkeypatch)
    assert "\x1b[" not in text
    model, device, point, checks, folder, header, line, *rows, wrote, grades, referred = text.splitlines()
    assert (model, folder) == ("model tiny", f"photographs in images{os.sep}")
    assert point == "tiny: referable from p = 0.5000; what that finds is not known"
    assert checks.startswith("tiny: no feature checks")
    assert header.split() == ["photograph", "grade", "referable", "p", "notes"]
    assert set(line) == {"-"}
    for number, row in enumerate(rows[:3]):
        assert re.match(rf"eye0{number}\.png +[0-4] (No DR|[A-Z][a-z]+) +(yes|no|ungradable) +[<>]? ?0\.\d\d", row)
    assert re.match(r"x-broken\.png +- +ungradable +- +not graded: not an image", rows[3])
    assert wrote.startswith("wrote 4 rows to standard output: 3 graded, 1 failed")
    assert grades.startswith("grades: No DR ") and sum(map(int, re.findall(r" (\d+)", grades))) == 3
    assert referred.startswith("refer ")
    assert max(len(row) for row in [device, header, *rows, wrote, grades, referred]) <= 80
    assert "\x1b[" in shown_by(["predict", "images", "--csv", "out.csv"], monkeypatch)


def test_names_in_the_table_are_wrapped_and_never_cut() -> None:
    names = [f"photographs/{'n' * 70}.png", "photographs/b.png"]
    table = PredictionTable(names, 80)
    prediction = Prediction(image=names[0], model="m", probabilities=(0.1, 0.2, 0.5, 0.1, 0.1), warnings=("w " * 30,))
    lines = table.row(prediction).splitlines()
    assert max(map(len, lines)) <= 80
    width = lines[0].index("2 Moderate")
    assert "".join(line[:width].strip() for line in lines) == f"{'n' * 70}.png"
    assert table.row(Ungraded(image=names[1], model="m", reason="empty; expected a photograph")).endswith(
        "graded: empty"
    )


def test_rows_flow_past_a_bar(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`fundusgrade predict images > out.csv`, where only messages go to the terminal: each row is out at once."""
    install_model()
    save_photographs(workplace / "images", range(3))
    monkeypatch.setenv("TERM", "xterm")
    counts = []
    advance = Progress.update

    def count_rows(self: Progress, *arguments: Any, **named: Any) -> None:
        counts.append((workplace / "out.csv").read_bytes().count(b"\n"))
        advance(self, *arguments, **named)

    monkeypatch.setattr(Progress, "update", count_rows)
    screen = Screen()
    with (workplace / "out.csv").open("w") as stdout, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stdout)
        patch.setattr(sys, "stderr", screen.stream)
        assert not app(["predict", "images"], standalone_mode=False)
    assert "\x1b[" in screen.text()
    assert counts == [2, 3, 4]
    assert len(rows_of((workplace / "out.csv").read_text())) == 3


def test_in_a_log_file_a_line_every_half_minute_says_done_total_rate_and_time_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seconds = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: seconds[0])
    log = ProgressLog("grading")
    lines = []
    for done in range(201, 401):  # resumed after 200: only what this run did counts for the rate
        seconds[0] += 0.5
        lines.append(log.line(done, 400))
    assert [line for line in lines if line] == [
        "grading: 260 of 400 photographs, 2.0/s, 0:01:10 left",
        "grading: 320 of 400 photographs, 2.0/s, 0:00:40 left",
        "grading: 380 of 400 photographs, 2.0/s, 0:00:10 left",
    ]
