"""`compare` prints a row of each run and writes their curves, never over what it reads."""

from __future__ import annotations

from pathlib import Path

from fundusgrade.photographs.images import read_image
from tests.command_line import Outcome, run
from tests.training.test_compared_runs import write_history


def test_runs_are_compared_in_a_table_and_a_figure(tmp_path: Path) -> None:
    one, other = write_history(tmp_path / "one", "one"), write_history(tmp_path / "other", "other")
    curves = tmp_path / "curves.png"
    result = Outcome(["compare", str(one), str(other), "--out", str(curves)])
    assert result.code == 0, result.stderr
    rows = {line.split()[0]: line.split()[1:] for line in result.stdout.splitlines() if line.strip()}
    assert rows["one"] == ["4", "4", "0.600", "0.500", "0.250", "0.500", "2.0"]
    assert rows["other"] == ["2", "1", "0.500", "0.500", "1.000", "2.000", "1.0"]
    assert read_image(curves).std() > 5
    assert run("compare", str(one), "--out", str(curves))[0] == 1, "a figure that is there is kept"
    assert run("compare", str(one), "--out", str(curves), "--overwrite")[0] == 0
    assert run("compare", str(one), "--out", str(tmp_path / "curves.jpg"))[0] == 1
    assert run("compare", str(tmp_path / "nowhere"))[0] == 1
