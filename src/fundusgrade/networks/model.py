"""A model ready to grade: its description, its checks, and the runtime that computes its network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fundusgrade.data.leakage import TrainingFingerprints
from fundusgrade.networks.description import CheckpointDescription
from fundusgrade.networks.feature_checks import FeatureChecks
from fundusgrade.networks.runtime import Runtime


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Model:
    """A model ready to grade.

    `fingerprints` identify the photographs that it was trained and chosen on; `checks` are None where it has none.
    `checkpoint` is the file that the model came from, from which PyTorch can compute gradients; None for an exported
    graph, which has none.
    """

    description: CheckpointDescription
    fingerprints: TrainingFingerprints
    checks: FeatureChecks | None
    runtime: Runtime
    checkpoint: Path | None = None
