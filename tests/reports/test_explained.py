"""Explanations in Python: as a figure, a file that replaces nothing of anyone's, and a notebook's cell."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fundusgrade import Explanation, Grader, explain
from fundusgrade.errors import ExplanationError, NoRetinaError, StoreError
from fundusgrade.explanation import ExplainOptions, parse_target
from fundusgrade.grades import RESEARCH_USE
from fundusgrade.options import Attribution, DeviceName, Layer, Precision
from fundusgrade.photographs.images import read_image
from fundusgrade.reports.listings import prediction_line
from tests.models_for_tests import drawn_photograph, install_model, save_photographs


@pytest.fixture
def grader() -> Grader:
    install_model()
    return Grader.load("tiny", device=DeviceName.CPU, precision=Precision.FLOAT32)


@pytest.fixture
def explanation(grader: Grader) -> Explanation:
    return explain(grader, drawn_photograph(1), method="grad-cam")


def test_words_and_options_ask_for_the_same(grader: Grader, tmp_path: Path) -> None:
    path = save_photographs(tmp_path, [1])[0]
    options = ExplainOptions(target=parse_target("severe"), method=Attribution.LAYER_CAM, layer=Layer.FINE)
    by_options = explain(grader, path, options)
    by_words = explain(grader, str(path), target="severe", method="layercam@fine")
    assert np.array_equal(by_options.heat, by_words.heat)
    assert by_options.options == by_words.options
    with pytest.raises(TypeError, match="given twice"):
        explain(grader, path, options, target="severe")
    with pytest.raises(ExplanationError, match="unknown attribution method 'saliency'"):
        explain(grader, path, method="saliency")


def test_what_is_no_photograph_is_refused_and_what_shows_no_retina_has_a_reason(grader: Grader) -> None:
    with pytest.raises(TypeError, match="one photograph is"):
        explain(grader, [drawn_photograph(1)])  # type: ignore[arg-type]
    with pytest.raises(NoRetinaError, match=r"photograph 0: no retina"):
        explain(grader, np.zeros((200, 200, 3), np.uint8))


def test_it_prints_as_one_line(explanation: Explanation) -> None:
    assert repr(explanation).startswith("Explanation(Prediction('photograph 0': grade ")
    assert "grad-cam of referable" in repr(explanation)
    assert "heat on 160 x 160 pixels" in repr(explanation)
    assert "\n" not in repr(explanation)


def test_the_file_is_the_figure(explanation: Explanation, tmp_path: Path) -> None:
    path = explanation.save(tmp_path / "heat.png")
    assert path == tmp_path / "heat.png"
    figure = explanation.figure()
    assert RESEARCH_USE in [text.get_text() for text in figure.texts]
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=figure.dpi)
    assert np.array_equal(np.asarray(Image.open(buffer).convert("RGB")), read_image(path))


def test_a_file_is_replaced_only_where_fundusgrade_wrote_it_and_only_if_asked(
    explanation: Explanation, tmp_path: Path
) -> None:
    own, notes = tmp_path / "heat.jpg", tmp_path / "notes.png"
    explanation.save(str(own))
    before = own.read_bytes()
    with pytest.raises(StoreError, match=r"overwrite=True"):
        explanation.save(own)
    assert own.read_bytes() == before
    assert explanation.save(own, overwrite=True) == own
    notes.write_bytes(b"notes that exist once")
    with pytest.raises(StoreError, match="not written by fundusgrade"):
        explanation.save(notes, overwrite=True)
    assert notes.read_bytes() == b"notes that exist once"
    with pytest.raises(StoreError, match=r"unknown suffix '\.gif'"):
        explanation.save(tmp_path / "heat.gif")


def test_the_photograph_itself_is_never_replaced(grader: Grader, tmp_path: Path) -> None:
    path = save_photographs(tmp_path, [1])[0]
    explanation = explain(grader, path)
    explanation.save(tmp_path / "heat.png")
    of_figure = explain(grader, path)
    with pytest.raises(StoreError, match="which is read"):
        of_figure.save(path, overwrite=True)


def test_a_cell_shows_photograph_map_grade_and_notice(explanation: Explanation) -> None:
    html = explanation._repr_html_()
    assert RESEARCH_USE in html
    assert prediction_line(explanation.prediction) in html
    [data] = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', html)
    shown = Image.open(io.BytesIO(base64.b64decode(data)))
    png = Image.open(io.BytesIO(explanation._repr_png_()))
    assert shown.size == png.size
    assert png.width <= 1200
    whole = explanation.figure().bbox
    assert png.width / png.height == pytest.approx(whole.width / whole.height, rel=0.01)


def test_a_name_in_a_cell_is_text(grader: Grader, tmp_path: Path) -> None:
    path = save_photographs(tmp_path, [1])[0].rename(tmp_path / "<b>eye.png")
    html = explain(grader, path)._repr_html_()
    assert "&lt;b&gt;eye.png" in html
    assert "<b>" not in html
