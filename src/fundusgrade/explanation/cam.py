"""The CAM family: Grad-CAM, Grad-CAM++, HiResCAM and LayerCAM, computed by pytorch-grad-cam (J. Gildenblat)."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from fundusgrade.explanation.heat_map import resize_map
from fundusgrade.explanation.layers import MapLayer, find_layers, refusal
from fundusgrade.explanation.target_scores import target_scores
from fundusgrade.explanation.targets import Target
from fundusgrade.networks.network import GradingNetwork
from fundusgrade.options import Attribution, Layer

if TYPE_CHECKING:
    from pytorch_grad_cam.base_cam import BaseCAM


def cam_cells(
    network: GradingNetwork, images: Tensor, target: Target, method: Attribution, layer: Layer
) -> NDArray[np.float32]:
    """The signed map (h, w) of a resolved target, in units of its score: the mean over layers, on the finest grid.

    `images` (1, 3, S, S) is a batch of one. Gradients must be enabled and the network in evaluation mode. Raises
    ExplanationError where the architecture has no such feature map.
    """
    top, bottom = network.spec.rows or (0, images.shape[2])
    layers = find_layers(network, layer, bottom - top, images.shape[3])
    maps = [_layer_cells(network, images, target, method, map_layer) for map_layer in layers]
    finest = max(maps, key=lambda cells: cells.size).shape
    return np.asarray(np.mean([resize_map(cells, finest) for cells in maps], axis=0), np.float32)


def _layer_cells(
    network: GradingNetwork, images: Tensor, target: Target, method: Attribution, layer: MapLayer
) -> NDArray[np.float32]:
    """The map of one layer: the sum over channels times the number of cells (see attribution.py)."""
    num_calls = 0

    def begin_gradient(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
        # Nothing before the layer needs a gradient, and most of the network is before it.
        layer.arrange(output)  # refuses what is no feature map
        return output.detach().requires_grad_()

    def pass_on_copy(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
        # The next layer may work in place, which would change the feature map that pytorch-grad-cam has stored.
        nonlocal num_calls
        num_calls += 1
        return output.clone()

    def score(logits: Tensor) -> Tensor:
        if num_calls != 1:
            raise refusal(network, "its score does not depend on one last feature map")
        return target_scores(target, logits[None])[0]

    with (
        layer.module.register_forward_hook(begin_gradient),
        _cam_class(method)(network, [layer.module], reshape_transform=layer.arrange) as cam,
        layer.module.register_forward_hook(pass_on_copy),
    ):
        cells = cam(images, [score])[0]
    return np.asarray(cells * cells.size, np.float32)


_DECOMPOSITION = "sklearn.decomposition"


@contextmanager
def scikit_learn_on_demand() -> Iterator[None]:
    """While pytorch-grad-cam is imported, its two classes of scikit-learn stand for those of the same name.

    They belong to methods that are not offered here, and importing scikit-learn takes as long as importing PyTorch. It
    is imported when one of them is first called, so that whoever uses the library beside us has all of it.
    """
    if _DECOMPOSITION in sys.modules:
        yield
        return
    stand_in = ModuleType(_DECOMPOSITION)
    for name in ("KernelPCA", "NMF"):
        setattr(stand_in, name, partial(_made_by_scikit_learn, name))
    sys.modules[_DECOMPOSITION] = stand_in
    try:
        yield
    finally:
        del sys.modules[_DECOMPOSITION]


def _made_by_scikit_learn(name: str, *args: Any, **named: Any) -> Any:
    return getattr(importlib.import_module(_DECOMPOSITION), name)(*args, **named)


def _cam_class(method: Attribution) -> type[BaseCAM]:
    """The class of pytorch-grad-cam for a method, but in units of the score: the library scales every map to 0-1."""
    with scikit_learn_on_demand():
        import pytorch_grad_cam as cams

    base: Any = {
        Attribution.GRAD_CAM: cams.GradCAM,
        Attribution.GRAD_CAM_PLUS_PLUS: cams.GradCAMPlusPlus,
        Attribution.HIRES_CAM: cams.HiResCAM,
        Attribution.LAYER_CAM: cams.LayerCAM,
    }[method]

    class Unscaled(base):  # type: ignore[misc]
        unscaled: NDArray[np.float32]

        def get_cam_image(self, *inputs: Any) -> NDArray[np.float32]:
            self.unscaled = super().get_cam_image(*inputs)
            return self.unscaled

        def aggregate_multi_layers(self, scaled: object) -> NDArray[np.float32]:
            return self.unscaled

    return Unscaled
