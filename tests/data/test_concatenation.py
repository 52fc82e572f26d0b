"""Concatenated data sets: nothing that one holds out may train in another, and every photograph is found."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fundusgrade import store
from fundusgrade.data.concatenation import concatenate_datasets, open_dataset
from fundusgrade.data.dataset import PreparedDataset, load_dataset
from fundusgrade.data.fingerprints import FINGERPRINT_BYTES
from fundusgrade.data.labels import find_samples
from fundusgrade.data.prepare import prepare_dataset
from fundusgrade.errors import DatasetError, StoreError
from fundusgrade.grades import Grade
from fundusgrade.options import FoldsBy
from fundusgrade.photographs.images import read_image
from fundusgrade.photographs.recipe import Method, PreprocessRecipe
from tests.prepared import RECIPE, dataset_in_memory, eye_png, memory_row


def prepare(folder: Path, name: str = "eyes") -> PreparedDataset:
    return prepare_dataset(find_samples([folder]), name=name, recipe=RECIPE, num_workers=1)


def test_concatenated_data_sets_keep_names_splits_and_images_apart(small: Path) -> None:
    first, second = prepare(small, "first"), dataset_in_memory("second", [memory_row(7, grade=Grade(2), group=0)])
    concatenated = concatenate_datasets([first, second])
    assert concatenated.name == "first+second"
    assert [row.source for row in concatenated.rows] == [*(f"first/{row.source}" for row in first.rows), "second/7.png"]
    assert [row.origin for row in concatenated.rows] == ["first"] * 5 + ["second"]
    assert [(row.split, row.grade) for row in concatenated.rows[:5]] == [(row.split, row.grade) for row in first.rows]
    for own, row in zip(first.rows, concatenated.rows, strict=False):
        assert np.array_equal(read_image(concatenated.directory / row.image), read_image(first.directory / own.image))
    assert len({row.group for row in concatenated.rows}) == 6, "group 0 of one is not group 0 of the other"
    assert concatenated.hash not in (first.hash, second.hash)
    assert concatenated.hash != concatenate_datasets([second, first]).hash


def test_data_sets_given_by_relative_folders_keep_their_images(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = prepare(small, "first"), prepare(small, "second")
    monkeypatch.chdir(first.directory.parent)
    concatenated = open_dataset(["first", "./second"])
    monkeypatch.chdir(first.directory)
    for own, row in zip((*first.rows, *second.rows), concatenated.rows, strict=True):
        assert np.array_equal(read_image(concatenated.directory / row.image), read_image(first.directory / own.image))


def test_one_data_set_concatenated_is_itself(small: Path) -> None:
    dataset = prepare(small)
    assert concatenate_datasets([dataset]) is dataset


def test_patients_of_different_data_sets_are_different_people() -> None:
    """Both have a patient 17: they are different people, and photographs without a hash are not copies either."""
    rows = [
        replace(memory_row(i, grade=Grade(0), group=0, split=split), patient="17", sha256=sha256)
        for i, (split, sha256) in enumerate([("train", "a"), ("train", "")])
    ]
    others = [replace(row, split="test", sha256=row.sha256 and "b") for row in rows]
    concatenated = concatenate_datasets([dataset_in_memory("first", rows), dataset_in_memory("second", others)])
    assert [row.group for row in concatenated.rows] == [0, 0, 1, 1]


FAR, NEAR = "00" * FINGERPRINT_BYTES, "0f" * 3 + "00" * (FINGERPRINT_BYTES - 3)


@pytest.mark.parametrize("is_same_file", [True, False], ids=["the same file", "a copy of it"])
def test_a_photograph_that_trains_in_one_set_must_not_be_held_out_in_another(is_same_file: bool) -> None:
    trained = replace(memory_row(1, grade=Grade(0), group=0, split="train"), fingerprint=FAR)
    held_out = replace(trained, source="copy.png", split="test")
    if not is_same_file:
        held_out = replace(held_out, sha256="f" * 64, fingerprint=NEAR)
    sets = [dataset_in_memory("first", [trained]), dataset_in_memory("second", [held_out])]
    with pytest.raises(
        DatasetError, match=r"first/1\.png \(train\) and second/copy\.png \(test\) are copies .* as one data set"
    ):
        concatenate_datasets(sets)


def test_copies_in_two_concatenated_sets_are_one_group_that_no_fold_separates() -> None:
    rows = [memory_row(i, grade=Grade(i % 5), group=i, split="train") for i in range(30)]
    copies = [replace(row, group=29 - i) for i, row in enumerate(rows)]
    concatenated = concatenate_datasets([dataset_in_memory("first", rows), dataset_in_memory("second", copies)])
    assert [row.group for row in concatenated.rows] == [*range(30), *range(30)]
    for fold in range(1, 6):
        splits = [row.split for row in concatenated.with_fold(fold).rows]
        assert splits[:30] == splits[30:] and set(splits) == {"train", "validation", "test"}


# Folds by source


def three_sources() -> PreparedDataset:
    """Three data sets of 20 photographs; five of the second are copies of photographs of the first in other splits."""
    splits = ["train"] * 12 + ["validation"] * 4 + ["test"] * 4
    rows = [memory_row(i, grade=Grade(i % 5), group=i, split=split) for i, split in enumerate(splits)]
    others = [replace(row, sha256=f"{100 + i:064x}") for i, row in enumerate(rows)]
    copies = [replace(row, sha256=rows[19 - i].sha256) for i, row in enumerate(others[:5])]
    third = [replace(row, sha256=f"{200 + i:064x}") for i, row in enumerate(rows)]
    parts = {"first": rows, "second": [*copies, *others[5:]], "third": third}
    sets = [dataset_in_memory(name, rows_of) for name, rows_of in parts.items()]
    with pytest.raises(DatasetError, match="are copies of one photograph in different splits"):
        concatenate_datasets(sets)
    return concatenate_datasets(sets, check_splits=False)


def test_a_fold_by_source_tests_one_data_set_and_no_copy_of_it_trains_or_chooses() -> None:
    dataset = three_sources()
    tested = []
    for fold, name in enumerate(dataset.source_names, 1):
        of_fold = dataset.with_fold(fold, 3, FoldsBy.SOURCE)
        test = of_fold.graded_rows("test")
        assert {row.origin for row in test} == {name} and len(test) == 20
        tested += [row.source for row in test]
        used = (*of_fold.graded_rows("train"), *of_fold.graded_rows("validation"))
        assert not {row.group for row in used} & {row.group for row in test}
        assert not {row.sha256 for row in used} & {row.sha256 for row in test}
        assert len(used) == (40 if name == "third" else 35)
        again = of_fold.with_fold(fold, 3, FoldsBy.SOURCE)
        assert again.rows == of_fold.rows, "a model's training splits are taken from its fold again"
    assert sorted(tested) == sorted(row.source for row in dataset.rows)


def test_folds_by_source_need_two_sources_and_one_fold_for_each() -> None:
    dataset = three_sources()
    for fold, num_folds in ((4, 3), (0, 3), (1, 2)):
        with pytest.raises(DatasetError, match=rf"no fold {fold} of {num_folds} by source; expected 1 to 3, one for"):
            dataset.with_fold(fold, num_folds, FoldsBy.SOURCE)
    with pytest.raises(DatasetError, match=r"'first' is one data set only; name two or more with --data"):
        dataset.parts[0].with_fold(1, 1, FoldsBy.SOURCE)


def test_a_source_without_which_nothing_can_train_or_choose_is_not_held_out() -> None:
    rows = [memory_row(i, grade=Grade(i % 5), group=i, split="train") for i in range(10)]
    others = [replace(row, sha256=f"{100 + i:064x}", split="validation") for i, row in enumerate(rows)]
    dataset = concatenate_datasets([dataset_in_memory("first", rows), dataset_in_memory("second", others)])
    with pytest.raises(DatasetError, match=r"with 'second' held out .* no photographs for the validation split"):
        dataset.with_fold(2, 2, FoldsBy.SOURCE)
    with pytest.raises(DatasetError, match=r"with 'first' held out .* no photographs for the train split"):
        dataset.with_fold(1, 2, FoldsBy.SOURCE)


def test_data_sets_that_were_preprocessed_differently_are_not_concatenated() -> None:
    rows = [memory_row(1, grade=Grade(0), group=0, split="train")]
    first = dataset_in_memory("first", rows)
    second = replace(dataset_in_memory("second", rows), recipe=PreprocessRecipe(method=Method.CLAHE, size_px=32))
    with pytest.raises(DatasetError, match=r"'first' is natural, .* 'second' is clahe, .*; preprocess them with"):
        concatenate_datasets([first, second])


def test_data_sets_of_one_name_are_not_concatenated() -> None:
    dataset = dataset_in_memory("eyes", [memory_row(1, grade=Grade(0), group=0, split="train")])
    with pytest.raises(DatasetError, match=r"with the same name cannot be concatenated \(eyes, eyes\)"):
        concatenate_datasets([dataset, dataset])


def test_data_sets_are_opened_by_name_by_folder_and_by_several_names(small: Path) -> None:
    first = prepare(small, "first")
    assert open_dataset([]) == open_dataset([str(first.directory)]) == first
    prepare(small, "second")
    concatenated = concatenate_datasets([first, load_dataset(store.resolve_dataset("second"))])
    assert open_dataset(["first", "second"]) == open_dataset([concatenated.name]) == concatenated
    with pytest.raises(StoreError, match="no data set 'third'"):
        open_dataset(["first+third"])


def test_photographs_of_concatenated_data_sets_are_found_in_the_folder_of_each(small: Path, tmp_path: Path) -> None:
    first = prepare(small, "first")
    (tmp_path / "second" / "1").mkdir(parents=True)
    (tmp_path / "second" / "1" / "eye.png").write_bytes(eye_png(9))
    second = prepare_dataset(find_samples([tmp_path / "second"]), name="second", recipe=RECIPE, num_workers=1)
    concatenated = concatenate_datasets([first, second])
    paths = [concatenated.photograph_path(row).resolve() for row in concatenated.rows]
    assert paths[-1] == (tmp_path / "second" / "1" / "eye.png").resolve()
    assert paths[:5] == [first.photograph_path(row).resolve() for row in first.rows]
