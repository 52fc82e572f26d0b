"""Where a command may write: never onto what it reads, nor onto a file that fundusgrade did not write.

Everything that fundusgrade writes can be recognized by its content, whatever it is called and wherever it was moved:
tables by their header, and other files by a mark, which is `MARK` in HTML, pictures, Parquet, Markdown and weights and
the key "fundusgrade" in JSON. An exported graph is recognized by its hash in the JSON file beside it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterable
from pathlib import Path

from fundusgrade.errors import StoreError
from fundusgrade.files import hash_file
from fundusgrade.text import error_text

MARK = "written by fundusgrade"
"""Stands in every file with a place for it: the software tag of pictures, the generator of pages, metadata."""

MARK_KEY = b'"fundusgrade":'
"""Stands in every JSON file."""
# The last is of raw heat maps: the names of arrays stand uncompressed at the end of an .npz file.
_MARKS = (MARK.encode(), MARK_KEY, b"decided_by.npy")
# The beginning of the first line, and a column that it holds: rows by photograph, by patient, and stored predictions.
_TABLES = (
    (b"image,grade,label,", b",referable_probability,"),
    (b'{"image": ', b'"referable_probability": '),
    (b"patient,referable,refer,", b",ungradable_photographs,"),
    (b'{"patient": ', b'"ungradable_photographs": '),
    (b"source,part,fold,group,", b",p0,p1,p2,p3,p4,"),
)
_SEARCHED_BYTES = 1 << 20
"""How much of the beginning and of the end of a file is searched for a mark."""


def check_outputs(
    outputs: Iterable[Path],
    *,
    inputs: Iterable[Path | None] = (),
    overwrite: bool = False,
    suffixes: Collection[str] = (),
) -> None:
    """Decide whether a command may write these files; it is called before anything is computed.

    `inputs` are all files that the command reads, None where an option was not given. An output may be none of them, by
    any name or link, and no link. One that exists must be empty or written by fundusgrade, and is then replaced
    only with `overwrite`; devices and pipes may be written to. Names end in one of `suffixes`, if there are any.
    Raises StoreError for the first output that may not be written, and where two are the same file.
    """
    taken = {_identity(path): f"{path}, which is read" for path in inputs if path is not None}
    for path in outputs:
        if _is_device(path):
            continue
        if suffixes and path.suffix.lower() not in suffixes:
            raise StoreError(f"cannot write {path}: unknown suffix {path.suffix!r}; use {', '.join(suffixes)}")
        identity = _identity(path)
        if identity in taken:
            raise StoreError(f"cannot write {path}: it is the same file as {taken[identity]}; name another file")
        taken[identity] = f"{path}, which is written too"
        _check_existing(path, overwrite=overwrite)


def check_folder(folder: Path, inputs: Iterable[Path | None]) -> None:
    """Decide whether files may be written into a folder. Raises StoreError where it is a folder that is read."""
    for path in inputs:
        if path is not None and _identity(path) == _identity(folder):
            raise StoreError(f"cannot write to {folder}: it is the folder {path}, which is read; name another folder")


def _check_existing(path: Path, *, overwrite: bool) -> None:
    """Raise StoreError where something is at this path that may not be replaced, or no file can be made there."""
    if path.is_symlink():
        raise StoreError(f"cannot write {path}: it is a link to {os.path.realpath(path)}; name a file that is no link")
    above = next((parent for parent in path.parents if os.path.lexists(parent)), path.parent)
    if os.path.lexists(above) and not above.is_dir():
        raise StoreError(f"cannot write {path}: {above} is not a folder; name a file in a folder")
    if path.is_dir():
        raise StoreError(f"cannot write {path}: it is a folder; name a file")
    if not os.path.lexists(path):
        return
    try:
        if path.stat().st_size == 0:
            return
        is_own = _is_own(path)
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error_text(error)}; name another file") from error
    if not is_own:
        raise StoreError(
            f"cannot write {path}: the file that is there was not written by fundusgrade, and is never replaced; name "
            "another file, or move that one away"
        )
    if not overwrite:
        raise StoreError(
            f"cannot write {path}: the file exists; add --overwrite (in Python: overwrite=True) to replace it, or name "
            "another file"
        )


def _is_own(path: Path) -> bool:
    """Whether fundusgrade wrote a file, by its content. Raises OSError."""
    with path.open("rb") as file:
        head = file.read(_SEARCHED_BYTES)
        file.seek(max(0, path.stat().st_size - _SEARCHED_BYTES))
        tail = file.read()
    first_line = head.split(b"\n", 1)[0]
    return (
        any(mark in part for mark in _MARKS for part in (head, tail))
        or any(first_line.startswith(start) and column in first_line for start, column in _TABLES)
        or any(_holds_hash(sidecar, path) for sidecar in _sidecars(path))
    )


def _sidecars(path: Path) -> tuple[Path, ...]:
    """The JSON files that may describe a file: `NAME.onnx.json` of `NAME.onnx`, `NAME.json` of `NAME.xml`."""
    return (path.with_name(f"{path.name}.json"), path.with_suffix(".json"))


def _holds_hash(sidecar: Path, path: Path) -> bool:
    return sidecar.is_file() and hash_file(path).encode() in sidecar.read_bytes()


def _is_device(path: Path) -> bool:
    """Whether a path is a device or a pipe, to which bytes can be written without replacing a file."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def _identity(path: Path) -> object:
    """What tells whether two paths are one file: its number on its disk, or the path without links where it has none.

    A number is one system call; to resolve the links of each of 100,000 photographs takes seconds.
    """
    try:
        status = path.stat()
    except (OSError, ValueError):
        return os.path.realpath(path)
    return (status.st_dev, status.st_ino)
