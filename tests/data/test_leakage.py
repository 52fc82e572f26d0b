"""Photographs that a model was trained on are found: the file, a copy of it, its patient; and no others are."""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from fundusgrade.data.concatenation import concatenate_datasets
from fundusgrade.data.dataset import PreparedDataset, load_dataset
from fundusgrade.data.descriptors import centered, descriptor_path, read_descriptor, write_descriptor
from fundusgrade.data.duplicates import MIN_CORRELATION
from fundusgrade.data.fingerprints import FINGERPRINT_BITS, FINGERPRINT_BYTES, fingerprint
from fundusgrade.data.label_files import LabelColumns
from fundusgrade.data.labels import find_samples
from fundusgrade.data.leakage import Overlap, TrainingFingerprints, collect_fingerprints, find_overlap
from fundusgrade.data.manifest import ManifestRow
from fundusgrade.data.prepare import prepare_dataset
from fundusgrade.files import HOME_VARIABLE
from fundusgrade.photographs.recipe import Method, PreprocessRecipe
from tests.models_for_tests import drawn_photograph

RECIPE = PreprocessRecipe(method=Method.NATURAL, size_px=32)
# So many bits may differ where no descriptor is stored.
MAX_DIFFERENT_BITS = math.floor(FINGERPRINT_BITS * math.acos(MIN_CORRELATION) / math.pi)
NOTHING = Overlap(files=(), copies=(), patients=())


