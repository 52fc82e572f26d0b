"""Where a grade comes from: Grad-CAM maps in units of the score they explain.

Grad-CAM (Selvaraju et al., ICCV 2017) weighs the channels A_k of the network's last map by the mean gradient alpha_k of
the score. Usually each map is then stretched to 0-1, which makes weak evidence look like strong evidence. Here

    value(cell) = number of cells * max(0, sum_k alpha_k A_k(cell))

stays in units of the score: if the whole picture looked like this place, the score would rise by this much. For a
network that averages its last map and ends in a linear layer this is exact: the mean over the cells, before negative
values are cut off, equals the score less its bias. For all others it holds to first order. The maps come from
pytorch-grad-cam (J. Gildenblat and contributors).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fundusgrade.errors import ExplanationError
from fundusgrade.grades import REFERABLE_FROM, Grade
from fundusgrade.images import Picture
from fundusgrade.model import CNN, GradingNetwork, lay_out, to_tensor

if TYPE_CHECKING:
    from pytorch_grad_cam import GradCAM

_SUPPORTED = (
    "supported are the cnn, timm's convolutional networks (ResNet, EfficientNet, ConvNeXt, DenseNet, MobileNet, ...) "
    "and plain vision transformers (ViT, DeiT, DINOv2)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What is explained: a grade's logit or, where `grade` is None, what `PREDICTED` or `REFERABLE` say."""

    name: str
    grade: Grade | None


PREDICTED = Target(name="predicted", grade=None)
"""The grade with the highest logit."""

