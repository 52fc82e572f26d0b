"""One file or folder that carries a model or a data set to another installation, and what is accepted from one.

A .zip file holds the files below a folder of the entry's name, uncompressed: weights and images are compressed already.
"""

from __future__ import annotations

import contextlib
import shutil
import uuid
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from fundusgrade.errors import StoreError
from fundusgrade.files import open_atomically, write_atomically
from fundusgrade.outputs import MARK
from fundusgrade.text import error_text, one_line

ZIP_SUFFIX = ".zip"
_MAX_EXPANSION = 10
"""A file that unpacks to more than this multiple of its size, beyond the slack, is refused: it may be a zip bomb."""
_SLACK_BYTES = 100_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Unpacked:
    """Files in a temporary folder below the store, and the names of those that were left out."""

    folder: Path
    left_out: tuple[str, ...]


def pack(files: Mapping[str, Path | bytes], name: str, out: Path) -> None:
    """Write files, by their names with slashes, into a .zip file, or into a folder where the name has no such suffix.

    Raises StoreError where they cannot be read or written, and for a folder that is there and not empty.
    """
    if out.suffix.lower() == ZIP_SUFFIX:
        with open_atomically(out) as stream, zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
            archive.comment = MARK.encode()
            for inside, source in files.items():
                archive.writestr(zipfile.ZipInfo(f"{name}/{inside}", (1980, 1, 1, 0, 0, 0)), _content(source))
        return
    check_new_folder(out)
    for inside, source in files.items():
        write_atomically(out / inside, _content(source))


def check_new_folder(folder: Path) -> None:
    """Raise StoreError where a folder that is to be written holds files already."""
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise StoreError(
            f"cannot write {folder}: it exists and is not empty; name a new folder, or a file that ends in .zip"
        )


@contextlib.contextmanager
def unpacked(
    path: Path, store_folder: Path, is_accepted: Callable[[str], bool], *, single_as: str | None = None
) -> Iterator[Unpacked]:
    """The files of a .zip file or a folder in a temporary folder of the store, which is removed after the block.

    Only files with names that are accepted are taken; a single folder around all of them is left away. The block may
    rename the folder. With `single_as` the path is one file, which gets this name. Raises StoreError where the file or
    folder cannot be read, or unpacks to far more than its size.
    """
    folder = store_folder / f".import-{uuid.uuid4().hex}"
    try:
        folder.mkdir(parents=True)
        found: list[str] = []
        if single_as is not None:
            shutil.copyfile(path, folder / single_as)
        elif path.is_dir():
            found = _from_folder(path, folder, is_accepted)
        else:
            found = _from_zip(path, folder, is_accepted)
        yield Unpacked(folder=folder, left_out=tuple(found))
    except OSError as error:
        raise StoreError(f"cannot import {path}: {error_text(error)}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def move_into_store(folder: Path, target: Path) -> None:
    """Give an unpacked folder its place in the store; what is there is replaced. Raises OSError."""
    old = target.with_name(f".old-{uuid.uuid4().hex}")
    if target.exists():
        target.rename(old)
    target.parent.mkdir(parents=True, exist_ok=True)
    folder.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def public_config(text: str) -> str:
    """The settings of a run without the folders of this machine: absolute paths become file names."""
    import yaml

    head = "".join(line for line in text.splitlines(keepends=True) if line.startswith("#"))
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError:
        return head
    if not isinstance(content, dict):
        return head
    shown = {key: [_name_only(each) for each in value] if isinstance(value, list) else _name_only(value)
             for key, value in content.items()}  # fmt: skip
    return f"{head}{yaml.safe_dump(shown, sort_keys=False, allow_unicode=True, width=120)}"


def _name_only(value: object) -> object:
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


def _content(source: Path | bytes) -> bytes:
    if isinstance(source, bytes):
        return source
    try:
        return source.read_bytes()
    except OSError as error:
        raise StoreError(f"cannot read {source}: {error_text(error)}; check its permissions") from error


def _from_folder(path: Path, folder: Path, is_accepted: Callable[[str], bool]) -> list[str]:
    left_out = []
    for source in sorted(each for each in path.rglob("*") if each.is_file() and not each.is_symlink()):
        inside = source.relative_to(path).as_posix()
        if is_accepted(inside):
            (folder / inside).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, folder / inside)
        else:
            left_out.append(inside)
    return left_out


def _from_zip(path: Path, folder: Path, is_accepted: Callable[[str], bool]) -> list[str]:
    left_out = []
    try:
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
            _check_size(path, members)
            around = _folder_around([member.filename for member in members])
            for member in members:
                inside = _inside(member.filename, around)
                if inside is None or not is_accepted(inside):
                    left_out.append(one_line(member.filename))
                    continue
                (folder / inside).parent.mkdir(parents=True, exist_ok=True)
                with archive.open(member) as source, (folder / inside).open("wb") as target:
                    shutil.copyfileobj(source, target, 1 << 20)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError) as error:
        raise StoreError(
            f"cannot import {path}: not a whole .zip file ({error_text(error)}); copy it again, or export it again"
        ) from error
    return left_out


def _check_size(path: Path, members: Sequence[zipfile.ZipInfo]) -> None:
    total, limit = sum(member.file_size for member in members), _MAX_EXPANSION * path.stat().st_size + _SLACK_BYTES
    if total > limit:
        raise StoreError(f"cannot import {path}: it would unpack to {total / 1e9:.1f} GB, far more than its size")


def _folder_around(names: Sequence[str]) -> str:
    """The one folder that all files but those of macOS stand in, with a slash, or ""."""
    tops = {name.partition("/")[0] if "/" in name else "" for name in names if not name.startswith("__MACOSX/")}
    return f"{tops.pop()}/" if len(tops) == 1 and "" not in tops else ""


def _inside(name: str, around: str) -> str | None:
    """The path of a member below the entry's folder; None where it would lead out of it."""
    if not name.startswith(around):
        return None
    parts = PurePosixPath(name.removeprefix(around)).parts
    is_safe = parts and not any(part in ("..", "/") or "\\" in part or ":" in part for part in parts)
    return "/".join(parts) if is_safe else None
