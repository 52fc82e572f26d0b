"""How strong heat maps of healthy and diseased eyes are: how many reach the display level, by the true grade.

    python benchmarks/display_levels.py aptos2019 --count 10

Photographs of the validation split, which trained no weights; the target is that of `explain`: referable disease where
the model gives grade 0 or 1, else the predicted grade. For comparison, evidence of referable disease in every eye.
"""

from __future__ import annotations

import argparse
import statistics

import numpy as np

from fundusgrade import store
from fundusgrade.data.dataset import load_dataset
from fundusgrade.explanation.attribution import probability_per_log_odds
from fundusgrade.explanation.explainer import Explanation, explain_photograph
from fundusgrade.explanation.heat_map import ExplainOptions
from fundusgrade.explanation.targets import AUTO, REFERABLE
from fundusgrade.grades import Grade
from fundusgrade.grading.grader import Grader
from fundusgrade.options import Attribution

METHODS = [
    ExplainOptions(target=AUTO, method=Attribution.GRAD_CAM),
    ExplainOptions(target=AUTO, method=Attribution.INTEGRATED_GRADIENTS),
    ExplainOptions(target=REFERABLE, method=Attribution.INTEGRATED_GRADIENTS),
]


def main() -> None:
    """Measure and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="prepared data set")
    parser.add_argument("--model", default=None)
    parser.add_argument("--count", type=int, default=10, help="photographs of each grade")
    chosen = parser.parse_args()
    dataset, grader = load_dataset(store.resolve_dataset(chosen.data)), Grader.load(chosen.model)
    rows = dataset.graded_rows("validation")
    print(f"{grader.name}, {dataset.name}, validation, {chosen.count} photographs of each grade")
    print(
        "| true grade | Grad-CAM drawn | evidence map drawn | of referable disease: drawn | largest, probability "
        "| log-odds |"
    )
    print("|---|---|---|---|---|---|")
    for grade in Grade:
        named = [row for row in rows if row.grade == grade]
        numbers = np.random.default_rng(0).permutation(len(named))[: chosen.count]
        explained = [
            [row[0] for row in explain_photograph(dataset.photograph_path(named[number]), [grader], METHODS)]
            for number in numbers
        ]
        print_row(grade, explained)


def print_row(grade: Grade, explained: list[list[Explanation]]) -> None:
    """How many maps are drawn, of all; medians of the largest evidence of referable disease."""
    drawn = [sum(is_drawn(explanations[number]) for explanations in explained) for number in range(len(METHODS))]
    largest = [float(explanations[2].heat.max()) for explanations in explained]
    in_log_odds = [value / slope(explanations[2]) for value, explanations in zip(largest, explained, strict=True)]
    cells = [f"{count} of {len(explained)}" for count in drawn]
    print(
        f"| {grade.label} | {' | '.join(cells)} | {statistics.median(largest):.3f} "
        f"| {statistics.median(in_log_odds):.2f} |"
    )


def is_drawn(explanation: Explanation) -> bool:
    """Whether the figure colors anything, on the default scale."""
    return explanation.heat_map.scale.shown(explanation.heat).draws(explanation.heat)


def slope(explanation: Explanation) -> float:
    """Probability per log-odds, of integrated gradients."""
    heat_map = explanation.heat_map
    assert heat_map.baseline_score is not None
    return probability_per_log_odds(heat_map.baseline_score, heat_map.score)


if __name__ == "__main__":
    main()
