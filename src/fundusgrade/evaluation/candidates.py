"""Models and files of predictions under evaluation on one set of photographs, each checked for leakage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fundusgrade import store
from fundusgrade.data.dataset import PreparedDataset
from fundusgrade.data.manifest import ManifestRow
from fundusgrade.errors import DatasetError
from fundusgrade.evaluation.assessment import Assessment, assess
from fundusgrade.evaluation.leakage import (
    check_leakage,
    internal_data_sets,
    internal_data_sets_of_file,
    leakage_of_file,
)
from fundusgrade.evaluation.screening import (
    ReferralRule,
    Referrals,
    rule_of_point,
    rule_of_predictions,
    screened_photographs,
)
from fundusgrade.evaluation.subgroups import UNKNOWN, varies
from fundusgrade.grading.datasets import load_for_figures, predict_dataset
from fundusgrade.grading.grader import Grader
from fundusgrade.metrics.conformal import Conformity
from fundusgrade.metrics.predictions import TTA_SUFFIX, PredictionSet, fold_name, read_predictions, restrict_to_common
from fundusgrade.metrics.predictive_values import PREVALENCE
from fundusgrade.networks.checkpoint_file import read_description
from fundusgrade.networks.description import CheckpointDescription
from fundusgrade.options import DeviceName, Precision

SUBGROUP_COLUMNS = ("origin", "site", "eye", "quality", "acquisition")
"""Columns of the manifest by which photographs are divided where none are named, as far as they differ in them."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Candidate:
    """A model under evaluation: its predictions, the model itself where it is available, and a sentence on leakage.

    `internal` are the data sets that it was trained on other photographs of, None where that is not known.
    """

    predictions: PredictionSet
    description: CheckpointDescription | None
    leakage: str
    grader: Grader | None = None
    internal: frozenset[str] | None = None


def candidates_from_models(
    models: Sequence[str | None],
    dataset: PreparedDataset,
    split: str,
    *,
    device: DeviceName = DeviceName.AUTO,
    precision: Precision = Precision.AUTO,
    tta: bool = False,
    allow_leakage: bool = False,
) -> list[Candidate]:
    """Grade a split with each model, by name or path; all are checked before the first one grades.

    Raises DatasetError where photographs of the split, copies of them or other photographs of their patients were used
    to train or select a model, unless `allow_leakage`, and where the data set was preprocessed for other models.
    """
    graders = [load_for_figures(model, device=device, precision=precision, tta=tta) for model in models]
    rows = dataset.graded_rows(split)
    if models and not rows:
        raise DatasetError(f"--split {split}: the data set {dataset.name!r} has no graded photographs in this split")
    for grader in graders:
        dataset.check_recipe(grader.recipe, grader.name)
    leakages = [check_leakage(grader, dataset, rows, allow_leakage=allow_leakage) for grader in graders]
    return [
        Candidate(
            predictions=replace(predict_dataset(grader, dataset, split), leakage=leakage),
            description=grader.description,
            leakage=leakage,
            grader=grader,
            internal=internal_data_sets(grader, dataset),
        )
        for grader, leakage in zip(graders, leakages, strict=True)
    ]


def candidate_from_file(name_or_path: str, part: str = "test") -> Candidate:
    """Stored predictions; of cross-validated ones the first fold's network describes all.

    Raises DatasetError where they do not hold the part ("test" or "validation") as photographs to score.
    """
    predictions = _part_of(read_predictions(store.resolve_predictions(name_or_path)), part)
    path = _stored_network(predictions, fold=int(predictions.test.folds[0]))
    description = read_description(path) if path else None
    leakage = predictions.leakage or leakage_of_file(predictions, description)
    return Candidate(
        predictions=replace(predictions, leakage=leakage),
        description=description,
        leakage=leakage,
        internal=internal_data_sets_of_file(predictions, description),
    )


def _part_of(predictions: PredictionSet, part: str) -> PredictionSet:
    """The predictions with the part that is scored as `test`; without validation photographs if it is these."""
    if part == "test":
        return predictions
    if part != "validation":
        raise DatasetError(
            f"--split {part}: the stored predictions of {predictions.model} are of test photographs; leave "
            "--split out, or grade the photographs with --model"
        )
    if predictions.test.folds.any():
        raise DatasetError(
            f"--split validation: {predictions.model} was cross-validated, and its folds overlap in validation "
            "photographs; leave --split out, or name the network of one fold with --model"
        )
    if not len(predictions.validation):
        raise DatasetError(f"--split validation: the file of {predictions.model} holds no validation photographs")
    nothing = predictions.validation.subset(np.zeros(0, np.int64))
    return replace(predictions, test=predictions.validation, validation=nothing)


def explaining_grader(candidate: Candidate, fold: int) -> Grader | None:
    """The network that graded the photographs of a fold, where it is available."""
    if candidate.grader is not None:
        return candidate.grader
    path = _stored_network(candidate.predictions, fold)
    return None if path is None else load_for_figures(str(path))


