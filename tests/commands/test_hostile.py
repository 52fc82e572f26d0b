"""Odd surroundings: two at once, no room or right to write, links in circles, strange names, checkpoints that lie."""

from __future__ import annotations

import contextlib
import csv
import html.parser
import io
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from safetensors import safe_open
from typer.testing import CliRunner

from fundusgrade import files, store
from fundusgrade.commands.app import app
from fundusgrade.data.dataset import load_dataset
from fundusgrade.data.labels import find_samples
from fundusgrade.data.prepare import prepare_dataset
from fundusgrade.errors import CheckpointError, StoreError
from fundusgrade.grading.grader import Grader
from fundusgrade.networks.checkpoint import HASH_KEY, METADATA_KEY, load_checkpoint
from fundusgrade.photographs.recipe import Method, PreprocessRecipe
from fundusgrade.training.runs import clear_run
from fundusgrade.training.state import STATE_FILE
from tests.models_for_tests import install_dataset, install_model, save_labeled_photographs, save_photographs

RECIPE = PreprocessRecipe(method=Method.NATURAL, size_px=64)
TRAIN = ["train", "--arch", "cnn", "--epochs", "1", "--batch-size", "8", "--device", "cpu", "--precision", "float32"]

# Processes begin in another folder, and must find the same sources.
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(store.__file__).resolve().parents[1]), "OMP_NUM_THREADS": "1"}


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(store, "shipped_weights", lambda: tmp_path / "shipped")
    monkeypatch.setattr(store, "DEFAULT_MODEL", "tiny")
    return tmp_path


