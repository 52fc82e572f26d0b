"""`predict` interrupted, resumed, and split into shards that `merge` puts together."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fundusgrade.grades import Grade
from fundusgrade.grading.grader import Grader
from tests.command_line import COLUMNS, Outcome, rows_of
from tests.models_for_tests import install_model, save_photographs


def interrupted_after(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    grade_all = Grader.grade_all

    def stop(self: Grader, photographs: object, **options: object) -> Iterator[object]:
        results = grade_all(self, photographs, **options)  # type: ignore[arg-type]
        for _ in range(count):
            yield next(results)
        raise KeyboardInterrupt

    monkeypatch.setattr(Grader, "grade_all", stop)


def test_interrupted_predict_says_where_its_rows_are(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_model()
    save_photographs(workplace / "images", range(4))
    interrupted_after(2, monkeypatch)
    outcome = Outcome("fundusgrade predict images --csv out.csv")
    assert outcome.code == 130
    assert "The rows written so far (2) are in out.csv.partial." in outcome.stderr
    assert "Interrupted." in outcome.stderr
    assert len(rows_of((workplace / "out.csv.partial").read_text())) == 2
    assert not (workplace / "out.csv").exists()
    to_stdout = Outcome("fundusgrade predict images")
    assert (to_stdout.code, len(rows_of(to_stdout.stdout))) == (130, 2)


def test_an_interrupted_run_is_resumed_to_the_same_file(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_model()
    save_photographs(workplace / "images", range(12))
    assert Outcome("fundusgrade predict images --csv whole.csv").code == 0
    with monkeypatch.context() as patch:
        interrupted_after(10, patch)
        assert Outcome("fundusgrade predict images --csv out.csv").code == 130
    again = Outcome("fundusgrade predict images --csv out.csv")
    assert (again.code, "resume it with --resume, or discard it with --overwrite" in again.stderr) == (1, True)
    resumed = Outcome("fundusgrade predict images --csv out.csv --resume")
    assert (resumed.code, "resuming after 8 rows" in resumed.stderr) == (0, True)
    assert "wrote 12 rows to out.csv: 12 graded, 0 failed" in resumed.stderr
    assert (workplace / "out.csv").read_bytes() == (workplace / "whole.csv").read_bytes()
    finished = Outcome("fundusgrade predict images --csv out.csv --resume")
    assert (finished.code, "out.csv is complete already (12 graded, 0 failed" in finished.stderr) == (0, True)
    assert Outcome("fundusgrade predict images --resume").code == 2


def test_shards_are_graded_by_several_processes_and_merged(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_model()
    paths = save_photographs(workplace / "images", range(7))
    (workplace / "images" / "broken.png").write_bytes(b"no picture")
    (workplace / "list.txt").write_text(
        "\ufeff" + "\r\n".join(f"images/{path.name}" for path in paths) + "\nimages/broken.png\n\n"
    )
    assert Outcome("fundusgrade predict --list list.txt --csv whole.csv").code == 3
    assert Outcome("fundusgrade predict --list list.txt --csv out.csv --shard 1/3").code == 0
    assert Outcome("fundusgrade merge --list list.txt --csv out.csv").code == 1
    assert Outcome("fundusgrade predict --list list.txt --csv out.csv --shard 2/3").code == 3
    assert Outcome("fundusgrade predict --list list.txt --csv out.csv --shard 3/3").code == 0
    with monkeypatch.context() as patched:
        for name, value in {"RANK": "2", "WORLD_SIZE": "3", "TORCHELASTIC_RUN_ID": "none"}.items():
            patched.setenv(name, value)
        launched = Outcome("fundusgrade predict --list list.txt --csv out.csv")
    assert launched.code == 2 and "use --engine ray, or --shard i/n" in launched.stderr
    merged = Outcome("fundusgrade merge --list list.txt --csv out.csv")
    wrote, grades, referred = merged.stderr.splitlines()
    assert (merged.code, wrote) == (3, "wrote 8 rows to out.csv: 7 graded, 1 failed")
    written = rows_of((workplace / "whole.csv").read_text())
    assert grades == "grades: " + ", ".join(
        f"{grade.label} {sum(row['grade'] == str(int(grade)) for row in written)}" for grade in Grade
    )
    num_healthy = sum(row["referable"] == "no" for row in written)
    assert referred.startswith(f"refer {8 - num_healthy}: ") and referred.endswith(f"do not refer {num_healthy}")
    # A shard's batches are others than those of the whole list: numbers may differ in their last digit.
    for row, expected in zip(
        *(rows_of((workplace / name).read_text()) for name in ("out.csv", "whole.csv")), strict=True
    ):
        for column in COLUMNS:
            if column.startswith(("p", "expected", "referable_")) and expected[column]:
                assert abs(float(row[column]) - float(expected[column])) < 1e-3
            else:
                assert row[column] == expected[column]
    for usage in ("predict --shard 1/2 images", "predict"):
        assert Outcome(f"fundusgrade {usage}").code == 2, usage
    assert "no such file" in Outcome("fundusgrade predict --list gone.txt --csv o.csv").stderr.lower()


STOPPED = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job would ignore it
from fundusgrade.commands.app import main

def run(*words):
    model = sys.argv[sys.argv.index("--model") + 1]
    sys.argv = ["fundusgrade", "predict", "--runtime", "pytorch", "--model", model, *words]
    try:
        main()
    except SystemExit as error:
        return error.code

print(run("empty"), file=sys.stderr, flush=True)
sys.exit(run("photographs", "--csv", "out.csv"))
"""


def test_a_closed_pipe_and_control_c_end_predict_cleanly(workplace: Path) -> None:
    """`fundusgrade predict empty | head -1`, then Ctrl-C; one process for both, as importing PyTorch takes seconds."""
    model = install_model()
    source = save_photographs(workplace, [0])[0]
    for folder in ("empty", "photographs"):
        (workplace / folder).mkdir()
    for number in range(2000):  # more rows than a pipe holds
        (workplace / "empty" / f"{number:04d}.png").touch()
    for number in range(1500):
        os.link(source, workplace / "photographs" / f"{number:04d}.png")
    words = [sys.executable, "-c", STOPPED, "--model", str(model)]
    with subprocess.Popen(words, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline().strip().split(",") == COLUMNS
        process.stdout.close()
        assert process.stderr.readline() == "model tiny\n"
        assert re.match(r"runtime: PyTorch [0-9.]+, \w+, (cpu|cuda|mps): ", process.stderr.readline())
        assert "referable from p = 0.5000" in process.stderr.readline()
        assert "no feature checks" in process.stderr.readline()
        assert process.stderr.readline() == "1\n"  # and not a word about the pipe
        partial = workplace / "out.csv.partial"
        deadline = time.monotonic() + 120
        while not (partial.is_file() and partial.read_bytes().count(b"\n") > 20):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        messages = process.stderr.read()
    assert process.returncode == 130
    rows = rows_of(partial.read_text())
    assert 20 <= len(rows) < 1500
    named = re.fullmatch(
        r"model tiny\n.*\ntiny: referable from .*\n.*no feature checks.*\n"
        r"The rows written so far \((\d+)\) are in "
        r"out\.csv\.partial\. Resume with --resume\.\nInterrupted\.\n",
        messages,
    )
    assert named and int(named[1]) in (len(rows), len(rows) - 1)  # stopped before or after a row was counted
    assert not (workplace / "out.csv").exists()
