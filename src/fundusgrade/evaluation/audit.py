"""An audit: shortcuts in a data set, and a model's robustness to acquisition changes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fundusgrade.data.dataset import PreparedDataset
from fundusgrade.evaluation.interventions import (
    CONTROL,
    LESIONS,
    InterventionEffect,
    measure_interventions,
    measure_lesions,
)
from fundusgrade.evaluation.shortcuts import ShortcutProbe, measure_shortcuts
from fundusgrade.metrics.estimates import describe_number

if TYPE_CHECKING:
    from fundusgrade.grading.grader import Grader

MAX_PHOTOGRAPHS = 300
"""Maximum number of photographs that are changed in an audit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """The results of an audit of a data set, and of a model if one was given; without one `effects` are empty."""

    data: str
    model: str | None
    probes: tuple[ShortcutProbe, ...]
    effects: tuple[InterventionEffect, ...]


def audit_dataset(
    dataset: PreparedDataset,
    graders: Sequence[Grader | None],
    split: str,
    *,
    limit: int = MAX_PHOTOGRAPHS,
    lesions: Path | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Audit]:
    """Audit a data set once, and each model on up to `limit` photographs of a split; None audits the data set only.

    `lesions` is a folder with photographs and lesion masks in IDRiD's layout, for the positive control. Raises
    DatasetError where photographs are missing or too few.
    """
    probes, audits = measure_shortcuts(dataset, on_progress=on_progress), []
    for grader in graders:
        effects: tuple[InterventionEffect, ...] = ()
        if grader is not None:
            effects = measure_interventions(grader, dataset, split, limit=limit, on_progress=on_progress)
            effects += measure_lesions(grader, lesions) if lesions is not None else ()
        name = None if grader is None else grader.name
        audits.append(Audit(data=dataset.name, model=name, probes=probes, effects=effects))
    return audits


def conclusion(*audits: Audit) -> str:
    """The findings of audits of one data set, each with another model, in plain sentences."""
    model_sentences = [sentence for audit in audits for sentence in _model_conclusion(audit)]
    return " ".join([_data_conclusion(audits[0].probes), *model_sentences])


def _data_conclusion(probes: Sequence[ShortcutProbe]) -> str:
    before, after = _strongest(probes, "photograph"), _strongest(probes, "prepared")
    outline = {probe.stage: probe.kappa for probe in probes if probe.kind == "outline"}
    return (
        f"Shortcut learning: from the {before.kind} of the original photographs, without any retina, a classifier "
        f"predicts the grade with kappa {_number(before.kappa)}. From the outline the kappa is "
        f"{_number(outline.get('photograph'))} before preprocessing and {_number(outline.get('prepared'))} after it; "
        f"the strongest shortcut after preprocessing is {after.kind} (kappa {_number(after.kappa)})."
    )


def _model_conclusion(audit: Audit) -> list[str]:
    changes = {effect.name: effect.mean_change for effect in audit.effects if effect.mean_change is not None}
    lesions, control = changes.pop(LESIONS, None), changes.pop(CONTROL, None)
    if not changes:
        return []
    largest = max(changes, key=lambda name: changes[name])
    sentence = (
        f"Robustness to acquisition changes: the expected grade of {audit.model} changes by at most "
        f"{_number(changes[largest])} on average ({largest})"
    )
    if lesions is None:
        return [f"{sentence}. How far it changes when lesions are covered was not measured."]
    return [
        f"{sentence}. It changes by {_number(lesions)} when lesions are covered, and by {_number(control)} when an "
        "equal area of other retina is covered."
    ]


def _strongest(probes: Sequence[ShortcutProbe], stage: str) -> ShortcutProbe:
    """The probe of highest kappa; undefined kappas come last."""
    return max(
        (probe for probe in probes if probe.stage == stage),
        key=lambda probe: float("-inf") if probe.kappa is None else probe.kappa,
    )


def _number(value: float | None) -> str:
    return describe_number(value, digits=2)
