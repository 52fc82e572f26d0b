"""What an audit finds: shortcuts in a data set, and a model's robustness to acquisition changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fundusgrade.evaluation.shortcuts import ShortcutProbe
from fundusgrade.metrics.estimates import Estimate, describe_number

LESIONS = "lesions covered"
CONTROL = "as much retina elsewhere covered"


@dataclass(frozen=True, slots=True, kw_only=True)
class InterventionEffect:
    """Absolute change of the expected grade, 0 to 4, over the photographs that an intervention applies to.

    `mean_low` and `mean_high` bound the 95 % interval of the mean, `flip_fraction` is the share whose predicted grade
    changes, `num_lost` counts photographs in which no retina was found after the change. Changes are None where no
    photograph could be graded twice.
    """

    name: str
    num_photographs: int
    mean_change: float | None
    mean_low: float | None
    mean_high: float | None
    percentile_95: float | None
    flip_fraction: float | None
    num_lost: int

    @property
    def mean_estimate(self) -> Estimate:
        """The mean change with its interval."""
        return Estimate(value=self.mean_change, low=self.mean_low, high=self.mean_high)


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """What an audit of a data set, and of a model if one was given, found."""

    data: str
    model: str | None
    probes: tuple[ShortcutProbe, ...]
    effects: tuple[InterventionEffect, ...]


def conclusion(*audits: Audit) -> str:
    """The findings of audits of one data set, each with another model, in plain sentences."""
    about_models = [sentence for audit in audits for sentence in _about_the_model(audit)]
    return " ".join([_about_the_data(audits[0].probes), *about_models])


def _about_the_data(probes: Sequence[ShortcutProbe]) -> str:
    before, after = _strongest(probes, "photograph"), _strongest(probes, "prepared")
    outline = {probe.stage: probe.kappa for probe in probes if probe.kind == "outline"}
    return (
        f"Shortcut learning: from the {before.kind} of the original photographs, without any retina, a classifier "
        f"predicts the grade with kappa {_number(before.kappa)}. From the outline the kappa is "
        f"{_number(outline.get('photograph'))} before preprocessing and {_number(outline.get('prepared'))} after it; "
        f"the strongest shortcut after preprocessing is {after.kind} (kappa {_number(after.kappa)})."
    )


def _about_the_model(audit: Audit) -> list[str]:
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
