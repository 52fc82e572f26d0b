"""The model card: network, training data and options, validation scores and limitations, as Markdown.

After Mitchell et al., Model Cards for Model Reporting (FAT* 2019).
"""

from __future__ import annotations

from collections.abc import Sequence

from fundusgrade.grades import RESEARCH_USE
from fundusgrade.metrics.estimates import describe_number
from fundusgrade.networks.description import CheckpointDescription
from fundusgrade.networks.heads import NO_OFFSETS, UNCALIBRATED
from fundusgrade.networks.local_calibration import ASSUMPTIONS
from fundusgrade.options import Head

_OPTIONS = (
    "epochs",
    "batch_size",
    "learning_rate",
    "layer_decay",
    "weight_decay",
    "mixup",
    "degrade",
    "progressive",
    "ema_decay",
    "fold",
    "seed",
)


def model_card(description: CheckpointDescription) -> str:
    """The text of README.md beside the checkpoint."""
    network = description.network.timm_name or description.network.arch
    sections = [
        f"# {description.name}",
        RESEARCH_USE,
        f"Grades diabetic retinopathy in a fundus photograph (ICDR severity scale, 0 to 4) with `{network}`.",
        "## Model",
        _model_lines(description),
        "## Training",
        _training_lines(description),
        "## Validation split",
        _validation_lines(description),
        "## Referral",
        _referral_lines(description),
        *_local_calibration(description),
        "## Checks of a photograph",
        _checks_lines(description),
        "## Limitations",
        _bullets(
            "grades one photograph, not an eye or a patient, and does not detect macular edema reliably",
            "less accurate, often much less, on photographs of other cameras, other populations or poor quality",
        ),
    ]
    return "\n\n".join(sections) + "\n"


def _checks_lines(description: CheckpointDescription) -> str:
    checks = description.checks
    if checks is None:
        return _bullets("none: photographs unlike the training photographs are not flagged")
    return _bullets(
        f"unlike the training photographs: further from the {checks.num_reference} of `{checks.data}` than 99 % of "
        f"{checks.num_held_out} held out",
        *(
            f"quality that graders call {rate.label}: {rate.num_not_gradable} of {rate.num_photographs} not gradable, "
            f"{rate.num_borderline} borderline, each judged by a check that was fitted to other patients"
            for rate in checks.quality
        ),
    )


def _model_lines(description: CheckpointDescription) -> str:
    network, recipe = description.network, description.recipe
    rows = f"rows {network.rows[0]} to {network.rows[1]} of " if network.rows else ""
    return _bullets(
        f"architecture: {network.arch}" + (f" (timm `{network.timm_name}`)" if network.timm_name else ""),
        f"input: {rows}{recipe.size_px} x {recipe.size_px} px, preprocessing `{recipe.method.value}`, "
        f"outline `{recipe.outline.value}`",
        f"initial weights: {description.provenance.init}",
        f"output head: {network.head.value}, {_calibration(description)}",
        f"decision: {_decision(description)}",
        f"weights SHA-256: `{description.weights_sha256}`",
    )


def _training_lines(description: CheckpointDescription) -> str:
    provenance = description.provenance
    options = {name: provenance.options.get(name) for name in _OPTIONS}
    held_out = provenance.held_out_source
    return _bullets(
        f"data set: `{provenance.data_name}`, manifest SHA-256 `{provenance.data_hash}`",
        *([f"held out: `{held_out}`; trained and selected on the others"] if held_out else []),
        f"loss: {provenance.options.get('loss', 'cross-entropy')}, "
        f"with `--class-weights {provenance.options.get('class_weights')}`",
        "options: " + ", ".join(f"{name} {value}" for name, value in options.items() if value is not None),
        f"selected epoch: {provenance.metrics.get('best_epoch')}, of highest validation quadratic weighted kappa",
        "versions: " + ", ".join(f"{name} {value}" for name, value in provenance.versions.items()),
    )


def _validation_lines(description: CheckpointDescription) -> str:
    metrics = {name: value for name, value in description.provenance.metrics.items() if name != "best_epoch"}
    return _bullets(
        *(f"{name.replace('_', ' ')}: {describe_number(value)}" for name, value in metrics.items()),
        _choice(description) + "; `fundusgrade evaluate` measures the scores of other photographs",
    )


def _local_calibration(description: CheckpointDescription) -> list[str]:
    """The section of a clinic's own calibration; none where there is none."""
    calibration = description.local_calibration
    if calibration is None:
        return []
    recalibration = calibration.recalibration
    follow = "follow from them" if calibration.changes_grades else "do not change by it"
    lines = (
        calibration.describe(),
        f"data set manifest SHA-256 `{calibration.data_hash}`, weights of the parent SHA-256 "
        f"`{calibration.parent_sha256}`",
        calibration.certificate.describe(),
        f"log odds of each grade or worse: {recalibration.slope:.3f} times those of the parent, "
        f"{recalibration.intercept:+.3f}; grades {follow}",
        *(f"the certificate holds if {assumption}" for assumption in ASSUMPTIONS),
    )
    return ["## Calibration for a clinic", _bullets(*lines)]


def _referral_lines(description: CheckpointDescription) -> str:
    point, choice = description.chosen_point(), description.chosen_point().describe_choice()
    if description.local_calibration is not None:
        choice = f"from p = {point.threshold:.4f}, certified on the patients of a clinic, see below"
    return _bullets(
        f"referable (moderate or worse) {choice}; `--sensitivity` and `--threshold` choose another",
        "what cannot be graded, and what is of doubtful quality without a finding, is referred too",
        point.describe_measurement() + ("" if point.rates else ", such as those of your own clinic"),
        *(rates.describe() for rates in point.reported_rates),
    )


def _choice(description: CheckpointDescription) -> str:
    """What the photographs of the scores chose, in words."""
    if description.conformity.sets:
        count = len(description.conformity.sets)
        return f"scores of the {count} photographs of the split that chose neither epoch nor calibration nor thresholds"
    return "the epoch was chosen on this split, so these scores are optimistic"


def _bullets(*lines: str) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _calibration(description: CheckpointDescription) -> str:
    """The parameters that were fitted, in words."""
    calibration, head = description.network.calibration, description.network.head
    if calibration == UNCALIBRATED:
        return "not calibrated"
    if head is Head.CUMULATIVE:
        fitted = [f"slopes {_listed(calibration.slopes)}", f"intercepts {_listed(calibration.intercepts)}"]
    else:
        fitted = [f"temperature {calibration.temperature:.2f}"]
    if head is Head.SOFTMAX and calibration.offsets != NO_OFFSETS:
        fitted.append(f"logit offsets {_listed(calibration.offsets)}")
    if head is Head.REGRESSION:
        fitted.append(f"cutpoints {_listed(calibration.cutpoints)}")
    return f"calibrated on validation photographs ({', '.join(fitted)})"


def _decision(description: CheckpointDescription) -> str:
    if description.thresholds is None or description.decide_for is None:
        return "the most probable grade"
    objective, listed = description.decide_for.label, _listed(description.thresholds)
    return f"thresholds of the expected grade, fitted on validation photographs for {objective}: {listed}"


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.2f}" for value in values)
