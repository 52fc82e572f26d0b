"""The table of the reference study, with intervals, of models that `fundusgrade evaluate --out` compared.

    fundusgrade evaluate --predictions cnn --predictions resnet50 --out out
    python benchmarks/reference_table.py out/evaluation.json

Prints one Markdown table for each data set: kappa, accuracy, F1 of each grade, referable and sight-threatening disease,
and both ranks within acquisition; and one with kappa and F1 by each decision rule.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

GRADES = ("no_dr", "mild", "moderate", "severe", "proliferative")
HEADER = (
    "network", "kappa", "accuracy", "F1 of none / mild / moderate / severe / proliferative",
    "referable: sensitivity / specificity / AUC", "sight-threatening: sensitivity / specificity / AUC",
    "within acquisition: kappa / referable AUC",
)  # fmt: skip


def main() -> None:
    """Print the tables of each file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("evaluations", nargs="+", type=Path, help="evaluation.json of `fundusgrade evaluate --out`")
    for path in parser.parse_args().evaluations:
        models = json.loads(path.read_text(encoding="utf-8"))["models"]
        names = [source["name"] for source in models[0].get("sources") or ()]
        for name in names or [None]:
            print(f"\n{name or path.parent.name}\n")
            _print_table(HEADER, (_row(model["model"], _scores_of(model, name)) for model in models))
        for name in ("all", *names):
            _print_rules(models, name)


def _scores_of(model: Mapping[str, Any], source: str | None) -> dict[str, dict[str, float]]:
    """The estimates of a model on one data set, or on all, by the key of the score."""
    found = model if source is None else next(each for each in model["sources"] if each["name"] == source)
    return {score["key"]: score["estimate"] for score in found["scores"] if score["estimate"]}


def _row(name: str, scores: Mapping[str, Mapping[str, float]]) -> tuple[str, ...]:
    referable, severe = ("referable", "sight_threatening")
    return (
        name,
        _with_interval(scores["kappa"]),
        _with_interval(scores["accuracy"]),
        " / ".join(f"{scores[f'f1_{grade}']['value']:.2f}" for grade in GRADES),
        *(_three(scores, f"{kind}_sensitivity", f"{kind}_specificity", f"{kind}_auc") for kind in (referable, severe)),
        " / ".join(
            _with_interval(scores[key]) for key in ("kappa_within_acquisition", "referable_auc_within_acquisition")
        ),
    )


def _three(scores: Mapping[str, Mapping[str, float]], *keys: str) -> str:
    return " / ".join("undefined" if scores[key]["value"] is None else f"{scores[key]['value']:.3f}" for key in keys)


def _with_interval(estimate: Mapping[str, float]) -> str:
    if estimate["value"] is None:
        return "undefined"
    if estimate["low"] is None:
        return f"{estimate['value']:.3f}"
    return f"{estimate['value']:.3f} ({estimate['low']:.3f}-{estimate['high']:.3f})"


def _print_rules(models: Iterable[Mapping[str, Any]], source: str) -> None:
    """Kappa, accuracy and F1 of the rare grades by each decision rule, of all data or one data set."""
    rows = []
    for model in models:
        found = model if source == "all" else next(each for each in model["sources"] if each["name"] == source)
        for rule in found.get("rules") or ():
            scores = {score["key"]: score["estimate"] for score in rule["scores"] if score["estimate"]}
            keys = ("kappa", "accuracy", "macro_f1", "f1_severe", "f1_proliferative")
            rows.append((model["model"], rule["rule"], *(_with_interval(scores[key]) for key in keys)))
    if rows:
        print(f"\nDecision rules, {source}\n")
        _print_table(("network", "rule", "kappa", "accuracy", "macro F1", "F1 of severe", "of proliferative"), rows)


def _print_table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    header = tuple(header)
    print(f"| {' | '.join(header)} |\n|{'---|' * len(header)}")
    for row in rows:
        print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main()
