"""What users write in Python: the lines of documents run, and `mypy --strict` passes on a program that calls them."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from PIL import Image

import fundusgrade
from tests.models_for_tests import save_photographs

ROOT = Path(__file__).parents[1]
DOCUMENTS = (
    "README.md",
    "docs/guides/explaining.md",
    "docs/guides/python.md",
    "docs/guides/scaling.md",
    "docs/guides/screening.md",
)
PROGRAM = """
from pathlib import Path

import numpy as np
from PIL import Image

from fundusgrade import Explanation, Grader, Photograph, Prediction, Results, Ungraded, explain, find_images

grader = Grader.load()
one: Prediction | Ungraded = grader.grade("eye.png")
for photograph in (Path("eye.png"), Image.open("eye.png"), np.zeros((9, 9, 3), np.uint8), b"bytes"):
    result = grader.grade(photograph)
    print(result.grade if isinstance(result, Prediction) else result.reason)
paths = sorted(Path("images").glob("*.png"))
results: Results = grader.grade(paths)
mixed: list[Photograph] = ["eye.png", Path("eye.png"), np.zeros((9, 9, 3), np.uint8)]
more: Results = grader.grade(mixed)
literal: Results = grader.grade(["a.png", Path("b.png"), b"c"])
rows: list[dict[str, object]] = [result.to_dict() for result in results]
for result in grader.grade_all(find_images("images")):
    print(result.referable.refers)
explanation: Explanation = explain(grader, "eye.png", target="referable", method="grad-cam")
saved: Path = explanation.save("heat.png", overwrite=True)
height, width = explanation.heat.shape
"""
MISTAKES = {
    "grader.grade(3)": "call-overload",
    "grader.grade_all(3)": "arg-type",
    "find_images(3)": "arg-type",
    'explain(grader, ["a.png"])': "arg-type",
    'grader.grade("eye.png").grade': "union-attr",
}


def python_blocks(document: str) -> list[str]:
    """The blocks of Python in a document."""
    return re.findall(r"```python\n(.*?)```", (ROOT / document).read_text(encoding="utf-8"), flags=re.DOTALL)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_the_python_lines_of_a_document_run(
    document: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a folder with an eye, a folder and an archive of eyes, one after the other."""
    save_photographs(tmp_path / "images", range(2), 320)
    (path,) = save_photographs(tmp_path, [3], 320)
    path = path.rename(tmp_path / "eye.png")
    Image.open(path).save(tmp_path / "eye.jpg", quality=95)
    with zipfile.ZipFile(tmp_path / "archive.zip", "w") as archive:
        archive.write(path, "left/eye.png")
    monkeypatch.chdir(tmp_path)
    blocks = python_blocks(document)
    assert blocks, f"{document} has no Python lines"
    names: dict[str, object] = {}
    for block in blocks:
        if "to_pandas" in block:
            pytest.importorskip("pandas")
        exec(compile(block, document, "exec"), names)
    assert "Traceback" not in capsys.readouterr().err


def test_strict_mypy_accepts_a_program_and_finds_its_mistakes(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    assert (ROOT / "src" / "fundusgrade" / "py.typed").is_file()
    (tmp_path / "right.py").write_text(PROGRAM, encoding="utf-8")
    first_lines = PROGRAM.partition("one: ")[0]
    (tmp_path / "wrong.py").write_text(first_lines + "\n".join(MISTAKES), encoding="utf-8")
    # Errors within the package are silent, as they are for mypy in a package that is installed.
    options = ["--strict", "--follow-imports=silent", "--cache-dir", str(ROOT / ".mypy_cache" / "programs")]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *options, "--config-file=", "right.py", "wrong.py"],
        cwd=tmp_path,
        env={"MYPYPATH": str(Path(fundusgrade.__file__).parents[1]), "PATH": ""},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=600,
    )
    found = re.findall(r"^(\w+)\.py:(\d+): error: .*\[([\w-]+)\]$", done.stdout, flags=re.MULTILINE)
    first = first_lines.count("\n") + 1
    expected = [("wrong", str(first + number), code) for number, code in enumerate(MISTAKES.values())]
    assert found == expected, done.stdout + done.stderr
