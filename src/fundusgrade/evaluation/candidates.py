"""Models and files of predictions brought before one set of photographs, with what each has seen of it before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fundusgrade import store
from fundusgrade.data.dataset import PreparedDataset
from fundusgrade.data.leakage import find_overlap
from fundusgrade.data.manifest import ManifestRow
from fundusgrade.errors import DatasetError
from fundusgrade.evaluation.assessment import Assessment, assess
from fundusgrade.grading.datasets import predict_dataset
from fundusgrade.grading.grader import Grader
from fundusgrade.metrics.predictions import TTA_SUFFIX, PredictionSet, fold_name, in_common, read_predictions
from fundusgrade.networks.checkpoint import read_description
from fundusgrade.networks.description import CheckpointDescription
from fundusgrade.options import DeviceName, Precision

_NUM_NAMED = 3


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Candidate:
    """A model under evaluation: what it predicts, itself where it is at hand, and what it has seen, in a sentence."""

    predictions: PredictionSet
    description: CheckpointDescription | None
    seen: str
    grader: Grader | None = None


def candidate_from_model(
    model: str | None,
    dataset: PreparedDataset,
    split: str,
    *,
    device: DeviceName = DeviceName.AUTO,
    precision: Precision = Precision.AUTO,
    tta: bool = False,
    allow_leakage: bool = False,
) -> Candidate:
    """Grade a split with a model, by name or path.

    Raises DatasetError where photographs of the split, copies of them or other photographs of their patients were used
    to train or to choose the model, unless `allow_leakage`.
    """
    grader = Grader.load(model, device=device, precision=precision, tta=tta)
    seen = check_seen(grader, dataset, dataset.graded_rows(split), allow_leakage=allow_leakage)
    predictions = predict_dataset(grader, dataset, split)
    return Candidate(predictions=predictions, description=grader.description, seen=seen, grader=grader)


def candidate_from_file(name_or_path: str, part: str = "test") -> Candidate:
    """Predictions made before; of cross-validated ones the first fold's network says how all were made.

    Raises DatasetError where they do not hold the part ("test" or "validation") as photographs to score.
    """
    predictions = _part_of(read_predictions(store.resolve_predictions(name_or_path)), part)
    path = _stored_network(predictions, fold=int(predictions.test.folds[0]))
    pooled = f"each photograph was graded by one of {len(set(predictions.test.folds.tolist()))} networks that had not"
    seen = predictions.seen or (
        f"Cross-validated: {pooled} seen it, its copies or its patient."
        if predictions.test.folds.any()
        else "Predictions from a file, which does not say what the model had seen of these photographs."
    )
    return Candidate(predictions=predictions, description=read_description(path) if path else None, seen=seen)


def _part_of(predictions: PredictionSet, part: str) -> PredictionSet:
    """The predictions with the part that is scored in the place of `test`; on it itself nothing is locked."""
    if part == "test":
        return predictions
    if part != "validation":
        raise DatasetError(
            f"--split {part}: the predictions of {predictions.model} were made before, of test photographs; leave "
            "--split out, or grade the photographs with --model"
        )
    if predictions.test.folds.any():
        raise DatasetError(
            f"--split validation: {predictions.model} was cross-validated, and its folds share validation photographs; "
            "leave --split out, or name the network of one fold with --model"
        )
    if not len(predictions.validation):
        raise DatasetError(f"--split validation: the file of {predictions.model} holds no validation photographs")
    nothing = predictions.validation.chosen(np.zeros(0, np.int64))
    return replace(predictions, test=predictions.validation, validation=nothing)


def explaining_grader(candidate: Candidate, fold: int) -> Grader | None:
    """The network that graded the photographs of a fold, where it is at hand."""
    if candidate.grader is not None:
        return candidate.grader
    path = _stored_network(candidate.predictions, fold)
    return None if path is None else Grader.load(str(path))


def check_seen(grader: Grader, dataset: PreparedDataset, rows: Sequence[ManifestRow], *, allow_leakage: bool) -> str:
    """What the model has seen of these photographs, in a sentence. Raises DatasetError as `candidate_from_model`."""
    fingerprints, trained_on = grader.fingerprints, grader.description.provenance.data_name
    if not fingerprints.is_known:
        return f"Trained on {trained_on}; its file holds no marks of training photographs, so overlap is not known."
    overlap = find_overlap(fingerprints, dataset, rows)
    known = f"Trained and chosen on {len(fingerprints.files)} different files of {trained_on}"
    if not overlap.sources:
        return f"{known}; none of the {len(rows)} photographs here, no copy of them and no patient is among those."
    counts = (
        f"{len(overlap.files)} of {len(rows)} photographs themselves, copies of {len(overlap.copies)} and other "
        f"photographs of the patients of {len(overlap.patients)}"
    )
    if not allow_leakage:
        named = ", ".join(overlap.sources[:_NUM_NAMED])
        raise DatasetError(
            f"the model {grader.name!r} was trained or chosen on {counts}, such as {named}; its scores would be too "
            "good. Choose a --split or --data that it has not seen, or add --allow-leakage, which the results will say"
        )
    return f"{known}, among them {counts}: these scores are too good."


def assess_candidates(
    candidates: Sequence[Candidate],
    dataset: PreparedDataset,
    *,
    part: str,
    columns: Sequence[str] = (),
    coverage: float = 0.9,
    num_resamples: int = 1000,
) -> Assessment:
    """Score and compare the candidates; `columns` of the manifest make subgroups.

    Raises DatasetError where two have one name, and as `assess` does.
    """
    names = [candidate.predictions.model for candidate in candidates]
    if len(set(names)) < len(names):
        raise DatasetError(
            f"models are told apart by name, and these are called {', '.join(names)}; name each once, or train one "
            "again with another --name"
        )
    sets = [candidate.predictions for candidate in candidates]
    values = manifest_columns(dataset, columns, sets[0].test.sources)
    return assess(sets, part=part, coverage=coverage, num_resamples=num_resamples, columns=values)


def only_common(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The candidates with the photographs that all of them graded; what was left out is said with what they have seen.

    Raises DatasetError where they share none.
    """
    kept = []
    for candidate, shared in zip(candidates, in_common([each.predictions for each in candidates]), strict=True):
        num_kept, num_graded = len(shared.test), len(candidate.predictions.test)
        if not num_kept:
            names = ", ".join(each.predictions.model for each in candidates)
            raise DatasetError(f"--common: no photograph was graded by all of {names}; compare fewer of them")
        left_out = f" Scored here: the {num_kept} of {num_graded} photographs that all graded."
        seen = candidate.seen + (left_out if num_kept < num_graded else "")
        kept.append(replace(candidate, predictions=shared, seen=seen))
    return kept


