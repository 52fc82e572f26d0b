"""What a grader predicts is what is explained, on the photograph's own pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fundusgrade.errors import ExplanationError, NoRetinaError, UnreadableImageError
from fundusgrade.explanation.explainer import choose_methods, explain, explain_photograph
from fundusgrade.explanation.heat_map import ExplainOptions
from fundusgrade.explanation.targets import PREDICTED, REFERABLE, Target, grade_target, parse_target
from fundusgrade.grades import Grade, Prediction
from fundusgrade.grading.grader import Grader
from fundusgrade.options import Attribution, DeviceName, Precision
from fundusgrade.photographs.field_of_view import find_field_of_view
from fundusgrade.photographs.images import read_image
from fundusgrade.photographs.sources import find_images
from tests.models_for_tests import install_model, save_broken_files, save_photographs

TOLERANCE = 1e-4  # float32 sums in another order; a mix-up of two photographs changes more than this


def load(name: str = "tiny", *, batch_size: int = 4) -> Grader:
    return Grader.load(name, device=DeviceName.CPU, precision=Precision.FLOAT32, batch_size=batch_size)


@pytest.fixture
def grader() -> Grader:
    install_model()
    return load()


@pytest.mark.parametrize("arch", ["cnn", "test_vit", "test_resnet", "test_efficientnet"])
def test_an_explanation_lies_on_the_photographs_own_pixels(arch: str, tmp_path: Path) -> None:
    install_model(arch=arch)
    path = save_photographs(tmp_path, [1])[0]
    canvas = np.zeros((220, 300, 3), np.uint8)
    canvas[40:200, 110:270] = read_image(path)
    Image.fromarray(canvas).save(path)
    explanation = explain(load(), path, ExplainOptions(target=REFERABLE))
    assert np.array_equal(explanation.photograph, canvas)
    assert explanation.heat.shape == (220, 300)
    assert explanation.heat.dtype == np.float32
    assert explanation.heat.min() >= 0
    assert explanation.target == REFERABLE
    graded = load().grade(path)
    assert isinstance(graded, Prediction)
    assert explanation.prediction.image == graded.image
    assert np.allclose(explanation.prediction.probabilities, graded.probabilities, atol=TOLERANCE)
    fov = find_field_of_view(canvas)
    y, x = np.nonzero(explanation.heat)
    reach = 1.1  # the preprocessed image is a square around the disc, and its outermost pixels fade over their width
    assert (np.abs(x - fov.center_x) <= reach * fov.radius_x).all()
    assert (np.abs(y - fov.center_y) <= reach * fov.radius_y).all()


def test_heat_is_not_empty_for_some_grade(grader: Grader, tmp_path: Path) -> None:
    path = save_photographs(tmp_path, [1])[0]
    explained = [explain(grader, path, ExplainOptions(target=parse_target(str(int(grade))))) for grade in Grade]
    assert max(each.heat.max() for each in explained) > 0.01
    assert [each.target.grade for each in explained] == list(Grade)


def test_the_grade_explained_by_default_is_the_one_predicted(grader: Grader, tmp_path: Path) -> None:
    for path in save_photographs(tmp_path, range(3)):
        explanation = explain(grader, path, ExplainOptions(target=PREDICTED))
        assert explanation.target.grade is explanation.prediction.grade


@pytest.mark.parametrize("grade", list(Grade))
def test_by_default_referable_disease_is_explained_where_the_grade_is_0_or_1(grade: Grade, tmp_path: Path) -> None:
    install_model(thresholds=tuple(-1.0 if each < grade else 5.0 for each in range(4)))
    explanation = explain(load(), save_photographs(tmp_path, [1])[0])
    assert explanation.prediction.grade is grade
    assert explanation.target == (REFERABLE if grade < Grade.MODERATE else grade_target(grade))


def test_models_are_explained_for_referable_disease_together_if_one_gives_grade_0_or_1(tmp_path: Path) -> None:
    for name, grade in (("healthy", 0), ("moderate", 2), ("severe", 3)):
        install_model(name, thresholds=tuple(-1.0 if each < grade else 5.0 for each in range(4)))
    path = save_photographs(tmp_path, [1])[0]
    methods = [ExplainOptions(method=Attribution.GRAD_CAM)]

    def targets(*names: str) -> list[Target]:
        (row,) = explain_photograph(path, [load(name) for name in names], methods)
        return [explanation.target for explanation in row]

    assert targets("moderate", "severe") == [grade_target(Grade.MODERATE), grade_target(Grade.SEVERE)]
    assert targets("moderate", "healthy", "severe") == [REFERABLE] * 3


def test_several_methods_give_what_each_gives_alone(grader: Grader, tmp_path: Path) -> None:
    path = save_photographs(tmp_path, [1])[0]
    methods = [ExplainOptions(method=method) for method in (Attribution.GRAD_CAM, Attribution.INTEGRATED_GRADIENTS)]
    for together, method in zip(explain_photograph(path, [grader], methods), methods, strict=True):
        alone = explain(grader, path, method)
        assert np.array_equal(together[0].heat, alone.heat)
        assert together[0].options == alone.options


def test_a_default_method_that_does_not_fit_is_left_out_with_a_sentence_that_says_so() -> None:
    install_model()
    install_model("mamba", arch="test_mambaout")
    methods = [ExplainOptions(method=method) for method in (Attribution.GRAD_CAM, Attribution.INTEGRATED_GRADIENTS)]
    assert choose_methods([load()], methods) == (methods, ())
    fitting, notes = choose_methods([load(), load("mamba")], methods)
    assert fitting == methods[1:]
    assert notes == ("grad-cam is not shown: it does not fit the architecture of mamba.",)


def test_explaining_does_not_change_later_grades(grader: Grader, tmp_path: Path) -> None:
    found = find_images(save_photographs(tmp_path, range(3)))
    before = list(grader.grade_all(found))
    explain(grader, found[0].path)
    assert list(grader.grade_all(found)) == before


def test_what_cannot_be_explained_is_named(grader: Grader, tmp_path: Path) -> None:
    save_broken_files(tmp_path)
    with pytest.raises(UnreadableImageError, match=r"empty\.png: the file is empty"):
        explain(grader, tmp_path / "empty.png")
    with pytest.raises(NoRetinaError, match=r"black\.png: no retina found"):
        explain(grader, tmp_path / "black.png")
    with pytest.raises(ExplanationError, match="unknown target"):
        explain(grader, tmp_path / "black.png", ExplainOptions(target=parse_target("edema")))
