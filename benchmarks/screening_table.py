"""Referrals at the operating point as rows of Markdown, for docs/results.md.

fundusgrade evaluate --model MODEL --data eyepacs_400 --out OUT
python benchmarks/screening_table.py OUT/evaluation.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from fundusgrade.metrics.estimates import Estimate

HEADER = ("data", "model", "of", "referable / others", "ungradable", "sensitivity", "specificity", "missed grade 3, 4")


def row(data: str, model: str, rates: dict[str, Any]) -> str:
    """One line of the table."""
    per_grade, missed = rates["num_per_grade"], rates["num_missed"]
    cells = (
        *(data, f"`{model}`", f"{rates['unit']}, {rates['scope']}", f"{sum(per_grade[2:])} / {sum(per_grade[:2])}"),
        str(rates["num_ungradable"]),
        *(Estimate(**rates[name]).describe() for name in ("sensitivity", "specificity")),
        f"{missed[3]} of {per_grade[3]}, {missed[4]} of {per_grade[4]}",
    )
    return f"| {' | '.join(cells)} |"


def main(paths: list[str]) -> None:
    """The table of all evaluations."""
    print(f"| {' | '.join(HEADER)} |\n|{'---|' * len(HEADER)}")
    reasons = {}
    for path in paths:
        assessment = json.loads(Path(path).read_text(encoding="utf-8"))
        for model in assessment["models"]:
            screening = model["screening"]
            reasons[model["model"]] = f"{model['model']}: from p = {screening['threshold']:.4f}, {screening['reason']}"
            for rates in screening["rates"]:
                print(row(assessment["data"], model["model"], rates))
    print("\n" + "\n".join(reasons.values()))


if __name__ == "__main__":
    main(sys.argv[1:])
