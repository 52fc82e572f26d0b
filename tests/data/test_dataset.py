"""A prepared data set: every photograph has its row, nothing leaks between splits, and no work is repeated."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from fundusgrade import files, store
from fundusgrade.data import prepare_images
from fundusgrade.data.contact_sheet import (
    CONTACT_SHEET_FILE,
    HEADING_PX,
    NUM_COLUMNS,
    TILE_PX,
    Section,
    draw_contact_sheet,
)
from fundusgrade.data.dataset import PreparedDataset, load_dataset
from fundusgrade.data.label_files import LabelColumns
from fundusgrade.data.labels import find_samples
from fundusgrade.data.manifest import MANIFEST_COLUMNS, MANIFEST_FILE, ManifestRow
from fundusgrade.data.prepare import prepare_dataset
from fundusgrade.data.prepare_images import RECORDS_FILE, Record
from fundusgrade.data.samples import RawDataset, Sample
from fundusgrade.errors import DatasetError, StoreError
from fundusgrade.grades import Grade
from fundusgrade.photographs.images import read_image
from fundusgrade.photographs.preprocess import canonical_outline, within_outline
from fundusgrade.photographs.recipe import Method, Outline, PreprocessRecipe
from tests.drawn_eyes import plain_retina, preprocess_photograph
from tests.prepared import RECIPE, dataset_in_memory, eye_png, memory_row, png, write_small

GROUPED_BY = ("group", "patient")


def recompressed(data: bytes) -> bytes:
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()


def write_mixed(folder: Path) -> Path:
    """Everything that can be with a photograph: copies, near copies, both eyes of a patient, and errors."""
    folder.mkdir(parents=True)
    files = {f"{i}.png": eye_png(i) for i in range(6)} | {
        "copy.png": eye_png(0),
        "near.jpg": recompressed(eye_png(1)),
        "black.png": png(np.zeros((64, 64, 3), np.uint8)),
        "cut_short.png": eye_png(6)[:2000],
        "no_grade.png": eye_png(7),
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
    (folder / "labels.csv").write_text(
        "file,dr,who,side,where\n"
        "0,0,,,\ncopy,2,,,\n1,1,,,\nnear,1,A,left,north\n2,1,A,right,north\n3,3,B,left,south\n4,4,B,right,\n5,0,,,\n"
        "black,2,,,\ncut_short,2,,,\nno_grade,?,,,\nmissing,1,C,,\n"
    )
    return folder


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    return write_mixed(tmp_path / "mixed")


def found_in(folder: Path) -> RawDataset:
    if (folder / "train.csv").exists():
        return find_samples([folder])
    columns = LabelColumns(image="file", grade="dr", patient="who", eye="side", site="where")
    return find_samples([folder], columns=columns)


def prepare(folder: Path, name: str = "eyes", *, recipe: PreprocessRecipe = RECIPE, seed: int = 0) -> PreparedDataset:
    return prepare_dataset(found_in(folder), name=name, recipe=recipe, seed=seed, num_workers=1)


@pytest.fixture(scope="module")
def prepared_before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a data set that was prepared from photographs like those of `small`."""
    folder = tmp_path_factory.mktemp("before")
    write_small(folder / "small")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(files.HOME_VARIABLE, str(folder / "home"))
        return prepare(folder / "small").directory