def manifest_columns(dataset: PreparedDataset, names: Sequence[str], sources: Sequence[str]) -> dict[str, list[str]]:
    """Values of columns of the manifest for these photographs. Raises DatasetError for a column that is not there."""
    rows = {row.source: row for row in dataset.rows}
    return {name: [_cell(rows.get(source), name) for source in sources] for name in names}


def _cell(row: ManifestRow | None, name: str) -> str:
    if name == "quality":
        return "" if row is None or row.quality is None else "gradable" if row.quality.gradable else "doubtful"
    if name not in ManifestRow.__dataclass_fields__:
        raise DatasetError(f"--by {name}: the manifest has no such column; expected quality, eye, site, conflict, ...")
    value = None if row is None else getattr(row, name)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None else str(value)


def network_names(predictions: PredictionSet) -> tuple[str, ...]:
    """The names of the networks behind predictions: one, or one for each fold."""
    return tuple(_network_name(predictions, fold) for fold in np.unique(predictions.test.folds).tolist())


def _network_name(predictions: PredictionSet, fold: int) -> str:
    base = predictions.model.removesuffix(TTA_SUFFIX)
    return fold_name(base, fold) if fold else base


def _stored_network(predictions: PredictionSet, fold: int) -> Path | None:
    """The file of the fold's network, where it is in the store."""
    name = _network_name(predictions, fold)
    return next((model.path for model in store.list_models() if model.name == name), None)
