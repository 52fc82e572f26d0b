"""Which threshold reaches its sensitivity on a source that did not choose it: that of all together, or of each source?

    fundusgrade evaluate --model MODEL --data A --split validation --allow-leakage --out a
    fundusgrade evaluate --model MODEL --data B --split validation --allow-leakage --out b
    python benchmarks/operating_point.py a/predictions-MODEL.csv b/predictions-MODEL.csv

Sources are the clusters of acquisition of each data set with enough referable photographs. Each is left out in turn;
the threshold is chosen on the others, by both rules, and what it finds is counted on the one that was left out. Then
whole data sets are left out. Only photographs of training sources are meant to be used here: the rule is a choice.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from fundusgrade.metrics.predictions import read_predictions
from fundusgrade.metrics.referral import FEWEST_REFERABLE, ReferralScores, referral_scores, threshold_for

SENSITIVITIES = (0.85, 0.90, 0.95)


def sources_of(paths: Sequence[Path]) -> dict[str, list[ReferralScores]]:
    """The sources of each data set, by its name."""
    found = {}
    for path in paths:
        predictions = read_predictions(path)
        test = predictions.test
        clusters = np.zeros(len(test), int) if test.acquisitions is None else test.acquisitions
        names = [f"{predictions.data}, cluster {cluster}" for cluster in clusters]
        scores = referral_scores(names, test.grades, test.probabilities[:, 2:].sum(axis=1), test.groups)
        found[predictions.data] = [each for each in scores if len(each.referable) >= FEWEST_REFERABLE]
    return found


def pooled(parts: Sequence[ReferralScores], sensitivity: float) -> float:
    """The threshold that all photographs together reach: of one source that holds them all."""
    return threshold_for(
        [
            ReferralScores(
                data="all",
                referable=tuple(score for part in parts for score in part.referable),
                others=tuple(score for part in parts for score in part.others),
            )
        ],
        sensitivity,
    )


def rates(part: ReferralScores, threshold: float) -> tuple[float, float]:
    """Sensitivity and specificity."""
    found = np.array(part.referable) >= threshold
    passed = np.array(part.others) < threshold
    return float(found.mean()), float(passed.mean()) if len(passed) else float("nan")


def show(splits: Mapping[str, tuple[Sequence[ReferralScores], Sequence[ReferralScores]]]) -> None:
    """A line for each sensitivity and rule: what it reaches on the sources that were left out."""
    for sensitivity in SENSITIVITIES:
        for rule, choose in (("pooled", pooled), ("each source", threshold_for)):
            found = [
                (name, part, *rates(part, choose(chosen_on, sensitivity)))
                for name, (chosen_on, left_out) in splits.items()
                for part in left_out
            ]
            reached, passed = np.array([of[2] for of in found]), np.array([of[3] for of in found])
            short = np.maximum(0, sensitivity - reached)
            print(
                f"{sensitivity:.2f} {rule:12s} sensitivity mean {reached.mean():.3f}, lowest {reached.min():.3f}, mean "
                f"shortfall {short.mean():.3f}, reached on {(short == 0).sum()} of {len(found)}; specificity mean "
                f"{np.nanmean(passed):.3f}, lowest {np.nanmin(passed):.3f}"
            )
            for name, part, sensitivity_there, specificity_there in found:
                print(f"     {part.data:28s} without {name:28s} {sensitivity_there:.3f} {specificity_there:.3f}")


def main(paths: Sequence[str]) -> None:
    """Both comparisons."""
    of_data = sources_of([Path(path) for path in paths])
    every = [part for parts in of_data.values() for part in parts]
    for part in every:
        print(f"{part.data}: {len(part.referable)} referable, {len(part.others)} others")
    print("\nleaving out one source")
    show({part.data: ([each for each in every if each is not part], [part]) for part in every})
    print("\nleaving out one data set")
    show(
        {
            name: ([each for other, others in of_data.items() if other != name for each in others], parts)
            for name, parts in of_data.items()
            if len(of_data) > 1
        }
    )


if __name__ == "__main__":
    main(sys.argv[1:])
