"""The options of a training run, and the defaults that depend on architecture and recipe."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path

from fundusgrade.errors import TrainingError
from fundusgrade.networks.spec import CNN
from fundusgrade.networks.timm_hub import public_name
from fundusgrade.options import NUM_FOLDS, ClassWeights, DecideFor, Decision, FoldsBy, Head, Loss, Recipe
from fundusgrade.training.losses import CLASS_WEIGHT_POWERS, resolve_head_and_loss

_MAX_SEED = 2**32


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainOptions:
    """The options of a training run. None stands for the default of the recipe or of the architecture (`filled`)."""

    arch: str = "resnet50"
    """Architecture: `cnn` (three convolution layers), `resnet50`, `vit` (ViT-B/16), any model name of timm, `hf-hub:`
    with a repository of the Hugging Face hub, or `local-dir:` with a folder. Default `resnet50`, the usual baseline."""

    recipe: Recipe = Recipe.DEFAULT
    """Defaults of head, loss, class weights, decision and calibration: `default` did best in our comparison
    (docs/experiments.md), `reference` is the recipe of the study that this tool compares itself with."""

    init_weights: str | None = None
    """Path of a .safetensors file with pretrained weights of the backbone, instead of timm's; default None."""

    pretrained: bool = True
    """Whether to start from timm's pretrained weights, where no `init_weights` are given; `cnn` has none. Default True:
    a few thousand photographs are too few to train a deep network from random weights."""

    epochs: int | None = None
    """Passes over the training split, 1 or more, including warm-up. Default by architecture: 40 for `cnn`, which starts
    from random weights, 12 for pretrained networks. Early stopping (`patience`) may end a run before."""

    batch_size: int = 32
    """Photographs per optimizer step, 2 or more, over all processes together. Default 32, which fits on small GPUs."""

    learning_rate: float | None = None
    """Highest learning rate of AdamW, above 0, reached after warm-up and lowered by a cosine to 1 % of that. Default by
    architecture: 2e-3 for `cnn`, 3e-4 for transformers, 5e-4 for other networks."""

    weight_decay: float = 0.05
    """Decoupled weight decay of AdamW, 0 or more, for weight matrices; biases, norms and what the architecture exempts
    have none. Default 0.05, the common value for fine-tuning."""

    layer_decay: float | None = None
    """Layer-wise learning-rate decay: the learning rate of a layer as a fraction of the next one's, above 0 to 1
    (1: the same for all). Default by architecture: 0.75 for transformers, whose early layers are best changed little,
    1 for other networks."""

    warmup_epochs: float = 1.0
    """Epochs of linear learning-rate warm-up, 0 or more; default 1."""

    class_weights: ClassWeights | None = None
    """Weight of a grade in the loss by its frequency in the training split: `inverse`, its square root `sqrt`, the
    inverse `effective` number of samples, or `none`. Default by recipe: `sqrt`, whose effect on probabilities
    calibration can undo, or `inverse` for `reference`."""

    head: Head | None = None
    """Output head: `softmax` (5 class logits), `regression` (1 severity score) or `cumulative` (4 logits of P(grade >
    k)). Default: implied by `loss`; without one by recipe, `cumulative`, or `softmax` for `reference`."""

    loss: Loss | None = None
    """Loss function, which must fit the head. Default: the head's first, cross-entropy or (regression) smooth L1."""

    decision: Decision | None = None
    """How probabilities become a grade: the `most-probable` grade, or `thresholds` of the expected grade, fitted on
    half of the validation split, which raise kappa by 0.01 and lower accuracy by 0.01 (docs/experiments.md). Default
    `most-probable`: every grade agrees with its probabilities."""

    decide_for: DecideFor | None = None
    """The objective that thresholds are fitted for: `kappa`, `accuracy`, `macro-f1`, or all three (`balanced`). One
    that is given implies `thresholds`. Default `balanced` with thresholds; the most probable grade has none."""

    calibrate: bool | None = None
    """Whether calibration and thresholds are fitted on half of the validation split, and conformity scores computed on
    the other half. Default by recipe: True, or False for `reference`, which chooses the epoch on the whole split."""

    mixup: float = 0.0
    """Parameter of the Beta(mixup, mixup) distribution of the weights with which pairs of images are mixed, 0 to 1; 0
    mixes none. Default 0: mixup did not help in short schedules (docs/experiments.md)."""

    degrade: bool = False
    """Whether half of an epoch's photographs are downscaled, blurred, lit unevenly, veiled by haze and JPEG-compressed,
    and all get noise, for cameras and archives other than those of the data set. Default False: it needs the original
    photographs, and as much disk space again as their preprocessed images."""

    progressive: bool = False
    """Whether the first epochs take smaller images (`training/resizing.py`), in about two thirds of the time. Default
    False: networks that take one size only, as most vision transformers, cannot be trained so."""

    teacher: tuple[str, ...] = ()
    """Files of out-of-fold predictions of larger networks, from `--folds-by training`: their mean probabilities are
    part of the target of the loss (distillation). Default (): the grades alone."""

    teacher_weight: float = 0.5
    """Weight of the teachers' probabilities in the target, above 0 to 1, the rest being the grade; default 0.5."""

    ema_decay: float = 0.99
    """Decay per step of the exponential moving average of the weights, which is validated and saved, 0 to below 1; 0
    uses the last weights. Default 0.99, an average over about the last 100 steps; at step n the decay is at most
    (1 + n) / (10 + n)."""

    patience: int | None = None
    """Epochs without a higher validation kappa, or the same and a lower loss, after which training stops, 1 or more.
    Default by architecture: 12 for `cnn`, 5 for other networks."""

    seed: int = 0
    """Seed of everything random, 0 to 2^32 - 1; default 0. The same seed gives the same weights on the same machine."""

    fold: int | None = None
    """Fold of a cross-validation that is held out as test split, 1 to `num_folds`; default None, the data set's own
    splits."""

    num_folds: int = NUM_FOLDS
    """Folds of a cross-validation, 2 or more; default 5. Folds by source are as many as there are data sets."""

    folds_by: FoldsBy = FoldsBy.GROUP
    """What a fold holds out: random groups of photographs (`group`, the default), or one of several data sets
    (`source`), which measures a network where nobody trained it."""

    @property
    def num_epochs(self) -> int:
        """`epochs` of filled options."""
        assert self.epochs is not None, "options are filled before use"
        return self.epochs

    def filled(self) -> TrainOptions:
        """The same options with the defaults of recipe and architecture in place of None."""
        head, loss = self.head, self.loss
        if head is None and loss is None:
            head, loss = _RECIPES[self.recipe].head, _RECIPES[self.recipe].loss
        head, loss = resolve_head_and_loss(head, loss)
        values = {**asdict(_arch_defaults(self.arch)), **asdict(_RECIPES[self.recipe]), "head": head, "loss": loss}
        if self.decide_for is not None:
            values["decision"] = Decision.THRESHOLDS
        if self.decision is Decision.THRESHOLDS:
            values["decide_for"] = DecideFor.BALANCED
        missing = {name: value for name, value in values.items() if getattr(self, name) is None}
        return replace(self, **missing)

    def check(self) -> None:
        """Raise TrainingError where a value of filled options is outside its range."""
        problems = [
            (
                self.class_weights not in CLASS_WEIGHT_POWERS,
                f"class weights are one of {', '.join(CLASS_WEIGHT_POWERS)}",
            ),
            (self.num_epochs < 1, "epochs must be at least 1"),
            (self.batch_size < 2, "the batch size must be at least 2"),
            (not 0 <= self.mixup <= 1, "mixup must be in [0, 1]"),
            (
                self.decide_for is not None and self.decision is not Decision.THRESHOLDS,
                f"thresholds are decided for {self.decide_for}, and the decision is by the {self.decision} grade",
            ),
            (
                self.decision is Decision.THRESHOLDS and not self.calibrate,
                "thresholds are fitted to calibrated probabilities, and there is no calibration",
            ),
            (
                bool(self.teacher) and self.loss is not Loss.CROSS_ENTROPY,
                "a teacher needs the cross-entropy loss, of a softmax or cumulative head",
            ),
            (not 0 < self.teacher_weight <= 1, "the teacher's weight must be above 0 and at most 1"),
            (not 0 <= self.ema_decay < 1, "the EMA decay must be in [0, 1)"),
            (not 0 <= self.seed < _MAX_SEED, f"the seed must be in [0, {_MAX_SEED})"),
        ]
        for is_wrong, expected in problems:
            if is_wrong:
                raise TrainingError(f"invalid training options: {expected}")

    def recorded(self) -> dict[str, object]:
        """As a checkpoint records them: files and folders by name only, since paths reveal something of the machine."""
        start = Path(self.init_weights).name if self.init_weights else None
        teachers = ", ".join(Path(path).name for path in self.teacher)
        return {**asdict(self), "arch": public_name(self.arch), "init_weights": start, "teacher": teachers or None}


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
        decision=Decision.MOST_PROBABLE,
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
