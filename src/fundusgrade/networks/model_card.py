"""The model card: what a model is, what it was trained on, how well it grades, and what it must not be used for.

Follows the sections of Mitchell et al., Model Cards for Model Reporting (FAT* 2019).
"""

from __future__ import annotations

from collections.abc import Sequence

from fundusgrade.grades import RESEARCH_USE
from fundusgrade.networks.description import CheckpointDescription
from fundusgrade.networks.heads import NO_OFFSETS, UNCALIBRATED
from fundusgrade.options import Head

_OPTIONS = (
    "epochs",
    "batch_size",
    "learning_rate",
    "layer_decay",
    "weight_decay",
    "mixup",
    "degrade",
    "ema_decay",
    "fold",
    "seed",
)


def model_card(description: CheckpointDescription, limits: Sequence[str] = ()) -> str:
    """Markdown for README.md beside the checkpoint; `limits` are added to those that hold for every model."""
    what = description.network.timm_name or description.network.arch
    sections = [
        f"# {description.name}",
        RESEARCH_USE,
        f"Grades diabetic retinopathy (ICDR 0-4) from a fundus photograph with `{what}`.",
        "## Model",
        _model_lines(description),
        "## Training",
        _training_lines(description),
        "## Validation split",
        _validation_lines(description),
        "## Use and limits",
        _bullets(
            "for research and teaching; no decision about a patient may rest on it",
            "grades one photograph, not an eye or a patient, and does not see macular edema reliably",
            "photographs from other cameras, other populations or of poor quality are graded worse, often much worse",
            *limits,
        ),
    ]
    return "\n\n".join(sections) + "\n"


def _model_lines(description: CheckpointDescription) -> str:
    network, recipe = description.network, description.recipe
    rows = f"rows {network.rows[0]} to {network.rows[1]} of " if network.rows else ""
    return _bullets(
        f"architecture: {network.arch}" + (f" (timm `{network.timm_name}`)" if network.timm_name else ""),
        f"input: {rows}{recipe.size_px} x {recipe.size_px} px, preprocessing `{recipe.method.value}`, "
        f"outline `{recipe.outline.value}`",
        f"start: {description.provenance.init}",
        f"head: {network.head.value}; {_calibration(description)}",
        f"grade: {_decision(description)}",
        f"weights SHA-256: `{description.weights_sha256}`",
    )


def _training_lines(description: CheckpointDescription) -> str:
    provenance = description.provenance
    options = {name: provenance.options.get(name) for name in _OPTIONS}
    return _bullets(
        f"data: `{provenance.data_name}`, manifest SHA-256 `{provenance.data_hash}`",
        f"loss: {provenance.options.get('loss', 'cross-entropy')}, "
        f"classes weighted by `--class-weights {provenance.options.get('class_weights')}`",
        "options: " + ", ".join(f"{name} {value}" for name, value in options.items() if value is not None),
        f"kept: epoch {provenance.metrics.get('best_epoch')}, the best by validation quadratic weighted kappa",
        "versions: " + ", ".join(f"{name} {value}" for name, value in provenance.versions.items()),
    )


def _validation_lines(description: CheckpointDescription) -> str:
    left_out = ("best_epoch",)
    metrics = {name: value for name, value in description.provenance.metrics.items() if name not in left_out}
    return _bullets(
        *(f"{name.replace('_', ' ')}: {_number(value)}" for name, value in metrics.items()),
        "these figures chose epoch and thresholds, so they are a little too good; measure with `fundusgrade evaluate`",
    )


def _bullets(*lines: str) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _calibration(description: CheckpointDescription) -> str:
    """What turns the head's outputs into probabilities."""
    calibration, head = description.network.calibration, description.network.head
    if calibration == UNCALIBRATED:
        return "not calibrated"
    told = [f"temperature {calibration.temperature:.2f}"]
    if head is Head.SOFTMAX and calibration.offsets != NO_OFFSETS:
        told.append("class weights partly or wholly undone")
    if head is Head.REGRESSION:
        told.append(f"cutpoints {_listed(calibration.cutpoints)}")
    return f"calibrated on validation: {', '.join(told)}"


def _decision(description: CheckpointDescription) -> str:
    if description.thresholds is None:
        return "the most probable one"
    return f"thresholds of the expected grade, chosen on validation: {_listed(description.thresholds)}"


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.2f}" for value in values)


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"
