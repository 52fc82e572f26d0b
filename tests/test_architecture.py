"""Ten packages in one order: each imports only from those above it, nothing imports in a circle."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import fundusgrade

ROOT = Path(fundusgrade.__file__).parent
PACKAGES = (
    "photographs",
    "data",
    "metrics",
    "networks",
    "grading",
    "training",
    "explanation",
    "evaluation",
    "reports",
    "commands",
)
"""Each after those that it may import; modules at the root come before all of them. PyTorch is imported in parts of
`networks` and `grading`, and after these."""
WITHOUT_TORCH = ("photographs", "data", "metrics")
NETWORKS_WITHOUT_TORCH = (
    *("spec", "heads", "processor", "runtime", "model", "graphs", "graph_files", "graph_store", "loading"),
    *("feature_checks", "local_calibration", "description", "checkpoint_file"),
)
"""Modules of `networks` on the way from a photograph to its grade by a graph."""
GRADING_WITH_TORCH = ("datasets",)
"""The only module of `grading` that imports PyTorch: prepared data sets are read as tensors."""
FORBIDDEN = {
    "click": "typer brings its own copy, whose exceptions are others",
    "pickle": "a file must never be able to run code",
    "matplotlib.pyplot": "it keeps figures in global state and may look for a screen",
    "requests": "only timm may reach the network",
    "urllib": "only timm may reach the network",
    "fcntl": "Windows has none; files.file_lock locks everywhere",
    "resource": "Windows has none",
}
MAX_ROOT_MODULES = 12
MAX_FUNCTION_LINES = 40
"""One page of text, in the order in which it is read."""


def module_name(path: Path) -> str:
    """`fundusgrade.data.splits` of `data/splits.py`; a package's `__init__.py` is the package."""
    parts = ("fundusgrade", *path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(ROOT.rglob("*.py"))}


def tree_of(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text(encoding="utf-8"))


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


def imported_modules(module: str) -> set[str]:
    """Modules of ours that a module imports: the longest part of each imported name that is a module."""
    found = set()
    for name in imported_names(module):
        parts = name.split(".")
        prefixes = [".".join(parts[:n]) for n in range(len(parts), 0, -1)]
        found |= set([prefix for prefix in prefixes if prefix in MODULES][:1])
    return found


def package_of(module: str) -> str:
    """The package that a module stands in; "" at the root."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in PACKAGES else ""


def upward_imports(modules: dict[str, set[str]]) -> list[str]:
    """Imports of a package by one above it, by one of its own floor's root, or of commands by the root."""
    floors = ("", *PACKAGES)
    return [
        f"{module} imports {imported}"
        for module, all_imported in modules.items()
        for imported in sorted(all_imported)
        if floors.index(package_of(imported)) > floors.index(package_of(module)) and module != "fundusgrade.__main__"
    ]


def test_the_packages_are_these_ten_and_few_modules_stand_outside_of_them() -> None:
    assert sorted(path.name for path in ROOT.iterdir() if any(path.glob("*.py"))) == sorted(PACKAGES)
    assert len(list(ROOT.glob("*.py"))) <= MAX_ROOT_MODULES
    words = {part for module in MODULES for part in module.split(".")}
    assert not {"utils", "util", "helpers", "common", "misc"} & words


def test_no_import_runs_upward() -> None:
    imports = {module: imported_modules(module) for module in MODULES}
    assert upward_imports(imports) == []


def test_an_upward_import_would_be_found() -> None:
    assert upward_imports({"fundusgrade.data.splits": {"fundusgrade.training.loop"}}) != []
    assert upward_imports({"fundusgrade.store": {"fundusgrade.data.splits"}}) != []
    assert upward_imports({"fundusgrade.training.loop": {"fundusgrade.data.splits", "fundusgrade.store"}}) == []


def test_no_imports_run_in_a_circle() -> None:
    TopologicalSorter({module: imported_modules(module) - {module} for module in MODULES}).prepare()


