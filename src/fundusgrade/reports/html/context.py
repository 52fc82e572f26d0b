"""The content of a report other than the scores: data, models, audits, photographs, and how it was made."""

from __future__ import annotations

from dataclasses import dataclass

from fundusgrade.evaluation.audit import Audit
from fundusgrade.evaluation.confusion_cells import ConfusionCell, DifferenceCell
from fundusgrade.evaluation.flow import StudyFlow


@dataclass(frozen=True, slots=True, kw_only=True)
class DataDescription:
    """A data set.

    `part` is the split that was scored and `num_folds` the folds of a cross-validation, 0 without one. `recipe`
    describes the preprocessing. `num_ungraded` counts photographs that could not be prepared, `num_doubtful` scored
    ones of doubtful quality.
    """

    name: str
    part: str
    num_folds: int
    num_photographs: int
    num_per_grade: tuple[int, ...]
    num_groups: int
    recipe: str
    manifest_hash: str
    num_ungraded: int
    num_doubtful: int


@dataclass(frozen=True, slots=True, kw_only=True)
class KappaCurve:
    """Validation kappa of one network after each epoch of training, None where undefined."""

    name: str
    kappas: tuple[float | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelDescription:
    """A model; "" stands for what is not known.

    `start` names its initial weights, `rule` what decides the grade, `referral` its operating point; `leakage` is a
    sentence on the scored photographs that it was trained or selected on. `curves` are those of its network, or of the
    networks of all folds; empty where they were not kept.
    """

    name: str
    architecture: str
    training_data: str
    start: str
    rule: str
    options: tuple[tuple[str, str], ...]
    validation_kappa: float | None
    weights_hash: str
    leakage: str
    referral: str = ""
    curves: tuple[KappaCurve, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class GalleryHeatMap:
    """A photograph with its heat map as JPEG or PNG; `maximum` is the heat that is drawn in full color, in `unit`.

    `is_drawn` is False where the map has nothing above its display level, so that only the photograph is shown.
    """

    image: bytes
    maximum: float
    unit: str
    is_drawn: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class GalleryItem:
    """A photograph that a model graded wrongly, as JPEG or PNG; its heat map is None where there is none.

    `decision` says what decided the predicted grade, and which grade was most probable.
    """

    model: str
    source: str
    grade: int
    predicted: int
    decision: str
    image: bytes
    heat_map: GalleryHeatMap | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportContext:
    """All that a report needs besides the assessment.

    `audits` are of the same data, each with another model; `conclusion` is their result in sentences. `created` is the
    time, "" where it should not be shown. `cells` are those of each model's confusion matrix, in the order of the
    assessment, and `difference` those of two models; both may be empty.
    """

    title: str
    created: str
    versions: tuple[tuple[str, str], ...]
    data: DataDescription
    models: tuple[ModelDescription, ...] = ()
    audits: tuple[Audit, ...] = ()
    conclusion: str = ""
    gallery: tuple[GalleryItem, ...] = ()
    commands: tuple[str, ...] = ()
    flow: StudyFlow | None = None
    cells: tuple[tuple[ConfusionCell, ...], ...] = ()
    difference: tuple[DifferenceCell, ...] = ()
