"""Each published data set, built as it is downloaded, is read without an option; files are read as people save them."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest

from fundusgrade.data.grade_names import parse_grade_names
from fundusgrade.data.label_layouts import LabelColumns
from fundusgrade.data.labels import find_samples
from fundusgrade.data.samples import RawDataset
from fundusgrade.errors import DatasetError
from fundusgrade.reports.listings import labels_summary


def add(folder: Path, *names: str) -> None:
    """Files that only look like photographs: labels are read without decoding any."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())


def write(path: Path, text: str, encoding: str = "utf-8") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))


def grades(found: RawDataset) -> dict[str, int | str | None]:
    """The grade of each photograph by its source, or the reason why it has none."""
    return {
        sample.source: sample.error or (None if sample.grade is None else int(sample.grade)) for sample in found.samples
    }


# Published trees


def test_aptos_in_three_parts(tmp_path: Path) -> None:
    for name, part, image in (("train_1", "train", "a"), ("valid", "val", "b"), ("test", "test", "c")):
        add(tmp_path, f"{part}_images/{part}_images/{image}.png")
        write(tmp_path / f"{name}.csv", f"id_code,diagnosis\n{image},{ord(image) - 96}\n")
    found = find_samples([tmp_path])
    assert (found.layout, len(found.label_files), found.num_unlabeled_left_out) == ("aptos", 3, 0)
    assert grades(found) == {
        "test_images/test_images/c.png": 3,
        "train_images/train_images/a.png": 1,
        "val_images/val_images/b.png": 2,
    }


def test_eyepacs_with_the_grades_of_its_test_set(tmp_path: Path) -> None:
    add(tmp_path, "train/10_left.jpeg", "train/10_right.jpeg", "test/1_left.jpeg")
    write(tmp_path / "trainLabels.csv", "image,level\n10_left,0\n10_right,4\n")
    write(tmp_path / "retinopathy_solution.csv", "image,level,Usage\n1_left,2,Private\n")
    write(tmp_path / "sampleSubmission.csv", "image,level\n1_left,0\n")
    found = find_samples([tmp_path])
    assert grades(found) == {"test/1_left.jpeg": 2, "train/10_left.jpeg": 0, "train/10_right.jpeg": 4}
    assert {(sample.patient, sample.eye) for sample in found.samples} == {
        ("10", "left"),
        ("10", "right"),
        ("1", "left"),
    }


def idrid(folder: Path) -> None:
    for part in ("B. Disease Grading", "C. Localization"):
        for images in ("a. Training Set", "b. Testing Set"):
            add(folder, f"{part}/1. Original Images/{images}/IDRiD_001.jpg")
    header = "Image name,Retinopathy grade,Risk of macular edema ,,,\n"
    truth = folder / "B. Disease Grading" / "2. Groundtruths"
    write(truth / "a. IDRiD_Disease Grading_Training Labels.csv", f"{header}IDRiD_001,3,2,,,\n")
    write(truth / "b. IDRiD_Disease Grading_Testing Labels.csv", f"{header}IDRiD_001,0,0,,,\n")
    write(folder / "C. Localization" / "2. Groundtruths" / "fovea.csv", "Image No,X- Coordinate\nIDRiD_001,3\n")
    write(folder / "LICENSE.txt", "Creative Commons Attribution 4.0\n")


def test_idrid_names_two_photographs_alike_in_its_two_sets(tmp_path: Path) -> None:
    idrid(tmp_path)
    found = find_samples([tmp_path])
    assert grades(found) == {
        "B. Disease Grading/1. Original Images/a. Training Set/IDRiD_001.jpg": 3,
        "B. Disease Grading/1. Original Images/b. Testing Set/IDRiD_001.jpg": 0,
    }
    assert [path.name for path in found.unread_files] == ["fovea.csv"]
    assert found.num_unlabeled_left_out == 2