@pytest.mark.parametrize("module", MODULES)
def test_nothing_forbidden_is_imported(module: str) -> None:
    for name in imported_names(module):
        for forbidden, reason in FORBIDDEN.items():
            assert not f"{name}.".startswith(f"{forbidden}."), f"{module} imports {name}: {reason}"


def loaded_after(program: str) -> set[str]:
    """The top-level packages that a process has imported after a program, where nothing was imported before."""
    done = subprocess.run(
        [sys.executable, "-c", f"{program}\nimport sys; print(*sorted({{m.split('.')[0] for m in sys.modules}}))"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split())


def test_photographs_data_and_metrics_do_without_pytorch() -> None:
    light = [module for module in MODULES if package_of(module) in ("", *WITHOUT_TORCH) and "__main__" not in module]
    loaded = loaded_after("import " + ", ".join(light))
    assert not loaded & {"torch", "timm", "torchvision", "matplotlib"}


def test_grading_imports_pytorch_only_where_pytorch_grades() -> None:
    grading = [module for module in MODULES if package_of(module) == "grading"]
    light = [module for module in grading if module.rpartition(".")[2] not in GRADING_WITH_TORCH]
    light += [f"fundusgrade.networks.{name}" for name in NETWORKS_WITHOUT_TORCH]
    loaded = loaded_after("import " + ", ".join(light))
    assert not loaded & {"torch", "timm", "torchvision", "matplotlib", "scipy", "sklearn", "openvino", "onnxruntime"}


def test_help_loads_neither_pytorch_nor_opencv() -> None:
    loaded = loaded_after(
        "from typer.testing import CliRunner\nfrom fundusgrade.commands.app import app\n"
        "for command in ([], ['preprocess'], ['train'], ['evaluate'], ['audit'], ['predict'], ['explain']):\n"
        "    assert CliRunner().invoke(app, [*command, '--help']).exit_code == 0"
    )
    assert not loaded & {"torch", "timm", "torchvision", "matplotlib", "cv2", "scipy", "sklearn", "numpy", "PIL"}


def test_lists_summaries_and_reports_load_no_pytorch(tmp_path: Path) -> None:
    loaded = loaded_after(
        f"import os; os.environ['FUNDUSGRADE_HOME'] = {str(tmp_path)!r}\n"
        "from typer.testing import CliRunner\nfrom fundusgrade.commands.app import app\n"
        "import fundusgrade.data.prepare, fundusgrade.reports.listings, fundusgrade.reports.html.page\n"
        "for command in ('models', 'datasets'):\n"
        "    assert CliRunner().invoke(app, [command]).exit_code == 0"
    )
    assert not loaded & {"torch", "timm", "torchvision", "matplotlib", "sklearn"}


@pytest.mark.parametrize("module", MODULES)
def test_functions_are_short_and_do_not_print(module: str) -> None:
    for node in ast.walk(tree_of(module)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            # A command's options are not its body.
            first = node.body[0].lineno if package_of(module) == "commands" else node.lineno
            num_lines = (node.end_lineno or first) - first + 1
            assert num_lines <= MAX_FUNCTION_LINES, f"{module}.{node.name} has {num_lines} lines"
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called != "print", f"{module}:{node.lineno} prints"
            assert called != "torch.load", f"{module}:{node.lineno} loads pickle"


@pytest.mark.parametrize("module", [module for module in MODULES if module != "fundusgrade.__main__"])
def test_nothing_happens_at_import(module: str) -> None:
    for node in tree_of(module).body:
        is_string = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        is_typing = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        registers = module == "fundusgrade.commands.app" and isinstance(node, ast.For | ast.Expr)
        defines = ast.Import | ast.ImportFrom | ast.Assign | ast.AnnAssign | ast.FunctionDef | ast.ClassDef
        assert is_string or is_typing or registers or isinstance(node, defines), f"{module}:{node.lineno}"