def save(folder: Path, labels: Sequence[str]) -> PreparedDataset:
    """Prepare the photographs of a folder, in a store beside it; a label is FILE,GRADE,PATIENT."""
    (folder / "labels.csv").write_text("file,dr,who\n" + "".join(f"{label}\n" for label in labels))
    found = find_samples([folder], columns=LabelColumns(image="file", grade="dr", patient="who"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(HOME_VARIABLE, str(folder.parent / "home"))
        return prepare_dataset(found, name=folder.name, recipe=RECIPE, num_workers=1)


def png(seed: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(drawn_photograph(seed)).save(buffer, "PNG")
    return buffer.getvalue()


def smaller_jpeg(seed: int) -> bytes:
    """The photograph as another archive would keep it: at four fifths of its size, compressed."""
    buffer = io.BytesIO()
    Image.fromarray(drawn_photograph(seed)).resize((128, 128), Image.Resampling.LANCZOS).save(
        buffer, "JPEG", quality=80
    )
    return buffer.getvalue()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    """Five photographs, the first of patient 17."""
    folder = tmp_path_factory.mktemp("photographs") / "trained"
    folder.mkdir()
    for seed in range(5):
        (folder / f"eye{seed}.png").write_bytes(png(seed))
    return save(folder, ["eye0,0,17", *(f"eye{seed},{seed}," for seed in range(1, 5))])


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    """The file of eye 1 under another name, eye 2 compressed, and two new eyes, one of a patient 17."""
    folder = tmp_path_factory.mktemp("photographs") / "evaluated"
    folder.mkdir()
    files = {"same.png": png(1), "copy.jpg": smaller_jpeg(2), "new.png": png(20), "other.png": png(21)}
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return save(folder, ["same,1,", "copy,2,", "new,0,", "other,3,17"])


def fingerprints_of(dataset: PreparedDataset) -> TrainingFingerprints:
    return collect_fingerprints(dataset, dataset.graded_rows())


def shapes(of: TrainingFingerprints) -> tuple[tuple[int, ...], ...]:
    return of.files.shape, of.fingerprints.shape, of.patients.shape


# Real files


def test_the_same_file_and_a_compressed_copy_are_found_and_new_eyes_are_not(
    trained: PreparedDataset, evaluated: PreparedDataset
) -> None:
    overlap = find_overlap(fingerprints_of(trained), evaluated, evaluated.graded_rows())
    assert overlap == Overlap(files=("same.png",), copies=("copy.jpg",), patients=())
    assert overlap.sources == ("same.png", "copy.jpg")


def test_a_data_set_overlaps_wholly_with_itself(trained: PreparedDataset) -> None:
    rows = trained.graded_rows()
    overlap = find_overlap(fingerprints_of(trained), trained, rows)
    assert overlap == Overlap(files=tuple(row.source for row in rows), copies=(), patients=())


def test_new_photographs_of_a_training_patient_are_found_in_the_same_data_set_only(
    trained: PreparedDataset, evaluated: PreparedDataset
) -> None:
    """A number such as 17 is given to another person elsewhere."""
    rows = [row for row in evaluated.graded_rows() if row.patient == "17"]
    assert [row.source for row in rows] == ["other.png"]
    assert find_overlap(fingerprints_of(trained), evaluated, rows) == NOTHING
    same_data = replace(evaluated, name=trained.name)
    assert find_overlap(fingerprints_of(trained), same_data, rows) == Overlap(
        files=(), copies=(), patients=("other.png",)
    )


def test_a_patient_of_concatenated_data_sets_is_that_of_its_own_data_set(
    trained: PreparedDataset, evaluated: PreparedDataset
) -> None:
    only_new = replace(evaluated, rows=evaluated.rows[2:])
    concatenated = concatenate_datasets([trained, replace(only_new, name="elsewhere")])
    known = fingerprints_of(concatenated)
    assert len(known.patients) == 2, "patient 17 of each"
    rows = [replace(memory_row("new"), patient="17"), replace(memory_row("stranger"), patient="18")]
    for name, found in (("trained", ("new",)), ("elsewhere", ("new",)), ("third", ()), (concatenated.name, ())):
        assert find_overlap(known, replace(trained, name=name), rows).patients == found


def test_a_copy_that_was_cut_and_moved_is_found_by_registration(trained: PreparedDataset, tmp_path: Path) -> None:
    """Its fingerprint alone does not tell: the copy's descriptor is registered with the training fingerprint."""
    row = next(row for row in trained.graded_rows() if row.source == "eye2.png")
    original = read_descriptor(descriptor_path(trained.directory / row.image))
    assert original is not None
    matrix = np.array([[1.02, 0, 0], [0, 1, 0.8]])
    moved = cv2.warpAffine(centered(original), matrix, original.shape, flags=cv2.INTER_CUBIC)
    descriptor = np.clip(np.rint(moved), -127, 127).astype(np.int8)
    write_descriptor(tmp_path / "moved.npy", descriptor)
    copy = replace(memory_row("moved"), fingerprint=fingerprint(descriptor), image="moved.png")
    elsewhere = replace(trained, directory=tmp_path)
    assert find_overlap(fingerprints_of(trained), elsewhere, [copy]).copies == ("moved",)
    assert find_overlap(fingerprints_of(trained), elsewhere, [replace(copy, image="")]).copies == ()


# Fingerprints


def memory_row(source: str, bits: int | None = None) -> ManifestRow:
    return ManifestRow(
        image="", source=source, grade=None, split=None, fold=None, group=0, patient=None, eye=None, site=None,
        error=None, conflict=False, sha256=hashlib.sha256(source.encode()).hexdigest(),
        fingerprint=None if bits is None else f"{bits:0{2 * FINGERPRINT_BYTES}x}",
    )  # fmt: skip


def random_bits(seed: int) -> int:
    return int.from_bytes(np.random.default_rng(seed).bytes(FINGERPRINT_BYTES))


def test_a_fingerprint_may_differ_in_as_many_bits_as_a_copy_may(trained: PreparedDataset) -> None:
    bits = random_bits(0)
    known = collect_fingerprints(trained, [memory_row("trained", bits), memory_row("another", random_bits(1))])
    rows = [memory_row(f"{num}", bits ^ ((1 << num) - 1)) for num in (0, 1, MAX_DIFFERENT_BITS, MAX_DIFFERENT_BITS + 1)]
    assert find_overlap(known, trained, rows).copies == ("0", "1", str(MAX_DIFFERENT_BITS))


def test_what_has_no_fingerprint_is_no_copy_of_a_dark_image(trained: PreparedDataset) -> None:
    known = collect_fingerprints(trained, [memory_row("all bits are 0", 0)])
    assert find_overlap(known, trained, [memory_row("unknown"), memory_row("dark", 1)]).copies == ("dark",)


def test_copies_are_found_among_many_photographs(trained: PreparedDataset) -> None:
    known = collect_fingerprints(trained, [memory_row("trained", random_bits(5))])
    rows = [memory_row(str(seed), random_bits(seed)) for seed in range(10, 2100)]
    rows[3], rows[-1] = memory_row("first", random_bits(5)), memory_row("last", random_bits(5))
    assert find_overlap(known, trained, rows).copies == ("first", "last")


def test_each_photograph_is_counted_once_by_its_strongest_match(trained: PreparedDataset) -> None:
    first = replace(memory_row("trained", random_bits(0)), patient="P")
    copy = replace(memory_row("copy", random_bits(0)), patient="P")
    other = replace(memory_row("other", random_bits(1)), patient="P")
    overlap = find_overlap(collect_fingerprints(trained, [first]), trained, [other, copy, first])
    assert overlap == Overlap(files=("trained",), copies=("copy",), patients=("other",))


def test_fingerprints_are_few_bytes_that_name_neither_file_nor_patient_and_have_no_order(
    trained: PreparedDataset,
) -> None:
    rows = trained.graded_rows()
    fingerprints = collect_fingerprints(trained, rows)
    reversed_order = collect_fingerprints(trained, [*rows[::-1], rows[0]])
    assert shapes(fingerprints) == ((5, 8), (5, 128), (1, 8))
    for name in ("files", "fingerprints", "patients"):
        assert getattr(fingerprints, name).dtype == np.uint8
        assert np.array_equal(getattr(fingerprints, name), getattr(reversed_order, name))
    assert b"17" not in fingerprints.patients.tobytes()
    assert {each.tobytes().hex() for each in fingerprints.files} == {row.sha256[:16] for row in rows}


def test_a_model_without_fingerprints_is_unknown_and_one_with_them_is_known(trained: PreparedDataset) -> None:
    unknown = collect_fingerprints(trained, [])
    assert shapes(unknown) == ((0, 8), (0, 128), (0, 8))
    assert not unknown.is_known and fingerprints_of(trained).is_known
    assert find_overlap(unknown, trained, trained.graded_rows()) == NOTHING
    assert find_overlap(fingerprints_of(trained), trained, []) == NOTHING


def test_only_the_photographs_given_are_found_again(trained: PreparedDataset) -> None:
    again = load_dataset(trained.directory)
    rows = again.graded_rows()
    fingerprints = collect_fingerprints(again, rows[1:3])
    assert shapes(fingerprints) == ((2, 8), (2, 128), (0, 8))
    assert find_overlap(fingerprints, trained, rows) == Overlap(files=("eye1.png", "eye2.png"), copies=(), patients=())
