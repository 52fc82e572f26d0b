"""Options that several commands share, exit codes, and the models that a command was asked for."""

from __future__ import annotations

EXIT_ERROR = 1
EXIT_INTERRUPTED = 130

EXIT_UNGRADED = 3


def wanted_models(named: list[str] | None) -> list[str | None]:
    """The models to use: those named, or the shipped one."""
    return list(named) if named else [None]
