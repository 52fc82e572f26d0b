"""What other systems need: no module and no call that only POSIX has, no text without its encoding."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import fundusgrade

SOURCE = Path(fundusgrade.__file__).parent
MODULES = sorted(SOURCE.rglob("*.py"))
POSIX_MODULES = {
    *("crypt", "curses", "fcntl", "grp", "nis", "ossaudiodev", "pipes", "posix", "pty", "pwd", "readline", "resource"),
    *("spwd", "syslog", "termios", "tty"),
}
POSIX_NAMES = {
    "os": {
        *(
            "O_DIRECTORY",
            "O_NOFOLLOW",
            "O_CLOEXEC",
            "O_NONBLOCK",
            "chown",
            "fchmod",
            "fchown",
            "fork",
            "forkpty",
            "getegid",
        ),
        *("geteuid", "getgid", "getgroups", "getloadavg", "getpgid", "getuid", "killpg", "mkfifo", "mknod", "nice"),
        *(
            "posix_fadvise",
            "sched_getaffinity",
            "sched_setaffinity",
            "sendfile",
            "setsid",
            "statvfs",
            "sysconf",
            "uname",
        ),
    },
    "signal": {
        "SIGALRM",
        "SIGHUP",
        "SIGKILL",
        "SIGPIPE",
        "SIGUSR1",
        "SIGUSR2",
        "alarm",
        "pthread_sigmask",
        "setitimer",
    },
    "socket": {"AF_UNIX"},
    "time": {"tzset"},
}
WRITES_TEXT = {"open", "fdopen", "NamedTemporaryFile", "TemporaryFile", "TextIOWrapper"}


def findings(source: str) -> Iterator[str]:
    """What a module does that Windows lacks or does otherwise."""
    tree = ast.parse(source)
    guarded = {
        f"{call.args[0].id}.{call.args[1].value}"
        for call in ast.walk(tree)
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "hasattr"
        if isinstance(call.args[0], ast.Name) and isinstance(call.args[1], ast.Constant)
    }
    for attempt in ast.walk(tree):
        if isinstance(attempt, ast.Try) and any("AttributeError" in ast.unparse(each) for each in attempt.handlers):
            guarded |= {
                ast.unparse(each) for part in attempt.body for each in ast.walk(part) if isinstance(each, ast.Attribute)
            }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            yield from (f"imports {name}" for name in names if name.split(".")[0] in POSIX_MODULES)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            name = f"{node.value.id}.{node.attr}"
            if node.attr in POSIX_NAMES.get(node.value.id, ()) and name not in guarded:
                yield f"uses {name} without asking for it"
        if isinstance(node, ast.Call) and _is_text_without_encoding(node):
            yield f"{ast.unparse(node)[:60]} names no encoding"


def _is_text_without_encoding(call: ast.Call) -> bool:
    function = ast.unparse(call.func)
    name = function.rpartition(".")[2]
    keywords = {keyword.arg: keyword.value for keyword in call.keywords}
    if "encoding" in keywords or function == "os.open":
        return False
    if name in ("read_text", "write_text"):
        return len(call.args) < (1 if name == "read_text" else 2)
    if name == "open" and function != "open" and call.args and not isinstance(call.args[0], ast.Constant):
        return False  # the member of an archive, a picture: not Path.open, whose first argument is a mode
    if name in WRITES_TEXT:
        given = [keywords.get("mode"), *call.args]
        modes = [each.value for each in given if isinstance(each, ast.Constant) and isinstance(each.value, str)]
        return not any("b" in mode for mode in modes if set(mode) <= set("rwxabt+"))
    return isinstance(keywords.get("text"), ast.Constant) and function.startswith("subprocess.")


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.relative_to(SOURCE).as_posix())
def test_a_module_needs_no_posix_and_no_code_page(module: Path) -> None:
    assert list(findings(module.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    "line",
    [
        "import fcntl",
        "from resource import getrusage",
        "os.geteuid()",
        "signal.signal(signal.SIGKILL, f)",
        "path.read_text()",
        "path.write_text(text)",
        "open(path)",
        "path.open('w')",
        "subprocess.run(['a'], text=True)",
    ],
)
def test_the_check_finds_what_it_is_for(line: str) -> None:
    assert list(findings(f"import os, signal, subprocess\n{line}\n"))


@pytest.mark.parametrize(
    "line",
    [
        "os.fork() if hasattr(os, 'fork') else 0",
        "path.open('rb')",
        "archive.open(member)",
        "try: os.sysconf('SC_PAGE_SIZE')\nexcept (AttributeError, ValueError): pass",
        "path.read_text('utf-8')",
        "open(a, encoding='utf-8')",
    ],
)
def test_the_check_accepts_what_works_everywhere(line: str) -> None:
    assert list(findings(f"import os\n{line}\n")) == []


@pytest.mark.parametrize("encoding", ["cp437", "cp1252", "ascii"])
def test_help_and_results_are_printed_in_any_code_page(encoding: str) -> None:
    """One process for several commands: Python starts once, as a console of Windows would start it."""
    program = (
        "import sys; from fundusgrade.commands import app\n"
        "for words in (['predict', '--help'], ['train', '--help'], ['models', '--help']):\n"
        "    sys.argv = ['fundusgrade', *words]\n"
        "    try: app.main()\n"
        "    except SystemExit as end: assert not end.code, words\n"
        "print('\\u2265 \\u5de6\\u773c.jpg')\n"
    )
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0", "COLUMNS": "80"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr.decode(encoding, "replace")[-2000:]
    assert b"--require-gradable" in done.stdout
    assert done.stdout.rstrip().endswith(b"\\u5de6\\u773c.jpg")
