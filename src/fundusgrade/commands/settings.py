"""The settings of a run: written as `config.yaml`, and read from such a file by `--config`.

An option on the command line takes precedence over the file, the file over what a model's checkpoint holds, and that
over the default. A file holds the settings of one command, by the names of its options:

    command: train
    data: [aptos2019]
    arch: resnet50
    learning-rate: 5e-4
    calibrate: true
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import typer

from fundusgrade import __version__
from fundusgrade.files import now, write_atomically
from fundusgrade.outputs import MARK
from fundusgrade.photographs.remote import url_of
from fundusgrade.store import CONFIG_FILE
from fundusgrade.text import error_text, one_line

COMMAND_KEY = "command"
HOW_IT_RAN = frozenset({"config", "verbose", "quiet", "help", "overwrite", "resume"})
"""Options that say how a run was started, not what it computes: they are not written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The values of all options and arguments of a command, from the command line, a file or the defaults."""

    command: str
    values: Mapping[str, object]
    """By the name of the option, without hyphens before it."""

    def text(self, **resolved: object) -> str:
        """The content of the file that repeats the run.

        `resolved` are values that the run chose where none was given, with underscores in the place of hyphens. Paths
        are written in full, so that the run can be repeated from any folder.
        """
        import yaml

        chosen = {name.replace("_", "-"): value for name, value in resolved.items()}
        plain = {
            name: _plain(value)
            for name, value in {**self.values, **chosen}.items()
            if name not in HOW_IT_RAN and value is not None and value != [] and value != ()
        }
        head = f"# {MARK} {__version__} at {now()}; repeat with: fundusgrade {self.command} --config THIS_FILE\n"
        body = yaml.safe_dump({COMMAND_KEY: self.command, **plain}, sort_keys=False, allow_unicode=True, width=120)
        return f"{head}{body}"

    def write(self, folder: Path, **resolved: object) -> None:
        """Write `config.yaml` into the folder of the results. Raises StoreError where it cannot be written."""
        write_atomically(folder / CONFIG_FILE, self.text(**resolved))

    def write_beside(self, file: Path, **resolved: object) -> None:
        """Write `FILE.config.yaml` beside a single file of results. Raises StoreError where it cannot be written."""
        write_atomically(config_beside(file), self.text(**resolved))


def config_beside(file: Path) -> Path:
    """Where the settings of a run are written whose result is one file."""
    return file.with_name(f"{file.name}.{CONFIG_FILE}")


def option_key(parameter: Any) -> str:
    """The name of a parameter of a command in a file: that of its first long option, or the argument's."""
    return next(iter(_keys(parameter)))


def use_config(context: typer.Context, path: Path | None) -> Path | None:
    """Take the settings of a file as the defaults of a command. Raises BadParameter for what the command does not have.

    It is the callback of `--config`.
    """
    if path is None or context.resilient_parsing:
        return path
    parameters = {key: each for each in context.command.params for key in _keys(each)}
    name = context.command.name or ""
    content = _read(path)
    written_by = content.pop(COMMAND_KEY, None)
    of_command = _command_path(context)
    if written_by is not None and written_by not in (name, of_command):
        raise typer.BadParameter(
            f"{path} is of `fundusgrade {written_by}`; leave its line {COMMAND_KEY!r} out to use it for {of_command!r}"
        )
    defaults: dict[str, Any] = {}
    for key, value in content.items():
        parameter = parameters.get(key.replace("_", "-"))
        if parameter is None or parameter.name == "config":
            known = sorted(key for key, each in parameters.items() if each.name != "config")
            raise typer.BadParameter(f"{path}: {_unknown(key, known, of_command)}")
        if value is not None:
            defaults[parameter.name] = _as_on_the_command_line(value, parameter, f"{path}: {key}")
    context.default_map = defaults
    return path


def _command_path(context: typer.Context) -> str:
    """ "train", or "models export" of a command in a group."""
    return context.command_path.partition(" ")[2] or (context.command.name or "")


def _keys(parameter: Any) -> dict[str, None]:
    """The names by which a file may call a parameter, the first of which is written."""
    names = [option.removeprefix("--") for option in parameter.opts if option.startswith("--")]
    return dict.fromkeys(names or [parameter.name.replace("_", "-")])


def _read(path: Path) -> dict[str, Any]:
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise typer.BadParameter(f"{path}: {error_text(error)}; expected a YAML file") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise typer.BadParameter(f"{path} is not a YAML file: {error_text(error)}") from error
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise typer.BadParameter(f"{path}: expected lines such as `epochs: 12`, with the names of options")
    return content


def _unknown(key: str, known: Sequence[str], command: str) -> str:
    near = difflib.get_close_matches(key.replace("_", "-"), known, n=1)
    remedy = f"did you mean {near[0]!r}?" if near else f"expected {', '.join(known)}"
    return f"unknown key {one_line(key)!r} of {command!r}; {remedy}"


def _as_on_the_command_line(value: object, parameter: Any, where: str) -> Any:
    """A value as the command line would give it, so that it is converted and checked in the same way."""
    is_flag = getattr(parameter, "is_flag", False)
    takes_several = getattr(parameter, "multiple", False) or parameter.nargs == -1
    if is_flag:
        if not isinstance(value, bool):
            raise typer.BadParameter(f"{where}: expected true or false, not {value!r}")
        return value
    values = value if isinstance(value, list) else [value]
    if not all(isinstance(each, str | int | float) and not isinstance(each, bool) for each in values):
        raise typer.BadParameter(f"{where}: expected text or a number, or a list of them, not {value!r}")
    if isinstance(value, list) and not takes_several:
        raise typer.BadParameter(f"{where}: expected one value, not a list of {len(value)}")
    texts = [str(each) for each in values]
    return texts if takes_several else texts[0]


def _plain(value: object) -> object:
    """A value as YAML writes it."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Path) and (url := url_of(value)) is not None:
        return url
    if isinstance(value, Path):
        return os.path.abspath(value)  # noqa: PTH100 (a link stays as it was given)
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value
