"""Seconds of a whole evaluation: three models, 3,662 stored predictions each, 1,000 resamples, report with all figures.

    python benchmarks/evaluate.py

The predictions are simulated; reading, scoring, comparing, drawing and writing are what `fundusgrade evaluate
--predictions ... --report` does, without images of the worst errors.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np

from fundusgrade.evaluation.assessment import assess
from fundusgrade.metrics.predictions import PredictionSet, ScoredPhotographs, read_predictions, write_predictions
from fundusgrade.reports.html.context import DataDescription, ReportContext
from fundusgrade.reports.html.page import report_html

NUM_PER_GRADE = (1805, 370, 999, 193, 295)


def simulated(seed: int, noise: float) -> PredictionSet:
    """Predictions of a model whose severity is off by `noise` grades, in five folds."""
    rng = np.random.default_rng(seed)
    grades = np.random.default_rng(0).permutation(np.repeat(np.arange(5), NUM_PER_GRADE))
    severity = grades + rng.normal(0, noise, len(grades))
    closeness = -((severity[:, None] - np.arange(5)) ** 2) / (2 * noise**2)
    probabilities = np.exp(closeness - closeness.max(axis=1, keepdims=True))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    number = np.arange(len(grades))
    columns = ScoredPhotographs(
        sources=tuple(f"eye-{i:04d}.png" for i in number),
        grades=grades,
        predicted=probabilities.argmax(axis=1),
        probabilities=probabilities,
        groups=number // 2 * 2,
        folds=1 + number % 5,
    )
    known = columns.subset(number[::3])
    return PredictionSet(model=f"simulated {seed}", data="simulated", test=columns, validation=known)


def main() -> None:
    """Measure once and print seconds of each part."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{seed}.csv" for seed in (1, 2, 3)]
        for path, noise in zip(paths, (0.5, 0.6, 0.8), strict=True):
            write_predictions(simulated(int(path.stem), noise), path)
        started = time.perf_counter()
        sets = [read_predictions(path) for path in paths]
        was_read = time.perf_counter()
        found = assess(sets)
        was_assessed = time.perf_counter()
        page = report_html(found, _context())
        done = time.perf_counter()
    print(f"read {was_read - started:.1f} s, scores and comparisons {was_assessed - was_read:.1f} s,")
    print(f"report {done - was_assessed:.1f} s ({len(page) / 1e6:.1f} MB); altogether {done - started:.1f} s")


def _context() -> ReportContext:
    data = DataDescription(
        name="simulated", num_photographs=sum(NUM_PER_GRADE), num_per_grade=NUM_PER_GRADE, part="test",
        num_folds=5, num_groups=0, recipe="none", manifest_hash="", num_ungraded=0, num_doubtful=0,
    )  # fmt: skip
    return ReportContext(title="Simulated", created="", versions=(), data=data)


if __name__ == "__main__":
    main()