REFERABLE = Target(name="referable", grade=None)
"""The log-odds of moderate or worse."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HeatMap:
    """An explanation: `values` (S, S) float32 >= 0 on the canonical picture, in units of the score (logits).

    `cells` (h, w) is the map before negative values were cut off and it was enlarged; `target` is never `PREDICTED`.
    """

    values: NDArray[np.float32]
    cells: NDArray[np.float32]
    target: Target
    score: float


def parse_target(text: str) -> Target:
    """Read "predicted", "referable", a grade "0" to "4", or a grade's label in any case.

    Raises ExplanationError for anything else.
    """
    word = text.strip().casefold().replace("_", " ")
    targets = {PREDICTED.name: PREDICTED, REFERABLE.name: REFERABLE}
    for grade in Grade:
        targets[str(grade.value)] = targets[grade.label.casefold()] = grade_target(grade)
    if word not in targets:
        labels = ", ".join(f'"{grade.label}"' for grade in Grade)
        raise ExplanationError(
            f"cannot explain {text!r}: no such target; use predicted, referable, a grade 0 to 4, or its label: {labels}"
        )
    return targets[word]


def explain(network: GradingNetwork, picture: Picture, *, target: Target, device: torch.device) -> HeatMap:
    """Explain the network's score for a preprocessed picture (S, S, 3); the network must be on `device`.

    Leaves the network as it was: weights, gradients, modes and hooks. Raises ExplanationError where the architecture
    has no last map that Grad-CAM could use.
    """
    height, width = picture.shape[:2]
    top, bottom = network.spec.rows or (0, height)
    final = _find_final_map(network, bottom - top, width)
    with _undisturbed(network, device), _captured(network, final) as cam:
        inputs = lay_out(network, to_tensor(picture)[None].to(device))
        logits = cam.activations_and_grads(inputs)[0].float()
        resolved = _resolve(target, logits)
        score = _score(resolved, logits)
        cells = _signed_cells(cam, score, network)
    positive = torch.from_numpy(cells).clamp(min=0)[None, None]
    values = np.zeros((height, width), np.float32)
    seen = nn.functional.interpolate(positive, size=(bottom - top, width), mode="bilinear", align_corners=False)
    values[top:bottom] = seen[0, 0].numpy()
    return HeatMap(values=values, cells=cells, target=resolved, score=float(score.detach()))


def grade_target(grade: Grade) -> Target:
    return Target(name=f"grade {grade.value} {grade.label}", grade=grade)


def _resolve(target: Target, logits: Tensor) -> Target:
    values = logits.tolist()
    if not np.isfinite(values).all():
        raise ExplanationError(f"the network's output is not finite ({values}): there is nothing to explain")
    return grade_target(max(Grade, key=values.__getitem__)) if target == PREDICTED else target


def _score(target: Target, logits: Tensor) -> Tensor:
    if target.grade is not None:
        return logits[target.grade]
    return torch.logsumexp(logits[REFERABLE_FROM:], dim=0) - torch.logsumexp(logits[:REFERABLE_FROM], dim=0)


def _signed_cells(cam: GradCAM, score: Tensor, network: GradingNetwork) -> NDArray[np.float32]:
    """The map (h, w) in units of the score.

    `GradCAM.__call__` would stretch it to 0-1, and would leave gradients in the weights.
    """
    store = cam.activations_and_grads
    if len(store.activations) != 1 or not score.requires_grad:
        raise _refusal(network, "its score does not pass through one last map")
    score.backward()  # type: ignore[no-untyped-call]
    activations, gradients = store.activations[0].numpy(), store.gradients[0].numpy()
    cells = cam.get_cam_image(None, None, None, activations, gradients)[0]
    return np.asarray(cells * cells.size, np.float32)


class _Root(nn.Module):
    """Where the gradient ends: the last map becomes a leaf, so that nothing before it is stored or differentiated."""

    def forward(self, output: Tensor) -> Tensor:
        return output.detach().requires_grad_()


@dataclass(frozen=True, slots=True, kw_only=True)
class _FinalMap:
    """The module whose output is the last map, and how that output is arranged as (B, C, h, w)."""

    module: nn.Module
    arrange: Callable[[Tensor], Tensor]


@contextmanager
def _captured(network: GradingNetwork, final: _FinalMap) -> Iterator[GradCAM]:
    """A pytorch-grad-cam object on the last map; it holds no tensor and no hook afterwards.

    Its hooks sit on a module of ours, not on the network. What goes on into the network is a copy: the next layer may
    work in place and would change the stored map.
    """
    from pytorch_grad_cam import GradCAM  # brings scikit-learn and pyplot: seconds that grading need not wait for

    root = _Root()

    def divert(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
        final.arrange(output)
        diverted: Tensor = root(output)
        return diverted.clone()

    cam = GradCAM(model=network, target_layers=[root], reshape_transform=final.arrange)
    try:
        with final.module.register_forward_hook(divert):
            yield cam
    finally:
        cam.activations_and_grads.release()


@contextmanager
def _undisturbed(network: nn.Module, device: torch.device) -> Iterator[None]:
    """Evaluation mode and float32, gradients switched on but none for weights; afterwards all is as it was."""
    modes = [(module, module.training) for module in network.modules()]
    flags = [(parameter, parameter.requires_grad) for parameter in network.parameters()]
    is_autocast = torch.is_autocast_enabled(device.type)
    network.eval().requires_grad_(False)
    try:
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
            torch.autocast(device.type, enabled=False) if is_autocast else nullcontext(),
        ):
            yield
    finally:
        for module, mode in modes:
            module.training = mode
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


def _find_final_map(network: GradingNetwork, height: int, width: int) -> _FinalMap:
    backbone: Any = network.backbone  # timm's attributes
    if network.spec.arch == CNN:
        return _spatial_map(network, backbone.features, None)
    if hasattr(backbone, "blocks") and hasattr(backbone, "patch_embed") and hasattr(backbone, "num_prefix_tokens"):
        return _token_map(network, height, width)
    if hasattr(backbone, "conv_head") and hasattr(backbone, "bn2"):
        # EfficientNet and MobileNetV2 send their last feature through one more convolution; what is averaged is this.
        return _spatial_map(network, backbone.bn2, backbone.conv_head.out_channels)
    if getattr(backbone, "feature_info", None) and getattr(backbone, "output_fmt", "NCHW") == "NCHW":
        last = backbone.feature_info[-1]
        return _spatial_map(network, backbone.get_submodule(last["module"]), last["num_chs"])
    raise _refusal(network, "it has no last map of the form (channels, height, width)")


def _spatial_map(network: GradingNetwork, module: nn.Module, num_channels: int | None) -> _FinalMap:
    def arrange(output: Tensor) -> Tensor:
        if not isinstance(output, Tensor) or output.ndim != 4 or num_channels not in (None, output.shape[1]):
            raise _refusal(network, f"its last map is not of the form ({num_channels or 'channels'}, height, width)")
        return output

    return _FinalMap(module=module, arrange=arrange)


def _token_map(network: GradingNetwork, height: int, width: int) -> _FinalMap:
    """The input of the last attention: after it, patches no longer influence the class token."""
    backbone: Any = network.backbone  # timm's attributes
    module = getattr(backbone.blocks[-1], "norm1", None)
    if module is None:
        raise _refusal(network, "its last block has no norm1")
    grid = backbone.patch_embed.grid_size
    if getattr(backbone, "dynamic_img_size", False):
        grid = backbone.patch_embed.dynamic_feat_size((height, width))

    def arrange(output: Tensor) -> Tensor:
        patches = output[:, backbone.num_prefix_tokens :]
        if patches.ndim != 3 or patches.shape[1] != grid[0] * grid[1]:
            raise _refusal(network, f"its last tokens {tuple(output.shape)} are no grid of {grid[0]} x {grid[1]}")
        return patches.transpose(1, 2).reshape(len(patches), -1, grid[0], grid[1])

    return _FinalMap(module=module, arrange=arrange)


def _refusal(network: GradingNetwork, reason: str) -> ExplanationError:
    name = network.spec.timm_name or network.spec.arch
    return ExplanationError(f"Grad-CAM cannot explain {name}: {reason}; {_SUPPORTED}")
