"""A small prepared data set that training tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fundusgrade.data.dataset import PreparedDataset
from fundusgrade.training.loop import TrainResult
from tests.prepared import prepared_dataset
from tests.worker_for_tests import always_learned


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    return prepared_dataset(tmp_path_factory.mktemp("data") / "toy")


@pytest.fixture(scope="module", autouse=True)
def _short_runs_have_learned() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(TrainResult, "has_learned", always_learned())
        yield
