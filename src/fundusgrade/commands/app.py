"""The command-line application: it registers every command and is the one error boundary.

Nothing heavy is imported before a command runs, so that help answers at once. Results go to stdout or to files,
everything else to stderr. Exit codes: 0 done, 1 error, 2 usage, 3 finished with ungraded photographs.
"""

from __future__ import annotations

import errno
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from fundusgrade import __version__
from fundusgrade.commands.audit import audit
from fundusgrade.commands.evaluate import evaluate
from fundusgrade.commands.explain import explain, faithfulness
from fundusgrade.commands.export import export
from fundusgrade.commands.lists import list_datasets, list_models
from fundusgrade.commands.options import EXIT_ERROR, EXIT_INTERRUPTED
from fundusgrade.commands.predict import merge, predict
from fundusgrade.commands.preprocess import preprocess
from fundusgrade.commands.train import train
from fundusgrade.errors import FundusgradeError
from fundusgrade.grades import RESEARCH_USE
from fundusgrade.terminal import message, silence_stdout
from fundusgrade.text import error_text

_ERROR = "[bold red]Error:[/] "


class _ErrorBoundary(TyperGroup):
    """Turns the library's errors into one readable message and an exit code; nothing else does."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except FundusgradeError as error:
            message(str(error), lead=_ERROR)
            for note in getattr(error, "__notes__", ()):
                message(note)
            raise typer.Exit(EXIT_ERROR) from None
        except KeyboardInterrupt as error:
            for note in getattr(error, "__notes__", ()):
                message(note)
            message("Interrupted.")
            raise typer.Exit(EXIT_INTERRUPTED) from None
        except BrokenPipeError:
            silence_stdout()
            raise typer.Exit(EXIT_ERROR) from None
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
                raise
            silence_stdout()
            message(f"cannot write the results: {error_text(error)}; make room, or write elsewhere", lead=_ERROR)
            raise typer.Exit(EXIT_ERROR) from None


app = typer.Typer(
    cls=_ErrorBoundary,
    name="fundusgrade",
    help="Grade diabetic retinopathy in fundus photographs, and show what the grade rests on.",
    epilog=RESEARCH_USE,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def main() -> None:
    """Entry point of the console script."""
    app()


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"fundusgrade {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Options that come before the command."""


for _command in (preprocess, train, evaluate, audit, predict, merge, explain, faithfulness, export):
    app.command()(_command)
app.command("models")(list_models)
app.command("datasets")(list_datasets)
