"""Help by which every command can be used without the guides: groups, words, examples, and completion by the shell."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
import timm
import typer.main
from typer.testing import CliRunner

from fundusgrade.commands.app import app
from fundusgrade.commands.examples import EXAMPLES
from fundusgrade.commands.options.names import ARCHITECTURES
from tests.command_line import ENVIRONMENT, Outcome
from tests.models_for_tests import install_dataset, install_model

GROUP: Any = typer.main.get_command(app)


def command_of(name: str) -> Any:
    """The command of a name such as "models export"; the application of ""."""
    found = GROUP
    for word in name.split():
        found = found.commands[word]
    return found


NAMES = [name for name in EXAMPLES if name]
OPTIONS = [
    (name, parameter)
    for name in NAMES
    for parameter in command_of(name).params
    if parameter.param_type_name == "option"
]


def all_names(group: Any, before: str = "") -> list[str]:
    names = []
    for name, command in group.commands.items():
        names.append(f"{before}{name}")
        names += all_names(command, f"{before}{name} ") if hasattr(command, "commands") else []
    return names


def test_every_command_has_examples() -> None:
    assert sorted(all_names(GROUP)) == sorted(NAMES)


@pytest.mark.parametrize("name", ["", *NAMES])
def test_short_help_is_help_and_ends_with_examples(name: str) -> None:
    short, long = Outcome([*name.split(), "-h"]), Outcome([*name.split(), "--help"])
    assert (short.code, short.stdout) == (0, long.stdout)
    end = short.stdout[short.stdout.index("Examples") :]
    for line in EXAMPLES[name]:
        assert line.strip() in end
        assert len(line) <= 76, "it would be wrapped at 80 columns"


def parsed_examples() -> list[str]:
    """What stands behind "fundusgrade" in each example."""
    whole = "\n".join(line for lines in EXAMPLES.values() for line in lines).replace("\\\n", " ")
    parts = [part for line in whole.splitlines() for part in line.split(" && ")]
    commands = [part.split("fundusgrade ", 1)[1] if "fundusgrade " in part else "" for part in parts]
    inside = [
        command.split(')"')[0] if "$(" in part else command for command, part in zip(commands, parts, strict=True)
    ]
    return [command for command in inside if not command.startswith("COMMAND")]


def test_there_are_as_many_examples_as_lines() -> None:
    num_named = sum(len(re.findall(r"fundusgrade [a-z]", line)) for lines in EXAMPLES.values() for line in lines)
    assert len(parsed_examples()) == num_named > 30


@pytest.mark.parametrize("example", parsed_examples())
def test_every_example_is_understood(example: str, workplace: Path) -> None:
    (workplace / "config.yaml").write_text("command: train\n")
    words = shlex.split(example.rstrip('" '))
    context = None
    command = GROUP
    while hasattr(command, "commands"):
        if not words:
            assert command.invoke_without_command
            return
        name = words.pop(0)
        context = typer.Context(command, info_name=command.name, parent=context)
        command = command.commands[name]
    command.make_context(command.name, words, parent=context)  # raises for what it does not know


@pytest.mark.parametrize(("name", "parameter"), OPTIONS, ids=lambda value: getattr(value, "name", value))
def test_what_an_option_takes_is_a_word_and_it_stands_in_a_group(name: str, parameter: Any) -> None:
    if parameter.name in ("config", "verbose", "quiet"):
        return
    assert parameter.rich_help_panel, f"{name} --{parameter.name} is in no group"
    if not parameter.is_flag:
        assert re.fullmatch(r"[A-Z][A-Z/]*", parameter.metavar or ""), f"{name} --{parameter.name}"


@pytest.mark.parametrize(("name", "parameter"), OPTIONS, ids=lambda value: getattr(value, "name", value))
def test_every_choice_of_an_option_is_in_its_help(name: str, parameter: Any) -> None:
    """The help of choices is written in words; a new choice must be added to it."""
    annotation = parameter.type_descriptor.annotation if hasattr(parameter, "type_descriptor") else None
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        for choice in annotation:
            assert choice.value in parameter.help, f"{name} --{parameter.name} {choice.value}"


def test_architectures_that_a_shell_suggests_exist() -> None:
    unknown = [name for name in ARCHITECTURES if name not in ("cnn", "vit") and not timm.is_model(name)]
    assert unknown == []
    assert len(set(ARCHITECTURES)) == len(ARCHITECTURES)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("predict --model ", {"my-model", "other"}),
        ("evaluate --model my", {"my-model"}),
        ("audit dr", {"drawn"}),
        ("train --data ", {"drawn"}),
        ("train --arch resnet5", {"resnet50"}),
        ("explain eye.png --method grad-cam@f", {"grad-cam@fine"}),
        ("explain eye.png --target ref", {"referable"}),
        ("train --head reg", {"regression"}),
    ],
)
def test_a_shell_completes_names(words: str, expected: set[str]) -> None:
    install_model("my-model")
    install_model("other")
    install_dataset("drawn")
    line = f"fundusgrade {words}"
    number = len(line.split(" ")) - 1
    environment = {"_FUNDUSGRADE_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(number)}
    result = CliRunner().invoke(app, [], prog_name="fundusgrade", env=environment)
    assert set(result.stdout.split()) == expected


def test_completion_loads_no_pytorch(tmp_path: Path) -> None:
    program = (
        "import sys; from fundusgrade.commands.options import names\n"
        "names.complete_models(''); names.complete_datasets(''); names.complete_methods('grad')\n"
        "names.complete_targets('')\n"
        "assert not {'torch', 'timm', 'cv2', 'numpy'} & set(sys.modules), sorted(sys.modules)"
    )
    environment = {**ENVIRONMENT, "FUNDUSGRADE_HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True, timeout=60)


def test_verbose_and_quiet_may_stand_before_and_behind_the_command_but_not_together() -> None:
    for words in ("fundusgrade -v models", "fundusgrade models -v", "fundusgrade --quiet models"):
        assert Outcome(words).code == 0
    for words in ("fundusgrade -v -q models", "fundusgrade models -v -q"):
        outcome = Outcome(words)
        assert outcome.code == 2
        assert "--verbose and --quiet exclude each other" in outcome.stderr


def test_quiet_leaves_out_messages_but_not_results_or_errors() -> None:
    loud, quiet = Outcome("fundusgrade models"), Outcome("fundusgrade models -q")
    assert "no model yet" in loud.stderr
    assert quiet.stderr == ""
    assert quiet.stdout == loud.stdout
    assert Outcome("fundusgrade -q evaluate").stderr.startswith("Error: no data set in the store")


@pytest.mark.parametrize(
    ("command", "question"),
    [
        ("predict eye.png --model my-modle", "no model 'my-modle' (did you mean 'my-model'?)"),
        ("audit dranw", "no data set 'dranw' (did you mean 'drawn'?)"),
        ("pedict eye.png", "Did you mean 'predict'?"),
    ],
)
def test_a_mistyped_name_is_answered_with_what_it_may_stand_for(command: str, question: str, workplace: Path) -> None:
    install_model("my-model")
    install_dataset("drawn")
    (workplace / "eye.png").write_bytes(b"")
    outcome = Outcome(f"fundusgrade {command}")
    assert outcome.code in (1, 2)
    assert question in " ".join(outcome.stderr.replace("│", " ").split())


def test_a_name_is_listed_once_though_a_shipped_model_has_it_too(workplace: Path) -> None:
    install_model("aptos-cnn").parent.rename((workplace / "shipped").mkdir() or workplace / "shipped" / "aptos-cnn")
    install_model("aptos-cnn")
    (workplace / "eye.png").write_bytes(b"")
    outcome = Outcome("fundusgrade predict eye.png --model vit")
    assert "neither a name in the store (aptos-cnn) nor a file" in outcome.stderr