def test_idrid_without_its_training_photographs_gives_their_grades_to_no_other(tmp_path: Path) -> None:
    idrid(tmp_path)
    for path in tmp_path.glob("*/*/a. Training Set/*.jpg"):
        path.unlink()
    assert grades(find_samples([tmp_path])) == {
        "IDRiD_001": "no photograph named 'IDRiD_001' below the data set's folder",
        "B. Disease Grading/1. Original Images/b. Testing Set/IDRiD_001.jpg": 0,
    }


def test_ddr_lists_grades_in_text_files_and_ungradable_as_5(tmp_path: Path) -> None:
    root = tmp_path / "DDR-dataset"
    for part, image, grade in (("train", "007-0004-000", 0), ("valid", "007-0025-000", 5), ("test", "007-0040-000", 4)):
        add(root, f"DR_grading/{part}/{image}.jpg")
        write(root / f"DR_grading/{part}.txt", f"{image}.jpg {grade}\n")
    add(root, "lesion_segmentation/train/image/007-0004-000.jpg")
    found = find_samples([tmp_path])
    assert found.layout == "ddr"
    assert grades(found) == {
        "DDR-dataset/DR_grading/test/007-0040-000.jpg": 4,
        "DDR-dataset/DR_grading/train/007-0004-000.jpg": 0,
    }
    assert found.num_unlabeled_left_out == 2, "the ungradable one, and one for segmentation"


def test_messidor_2_with_adjudicated_grades(tmp_path: Path) -> None:
    add(tmp_path, "IMAGES/20051020_43808_0100_PP.png", "IMAGES/IM000001.JPG", "IMAGES/IM000002.JPG")
    write(
        tmp_path / "messidor_data.csv",
        "image_id,adjudicated_dr_grade,adjudicated_dme,adjudicated_gradable\n"
        "20051020_43808_0100_PP.png,0.0,0.0,1\nIM000001.jpg,3.0,1.0,1\nIM000002.jpg,,,0\n",
    )
    write(tmp_path / "messidor-2.csv", "left;right\n20051020_43808_0100_PP.png;IM000001.JPG\n")
    found = find_samples([tmp_path])
    assert grades(found) == {"IMAGES/20051020_43808_0100_PP.png": 0, "IMAGES/IM000001.JPG": 3}
    assert found.num_unlabeled_left_out == 1
    assert {sample.patient for sample in found.samples} == {"20051020_43808_0100_PP.png"}, "a pair is a patient"
    assert labels_summary(found) == (
        "labels: messidor_data.csv (layout messidor2); photographs without a grade: 1, left out"
    )


def test_deepdrid_has_a_column_for_each_eye_and_folders_for_patients(tmp_path: Path) -> None:
    regular = "regular_fundus_images"
    for part, patient in (("training", 1), ("validation", 265)):
        folder = f"{regular}/regular-fundus-{part}"
        add(tmp_path, *(f"{folder}/Images/{patient}/{patient}_{view}.jpg" for view in ("l1", "r1")))
        write(
            tmp_path / folder / f"regular-fundus-{part}.csv",
            "patient_id,image_id,image_path,Overall quality,left_eye_DR_Level,right_eye_DR_Level,patient_DR_Level\n"
            f"{patient},{patient}_l1,\\regular-fundus-{part}\\{patient}\\{patient}_l1.jpg,0,2,,3\n"
            f"{patient},{patient}_r1,\\regular-fundus-{part}\\{patient}\\{patient}_r1.jpg,0,,3,3\n",
        )
    wide = "ultra-widefield_images/ultra-widefield-training"
    add(tmp_path, f"{wide}/Images/1/1_l1.jpg", f"{regular}/Online-Challenge1&2-Evaluation/Images/347/347_l1.jpg")
    write(
        tmp_path / wide / "ultra-widefield-training.csv",
        "patient_id,image_id,image_path,DR_level,position\n1,1_l1,ultra-widefield-training\\1\\1_l1.jpg,0,left_eye\n",
    )
    found = find_samples([tmp_path])
    assert sorted(grades(found).items()) == [
        (f"{regular}/regular-fundus-training/Images/1/1_l1.jpg", 2),
        (f"{regular}/regular-fundus-training/Images/1/1_r1.jpg", 3),
        (f"{regular}/regular-fundus-validation/Images/265/265_l1.jpg", 2),
        (f"{regular}/regular-fundus-validation/Images/265/265_r1.jpg", 3),
    ]
    assert {(sample.patient, sample.eye) for sample in found.samples} >= {("1", "left"), ("265", "right")}
    assert [path.name for path in found.unread_files] == ["ultra-widefield-training.csv"]


