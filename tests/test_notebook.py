"""The notebook runs from the first cell to the last, and stores only what the sample photographs gave."""

from __future__ import annotations

import base64
import copy
import io
import json
import re
import runpy
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from fundusgrade import Explanation, Prediction, Results, Ungraded
from fundusgrade.grades import RESEARCH_USE

DOCS = Path(__file__).parents[1] / "docs"
PROGRAM = runpy.run_path(str(DOCS / "programs" / "run_notebook.py"))


@pytest.fixture
def notebook() -> dict[str, Any]:
    return json.loads((DOCS / "notebook.ipynb").read_text(encoding="utf-8"))


def test_the_five_cells_run_and_end_with_an_explanation(notebook: dict[str, Any]) -> None:
    stored = copy.deepcopy(notebook)
    nothing, one, _, several, explanation = PROGRAM["run"](notebook)
    assert nothing is None
    assert isinstance(one, Prediction)
    assert isinstance(several, Results)
    assert [type(result) for result in several] == [Prediction, Prediction, Prediction, Ungraded]
    assert isinstance(explanation, Explanation)
    printed = "".join(PROGRAM["code_cells"](notebook)[2]["outputs"][0]["text"])
    assert printed.count("\n") == len(list((DOCS / "samples").glob("*.jpg"))) + 1
    assert "missing.jpg" in printed.splitlines()[-1]
    assert "not graded: the file does not exist" in printed.splitlines()[-1]
    for now, before in zip(PROGRAM["code_cells"](notebook), PROGRAM["code_cells"](stored), strict=True):
        assert kinds_of(now) == kinds_of(before), "run python docs/programs/run_notebook.py"


def kinds_of(cell: dict[str, Any]) -> list[Any]:
    """What is stored below a cell, without its content, which depends on model and processor."""
    return [(output["output_type"], sorted(output.get("data", ()))) for output in cell["outputs"]]


def test_what_is_stored_is_small_and_of_the_samples(notebook: dict[str, Any]) -> None:
    assert (DOCS / "notebook.ipynb").stat().st_size < 500_000
    sources = ["".join(cell["source"]) for cell in PROGRAM["code_cells"](notebook)]
    paths = re.findall(r'"([^"]*\.(?:jpg|png)|samples[^"]*)"', "\n".join(sources))
    assert paths
    assert all(path.startswith("samples") or path == "*.jpg" for path in paths)
    pictures = re.findall(r"data:image/[a-z]+;base64,([^\"\\]+)", json.dumps(notebook))
    assert len(pictures) == 1
    assert max(Image.open(io.BytesIO(base64.b64decode(pictures[0]))).size) <= 1200
    assert RESEARCH_USE in "".join(notebook["cells"][0]["source"])


def test_the_file_is_a_notebook(notebook: dict[str, Any]) -> None:
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
    validate = pytest.importorskip("nbformat").validate
    validate(notebook)
