"""Leakage of a model under evaluation: which photographs it has seen, in a sentence, and which data sets it knows."""

from __future__ import annotations

from collections.abc import Sequence

from fundusgrade.data.concatenation import SEPARATOR
from fundusgrade.data.dataset import PreparedDataset
from fundusgrade.data.leakage import count_unchecked, find_overlap, shares_files_or_patients
from fundusgrade.data.manifest import ManifestRow
from fundusgrade.errors import DatasetError
from fundusgrade.grading.grader import Grader
from fundusgrade.metrics.predictions import INFLATED, PredictionSet
from fundusgrade.networks.description import CheckpointDescription

_NUM_NAMED = 3


def check_leakage(grader: Grader, dataset: PreparedDataset, rows: Sequence[ManifestRow], *, allow_leakage: bool) -> str:
    """Which of these photographs were used to train or select the model, in a sentence.

    Raises DatasetError where there are any, unless `allow_leakage`.
    """
    fingerprints, trained_on = grader.fingerprints, grader.description.provenance.data_name
    if not fingerprints.is_known:
        return f"Trained on {trained_on}; the model file has no training fingerprints, so leakage cannot be checked."
    overlap = find_overlap(fingerprints, dataset, rows)
    training = f"Trained and selected on {len(fingerprints.files)} different files of {trained_on}"
    if not overlap.sources:
        none = f"{training}; none of the {len(rows)} evaluation images, their copies or their patients is among them."
        num_unchecked = count_unchecked(fingerprints, rows)
        if not num_unchecked:
            return none
        return (
            f"{none} Copies of {num_unchecked} of them could not be looked for: the model file or the data set has no "
            "perceptual fingerprints of this version."
        )
    counts = {
        "": len(overlap.files),
        "copies of ": len(overlap.copies),
        "other images of the patients of ": len(overlap.patients),
    }
    used = " and ".join(
        f"{relation}{count} of {len(rows)} evaluation images" for relation, count in counts.items() if count
    )
    if not allow_leakage:
        named = ", ".join(overlap.sources[:_NUM_NAMED])
        raise DatasetError(
            f"{used} were used to train or select the model {grader.name!r}, such as {named}; scores would be "
            "inflated. Choose another --split or --data, or add --allow-leakage, which the results will state"
        )
    return f"{training}; {used} were used to train or select this model: {INFLATED}."


def leakage_of_file(predictions: PredictionSet, description: CheckpointDescription | None) -> str:
    """What the networks behind stored predictions were trained without, in a sentence."""
    if not predictions.test.folds.any():
        return "Stored predictions: the file does not say whether these images were used to train or select the model."
    without = "it, its copies and its patient"
    if description is not None and description.provenance.held_out_source is not None:
        without = "the data set that it is of, its copies and its patient"
    num_folds = len(set(predictions.test.folds.tolist()))
    return f"Cross-validated: each image was graded by one of {num_folds} networks, trained without {without}."


def internal_data_sets(grader: Grader, dataset: PreparedDataset) -> frozenset[str] | None:
    """Which of the data sets of `dataset` the model was trained or selected on, by name; None where it is not known.

    A data set is one of them where a file or a patient of it is, in whatever split: its other photographs then test
    the model internally, those of all other data sets externally.
    """
    if not grader.fingerprints.is_known:
        return None
    rows: dict[str, list[ManifestRow]] = {name: [] for name in dataset.source_names}
    for row in dataset.rows:
        rows[row.origin or dataset.name].append(row)
    return frozenset(
        name
        for name, of_data_set in rows.items()
        if shares_files_or_patients(grader.fingerprints, dataset, of_data_set)
    )


def internal_data_sets_of_file(
    predictions: PredictionSet, description: CheckpointDescription | None
) -> frozenset[str] | None:
    """The same of stored predictions, by the names of the data sets; None where the model is not known.

    Of folds by source none is internal: each photograph was graded by a network that had not seen its data set.
    """
    if description is None:
        return None
    if predictions.test.folds.any() and description.provenance.held_out_source is not None:
        return frozenset()
    return frozenset(description.provenance.data_name.split(SEPARATOR))
