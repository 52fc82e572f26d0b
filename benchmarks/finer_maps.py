"""Agreement of heat maps of the CAM family with lesions, by layer, beside integrated gradients.

The photographs have masks of their lesions, in IDRiD's layout.

python benchmarks/finer_maps.py FOLDER --model NAME [--model NAME ...] [--target referable]
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fundusgrade.data.lesion_masks import any_lesion, find_lesion_photographs, read_lesions
from fundusgrade.evaluation.lesion_agreement import lesion_coverage, measure_agreement
from fundusgrade.evaluation.resampling import resample_independent
from fundusgrade.explanation.attribution import fits
from fundusgrade.explanation.explainer import explain_opened
from fundusgrade.explanation.heat_map import ExplainOptions
from fundusgrade.explanation.targets import Target, parse_target
from fundusgrade.grading.grader import Grader
from fundusgrade.metrics.bootstrap import estimate_mean
from fundusgrade.options import Attribution, Layer
from fundusgrade.photographs.loading import open_photograph


def main() -> None:
    """Measure, and print a row for each model and method."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", action="append", required=True)
    parser.add_argument("--target", default="referable")
    chosen = parser.parse_args()
    print("model | method | heat on lesions / their area | average precision | peak on lesion")
    for name in chosen.model:
        grader = Grader.load(name)
        for options in methods(parse_target(chosen.target)):
            if fits(grader.pytorch.network, options):
                numbers = np.array(list(agreements(grader, chosen.folder, options)))
                cells = " | ".join(interval_text(column) for column in numbers.T)
                print(f"{grader.name} | {options.describe()} | {cells}", flush=True)


def methods(target: Target) -> Iterator[ExplainOptions]:
    """Integrated gradients, and Grad-CAM, HiResCAM and LayerCAM on every layer."""
    yield ExplainOptions(target=target, method=Attribution.INTEGRATED_GRADIENTS)
    for method in (Attribution.GRAD_CAM, Attribution.HIRES_CAM, Attribution.LAYER_CAM):
        for layer in Layer:
            yield ExplainOptions(target=target, method=method, layer=layer)


def agreements(grader: Grader, folder: Path, options: ExplainOptions) -> Iterator[tuple[float, float, float]]:
    """For each photograph with heat: lift, average precision, and whether the peak lies on a lesion."""
    for found in find_lesion_photographs(folder):
        opened = open_photograph(found.path, grader.recipe)
        (explanation,) = explain_opened(grader, opened, [options])
        values, preprocessed = explanation.heat_map.values, explanation.preprocessed
        mask = any_lesion(read_lesions(found.path.stem, folder / "masks", opened.photograph.shape))
        coverage = lesion_coverage(mask, preprocessed.placement, len(values))
        agreement = measure_agreement(values, preprocessed.mask, coverage)
        if agreement.lift is not None and agreement.average_precision is not None:
            yield agreement.lift, agreement.average_precision, float(bool(agreement.peak_on_lesion))


def interval_text(values: np.ndarray) -> str:
    """The mean with its 95 % interval over photographs."""
    return estimate_mean(values, resample_independent(len(values))).describe(digits=2)


if __name__ == "__main__":
    main()
