"""Write the reference of the Python API, docs/api.md, from the docstrings: python docs/programs/api_reference.py"""

from __future__ import annotations

import ast
import enum
import inspect
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any, get_overloads

TARGET = Path(__file__).parents[1] / "api.md"
PACKAGES = ("photographs", "data", "metrics", "networks", "grading", "training", "explanation", "evaluation", "reports")
HEADER = """# Reference of the Python API

Written from the docstrings by `python docs/programs/api_reference.py` (`make docs`); a test fails where it is out of
date. A guide with examples: [Python](guides/python.md). Names are imported at their first use, so that
`import fundusgrade` is cheap.
"""


def reference() -> str:
    """The whole document: the names of `fundusgrade`, then those that only its packages have."""
    root = import_module("fundusgrade")
    names = [name for name in root.__all__ if name != "__version__"]
    sections = [HEADER, "## fundusgrade\n", *(entry(root, name) for name in names)]
    for package in (import_module(f"fundusgrade.{name}") for name in PACKAGES):
        others = [name for name in package.__all__ if name not in names]
        title = f"## {package.__name__}\n\n{(package.__doc__ or '').strip()}\n"
        sections += [title, *(entry(package, name) for name in others)] if others else []
    return "\n".join(sections)


def entry(module: ModuleType, name: str) -> str:
    """The section of one public name."""
    value = getattr(module, name)
    lines = [f"### {name}", ""]
    if inspect.isclass(value):
        lines += [f"*class* `{value.__module__}.{name}`", "", docstring(value), "", *members(value)]
    elif inspect.isfunction(value):
        lines += [*signatures(value), "", docstring(value), ""]
    else:
        lines += ["*type alias*", "", alias_docstring(module, name), ""]
    return "\n".join(lines)


def members(kind: type[Any]) -> list[str]:
    """The values, fields, properties and methods of a class that users may call."""
    lines: list[str] = []
    if issubclass(kind, enum.Enum):
        lines += [f"- `{member.name}` = `{member.value!r}`" for member in kind]
    if is_dataclass(kind):
        lines += [f"- `{field.name}: {field.type}`" for field in fields(kind)]
    for name, value in attributes(kind):
        if isinstance(value, property):
            first = docstring(value).split("\n\n")[0].replace("\n", " ")
            lines.append(f"- `{name}`: {first}")
    lines += [""] if lines else []
    for name, value in attributes(kind):
        function = value.__func__ if isinstance(value, classmethod) else value
        if inspect.isfunction(function):
            lines += [f"#### {kind.__name__}.{name}", "", *signatures(function), "", docstring(function), ""]
    return lines


def attributes(kind: type[Any]) -> Iterator[tuple[str, Any]]:
    """Public attributes that a class of ours defines, in the order of its source, a base's first."""
    seen = set()
    for base in reversed(kind.__mro__):
        for name, value in vars(base).items() if base.__module__.startswith("fundusgrade") else ():
            if not name.startswith("_") and name not in seen:
                seen.add(name)
                yield name, value


def signatures(function: Callable[..., Any]) -> list[str]:
    """A block of code with the signature, or one for each overload."""
    blocks = [signature(each) for each in get_overloads(function) or [function]]
    return ["```text", *blocks, "```"]


def signature(function: Callable[..., Any]) -> str:
    """A signature as its source has it, on one line or with a parameter on each."""
    node = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    assert isinstance(node, ast.FunctionDef)
    returned = "" if node.returns is None else f" -> {ast.unparse(node.returns)}"
    parts = parameters(node.args)
    line = f"{node.name}({', '.join(parts)}){returned}"
    if len(line) <= 100:
        return line
    return "\n".join([f"{node.name}(", *(f"    {part}," for part in parts), f"){returned}"])


def parameters(arguments: ast.arguments) -> list[str]:
    """Each parameter but `self` and `cls`, with its annotation and its default."""
    by_place = [*arguments.posonlyargs, *arguments.args]
    defaults = [None] * (len(by_place) - len(arguments.defaults)) + arguments.defaults
    parts = [parameter(*each) for each in zip(by_place, defaults, strict=True) if each[0].arg not in ("self", "cls")]
    by_name = zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    return [*parts, *(["*"] if arguments.kwonlyargs else []), *(parameter(*each) for each in by_name)]


def parameter(argument: ast.arg, default: ast.expr | None) -> str:
    """One parameter."""
    return ast.unparse(argument) + ("" if default is None else f" = {ast.unparse(default)}")


def docstring(value: object) -> str:
    """The docstring without its indentation; an error where there is none."""
    text = inspect.getdoc(value)
    assert text, f"{value} has no docstring"
    return text


def alias_docstring(module: ModuleType, name: str) -> str:
    """The string below the assignment of an alias, in the module that defines it."""
    source = inspect.getsource(module)
    imports = {
        alias.name: node.module
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    body = ast.parse(inspect.getsource(import_module(imports[name] or ""))).body
    for node, following in pairwise(body):
        is_alias = isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name
        if is_alias and isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
            return f"```text\n{ast.unparse(node)}\n```\n\n{inspect.cleandoc(str(following.value.value))}"
    raise AssertionError(f"{name} has no docstring")


if __name__ == "__main__":
    TARGET.write_text(reference(), encoding="utf-8", newline="\n")
