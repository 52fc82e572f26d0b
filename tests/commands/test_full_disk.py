"""Folders without write permission, and disks without space."""

from __future__ import annotations

import contextlib
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fundusgrade import files
from tests.command_line import ENVIRONMENT, TRAIN, run, visible_files
from tests.models_for_tests import install_dataset, install_model, save_labeled_photographs, save_photographs


def test_a_store_that_cannot_be_written_can_be_read(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(install_model().parent, workplace / "shipped" / "tiny")
    dataset = install_dataset("eyes").directory
    photograph = save_photographs(workplace, [0])[0]
    (workplace / "file").touch()
    monkeypatch.setenv(files.HOME_VARIABLE, str(workplace / "file" / "home"))
    assert run("predict", photograph.name, "--csv", "out.csv")[0] == 0
    assert run("explain", photograph.name, "--out", "map.png")[0] == 0
    assert run("models")[0] == run("datasets")[0] == 0
    for words in (["preprocess", photograph.name, "--size", "64"], [*TRAIN, "--data", str(dataset)]):
        code, said = run(*words)
        assert code == 1
        assert re.search(rf"Error: cannot \w+ .*{re.escape(str(workplace / 'file'))}.*FUNDUSGRADE_HOME", said), said


@contextlib.contextmanager
def full_disk(num_bytes: int) -> Iterator[None]:
    """No file can grow beyond this; Python ignores the signal, so that writing fails as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


FULL = {
    "preprocess": (["preprocess", "eyes", "--size", "64", "--workers", "1", "--name", "new"], 1000),
    "preprocess, the journal": (["preprocess", "eyes", "--size", "64", "--workers", "1", "--name", "new"], 7000),
    "train": ([*TRAIN, "--data", "set", "--name", "net"], 30_000),
    "predict": (["predict", "eyes", "--csv", "out.csv"], 400),
    "explain": (["explain", "eyes/0/eye00.png", "--out", "out.png"], 5000),
    "explain a folder": (["explain", "eyes/0", "--out", "out"], 5000),
    "explain, raw maps": (["explain", "eyes/0/eye00.png", "--out", "out.png", "--arrays"], 5000),
    "evaluate": (
        ["evaluate", "--data", "set", "--split", "all", "--allow-leakage", "--resamples", "100", "--out", "out"],
        2000,
    ),
    "evaluate, the report": (
        [
            "evaluate",
            "--data",
            "set",
            "--split",
            "all",
            "--allow-leakage",
            "--resamples",
            "100",
            "--report",
            "out.html",
        ],
        2000,
    ),
}


@pytest.mark.parametrize("case", FULL)
def test_a_full_disk_is_an_error_leaves_no_partial_result_and_does_no_lasting_harm(
    case: str, workplace: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words, limit = FULL[case]
    install_model()
    install_dataset("set")
    save_labeled_photographs(workplace / "eyes", 20)
    before = visible_files(workplace) + visible_files(home)
    with full_disk(limit):
        code, said = run(*words)
    assert code == 1
    assert re.search(r"Error: cannot write .*: [Ff]ile too large; ", said), said
    new = {Path(name) for name in set(visible_files(workplace) + visible_files(home)) - set(before)}
    # What is whole may stay, and what says by its name that it is not.
    partial = {path for path in new if path.suffix in (".png", ".npy", ".jsonl", ".lock") or ".partial" in path.name}
    whole = {"evaluation.json", "manifest.csv", "train_batch.jpg", "config.yaml", "out.csv.config.yaml"}
    assert {path.name for path in new - partial} <= whole
    assert run(*words, *(["--resume"] if case in ("predict", "explain a folder") else []))[0] == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
@pytest.mark.parametrize("words", [["predict", "eye00.png", "--runtime", "pytorch"], ["models"]])
def test_results_that_cannot_be_written_are_an_error_and_no_traceback(
    words: list[str], workplace: Path, home: Path
) -> None:
    install_model()
    save_photographs(workplace, [0])
    program = (
        "from fundusgrade import store; store.DEFAULT_MODEL = 'tiny'\nfrom fundusgrade.commands.app import main; main()"
    )
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-c", program, *words],
            env=ENVIRONMENT | {"FUNDUSGRADE_HOME": str(home)},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert "Error: cannot write the results: no space left on device; free some disk space" in done.stderr.replace(
        "\n", " "
    )
    assert "Traceback" not in done.stderr