def run(*words: str) -> tuple[int, str]:
    """A command's exit code and what it said on stderr, in one line; anything but an exit is raised."""
    result = CliRunner().invoke(app, list(words), env={"COLUMNS": "200", "NO_COLOR": "1"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stderr


def visible_files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


# --- two at once ------------------------------------------------------------------------------------------------------

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


# --- kills ------------------------------------------------------------------------------------------------------------


def prepared(folder: Path, name: str) -> dict[str, bytes]:
    """What a finished data set holds, but for the clock and the journal's order."""
    directory = store.dataset_directory(name)
    files = {path: (directory / path).read_bytes() for path in visible_files(directory) if path != "records.jsonl"}
    described = json.loads(files.pop(store.DATASET_FILE))
    kept = {key: value for key, value in described.items() if key not in ("created", "name")}
    return {**files, "dataset": json.dumps(kept).encode()}


def test_preprocess_killed_at_any_moment_goes_on_to_the_same_data_set(workplace: Path, home: Path) -> None:
    save_labeled_photographs(workplace / "eyes", 40)
    command = [sys.executable, "-m", "fundusgrade", "preprocess", "eyes", "--size", "64", "--workers", "1", "--name"]
    environment = {**ENVIRONMENT, "FUNDUSGRADE_HOME": str(home)}
    run("preprocess", "eyes", "--size", "64", "--workers", "1", "--name", "whole")
    journal, rng = store.dataset_directory("killed") / "records.jsonl", random.Random(0)
    for wanted in sorted(rng.sample(range(1, 38), 3)):
        process = subprocess.Popen([*command, "killed"], env=environment, stderr=subprocess.DEVNULL)
        while not (journal.is_file() and journal.read_bytes().count(b"\n") >= wanted):
            assert process.poll() is None, "ended before it was killed"
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (journal.parent / store.DATASET_FILE).exists(), "finished before it was killed"
    with journal.open("ab") as file:
        file.write(b'{"source": "cut sh')
    assert run("preprocess", "eyes", "--size", "64", "--workers", "1", "--name", "killed")[0] == 0
    assert prepared(home, "killed") == prepared(home, "whole")
    sources = [row.source for row in load_dataset(journal.parent).rows]
    assert len(sources) == len(set(sources)) == 40


def test_what_a_kill_leaves_of_a_run_that_is_cleared_away_cannot_be_resumed(
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


# --- no right to write, no room ---------------------------------------------------------------------------------------


def test_a_store_that_cannot_be_written_is_no_hindrance_to_reading(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
        assert re.search(rf"Error: cannot \w+ .*{re.escape(str(workplace / 'file'))}.*; set FUNDUSGRADE_HOME", said), (
            said
        )


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
        ["evaluate", "--data", "set", "--split", "all", "--allow-leakage", "--draws", "100", "--out", "out"],
        2000,
    ),
    "evaluate, the report": (
        ["evaluate", "--data", "set", "--split", "all", "--allow-leakage", "--draws", "100", "--report", "out.html"],
        2000,
    ),
}


@pytest.mark.parametrize("case", FULL)
def test_a_full_disk_is_said_leaves_no_half_file_and_does_no_lasting_harm(
    case: str, workplace: Path, home: Path
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
    assert {path.name for path in new if path.suffix not in (".png", ".jsonl") and ".partial" not in path.name} <= {
        *("evaluation.json", "manifest.csv")
    }
    assert run(*words, *(["--resume"] if case == "predict" else []))[0] == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
@pytest.mark.parametrize("words", [["predict", "eye00.png"], ["models"]])
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
    assert "Error: cannot write the results: no space left on device; make room" in done.stderr.replace("\n", " ")
    assert "Traceback" not in done.stderr


# --- links and names --------------------------------------------------------------------------------------------------


def test_links_in_circles_are_left_alone(workplace: Path) -> None:
    install_model()
    save_photographs(workplace / "eyes", [0, 1])
    (workplace / "eyes" / "inside").symlink_to(workplace / "eyes")
    (workplace / "eyes" / "a.png").symlink_to(workplace / "eyes" / "b.png")
    (workplace / "eyes" / "b.png").symlink_to(workplace / "eyes" / "a.png")
    (workplace / "round").symlink_to(workplace / "round")
    assert run("predict", "eyes", "round", "--csv", "out.csv")[0] == 3
    rows = list(csv.DictReader(io.StringIO((workplace / "out.csv").read_text())))
    reasons = {row["image"]: row["error"] for row in rows}
    assert set(reasons) == {"eyes/a.png", "eyes/b.png", "eyes/eye00.png", "eyes/eye01.png", "round"}
    assert all("too many levels of symbolic links" in reasons[name] for name in ("eyes/a.png", "eyes/b.png", "round"))
    assert run("preprocess", "eyes", "--size", "64", "--name", "eyes")[0] == 3
    assert len(load_dataset(store.dataset_directory("eyes")).rows) == 4


NAMES = [
    *("line\nbreak.png", "carriage\rreturn.png", "tab\t.png", 'quote".png', "apostrophe'.png", "comma,;.png"),
    *("=cmd|' !A0.png", "+1.png", "-dash.png", "@sum.png", "\u202egnp.lluf.png", "<b>&amp;.png", "%41?#x.png"),
    *("\u00e9.png", "e\u0301.png", "\u2028separator.png", " blank .png", "x" * 251 + ".png", "\x1b[31mred.png"),
    os.fsdecode(b"latin\xe9.png"),
]


@pytest.fixture
def odd(workplace: Path) -> Path:
    """Photographs with odd names, each of an eye of its own."""
    (workplace / "odd").mkdir()
    for name, source in zip(NAMES, save_photographs(workplace / "plain", range(len(NAMES))), strict=True):
        shutil.copy(source, workplace / "odd" / name)
    return workplace / "odd"


def test_odd_names_are_rows_of_their_own(odd: Path) -> None:
    install_model()
    assert run("predict", "odd", "--csv", "out.csv")[0] == 0
    text = Path("out.csv").read_bytes().decode()
    rows = list(csv.reader(io.StringIO(text, newline="")))
    assert len({len(row) for row in rows}) == 1
    assert len({row[0] for row in rows[1:]}) == len(NAMES)
    assert not any(cell[:1] in ("=", "+", "-", "@", "\t", "\r") for row in rows for cell in row)


def test_a_name_that_begins_with_a_dash_is_a_photograph_after_two(odd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_model()
    monkeypatch.chdir(odd)
    assert run("predict", "--csv", "../out.csv", "--", "-dash.png")[0] == 0
    assert run("explain", "--out", "../out.png", "--", "-dash.png")[0] == 0


def test_odd_names_come_back_from_the_manifest(odd: Path) -> None:
    made = prepare_dataset(find_samples([odd]), name="odd", recipe=RECIPE, num_workers=1)
    read = load_dataset(made.directory)
    assert read.rows == made.rows
    assert len({row.source for row in read.rows}) == len({row.image for row in read.rows}) == len(NAMES)
    for row in read.rows:
        assert read.photograph_path(row).is_file(), row.source
        assert (read.directory / row.image).resolve().is_relative_to(read.directory.resolve())
        assert row.error is None and (read.directory / row.image).is_file()


class _Links(html.parser.HTMLParser):
    """Checks that elements are closed in order, and collects what links lead to."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "img", "br", "hr"):
            self.open.append(tag)
        self.sources += [value or "" for name, value in attributes if name == "src"]
        assert tag != "b", "a name was taken for markup"

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_figures_of_odd_names_stay_in_their_folder_and_the_index_shows_them(odd: Path, workplace: Path) -> None:
    from urllib.parse import unquote

    install_model()
    (odd / ("x" * 251 + ".png")).rename(odd / ("x" * 230 + ".png"))
    before = set(visible_files(workplace))
    assert run("explain", "odd", "--out", "maps")[0] == 0
    new = set(visible_files(workplace)) - before
    assert len(new) == len(NAMES) + 1 and all(name.startswith("maps/") for name in new)
    page, links = (workplace / "maps" / "index.html").read_text(encoding="utf-8"), _Links()
    links.feed(page)
    assert links.open == [] and len(set(links.sources)) == len(NAMES)
    shown = [source for source in links.sources if (workplace / "maps" / unquote(source)).is_file()]
    assert len(shown) >= len(NAMES) - 5, "names without control characters and undecodable bytes can be linked to"


def test_a_figure_whose_name_would_be_too_long_does_not_end_the_run(workplace: Path) -> None:
    install_model()
    source = save_photographs(workplace / "odd", [0])[0]
    shutil.copy(source, workplace / "odd" / ("x" * 251 + ".png"))
    code, said = run("explain", "odd", "--out", "maps")
    assert code in (0, 3), said
    assert (workplace / "maps" / "index.html").is_file()
    assert (workplace / "maps" / "eye00-explained.jpg").is_file()


# --- clocks -----------------------------------------------------------------------------------------------------------


def test_a_clock_set_back_changes_nothing(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_labeled_photographs(workplace / "eyes", 10)
    first = prepare_dataset(find_samples([workplace / "eyes"]), name="eyes", recipe=RECIPE, num_workers=1)
    monkeypatch.setattr(files, "now", lambda: "1970-01-01T00:00:00+00:00")
    monkeypatch.setattr(time, "time", lambda: 0.0)
    for path in (workplace / "eyes").rglob("*.png"):
        os.utime(path, (4e9, 4e9))
    again = prepare_dataset(find_samples([workplace / "eyes"]), name="eyes", recipe=RECIPE, num_workers=1)
    assert again.hash == first.hash and again.rows == first.rows


def test_nothing_reads_the_age_of_files_or_the_time_of_day() -> None:
    """But for `files.now`, which is written down and never compared."""
    sources = Path(store.__file__).parent.rglob("*.py")
    text = {path.name: path.read_text(encoding="utf-8") for path in sources}
    # The pixel cache is known by its images' times, compared for being equal, never for being older.
    del text["pixel_cache.py"]
    assert not [name for name, code in text.items() if re.search(r"time\.time\(|st_mtime|getmtime|st_ctime", code)]
    assert [name for name, code in text.items() if "datetime.now" in code] == ["files.py"]


# --- checkpoints ------------------------------------------------------------------------------------------------------


def rewritten(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the description, with a hash that fits."""
    with safe_open(path, framework="pt") as file:
        described = json.loads(file.metadata()[METADATA_KEY])
    change(described)
    with_text(path, json.dumps(described))


def with_text(path: Path, text: str) -> None:
    tensors = safetensors.torch.load_file(path)
    safetensors.torch.save_file(tensors, path, {METADATA_KEY: text, HASH_KEY: files.hash_text(text)})


def deep(described: dict[str, Any], **changes: object) -> None:
    described["recipe"].update(changes)


LIES: dict[str, Callable[[dict[str, Any]], object]] = {
    "size": lambda d: d.update(size_px=10**9),
    "size, everywhere": lambda d: (d.update(size_px=10**9), deep(d, size_px=10**9)),
    "size of a transformer": lambda d: d.update(arch="vit", timm_name="vit_base_patch16_224", size_px=10**9),
    "another size": lambda d: d.update(size_px=128),
    "infinite size": lambda d: d.update(size_px=float("inf")),
    "negative size": lambda d: (d.update(size_px=-64), deep(d, size_px=-64)),
    "recipe of fractions": lambda d: deep(d, size_px=64.5),
    "negative rows": lambda d: d.update(rows=[-5, 20]),
    "rows beyond": lambda d: d.update(rows=[0, 10**9]),
    "rows upside down": lambda d: d.update(rows=[40, 20]),
    "three rows": lambda d: d.update(rows=[1, 2, 3]),
    "a giant network": lambda d: d.update(arch="x", timm_name="vit_giant_patch14_224"),
    "another network": lambda d: d.update(arch="resnet50", timm_name="resnet50"),
    "a network elsewhere": lambda d: d.update(timm_name="hf-hub:someone/something"),
    "a network in a folder": lambda d: d.update(timm_name="local-dir:/tmp"),
    "a network that is a number": lambda d: d.update(timm_name=5),
    "another head": lambda d: d.update(head="regression"),
    "a head that is none": lambda d: d.update(head="two"),
    "mean of no numbers": lambda d: d.update(mean=[float("nan")] * 3),
    "mean of words": lambda d: d.update(mean=["a", "b", "c"]),
    "std of zero": lambda d: d.update(std=[0, 1, 1]),
    "nested mean": lambda d: d.update(mean=[[0.5] * 3] * 3),
    "thresholds of no numbers": lambda d: d.update(thresholds=[float("nan")] * 4),
    "falling thresholds": lambda d: d.update(thresholds=[3, 2, 1, 0]),
    "nested thresholds": lambda d: d.update(thresholds=[[1], [2], [3], [4]]),
    "calibration too long": lambda d: d["calibration"].update(offsets=[0.0] * 6),
    "calibration nested": lambda d: d["calibration"].update(offsets=[[0.0]] * 5),
    "calibration of words": lambda d: d.update(calibration="none"),
    "negative temperature": lambda d: d["calibration"].update(temperature=-1),
    "infinite temperature": lambda d: d["calibration"].update(temperature=float("inf")),
    "temperature as a list": lambda d: d["calibration"].update(temperature=[1.0]),
    "conformity is a number": lambda d: d.update(conformity=0.5),
    "conformity nested": lambda d: d.update(conformity=[[0.5]]),
    "conformity of no numbers": lambda d: d.update(conformity=[float("nan")]),
    "a name that climbs": lambda d: d.update(name="../../up"),
    "a name with a folder": lambda d: d.update(name="a/b"),
    "no name": lambda d: d.update(name=""),
    "an endless name": lambda d: d.update(name="x" * 10**6),
    "another format": lambda d: d.update(format=99),
    "another recipe": lambda d: deep(d, version=99),
    "a recipe with more": lambda d: deep(d, speed=3),
    "options as a list": lambda d: d.update(options=[1]),
    "versions as a number": lambda d: d.update(versions=5),
    "metrics as text": lambda d: d.update(metrics="good"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_description_that_lies_is_refused_quickly_and_with_a_remedy(lie: str) -> None:
    path = install_model()
    rewritten(path, LIES[lie])
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    with pytest.raises(CheckpointError, match=r"copy the file again|install|train it again"):
        load_checkpoint(path)
    assert time.perf_counter() - start < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 * 1024, "kilobytes"
    assert run("models")[0] == 0


@pytest.mark.parametrize("text", ["", "[]", "null", "{" * 5, "[" * 10**6, '{"format": ' + "9" * 10_000 + "}"])
def test_a_description_that_is_none_is_refused(text: str) -> None:
    path = install_model()
    with_text(path, text)
    path.with_name(store.MODEL_JSON).write_text(text)
    with pytest.raises(CheckpointError, match="copy the file again"):
        load_checkpoint(path)
    assert run("models")[0] == 0


def test_a_huge_list_of_conformity_is_read_in_moments() -> None:
    path = install_model()
    rewritten(path, lambda d: d.update(conformity=[0.5] * 10**6))
    start = time.perf_counter()
    assert len(load_checkpoint(path).description.conformity) == 10**6
    assert time.perf_counter() - start < 10


def test_tensors_of_another_shape_or_number_are_refused() -> None:
    path = install_model()
    with safe_open(path, framework="pt") as file:
        text = file.metadata()[METADATA_KEY]
    whole = safetensors.torch.load_file(path)
    name = next(iter(whole))
    for changed in (
        {key: tensor for key, tensor in whole.items() if key != name},
        {**whole, name: torch.zeros(3)},
        {**whole, "further": torch.zeros(3)},
    ):
        described = {**json.loads(text), "weights_sha256": _hash_of(changed)}
        new = json.dumps(described)
        safetensors.torch.save_file(changed, path, {METADATA_KEY: new, HASH_KEY: files.hash_text(new)})
        with pytest.raises(CheckpointError, match=r"do not fit cnn .* tensors differ"):
            load_checkpoint(path)


def _hash_of(state: dict[str, torch.Tensor]) -> str:
    from fundusgrade.networks.checkpoint import _hash_tensors

    return _hash_tensors(state)


def test_every_cut_is_noticed() -> None:
    path = install_model()
    data = path.read_bytes()
    header = 8 + int.from_bytes(data[:8], "little")
    for length in {*range(40), header - 1, header, header + 1, len(data) - 1, *range(0, len(data), len(data) // 40)}:
        path.write_bytes(data[:length])
        with pytest.raises(CheckpointError, match="copy it again"):
            load_checkpoint(path)


def test_every_flipped_bit_is_refused_or_changes_no_grade(workplace: Path) -> None:
    """Hundreds in the header, where most of a damaged file's ways to mislead are, and as many in tensors."""
    path = install_model()
    photograph = save_photographs(workplace, [0])[0]
    before, data = load_checkpoint(path).description, path.read_bytes()
    grade = Grader.load(str(path)).grade(photograph)
    header = 8 + int.from_bytes(data[:8], "little")
    rng = np.random.default_rng(0)
    places = [*range(64), *rng.integers(0, header, 300), *rng.integers(header, len(data), 100)]
    num_harmless = 0
    for place in map(int, places):
        damaged = bytearray(data)
        damaged[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        try:
            loaded = load_checkpoint(path).description
        except CheckpointError:
            continue
        assert loaded == before and Grader.load(str(path)).grade(photograph) == grade
        num_harmless += 1
    assert num_harmless < 0.1 * len(places)


def test_a_folder_and_a_pipe_are_no_models(workplace: Path) -> None:
    os.mkfifo(workplace / "pipe.safetensors")
    (workplace / "folder.safetensors").mkdir()
    for name in ("pipe.safetensors", "folder.safetensors"):
        with pytest.raises(StoreError, match="no model"):
            store.resolve_model(str(workplace / name))
