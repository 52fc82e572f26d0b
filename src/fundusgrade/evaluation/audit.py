"""What an audit finds: what gives the grade away in a data set, and how a model minds changes of its photographs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fundusgrade.evaluation.shortcuts import ShortcutProbe

LESIONS = "lesions covered"
CONTROL = "as much retina elsewhere covered"


@dataclass(frozen=True, slots=True, kw_only=True)
class InterventionEffect:
    """How far the expected grade moves, 0-4, over the photographs that a change applies to.

    `mean_low` and `mean_high` bound the 95 % interval of the mean, `flip_fraction` is the share whose grade becomes
    another, `num_lost` counts photographs in which no retina was found after the change.
    """

    name: str
    num_photographs: int
    mean_change: float | None
    mean_low: float | None
    mean_high: float | None
    percentile_95: float | None
    flip_fraction: float | None
    num_lost: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """What an audit of a data set, and of a model if one was named, found."""

    data: str
    model: str | None
    probes: tuple[ShortcutProbe, ...]
    effects: tuple[InterventionEffect, ...]


def conclusion(*audits: Audit) -> str:
    """What audits of one data set, each with another model, found, in plain sentences."""
    about_models = [sentence for audit in audits for sentence in _about_the_model(audit)]
    return " ".join([_about_the_data(audits[0].probes), *about_models])


def _about_the_data(probes: Sequence[ShortcutProbe]) -> str:
    before, after = _strongest(probes, "photograph"), _strongest(probes, "prepared")
    outline = {probe.stage: probe.kappa for probe in probes if probe.kind == "outline"}
    return (
        f"Without any retina, the {before.kind} of the photographs tells the grade with kappa {_number(before.kappa)}. "
        f"The outline tells it with {_number(outline.get('photograph'))} before preprocessing and with "
        f"{_number(outline.get('prepared'))} after; what tells most after it is {after.kind} ({_number(after.kappa)})."
    )


def _about_the_model(audit: Audit) -> list[str]:
    moves = {effect.name: effect.mean_change for effect in audit.effects if effect.mean_change is not None}
    lesions, control = moves.pop(LESIONS, None), moves.pop(CONTROL, None)
    if not moves:
        return []
    most = max(moves, key=lambda name: moves[name])
    sentence = (
        f"Where the retina stays as it is, the expected grade of {audit.model} moves by {_number(moves[most])} on "
        f"average at most ({most})"
    )
    if lesions is None:
        return [f"{sentence}; how far it moves when lesions are covered was not measured."]
    return [
        f"{sentence}, when lesions are covered by {_number(lesions)}, when as much retina elsewhere is by "
        f"{_number(control)}."
    ]


def _strongest(probes: Sequence[ShortcutProbe], stage: str) -> ShortcutProbe:
    return max((probe for probe in probes if probe.stage == stage), key=lambda probe: probe.kappa or 0.0)


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.2f}"
