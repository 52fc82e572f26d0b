"""Bootstrap resamples of photographs: of a data set's rows, or of photographs without labels and patients."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fundusgrade.data.manifest import ManifestRow
from fundusgrade.metrics.bootstrap import Resamples, resample

_NUM_RESAMPLES = 1000


def resample_rows(rows: Sequence[ManifestRow], *, num_resamples: int = _NUM_RESAMPLES) -> Resamples:
    """Resamples of graded rows; copies and photographs of one patient are resampled together."""
    return resample(np.array([row.group for row in rows], np.int64), num_resamples=num_resamples)


def resample_independent(num_photographs: int, *, num_resamples: int = _NUM_RESAMPLES) -> Resamples:
    """Resamples of photographs whose patients are not known: each is a group of its own."""
    return resample(np.arange(num_photographs), num_resamples=num_resamples)
