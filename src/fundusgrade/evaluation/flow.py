"""The flow of a study: patients, eyes and photographs of a data set, those excluded and why, those evaluated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fundusgrade.data.dataset import PreparedDataset
from fundusgrade.data.manifest import ManifestRow


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowCount:
    """How many photographs, and of how many eyes and patients; None where these are not known of all photographs.

    An eye or a patient counts where one of its photographs does.
    """

    num_photographs: int
    num_eyes: int | None
    num_patients: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyFlow:
    """Photographs of a data set: all, those left out by the first reason that holds, and those that were evaluated.

    Of `evaluated` ones `ungradable` are of doubtful quality and `gradable` the rest.
    """

    total: FlowCount
    unprepared: FlowCount
    ungraded: FlowCount
    other_splits: FlowCount
    evaluated: FlowCount
    ungradable: FlowCount
    gradable: FlowCount


def study_flow(dataset: PreparedDataset, sources: Sequence[str]) -> StudyFlow:
    """The flow of the photographs of a data set to those that were scored, by their sources."""
    scored, rows = set(sources), dataset.rows
    rest = [row for row in rows if row.source not in scored]
    evaluated = [row for row in rows if row.source in scored]
    unprepared = [row for row in rest if row.error is not None]
    ungraded = [row for row in rest if row.error is None and row.grade is None]
    other = [row for row in rest if row.error is None and row.grade is not None]
    doubtful = [row for row in evaluated if row.quality is not None and not row.quality.gradable]
    gradable = [row for row in evaluated if row.quality is None or row.quality.gradable]
    return StudyFlow(
        total=_count(rows),
        unprepared=_count(unprepared),
        ungraded=_count(ungraded),
        other_splits=_count(other),
        evaluated=_count(evaluated),
        ungradable=_count(doubtful),
        gradable=_count(gradable),
    )


def _count(rows: Sequence[ManifestRow]) -> FlowCount:
    patients = {(row.origin, row.patient) for row in rows}
    eyes = {(row.origin, row.patient, row.eye) for row in rows}
    return FlowCount(
        num_photographs=len(rows),
        num_eyes=None if any(row.eye is None or row.patient is None for row in rows) else len(eyes),
        num_patients=None if any(row.patient is None for row in rows) else len(patients),
    )
