"""Run the cells of docs/notebook.ipynb and store what they show: python docs/programs/run_notebook.py

Jupyter is not needed. Only photographs of docs/samples may appear in what is stored.
"""

from __future__ import annotations

import ast
import contextlib
import io
import json
import os
from pathlib import Path
from typing import Any

NOTEBOOK = Path(__file__).parents[1] / "notebook.ipynb"


def run_cell(source: str, names: dict[str, Any]) -> tuple[str, Any]:
    """Execute a cell in a namespace. Returns what it printed, and the value of its last line, None if it has none."""
    body = ast.parse(source).body
    last = ast.Expression(body.pop().value) if body and isinstance(body[-1], ast.Expr) else None  # type: ignore[attr-defined]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(ast.Module(body, []), "cell", "exec"), names)
        value = None if last is None else eval(compile(last, "cell", "eval"), names)
    return printed.getvalue(), value


def outputs(printed: str, value: Any, number: int) -> list[dict[str, Any]]:
    """What a notebook stores below a cell."""
    shown: list[dict[str, Any]] = []
    if printed:
        shown.append({"name": "stdout", "output_type": "stream", "text": lines(printed)})
    if value is not None:
        data = {"text/plain": lines(repr(value))}
        if hasattr(value, "_repr_html_"):
            data["text/html"] = lines(value._repr_html_())
        shown.append({"data": data, "execution_count": number, "metadata": {}, "output_type": "execute_result"})
    return shown


def lines(text: str) -> list[str]:
    """Text as a notebook stores it."""
    return text.splitlines(keepends=True)


def code_cells(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    """The cells of code, in order."""
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def run(notebook: dict[str, Any]) -> list[Any]:
    """Execute all cells in the notebook's folder, store what they show, and return the values of their last lines."""
    names: dict[str, Any] = {}
    values = []
    before = Path.cwd()
    os.chdir(NOTEBOOK.parent)
    try:
        for number, cell in enumerate(code_cells(notebook), start=1):
            printed, value = run_cell("".join(cell["source"]), names)
            cell |= {"execution_count": number, "outputs": outputs(printed, value, number)}
            values.append(value)
    finally:
        os.chdir(before)
    return values


if __name__ == "__main__":
    content = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    run(content)
    NOTEBOOK.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8", newline="\n")