def assess_candidates(
    candidates: Sequence[Candidate],
    dataset: PreparedDataset,
    *,
    part: str,
    columns: Sequence[str] = (),
    coverage: float = 0.9,
    num_resamples: int = 1000,
    sensitivity: float | None = None,
    threshold: float | None = None,
    prevalence: float = PREVALENCE,
) -> Assessment:
    """Score and compare the candidates; `columns` of the manifest make subgroups, and data sets are scored each.

    Without columns, those of `SUBGROUP_COLUMNS` in which the photographs differ. `sensitivity` or `threshold` set
    another operating point than that of each model; `prevalence`, 0 to 1, is that of the predictive values.

    Clusters of acquisition are those of the first candidate's predictions, or of the data set where these have none.
    Raises DatasetError where two have one name, and as `assess` does.
    """
    check_names([candidate.predictions.model for candidate in candidates])
    sets = [_with_acquisitions(candidate.predictions, dataset) for candidate in candidates]
    sources = sets[0].test.sources
    values, origins = _subgroup_columns(dataset, columns, sources), _origins(dataset, sources)
    rules = {each.predictions.model: _referral_rule(each, sensitivity, threshold) for each in candidates}
    return assess(
        sets,
        part=part,
        coverage=coverage,
        num_resamples=num_resamples,
        columns=values,
        origins=origins,
        conformities=_conformities(candidates),
        referrals=Referrals(photographs=screened_photographs(dataset, sources), rules=rules, prevalence=prevalence),
        internal={each.predictions.model: each.internal for each in candidates if each.internal is not None},
    )


def check_names(names: Sequence[str]) -> None:
    """Raise DatasetError where two of the models that are compared have one name."""
    if len(set(names)) < len(names):
        raise DatasetError(
            f"models are identified by name, and these are called {', '.join(names)}; give each once, or rename one "
            "with `fundusgrade models rename`"
        )


def check_columns(names: Sequence[str]) -> None:
    """Raise DatasetError for a column that no manifest has."""
    for name in names:
        if name != "quality" and name not in ManifestRow.__dataclass_fields__:
            raise DatasetError(
                f"--subgroup {name}: the manifest has no such column; expected quality, eye, site, conflict, ..."
            )


def _conformities(candidates: Sequence[Candidate]) -> dict[str, Conformity]:
    """The conformity scores of each model that graded every photograph once."""
    return {
        candidate.predictions.model: candidate.description.conformity
        for candidate in candidates
        if candidate.description is not None and _is_of_one_network(candidate.predictions)
    }


def _referral_rule(candidate: Candidate, sensitivity: float | None, threshold: float | None) -> ReferralRule:
    """The rule of the model's operating point; of its validation photographs where it has none, or one of each fold."""
    description, predictions = candidate.description, candidate.predictions
    is_stored = description is not None and description.operating_point is not None
    is_of_one = threshold is None and not predictions.test.folds.any()
    if description is not None and is_of_one and (is_stored or not len(predictions.validation)):
        return rule_of_point(description.chosen_point(sensitivity=sensitivity))
    return rule_of_predictions(predictions, sensitivity=sensitivity, threshold=threshold)


def _origins(dataset: PreparedDataset, sources: Sequence[str]) -> list[str]:
    """The data set of each photograph, where the data set is of several."""
    return [name or UNKNOWN for name in manifest_columns(dataset, ["origin"], sources)["origin"]]


def _subgroup_columns(dataset: PreparedDataset, columns: Sequence[str], sources: Sequence[str]) -> dict[str, list[str]]:
    """The values of the columns that were asked for, or of all in which the photographs differ."""
    if columns:
        return manifest_columns(dataset, columns, sources)
    found = manifest_columns(dataset, SUBGROUP_COLUMNS, sources)
    return {name: values for name, values in found.items() if varies(values)}


def _is_of_one_network(predictions: PredictionSet) -> bool:
    """Whether one network graded each photograph once, as those were graded from which its conformity scores come."""
    return not predictions.test.folds.any() and not predictions.model.endswith(TTA_SUFFIX)


def _with_acquisitions(predictions: PredictionSet, dataset: PreparedDataset) -> PredictionSet:
    """The predictions with the data set's clusters of acquisition, where they hold none and it knows all."""
    test = predictions.test
    clusters = {row.source: row.acquisition for row in dataset.rows}
    known = [cluster for source in test.sources if (cluster := clusters.get(source)) is not None]
    if test.acquisitions is not None or len(known) < len(test):
        return predictions
    return replace(predictions, test=replace(test, acquisitions=np.array(known, np.int64)))


def only_common(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The candidates with the photographs that all of them graded; how many remain is added to `leakage`.

    Raises DatasetError where they have none in common.
    """
    restricted = []
    for candidate, shared in zip(
        candidates, restrict_to_common([each.predictions for each in candidates]), strict=True
    ):
        num_common, num_graded = len(shared.test), len(candidate.predictions.test)
        if not num_common:
            names = ", ".join(each.predictions.model for each in candidates)
            raise DatasetError(f"--common: no photograph was graded by all of {names}; compare fewer of them")
        scope = f" Scored on the {num_common} of {num_graded} images that all models graded."
        leakage = candidate.leakage + (scope if num_common < num_graded else "")
        restricted.append(replace(candidate, predictions=shared, leakage=leakage))
    return restricted


def manifest_columns(dataset: PreparedDataset, names: Sequence[str], sources: Sequence[str]) -> dict[str, list[str]]:
    """Values of columns of the manifest for these photographs. Raises DatasetError for a column that is not there."""
    check_columns(names)
    rows = {row.source: row for row in dataset.rows}
    return {name: [_cell(rows.get(source), name) for source in sources] for name in names}


def _cell(row: ManifestRow | None, name: str) -> str:
    if name == "quality":
        return "" if row is None or row.quality is None else "gradable" if row.quality.gradable else "doubtful"
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