def test_fgadr_has_no_header_and_masks_of_the_same_names(tmp_path: Path) -> None:
    for folder in ("Original_Images", "Microaneurysms_Masks", "HardExudate_Masks"):
        add(tmp_path, f"Seg-set/{folder}/0000_1.png", f"Seg-set/{folder}/0001_1.png")
    write(tmp_path / "Seg-set" / "DR_Seg_Grading_Label.csv", "0000_1.png,2\n0001_1.png,4\n")
    found = find_samples([tmp_path])
    assert (found.layout, found.num_unlabeled_left_out) == ("list", 0)
    assert grades(found) == {"Seg-set/Original_Images/0000_1.png": 2, "Seg-set/Original_Images/0001_1.png": 4}


def test_odir_keywords_give_grades_where_they_name_one(tmp_path: Path) -> None:
    images = [f"{patient}_{eye}.jpg" for patient in (0, 1) for eye in ("left", "right")]
    add(tmp_path, *(f"ODIR-5K/ODIR-5K/Training Images/{image}" for image in images))
    header = (
        "ID,Patient Age,Patient Sex,Left-Fundus,Right-Fundus,Left-Diagnostic Keywords,Right-Diagnostic Keywords,N,D"
    )
    comma = "\N{FULLWIDTH COMMA}"
    first = f"0,69,Male,0_left.jpg,0_right.jpg,cataract,moderate non proliferative retinopathy{comma}drusen,0,1"
    second = "1,57,Male,1_left.jpg,1_right.jpg,normal fundus,proliferative diabetic retinopathy,0,1"
    write(tmp_path / "full_df.csv", "\n".join([header, first, second, first, second]) + "\n")
    found = find_samples([tmp_path])
    assert {Path(source).name: grade for source, grade in grades(found).items()} == {
        "0_right.jpg": 2,
        "1_left.jpg": 0,
        "1_right.jpg": 4,
    }
    assert (len(found.samples), found.num_unlabeled_left_out) == (3, 1)
    assert found.samples[0].patient == "0" and found.samples[0].eye == "right"


def test_paraguay_numbers_seven_folders_from_one(tmp_path: Path) -> None:
    names = ["1. No DR signs", "2. Mild (or early) NPDR", "3. Moderate NPDR", "4. Severe NPDR", "5. Very Severe NPDR"]
    names += ["6. PDR", "7. Advanced PDR"]
    add(tmp_path, *(f"Dataset from fundus images/{name}/{i}.jpg" for i, name in enumerate(names)))
    assert [grade for _, grade in sorted(grades(find_samples([tmp_path])).items())] == [0, 1, 2, 3, 3, 4, 4]


def test_folders_of_grades_inside_of_training_and_validation(tmp_path: Path) -> None:
    add(
        tmp_path, "train/No_DR/a.png", "train/Severe/b.png", "val/No_DR/c.png", "val/Proliferate_DR/d.png", "test/e.png"
    )
    found = find_samples([tmp_path])
    assert grades(found) == {
        "train/No_DR/a.png": 0,
        "train/Severe/b.png": 3,
        "val/No_DR/c.png": 0,
        "val/Proliferate_DR/d.png": 4,
    }
    assert found.num_unlabeled_left_out == 1


# Messidor's own scale


