"""Write the reference of the commands, docs/commands.md, from their help: python docs/programs/command_reference.py"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from fundusgrade.commands.app import app
from fundusgrade.commands.examples import EXAMPLES

TARGET = Path(__file__).parents[1] / "commands.md"
GENERAL = ("config", "verbose", "quiet", "help")
HEADER = """# Commands

Written from the help of the commands by `python docs/programs/command_reference.py` (`make docs`); a test fails where
it is out of date. `fundusgrade COMMAND --help` shows the same. What the commands have in common, such as files of
settings and exit codes: [Command line](guides/command-line.md).

## Options of every command
"""
DEFAULT = re.compile(r"\s*\(default: (?P<value>.*)\)(?=\.?$)")
CODE = re.compile(r"`[^`]+`|'[^']+'(?=[\s,;.)]|$)|(?<![\w`-])--?[a-z][a-z-]*")


def reference() -> str:
    """The whole document: the options that all commands have, then each command with its groups of options."""
    root: Any = typer.main.get_command(app)
    some = root.commands["predict"]
    general = [each for each in some.get_params(context(some)) if each.name in GENERAL]
    sections = [HEADER, *table(general), "", "`fundusgrade --version` shows the version.", ""]
    for panel, commands in by_panel(root.commands):
        sections += [f"## {panel}", ""]
        for name, command in commands:
            sections += section(name, command)
    return "\n".join(sections)


def by_panel(commands: dict[str, Any]) -> list[tuple[str, list[tuple[str, Any]]]]:
    """Commands in the groups of the help, each group where its first command stands; commands of a group follow it."""
    panels: dict[str, list[tuple[str, Any]]] = {}
    for name, command in commands.items():
        own = [(f"{name} {each}", value) for each, value in getattr(command, "commands", {}).items()]
        panels.setdefault(command.rich_help_panel, []).extend([(name, command), *own])
    return list(panels.items())


def section(name: str, command: Any) -> Iterator[str]:
    """The section of one command: what it does, its usage, its options by group, and examples."""
    parameters = [each for each in command.get_params(context(command)) if each.name not in GENERAL]
    yield from (f"### {name}", "", formatted(command.help), "")
    if not hasattr(command, "commands"):
        usage = ["[OPTIONS]", *(argument(each) for each in parameters if not is_option(each))]
        yield from ("```text", " ".join(["fundusgrade", name, *usage]), "```", "")
    groups: dict[str, list[Any]] = {}
    for each in sorted(parameters, key=is_option):
        group = (getattr(each, "rich_help_panel", None) or "Options") if is_option(each) else "Arguments"
        groups.setdefault(group, []).append(each)
    for group, members in groups.items():
        yield from (f"**{group}**", "", *table(members), "")
    yield from ("Examples:" if len(EXAMPLES[name]) > 1 else "Example:", "", "```sh", *EXAMPLES[name], "```", "")


def context(command: Any) -> typer.Context:
    """What a command is asked for its parameters with."""
    return typer.Context(command, **command.context_settings)


def is_option(parameter: Any) -> bool:
    """Whether a parameter is an option; else it is an argument."""
    return bool(parameter.param_type_name == "option")


def argument(parameter: Any) -> str:
    """An argument as a line of usage shows it."""
    name = title(parameter)
    name = f"{name}..." if parameter.nargs == -1 else name
    return name if parameter.required else f"[{name}]"


def title(parameter: Any) -> str:
    """What stands for a parameter's value."""
    return str(parameter.metavar or parameter.name.upper())


def table(parameters: list[Any]) -> Iterator[str]:
    """A row per parameter: its names and what it takes, what it means, and its default."""
    yield from ("| name | meaning | default |", "|---|---|---|")
    for each in parameters:
        meaning, default = parted(each)
        yield f"| {names(each)} | {meaning} | {default} |"


def names(parameter: Any) -> str:
    """`--model NAME`, both forms of an option that has a short one, or an argument's name."""
    if not is_option(parameter):
        return f"`{title(parameter)}`"
    flags = [*sorted(parameter.opts, key=len, reverse=True), *parameter.secondary_opts]
    takes = "" if parameter.is_flag or parameter.name == "help" else f" {title(parameter)}"
    return ", ".join(f"`{each}`" for each in [*flags[:-1], flags[-1] + takes])


def parted(parameter: Any) -> tuple[str, str]:
    """The help without its default, with its range, and the default alone."""
    text = parameter.help or ""
    found = DEFAULT.search(text)
    meaning = formatted(DEFAULT.sub("", text)) + limits(parameter)
    if found:
        return meaning, formatted(found["value"])
    if parameter.required:
        return meaning, "required"
    value = parameter.default
    if isinstance(value, bool) and parameter.name != "help":
        return (
            meaning,
            f"`{(parameter.opts if value else parameter.secondary_opts)[0]}`" if parameter.secondary_opts else "off",
        )
    return meaning, "" if value is None or isinstance(value, bool) else f"`{getattr(value, 'value', value)}`"


def limits(parameter: Any) -> str:
    """The range of a number in words, or nothing."""
    low, high = (getattr(parameter, name, None) for name in ("min", "max"))
    if low is not None and high is not None:
        return f" From {low:g} to {high:g}."
    return f" At least {low:g}." if low is not None else f" At most {high:g}." if high is not None else ""


def formatted(text: str) -> str:
    """Help as Markdown that fits into a table: options, quoted values and code as code, nothing else with a meaning."""
    parts, end = [], 0
    for found in CODE.finditer(text):
        code = found.group().strip("`'").replace("&", "&amp;").replace("<", "&lt;").replace("|", "&#124;")
        parts += [escaped(text[end : found.start()]), f"<code>{code}</code>" if "&" in code else f"`{code}`"]
        end = found.end()
    return "".join([*parts, escaped(text[end:])])


def escaped(text: str) -> str:
    """Text whose characters have no meaning in Markdown."""
    return re.sub(r"([*_<>|\[\]\\])", r"\\\1", text)


if __name__ == "__main__":
    TARGET.write_text(reference(), encoding="utf-8", newline="\n")
