"""Networks that are small enough to know what explains them."""

from __future__ import annotations

from typing import Any

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fundusgrade.explanation.heat_map import ExplainOptions, HeatMap
from fundusgrade.explanation.targets import Target, parse_target
from fundusgrade.explanation.torch_gradients import explain_image
from fundusgrade.networks.device import DeviceChoice
from fundusgrade.networks.network import GradingNetwork, SmallCnn
from fundusgrade.networks.spec import CNN, NetworkSpec
from fundusgrade.options import Attribution, Layer, Precision

CPU = DeviceChoice(device=torch.device("cpu"), precision=Precision.FLOAT32, reason="exact")
SEVERE = parse_target("severe")


class InPlace(nn.Module):
    """Changes its last feature map in place, as activations of many networks do, or not."""

    def __init__(self, *, in_place: bool) -> None:
        super().__init__()
        self.in_place = in_place
        self.features = nn.Sequential(nn.Conv2d(3, 4, 8, 8))
        self.head = nn.Linear(4, 5)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.features(images)
        maps = maps.mul_(3).relu_() if self.in_place else (maps * 3).relu()
        logits: Tensor = self.head(maps.mean(dim=(2, 3)))
        return logits


class Siamese(InPlace):
    """Computes its feature map of the image and of its mirror image, and adds the two logits."""

    def __init__(self) -> None:
        super().__init__(in_place=False)

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) + super().forward(images.flip(3))


class RedUpperLeft(nn.Module):
    """Votes for grade 3 by the red in the upper left quadrant, and for grade 0 by the green anywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.AvgPool2d(8), nn.Conv2d(3, 2, 1, bias=False))
        self.features[1].weight.data = torch.tensor([[1.0, 0, 0], [0, 1.0, 0]])[..., None, None]

    def forward(self, images: Tensor) -> Tensor:
        red, green = self.features(images).unbind(1)
        quadrant = red[:, : red.shape[1] // 2, : red.shape[2] // 2]
        zero = torch.zeros(len(images))
        return torch.stack([green.mean(dim=(1, 2)), zero, zero, quadrant.mean(dim=(1, 2)), zero], dim=1)


def wrap(backbone: nn.Module, arch: str = CNN, size_px: int = 160) -> GradingNetwork:
    timm_name = None if arch == CNN else arch
    spec = NetworkSpec(arch=arch, timm_name=timm_name, size_px=size_px, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    return GradingNetwork(spec, backbone).eval()


def build(name: str, **options: Any) -> GradingNetwork:
    torch.manual_seed(11)
    backbone = SmallCnn() if name == CNN else timm.create_model(name, pretrained=False, num_classes=5, **options)
    fixed_px = getattr(getattr(backbone, "patch_embed", None), "img_size", None)
    return wrap(backbone, name, fixed_px[0] if fixed_px and not getattr(backbone, "dynamic_img_size", False) else 160)


def head_of(network: GradingNetwork) -> nn.Linear:
    backbone: Any = network.backbone
    head = backbone.classifier if isinstance(backbone, SmallCnn) else backbone.get_classifier()
    assert isinstance(head, nn.Linear)
    return head


def explained(
    network: GradingNetwork,
    image: NDArray[np.uint8],
    target: Target = SEVERE,
    method: Attribution = Attribution.GRAD_CAM,
    layer: Layer = Layer.LAST,
) -> HeatMap:
    return explain_image(network, image, options=ExplainOptions(target=target, method=method, layer=layer), choice=CPU)