def messidor(folder: Path) -> None:
    add(folder, *(f"20051019_38557_0{i}00_PP.tif" for i in range(1, 5)))
    lines = [f"20051019_38557_0{i + 1}00_PP.tif,Service Lariboisiere,{i},0" for i in range(4)]
    header = "Image name,Ophthalmologic department,Retinopathy grade,Risk of macular edema "
    write(folder / "Annotation_Base11.csv", "\n".join([header, *lines]))


def test_messidors_scale_is_refused_and_mapped_only_when_told_to(tmp_path: Path) -> None:
    messidor(tmp_path)
    columns = LabelColumns(image="Image name", grade="Retinopathy grade")
    for named in (None, columns):
        with pytest.raises(DatasetError, match=r"Ophthalmologic department.*Messidor's own scale 0-3.*--grades"):
            find_samples([tmp_path], columns=named)
    found = find_samples([tmp_path], names=parse_grade_names("0=0,1=1,2=2,3=4"))
    assert list(grades(found).values()) == [0, 1, 2, 4]


def test_grades_from_1_to_5_are_refused_and_mapped_only_when_told_to(tmp_path: Path) -> None:
    add(tmp_path, *(f"{i}.png" for i in range(1, 6)))
    write(tmp_path / "labels.csv", "image,level\n" + "".join(f"{i}.png,{i}\n" for i in range(1, 6)))
    with pytest.raises(DatasetError, match="run from 1 to 5"):
        find_samples([tmp_path])
    found = find_samples([tmp_path], names=parse_grade_names("1=0,2=1,3=2,4=3,5=4"))
    assert list(grades(found).values()) == [0, 1, 2, 3, 4]


def test_labels_that_are_no_grade_are_counted_with_what_to_pass(tmp_path: Path) -> None:
    add(tmp_path, "a.png", "b.png")
    write(tmp_path / "labels.csv", "image,level\na,0\nb,R3\n")
    assert "\nlabels that are no grade: 1; say what they mean with --grades" in labels_summary(find_samples([tmp_path]))


def test_labels_that_the_user_leaves_out_are_counted(tmp_path: Path) -> None:
    add(tmp_path, "a.png", "b.png", "c.png")
    write(tmp_path / "labels.csv", "image,level\na,R0\nb,R3\nc,U\n")
    found = find_samples([tmp_path], names=parse_grade_names("R0=0,R3=4,U=-"))
    assert (grades(found), found.num_unlabeled_left_out) == ({"a.png": 0, "b.png": 4}, 1)


# Files as people save them

TABLE = "ID_Code ,Diagnosis\na,0\nb,Moderate NPDR\n"


@pytest.mark.parametrize(
    ("name", "text", "encoding"),
    [
        ("train.csv", TABLE, "utf-8"),
        ("train.csv", TABLE, "utf-8-sig"),
        ("train.csv", TABLE, "utf-16"),
        ("train.csv", TABLE, "utf-16-le"),
        ("train.csv", TABLE, "utf-16-be"),
        ("train.csv", TABLE.replace(",", ";"), "utf-8"),
        ("train.csv", TABLE.replace(",", "\t"), "utf-16"),
        ("train.tsv", TABLE.replace(",", "\t"), "utf-8"),
        ("train.txt", TABLE.replace(",", "\t"), "utf-8"),
        ("train.csv", f"sep=,\n{TABLE}", "utf-8"),
        ("train.csv", "sep=;\r\n" + TABLE.replace(",", ";"), "utf-8-sig"),
        ("train.csv", f'"sep=,"\n\n{TABLE}', "utf-8"),
        ("train.csv", "\n" + TABLE.replace("\n", "\r\n\r\n"), "utf-8"),
        ("train.csv", '"id code","DIAGNOSIS"\n"a","0,0"\n"b","2,0"\n', "utf-8"),
        ("train.csv", f"# exported in 2024\n# by hand\n{TABLE}", "utf-8"),
        ("any.csv", "a.png,0\nb.png,2\n", "utf-8"),
        ("any.csv", "0;images/a.png\n2;images/b.png\n", "utf-8"),
        ("any.csv", "a.png,patient 7,No DR\nb.png,patient 8,2 - moderate\n", "utf-8"),
        ("any.txt", "a.png 0\nb.png 2\n", "utf-8"),
        ("nested/deep/labels.csv", TABLE, "utf-8"),
    ],
)
def test_a_label_file_is_read_as_it_was_saved(name: str, text: str, encoding: str, tmp_path: Path) -> None:
    add(tmp_path, "images/a.png", "images/b.png")
    write(tmp_path / name, text, encoding)
    assert grades(find_samples([tmp_path])) == {"images/a.png": 0, "images/b.png": 2}


