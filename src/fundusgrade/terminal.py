"""What a person at a terminal sees: messages and progress on stderr, results on stdout."""

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


_WIDE = 400


def console(*, quiet: bool = False) -> Console:
    """Where everything goes that is not a result."""
    return Console(stderr=True, quiet=quiet)


def message(text: str, *, lead: str = "") -> None:
    """A line for people, taken as it is; `lead` may hold markup."""
    console().print(lead + escape(text), soft_wrap=True, highlight=False)


def show(table: Table) -> None:
    """A result: on stdout, and as wide as it needs to be where no terminal limits it."""
    out = Console()
    if not out.is_terminal:
        out = Console(width=_WIDE)
    out.print(table)


@contextlib.contextmanager
def counting(what: str, *, hidden: bool = False) -> Iterator[Callable[[int, int], None]]:
    """A progress bar for something that reports (done, total)."""
    from fundusgrade.terminal import progress_bar

    with progress_bar(Console(stderr=True, force_terminal=False) if hidden else console()) as progress:
        task = progress.add_task(what, total=None, rate="")

        def show_progress(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total, rate=f"{progress.tasks[0].speed or 0:.1f}/s")

        yield show_progress


def silence_stdout() -> None:
    """Whoever read the results has enough; what is still buffered must not fail once more when Python ends."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def command() -> str:
    """The command as it was given, for whoever wants to run it again."""
    return shlex.join(["fundusgrade", *sys.argv[1:]])


def progress_bar(console: Console, *, unit: str = "photographs") -> Progress:
    """A bar with count, rate and time left; it is silent where stderr is not a terminal."""
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
