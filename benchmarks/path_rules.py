"""Quadrature rules for integrated gradients: how far sums and maps of few steps are from those of many.

    python benchmarks/path_rules.py aptos2019 --lesions idrid/ --count 12 --steps 256

For each rule: the gap between the sum of the attributions and the change of the score from baseline to image, and the
correlation of its smoothed map with that of many square-spaced steps, whose own gap is the last row: that of the mirror
images' mean score. Photographs are drawn from the test split with a fixed seed; half as many of a folder in IDRiD's
layout are added. All in float32.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fundusgrade import store
from fundusgrade.data.dataset import load_dataset
from fundusgrade.data.lesion_masks import find_lesion_photographs
from fundusgrade.explanation.explainer import visible_region
from fundusgrade.explanation.integrated_gradients import (
    PathRule,
    blurred_baseline,
    integrated_gradients,
    smooth_attributions,
    square_spaced,
)
from fundusgrade.explanation.targets import Target, parse_target, resolve_target, score_values
from fundusgrade.explanation.torch_gradients import TorchGradients
from fundusgrade.grading.grader import Grader
from fundusgrade.options import DeviceName, Precision
from fundusgrade.photographs.loading import load_photograph
from fundusgrade.photographs.preprocess import PreprocessedImage


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The gap of a rule on one photograph, and the correlation of its map; None where a map is empty."""

    gap: float
    correlation: float | None


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="prepared data set")
    parser.add_argument("--lesions", type=Path, default=None)
    parser.add_argument("--model", default=None)
    parser.add_argument("--target", default="referable")
    parser.add_argument("--count", type=int, default=12)
    parser.add_argument("--steps", type=int, default=256, help="steps of the map that stands for the exact one")
    chosen = parser.parse_args()
    grader = Grader.load(chosen.model, device=DeviceName.AUTO, precision=Precision.FLOAT32)
    outcomes: dict[str, list[Outcome]] = {}
    changes = []
    for preprocessed in photographs(grader, chosen.data, chosen.lesions, chosen.count):
        change, found = compare(grader, preprocessed, parse_target(chosen.target), chosen.steps)
        changes.append(abs(change))
        for name, outcome in found.items():
            outcomes.setdefault(name, []).append(outcome)
    print(f"{grader.name}; {len(changes)} photographs; the score changes by {np.median(changes):.2f} (median)")
    print("rule                                gap: median, mean    correlation: median, lowest")
    for name, found_all in outcomes.items():
        gaps = [abs(outcome.gap) for outcome in found_all]
        correlations = [outcome.correlation for outcome in found_all if outcome.correlation is not None]
        print(
            f"{name:34s} {np.median(gaps):6.2f} {np.mean(gaps):6.2f}  "
            f"{np.median(correlations):14.3f} {min(correlations):6.3f}"
        )


def rules() -> dict[str, PathRule]:
    """The rules that are compared."""
    compared = {}
    for num_steps in (8, 16):
        compared[f"{num_steps} equal steps"] = midpoint(num_steps)
        compared[f"{num_steps} square-spaced steps"] = square_spaced(num_steps)
        compared[f"{num_steps} points, Gauss-Legendre"] = gauss_legendre(num_steps, power=1)
        compared[f"{num_steps} points, the same in the root"] = gauss_legendre(num_steps, power=2)
    eight = square_spaced(8)
    compared["8 square-spaced, mirrored in turn"] = replace(eight, flipped_axes=eight.flipped_axes[:4])
    compared["8 square-spaced, not mirrored"] = replace(eight, flipped_axes=((),))
    return compared


def midpoint(num_steps: int) -> PathRule:
    """Equal steps."""
    points = (np.arange(num_steps) + 0.5) / num_steps
    return PathRule(points=tuple(points), weights=(1 / num_steps,) * num_steps)


def gauss_legendre(num_steps: int, *, power: int) -> PathRule:
    """Gauss-Legendre quadrature in s, where the point of the path is s to this power."""
    nodes, weights = np.polynomial.legendre.leggauss(num_steps)
    s = (nodes + 1) / 2
    return PathRule(points=tuple(s**power), weights=tuple(weights / 2 * power * s ** (power - 1)))


def photographs(grader: Grader, data: str, lesions: Path | None, count: int) -> Iterator[PreprocessedImage]:
    """Photographs of a data set's test split, then half as many of the folder of lesions."""
    dataset = load_dataset(store.resolve_dataset(data))
    rows = dataset.graded_rows("test")
    for number in np.random.default_rng(0).permutation(len(rows))[:count]:
        yield load_photograph(dataset.photograph_path(rows[number]), grader.recipe).preprocessed
    if lesions is not None:
        for photograph in find_lesion_photographs(lesions)[: count // 2]:
            yield load_photograph(photograph, grader.recipe).preprocessed


def compare(
    grader: Grader, preprocessed: PreprocessedImage, target: Target, num_steps: int
) -> tuple[float, dict[str, Outcome]]:
    """The change of the score from baseline to image, and the outcome of each rule."""
    image, outline = preprocessed.image, visible_region(grader.recipe, preprocessed)
    network, choice = grader.pytorch.network, grader.pytorch.choice

    def attributions(rule: PathRule) -> np.ndarray:
        with TorchGradients.of(network, choice) as source:
            return integrated_gradients(source, image, outline, target, rule)

    with TorchGradients.of(network, choice) as source:
        logits = source.logits([image, blurred_baseline(image, outline)])
    target = resolve_target(target, logits[0])
    score, baseline_score = score_values(target, logits).tolist()
    many = f"{num_steps} square-spaced steps"
    compared = rules() | {many: square_spaced(num_steps)}
    found_all = {name: attributions(rule) for name, rule in compared.items()}
    exact = smooth_attributions(found_all[many])[outline]
    outcomes = {}
    for name, found in found_all.items():
        smoothed = smooth_attributions(found)[outline]
        is_defined = np.ptp(exact) > 0 and np.ptp(smoothed) > 0
        outcomes[name] = Outcome(
            gap=float(found.sum(dtype=np.float64)) - (score - baseline_score),
            correlation=float(np.corrcoef(smoothed, exact)[0, 1]) if is_defined else None,
        )
    return score - baseline_score, outcomes


if __name__ == "__main__":
    main()
