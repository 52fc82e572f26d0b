"""Kill preprocess, train and predict at random moments, resume each time, and compare with an uninterrupted run.

    python benchmarks/kills.py [--kills 50] [--eyes 60] [--seed 0] [--commands preprocess train predict] [--engine ray]

Works on drawn eyes in a temporary folder. Whole process groups get SIGKILL, so that no cleanup can run. Meanwhile an
observer opens every visible file, and reports any that is incomplete. At the end manifest, images, weights, history and
predictions must equal those of the uninterrupted run; the exit code is 1 if they do not. With --engine ray two workers
predict, whose processes are not in the group that is killed: they end by themselves.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from pyarrow import parquet

import fundusgrade

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.draw_labeled_eyes import SHARES, draw
from fundusgrade.data.dataset import load_dataset
from fundusgrade.data.manifest import MANIFEST_FILE
from fundusgrade.data.prepare_images import RECORDS_FILE
from fundusgrade.networks.checkpoint import load_checkpoint
from fundusgrade.photographs.images import read_image, write_image
from fundusgrade.store import DATASET_FILE, MODEL_FILE, MODEL_JSON
from fundusgrade.training.history import METRICS_FILE

ARGUMENTS = {
    "preprocess": ["preprocess", "eyes", "--name", "eyes", "--size", "64", "--workers", "2"],
    "train": [
        *("train", "--arch", "cnn", "--data", "eyes", "--name", "net", "--epochs", "40", "--batch-size", "8"),
        *("--patience", "40"),
        *("--device", "cpu", "--precision", "float32"),
    ],
    "predict": ["predict", "eyes/images", "--model", "net", "--csv", "out.csv", "--batch-size", "4", "--device", "cpu"],
}
RESUMED = ("train", "predict")
# The clock and what depends on the machine's speed: everything else must be equal.
VOLATILE = ("created", "seconds", "images_per_second")


@dataclass(slots=True)
class Place:
    """A folder with eyes, a store of its own and what commands leave."""

    folder: Path

    @property
    def store(self) -> Path:
        return self.folder / "home"

    def start(self, arguments: list[str]) -> subprocess.Popen[bytes]:
        """Start a command in a process group of its own."""
        environment = {**os.environ, "FUNDUSGRADE_HOME": str(self.store), "OMP_NUM_THREADS": "1"}
        environment["PYTHONPATH"] = str(Path(fundusgrade.__file__).resolve().parents[1])
        return subprocess.Popen(
            [sys.executable, "-m", "fundusgrade", *arguments],
            cwd=self.folder,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=(self.folder / "stderr.log").open("wb"),
            start_new_session=True,
        )

    def stderr(self) -> str:
        return (self.folder / "stderr.log").read_text(errors="replace").strip()[-400:]


@dataclass(slots=True)
class Observer:
    """Opens every visible file of a place again and again, and collects problems."""

    place: Place
    num_looks: int = 0
    problems: list[str] = field(default_factory=list)

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        enough = threading.Event()

        def watch() -> None:
            while not enough.is_set():
                self.look()
                enough.wait(0.02)

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            yield
        finally:
            enough.set()
            thread.join()

    def look(self) -> None:
        """One round over all files; one that a command removes meanwhile is no problem."""
        parts = (self.place.folder / "out.csv.parts").glob("part-*")
        for path in (*self.place.store.rglob("*"), self.place.folder / "out.csv", *parts):
            if path.name.startswith(".") or path.name.endswith(".partial"):
                continue
            try:
                with path.open("rb"):
                    check_file(path)
                self.num_looks += 1
            except (FileNotFoundError, IsADirectoryError):
                continue
            except Exception as error:
                if path.exists():
                    self.problems.append(f"{path.relative_to(self.place.folder)}: {error!r}"[:300])


def check_file(path: Path) -> None:
    """Raise where a file is incomplete. A journal may end in an incomplete line, which its reader ignores."""
    if path.name == MODEL_FILE:
        load_checkpoint(path)
    elif path.name == "state.safetensors":
        from safetensors import safe_open

        with safe_open(path, framework="np") as file:
            json.loads(file.metadata()["run"])
    elif path.name == DATASET_FILE:
        dataset = load_dataset(path.parent)
        described = json.loads(path.read_text())
        assert described["num_photographs"] == len(dataset.rows), "rows are missing"
        for row in dataset.rows:
            assert row.error is not None or (path.parent / row.image).is_file(), f"{row.image} is missing"
    elif path.suffix == ".json":
        json.loads(path.read_text())
    elif path.suffix == ".png":
        read_image(path)
    elif path.name == METRICS_FILE:
        [json.loads(line) for line in path.read_text().splitlines()]
    elif path.suffix == ".parquet":
        parquet.read_table(path)
    elif path.suffix == ".csv":
        text = path.read_text()
        rows = list(csv.reader(text.splitlines(), strict=True))
        assert text.endswith("\n") and len({len(row) for row in rows}) == 1, "rows of unequal length"


def draw_eyes(folder: Path, count: int) -> None:
    """Drawn eyes with labels, and two photographs that cannot be read, in APTOS's layout."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    grades = [int(rng.choice(5, p=SHARES)) for _ in range(count)]
    for number, grade in enumerate(grades):
        write_image(folder / "images" / f"eye{number:04d}.png", draw(grade, rng))
    (folder / "images" / "eye0007.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (folder / "images" / "eye0011.png").write_bytes(b"")
    rows = [f"eye{number:04d}.png,{grade}\n" for number, grade in enumerate(grades)]
    (folder / "train.csv").write_text("id_code,diagnosis\n" + "".join(rows))


def run_to_end(place: Place, command: str) -> float:
    """Run a command to its end; returns the seconds that it took."""
    start, process = time.perf_counter(), place.start(ARGUMENTS[command])
    if process.wait() not in (0, 3):
        raise SystemExit(f"{command} failed without any kill: {place.stderr()}")
    return time.perf_counter() - start


def kill_often(place: Place, command: str, seconds: float, num_kills: int, rng: random.Random) -> list[str]:
    """Kill a command `num_kills` times, starting over whenever it ended before a kill; then let it end."""
    problems, kills = [], 0
    while True:
        process = place.start(_resumed(place, command))
        moment = rng.uniform(0.0, seconds) if kills < num_kills else None
        try:
            code = process.wait(moment)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            kills += 1
            continue
        if code not in (0, 3):
            problems.append(f"{command} ended with {code}: {place.stderr()}")
            return problems
        if kills >= num_kills:
            return problems
        problems += differences(place, place.folder.parent / "whole", command)
        _remove_results(place, command)


def _resumed(place: Place, command: str) -> list[str]:
    """The command as a user would resume it: a run that has left nothing yet is started again."""
    state = place.store / "runs" / "net" / "state.safetensors"
    model = place.store / "models" / "net" / MODEL_FILE
    if command == "train" and not state.is_file():
        # Killed during its cleanup: there is nothing left to resume, and --overwrite starts again.
        return [*ARGUMENTS[command], *(["--overwrite"] if model.is_file() else [])]
    return [*ARGUMENTS[command], *(["--resume"] if command in RESUMED else [])]


def _remove_results(place: Place, command: str) -> None:
    """Remove what a finished command left, so that the next kill interrupts work."""
    made = {"preprocess": "datasets/eyes", "train": "models/net"}.get(command)
    if made is not None:
        # Out of the observer's sight first: what is being removed is incomplete.
        (place.store / made).rename(place.folder / "gone")
        shutil.rmtree(place.folder / "gone")
    else:
        (place.folder / "out.csv").unlink()


def differences(place: Place, whole: Path, command: str) -> list[str]:
    """How the results of a killed command differ from those of an uninterrupted one."""
    looks = {"preprocess": _dataset_of, "train": _model_of, "predict": lambda folder: (folder / "out.csv").read_bytes()}
    mine, theirs = looks[command](place.folder), looks[command](whole)
    if mine == theirs:
        return []
    if isinstance(mine, dict) and isinstance(theirs, dict):
        unlike = [key for key in mine.keys() | theirs.keys() if mine.get(key) != theirs.get(key)]
        return [f"{command}: {', '.join(sorted(unlike))} differ from the uninterrupted run's"]
    return [f"{command}: its file differs from the uninterrupted run's"]


def _dataset_of(folder: Path) -> dict[str, object]:
    directory = folder / "home" / "datasets" / "eyes"
    images = {path.name: path.read_bytes() for path in directory.rglob("*.png") if not path.name.startswith(".")}
    lines = (directory / RECORDS_FILE).read_bytes().splitlines()
    described = json.loads((directory / DATASET_FILE).read_text()) | {"root": ""}
    sources = sorted(json.loads(line)["source"] for line in lines if line.endswith(b"}"))
    manifest = (directory / MANIFEST_FILE).read_bytes()
    # Photographs that cannot be read are tried again by every run, and so have several lines.
    known = sorted(set(sources))
    return {**images, "manifest": manifest, "dataset.json": _lasting(described), "sources": known}


def _model_of(folder: Path) -> dict[str, object]:
    directory = folder / "home" / "models" / "net"
    described = json.loads((directory / MODEL_JSON).read_text())
    weights = load_checkpoint(directory / MODEL_FILE).description.weights_sha256
    history = [_lasting(json.loads(line)) for line in (directory / METRICS_FILE).read_text().splitlines()]
    leftovers = sorted(path.name for path in (folder / "home" / "runs").glob("*"))
    return {"weights": weights, "model.json": _lasting(described), "history": history, "runs": leftovers}


def _lasting(values: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in values.items() if name not in VOLATILE}


def main() -> int:
    """Parse the command line, kill, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, help="of each command")
    parser.add_argument("--eyes", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--commands", nargs="+", choices=tuple(ARGUMENTS), default=list(ARGUMENTS))
    parser.add_argument("--engine", choices=["ray"], help="of predict, with two workers")
    arguments = parser.parse_args()
    ARGUMENTS["predict"] += ["--engine", arguments.engine, "--workers", "1"] if arguments.engine else []
    rng, problems = random.Random(arguments.seed), []
    with tempfile.TemporaryDirectory() as folder:
        whole, killed = Place(Path(folder, "whole")), Place(Path(folder, "killed"))
        draw_eyes(whole.folder / "eyes", arguments.eyes)
        shutil.copytree(whole.folder, killed.folder)
        for command in ARGUMENTS:
            if command not in arguments.commands and command == "predict":
                continue
            seconds = run_to_end(whole, command)
            if command not in arguments.commands:
                run_to_end(killed, command)
                continue
            observer = Observer(killed)
            with observer.watching():
                found = kill_often(killed, command, seconds, arguments.kills, rng)
            observer.look()
            found += observer.problems + (differences(killed, whole.folder, command) if not found else [])
            print(
                f"{command}: {arguments.kills} kills within {seconds:.1f} s; {observer.num_looks} looks at files; "
                f"{'as uninterrupted' if not found else f'{len(found)} problems'}",
                *found,
                sep="\n  ",
                flush=True,
            )
            problems += found
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
