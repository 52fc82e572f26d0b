"""What reading a hostile file costs: memory that Python allocates, and processor time, which load does not change."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass
class Cost:
    """Known when the block of `measured_cost` has ended."""

    peak_bytes: int = 0
    seconds: float = 0.0


@contextmanager
def measured_cost() -> Iterator[Cost]:
    cost, started = Cost(), time.process_time()
    tracemalloc.start()
    try:
        yield cost
    finally:
        cost.peak_bytes, cost.seconds = tracemalloc.get_traced_memory()[1], time.process_time() - started
        tracemalloc.stop()
