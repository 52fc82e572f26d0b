"""Files: atomic writes with fsync, locks, folders, hashes, and the time of now."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from fundusgrade.errors import StoreError


def hash_file(path: Path) -> str:
    """SHA-256 of a file's bytes in hexadecimal; raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


HOME_VARIABLE = "FUNDUSGRADE_HOME"


def now() -> str:
    """The present moment, UTC, ISO 8601 to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def write_atomically(path: Path, data: bytes | str) -> None:
    """Write a file so that readers see the old one or the whole new one, also after a power cut."""
    with open_atomically(path) as file:
        file.write(data.encode() if isinstance(data, str) else data)


@contextlib.contextmanager
def open_atomically(path: Path) -> Iterator[BinaryIO]:
    """The same for a file that is written piece by piece; it is there when the block ends, unless that raised."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).chmod(0o644)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        _sync_directory(path.parent)
    except OSError as error:
        raise StoreError(
            f"cannot write {path}: {error.strerror or error}; "
            f"set {HOME_VARIABLE} or --out to a writable place with enough room"
        ) from error


def make_folder(directory: Path) -> None:
    """Make a folder to write to, and those above it. Raises StoreError where that is not possible."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(
            f"cannot make the folder {directory}: {error.strerror or error}; set {HOME_VARIABLE} to a writable place"
        ) from error


def _sync_directory(directory: Path) -> None:
    """Make a rename durable where the system can; not every system lets a directory be opened."""
    with contextlib.suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def folder_lock(directory: Path) -> Iterator[None]:
    """Wait until no other process is in such a block for this folder, or files of two models would be mixed in it.

    The lock is the folder's own and ends with its process; systems without such locks do without.
    """
    with contextlib.ExitStack() as until_then:
        with contextlib.suppress(OSError, ImportError):
            import fcntl

            directory.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(directory, os.O_RDONLY)
            until_then.callback(os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield


def hash_text(text: str) -> str:
    """SHA-256 of a text, hex."""
    return hashlib.sha256(text.encode()).hexdigest()
