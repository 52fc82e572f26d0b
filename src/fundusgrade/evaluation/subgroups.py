"""Subgroups of the photographs of an evaluation: by a column of the manifest, and by acquisition."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fundusgrade.errors import MetricsError
from fundusgrade.grades import NUM_GRADES, REFERABLE_FROM
from fundusgrade.metrics.auc import weighted_aucs
from fundusgrade.metrics.bootstrap import Resamples, estimate, estimate_proportion
from fundusgrade.metrics.classification import probability_from_grade
from fundusgrade.metrics.estimates import UNDEFINED, Estimate
from fundusgrade.metrics.predictions import ScoredPhotographs
from fundusgrade.metrics.scores import estimate_kappa, proportion_off_by

MIN_SUBGROUP = 20
OTHER, UNKNOWN = "other", "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Subgroup:
    """Scores of the photographs with one value in a column of the manifest.

    Sensitivity and specificity are those of the referrals at the model's operating point, with whatever cannot be
    graded; undefined where these are not known.
    """

    column: str
    value: str
    num_photographs: int
    num_referable: int
    kappa: Estimate
    accuracy: Estimate
    referable_auc: Estimate
    sensitivity: Estimate
    specificity: Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class AcquisitionCluster:
    """Photographs that were acquired alike: the cluster's number, and how many have each grade."""

    number: int
    num_per_grade: tuple[int, ...]

    @property
    def num_photographs(self) -> int:
        """Photographs of all grades."""
        return sum(self.num_per_grade)

    @property
    def referable_fraction(self) -> float:
        """The fraction of referable photographs, 0 to 1."""
        return sum(self.num_per_grade[REFERABLE_FROM:]) / self.num_photographs


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SubgroupMask:
    """The photographs (N,) with one value in a column of the manifest."""

    column: str
    value: str
    members: NDArray[np.bool_]


def acquisition_clusters(test: ScoredPhotographs) -> tuple[AcquisitionCluster, ...]:
    """The clusters of the photographs by number; none where they are not known for all."""
    if test.acquisitions is None:
        return ()
    return tuple(
        AcquisitionCluster(
            number=int(number),
            num_per_grade=tuple(np.bincount(test.grades[test.acquisitions == number], minlength=NUM_GRADES).tolist()),
        )
        for number in np.unique(test.acquisitions)
    )


def varies(values: Sequence[str]) -> bool:
    """Whether at least two values of a column, unknown ones aside, have `MIN_SUBGROUP` photographs each."""
    counts = Counter(value.strip() for value in values if value.strip() not in ("", UNKNOWN))
    return sum(count >= MIN_SUBGROUP for count in counts.values()) > 1


def subgroup_masks(columns: Mapping[str, Sequence[str]], num_photographs: int) -> list[SubgroupMask]:
    """The values of each column in order; those of fewer than `MIN_SUBGROUP` photographs together as "other", last.

    Raises MetricsError where a column does not have a value for each photograph.
    """
    masks = []
    for column, column_values in columns.items():
        if len(column_values) != num_photographs:
            raise MetricsError(
                f"The column {column} has {len(column_values)} values for {num_photographs} photographs: give one for "
                "each."
            )
        values = np.array([str(value).strip() or UNKNOWN for value in column_values], dtype=object)
        names, counts = np.unique(values.astype(str), return_counts=True)
        rare = names[(counts < MIN_SUBGROUP) | (names == OTHER)].tolist()
        masks += [
            SubgroupMask(column=column, value=name, members=values == name)
            for name in sorted(set(names.tolist()) - set(rare), key=lambda name: (name == UNKNOWN, name))
        ]
        if rare:
            masks.append(SubgroupMask(column=column, value=OTHER, members=np.isin(values.astype(str), rare)))
    return masks


def score_subgroup(
    subgroup: SubgroupMask, test: ScoredPhotographs, resamples: Resamples, referred: NDArray[np.bool_] | None = None
) -> Subgroup:
    """Scores of a subgroup, with intervals from the resamples of all photographs.

    `referred` (N,) says of all photographs whether they are; None where that is not known.
    """
    members, resamples = test.subset(subgroup.members), resamples.subset(subgroup.members)
    positive = members.grades >= REFERABLE_FROM
    areas = weighted_aucs(resamples.weights, positive, probability_from_grade(members.probabilities, REFERABLE_FROM))
    called = None if referred is None else referred[subgroup.members]
    return Subgroup(
        column=subgroup.column,
        value=subgroup.value,
        num_photographs=len(members),
        num_referable=int(positive.sum()),
        kappa=estimate_kappa(members.grades, members.predicted, resamples),
        accuracy=proportion_off_by(members, resamples, range(1)),
        referable_auc=estimate(areas, resamples),
        sensitivity=UNDEFINED if called is None else estimate_proportion(resamples, called, positive),
        specificity=UNDEFINED if called is None else estimate_proportion(resamples, ~called, ~positive),
    )
