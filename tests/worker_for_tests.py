"""`fundusgrade` as tests start it in processes of their own: keeps the last epoch's weights, and may kill one process.

FUNDUSGRADE_TEST_KILL is the epoch and the step, "2,1", after which the last process is killed, in the first start.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

from fundusgrade.commands.app import main
from fundusgrade.training.loop import TrainResult
from fundusgrade.training.observers import TrainingProgress
from fundusgrade.training.state import RunState

ROOT = Path(__file__).parents[1]
TIMEOUT_SECONDS = 300


def keep_the_last() -> property:
    """In place of RunState.best_epoch: after few epochs no kappa says which weights are better."""
    return property(lambda run: len(run.history))


def always_learned() -> property:
    """In place of TrainResult.has_learned: after few steps kappa may still be 0, by rounding."""
    return property(lambda result: True)


HAS_LEARNED = TrainResult.has_learned
"""The property itself, for the tests that are about it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """The exit codes of the processes, by rank, and what all of them wrote to standard output and error."""

    codes: list[int | None]
    stdout: str
    stderr: str


def run_processes(words: list[str], home: Path, folder: Path, *, size: int, killed_at: str = "") -> Finished:
    """`fundusgrade WORDS` in `size` processes that train together, with the environment that torchrun gives them.

    A server forks them, which has loaded everything once: starting Python anew for each would take most of the time.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.worker_for_tests", "fundusgrade.training.cross_validation"])
    common = {
        "FUNDUSGRADE_HOME": str(home), "FUNDUSGRADE_TEST_KILL": killed_at, "COLUMNS": "200", "WORLD_SIZE": str(size),
        "GROUP_WORLD_SIZE": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": str(_free_port()),
    }  # fmt: skip
    processes = []
    for rank in range(size):
        environment = {**common, "RANK": str(rank)}
        processes.append(context.Process(target=_run_rank, args=(words, environment, folder / f"rank{rank}")))
        processes[-1].start()
    for process in processes:
        process.join(TIMEOUT_SECONDS)
        process.kill()
        process.join()
    texts = {
        kind: "".join((folder / f"rank{rank}.{kind}").read_text() for rank in range(size)) for kind in ("out", "err")
    }
    return Finished(codes=[process.exitcode for process in processes], stdout=texts["out"], stderr=texts["err"])


def _free_port() -> int:
    with socket.socket() as any_free:
        any_free.bind(("localhost", 0))
        return int(any_free.getsockname()[1])


def _run_rank(words: list[str], environment: dict[str, str], output: Path) -> None:
    import torch

    os.environ.update(environment)
    torch.set_num_threads(1)
    for number, kind in ((1, "out"), (2, "err")):
        with output.with_suffix(f".{kind}").open("w") as file:
            os.dup2(file.fileno(), number)
    sys.argv = ["fundusgrade", *words]
    _prepare()
    main()


def _prepare() -> None:
    """Keep the last epoch, and let the last process be killed where the test says, unless it was restarted."""
    RunState.best_epoch = keep_the_last()  # type: ignore[method-assign]
    TrainResult.has_learned = always_learned()  # type: ignore[method-assign]
    is_last = int(os.environ["RANK"]) == int(os.environ["WORLD_SIZE"]) - 1
    if is_last and os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0":
        TrainingProgress.batch_done = _kill_itself  # type: ignore[method-assign]


def _kill_itself(self: TrainingProgress, epoch: int, step: int, num_steps: int, num_images: int) -> None:
    if f"{epoch},{step}" == os.environ["FUNDUSGRADE_TEST_KILL"]:
        assert step < num_steps, "in the middle of an epoch"
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    _prepare()
    main()
