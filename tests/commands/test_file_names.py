"""Symbolic links in circles, and strange file names."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
from pathlib import Path

import pytest

from fundusgrade import store
from fundusgrade.data.dataset import load_dataset
from fundusgrade.data.labels import find_samples
from fundusgrade.data.prepare import prepare_dataset
from fundusgrade.photographs.recipe import Method, PreprocessRecipe
from tests.command_line import run, visible_files
from tests.models_for_tests import install_model, save_photographs

RECIPE = PreprocessRecipe(method=Method.NATURAL, size_px=64)


def test_symbolic_links_in_circles_are_failures_and_no_endless_loop(workplace: Path) -> None:
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
    assert run("preprocess", "eyes", "--size", "64", "--name", "eyes", "--strict")[0] == 3
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


def test_figures_of_odd_names_stay_in_their_folder_and_the_index_shows_them(odd: Path, workplace: Path) -> None:
    from urllib.parse import unquote

    install_model()
    (odd / ("x" * 251 + ".png")).rename(odd / ("x" * 230 + ".png"))
    before = set(visible_files(workplace))
    assert run("explain", "odd", "--out", "maps")[0] == 0
    new = set(visible_files(workplace)) - before
    assert len(new) == len(NAMES) + len({"index.html", "config.yaml", "explanations.jsonl"})
    assert all(name.startswith("maps/") for name in new)
    page = (workplace / "maps" / "index.html").read_text(encoding="utf-8")
    [data] = re.findall('<script type="application/json" id="data">(.*?)</script>', page)
    sources = [photograph["figure"] for photograph in json.loads(data)["photographs"]]
    assert len(set(sources)) == len(NAMES)
    shown = [source for source in sources if (workplace / "maps" / unquote(source)).is_file()]
    assert len(shown) >= len(NAMES) - 5, "names without control characters and undecodable bytes can be linked to"


def test_a_figure_whose_name_would_be_too_long_does_not_end_the_run(workplace: Path) -> None:
    install_model()
    source = save_photographs(workplace / "odd", [0])[0]
    shutil.copy(source, workplace / "odd" / ("x" * 251 + ".png"))
    code, said = run("explain", "odd", "--out", "maps")
    assert code in (0, 3), said
    assert (workplace / "maps" / "index.html").is_file()
    assert (workplace / "maps" / "eye00-explained.jpg").is_file()
