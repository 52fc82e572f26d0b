"""Photographs at URLs read before they are needed, so that no core waits for the storage."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeGuard

from fundusgrade.errors import UnreadableImageError
from fundusgrade.photographs.inputs import PhotographInMemory
from fundusgrade.photographs.sources import REMOTE_THREADS, PhotographSource, open_photograph_file

Source = PhotographSource | PhotographInMemory


def read_ahead(sources: Iterator[Source]) -> Iterator[Source]:
    """The same photographs in order; the bytes of those that are whole files at URLs are in memory.

    Others are read where they are decoded: on this machine that takes less time than to hand them over, and members
    of archives and frames are parts of files. At most twice `REMOTE_THREADS` photographs are in memory.
    """
    with ThreadPoolExecutor(REMOTE_THREADS) as pool:  # it starts a thread with the first file that it gets
        waiting: deque[Source | Future[PhotographInMemory]] = deque()
        try:
            for source in sources:
                waiting.append(pool.submit(_read, source) if _is_whole_remote(source) else source)
                while waiting and (len(waiting) > 2 * REMOTE_THREADS or not isinstance(waiting[0], Future)):
                    yield _ready(waiting.popleft())
            while waiting:
                yield _ready(waiting.popleft())
        finally:
            pool.shutdown(cancel_futures=True)


def _is_whole_remote(source: Source) -> TypeGuard[PhotographSource]:
    if not isinstance(source, PhotographSource) or source.url is None or source.problem is not None:
        return False
    return source.member is None and source.frame is None


def _ready(source: Source | Future[PhotographInMemory]) -> Source:
    return source.result() if isinstance(source, Future) else source


def _read(source: PhotographSource) -> PhotographInMemory:
    try:
        with open_photograph_file(source) as file:
            return PhotographInMemory(name=source.name, content=file.read())
    except UnreadableImageError as error:
        return PhotographInMemory(name=source.name, content=b"", problem=str(error))
