"""Files at URLs, such as s3://bucket/eyes/a.jpg: listed, read and written by fsspec, with its errors in words.

fsspec knows some thirty kinds of storage; each needs a package of its own (s3fs for s3://) and takes credentials where
that package looks for them. Nothing is imported, and nothing reached, before a URL is used.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from fundusgrade.errors import FundusgradeError
from fundusgrade.files import TEMPORARY_SUFFIX
from fundusgrade.text import error_text, shortened

# One letter is a drive of Windows. A path has one slash where the URL had two.
_URL = re.compile(r"([a-z][a-z0-9+.-]+):/+(.*)", re.DOTALL)
_HOSTLESS = ("file", "local")
_PACKAGES = {
    **dict.fromkeys(("s3", "s3a"), "'fundusgrade[s3]'"),
    **dict.fromkeys(("gs", "gcs"), "gcsfs"),
    **dict.fromkeys(("abfs", "abfss", "az", "adl"), "adlfs"),
    **dict.fromkeys(("hdfs", "arrow_hdfs"), "pyarrow"),
    **dict.fromkeys(("http", "https"), "aiohttp"),
}
# By name, because the packages that define them need not be installed.
_NO_CREDENTIALS = {
    *("NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "TokenRetrievalError"),
    *("DefaultCredentialsError", "RefreshError", "ClientAuthenticationError", "UnauthorizedSSOTokenError"),
}
# The first part of a path is a bucket, which must exist; a file is put whole or not at all, and renaming copies it.
_OBJECT_STORES = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az"}


def url_of(place: str | os.PathLike[str]) -> str | None:
    """The URL that a text or a path names, with two slashes after its scheme; None for a path on this machine.

    Raises FundusgradeError for a scheme that fsspec does not know, unless there is a file of this name.
    """
    match = _URL.fullmatch(os.fspath(place))
    if match is None:
        return None
    from fsspec import available_protocols

    scheme, rest = match.groups()
    if scheme in available_protocols():
        return f"{scheme}:///{rest}" if scheme in _HOSTLESS else f"{scheme}://{rest}"
    if os.path.lexists(place):
        return None
    raise FundusgradeError(
        f"{scheme}:// is no kind of storage that is known here; use a path, or a URL such as s3://bucket/folder, "
        "gs://, abfs:// or hdfs://"
    )


def list_files(url: str) -> list[str]:
    """The URLs of all files below a folder, sorted; the URL itself where it names a file.

    Raises FundusgradeError where there is no such folder, or it cannot be listed.
    """
    with storage_errors(url, "list"):
        system, path = _system(url)
        system.invalidate_cache()
        found: list[str] = system.find(path)
        if not found and not system.exists(path):
            raise FileNotFoundError
        if path in found or system._strip_protocol(path) in found:
            return [url]
        # Not the paths as they are found: they lack the host of hdfs://host, and what of the URL is no path.
        start = f"{system._strip_protocol(path).rstrip('/')}/"
        return sorted(f"{url.rstrip('/')}/{each.removeprefix(start)}" for each in found)


def list_names(url: str) -> list[str]:
    """The names of the files and folders in a folder, sorted; none where there is no such folder.

    Raises FundusgradeError where it cannot be listed, such as in a bucket that does not exist.
    """
    with storage_errors(url, "list"):
        system, path = _system(url)
        system.invalidate_cache()
        try:
            found = system.ls(path, detail=False)
        except FileNotFoundError:
            check_reachable(url)
            return []
        return sorted(each.rstrip("/").rpartition("/")[2] for each in found)


def check_reachable(url: str) -> None:
    """Raise FundusgradeError where the storage of a file cannot be used, or has no such bucket."""
    with storage_errors(url, "read"):
        system, path = _system(url)
        if not system.exists(path) and _scheme(url) in _OBJECT_STORES and not system.exists(path.partition("/")[0]):
            raise FileNotFoundError


def size_of(url: str) -> int:
    """The size of a file in bytes. Raises OSError, or what the storage raises."""
    system, path = _system(url)
    return int(system.info(path)["size"] or 0)


def read_file(url: str, *, first_bytes: int | None = None) -> bytes:
    """The content of a file, or its beginning. Raises OSError, or what the storage raises."""
    system, path = _system(url)
    content: bytes = system.cat_file(path, end=first_bytes) if first_bytes else system.cat_file(path)
    return content


def open_file(url: str) -> BinaryIO:
    """Open a file to read parts of it. Raises OSError, or what the storage raises."""
    system, path = _system(url)
    file: BinaryIO = system.open(path, "rb")
    return file


def write_file(url: str, content: bytes) -> None:
    """Write a file so that readers see the old one or the whole new one. Raises FundusgradeError."""
    with storage_errors(url, "write"):
        system, path = _system(url)
        if _scheme(url) in _OBJECT_STORES:
            system.pipe_file(path, content)
            return
        temporary = _temporary(system, path)
        system.pipe_file(temporary, content)
        system.mv(temporary, path)


def remove_file(url: str) -> None:
    """Remove a file. Raises FundusgradeError."""
    with storage_errors(url, "remove"):
        system, path = _system(url)
        system.rm_file(path)


def remove_folder(url: str) -> None:
    """Remove an empty folder, where the storage has folders. Raises OSError, or what the storage raises."""
    system, path = _system(url)
    if _scheme(url) not in _OBJECT_STORES:
        system.rmdir(path)


def download(url: str, path: Path) -> None:
    """Copy a file to this machine. Raises FundusgradeError."""
    with storage_errors(url, "read"):
        system, place = _system(url)
        system.get_file(place, str(path))


def upload(path: Path, url: str) -> None:
    """Copy a file of this machine to a URL, whole or not at all. Raises FundusgradeError."""
    with storage_errors(url, "write"):
        system, place = _system(url)
        if _scheme(url) in _OBJECT_STORES:
            system.put_file(str(path), place)
            return
        temporary = _temporary(system, place)
        system.put_file(str(path), temporary)
        system.mv(temporary, place)


@contextlib.contextmanager
def storage_errors(url: str, doing: str) -> Iterator[None]:
    """Raise what a storage raises within the block as FundusgradeError, with what was being done and a remedy."""
    try:
        yield
    except (FundusgradeError, MemoryError):
        raise
    except Exception as error:  # each package raises its own
        raise FundusgradeError(f"cannot {doing} {url}: {reason_in_words(url, error)}") from error


def reason_in_words(url: str, error: Exception) -> str:
    """Why a storage failed, and what to do."""
    scheme = _scheme(url)
    if isinstance(error, ImportError):
        return f"{scheme}:// needs a package that is not installed; run: pip install {_PACKAGES.get(scheme, scheme)}"
    if type(error).__name__ in _NO_CREDENTIALS:
        return (
            f"there are no credentials for {scheme}://; set them as its package documents it, such as "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or AWS_PROFILE for s3://"
        )
    if isinstance(error, FileNotFoundError):
        return "it does not exist; check the bucket or host, and the path"
    if isinstance(error, PermissionError):
        return "permission denied; check the credentials and what they allow"
    return f"{shortened(error_text(error), 300)}; check the URL, the network and the credentials"


def _scheme(url: str) -> str:
    return url.partition(":")[0]


def _temporary(system: Any, path: str) -> str:
    """The hidden path to write a file at before it is renamed; its folder is made."""
    folder, _, name = path.rpartition("/")
    system.makedirs(folder, exist_ok=True)
    return f"{folder}/.{name}{TEMPORARY_SUFFIX}"


def _system(url: str) -> tuple[Any, str]:
    """The file system of a URL, one for all threads of this process, and the path in it."""
    from fsspec.core import url_to_fs

    opened: Callable[[str], tuple[Any, str]] = url_to_fs
    return opened(url)


def is_url(place: str | Path | None) -> bool:
    """Whether a place is a URL. Raises as `url_of`."""
    return place is not None and url_of(place) is not None
