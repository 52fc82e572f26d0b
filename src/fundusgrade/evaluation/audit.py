"""An audit: shortcuts in a data set, and a model's robustness to acquisition changes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fundusgrade.data.dataset import PreparedDataset
from fundusgrade.evaluation.interventions import Role
from fundusgrade.evaluation.robustness import (
    LESIONS,
    LESIONS_CONTROL,
    InterventionEffect,
    measure_interventions,
    measure_lesions,
)
from fundusgrade.evaluation.shortcuts import OutlineClassifier, ShortcutProbe, measure_properties, probe_shortcuts
from fundusgrade.evaluation.visibility import UnseenLesions, measure_unseen_lesions, visible_reach
from fundusgrade.metrics.estimates import describe_number

if TYPE_CHECKING:
    from fundusgrade.grading.grader import Grader

MAX_PHOTOGRAPHS = 300
"""Maximum number of photographs that are changed in an audit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """The results of an audit of a data set, and of a model if one was given; without one `effects` are empty.

    `reach` is how far above and below the center, in radii, networks of the model's recipe see, or of the data set's
    without a model. `unseen_lesions` lie outside of what they see; they are empty without lesion masks.
    """

    data: str
    model: str | None
    reach: float
    probes: tuple[ShortcutProbe, ...]
    effects: tuple[InterventionEffect, ...]
    unseen_lesions: tuple[UnseenLesions, ...] = ()


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

    `lesions` is a folder with photographs and lesion masks in IDRiD's layout, for a positive control and for the share
    of lesions that networks do not see. Raises DatasetError where photographs are missing or too few.
    """
    properties = measure_properties(dataset, on_progress=on_progress)
    probes, audits = probe_shortcuts(properties), []
    outline_classifier = OutlineClassifier.fit(properties) if any(graders) else None
    for grader in graders:
        recipe = dataset.recipe if grader is None else grader.recipe
        effects: tuple[InterventionEffect, ...] = ()
        if grader is not None:
            effects = measure_interventions(
                grader, dataset, split, limit=limit, outline_classifier=outline_classifier, on_progress=on_progress
            )
            effects += measure_lesions(grader, lesions) if lesions is not None else ()
        audits.append(
            Audit(
                data=dataset.name,
                model=None if grader is None else grader.name,
                reach=visible_reach(recipe),
                probes=probes,
                effects=effects,
                unseen_lesions=() if lesions is None else measure_unseen_lesions(lesions, recipe),
            )
        )
    return audits


def conclusion(*audits: Audit) -> str:
    """The findings of audits of one data set, each with another model, in plain sentences."""
    model_sentences = [sentence for audit in audits for sentence in _model_conclusion(audit)]
    return " ".join([_data_conclusion(audits[0].probes), *model_sentences])


def _data_conclusion(probes: Sequence[ShortcutProbe]) -> str:
    kappas = {(probe.kind, probe.stage): _number(probe.kappa) for probe in probes}
    return (
        "Shortcut learning: without any retina, a classifier predicts the grade from the outline of the original "
        f"photographs with kappa {kappas['outline', 'photograph']}, from the outline after preprocessing with "
        f"{kappas['outline', 'prepared']}, and from properties of the file with {kappas['file', 'photograph']}. From "
        f"color and sharpness of the retina it is {kappas['color and sharpness', 'photograph']} before preprocessing "
        f"and {kappas['color and sharpness', 'prepared']} after it; these also depend on the contrast of lesions, so "
        "this is no proof of a shortcut."
    )


def _model_conclusion(audit: Audit) -> list[str]:
    largest = {role: _largest(audit.effects, role) for role in Role}
    acquisition = largest[Role.ACQUISITION]
    if acquisition is None:
        return []
    sentences = [
        f"Robustness to acquisition changes: {audit.model} sees up to {audit.reach:.2f} of the radius above and below "
        f"the center{_cuts(audit)}. Its expected grade changes by at most {_number(acquisition.change.value)} on "
        f"average ({acquisition.name})",
    ]
    for role, what in ((Role.NEGATIVE_CONTROL, "cannot see"), (Role.POSITIVE_CONTROL, "must notice")):
        control = largest[role]
        if control is not None:
            sentences[0] += f", and by {_number(control.change.value)} under changes that it {what} ({control.name})"
    sentences[0] += "."
    return [*sentences, *_cut_comparison(audit), _lesion_sentence(audit)]


def _cuts(audit: Audit) -> str:
    """Which of the cuts reach into what the model sees, and which do not."""
    seen, unseen = (
        sorted({each.cut_fraction for each in audit.effects if each.cut_fraction is not None and each.role is role})
        for role in (Role.ACQUISITION, Role.NEGATIVE_CONTROL)
    )
    inside = f"; cuts at {_listed(seen)} reach into that" if seen else ""
    return inside + (f"{',' if seen else ';'} cuts at {_listed(unseen)} do not" if unseen else "")


def _listed(fractions: Sequence[float]) -> str:
    return ", ".join(f"{fraction:.2f}" for fraction in fractions)


def _cut_comparison(audit: Audit) -> list[str]:
    """The largest effect of a cut beside that on a classifier that is known to depend on cuts."""
    largest = _largest([each for each in audit.effects if each.cut_fraction is not None], Role.ACQUISITION)
    if largest is None or largest.outline_change.value is None:
        return []
    return [
        f"Under the cut that changes it most ({largest.name}: {_number(largest.change.value)}), a classifier that "
        f"reads only the outline of the photograph changes by {_number(largest.outline_change.value)}."
    ]


def _lesion_sentence(audit: Audit) -> str:
    changes = {effect.name: effect.change.value for effect in audit.effects}
    if changes.get(LESIONS) is None:
        return "How far it changes when lesions are covered was not measured."
    return (
        f"It changes by {_number(changes[LESIONS])} when lesions are covered, and by "
        f"{_number(changes.get(LESIONS_CONTROL))} when an equal area of other retina is covered."
    )


def _largest(effects: Sequence[InterventionEffect], role: Role) -> InterventionEffect | None:
    """The effect of this role with the largest mean change, those with lesion masks aside; None without any."""
    chosen = [effect for effect in effects if effect.role is role and effect.name not in (LESIONS, LESIONS_CONTROL)]
    defined = [(effect.change.value, effect) for effect in chosen if effect.change.value is not None]
    return max(defined, key=lambda pair: pair[0])[1] if defined else None


def _number(value: float | None) -> str:
    return describe_number(value, digits=2)
