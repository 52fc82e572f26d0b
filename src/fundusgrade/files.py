"""Files: atomic writes with fsync, the one file lock, folders, hashes, and the current time."""

from __future__ import annotations

import contextlib
import hashlib
import os
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from fundusgrade.errors import StoreError
from fundusgrade.text import error_text

HOME_VARIABLE = "FUNDUSGRADE_HOME"
"""The environment variable that moves the user data directory."""

TEMPORARY_SUFFIX = ".part"
"""Ends the hidden name of a file that is being written; one whose process was killed may be deleted."""


def hash_file(path: Path) -> str:
    """SHA-256 of a file's bytes in hexadecimal; raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_text(text: str) -> str:
    """SHA-256 of a text in UTF-8, in hexadecimal."""
    return hash_bytes(text.encode())


def hash_bytes(content: bytes) -> str:
    """SHA-256 of bytes in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def now() -> str:
    """The current time, UTC, ISO 8601 to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def write_atomically(path: Path, data: bytes | str) -> None:
    """Write a file so that readers see the old one or the whole new one, also after a power cut.

    Folders above it are made. Raises StoreError where it cannot be written; then nothing has changed.
    """
    with open_atomically(path) as file:
        file.write(data.encode() if isinstance(data, str) else data)


@contextlib.contextmanager
def open_atomically(path: Path) -> Iterator[BinaryIO]:
    """Open a file to be written atomically piece by piece: it appears when the block ends, unless the block raises.

    Raises StoreError as `write_atomically`.
    """
    # Not `tempfile`: its files are private to the owner, whatever the umask, and the finished file would stay so.
    temporary = path.with_name(f".{path.name[:32]}.{uuid.uuid4().hex}{TEMPORARY_SUFFIX}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)
    except OSError as error:
        raise StoreError(
            f"cannot write {path}: {error_text(error)}; choose a writable folder with enough free space, "
            f"with --out or the environment variable {HOME_VARIABLE}"
        ) from error


def _sync_folder(folder: Path) -> None:
    """Make a rename durable where the system can; not every system lets a folder be opened."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Make a folder to write to, and those above it. Raises StoreError where that is not possible."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(
            f"cannot make the folder {folder}: {error_text(error)}; choose a writable place, "
            f"with --out or the environment variable {HOME_VARIABLE}"
        ) from error


@contextlib.contextmanager
def file_lock(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold the lock of a file or folder for the block: one process at a time has it, and a killed one loses it.

    The lock is an empty hidden file beside the path, `.NAME.lock`, which may stay. Where the file system has no locks,
    or the lock cannot be made, the block runs without. Raises StoreError where another process holds the lock and
    `wait` is False.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(path.with_name(f".{path.name}.lock"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=-1 if wait else 0)
    except Timeout:
        raise StoreError(
            f"{path} is being written by another process; wait until it has finished, or write to another file"
        ) from None
    except (OSError, NotImplementedError):
        pass
    try:
        yield
    finally:
        lock.release()
