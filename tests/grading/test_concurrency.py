"""Workers and batches fit the machine, and results do not depend on them."""

from __future__ import annotations

from pathlib import Path

import cv2
import pytest
import torch

from fundusgrade.grades import Prediction
from fundusgrade.grading import concurrency
from fundusgrade.grading.concurrency import choose_concurrency, worker_pools
from fundusgrade.grading.grader import Grader
from fundusgrade.options import DeviceName, Precision
from fundusgrade.photographs.sources import find_images
from tests.models_for_tests import install_model, save_broken_files, save_photographs

CPU, CUDA = DeviceName.CPU, DeviceName.CUDA


@pytest.fixture
def cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with 96 cores."""
    monkeypatch.setattr(concurrency.os, "sched_getaffinity", lambda process: set(range(96)), raising=False)


def test_a_container_gets_its_share_of_the_machine(
    cores: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quota = tmp_path / "cpu.max"
    monkeypatch.setattr(concurrency, "_QUOTA_FILE", quota)
    for content, num_workers, reason in (
        ("400000 100000\n", 4, "4 cores are this container's limit"),
        ("50000 100000\n", 1, "1 core is this container's limit"),
        ("max 100000\n", concurrency.MAX_WORKERS, "96 cores are available"),
        ("nonsense", concurrency.MAX_WORKERS, "96 cores are available"),
    ):
        quota.write_text(content)
        chosen = choose_concurrency(CPU, size_px=224)
        assert (chosen.num_workers, chosen.batch_size) == (num_workers, concurrency.CPU_BATCH)
        assert chosen.describe().startswith(f"{num_workers} worker")
        assert reason in chosen.describe()


def test_processes_of_a_launch_share_the_cores(cores: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    chosen = choose_concurrency(CPU, size_px=224)
    assert (chosen.num_workers, "12 cores for each of 8 processes" in chosen.reason) == (12, True)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "96")
    assert "1 core for each of 96 processes" in choose_concurrency(CPU, size_px=224).reason


def test_a_large_image_makes_small_batches_on_a_gpu(cores: None) -> None:
    assert choose_concurrency(CUDA, size_px=224).batch_size == concurrency.GPU_BATCH
    assert choose_concurrency(CUDA, size_px=448).batch_size == concurrency.GPU_BATCH // 4
    assert choose_concurrency(CUDA, size_px=4096).batch_size == 1


def test_requested_workers_and_batch_size_are_used(cores: None) -> None:
    chosen = choose_concurrency(CPU, size_px=224, num_workers=3, batch_size=5)
    assert (chosen.num_workers, chosen.batch_size) == (3, 5)
    assert chosen.describe() == "3 workers, 5 photographs at a time: workers as requested; batch size as requested"


def test_threads_leave_no_trace() -> None:
    before = torch.get_num_threads(), cv2.getNumThreads()
    try:
        torch.set_num_threads(2)
        cv2.setNumThreads(2)
        with worker_pools(choose_concurrency(CPU, size_px=224, num_workers=2), CPU) as threads:
            assert threads.photographs is threads.network
            assert threads.photographs.submit(torch.get_num_threads).result() == 1
            assert cv2.getNumThreads() == 1
        assert (torch.get_num_threads(), cv2.getNumThreads()) == (2, 2)
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])


def test_results_are_the_same_to_the_last_bit_with_any_number_of_workers(tmp_path: Path) -> None:
    install_model()
    save_broken_files(tmp_path)
    save_photographs(tmp_path, range(30))
    found = find_images([tmp_path])
    options = {"device": DeviceName.CPU, "precision": Precision.FLOAT32}
    one, *others = [
        list(Grader.load("tiny", num_workers=num_workers, **options).grade_all(found))  # type: ignore[arg-type]
        for num_workers in (1, 2, 7)
    ]
    assert sum(isinstance(result, Prediction) for result in one) == 30
    assert others == [one, one]