@pytest.mark.parametrize(
    ("image", "file"),
    [
        ("x.png", "x.jpg"),
        ("x.jpg", "x.JPG"),
        ("X.jpg", "x.jpg"),
        ("IM0001", "im0001.tif"),
        ("\\sub\\x.jpg", "sub/x.jpg"),
        ("C:\\data\\sub\\x.jpg", "sub/x.jpg"),
        ("Sub\\X.png", "sub/x.jpg"),
        ("../sub/x.jfif", "sub/x.jpg"),
        (unicodedata.normalize("NFD", "œil_é.jpg"), unicodedata.normalize("NFC", "œil_é.jpg")),
        (unicodedata.normalize("NFC", "ä/ö"), unicodedata.normalize("NFD", "ä/ö.jpg")),
    ],
)
def test_a_label_names_a_photograph_in_another_spelling(image: str, file: str, tmp_path: Path) -> None:
    add(tmp_path, file, "other/y.jpg")
    write(tmp_path / "labels.csv", f"image,level\n{image},3\n")
    assert list(grades(find_samples([tmp_path])).values()) == [3]


def test_the_exact_spelling_decides_between_photographs_that_differ_by_case_or_suffix(tmp_path: Path) -> None:
    add(tmp_path, "x.jpg", "x.png", "y.jpg", "y.JPG", "z.png", "z.jpg")
    write(tmp_path / "labels.csv", "image,level\nx.png,1\ny.JPG,2\nz,3\n")
    found = grades(find_samples([tmp_path]))
    assert (found["x.png"], found["y.JPG"]) == (1, 2)
    assert "several photographs are named 'z'" in str(found["z"])


# What is present and not understood


def unknown_columns(folder: Path) -> None:
    write(folder / "data.csv", "photo,result\na,2\n")


def latin_1(folder: Path) -> None:
    write(folder / "train.csv", "id_code,diagnosis,remarque\na,2,opéré\n", "latin-1")


def workbook(folder: Path) -> None:
    (folder / "labels.xlsx").write_bytes(b"PK\x03\x04...")


def old_workbook(folder: Path) -> None:
    (folder / "Annotation_Base11.xls").write_bytes(b"\xd0\xcf\x11\xe0...")


def workbook_named_csv(folder: Path) -> None:
    (folder / "labels.csv").write_bytes(b"PK\x03\x04...")


def two_columns_of_grades(folder: Path) -> None:
    write(folder / "readers.csv", "a.png,2,1\nb.png,0,0\n")


def empty(folder: Path) -> None:
    write(folder / "train.csv", "\n")


def title_above_the_header(folder: Path) -> None:
    write(folder / "train.csv", "Labels of 2024\nid_code,diagnosis\na,1\n")


def two_columns_of_one_name(folder: Path) -> None:
    write(folder / "train.csv", "image,level,Level\na,1,2\n")


def bytes_that_are_no_text(folder: Path) -> None:
    (folder / "train.csv").write_bytes(bytes(range(256)))


def list_from_1_to_5(folder: Path) -> None:
    add(folder, *(f"{i}.png" for i in range(1, 6)))
    write(folder / "train.txt", "".join(f"{i}.png {i}\n" for i in range(1, 6)))


def folder_of_an_unknown_name(folder: Path) -> None:
    add(folder, "No_DR/x.png", "Sever/y.png")


