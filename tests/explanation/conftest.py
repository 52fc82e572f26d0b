from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from numpy.typing import NDArray


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Networks this small only wait for a second thread, for long where the machine is busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def image() -> NDArray[np.uint8]:
    """Uniform noise, (160, 160, 3)."""
    return np.random.default_rng(5).integers(0, 256, (160, 160, 3), dtype=np.uint8)
