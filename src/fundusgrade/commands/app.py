"""The command-line application: it registers every command and is the only place that handles the library's errors.

PyTorch, OpenCV and NumPy are imported only when a command runs, so that help appears at once. Results go to standard
output or to files, everything else to standard error. Exit codes: 0 success, 1 error, 2 usage error, 3 success with
ungraded photographs, 130 interrupted.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from fundusgrade import __version__
from fundusgrade.commands.add_checks import add_checks
from fundusgrade.commands.audit import audit
from fundusgrade.commands.calibrate import calibrate
from fundusgrade.commands.evaluate import evaluate
from fundusgrade.commands.explain import explain
from fundusgrade.commands.export import export
from fundusgrade.commands.faithfulness import faithfulness
from fundusgrade.commands.lists import list_datasets, list_models
from fundusgrade.commands.merge import merge
from fundusgrade.commands.options import EXIT_ERROR, EXIT_INTERRUPTED
from fundusgrade.commands.predict import predict
from fundusgrade.commands.preprocess import preprocess
from fundusgrade.commands.refit import refit
from fundusgrade.commands.train import train
from fundusgrade.errors import FundusgradeError
from fundusgrade.grades import RESEARCH_USE
from fundusgrade.terminal import ERROR, message, silence_stdout
from fundusgrade.text import error_text


class _ErrorBoundary(TyperGroup):
    """Prints an error of the library as one message and ends with an exit code; other errors are defects of ours."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except FundusgradeError as error:
            message(str(error), lead=ERROR)
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
            message(
                f"cannot write the results: {error_text(error)}; free some disk space, or write elsewhere", lead=ERROR
            )
            raise typer.Exit(EXIT_ERROR) from None


app = typer.Typer(
    cls=_ErrorBoundary,
    name="fundusgrade",
    help="Grade diabetic retinopathy in fundus photographs, and highlight the regions that drove the grade.",
    epilog=RESEARCH_USE,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def main() -> None:
    """Entry point of the console script."""
    app()


def _print_version(requested: bool) -> None:
    if requested:
        typer.echo(f"fundusgrade {__version__}")
        raise typer.Exit


@app.callback()
def _global_options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Options that come before the command."""


def _help(command: Callable[..., None]) -> str:
    """A command's docstring with one line for each paragraph, which Typer wraps at the width of the terminal."""
    paragraphs = (command.__doc__ or "").split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


_COMMANDS: dict[str, Callable[..., None]] = {
    "preprocess": preprocess,
    "train": train,
    "refit": refit,
    "add-checks": add_checks,
    "calibrate": calibrate,
    "evaluate": evaluate,
    "audit": audit,
    "predict": predict,
    "merge": merge,
    "explain": explain,
    "faithfulness": faithfulness,
    "export": export,
    "models": list_models,
    "datasets": list_datasets,
}

for _name, _command in _COMMANDS.items():
    app.command(_name, help=_help(_command), epilog=RESEARCH_USE)(_command)
