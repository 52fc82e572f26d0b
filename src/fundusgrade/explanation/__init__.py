"""A network and a photograph -> a heat map of the regions that drove the grade."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fundusgrade.lazy import lazy_attributes

if TYPE_CHECKING:
    from fundusgrade.explanation.explainer import Explanation, explain
    from fundusgrade.explanation.heat_map import ExplainOptions, HeatMap
    from fundusgrade.explanation.targets import parse_target

__all__ = ["ExplainOptions", "Explanation", "HeatMap", "explain", "parse_target"]

__getattr__ = lazy_attributes(
    __name__,
    {
        "ExplainOptions": "heat_map",
        "Explanation": "explainer",
        "HeatMap": "heat_map",
        "explain": "explainer",
        "parse_target": "targets",
    },
)
