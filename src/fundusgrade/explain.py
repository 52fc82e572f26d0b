"""Where a grade comes from: heat maps in units of the score they explain.

Usually a map is stretched to 0-1, which makes weak evidence look like strong evidence. Here heat keeps a unit.

`integrated` follows the score from the picture without its details to the picture itself and gives each pixel its
share (integrated gradients, Sundararajan et al., ICML 2017). Its heat is what a thousandth of the picture like this
place adds to the score, as closely as eight steps can tell.

The methods of the CAM family weigh the channels of one of the network's maps; they come from pytorch-grad-cam
(J. Gildenblat and contributors). Grad-CAM (Selvaraju et al., ICCV 2017) weighs a map A_k by its mean gradient alpha_k:

    value(cell) = number of cells * max(0, sum_k alpha_k A_k(cell))

If the whole picture looked like this place, the score would rise by this much. For a network that averages its last map
and ends in a linear layer this is exact: the mean over the cells, before negative values are cut off, equals the score
less its bias. For all others, and for HiResCAM, it holds to first order.

Grad-CAM++, LayerCAM, Eigen-CAM (whose sign is the library's guess) and `rollout`, which follows the attention of a
vision transformer, have no unit: they say how many times their mean a place has.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fundusgrade.device import DeviceChoice
from fundusgrade.errors import ExplanationError
from fundusgrade.graphs import GraphBackbone
from fundusgrade.images import Picture
from fundusgrade.integrated import blank_picture, gather, integrate
from fundusgrade.layers import MapLayer, find_attentions, find_layers, refusal
from fundusgrade.model import GradingNetwork, lay_out, to_tensor
from fundusgrade.options import Attribution, Layer
from fundusgrade.overlay import HeatScale
from fundusgrade.rollout import roll_out
from fundusgrade.targets import PREDICTED, Target, resolve_target, target_scores

if TYPE_CHECKING:
    from pytorch_grad_cam.base_cam import BaseCAM

DEFAULT_METHOD = Attribution.INTEGRATED
"""The method that was best for every architecture measured (docs/explanations.md)."""

RELATIVE_UNIT = "times the mean"
RELATIVE_FLOOR = 8.0
WITHOUT_UNIT = frozenset(
    {Attribution.GRAD_CAM_PLUS_PLUS, Attribution.LAYER_CAM, Attribution.EIGEN_CAM, Attribution.ROLLOUT}
)
"""Methods whose values are no change of a score: their heat says how many times its mean a place has."""

INTEGRATED_SHARE = 0.125
"""Full strength of `integrated`, of a target's floor: half a logit, or a quarter of a grade, by a thousandth."""

_THOUSANDTHS = 1000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainOptions:
    """What is explained and how; `layer` matters to the CAM family only.

    With `tiles` n > 1 the picture is made n times as large and seen in parts of the usual size.
    """

    target: Target = PREDICTED
    method: Attribution = Attribution.AUTO
    layer: Layer = Layer.LAST
    tiles: int = 1

    def describe(self) -> str:
        """The method in words, as it stands in tables and above columns."""
        layer = "" if self.layer is Layer.LAST else f"@{self.layer.value}"
        return f"{self.method.value}{layer}" + (f", {self.tiles} x {self.tiles} tiles" if self.tiles > 1 else "")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HeatMap:
    """An explanation: `values` (S, S) float32 >= 0 on the canonical picture, in the unit of its scale.

    `cells` (h, w) is what the method found before negative values were cut off and it was enlarged. The target is never
    `PREDICTED`, the method never `AUTO`. `blank_score` is that of the picture without its details, from which
    `integrated` starts: heat alone shows what speaks for the target, the two scores show what came of it.
    """

    values: NDArray[np.float32]
    cells: NDArray[np.float32]
    target: Target
    score: float
    method: Attribution
    scale: HeatScale
    blank_score: float | None = None


def fits(network: GradingNetwork, options: ExplainOptions) -> bool:
    """Whether the network has what the method reads. Raises ExplanationError for a graph: no method reads one."""
    _refuse_graph(network)
    if options.method in (Attribution.AUTO, Attribution.INTEGRATED):
        return True
    try:
        if options.method is Attribution.ROLLOUT:
            return bool(find_attentions(network))
        return bool(find_layers(network, options.layer, *network.spec.input_px))
    except ExplanationError:
        return False


def _refuse_graph(network: GradingNetwork) -> None:
    if isinstance(network.backbone, GraphBackbone):
        raise ExplanationError(
            f"an exported graph ({network.backbone.arithmetic}) cannot be explained: it keeps neither gradients nor "
            "maps; explain the safetensors model that it was exported from"
        )


def parse_method(text: str) -> tuple[Attribution, Layer]:
    """Read a method's name, with "@last", "@middle", "@fine" or "@all" behind it for a method of the CAM family.

    Raises ExplanationError for anything else.
    """
    name, _, layer = text.strip().casefold().partition("@")
    names, layers = [each.value for each in Attribution], [each.value for each in Layer]
    if name not in names or (layer or "last") not in layers:
        raise ExplanationError(
            f"cannot explain by {text!r}: no such method; use {', '.join(names)}, those of the CAM family with "
            f"{', '.join(f'@{each}' for each in layers)} behind them, such as grad-cam@middle"
        )
    if layer not in ("", "last") and not name.endswith(("cam", "cam++")):
        raise ExplanationError(f"cannot explain by {text!r}: only methods of the CAM family read a layer; use {name}")
    return Attribution(name), Layer(layer or "last")


