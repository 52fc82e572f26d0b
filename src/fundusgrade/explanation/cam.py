"""The CAM family, by pytorch-grad-cam: Grad-CAM, Grad-CAM++, HiResCAM, LayerCAM."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from fundusgrade.explanation.heat_map import ExplainOptions, image_batch, resize_map
from fundusgrade.explanation.layers import MapLayer, find_layers, refusal
from fundusgrade.explanation.targets import Target, resolve_target, target_scores
from fundusgrade.networks.device import DeviceChoice
from fundusgrade.networks.network import GradingNetwork
from fundusgrade.options import Attribution
from fundusgrade.photographs.pixels import Image

if TYPE_CHECKING:
    from pytorch_grad_cam.base_cam import BaseCAM


# The CAM family


def cam_cells(
    network: GradingNetwork, image: Image, options: ExplainOptions, choice: DeviceChoice
) -> tuple[Target, float, NDArray[np.float32]]:
    """The target, its score and the signed map (h, w): the mean over the layers asked for, on the finest one's grid."""
    top, bottom = network.spec.rows or (0, len(image))
    layers = find_layers(network, options.layer, bottom - top, image.shape[1])
    cams: list[BaseCAM] = []
    with ExitStack() as stack:
        cams = [stack.enter_context(_captured(network, layer, options.method)) for layer in layers]
        logits = network(image_batch(network, image, choice)).float()
        target = resolve_target(options.target, logits[0])
        score = target_scores(target, logits)[0]
        if any(len(cam.activations_and_grads.activations) != 1 for cam in cams) or not score.requires_grad:
            raise refusal(network, "its score does not pass through one last map")
        score.backward()  # type: ignore[no-untyped-call]
        maps = [_signed_cells(cam) for cam in cams]
    finest = max(maps, key=lambda each: each.size).shape
    on_one_grid = [resize_map(each, finest) for each in maps]
    return target, float(score.detach()), np.asarray(np.mean(on_one_grid, axis=0), np.float32)


def _signed_cells(cam: BaseCAM) -> NDArray[np.float32]:
    """The map (h, w) in units of the score.

    Calling the object itself would stretch the map to 0-1, and would leave gradients in the weights.
    """
    store = cam.activations_and_grads
    activations = store.activations[0].float().numpy()
    gradients = store.gradients[0].float().numpy() if store.gradients else np.zeros_like(activations)
    cells = cam.get_cam_image(None, None, None, activations, gradients, False)[0]
    return np.asarray(cells * cells.size, np.float32)


def _cam_class(method: Attribution) -> type[BaseCAM]:
    import pytorch_grad_cam as cams  # brings scikit-learn and pyplot: seconds that grading need not wait for

    known: dict[Attribution, type[BaseCAM]] = {
        Attribution.GRAD_CAM: cams.GradCAM,
        Attribution.HIRES_CAM: cams.HiResCAM,
        Attribution.GRAD_CAM_PLUS_PLUS: cams.GradCAMPlusPlus,
        Attribution.LAYER_CAM: cams.LayerCAM,
        Attribution.EIGEN_CAM: cams.EigenCAM,
    }
    return known[method]


class _Root(nn.Module):
    """Where the gradient ends: the first map becomes a leaf, so that nothing before it is stored or differentiated."""

    def forward(self, output: Tensor) -> Tensor:
        return output if output.requires_grad else output.detach().requires_grad_()


@contextmanager
def _captured(network: GradingNetwork, layer: MapLayer, method: Attribution) -> Iterator[BaseCAM]:
    """A pytorch-grad-cam object on a map; it holds no tensor and no hook afterwards.

    Its hooks sit on a module of ours, not on the network. What goes on into the network is a copy: the next layer may
    work in place and would change the stored map.
    """
    root = _Root()

    def divert(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
        layer.arrange(output)
        diverted: Tensor = root(output)
        return diverted.clone()

    cam = _cam_class(method)(model=network, target_layers=[root], reshape_transform=layer.arrange)
    try:
        with layer.module.register_forward_hook(divert):
            yield cam
    finally:
        cam.activations_and_grads.release()
