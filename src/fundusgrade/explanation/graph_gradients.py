"""Explanations by OpenVINO, where it grades: a graph of the network's gradients, which needs no PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from fundusgrade.errors import ExplanationError
from fundusgrade.explanation.heat_map import ExplainOptions
from fundusgrade.explanation.score_gradients import scaled
from fundusgrade.explanation.targets import EXPECTED, REFERABLE, Target, grade_target
from fundusgrade.grades import Grade
from fundusgrade.networks.graphs import LoadedGraph
from fundusgrade.networks.heads import calibrated_logits
from fundusgrade.networks.processor import allowed_cores
from fundusgrade.networks.runtime import Runtime
from fundusgrade.networks.spec import NetworkSpec
from fundusgrade.options import Attribution, Layer
from fundusgrade.photographs.pixels import Image

SCORES: tuple[Target, ...] = (*map(grade_target, Grade), EXPECTED, REFERABLE)
"""The scores that a graph gives the gradients of, in the order of its weights."""


class GraphGradients:
    """A network's graphs as the source of heat maps: one grades, the other one gives gradients.

    Several threads may use it at once; images are computed on all cores, one on each.
    """

    def __init__(self, grading: Runtime, gradients: LoadedGraph, spec: NetworkSpec) -> None:
        self.spec = spec
        self._grading = grading
        self._graph = gradients
        self._rows = slice(*(spec.rows or (0, spec.size_px)))
        self._pool = ThreadPoolExecutor(allowed_cores(), thread_name_prefix="gradients")

    @property
    def has_map(self) -> bool:
        """Whether it gives the feature map of Grad-CAM."""
        return self._graph.num_outputs > 1

    def fits(self, options: ExplainOptions) -> bool:
        """Whether it computes a method; PyTorch computes all."""
        if options.method is Attribution.GRAD_CAM:
            return self.has_map and options.layer is Layer.LAST
        return options.method in (Attribution.AUTO, Attribution.INTEGRATED_GRADIENTS)

    def logits(self, images: Sequence[Image]) -> NDArray[np.float64]:
        """Logits (B, 5) of images (S, S, 3), one by one, as they are graded."""
        outputs = self._pool.map(lambda image: self._grading.run(image[None], with_features=False).outputs, images)
        return calibrated_logits(self.spec.head, np.concatenate(list(outputs)), self.spec.calibration)

    def gradients(self, images: NDArray[np.float32], target: Target) -> NDArray[np.float32]:
        """Gradients (B, 3, S, S) of the score of a resolved target to each of the images (B, 3, S, S) in [0, 1]."""
        gradients = np.zeros_like(images)
        for place, (gradient, *_) in enumerate(self._pool.map(lambda image: self._run(image, target), images)):
            gradients[place, :, self._rows] = gradient[0]
        return gradients

    def map_cells(self, image: Image, options: ExplainOptions) -> NDArray[np.float32]:
        """The map (h, w) of Grad-CAM of an image (S, S, 3) (Selvaraju et al., ICCV 2017).

        Raises ExplanationError for other methods, and where the network has no feature map.
        """
        if not self.fits(options):
            raise ExplanationError(f"--method {options.describe()} needs PyTorch: this graph does not compute it")
        _, feature_map, gradient = self._run(scaled(image), options.target)
        weights = gradient[0].mean(axis=(1, 2))
        cells = np.tensordot(weights, feature_map[0], axes=1)
        return np.asarray(cells * cells.size, np.float32)

    def _run(self, image: NDArray[np.float32], target: Target) -> Sequence[NDArray[np.float32]]:
        weights = np.array([[each == target for each in SCORES]], np.float32)
        return self._graph.run(np.ascontiguousarray(image[None, :, self._rows]), weights)
