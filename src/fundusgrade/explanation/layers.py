"""Layers of a network that explanations use: feature maps for the CAM family, attention modules for rollout."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from fundusgrade.errors import ExplanationError
from fundusgrade.networks.network import GradingNetwork
from fundusgrade.networks.spec import CNN
from fundusgrade.options import Layer

_SUPPORTED = (
    "supported are the cnn, timm's convolutional networks (ResNet, EfficientNet, ConvNeXt, DenseNet, MobileNet, ...) "
    "and plain vision transformers (ViT, DeiT, DINOv2)"
)
SUPPORTED_ROLLOUT = "supported are plain vision transformers (ViT, DeiT, DINOv2); use --method integrated-gradients"
"""Which networks attention rollout can explain, and what to do with others."""
# Where the finer feature maps are: a fraction of a transformer's blocks, or stages, before the last one.
_BLOCKS_BEFORE = {Layer.LAST: 0.0, Layer.MIDDLE: 0.25, Layer.FINE: 0.5}
_STAGES_BEFORE = {Layer.LAST: 0, Layer.MIDDLE: 1, Layer.FINE: 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class MapLayer:
    """A module whose output is a feature map, and the function that arranges this output as (B, C, h, w)."""

    module: nn.Module
    arrange: Callable[[Tensor], Tensor]


def find_layers(network: GradingNetwork, layer: Layer, height: int, width: int) -> list[MapLayer]:
    """The modules that give the feature maps of `layer`, first to last, for an input of height x width px.

    Raises ExplanationError where the architecture has no such feature map.
    """
    names = [Layer.FINE, Layer.MIDDLE, Layer.LAST] if layer is Layer.ALL else [layer]
    map_layers = [_find_layer(network, name, height, width) for name in names]
    return list({id(map_layer.module): map_layer for map_layer in map_layers}.values())


def is_transformer(network: GradingNetwork) -> bool:
    """Whether it is a plain vision transformer: a grid of patches, then blocks of attention."""
    backbone: Any = network.backbone  # timm's attributes
    return all(hasattr(backbone, name) for name in ("blocks", "patch_embed", "num_prefix_tokens"))


def find_attentions(network: GradingNetwork) -> list[Any]:
    """The attention modules of a vision transformer, first to last.

    Raises ExplanationError for other architectures and where a module does not expose its attention.
    """
    if not is_transformer(network):
        raise refusal(network, "it has no attention modules", supported=SUPPORTED_ROLLOUT)
    backbone: Any = network.backbone
    attentions = [getattr(block, "attn", None) for block in backbone.blocks]
    if not all(hasattr(module, "fused_attn") and hasattr(module, "attn_drop") for module in attentions):
        raise refusal(
            network, "its blocks do not expose their attention", supported="use --method integrated-gradients"
        )
    return attentions


def patch_grid(network: GradingNetwork, height: int, width: int) -> tuple[int, int]:
    """Rows and columns of a vision transformer's patches."""
    patches: Any = network.backbone.patch_embed
    if getattr(network.backbone, "dynamic_img_size", False) and hasattr(patches, "dynamic_feat_size"):
        rows, columns = patches.dynamic_feat_size((height, width))
    elif getattr(patches, "grid_size", None) is not None:
        rows, columns = patches.grid_size
    else:
        raise refusal(network, "its patches do not form a known grid", supported="use --method integrated-gradients")
    return int(rows), int(columns)


def refusal(network: GradingNetwork, reason: str, supported: str = _SUPPORTED) -> ExplanationError:
    """The error for an architecture that a method cannot explain: why, and which architectures it can explain."""
    name = network.spec.timm_name or network.spec.arch
    return ExplanationError(f"this method cannot explain {name}: {reason}; {supported}")


def _find_layer(network: GradingNetwork, layer: Layer, height: int, width: int) -> MapLayer:
    backbone: Any = network.backbone  # timm's attributes
    if network.spec.arch == CNN:
        return _spatial_map(network, _cnn_stage(backbone.features, _STAGES_BEFORE[layer]), None)
    if is_transformer(network):
        return _token_map(network, layer, height, width)
    if layer is Layer.LAST and hasattr(backbone, "conv_head") and hasattr(backbone, "bn2"):
        # EfficientNet and MobileNetV2 have one more convolution after their last stage; its output is averaged.
        return _spatial_map(network, backbone.bn2, backbone.conv_head.out_channels)
    if getattr(backbone, "feature_info", None) and getattr(backbone, "output_fmt", "NCHW") == "NCHW":
        stages = list(backbone.feature_info)
        stage = stages[max(len(stages) - 1 - _STAGES_BEFORE[layer], 0)]
        return _spatial_map(network, backbone.get_submodule(stage["module"]), stage["num_chs"])
    raise refusal(network, "it has no feature map (channels, height, width)")


def _cnn_stage(features: nn.Sequential, num_before: int) -> nn.Module:
    """The last stage, or the one this many before it: the small CNN's stages end before a pooling."""
    poolings = [i for i, module in enumerate(features) if isinstance(module, nn.MaxPool2d)]
    return features[poolings[-num_before] - 1] if 0 < num_before <= len(poolings) else features


def _spatial_map(network: GradingNetwork, module: nn.Module, num_channels: int | None) -> MapLayer:
    def arrange(output: Tensor) -> Tensor:
        if not isinstance(output, Tensor) or output.ndim != 4 or num_channels not in (None, output.shape[1]):
            raise refusal(network, f"its feature map is not ({num_channels or 'channels'}, height, width)")
        return output

    return MapLayer(module=module, arrange=arrange)


def _token_map(network: GradingNetwork, layer: Layer, height: int, width: int) -> MapLayer:
    """The input of a block's attention: after the last attention, patches no longer influence the class token."""
    backbone: Any = network.backbone  # timm's attributes
    last = len(backbone.blocks) - 1
    module = getattr(backbone.blocks[last - round(_BLOCKS_BEFORE[layer] * last)], "norm1", None)
    if module is None:
        raise refusal(network, "its blocks have no norm1")
    grid = patch_grid(network, height, width)

    def arrange(output: Tensor) -> Tensor:
        patches = output[:, backbone.num_prefix_tokens :]
        if patches.ndim != 3 or patches.shape[1] != grid[0] * grid[1]:
            raise refusal(network, f"its tokens {tuple(output.shape)} do not form a grid of {grid[0]} x {grid[1]}")
        return patches.transpose(1, 2).reshape(len(patches), -1, grid[0], grid[1])

    return MapLayer(module=module, arrange=arrange)
