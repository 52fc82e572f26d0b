"""The rooms of the house stand in one order, and imports point to earlier rooms only."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import fundusgrade

PACKAGE = Path(fundusgrade.__file__).parent
ORDER = """
__init__ errors grades options
decoding dicom_header dicom archives images field_of_view preprocess quality intake
overlay panels landmarks concentration decoys lesions metrics
store labels splits overview preparing dataset joining
shortcuts audit exposure predictions resampling scores operating conformal comparison assessment findings
kept_pixels hub device distributed pace heads losses model checkpoint graphs graph_files
degrading batches calibration run_state training
targets layers integrated rollout explain tiling grading explaining
perturbation randomization faithfulness examination interventions evaluating
rows columnar writing sharding figures report model_card
markup charts report_context page_style checklist
score_sections trust_sections comparison_sections html_report describing
explanation_files findings_report progress event_log runs cross_validation
terminal explain_command predict_command conversion export_check hub_folder exporting export_command cli __main__
"""
"""Every module, each after those that it may import; PyTorch from `device` on."""
ROOMS = ORDER.split()

FORBIDDEN = {
    "click": "typer brings its own copy, whose exceptions are others",
    "pickle": "a file must never be able to run code",
    "matplotlib.pyplot": "it keeps figures in global state and may look for a screen",
    "requests": "only timm may reach the network",
    "urllib": "only timm may reach the network",
}
MAX_FUNCTION_LINES = 40
LONG_FUNCTIONS: set[str] = set()
"""One page of text, in the order in which it is read."""


def modules() -> list[str]:
    return sorted(path.stem for path in PACKAGE.glob("*.py"))


def tree_of(module: str) -> ast.Module:
    return ast.parse((PACKAGE / f"{module}.py").read_text(encoding="utf-8"))


def nodes_at_run_time(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those that only a type checker sees."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        yield child
        yield from nodes_at_run_time(child)


def imported_names(module: str) -> set[str]:
    """Dotted names of everything a module imports, inside of functions too: "fundusgrade.store", "rich.table.Table"."""
    names = set()
    for node in nodes_at_run_time(tree_of(module)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def imported_rooms(module: str) -> set[str]:
    parts = [name.split(".") for name in imported_names(module) if name.split(".")[0] == "fundusgrade"]
    return {part[1] if len(part) > 1 and part[1] in modules() else "__init__" for part in parts}


def test_every_module_is_a_room() -> None:
    assert modules() == sorted(ROOMS)
    assert not {"utils", "util", "helpers", "common", "misc"} & set(ROOMS)
    assert [path.name for path in PACKAGE.iterdir() if path.is_dir() and any(path.glob("*.py"))] == []


@pytest.mark.parametrize("module", ROOMS)
def test_imports_point_to_earlier_rooms(module: str) -> None:
    earlier = set(ROOMS[: ROOMS.index(module)])
    assert imported_rooms(module) <= earlier


@pytest.mark.parametrize("module", ROOMS)
def test_nothing_forbidden_is_imported(module: str) -> None:
    for name in imported_names(module):
        for forbidden, reason in FORBIDDEN.items():
            assert not f"{name}.".startswith(f"{forbidden}."), f"{module} imports {name}: {reason}"


def test_rooms_before_device_do_without_torch() -> None:
    """In a process of its own, where nothing has imported it yet; the command line too, until a command runs."""
    light = [f"fundusgrade.{room}" for room in [*ROOMS[1 : ROOMS.index("device")], "figures", "report", "cli"]]
    program = (
        "import importlib, sys\n"
        f"for name in {light}:\n"
        "    importlib.import_module(name)\n"
        "    heavy = {'torch', 'timm', 'torchvision', 'matplotlib'} & set(sys.modules)\n"
        "    assert not heavy, f'{name} imports {heavy}'\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("module", ROOMS)
def test_functions_are_short_and_do_not_print(module: str) -> None:
    for node in ast.walk(tree_of(module)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            # A command's options are not its body.
            first = node.body[0].lineno if module == "cli" or module.endswith("_command") else node.lineno
            num_lines = (node.end_lineno or first) - first + 1
            name = f"{module}.{node.name}"
            assert num_lines <= MAX_FUNCTION_LINES or name in LONG_FUNCTIONS, f"{name} has {num_lines} lines"
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called != "print", f"{module}:{node.lineno} prints"
            assert called != "torch.load", f"{module}:{node.lineno} loads pickle"


@pytest.mark.parametrize("module", [room for room in ROOMS if room != "__main__"])
def test_nothing_happens_at_import(module: str) -> None:
    for node in tree_of(module).body:
        is_string = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        is_typing = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        defines = ast.Import | ast.ImportFrom | ast.Assign | ast.AnnAssign | ast.FunctionDef | ast.ClassDef
        assert is_string or is_typing or isinstance(node, defines), f"{module}:{node.lineno}"
