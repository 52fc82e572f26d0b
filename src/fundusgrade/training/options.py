"""The options of a training run, and the defaults that depend on architecture and recipe."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path

from fundusgrade.networks.network import CNN
from fundusgrade.networks.timm_hub import public_name
from fundusgrade.options import NUM_FOLDS, ClassWeights, Decision, Head, Loss, Recipe
from fundusgrade.training.losses import resolve_head_and_loss


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainOptions:
    """What a user decides; None stands for what recipe and architecture say. `epochs` includes the warm-up."""

    arch: str = "resnet50"
    recipe: Recipe = Recipe.DEFAULT
    init_weights: str | None = None
    pretrained: bool = True
    epochs: int | None = None
    batch_size: int = 32
    learning_rate: float | None = None
    weight_decay: float = 0.05
    layer_decay: float | None = None
    warmup_epochs: float = 1.0
    class_weights: ClassWeights | None = None
    head: Head | None = None
    loss: Loss | None = None
    decision: Decision | None = None
    calibrate: bool | None = None
    mixup: float = 0.0
    degrade: bool = False
    ema_decay: float = 0.99
    patience: int | None = None
    seed: int = 0
    fold: int | None = None
    num_folds: int = NUM_FOLDS

    def filled(self) -> TrainOptions:
        """The same options with the recipe's and the architecture's in place of None."""
        head, loss = self.head, self.loss
        if head is None and loss is None:
            head, loss = _RECIPES[self.recipe].head, _RECIPES[self.recipe].loss
        head, loss = resolve_head_and_loss(head, loss)
        values = {**asdict(_arch_defaults(self.arch)), **asdict(_RECIPES[self.recipe]), "head": head, "loss": loss}
        missing = {name: value for name, value in values.items() if getattr(self, name) is None}
        return replace(self, **missing)

    def recorded(self) -> dict[str, object]:
        """As they are written down: files and folders by name only, for their paths say something of the machine."""
        start = Path(self.init_weights).name if self.init_weights else None
        return {**asdict(self), "arch": public_name(self.arch), "init_weights": start}


@dataclass(frozen=True, slots=True, kw_only=True)
class _ArchDefaults:
    epochs: int
    learning_rate: float
    layer_decay: float
    patience: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _RecipeDefaults:
    head: Head
    loss: Loss
    class_weights: ClassWeights
    decision: Decision
    calibrate: bool


_RECIPES = {
    Recipe.DEFAULT: _RecipeDefaults(
        head=Head.CUMULATIVE,
        loss=Loss.CROSS_ENTROPY,
        class_weights=ClassWeights.SQRT,
        decision=Decision.THRESHOLDS,
        calibrate=True,
    ),
    Recipe.REFERENCE: _RecipeDefaults(
        head=Head.SOFTMAX,
        loss=Loss.CROSS_ENTROPY,
        class_weights=ClassWeights.INVERSE,
        decision=Decision.MOST_PROBABLE,
        calibrate=False,
    ),
}


def _arch_defaults(arch: str) -> _ArchDefaults:
    if arch == CNN:
        return _ArchDefaults(epochs=40, learning_rate=2e-3, layer_decay=1.0, patience=12)
    if arch.startswith(("vit", "deit", "eva", "beit")):
        return _ArchDefaults(epochs=12, learning_rate=3e-4, layer_decay=0.75, patience=5)
    return _ArchDefaults(epochs=12, learning_rate=5e-4, layer_decay=1.0, patience=5)
