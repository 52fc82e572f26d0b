"""The reference of the Python API is what the docstrings say."""

from __future__ import annotations

import runpy
from pathlib import Path

import fundusgrade

ROOT = Path(__file__).parents[1]
PROGRAM = "docs/programs/api_reference.py"


def test_the_reference_is_up_to_date_and_has_every_public_name() -> None:
    written = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    now = runpy.run_path(str(ROOT / PROGRAM))["reference"]()
    assert written == now, f"docs/api.md is out of date: run python {PROGRAM}"
    for name in fundusgrade.__all__:
        assert name == "__version__" or f"### {name}\n" in written
