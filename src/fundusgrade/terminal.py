"""Output to a terminal: results on standard output, messages and progress bars on standard error."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from rich.table import Table


ERROR = "[bold red]Error:[/] "
WARNING = "[bold red]Warning:[/] "
_FILE_WIDTH = 400


def console(*, quiet: bool = False) -> Console:
    """A console on standard error; it prints nothing if `quiet`."""
    return Console(stderr=True, quiet=quiet)


def message(text: str, *, lead: str = "") -> None:
    """Print one line on standard error; markup is interpreted in `lead` only, such as `ERROR`."""
    console().print(lead + escape(text), soft_wrap=True, highlight=False)


def show(table: Table) -> None:
    """Print a table on standard output: as wide as the terminal, or 400 columns where it goes to a file or a pipe."""
    out = Console()
    if not out.is_terminal:
        out = Console(width=_FILE_WIDTH)
    out.print(table)


@contextlib.contextmanager
def progress(description: str, *, hidden: bool = False) -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar during the block, which reports (number done, total number) to the function it receives."""
    with progress_bar(Console(stderr=True, force_terminal=False) if hidden else console()) as bar:
        task = bar.add_task(description, total=None, rate="")

        def report(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total, rate=f"{bar.tasks[0].speed or 0:.1f}/s")

        yield report


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


def silence_stdout() -> None:
    """Discard further output: the reader has closed the pipe, and writing buffered text at exit would fail again."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def command() -> str:
    """The command line of this process, quoted for a shell."""
    return shlex.join(["fundusgrade", *sys.argv[1:]])
