"""The command-line application: it registers every command and is the only place that handles the library's errors.

PyTorch, OpenCV and NumPy are imported only when a command runs, so that help appears at once. Results go to standard
output or to files, everything else to standard error. Exit codes: 0 success, 1 error, 2 usage error, 3 success with
ungraded photographs, 130 interrupted.
"""

from __future__ import annotations

import errno
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from fundusgrade import __version__
from fundusgrade.commands import datasets, models
from fundusgrade.commands.add_checks import add_checks
from fundusgrade.commands.audit import audit
from fundusgrade.commands.calibrate import calibrate
from fundusgrade.commands.checks import checks
from fundusgrade.commands.compare import compare
from fundusgrade.commands.evaluate import evaluate
from fundusgrade.commands.exit_codes import EXIT_ERROR, EXIT_INTERRUPTED
from fundusgrade.commands.explain import explain
from fundusgrade.commands.export import export
from fundusgrade.commands.faithfulness import faithfulness
from fundusgrade.commands.merge import merge
from fundusgrade.commands.predict import predict
from fundusgrade.commands.preprocess import preprocess
from fundusgrade.commands.refit import refit
from fundusgrade.commands.registration import (
    CONTEXT,
    QuietOption,
    VerboseOption,
    choose_verbosity,
    epilog,
    register,
    register_group,
    without_types,
)
from fundusgrade.commands.train import train
from fundusgrade.errors import FundusgradeError
from fundusgrade.terminal import ERROR, Verbosity, escape_unencodable, message, set_verbosity, silence_stdout
from fundusgrade.text import error_text, is_out_of_memory


class _ErrorBoundary(TyperGroup):
    """Prints an error of the library as one message and ends with an exit code; other errors are defects of ours."""

    def get_params(self, ctx: Any) -> list[Any]:
        return without_types(super().get_params(ctx))

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
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            message(
                "this machine has too little memory for this run; use a smaller --batch-size or --size, fewer "
                "--workers, or a smaller network",
                lead=ERROR,
            )
            raise typer.Exit(EXIT_ERROR) from None
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
                raise
            silence_stdout()
            message(
                f"cannot write the results: {error_text(error)}; free some disk space, or write elsewhere", lead=ERROR
            )
            raise typer.Exit(EXIT_ERROR) from None


_HELP = (
    "Grade diabetic retinopathy in fundus photographs, and highlight the regions that drove the grade.\n\n"
    "Data sets and models are kept in the user data directory, or in the folder that the environment variable "
    "FUNDUSGRADE_HOME names.\n\n"
    "Results go to standard output or files, messages to standard error. Exit codes: 0 done, 1 error, 2 invalid "
    "command line, 3 finished with photographs that could not be graded."
)
app = typer.Typer(
    cls=_ErrorBoundary,
    name="fundusgrade",
    help=_HELP,
    epilog=epilog(""),
    context_settings=CONTEXT,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def main() -> None:
    """Entry point of the console script."""
    escape_unencodable()
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
    verbose: VerboseOption = False,
    quiet: QuietOption = False,
) -> None:
    """Options that come before the command."""
    set_verbosity(Verbosity.NORMAL)
    choose_verbosity(verbose=verbose, quiet=quiet)


_GRADE, _TRAIN, _TEST, _KEEP = "Grade and explain", "Prepare and train", "Evaluate and test", "Keep and exchange"
_COMMANDS = (
    ("predict", predict, _GRADE),
    ("merge", merge, _GRADE),
    ("explain", explain, _GRADE),
    ("preprocess", preprocess, _TRAIN),
    ("train", train, _TRAIN),
    ("refit", refit, _TRAIN),
    ("add-checks", add_checks, _TRAIN),
    ("calibrate", calibrate, _TRAIN),
    ("evaluate", evaluate, _TEST),
    ("compare", compare, _TEST),
    ("audit", audit, _TEST),
    ("faithfulness", faithfulness, _TEST),
    ("export", export, _KEEP),
)

for _name, _command, _panel in _COMMANDS:
    register(app, _name, _command, panel=_panel)
register_group(app, "models", "List and show models; rename, remove, import and export them.", models.COMMANDS, _KEEP)
register_group(
    app, "datasets", "List and show data sets; rename, remove, import and export them.", datasets.COMMANDS, _KEEP
)
register(app, "checks", checks, panel=_KEEP)
