"""Whether a model, or its explanations, is any good."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fundusgrade.lazy import lazy_attributes

if TYPE_CHECKING:
    from fundusgrade.evaluation.assessment import Assessment, assess
    from fundusgrade.evaluation.robustness import measure_interventions
    from fundusgrade.evaluation.shortcuts import measure_shortcuts

__all__ = ["Assessment", "assess", "measure_interventions", "measure_shortcuts"]

__getattr__ = lazy_attributes(
    __name__,
    {
        "Assessment": "assessment",
        "assess": "assessment",
        "measure_interventions": "robustness",
        "measure_shortcuts": "shortcuts",
    },
)
