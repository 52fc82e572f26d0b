"""Exports of tests: PyTorch traces each network once, and computes on one core as graphs do."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.networks.exports import traced_once


@pytest.fixture
def one_core() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _traced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fundusgrade.networks.export.to_onnx", traced_once)
