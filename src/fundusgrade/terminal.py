"""Output to a terminal: results on standard output, messages and progress bars on standard error."""

from __future__ import annotations

import contextlib
import io
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from enum import IntEnum
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from rich.table import Table


ERROR = "[bold red]Error:[/] "
WARNING = "[bold red]Warning:[/] "
_FILE_WIDTH = 400
LOG_SECONDS = 30.0
"""Where no bar can be drawn, such as in a log file, a line on the progress is printed this often."""


class Verbosity(IntEnum):
    """How much is printed on standard error; results on standard output do not depend on it but for details."""

    QUIET = 0
    """Warnings and errors."""
    NORMAL = 1
    VERBOSE = 2
    """Details too."""


_verbosity = [Verbosity.NORMAL]


def set_verbosity(verbosity: Verbosity) -> None:
    """Choose how much this process prints."""
    _verbosity[:] = [verbosity]


def verbosity() -> Verbosity:
    """How much this process prints."""
    return _verbosity[0]


def console(*, quiet: bool = False) -> Console:
    """A console on standard error; it prints nothing if `quiet`, or where the user asked for no messages."""
    return Console(stderr=True, quiet=quiet or verbosity() is Verbosity.QUIET)


def message(text: str, *, lead: str = "") -> None:
    """Print one line on standard error; markup is interpreted in `lead` only, such as `ERROR`.

    Lines with a lead are printed even where the user asked for no messages.
    """
    out = Console(stderr=True) if lead else console()
    out.print(lead + escape(text), soft_wrap=True, highlight=False)


def detail(text: str) -> None:
    """Print one line on standard error where the user asked for details."""
    if verbosity() is Verbosity.VERBOSE:
        message(text)


def show(table: Table) -> None:
    """Print a table on standard output: as wide as the terminal, or 400 columns where it goes to a file or a pipe."""
    out = Console()
    if not out.is_terminal:
        out = Console(width=_FILE_WIDTH)
    out.print(table)


def show_details(values: Mapping[str, str]) -> None:
    """Print names and values on standard output: two columns on a terminal, else lines "name: value"."""
    from rich.table import Table

    out = Console()
    if not out.is_terminal:
        for name, value in values.items():
            out.print(f"{name}: {value}", soft_wrap=True, markup=False, highlight=False)
        return
    grid = Table.grid(padding=(0, 2))
    grid.add_column(overflow="fold", max_width=max(8, out.width // 3))
    grid.add_column(overflow="fold")
    for name, value in values.items():
        grid.add_row(name, escape(value))
    out.print(grid)


@contextlib.contextmanager
def progress(description: str, *, hidden: bool = False) -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar during the block, which reports (number done, total number) to the function it receives.

    Where standard error is no terminal, a line is printed every `LOG_SECONDS`. Nothing is shown if `hidden`.
    """
    log = ProgressLog(description)
    with progress_bar(Console(stderr=True, force_terminal=False) if hidden else console()) as bar:
        task = bar.add_task(description, total=None, rate="")

        def report(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total, rate=f"{bar.tasks[0].speed or 0:.1f}/s")
            if not hidden and not console().is_terminal and (line := log.line(done, total)):
                message(line)

        yield report


class ProgressLog:
    """Lines on the progress of a run for a log file, one every `LOG_SECONDS`: done, total, rate and time left.

    The rate is that since the run began or was resumed: what had been done before the first report is not counted.
    """

    def __init__(self, description: str, *, unit: str = "photographs") -> None:
        self._description = description
        self._unit = unit
        self._begun = self._printed = time.monotonic()
        self._before: int | None = None

    def line(self, done: int, total: int) -> str | None:
        """The line that is due now, if any."""
        if self._before is None:
            self._before = done - 1
        elapsed = time.monotonic() - self._begun
        if time.monotonic() - self._printed < LOG_SECONDS:
            return None
        self._printed = time.monotonic()
        rate = (done - self._before) / elapsed
        left = f"{_duration((total - done) / rate)} left" if rate > 0 else "time left unknown"
        return f"{self._description}: {done} of {total} {self._unit}, {rate:.1f}/s, {left}"


def _duration(seconds: float) -> str:
    """Hours, minutes and seconds: "1:02:03"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"


def progress_bar(console: Console, *, unit: str = "photographs") -> Progress:
    """A bar with count, rate and remaining time; it shows nothing where the console is quiet or not a terminal.

    Tasks need a field `rate`, the text behind the unit.
    """
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(f"{unit}, {{task.fields[rate]}}"),
        TimeElapsedColumn(),
        TextColumn("elapsed,"),
        TimeRemainingColumn(),
        TextColumn("left"),
        console=console,
        disable=console.quiet or not console.is_terminal,
        transient=True,
    )


def escape_unencodable() -> None:
    """Print what the encoding of an output lacks as an escape such as \\u2026, and do not fail at it.

    Consoles of Windows, and pipes there, have code pages of 256 characters.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")


def silence_stdout() -> None:
    """Discard further output: the reader has closed the pipe, and writing buffered text at exit would fail again."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def command() -> str:
    """The command line of this process, quoted for a shell."""
    return shlex.join(["fundusgrade", *sys.argv[1:]])