def explain(
    network: GradingNetwork,
    picture: Picture,
    *,
    options: ExplainOptions,
    choice: DeviceChoice,
    outline: NDArray[np.bool_] | None = None,
) -> HeatMap:
    """Explain the network's score for a preprocessed picture (S, S, 3); the network must be on the chosen device.

    `outline` (S, S) says which pixels can show retina; all if not given. `options.tiles` is not heeded here. Leaves the
    network as it was: weights, gradients, modes and hooks. Raises ExplanationError where the method does not fit the
    architecture.
    """
    _refuse_graph(network)
    if options.method is Attribution.AUTO:
        options = replace(options, method=DEFAULT_METHOD)
    outline = np.ones(picture.shape[:2], np.bool_) if outline is None else outline
    with _undisturbed(network, choice.device):
        if options.method is Attribution.INTEGRATED:
            target, score = _answer(network, picture, options.target, choice)
            shares = integrate(network, picture, outline, target, choice)
            density = _density(network, picture)
            heat_map = _heat_map(options, target, score, shares * density, gather(shares) * density)
            _, blank_score = _answer(network, blank_picture(picture, outline), target, choice)
            return replace(heat_map, blank_score=blank_score)
        if options.method is Attribution.ROLLOUT:
            target, score = _answer(network, picture, options.target, choice)
            cells = roll_out(network, _batch(network, picture, choice), target)
        else:
            target, score, cells = _cam(network, picture, options, choice)
    if options.method in WITHOUT_UNIT:
        cells = cells / max(float(np.maximum(cells, 0).mean()), 1e-12)
    return _heat_map(options, target, score, cells, _enlarged(cells, network, picture))


def merge_tiles(whole: HeatMap, values: NDArray[np.float32], num_tiles: int) -> HeatMap:
    """The heat map of a picture that was seen in parts, num_tiles in each direction: the whole one's score and scale.

    A thousandth of a part is a smaller share of the whole picture.
    """
    if whole.method is Attribution.INTEGRATED:
        values = values * num_tiles**2
    return replace(whole, values=values, cells=values)


def _heat_map(
    options: ExplainOptions,
    target: Target,
    score: float,
    cells: NDArray[np.float32],
    values: NDArray[np.float32],
) -> HeatMap:
    scale = HeatScale(unit=f"change of the score ({target.unit})", floor=target.floor)
    if options.method is Attribution.INTEGRATED:
        unit = f"evidence ({target.unit} per 0.1 % of picture)"
        # Sharp peaks would leave no color for the rest: the scale is the same for all photographs.
        scale = HeatScale(unit=unit, ceiling=INTEGRATED_SHARE * target.floor)
    elif options.method in WITHOUT_UNIT:
        scale = HeatScale(unit=RELATIVE_UNIT, floor=RELATIVE_FLOOR)
    return HeatMap(values=values, cells=cells, target=target, score=score, method=options.method, scale=scale)


def _density(network: GradingNetwork, picture: Picture) -> float:
    """Pixels of a thousandth of what the network sees."""
    top, bottom = network.spec.rows or (0, len(picture))
    return float((bottom - top) * picture.shape[1] / _THOUSANDTHS)


def _batch(network: GradingNetwork, picture: Picture, choice: DeviceChoice) -> Tensor:
    return lay_out(network, to_tensor(picture)[None].to(choice.device))


def _answer(network: GradingNetwork, picture: Picture, target: Target, choice: DeviceChoice) -> tuple[Target, float]:
    """The resolved target and its score."""
    with torch.no_grad():
        logits = network(_batch(network, picture, choice)).float()
        resolved = resolve_target(target, logits[0])
        return resolved, float(target_scores(resolved, logits)[0].item())


# The CAM family


def _cam(
    network: GradingNetwork, picture: Picture, options: ExplainOptions, choice: DeviceChoice
) -> tuple[Target, float, NDArray[np.float32]]:
    """The target, its score and the signed map (h, w): the mean over the layers asked for, on the finest one's grid."""
    top, bottom = network.spec.rows or (0, len(picture))
    layers = find_layers(network, options.layer, bottom - top, picture.shape[1])
    cams: list[BaseCAM] = []
    with ExitStack() as stack:
        cams = [stack.enter_context(_captured(network, layer, options.method)) for layer in layers]
        logits = network(_batch(network, picture, choice)).float()
        target = resolve_target(options.target, logits[0])
        score = target_scores(target, logits)[0]
        if any(len(cam.activations_and_grads.activations) != 1 for cam in cams) or not score.requires_grad:
            raise refusal(network, "its score does not pass through one last map")
        score.backward()  # type: ignore[no-untyped-call]
        maps = [_signed_cells(cam) for cam in cams]
    finest = max(maps, key=lambda each: each.size).shape
    on_one_grid = [_resized(each, finest) for each in maps]
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


def _enlarged(cells: NDArray[np.float32], network: GradingNetwork, picture: Picture) -> NDArray[np.float32]:
    """The positive part of a map (h, w) on the picture's pixels; rows that the network does not see have no heat."""
    height, width = picture.shape[:2]
    top, bottom = network.spec.rows or (0, height)
    values = np.zeros((height, width), np.float32)
    values[top:bottom] = _resized(np.maximum(cells, 0), (bottom - top, width))
    return values


def _resized(cells: NDArray[np.float32], shape: Sequence[int]) -> NDArray[np.float32]:
    if cells.shape == tuple(shape):
        return cells
    enlarged = nn.functional.interpolate(
        torch.from_numpy(cells)[None, None], size=tuple(shape), mode="bilinear", align_corners=False
    )
    return np.asarray(enlarged[0, 0].numpy(), np.float32)


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
