"""A small prepared data set that training tests share."""

from __future__ import annotations

import pytest

from fundusgrade.data.dataset import PreparedDataset
from tests.prepared import prepared_dataset


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    return prepared_dataset(tmp_path_factory.mktemp("data") / "toy")
