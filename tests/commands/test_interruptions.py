"""Two processes at once, and processes that are killed."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fundusgrade import store
from fundusgrade.data.dataset import load_dataset
from fundusgrade.networks.checkpoint import load_checkpoint
from fundusgrade.training.runs import clear_run
from fundusgrade.training.state import STATE_FILE
from tests.command_line import ENVIRONMENT, TRAIN, run, visible_files
from tests.models_for_tests import install_dataset, install_model, save_labeled_photographs

_INSTALL = """
import sys
from pathlib import Path
from fundusgrade import store
for _ in range(20):
    sys.stdin.readline()
    store.install_model(Path(sys.argv[1]), "same")
    print("done", flush=True)
"""


def test_two_processes_that_install_one_name_leave_one_whole_model(workplace: Path, home: Path) -> None:
    for seed, name in enumerate("ab"):
        directory = install_model(name, seed=seed).parent
        for file in ("README.md", "metrics.jsonl", "curves.png"):
            (directory / file).write_text(f"{file} of {name}\n" * 5000)
    wholes = [{path.name: path.read_bytes() for path in (home / "models" / name).iterdir()} for name in "ab"]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _INSTALL, str(home / "models" / name)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
            env=ENVIRONMENT | {"FUNDUSGRADE_HOME": str(home)},
        )
        for name in "ab"
    ]  # fmt: skip
    for _ in range(20):
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("now\n")
        for process in processes:
            assert process.stdout is not None and process.stdout.readline() == "done\n"
        left = {path.name: path.read_bytes() for path in (home / "models" / "same").iterdir()}
        assert left in wholes
        load_checkpoint(home / "models" / "same" / store.MODEL_FILE)
    for process in processes:
        process.communicate()
        assert process.returncode == 0


def prepared(folder: Path, name: str) -> dict[str, bytes]:
    """The files of a finished data set, but for times, the journal's order and hidden files, which a kill may leave."""
    directory = store.dataset_directory(name)
    differing = ("records.jsonl", store.CONFIG_FILE)  # by order, and by name and time
    names = [path for path in visible_files(directory) if path not in differing and "/." not in f"/{path}"]
    files = {path: (directory / path).read_bytes() for path in names}
    described = json.loads(files.pop(store.DATASET_FILE))
    kept = {key: value for key, value in described.items() if key not in ("created", "name")}
    return {**files, "dataset": json.dumps(kept).encode()}


_KILLED = """
import os, signal, sys, threading
from fundusgrade.commands.app import main
from fundusgrade.data import prepare_images

prepare, num_left, seconds = prepare_images.prepare_photograph, int(sys.argv.pop(1)), float(sys.argv.pop(1))

def prepare_until_killed(task):
    global num_left
    num_left -= 1
    if num_left == 0:
        threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL)).start()
    return prepare(task)

prepare_images.prepare_photograph = prepare_until_killed
main()
"""


def test_preprocess_killed_at_any_moment_resumes_to_the_same_data_set(workplace: Path, home: Path) -> None:
    """It kills itself some milliseconds after a photograph was begun, with at least ten photographs left."""
    save_labeled_photographs(workplace / "eyes", 40, size_px=96)
    words = ["preprocess", "eyes", "--size", "64", "--workers", "1", "--name"]
    environment = {**ENVIRONMENT, "FUNDUSGRADE_HOME": str(home)}
    run(*words, "whole")
    journal, rng = store.dataset_directory("killed") / "records.jsonl", random.Random(0)
    for _ in range(3):
        moment = [str(rng.randint(1, 10)), str(rng.uniform(0, 0.03))]
        done = subprocess.run([sys.executable, "-c", _KILLED, *moment, *words, "killed"], env=environment, check=False)
        assert done.returncode == -signal.SIGKILL
        assert not (journal.parent / store.DATASET_FILE).exists(), "finished before it was killed"
    with journal.open("ab") as file:
        file.write(b'{"source": "cut sh')
    assert run(*words, "killed")[0] == 0
    assert prepared(home, "killed") == prepared(home, "whole")
    sources = [row.source for row in load_dataset(journal.parent).rows]
    assert len(sources) == len(set(sources)) == 40


def test_a_run_that_was_killed_while_it_was_cleared_cannot_be_resumed(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_dataset("eyes")
    install_model("net")
    directory = store.run_directory("net")
    directory.mkdir(parents=True)
    for name in (STATE_FILE, "model.safetensors", "README.md"):
        (directory / name).touch()

    def killed(*_: object, **__: object) -> None:
        raise SystemExit

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", killed)
        with pytest.raises(SystemExit):
            clear_run(directory)
    assert not (directory / STATE_FILE).exists()
    code, said = run(*TRAIN, "--name", "net", "--resume")
    assert code == 1 and "no unfinished run 'net' to resume; the model 'net' in the store is finished" in said
