"""Files are whole at every moment, and one process at a time writes them."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import filelock
import pytest

from fundusgrade.errors import StoreError
from fundusgrade.files import file_lock, hash_text, now, write_atomically


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def visible_in(folder: Path) -> list[str]:
    return [name for name in names_in(folder) if not name.startswith(".")]


def fail(*args: object, **kwargs: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


# Atomic writes


def test_a_written_file_is_whole_and_alone(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "file.txt"
    write_atomically(path, "größer")
    assert path.read_bytes() == "größer".encode()
    write_atomically(path, b"\x00\xff")
    assert path.read_bytes() == b"\x00\xff"
    assert names_in(path.parent) == ["file.txt"]


@pytest.mark.skipif(sys.platform == "win32", reason="permissions are others there")
def test_a_written_file_has_the_permissions_that_the_user_gives_new_files(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "file.txt", "text")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file.txt").stat().st_mode) == 0o640


def test_a_name_as_long_as_the_file_system_takes_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 251 + ".txt")
    write_atomically(path, "text")
    assert path.read_text() == "text"


@pytest.mark.parametrize("step", ["fsync", "replace", "open"])
def test_a_write_that_fails_midway_leaves_the_old_file_and_nothing_else(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file.txt"
    write_atomically(path, "old")
    with monkeypatch.context() as patch:
        patch.setattr(*((os, step) if step == "fsync" else (Path, step)), fail)
        with pytest.raises(StoreError, match=r"cannot write .*file\.txt: no space left on device.*FUNDUSGRADE_HOME"):
            write_atomically(path, "new")
    assert path.read_text() == "old"
    assert names_in(tmp_path) == ["file.txt"]


def test_an_interrupt_midway_leaves_nothing_and_is_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "file.txt", "new")
    assert names_in(tmp_path) == []


def test_the_bytes_are_on_disk_before_the_name_moves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def note_fsync(descriptor: int) -> None:
        steps.append("fsync")
        fsync(descriptor)

    def note_replace(self: Path, target: Path) -> Path:
        assert self.read_text() == "text", "the whole text is there before the rename"
        steps.append("replace")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(Path, "replace", note_replace)
    write_atomically(tmp_path / "file.txt", "text")
    assert steps[:2] == ["fsync", "replace"]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match="cannot write"):
        write_atomically(tmp_path / "file" / "below.txt", "text")


# The lock


def python(program: str, *arguments: object) -> subprocess.Popen[str]:
    """A process that runs a program to which `file_lock` and Path are known, up to its first line of output."""
    imports = "import sys\nfrom pathlib import Path\nfrom fundusgrade.files import file_lock\n"
    words = [sys.executable, "-c", imports + program, *map(str, arguments)]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


def test_only_one_process_at_a_time_is_in_the_block(tmp_path: Path) -> None:
    (tmp_path / "count").write_text("0")
    program = """
import filelock
path = Path(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
for _ in range(30):
    with file_lock(path):
        path.write_text(str(int(path.read_text()) + 1))
"""
    processes = [python(program, tmp_path / "count") for _ in range(3)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        process.communicate(timeout=60)
        assert process.returncode == 0
    assert (tmp_path / "count").read_text() == "90"
    assert visible_in(tmp_path) == ["count"], "the lock's file is hidden"


def test_a_killed_process_loses_the_lock_and_until_then_no_other_gets_it(tmp_path: Path) -> None:
    program = "with file_lock(Path(sys.argv[1])):\n    print('ready', flush=True)\n    sys.stdin.read()"
    holder = python(program, tmp_path / "out.csv")
    with (
        pytest.raises(StoreError, match=r"out\.csv is being written by another process; wait"),
        file_lock(tmp_path / "out.csv", wait=False),
    ):
        pass
    holder.kill()
    holder.communicate()
    with file_lock(tmp_path / "out.csv", wait=False):
        assert names_in(tmp_path) == [".out.csv.lock"], "beside the file, and hidden"


def test_a_lock_ends_with_its_block_also_where_that_raises(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), file_lock(tmp_path / "folder"):
        raise KeyboardInterrupt
    with file_lock(tmp_path / "folder", wait=False):
        pass


@pytest.mark.parametrize("error", [OSError(errno.ENOLCK, "no locks available"), NotImplementedError("no flock")])
def test_a_file_system_without_locks_will_do(error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise error

    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
    with file_lock(tmp_path / "file"), file_lock(tmp_path / "file", wait=False):
        pass


def test_a_lock_that_cannot_be_made_stops_nobody(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with file_lock(tmp_path / "file" / "below"), file_lock(tmp_path / ("x" * 255)):
        pass


# Hashes and moments


def test_hashes_and_moments_are_written_the_usual_way() -> None:
    assert hash_text("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert now().endswith("+00:00") and len(now()) == len("2024-01-02T03:04:05+00:00")
