"""Exit codes of the command line; docs/guides/command-line.md lists them for users."""

from __future__ import annotations

EXIT_ERROR = 1
EXIT_UNGRADED = 3
"""Finished, but some photographs could not be graded."""
EXIT_INTERRUPTED = 130