@pytest.fixture(scope="module")
def mixed_dataset(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    """The data set of `mixed`, for tests that only look at it."""
    folder = tmp_path_factory.mktemp("mixed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(files.HOME_VARIABLE, str(folder / "home"))
        return prepare(write_mixed(folder / "mixed"))


@pytest.fixture
def finished(small: Path, home: Path, prepared_before: Path) -> PreparedDataset:
    """The finished data set of `small`, its images copied from another folder's: preparing them is what takes time."""
    shutil.copytree(prepared_before, home / "datasets" / "eyes")
    return prepare_dataset(found_in(small), name="eyes", recipe=RECIPE, num_workers=1, overwrite=True)


def by_stem(dataset: PreparedDataset) -> dict[str, ManifestRow]:
    return {Path(row.source).stem: row for row in dataset.rows}


def manifest(dataset: PreparedDataset) -> bytes:
    return (dataset.directory / MANIFEST_FILE).read_bytes()


class Recorder:
    """Records which photographs are preprocessed; after `stop_after` of them it is as if the user pressed Ctrl-C."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, stop_after: int | None = None) -> None:
        self.sources: list[str] = []
        self.stop_after = stop_after
        self.real = prepare_images.prepare_photograph
        monkeypatch.setattr(prepare_images, "prepare_photograph", self)

    def __call__(self, task: prepare_images._Task) -> Record:
        if len(self.sources) == self.stop_after:
            raise KeyboardInterrupt
        self.sources.append(Path(task.sample.source).stem)
        return self.real(task)

    def since_last_call(self) -> list[str]:
        """The photographs that were preprocessed since the last call."""
        sources, self.sources = self.sources, []
        return sources


# What is written


def test_the_manifest_has_a_row_for_every_photograph(mixed_dataset: PreparedDataset) -> None:
    with (mixed_dataset.directory / MANIFEST_FILE).open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    columns = ["image", "source", "grade", "split", "fold", "group", "patient", "eye", "site", "error"]
    assert list(rows[0])[:10] == columns and tuple(rows[0]) == MANIFEST_COLUMNS
    assert [row["source"] for row in rows][:4] == ["0.png", "copy.png", "1.png", "near.jpg"]
    assert len(rows) == 12
    near = next(row for row in rows if row["source"] == "near.jpg")
    assert (near["image"], near["grade"]) == ("pictures/near.png", "1")
    assert (near["patient"], near["eye"], near["site"]) == ("A", "left", "north")
    assert near["split"] in ("train", "validation", "test") and near["fold"] in tuple("01234") and near["error"] == ""


def test_images_are_those_of_the_recipe(small: Path) -> None:
    for recipe in (RECIPE, PreprocessRecipe(method=Method.BEN_GRAHAM, size_px=48)):
        dataset = prepare(small, recipe.method.value, recipe=recipe)
        for row in dataset.rows:
            photograph = read_image(small / row.source)
            stored = read_image(dataset.directory / row.image)
            image = preprocess_photograph(photograph, recipe).image
            assert np.array_equal(within_outline(stored, recipe), image)
            disc = preprocess_photograph(photograph, replace(recipe, outline=Outline.MIRRORED_DISC)).image
            band = canonical_outline(recipe)
            assert np.array_equal(stored[~band], disc[~band]), "the disc around the band is kept for augmentation"


def test_a_photograph_that_cannot_be_used_is_a_row_with_the_reason(mixed_dataset: PreparedDataset) -> None:
    rows = by_stem(mixed_dataset)
    reasons = {stem: row.error or "" for stem, row in rows.items() if row.error}
    assert list(reasons) == ["black", "cut_short", "no_grade", "missing"]
    assert "no retina found" in reasons["black"]
    assert "truncated PNG" in reasons["cut_short"]
    assert reasons["no_grade"] == "grade '?' is not one of 0-4"
    assert "no photograph named 'missing'" in reasons["missing"]
    for stem in reasons:
        assert (rows[stem].image, rows[stem].split, rows[stem].fold) == ("", None, None)
    assert rows["black"].sha256 and not rows["missing"].sha256


def test_copies_and_patients_are_one_group_in_one_split_and_fold(mixed: Path) -> None:
    for seed in range(6):
        dataset = prepare(mixed, seed=seed)
        rows = by_stem(dataset)
        assert rows["0"].group == rows["copy"].group
        assert rows["1"].group == rows["near"].group == rows["2"].group, "a copy of one of patient A's photographs"
        assert rows["3"].group == rows["4"].group
        assert len({row.group for row in rows.values()}) == 8
        for column in GROUPED_BY:
            places: dict[object, set[tuple[object, object]]] = defaultdict(set)
            for row in dataset.graded_rows():
                if getattr(row, column) is not None:
                    places[getattr(row, column)].add((row.split, row.fold))
            assert {len(place) for place in places.values()} == {1}


def test_copies_with_different_grades_are_marked(mixed_dataset: PreparedDataset) -> None:
    rows = by_stem(mixed_dataset)
    assert [stem for stem, row in rows.items() if row.conflict] == ["0", "copy"]


def test_a_copy_without_a_grade_contradicts_nothing(mixed: Path) -> None:
    (mixed / "no_grade.png").write_bytes(eye_png(5))
    rows = by_stem(prepare(mixed))
    assert rows["no_grade"].group == rows["5"].group
    assert not rows["no_grade"].conflict and not rows["5"].conflict


def test_the_description_counts(mixed: Path) -> None:
    dataset = prepare(mixed, seed=3)
    described = json.loads((dataset.directory / store.DATASET_FILE).read_text())
    assert (described["name"], described["layout"], described["seed"]) == ("eyes", "columns", 3)
    assert described["recipe"] == {"method": "natural", "outline": "band", "size_px": 32, "version": RECIPE.version}
    assert described["hash"] == dataset.hash == files.hash_text(manifest(dataset).decode())
    assert (described["num_photographs"], described["num_ungraded"]) == (12, 4)
    assert (described["num_exact_duplicate_groups"], described["num_exact_duplicate_photographs"]) == (1, 2)
    assert (described["num_duplicate_groups"], described["num_duplicate_photographs"]) == (2, 4)
    assert described["num_conflicting_photographs"] == 2
    assert sum(described["num_per_split"].values()) == 8
    listed = store.list_datasets()[0]
    assert (listed.name, listed.num_photographs, listed.hash) == ("eyes", 12, dataset.hash)


def test_copies_are_recognized_whatever_the_recipe(mixed: Path) -> None:
    """So that models of different recipes are compared on the same splits."""
    one = prepare(mixed, "one")
    two = prepare(mixed, "two", recipe=PreprocessRecipe(method=Method.CLAHE, size_px=40))
    three = prepare(mixed, "three", recipe=PreprocessRecipe())
    assert manifest(one) == manifest(two) == manifest(three)


def test_photographs_without_labels_have_no_split(small: Path) -> None:
    found = find_samples([small / "train_images"])
    dataset = prepare_dataset(found, name="plain", recipe=RECIPE, num_workers=1)
    assert {(row.grade, row.split, row.fold, row.error) for row in dataset.rows} == {(None, None, None, None)}
    assert dataset.graded_rows() == ()
    assert all((dataset.directory / row.image).is_file() for row in dataset.rows)


def test_images_of_similar_names_do_not_overwrite_each_other(tmp_path: Path) -> None:
    sources = ["a.png", "a.jpg", "a.jpg.png", "x/a.png", "../x/a.png", "/x/a.png", "B.png", "b.jpg", "only.tif"]
    (tmp_path / "f").mkdir()
    samples = []
    for i, source in enumerate(sources):
        (tmp_path / "f" / f"{i}.png").write_bytes(eye_png(i))
        samples.append(Sample(source=source, path=tmp_path / "f" / f"{i}.png", grade=Grade(i % 5)))
    found = RawDataset(layout="photographs", samples=tuple(samples))
    dataset = prepare_dataset(found, name="eyes", recipe=RECIPE, num_workers=1)
    images = [row.image for row in dataset.rows]
    assert len({image.casefold() for image in images}) == len(sources)
    assert images[-1] == "pictures/only.png"
    for i, image in enumerate(images):
        path = (dataset.directory / image).resolve()
        assert path.is_relative_to((dataset.directory / "pictures").resolve())
        expected = preprocess_photograph(read_image(tmp_path / "f" / f"{i}.png"), RECIPE).image
        assert np.array_equal(within_outline(read_image(path), RECIPE), expected)


def test_rows_that_name_no_file_at_all_are_rows(small: Path) -> None:
    with (small / "train.csv").open("a") as file:
        file.write("..,1\n/,2\n.,3\n")
    dataset = prepare(small)
    assert [row.error is None for row in dataset.rows] == [True] * 5 + [False] * 3


# The contact sheet


def test_the_contact_sheet_shows_every_grade(mixed_dataset: PreparedDataset) -> None:
    sheet = read_image(mixed_dataset.directory / CONTACT_SHEET_FILE)
    assert sheet.shape == (5 * (HEADING_PX + TILE_PX), NUM_COLUMNS * TILE_PX, 3)
    tile = sheet[HEADING_PX : HEADING_PX + TILE_PX, :TILE_PX]
    assert tile[TILE_PX // 2, TILE_PX // 2, 0] > 1.3 * tile[TILE_PX // 2, TILE_PX // 2, 2] > 0, "red, not blue"
    assert (sheet[HEADING_PX : HEADING_PX + TILE_PX, -TILE_PX:] == 255).all(), "white where there is no image"
    assert (sheet[:HEADING_PX] < 128).any(), "a title"


def test_the_contact_sheet_is_evenly_spaced_over_a_section(tmp_path: Path) -> None:
    paths = []
    for value in range(39):
        paths.append(tmp_path / f"{value}.png")
        paths[-1].write_bytes(png(np.full((32, 32, 3), 5 * value, np.uint8)))
    sheet = draw_contact_sheet([Section(title="all", images=tuple(paths)), Section(title="none", images=())])
    assert sheet.shape == (HEADING_PX + 2 * TILE_PX, NUM_COLUMNS * TILE_PX, 3)
    shown = sheet[HEADING_PX + TILE_PX // 2 :: TILE_PX, TILE_PX // 2 :: TILE_PX, 0].ravel().astype(int)
    assert shown[0] == 0 and shown[-1] >= 180 and (np.diff(shown) > 0).all()


def test_the_contact_sheet_of_no_images_is_white() -> None:
    assert (draw_contact_sheet([]) == 255).all()


def test_where_nothing_can_be_prepared_there_is_no_data_set(small: Path) -> None:
    for path in (small / "train_images").iterdir():
        path.write_bytes(b"")
    with pytest.raises(DatasetError, match=r"none of 5 photographs can be prepared, .* \(5: the file is empty"):
        prepare(small)
    assert store.dataset_names() == []


# Repeating no work


def test_a_finished_data_set_is_not_prepared_again(mixed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = prepare(mixed)
    before = manifest(first)
    recorder = Recorder(monkeypatch)
    second = prepare(mixed)
    assert sorted(recorder.since_last_call()) == ["black", "cut_short"], "only what failed is tried again"
    assert (manifest(second), second) == (before, first)


def test_only_what_changed_is_prepared_again(
    finished: PreparedDataset, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = manifest(finished)
    recorder = Recorder(monkeypatch)
    (finished.directory / by_stem(finished)["eye3"].image).unlink()
    prepare(small)
    assert recorder.since_last_call() == ["eye3"]
    assert manifest(finished) == before
    (small / "train_images" / "eye1.png").write_bytes(eye_png(9))
    changed = by_stem(prepare(small))["eye1"]
    assert recorder.since_last_call() == ["eye1"]
    assert changed.sha256 != by_stem(finished)["eye1"].sha256
    expected = preprocess_photograph(plain_retina(96, 9).photograph, RECIPE).image
    assert np.array_equal(within_outline(read_image(finished.directory / changed.image), RECIPE), expected)
    (small / "train_images" / "eye1.png").touch()
    prepare(small)
    assert recorder.since_last_call() == [], "the content counts, not the date"


@pytest.mark.parametrize("damage", ["cut", "cut and ended", "bytes"])
def test_a_line_that_was_cut_short_costs_one_photograph(
    damage: str, finished: PreparedDataset, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, records = manifest(finished), finished.directory / RECORDS_FILE
    data = records.read_bytes()[:-40]
    records.write_bytes(data + {"cut": b"", "cut and ended": b"\n", "bytes": b"\xff\x00"}[damage])
    recorder = Recorder(monkeypatch)
    prepare(small)
    assert recorder.since_last_call() == ["eye4"]
    assert manifest(finished) == before
    prepare(small)
    assert recorder.since_last_call() == [], "the cut line did not damage the next one"


def test_lines_of_another_program_are_ignored(
    finished: PreparedDataset, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (finished.directory / RECORDS_FILE).open("a") as file:
        file.write('\n[1]\nnull\n{"source": "train_images/eye0.png"}\n{"unknown": 1}\n')
    recorder = Recorder(monkeypatch)
    prepare(small)
    assert recorder.since_last_call() == []


def test_an_interrupted_run_resumes_and_ends_as_an_uninterrupted_one(
    mixed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = prepare(mixed, "whole")
    with monkeypatch.context() as patch:
        Recorder(patch, stop_after=4)
        with pytest.raises(KeyboardInterrupt):
            prepare(mixed, "stopped")
    directory = store.dataset_directory("stopped")
    assert not (directory / store.DATASET_FILE).exists() and not (directory / MANIFEST_FILE).exists()
    assert [dataset.name for dataset in store.list_datasets()] == ["whole"], "an unfinished data set is not listed"
    recorder = Recorder(monkeypatch)
    resumed = prepare(mixed, "stopped")
    assert len(recorder.since_last_call()) == 11 - 4
    assert manifest(resumed) == manifest(whole)
    for row in whole.graded_rows():
        assert (resumed.directory / row.image).read_bytes() == (whole.directory / row.image).read_bytes()
    sheets = [(dataset.directory / CONTACT_SHEET_FILE).read_bytes() for dataset in (whole, resumed)]
    assert sheets[0] == sheets[1]


def test_labels_may_change_without_preparing_again(
    finished: PreparedDataset, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = (small / "train.csv").read_text()
    recorder = Recorder(monkeypatch)
    (small / "train.csv").write_text(labels.replace("eye2,2", "eye2,7"))
    broken = by_stem(prepare(small))["eye2"]
    assert (broken.grade, broken.split, broken.image) == (None, None, "")
    assert broken.error == "grade '7' is not one of 0-4"
    (small / "train.csv").write_text(labels.replace("eye2,2", "eye2,4"))
    mended = by_stem(prepare(small))["eye2"]
    assert (mended.grade, mended.error, mended.split is not None) == (Grade.PROLIFERATIVE, None, True)
    assert recorder.since_last_call() == []


def test_new_photographs_are_added(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(small)
    (small / "train_images" / "eye5.png").write_bytes(eye_png(5))
    with (small / "train.csv").open("a") as file:
        file.write("eye5,0\n")
    recorder = Recorder(monkeypatch)
    grown = prepare(small)
    assert recorder.since_last_call() == ["eye5"]
    assert manifest(grown) == manifest(prepare(small, "anew"))


def test_progress_counts_what_is_done_already(finished: PreparedDataset, small: Path) -> None:
    (finished.directory / finished.rows[0].image).unlink()
    steps: list[tuple[int, int]] = []
    prepare_dataset(
        found_in(small),
        name="eyes",
        recipe=RECIPE,
        num_workers=1,
        on_progress=lambda done, total: steps.append((done, total)),
    )
    assert steps == [(4, 5), (5, 5)]


def test_worker_processes_give_the_same_data_set(mixed: Path) -> None:
    single = prepare(mixed, "single")
    parallel = prepare_dataset(found_in(mixed), name="parallel", recipe=RECIPE, num_workers=2)
    assert manifest(parallel) == manifest(single)
    for row in single.graded_rows():
        assert (parallel.directory / row.image).read_bytes() == (single.directory / row.image).read_bytes()


def test_a_killed_worker_process_is_explained(mixed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Pool:
        def __init__(self, *args: object, **kwargs: object) -> None: ...
        def __enter__(self) -> Pool:
            return self

        def __exit__(self, *args: object) -> None: ...
        def submit(self, *args: object) -> Future[Record]:
            future: Future[Record] = Future()
            future.set_exception(BrokenProcessPool("terminated abruptly"))
            return future

    monkeypatch.setattr(prepare_images, "ProcessPoolExecutor", Pool)
    with pytest.raises(DatasetError, match=r"worker process ended abruptly.*--workers"):
        prepare_dataset(found_in(mixed), name="eyes", recipe=RECIPE, num_workers=2)


# Names, recipes, and damage


@pytest.mark.parametrize(
    "other",
    [
        PreprocessRecipe(method=Method.CLAHE, size_px=32),
        PreprocessRecipe(method=Method.NATURAL, size_px=33),
        PreprocessRecipe(method=Method.NATURAL, size_px=32, version=99),
    ],
    ids=["method", "size", "version"],
)
def test_another_recipe_needs_another_name(other: PreprocessRecipe, finished: PreparedDataset, small: Path) -> None:
    before = manifest(finished)
    with pytest.raises(DatasetError, match=r"made with natural, band at 32 px \(version 3\), not with .*--name"):
        prepare(small, recipe=other)
    assert manifest(prepare(small)) == before


def test_an_unfinished_data_set_may_change_its_recipe(
    finished: PreparedDataset, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (finished.directory / store.DATASET_FILE).unlink()
    recorder = Recorder(monkeypatch)
    again = prepare(small, recipe=PreprocessRecipe(method=Method.NATURAL, size_px=40))
    assert len(recorder.since_last_call()) == 5
    assert {read_image(again.directory / row.image).shape for row in again.rows} == {(40, 40, 3)}


@pytest.mark.parametrize("text", ["", "[]", '{"recipe": 1}', '{"recipe": {"method": "magic", "size_px": 32}}'])
def test_a_damaged_data_set_says_so_and_can_be_made_again(text: str, finished: PreparedDataset, small: Path) -> None:
    (finished.directory / store.DATASET_FILE).write_text(text)
    with pytest.raises(DatasetError, match=r"cannot be read .*make it again with `fundusgrade preprocess`"):
        load_dataset(finished.directory)
    assert prepare(small) == finished
    assert load_dataset(finished.directory) == finished


@pytest.mark.parametrize("text", [None, "image,source\na,b\n", "\x00", "{good}extra,line\n"])
def test_a_damaged_manifest_says_so_and_can_be_made_again(
    text: str | None, finished: PreparedDataset, small: Path
) -> None:
    path = finished.directory / MANIFEST_FILE
    if text is None:
        path.unlink()
    else:
        path.write_text(text.replace("{good}", path.read_text()))
    with pytest.raises(DatasetError, match="cannot be read"):
        load_dataset(finished.directory)
    assert prepare(small) == finished


def test_a_data_set_is_read_as_it_was_written(mixed: Path) -> None:
    dataset = prepare(mixed, seed=5)
    assert load_dataset(dataset.directory) == dataset
    assert load_dataset(store.resolve_dataset(None)) == dataset


def test_odd_names_come_back(tmp_path: Path) -> None:
    names = ['a,b".png', "=cmd.png", "größe.png", "line\nbreak.png", " blank .png"]
    samples = []
    for i, name in enumerate(names):
        (tmp_path / f"{i}.png").write_bytes(eye_png(i))
        samples.append(Sample(source=name, path=tmp_path / f"{i}.png", grade=Grade(i), patient=f"p,{i}"))
    found = RawDataset(layout="photographs", samples=tuple(samples))
    dataset = prepare_dataset(found, name="eyes", recipe=RECIPE, num_workers=1)
    assert [row.source for row in dataset.rows] == names
    assert load_dataset(dataset.directory) == dataset


def test_rows_of_a_split(mixed_dataset: PreparedDataset) -> None:
    everything = mixed_dataset.graded_rows()
    assert len(everything) == 8 and mixed_dataset.graded_rows("all") == everything
    splits = [mixed_dataset.graded_rows(split) for split in ("train", "validation", "test")]
    assert sorted(row.source for rows in splits for row in rows) == sorted(row.source for row in everything)
    assert all(row.error is None and row.grade is not None for row in everything)


def test_a_store_that_cannot_be_written_is_named(small: Path, home: Path) -> None:
    (home / "datasets").write_text("a file is in the way")
    with pytest.raises(StoreError, match=r"cannot write .*FUNDUSGRADE_HOME"):
        prepare(small)


def test_an_invalid_name_is_refused(small: Path) -> None:
    with pytest.raises(StoreError, match="is not a valid name"):
        prepare(small, "../elsewhere")


def test_another_seed_gives_another_split(tmp_path: Path) -> None:
    """Twelve photographs of one grade: another seed, another split; the same seed, the same."""
    for i in range(12):
        (tmp_path / "0").mkdir(exist_ok=True)
        (tmp_path / "0" / f"{i}.png").write_bytes(eye_png(i))
    (tmp_path / "1").mkdir()

    def splits(seed: int) -> Sequence[str | None]:
        found = find_samples([tmp_path])
        return [row.split for row in prepare_dataset(found, name="e", recipe=RECIPE, seed=seed, num_workers=1).rows]

    first = splits(0)
    assert first == splits(0)
    assert any(first != splits(seed) for seed in (1, 2, 3))
    assert [first.count(split) for split in ("train", "validation", "test")] == [8, 2, 2]


# Folds


@pytest.fixture
def many() -> PreparedDataset:
    """60 photographs in memory: 40 single ones, 10 pairs of copies; two more without an image or a grade."""
    rng = np.random.default_rng(0)
    rows = [
        memory_row(i, grade=Grade(int(rng.integers(0, 5))), group=i if i < 40 else 40 + (i - 40) // 2)
        for i in range(60)
    ]
    rows += [replace(memory_row(60, grade=Grade(1), group=70), error="black"), memory_row(61, grade=None, group=71)]
    return dataset_in_memory("many", rows)


@pytest.mark.parametrize("num_folds", [2, 3, 5])
def test_with_folds_every_photograph_is_a_test_photograph_exactly_once(many: PreparedDataset, num_folds: int) -> None:
    tested: list[str] = []
    for fold in range(1, num_folds + 1):
        of_fold = many.with_fold(fold, num_folds)
        assert (of_fold.hash, of_fold.name, len(of_fold.rows)) == (many.hash, many.name, len(many.rows))
        tested += [row.source for row in of_fold.graded_rows("test")]
        sizes = [len(of_fold.graded_rows(split)) for split in ("train", "validation", "test")]
        assert sum(sizes) == 60
        assert sizes[2] == pytest.approx(60 / num_folds, abs=4)
        assert sizes[1] == pytest.approx((60 - sizes[2]) / 8, abs=3)
    assert sorted(tested) == sorted(row.source for row in many.graded_rows())


@pytest.mark.parametrize("fold", range(1, 6))
def test_a_fold_never_separates_a_group(many: PreparedDataset, fold: int) -> None:
    splits = defaultdict(set)
    for row in many.with_fold(fold).graded_rows():
        splits[row.group].add(row.split)
    assert len(splits) == 50 and all(len(found) == 1 for found in splits.values())


def test_folds_are_those_of_the_manifest_where_there_are_as_many(mixed: Path) -> None:
    dataset = prepare(mixed, seed=3)
    for fold in range(1, 6):
        tested = {row.source for row in dataset.with_fold(fold).graded_rows("test")}
        assert tested == {row.source for row in dataset.graded_rows() if row.fold == fold - 1}


def test_what_has_no_grade_or_image_is_in_no_fold(many: PreparedDataset) -> None:
    for fold in (1, 2):
        assert [row.split for row in many.with_fold(fold, 2).rows[60:]] == [None, None]


def test_a_fold_does_not_depend_on_the_splits_before(many: PreparedDataset) -> None:
    first = many.with_fold(2)
    assert first == many.with_fold(2) == many.with_fold(4).with_fold(2)
    assert first.rows != many.with_fold(3).rows


@pytest.mark.parametrize(("fold", "num_folds"), [(0, 5), (6, 5), (-1, 5), (1, 1), (1, 0)])
def test_a_fold_that_does_not_exist_is_refused(fold: int, num_folds: int, many: PreparedDataset) -> None:
    with pytest.raises(DatasetError, match=rf"no fold {fold} of {num_folds}; expected 1 to {num_folds}"):
        many.with_fold(fold, num_folds)


# Where photographs are


def test_photographs_are_found_where_they_were_prepared(small: Path, mixed: Path) -> None:
    first, second = prepare(small, "first"), prepare(mixed, "second")
    for dataset, folder in ((load_dataset(first.directory), small), (load_dataset(second.directory), mixed)):
        for row in dataset.graded_rows():
            assert dataset.photograph_path(row).resolve() == (folder / row.source).resolve()
            assert dataset.photograph_path(row).is_file()


def test_photographs_of_odd_names_are_found(tmp_path: Path) -> None:
    """Bytes that are not UTF-8, as old archives have them, and line breaks."""
    for grade in "02":
        (tmp_path / "odd" / grade).mkdir(parents=True)
    names = [os.fsdecode(b"gr\xf6n.png"), "two\nlines.png", "back\\x41slash.png"]
    try:
        for number, name in enumerate(names):
            (tmp_path / "odd" / "02"[number % 2] / name).write_bytes(eye_png(number))
    except OSError:
        pytest.skip("this file system takes only UTF-8")
    dataset = prepare_dataset(find_samples([tmp_path / "odd"]), name="odd", recipe=RECIPE, num_workers=1)
    again = load_dataset(dataset.directory)
    assert sorted(again.photograph_path(row).name for row in again.graded_rows()) == sorted(names)


def test_a_data_set_that_does_not_know_its_photographs_says_so() -> None:
    dataset = dataset_in_memory("old", [memory_row(1, grade=Grade(0), group=0)])
    with pytest.raises(DatasetError, match=r"'old' does not say where its photographs are; run `fundusgrade preproc"):
        dataset.photograph_path(dataset.rows[0])
