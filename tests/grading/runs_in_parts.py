"""A run whose rows are written in parts, as tests of the parts and of Ray's workers need it."""

from __future__ import annotations

import functools
from pathlib import Path

from fundusgrade import store
from fundusgrade.grading.engine import EngineOptions, PartsOutput, PartsRun
from fundusgrade.grading.grader import Grader
from fundusgrade.options import DeviceName, Precision, RuntimeName
from fundusgrade.photographs.sources import find_images
from tests.models_for_tests import install_model, save_photographs

BATCH = 2
BROKEN = 5
"""The place of the eye that cannot be read."""


def run_of_eyes(folder: Path, num_eyes: int, output: str, options: EngineOptions | None = None) -> PartsRun:
    """Drawn eyes in a folder, one of them broken, to be graded in batches of two into a file or folder beside them."""
    paths = save_photographs(folder / "eyes", range(num_eyes))
    paths[BROKEN].write_bytes(b"")
    install_model("tiny")
    load = functools.partial(
        Grader.load, device=DeviceName.CPU, precision=Precision.FLOAT32, runtime=RuntimeName.PYTORCH, batch_size=BATCH
    )
    return PartsRun(
        photographs=find_images([folder / "eyes"]),
        model=store.resolve_model("tiny"),
        load=load,
        grader=load("tiny"),
        output=PartsOutput.of(folder / output),
        options=options or EngineOptions(),
    )
