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


def test_predict_on_a_terminal_shows_lines_in_words_or_a_bar_but_not_both(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_model()
    save_photographs(workplace / "images", range(3))
    monkeypatch.setenv("TERM", "xterm")
    for words in (["predict", "images"], ["predict", "images", "--csv", "out.csv"]):
        screen = Screen()
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", screen.stream)
            patch.setattr(sys, "stderr", screen.stream)
            assert not app(words, standalone_mode=False)
        text = screen.text()
        assert ("\x1b[" in text) == ("--csv" in words)
        if "--csv" not in words:
            first, second, point, checks, *lines, wrote, referred = text.splitlines(keepends=True)
            assert (
                first.startswith("model tiny; ")
                and "photographs at a time" in second
                and point.startswith("tiny: referable from p = ")
                and checks.startswith("tiny: no feature checks")
                and wrote.startswith("wrote 3 rows to standard output: 3 graded, 0 failed")
                and referred.startswith("refer ")
            )
            assert len(lines) == 3
            for line in lines:
                assert re.match(
                    r"images/eye0\d\.png: grade [0-4] \w[\w ]+: most probable, p = 0\.\d\d; referable", line
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
