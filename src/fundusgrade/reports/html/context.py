"""What a report says beside the scores: data, models, limits, pictures, and how it was made."""

from __future__ import annotations

from dataclasses import dataclass

from fundusgrade.evaluation.audit import Audit
from fundusgrade.explanation.heat_map import SCALE_FLOOR


@dataclass(frozen=True, slots=True, kw_only=True)
class DataDescription:
    """A data set; `splits` and `recipe` are sentences, None is what is not known.

    `num_ungraded` counts photographs that could not be prepared, `num_doubtful` those of doubtful quality.
    """

    name: str
    num_photographs: int
    num_per_grade: tuple[int, ...]
    num_groups: int | None
    splits: str
    recipe: str
    manifest_hash: str
    num_ungraded: int | None = None
    num_doubtful: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class KappaCurve:
    """How one network learned: its validation kappa after each epoch, None where undefined."""

    name: str
    kappas: tuple[float | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelDescription:
    """A model; `start` is what its weights were before training, `seen` says which photographs it has seen.

    `curves` are those of its network, or of its networks where it was cross-validated; none where they are not at hand.
    """

    name: str
    architecture: str
    training_data: str
    start: str
    options: tuple[tuple[str, str], ...]
    validation_kappa: float | None
    weights_hash: str
    seen: str
    curves: tuple[KappaCurve, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class GalleryItem:
    """A photograph that a model graded badly, as JPEG or PNG, and the same with its heat map where there is one.

    `heat_maximum` is the heat that is drawn at full strength, `heat_unit` what it is measured in.
    """

    model: str
    source: str
    grade: int
    predicted: int
    image: bytes
    heat_map: bytes | None = None
    heat_maximum: float = SCALE_FLOOR
    heat_unit: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportContext:
    """All that a report needs beside the assessment.

    `audits` are of the same data, each with another model; `conclusion` says in words what they found.
    """

    title: str
    created: str
    versions: tuple[tuple[str, str], ...]
    data: DataDescription
    models: tuple[ModelDescription, ...] = ()
    limits: tuple[str, ...] = ()
    audits: tuple[Audit, ...] = ()
    conclusion: str = ""
    gallery: tuple[GalleryItem, ...] = ()
    commands: tuple[str, ...] = ()