def names_like_grades(folder: Path) -> None:
    add(folder, "train/NPDR/x.png", "train/R2/y.png")


@pytest.mark.parametrize(
    ("build", "seen"),
    [
        (unknown_columns, r"data\.csv has the columns photo, result; .*--image-column"),
        (latin_1, r"train\.csv: line 2 is not UTF-8 .*'é' in Latin-1.*iconv"),
        (workbook, r"labels\.xlsx is a spreadsheet; .*CSV UTF-8"),
        (old_workbook, r"Annotation_Base11\.xls is a spreadsheet"),
        (workbook_named_csv, r"labels\.csv is a spreadsheet"),
        (two_columns_of_grades, r"readers\.csv has the columns a\.png, 2, 1; .*--grade-column"),
        (empty, r"train\.csv is empty"),
        (title_above_the_header, r"train\.csv has the columns Labels of 2024; .*--image-column"),
        (two_columns_of_one_name, "several columns 'level'"),
        (bytes_that_are_no_text, "it is not text"),
        (list_from_1_to_5, "run from 1 to 5"),
        (folder_of_an_unknown_name, "not understood as grades: Sever; .*--grades"),
        (names_like_grades, "not understood as grades: NPDR, R2; .*--grades"),
    ],
)
def test_what_is_not_understood_is_an_error_that_names_it(
    build: Callable[[Path], None], seen: str, tmp_path: Path
) -> None:
    add(tmp_path, "a.png", "b.png")
    build(tmp_path)
    with pytest.raises(DatasetError, match=seen):
        find_samples([tmp_path])


def test_one_numbered_folder_may_be_a_patient(tmp_path: Path) -> None:
    add(tmp_path, "one/1/x.png", "patients/01/x.png", "patients/02/y.png")
    for folder in ("one", "patients"):
        assert labels_summary(find_samples([tmp_path / folder])).startswith("labels: none found; photographs without")


def test_folders_that_the_user_names_or_that_say_they_have_no_grade(tmp_path: Path) -> None:
    add(tmp_path, "R0/a.png", "R3/b.png", "bad/c.png", "Ungradable/d.png")
    found = find_samples([tmp_path], names=parse_grade_names("R0=0,R3=4,bad=-"))
    assert (grades(found), found.num_unlabeled_left_out) == ({"R0/a.png": 0, "R3/b.png": 4}, 2)


def test_labels_that_give_no_photograph_a_grade_are_an_error(tmp_path: Path) -> None:
    add(tmp_path, "a.png")
    write(tmp_path / "train.csv", "id_code,diagnosis\nb,2\nc,0\n")
    with pytest.raises(DatasetError, match=r"no photograph has a grade from .*train\.csv, of 2 labels; .*'b'"):
        find_samples([tmp_path])
    write(tmp_path / "train.csv", "id_code,diagnosis\na,R1\n")
    with pytest.raises(DatasetError, match=r"grade 'R1' is not one of 0-4; say what labels mean with --grades"):
        find_samples([tmp_path])


def test_tables_that_hold_no_labels_do_not_matter_beside_grade_folders_or_text(tmp_path: Path) -> None:
    add(tmp_path, "0/a.png", "3/b.png")
    write(tmp_path / "cameras.csv", "image,camera\na,Topcon\n")
    write(tmp_path / "README.txt", "Photographs of two eyes.\n")
    found = find_samples([tmp_path])
    assert (found.layout, [path.name for path in found.unread_files]) == ("folders", [])
    assert grades(found) == {"0/a.png": 0, "3/b.png": 3}


def test_photographs_without_labels_are_counted(tmp_path: Path) -> None:
    add(tmp_path, "a.png", "left/b.png")
    write(tmp_path / "README.txt", "two eyes\n")
    assert labels_summary(find_samples([tmp_path])).splitlines() == [
        "labels: none found; photographs without a grade: 2",
        "skipped: 1 .txt",
    ]
