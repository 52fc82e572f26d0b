"""Does this installation work: a drawn eye is graded from a file, explained and written, in seconds.

The grade of a drawn eye means nothing. What is tested is that decoding, the network, gradients and files work.
"""

from __future__ import annotations

import csv
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from fundusgrade.errors import SelfTestError
from fundusgrade.explanation.explainer import explain
from fundusgrade.grades import NUM_GRADES, Prediction
from fundusgrade.grading.grader import Grader
from fundusgrade.grading.writer import PredictionWriter
from fundusgrade.photographs.images import write_image
from fundusgrade.photographs.pixels import Image

_SIZE_PX = 640
_NUM_TIMED = 8
_TOLERANCE = 1e-4


@dataclass(frozen=True, slots=True, kw_only=True)
class SelfTest:
    """What was done and how long it took."""

    model: str
    photographs_per_second: float
    explanation_seconds: float
    seconds: float

    def describe(self) -> str:
        """One line for people."""
        return (
            f"passed in {self.seconds:.1f} s: drawn eyes were decoded, graded by {self.model} "
            f"({self.photographs_per_second:.1f} photographs/s), explained ({self.explanation_seconds:.1f} s), written"
        )


def self_test(grader: Grader) -> SelfTest:
    """Grade, explain and write a drawn eye. Raises SelfTestError where a result is not as it must be.

    Errors of decoding, of the network and of files are raised as they come.
    """
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="fundusgrade-") as name:
        folder = Path(name)
        paths = [folder / f"eye{number}.png" for number in range(_NUM_TIMED)]
        for number, path in enumerate(paths):
            write_image(path, draw_eye(number))
        results, rate = _graded(grader, paths)
        explained = time.perf_counter()
        heat = explain(grader, paths[0]).heat
        explanation_seconds = time.perf_counter() - explained
        _check(heat.shape == (_SIZE_PX, _SIZE_PX) and bool(np.isfinite(heat).all()), "the heat map has holes")
        _check_written(folder / "rows.csv", results)
    return SelfTest(
        model=grader.name,
        photographs_per_second=rate,
        explanation_seconds=explanation_seconds,
        seconds=time.perf_counter() - begun,
    )


def draw_eye(seed: int) -> Image:
    """A disc with the colors of a retina, an optic disc and vessels, (640, 640, 3), by its seed."""
    rows, columns = np.mgrid[:_SIZE_PX, :_SIZE_PX].astype(np.float32) / _SIZE_PX - 0.5
    distance = np.hypot(rows, columns)
    shade = (0.75 - 0.4 * distance)[..., None]
    eye = np.clip(255 * shade * np.array([0.85, 0.40, 0.18], np.float32), 0, 255).astype(np.uint8)
    rng = np.random.default_rng(seed)
    side = 1 if seed % 2 else -1
    center = (_SIZE_PX // 2 + side * _SIZE_PX // 6, _SIZE_PX // 2)
    for angle in rng.uniform(0, 2 * np.pi, 12):
        steps = np.linspace(0, 0.45, 20)[:, None] * _SIZE_PX
        path = np.array(center) + steps * np.array([np.cos(angle), np.sin(angle)]) + rng.normal(0, 3, (20, 2)).cumsum(0)
        cv2.polylines(eye, [path.astype(np.int32)], isClosed=False, color=(110, 30, 15), thickness=3)
    cv2.circle(eye, center, _SIZE_PX // 14, (240, 190, 120), thickness=-1)
    noisy = cv2.GaussianBlur(eye, (0, 0), 1.0) + rng.normal(0, 2, eye.shape)
    return np.where(distance[..., None] < 0.46, np.clip(noisy, 0, 255), 0).astype(np.uint8)


def _graded(grader: Grader, paths: list[Path]) -> tuple[list[Prediction], float]:
    """The predictions, and photographs per second."""
    begun = time.perf_counter()
    results = list(grader.grade_all(paths))
    rate = len(paths) / (time.perf_counter() - begun)
    graded = [result for result in results if isinstance(result, Prediction)]
    reasons = {result.reason for result in results if not isinstance(result, Prediction)}
    _check(not reasons, f"the drawn eye was not graded: {'; '.join(sorted(reasons))}")
    for prediction in graded:
        values = np.array(prediction.probabilities)
        is_distribution = len(values) == NUM_GRADES and bool((values >= 0).all()) and abs(values.sum() - 1) < _TOLERANCE
        _check(is_distribution, f"{grader.name} gives no probabilities: {prediction.probabilities}")
    return graded, rate


def _check_written(path: Path, results: list[Prediction]) -> None:
    with PredictionWriter(path) as writer:
        for result in results:
            writer.write(result)
    with path.open(encoding="utf-8", newline="") as file:
        grades = [row["grade"] for row in csv.DictReader(file)]
    _check(grades == [str(int(result.grade)) for result in results], "rows were not written as they were graded")


def _check(is_right: bool, problem: str) -> None:
    if not is_right:
        raise SelfTestError(f"self-test failed: {problem}; install fundusgrade and PyTorch again")
