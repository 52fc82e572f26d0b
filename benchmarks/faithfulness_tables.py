"""The tables of docs/explanations.md as Markdown: perturbation, lesions, randomization, stability.

    python benchmarks/faithfulness_tables.py aptos2019 --lesions idrid/ --model efficientnet-lite2 --out study/

Perturbation is measured on photographs drawn from the test split with the seed of `fundusgrade faithfulness`, for the
predicted grade; the other tests on the photographs with masks, for referable disease. Models that preprocess
photographs differently are measured in separate runs. Concentration on a whole split is left out:
`fundusgrade faithfulness` measures it.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fundusgrade import store
from fundusgrade.data.dataset import load_dataset
from fundusgrade.data.lesion_masks import LESION_NAMES
from fundusgrade.evaluation.cases import Case
from fundusgrade.evaluation.faithfulness import Plan, run_plan
from fundusgrade.evaluation.findings import (
    LESION_LIFT,
    LESIONS,
    PEAK_ON_LESION,
    PERTURBATION,
    ROAD,
    Findings,
    summarize,
)
from fundusgrade.evaluation.randomization import DEPTHS
from fundusgrade.evaluation.resampling import resample_rows
from fundusgrade.evaluation.study import StudyOptions, study_lesions
from fundusgrade.explanation.explainer import check_comparable
from fundusgrade.explanation.heat_map import ExplainOptions
from fundusgrade.explanation.targets import PREDICTED, parse_target
from fundusgrade.grading.grader import Grader
from fundusgrade.metrics.estimates import Estimate
from fundusgrade.options import Attribution
from fundusgrade.photographs.loading import load_photograph
from fundusgrade.reports.findings_tables import write_findings


def main() -> None:
    """Measure, write faithfulness.json, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="prepared data set")
    parser.add_argument("--lesions", type=Path, required=True, help="folder in IDRiD's layout")
    parser.add_argument("--model", action="append", default=None)
    parser.add_argument("--method", action="append", default=None, help="default: auto and grad-cam")
    parser.add_argument("--limit", type=int, default=30, help="photographs of the data set")
    parser.add_argument("--fold", type=int, default=None, help="take the test split of this fold")
    parser.add_argument("--out", type=Path, required=True)
    chosen = parser.parse_args()
    graders = [Grader.load(name) for name in chosen.model or [None]]
    check_comparable(graders)
    methods = tuple(ExplainOptions(method=Attribution(name)) for name in chosen.method or ["auto", "grad-cam"])
    referable = parse_target("referable")
    of_lesions = study_lesions(graders, chosen.lesions, StudyOptions(target=referable, methods=methods))
    perturbed = study_perturbation(graders, chosen.data, chosen.fold, methods, chosen.limit)
    write_findings([perturbed, of_lesions], chosen.out)
    print_tables(perturbed, of_lesions)


def study_perturbation(
    graders: Sequence[Grader], data: str, fold: int | None, methods: Sequence[ExplainOptions], limit: int
) -> Findings:
    """Deletion, insertion and ROAD on photographs of the test split; leakage is not checked."""
    dataset = load_dataset(store.resolve_dataset(data))
    rows = (dataset if fold is None else dataset.with_fold(fold)).graded_rows("test")
    numbers = sorted(np.random.default_rng(0).permutation(len(rows))[:limit].tolist())
    plan = Plan(
        methods=tuple(dataclasses.replace(method, target=PREDICTED) for method in methods),
        with_concentration=False,
        with_randomization=False,
        with_stability=False,
    )
    recipe = graders[0].recipe
    cases = (
        Case(number=number, loaded=load_photograph(dataset.photograph_path(rows[number]), recipe)) for number in numbers
    )
    measurements = run_plan(graders, plan, cases)
    return summarize(measurements, resample_rows(rows), data=f"{dataset.name}, test", target=PREDICTED.name)


def print_tables(perturbed: Findings, of_lesions: Findings) -> None:
    """The tables of the page, each row as it stands there."""
    table(perturbed, PERTURBATION, ("deletion", "insertion", "deletion at 2 %", "insertion at 2 %", ROAD))
    measures = ("heat on lesions", LESION_LIFT, "average precision", PEAK_ON_LESION)
    table(of_lesions, LESIONS, measures)
    for kind in LESION_NAMES.values():
        table(of_lesions, kind, (LESION_LIFT, "average precision"))
    table(of_lesions, PERTURBATION, (ROAD,))
    layers = ["last layer", *(f"{100 * depth:.0f} % of the layers" for depth in DEPTHS[1:])]
    table(of_lesions, "randomization", [f"rank correlation, {layer}" for layer in layers])
    table(of_lesions, "stability", ("rank correlation after a shift", "rank correlation between models"))
    print("\ndifferences from baselines")
    for study in (perturbed, of_lesions):
        for difference in study.over_baselines:
            p = "" if difference.p is None else f", p {difference.p:.3f}"
            names = f"{difference.within}: {difference.first} over {difference.second}, {difference.test}"
            print(f"{study.data}, {names}, {difference.measure}: {cell(difference.difference)}{p}")


def table(study: Findings, test: str, measures: Sequence[str]) -> None:
    """A row for each network and map."""
    found = {(each.model, each.method, each.measure): each for each in study.findings if each.test == test}
    print(f"\n{test}, {study.data}, {study.num_photographs} photographs, {study.target}")
    print("| network | map | " + " | ".join(measures) + " |\n|" + "---|" * (2 + len(measures)))
    for model, method in dict.fromkeys((model, method) for model, method, _ in found):
        estimates = [found.get((model, method, measure)) for measure in measures]
        cells = " | ".join("" if each is None else cell(each.mean) for each in estimates)
        print(f"| {model} | {method} | {cells} |")


def cell(estimate: Estimate) -> str:
    """ "0.13 (0.11 to 0.16)"; three digits below 0.1."""
    small = estimate.value is not None and 0 < abs(estimate.value) < 0.1
    return estimate.describe(3 if small else 2)


if __name__ == "__main__":
    main()
