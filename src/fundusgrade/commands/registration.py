"""What every command has besides its own options: a file of settings, more or fewer messages, and examples."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup

from fundusgrade.commands.examples import EXAMPLES
from fundusgrade.commands.settings import Settings, option_key, use_config
from fundusgrade.grades import RESEARCH_USE
from fundusgrade.terminal import Verbosity, set_verbosity

CONTEXT = {"help_option_names": ["-h", "--help"]}
_SETTINGS = "settings"

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        callback=use_config,
        is_eager=True,
        help="YAML file of settings, such as the config.yaml that every run writes; options on the command line take "
        "precedence (default: none).",
    ),
]
VerboseOption = Annotated[
    bool, typer.Option("--verbose", "-v", help="Print more: all tables, and what models were fitted to.")
]
QuietOption = Annotated[
    bool, typer.Option("--quiet", "-q", help="Print results, warnings and errors only, and no progress.")
]


class HelpfulCommand(TyperCommand):
    """A command whose help names what options take in words, and no type for what takes nothing."""

    def get_params(self, ctx: Any) -> list[Any]:
        return without_types(super().get_params(ctx))


class HelpfulGroup(TyperGroup):
    """A group of commands with such a help."""

    def get_params(self, ctx: Any) -> list[Any]:
        return without_types(super().get_params(ctx))


def without_types(parameters: list[Any]) -> list[Any]:
    """The parameters without Python's types in their help: those of flags, and of arguments, which have a name."""
    for each in parameters:
        if isinstance(each, TyperArgument) or getattr(each, "is_flag", False):
            each.display_type_rich = lambda ctx: None
    return parameters


def register(app: typer.Typer, name: str, command: Callable[..., None], *, panel: str | None = None) -> None:
    """Add a command to the application, with the options that all have.

    A parameter `settings` of the command is not an option: it is given the values of all of them.
    """
    prefix = f"{app.info.name} " if app.info.name not in (None, "fundusgrade") else ""
    app.command(
        name,
        help=help_text(command),
        epilog=epilog(prefix + name),
        context_settings=CONTEXT,
        rich_help_panel=panel,
        cls=HelpfulCommand,
    )(_with_general_options(prefix + name, command))


def register_group(
    app: typer.Typer, name: str, help: str, commands: Mapping[str, Callable[..., None]], panel: str
) -> None:
    """Add a group of commands, whose `list` also runs where none is named."""

    def list_first(context: typer.Context, verbose: VerboseOption = False, quiet: QuietOption = False) -> None:
        choose_verbosity(verbose=verbose, quiet=quiet)
        if context.invoked_subcommand is None:
            commands["list"]()

    group = typer.Typer(name=name, cls=HelpfulGroup, rich_markup_mode="rich", context_settings=CONTEXT)
    group.callback(
        invoke_without_command=True, help=f"{help} Without a command the list is shown.", epilog=epilog(name)
    )(list_first)
    for own_name, command in commands.items():
        register(group, own_name, command)
    app.add_typer(group, rich_help_panel=panel)


def help_text(command: Callable[..., None]) -> str:
    """A command's docstring with one line for each paragraph, which Typer wraps at the width of the terminal."""
    paragraphs = (command.__doc__ or "").split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


def epilog(name: str) -> str:
    """The end of a command's help: examples, and what the software is not."""
    examples = "\n".join(f"  {example}".replace("[", "\\[") for example in EXAMPLES[name])
    return f"[bold]Examples[/]\n{examples}\n\n{RESEARCH_USE}"


def choose_verbosity(*, verbose: bool, quiet: bool) -> None:
    """How much is printed from now on, where either is given. Raises BadParameter where both are."""
    if verbose and quiet:
        raise typer.BadParameter("--verbose and --quiet exclude each other: give one of them")
    if verbose or quiet:
        set_verbosity(Verbosity.VERBOSE if verbose else Verbosity.QUIET)


def _with_general_options(name: str, command: Callable[..., None]) -> Callable[..., None]:
    """The command with `--config`, `--verbose` and `--quiet` in front of its own options."""
    signature = inspect.signature(command, eval_str=True)
    own = [each for each in signature.parameters.values() if each.name != _SETTINGS]
    general = [_option("config", ConfigOption, None), _option("verbose", VerboseOption, False)]
    general.append(_option("quiet", QuietOption, False))

    @functools.wraps(command)
    def run(context: typer.Context, **values: Any) -> None:
        choose_verbosity(verbose=values.pop("verbose"), quiet=values.pop("quiet"))
        values.pop("config")
        if _SETTINGS in signature.parameters:
            by_key = {option_key(each): values.get(each.name or "") for each in context.command.params}
            values[_SETTINGS] = Settings(command=name, values=by_key)
        command(**values)

    parameters = [inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)]
    parameters += [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in own] + general
    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {each.name: each.annotation for each in parameters} | {"return": None}
    del run.__wrapped__  # Typer would look through it at the command's own signature
    return run


def _option(name: str, annotation: Any, default: object) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
