"""Results in Python: graded from whatever is taken for a photograph, printed, and turned into tables."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fundusgrade import FundusgradeError, Grader, Prediction, Results, Ungraded, find_images
from fundusgrade.grades import COLUMNS, RANGE_COLUMNS, Grade, GradeRange
from fundusgrade.grading.rows import json_line, row_of
from fundusgrade.options import DeviceName, Precision
from tests.models_for_tests import drawn_photograph, install_model, save_photographs

PREDICTION = Prediction(
    image="eye.png",
    model="tiny",
    probabilities=(0.05, 0.1, 0.6, 0.2, 0.05),
    grade_range=GradeRange(low=Grade.MILD, high=Grade.SEVERE, upper_bound=Grade.PROLIFERATIVE, coverage=0.9),
    training_distance=np.float32(0.5),  # type: ignore[arg-type]
    model_hash="ab" * 32,
)
UNGRADED = Ungraded(image="gone.png", model="tiny", reason="the file does not exist")


@pytest.fixture
def grader() -> Grader:
    install_model()
    return Grader.load("tiny", device=DeviceName.CPU, precision=Precision.FLOAT32, batch_size=2)


def test_every_kind_of_a_photograph_gets_the_grade_of_its_file(grader: Grader, tmp_path: Path) -> None:
    path = save_photographs(tmp_path, [1])[0]
    expected = grader.grade(path)
    assert isinstance(expected, Prediction)
    for kind in (str(path), find_images(tmp_path)[0], path.read_bytes(), Image.open(path), drawn_photograph(1)):
        result = grader.grade(kind)
        assert isinstance(result, Prediction)
        assert result.probabilities == expected.probabilities, type(kind)


def test_a_list_gives_results_in_order_whatever_is_in_it(grader: Grader, tmp_path: Path) -> None:
    paths = save_photographs(tmp_path, range(5))
    mixed = [
        paths[0],
        str(paths[1]),
        tmp_path / "gone.png",
        drawn_photograph(2),
        paths[3].read_bytes(),
        Image.open(paths[4]),
    ]
    results = grader.grade(mixed)
    assert isinstance(results, Results)
    assert [result.image for result in results] == [
        paths[0].as_posix(), paths[1].as_posix(), (tmp_path / "gone.png").as_posix(), "photograph 3", "photograph 4",
        str(paths[4]),
    ]  # fmt: skip
    graded = [result.probabilities for result in results if isinstance(result, Prediction)]
    expected = grader.grade(tuple(paths))
    assert np.allclose(
        graded, [result.probabilities for result in expected if isinstance(result, Prediction)], atol=1e-4
    )
    assert grader.grade([]) == []


def test_a_wrong_type_is_an_error_before_anything_is_graded_where_that_can_be(grader: Grader, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="one photograph is a path"):
        grader.grade({"eye.png"})  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="several photographs were expected"):
        grader.grade_all("eye.png")  # type: ignore[arg-type]
    good = save_photographs(tmp_path, range(9))
    for wrong, error in (
        (7, TypeError),
        (np.zeros((3, 90, 90), np.uint8), ValueError),
        (np.zeros((9, 9)) > 1, TypeError),
    ):
        with pytest.raises(error):
            grader.grade_all([*good, wrong])
    results = grader.grade_all(iter([*good * 5, 7]))  # type: ignore[list-item]
    assert isinstance(next(results), Prediction)
    with pytest.raises(TypeError, match="of type int"):
        list(results)


def test_an_array_whose_red_and_blue_are_swapped_is_not_graded(grader: Grader) -> None:
    retina = np.asarray(Image.open(Path(__file__).parents[2] / "docs" / "samples" / "healthy_eye.jpg"))
    assert isinstance(grader.grade(retina), Prediction)
    swapped = grader.grade(retina[..., ::-1])
    assert isinstance(swapped, Ungraded)
    assert "red and blue are swapped (BGR)" in swapped.reason


def test_results_print_grade_and_probability_or_the_reason_and_a_part_of_them_does_too() -> None:
    assert repr(PREDICTION) == "Prediction('eye.png': grade 2 Moderate, p = 0.60; referable: yes, p = 0.85; tiny)"
    doubtful = Prediction(image="a", model="m", probabilities=(0.97, 0.03, 0, 0, 0), quality_reasons=("too dark",))
    assert repr(doubtful) == (
        "Prediction('a': grade 0 No DR, p > 0.95; referable: ungradable, p < 0.05; m; beware: too dark)"
    )
    assert repr(UNGRADED) == "Ungraded('gone.png': the file does not exist; tiny)"
    both = Results([PREDICTION, UNGRADED])
    assert (both[0], both[-1]) == (PREDICTION, UNGRADED)
    assert isinstance(both[:1], Results)
    assert both[1:] == [UNGRADED]
    assert repr(Results([PREDICTION, UNGRADED])) == f"[{PREDICTION!r},\n {UNGRADED!r}]"


@pytest.mark.parametrize("result", [PREDICTION, UNGRADED], ids=["prediction", "ungraded"])
def test_a_dictionary_has_the_columns_of_a_row_and_plain_values(result: Prediction | Ungraded) -> None:
    values = result.to_dict()
    assert tuple(values) == (*COLUMNS, *RANGE_COLUMNS)
    assert json.loads(json.dumps(values)) == values
    row = json.loads(json_line(row_of(result, with_ranges=True)))
    for name, value in row.items():
        expected = values[name] or None if values[name] in ("", []) and value is None else values[name]
        expected = expected[:12] if name == "model_hash" and expected else expected
        assert value == (pytest.approx(expected, abs=5e-5) if isinstance(expected, float) else expected), name


def test_a_table_has_a_row_for_every_photograph_and_whole_grades() -> None:
    pandas = pytest.importorskip("pandas")
    table = Results([PREDICTION, UNGRADED]).to_pandas()
    assert tuple(table.columns) == (*COLUMNS, *RANGE_COLUMNS)
    assert table["image"].tolist() == ["eye.png", "gone.png"]
    assert str(table["grade"].dtype) == "Int64"
    assert (table["grade"][0], table["could_be_as_bad_as"][0]) == (2, 4)
    assert table["grade"][1] is pandas.NA
    assert table["p2"][0] == 0.6
    assert np.isnan(table["p2"][1])
    assert Results().to_pandas().empty
    assert tuple(Results().to_pandas().columns) == tuple(table.columns)


def test_without_pandas_the_error_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(FundusgradeError, match=r"pip install 'fundusgrade\[pandas\]'"):
        Results([PREDICTION]).to_pandas()
