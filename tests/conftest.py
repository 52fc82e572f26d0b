"""Every test runs in a user data directory of its own, and none reaches the network."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from tests.prepared import write_small

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Networks of tests are tiny: more threads would mostly wait for each other, long where the machine is busy.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The temporary user data directory."""
    directory = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("FUNDUSGRADE_HOME", str(directory))
    return directory


@pytest.fixture(autouse=True)
def _pytorch_grades(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """By itself only PyTorch grades, as where nothing else is installed: converting networks takes seconds each."""
    if "installed_runtimes" not in request.fixturenames:
        monkeypatch.setattr("fundusgrade.networks.loading.is_installed", lambda package: False)


@pytest.fixture
def installed_runtimes() -> None:
    """The fastest runtime that is installed grades, as for users."""


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    connect = socket.socket.connect

    def refuse(self: socket.socket, address: object) -> None:
        # The name of a socket of this machine, or its own address: processes, and a server for tests, find each other.
        if not isinstance(address, str) and not (isinstance(address, tuple) and address[0] in ("127.0.0.1", "::1")):
            raise OSError("tests do not use the network")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Five photographs of different eyes, one of each grade, in APTOS's layout."""
    write_small(tmp_path / "small")
    return tmp_path / "small"
