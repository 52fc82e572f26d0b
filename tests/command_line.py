"""Commands run as a user runs them, and what they leave."""

from __future__ import annotations

import re
import shlex

from typer.testing import CliRunner

from fundusgrade.commands.app import app


class Outcome:
    """What a command left: its exit code, and its two streams without colors."""

    def __init__(self, command: str | list[str]) -> None:
        words = shlex.split(command)[1:] if isinstance(command, str) else command
        result = CliRunner().invoke(app, words, env={"COLUMNS": "200", "NO_COLOR": "1"})
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        self.code = result.exit_code
        self.stdout = re.sub(r"\x1b\[[0-9;]*m", "", result.stdout)
        self.stderr = re.sub(r"\x1b\[[0-9;]*m", "", result.stderr)
