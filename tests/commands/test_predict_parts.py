"""`predict` into folders of parts and to URLs, and what fits together with `--engine`."""

from __future__ import annotations

import sys
from pathlib import Path

import fsspec
import pytest
import yaml

from tests.command_line import Outcome, rows_of
from tests.models_for_tests import install_model, save_photographs

parquet = pytest.importorskip("pyarrow.parquet", reason="parts are Parquet files")


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with photographs, one of them broken, and a model."""
    install_model()
    save_photographs(tmp_path / "images", range(5))
    (tmp_path / "images" / "broken.png").write_bytes(b"no picture")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_folder_gets_parts_and_settings_and_the_exit_code_tells_of_failures(workplace: Path) -> None:
    assert Outcome("fundusgrade predict images --csv whole.csv").code == 3
    outcome = Outcome("fundusgrade predict images --out results/ --batch-size 2")
    assert outcome.code == 3 and "wrote 6 rows to results: 5 graded, 1 failed" in outcome.stderr
    assert outcome.stdout == ""
    names = ["_config.yaml", "_provenance.json", *(f"part-00000{number}.parquet" for number in range(3))]
    assert sorted(path.name for path in (workplace / "results").iterdir()) == names
    in_parts = parquet.read_table(workplace / "results").to_pylist()
    in_file = rows_of((workplace / "whole.csv").read_text())
    assert [row["image"] for row in in_parts] == [row["image"] for row in in_file]
    again = Outcome("fundusgrade predict images --out results")
    assert again.code == 1 and "resume it with --resume, or discard it with --overwrite" in again.stderr
    resumed = Outcome("fundusgrade predict images --out results --resume --batch-size 2")
    assert resumed.code == 3 and "resuming after 6 rows" in resumed.stderr
    settings = yaml.safe_load((workplace / "results" / "_config.yaml").read_text())
    assert settings["csv"] == str(workplace / "results")


def test_photographs_and_rows_at_urls(workplace: Path) -> None:
    """In the memory of this process; an S3 server is asked in tests/grading/test_ray_engine.py."""
    memory = fsspec.filesystem("memory")
    try:
        for path in (workplace / "images").iterdir():
            memory.pipe_file(f"/clinic/images/{path.name}", path.read_bytes())
        outcome = Outcome("fundusgrade predict memory://clinic/images --out memory://clinic/out.csv")
        assert outcome.code == 3 and "wrote 6 rows to memory://clinic/out.csv: 5 graded, 1 failed" in outcome.stderr
        rows = rows_of(memory.cat_file("/clinic/out.csv").decode())
        assert rows[1]["image"] == "memory://clinic/images/eye00.png"
        settings = yaml.safe_load(memory.cat_file("/clinic/out.csv.config.yaml"))
        assert settings["photographs"] == ["memory://clinic/images"]
        again = Outcome("fundusgrade predict memory://clinic/images --out memory://clinic/out.csv")
        assert again.code == 1 and "the file exists; add --overwrite" in again.stderr
        memory.pipe_file("/clinic/mine.csv", b"patients")
        mine = Outcome("fundusgrade predict memory://clinic/images --out memory://clinic/mine.csv --overwrite")
        assert mine.code == 1 and "was not written by fundusgrade" in mine.stderr
        assert memory.cat_file("/clinic/mine.csv") == b"patients"
    finally:
        memory.store.clear()


def test_a_folder_of_photographs_is_no_output(workplace: Path) -> None:
    outcome = Outcome("fundusgrade predict images --out images")
    assert outcome.code == 1 and "cannot write to images" in outcome.stderr


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("--engine ray", "--engine needs a place for the rows"),
        ("--address auto --out a.csv", "--address is that of an engine: add --engine ray"),
        ("--engine ray --shard 1/2 --out a.csv", "--shard and --engine both divide photographs"),
        ("--report page.html --out results/", "--by-patient and --report need one file on this machine"),
        ("--report page.html --out memory://a/b.csv", "--by-patient and --report need one file on this machine"),
        ("--engine spark --out a.csv", "ray"),
    ],
)
def test_options_that_do_not_fit_together_are_errors_of_usage(workplace: Path, options: str, expected: str) -> None:
    outcome = Outcome(f"fundusgrade predict images {options}")
    assert outcome.code == 2 and expected in " ".join(outcome.stderr.replace("\u2502", " ").split())
    assert sorted(path.name for path in workplace.iterdir()) == ["images"]


def test_without_ray_the_remedy_is_named(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    outcome = Outcome("fundusgrade predict images --out a.csv --engine ray")
    assert outcome.code == 1 and "pip install 'fundusgrade[ray]'" in outcome.stderr
