"""Label files and folders as data sets publish them: each layout is read, and what is ambiguous is an error."""

from __future__ import annotations

import codecs
import sys
from pathlib import Path

import pytest

from fundusgrade.data.label_files import label_columns
from fundusgrade.data.label_layouts import LabelColumns
from fundusgrade.data.labels import find_samples
from fundusgrade.data.samples import Sample
from fundusgrade.errors import DatasetError
from fundusgrade.grades import Grade

COLUMNS = LabelColumns(image="file", grade="dr")


def add_photographs(folder: Path, *names: str) -> None:
    """Files that only look like photographs: labels are read without decoding any."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())


def write_labels(folder: Path, *lines: str, name: str = "train.csv") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / name


def brief(samples: tuple[Sample, ...]) -> list[tuple[str, int | None]]:
    return [(sample.source, None if sample.grade is None else int(sample.grade)) for sample in samples]


# Layouts


def test_aptos_as_published(tmp_path: Path) -> None:
    add_photographs(tmp_path, "train_images/000c.png", "train_images/001a.png", "train_images/005b.png")
    write_labels(tmp_path, "id_code,diagnosis", "000c,2", "001a,4", "005b,0")
    write_labels(tmp_path, "id_code,diagnosis", "f00d,0", name="sample_submission.csv")
    write_labels(tmp_path, "id_code", "f00d", name="test.csv")
    found = find_samples([tmp_path])
    assert (found.layout, found.num_unlabeled_left_out) == ("aptos", 0)
    assert brief(found.samples) == [
        ("train_images/000c.png", 2),
        ("train_images/001a.png", 4),
        ("train_images/005b.png", 0),
    ]
    assert found.samples[0].path == tmp_path / "train_images" / "000c.png"
    assert {sample.error for sample in found.samples} == {None}


def test_aptos_with_any_suffix_and_photographs_without_label(tmp_path: Path) -> None:
    add_photographs(tmp_path, "train_images/a.jpg", "train_images/b.JPEG", "test_images/c.tif")
    write_labels(tmp_path, "id_code,diagnosis", "a,1", "b,3")
    found = find_samples([tmp_path])
    assert brief(found.samples) == [("train_images/a.jpg", 1), ("train_images/b.JPEG", 3)]
    assert found.num_unlabeled_left_out == 1


def test_eyepacs_gives_patient_and_eye_in_the_name(tmp_path: Path) -> None:
    add_photographs(tmp_path, "10_left.jpeg", "10_right.jpeg", "13_left.jpeg")
    write_labels(tmp_path, "image,level", "10_left,0", "10_right,1", "13_left.jpeg,0", name="trainLabels.csv")
    found = find_samples([tmp_path])
    assert found.layout == "eyepacs"
    assert [(sample.patient, sample.eye) for sample in found.samples] == [
        ("10", "left"),
        ("10", "right"),
        ("13", "left"),
    ]


def test_eyepacs_columns_have_precedence_over_the_name(tmp_path: Path) -> None:
    add_photographs(tmp_path, "10_left.jpeg", "11_left.jpeg", "scan.jpeg")
    lines = "image,level,patient,eye,quality", "10_left,0,P7,right,good", "11_left,1,,,good", "scan,2,,,good"
    write_labels(tmp_path, *lines, name="labels.csv")
    found = find_samples([tmp_path])
    assert [(sample.patient, sample.eye) for sample in found.samples] == [("P7", "right"), ("11", "left"), (None, None)]


def test_idrid_with_blanks_in_the_header_and_empty_columns(tmp_path: Path) -> None:
    add_photographs(tmp_path, "images/IDRiD_001.jpg", "images/IDRiD_002.jpg")
    write_labels(
        tmp_path,
        "Image name,Retinopathy grade,Risk of macular edema ,,,,,",
        "IDRiD_001,3,2,,,,,",
        "IDRiD_002,0,0,,,,,",
        ",,,,,,,",
        name="a. IDRiD_Disease Grading_Training Labels.csv",
    )
    found = find_samples([tmp_path])
    assert found.layout == "idrid"
    assert brief(found.samples) == [("images/IDRiD_001.jpg", 3), ("images/IDRiD_002.jpg", 0)]


def test_folders_by_number(tmp_path: Path) -> None:
    add_photographs(tmp_path, "0/a.png", "0/b.png", "2/c.png", "4/deeper/d.png")
    found = find_samples([tmp_path])
    assert (found.layout, found.num_unlabeled_left_out) == ("folders", 0)
    assert brief(found.samples) == [("0/a.png", 0), ("0/b.png", 0), ("2/c.png", 2), ("4/deeper/d.png", 4)]


def test_folders_by_name(tmp_path: Path) -> None:
    names = ["No_DR", "Mild", "Moderate", "Severe", "Proliferate_DR"]
    add_photographs(tmp_path, *(f"{name}/eye.png" for name in names), "ungradable/x.png")
    found = find_samples([tmp_path])
    assert {sample.source.split("/")[0]: sample.grade for sample in found.samples} == dict(
        zip(names, Grade, strict=True)
    )
    assert found.num_unlabeled_left_out == 1


@pytest.mark.parametrize(
    ("name", "grade"),
    [
        ("no dr", 0),
        ("Healthy", 0),
        ("mild-DR", 1),
        ("MODERATE", 2),
        ("severe_dr", 3),
        ("PDR", 4),
        ("Proliferative DR", 4),
    ],
)
def test_folder_names_are_recognized_in_many_spellings(name: str, grade: int, tmp_path: Path) -> None:
    other = "Moderate" if grade != 2 else "Mild"
    add_photographs(tmp_path, f"{name}/a.png", f"{other}/b.png")
    grades = {sample.source: sample.grade for sample in find_samples([tmp_path]).samples}
    assert grades[f"{name}/a.png"] == grade


def test_numbered_folders_beyond_the_grades_are_not_guessed(tmp_path: Path) -> None:
    add_photographs(tmp_path, *(f"{number}/eye.png" for number in range(1, 8)))
    with pytest.raises(DatasetError, match=r"folders for the grades 0-4, but also 5, 6, 7; .* move the other"):
        find_samples([tmp_path])


def test_grade_folders_without_photographs_are_an_error(tmp_path: Path) -> None:
    for name in ("Mild", "Severe"):
        (tmp_path / name).mkdir()
    with pytest.raises(DatasetError, match=r"contain no photographs; expected .*PNG"):
        find_samples([tmp_path])


def test_columns_that_the_user_names(tmp_path: Path) -> None:
    add_photographs(tmp_path, "clinic/a.png", "b.png")
    lines = "file,who,side,dr,where", "clinic/a.png, p1 ,L,2,north", "b.png,p2,R,3.0,"
    write_labels(tmp_path, *lines, name="any.csv")
    columns = LabelColumns(image="file", grade="dr", patient="who", eye="side", site="where")
    found = find_samples([tmp_path], columns=columns)
    assert found.layout == "columns"
    assert brief(found.samples) == [("clinic/a.png", 2), ("b.png", 3)]
    assert [(sample.patient, sample.eye, sample.site) for sample in found.samples] == [
        ("p1", "L", "north"),
        ("p2", "R", None),
    ]


def test_a_label_file_outside_the_folder(tmp_path: Path) -> None:
    add_photographs(tmp_path / "photographs", "a.png")
    labels = write_labels(tmp_path, "image,level", "a,4", name="elsewhere.csv")
    assert brief(find_samples([tmp_path / "photographs"], labels=labels).samples) == [("a.png", 4)]


def test_a_byte_order_mark_and_carriage_returns(tmp_path: Path) -> None:
    add_photographs(tmp_path, "a.png")
    (tmp_path / "labels.csv").write_bytes(codecs.BOM_UTF8 + b"id_code,diagnosis\r\na,2\r\n\r\n")
    assert brief(find_samples([tmp_path]).samples) == [("a.png", 2)]


def test_an_unlabeled_folder_and_single_files(tmp_path: Path) -> None:
    add_photographs(tmp_path, "folder/b.png", "folder/deeper/a.jpg", "single.tif", "folder/notes.txt")
    found = find_samples([tmp_path / "folder"])
    assert found.layout == "photographs"
    assert [sample.path for sample in found.samples] == [
        tmp_path / "folder" / "b.png",
        tmp_path / "folder" / "deeper" / "a.jpg",
    ]
    assert {sample.grade for sample in found.samples} == {None}
    several = find_samples([tmp_path / "single.tif", tmp_path / "folder"])
    assert [Path(sample.source).name for sample in several.samples] == ["single.tif", "b.png", "a.jpg"]
    assert len({sample.source for sample in several.samples}) == 3


# Rows that cannot be used


def test_a_missing_photograph_is_a_row_with_the_reason(tmp_path: Path) -> None:
    add_photographs(tmp_path, "a.png")
    write_labels(tmp_path, "id_code,diagnosis", "a,2", "gone,3")
    here, gone = find_samples([tmp_path]).samples
    assert here.error is None
    assert (gone.source, gone.path, gone.grade) == ("gone", None, Grade.SEVERE)
    assert gone.error is not None and "no photograph named 'gone'" in gone.error


@pytest.mark.parametrize("grade", ["", "5", "-1", "-0.5", "2.7", "two", "nan", "inf", "1e999", "0x1"])
def test_an_invalid_grade_is_a_row_with_the_reason(grade: str, tmp_path: Path) -> None:
    add_photographs(tmp_path, "a.png", "b.png")
    write_labels(tmp_path, "id_code,diagnosis", f"a,{grade}", "b,1")
    bad, good = find_samples([tmp_path]).samples
    assert (bad.grade, bad.path) == (None, tmp_path / "a.png")
    assert bad.error == f"grade {grade!r} is not one of 0-4"
    assert (good.grade, good.error) == (Grade.MILD, None)


def test_a_row_cut_short_is_a_row_with_the_reason(tmp_path: Path) -> None:
    add_photographs(tmp_path, "a.png", "b.png")
    write_labels(tmp_path, "id_code,diagnosis", "a", "b,1,more,cells")
    short, long = find_samples([tmp_path]).samples
    assert short.grade is None and short.error is not None
    assert (long.grade, long.error) == (Grade.MILD, None)


def test_one_name_in_two_folders_is_a_row_with_both_places(tmp_path: Path) -> None:
    add_photographs(tmp_path, "left/001.png", "right/001.jpg", "left/002.png")
    write_labels(tmp_path, "id_code,diagnosis", "001,2", "002,1")
    ambiguous, clear = find_samples([tmp_path]).samples
    assert ambiguous.path is None
    assert ambiguous.error is not None and "several photographs are named '001' (in left, right)" in ambiguous.error
    assert clear.error is None


def test_a_path_distinguishes_photographs_of_one_name(tmp_path: Path) -> None:
    add_photographs(tmp_path, "left/001.png", "right/001.png", "002.png", "old/002.png")
    lines = "image,level", "left/001.png,1", "right/001,2", "./002.png,3", f"{tmp_path}/old/002.png,4"
    write_labels(tmp_path, *lines)
    assert brief(find_samples([tmp_path]).samples) == [
        ("left/001.png", 1),
        ("right/001.png", 2),
        ("002.png", 3),
        ("old/002.png", 4),
    ]


def test_a_path_never_means_a_photograph_of_another_folder(tmp_path: Path) -> None:
    add_photographs(tmp_path, "right/001.png")
    write_labels(tmp_path, "image,level", "left/001.png,1", "right/001.png,2")
    left, right = find_samples([tmp_path]).samples
    assert left.path is None and left.error is not None
    assert (right.path, right.grade) == (tmp_path / "right" / "001.png", Grade.MODERATE)


def test_a_label_may_name_folders_above(tmp_path: Path) -> None:
    add_photographs(tmp_path / "train", "a.png")
    write_labels(tmp_path / "train", "image,level", "train/a.png,1")
    assert brief(find_samples([tmp_path / "train"]).samples) == [("a.png", 1)]


@pytest.mark.parametrize("image", ["../../etc/x.jpg", "../x.jpg", "{outside}/x.jpg", "..", "/", ".", "../x"])
def test_a_path_out_of_the_folder_is_not_followed(image: str, tmp_path: Path) -> None:
    folder = tmp_path / "one" / "two"
    add_photographs(tmp_path, "etc/x.jpg", "x.jpg", "one/x.jpg", "one/two/a.png")
    write_labels(folder, "image,level", f"{image.format(outside=tmp_path)},1", "a,2")
    outside, inside = find_samples([folder]).samples
    assert outside.path is None and outside.error is not None and "no photograph named" in outside.error
    assert inside.error is None


def test_overlong_names_and_odd_bytes_are_rows(tmp_path: Path) -> None:
    add_photographs(tmp_path, "a.png")
    write_labels(tmp_path, "image,level", f"{'x' * 5000}.png,1", "a,2")
    assert [sample.error is None for sample in find_samples([tmp_path]).samples] == [False, True]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems keep names as text")
def test_a_name_that_is_not_utf8_becomes_text(tmp_path: Path) -> None:
    add_photographs(tmp_path, "0/a.png", "1/b.png")
    (tmp_path / "0" / "a.png").rename(tmp_path / "0" / "\udce4uge.png")
    samples = find_samples([tmp_path]).samples
    assert [sample.source for sample in samples] == ["0/\\xe4uge.png", "1/b.png"]
    assert samples[0].path is not None and samples[0].path.is_file()


@pytest.mark.skipif(sys.platform == "win32", reason="such names cannot be")
def test_a_name_of_two_lines_becomes_one(tmp_path: Path) -> None:
    add_photographs(tmp_path, "0/a\rb.png", "1/c.png")
    assert [sample.source for sample in find_samples([tmp_path]).samples] == ["0/a\\x0db.png", "1/c.png"]


# What is refused as a whole


def test_rows_that_contradict_each_other_are_an_error(tmp_path: Path) -> None:
    add_photographs(tmp_path, "a.png")
    write_labels(tmp_path, "id_code,diagnosis", "a,2", "a.png,3")
    with pytest.raises(DatasetError, match=r"gives a\.png two different grades"):
        find_samples([tmp_path])


def test_a_repeated_row_is_no_contradiction(tmp_path: Path) -> None:
    add_photographs(tmp_path, "a.png", "b.png")
    write_labels(tmp_path, "id_code,diagnosis", "a,2", "a.png,2")
    found = find_samples([tmp_path])
    assert {sample.source for sample in found.samples} == {"a.png"}
    assert found.num_unlabeled_left_out == 1


def test_two_label_files_are_an_error(tmp_path: Path) -> None:
    add_photographs(tmp_path, "a.png")
    for name in ("one.csv", "two.csv"):
        write_labels(tmp_path, "id_code,diagnosis", "a,2", name=name)
    with pytest.raises(DatasetError, match=r"one\.csv, two\.csv; choose one with --labels"):
        find_samples([tmp_path])
    assert brief(find_samples([tmp_path], labels=tmp_path / "two.csv").samples) == [("a.png", 2)]
    write_labels(tmp_path, "id_code,diagnosis", "a,4", name="train.csv")
    assert brief(find_samples([tmp_path]).samples) == [("a.png", 4)]


def test_an_unknown_header_is_shown(tmp_path: Path) -> None:
    add_photographs(tmp_path, "a.png")
    labels = write_labels(tmp_path, "photo;grade", "a;2")
    with pytest.raises(
        DatasetError, match=r"has the columns photo, grade; expected those of APTOS, EyePACS, .* or name yours"
    ):
        find_samples([tmp_path], labels=labels)


@pytest.mark.parametrize(
    ("columns", "missing"),
    [
        (LabelColumns(image="photo", grade="dr"), "photo"),
        (LabelColumns(image="file", grade="level"), "level"),
        (LabelColumns(image="file", grade="dr", patient="who"), "who"),
    ],
)
def test_a_column_that_does_not_exist_is_named(columns: LabelColumns, missing: str, tmp_path: Path) -> None:
    add_photographs(tmp_path, "a.png")
    write_labels(tmp_path, "file,dr", "a,2")
    with pytest.raises(DatasetError, match=f"has no column '{missing}'; it has file, dr"):
        find_samples([tmp_path], columns=columns)


@pytest.mark.parametrize("text", [b"file,dr\n", b"file,dr\n,,\n\n"])
def test_a_label_file_without_rows_is_an_error(text: bytes, tmp_path: Path) -> None:
    add_photographs(tmp_path, "a.png")
    (tmp_path / "train.csv").write_bytes(text)
    with pytest.raises(DatasetError, match="has a header but no rows"):
        find_samples([tmp_path], columns=COLUMNS)


@pytest.mark.parametrize("text", [b"file,dr\xff\na,1\n", b"file,dr\na,1\n\xe4uge,2\n"])
def test_a_label_file_that_is_not_utf8_is_an_error(text: bytes, tmp_path: Path) -> None:
    add_photographs(tmp_path, "a.png")
    (tmp_path / "train.csv").write_bytes(text)
    with pytest.raises(DatasetError, match=r"cannot read the label file .* expected a CSV in UTF-8"):
        find_samples([tmp_path], columns=COLUMNS)


def test_hidden_files_beside_the_labels_do_not_matter(tmp_path: Path) -> None:
    add_photographs(tmp_path, "a.png", "._a.png")
    write_labels(tmp_path, "id_code,diagnosis", "a,2")
    (tmp_path / "._train.csv").write_bytes(b"\x00\x05\x16\x07\xff\xfe")
    found = find_samples([tmp_path])
    assert (brief(found.samples), found.num_unlabeled_left_out) == ([("a.png", 2)], 0)


def test_a_label_file_needs_one_folder(tmp_path: Path) -> None:
    add_photographs(tmp_path, "a.png", "b/c.png")
    labels = write_labels(tmp_path, "id_code,diagnosis", "a,2")
    for sources in ([tmp_path, tmp_path / "b"], [tmp_path / "a.png"], [tmp_path / "missing"]):
        with pytest.raises(DatasetError, match="exactly one folder"):
            find_samples(sources, labels=labels)
    with pytest.raises(DatasetError, match=r"cannot read the label file .*gone\.csv"):
        find_samples([tmp_path], labels=tmp_path / "gone.csv")


def test_sources_without_photographs_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"no photographs in .*expected .*WebP"):
        find_samples([tmp_path])
    with pytest.raises(DatasetError, match=r"no such file or folder: .*missing"):
        find_samples([tmp_path / "missing"])


def test_columns_come_in_pairs() -> None:
    assert label_columns(None, None, None, None, None) is None
    assert label_columns("file", "dr", None, "side", None) == LabelColumns(image="file", grade="dr", eye="side")
    for image, grade in (("file", None), (None, "dr")):
        with pytest.raises(DatasetError, match="needed together"):
            label_columns(image, grade, None, None, None)
    with pytest.raises(DatasetError, match="need --image-column and --grade-column"):
        label_columns(None, None, "who", None, None)
