"""A folder of results, on this machine or at a URL: files are read, and written at once or not at all."""

from __future__ import annotations

import contextlib
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fundusgrade.errors import FundusgradeError, StoreError
from fundusgrade.files import write_atomically
from fundusgrade.photographs import remote
from fundusgrade.text import error_text


class ResultFolder(ABC):
    """What is done with a folder of results; it need not exist before a file is written. All raise StoreError."""

    @abstractmethod
    def names(self) -> list[str]:
        """The names of its files and folders, sorted; none where there is no such folder."""

    @abstractmethod
    def read(self, name: str) -> bytes | None:
        """The content of a file; None where there is none of this name."""

    @abstractmethod
    def write(self, name: str, content: bytes) -> None:
        """Write or replace a file, so that readers see the old one or the whole new one."""

    @abstractmethod
    def remove(self, name: str) -> None:
        """Remove a file."""

    @abstractmethod
    def remove_if_empty(self) -> None:
        """Remove the folder itself, unless something is in it."""

    @abstractmethod
    def place_of(self, name: str) -> str:
        """The path or URL of a file."""

    @abstractmethod
    def copied(self, name: str) -> contextlib.AbstractContextManager[Path]:
        """A file as one of this machine for the block, to be read."""

    @abstractmethod
    def written(self, name: str) -> contextlib.AbstractContextManager[Path]:
        """Where to write a large file, atomically, in the block; it is in the folder when the block ends."""


def result_folder(place: Path | str) -> ResultFolder:
    """The folder at a path or URL."""
    url = remote.url_of(place)
    return LocalFolder(path=Path(place)) if url is None else RemoteFolder(url=url.rstrip("/"))


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalFolder(ResultFolder):
    """A folder on this machine, or on a disk that machines share."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    def names(self) -> list[str]:
        """As `ResultFolder`."""
        try:
            return sorted(each.name for each in self.path.iterdir())
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StoreError(f"cannot list {self.path}: {error_text(error)}; name a folder") from error

    def read(self, name: str) -> bytes | None:
        """As `ResultFolder`."""
        try:
            return (self.path / name).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreError(f"cannot read {self.path / name}: {error_text(error)}; check its permissions") from error

    def write(self, name: str, content: bytes) -> None:
        """As `ResultFolder`."""
        write_atomically(self.path / name, content)

    def remove(self, name: str) -> None:
        """As `ResultFolder`."""
        try:
            (self.path / name).unlink(missing_ok=True)
        except OSError as error:
            raise StoreError(f"cannot remove {self.path / name}: {error_text(error)}; remove it yourself") from error

    def remove_if_empty(self) -> None:
        """As `ResultFolder`."""
        with contextlib.suppress(OSError):
            self.path.rmdir()

    def place_of(self, name: str) -> str:
        """As `ResultFolder`."""
        return str(self.path / name)

    @contextlib.contextmanager
    def copied(self, name: str) -> Iterator[Path]:
        """As `ResultFolder`."""
        yield self.path / name

    @contextlib.contextmanager
    def written(self, name: str) -> Iterator[Path]:
        """As `ResultFolder`."""
        yield self.path / name


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteFolder(ResultFolder):
    """The files of a storage whose URLs begin alike; such a folder exists with its first file."""

    url: str

    def __str__(self) -> str:
        return self.url

    def names(self) -> list[str]:
        """As `ResultFolder`."""
        with _store_errors():
            return remote.list_names(self.url)

    def read(self, name: str) -> bytes | None:
        """As `ResultFolder`."""
        with _store_errors(), remote.storage_errors(self.place_of(name), "read"):
            try:
                return remote.read_file(self.place_of(name))
            except FileNotFoundError:
                return None

    def write(self, name: str, content: bytes) -> None:
        """As `ResultFolder`."""
        with _store_errors():
            remote.write_file(self.place_of(name), content)

    def remove(self, name: str) -> None:
        """As `ResultFolder`."""
        with _store_errors():
            remote.remove_file(self.place_of(name))

    def remove_if_empty(self) -> None:
        """As `ResultFolder`; storages of objects have no folders that could stay."""
        with contextlib.suppress(Exception):  # each storage raises its own; an empty folder does no harm
            remote.remove_folder(self.url)

    def place_of(self, name: str) -> str:
        """As `ResultFolder`."""
        return f"{self.url}/{name}"

    @contextlib.contextmanager
    def copied(self, name: str) -> Iterator[Path]:
        """As `ResultFolder`."""
        with tempfile.TemporaryDirectory() as folder:
            with _store_errors():
                remote.download(self.place_of(name), Path(folder, name))
            yield Path(folder, name)

    @contextlib.contextmanager
    def written(self, name: str) -> Iterator[Path]:
        """As `ResultFolder`."""
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder, name)
            with _store_errors():
                remote.upload(Path(folder, name), self.place_of(name))


@contextlib.contextmanager
def _store_errors() -> Iterator[None]:
    try:
        yield
    except StoreError:
        raise
    except FundusgradeError as error:
        raise StoreError(str(error)) from error
