"""The reference of the commands is what their help says."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import typer

from fundusgrade.commands.app import app

ROOT = Path(__file__).parents[1]
PROGRAM = "docs/programs/command_reference.py"
WRITTEN = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")


def test_the_reference_of_the_commands_is_up_to_date() -> None:
    now = runpy.run_path(str(ROOT / PROGRAM))["reference"]()
    assert now == WRITTEN, f"docs/commands.md is out of date: run python {PROGRAM}"


def test_the_reference_has_every_command_with_all_its_options() -> None:
    root: Any = typer.main.get_command(app)
    groups = {name: getattr(command, "commands", {}) for name, command in root.commands.items()}
    commands = root.commands | {f"{name} {own}": each for name, group in groups.items() for own, each in group.items()}
    assert len(commands) > 20
    for name, command in commands.items():
        section = WRITTEN.partition(f"### {name}\n")[2].partition("\n### ")[0]
        assert section, name
        for option in (flag for each in command.params for flag in (*each.opts, *each.secondary_opts)):
            general = option in ("--config", "--verbose", "-v", "--quiet", "-q")
            assert general or not option.startswith("-") or f"`{option}" in section, f"{name} {option}"


def test_a_default_in_words_a_range_and_a_pattern_are_shown_as_they_are() -> None:
    assert "| `--workers NUMBER` | Number of worker threads. At least 1. | one per core, at most 32 |" in WRITTEN
    assert (
        "| `--sensitivity PROPORTION` | Sensitivity for referable DR, by patient, to be certified. From 0.5" in WRITTEN
    )
    assert "<code>(?P&lt;patient>\\d+)_(?P&lt;eye>left&#124;right)</code>" in WRITTEN
    assert "| `--check`, `--no-check` | Compare grades" in WRITTEN
