"""The prepared data set: its manifest rows, splits and folds, and how it is read.

Its folder holds preprocessed images, the manifest, `dataset.json` and a contact sheet. Manifest and `dataset.json` are
written last, atomically, when all images are there.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fundusgrade import store
from fundusgrade.data.manifest import ManifestRow, read_manifest
from fundusgrade.data.samples import path_of_source
from fundusgrade.data.splits import FOLD_FRACTIONS, assign_folds, hold_out_source, split_groups
from fundusgrade.errors import DatasetError
from fundusgrade.grades import Grade
from fundusgrade.options import NUM_FOLDS, FoldsBy
from fundusgrade.photographs.recipe import PreprocessRecipe

FORMAT_VERSION = 1
"""Version of `dataset.json`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedDataset:
    """A finished data set on disk."""

    directory: Path
    """The data set's folder; images of rows are below it."""
    name: str
    recipe: PreprocessRecipe
    """How all images were preprocessed."""
    seed: int
    """Seed of the random assignment to splits and folds."""
    hash: str
    """SHA-256 of the manifest, in hexadecimal."""
    rows: tuple[ManifestRow, ...]
    root: Path | None = None
    """The folder of the original photographs; None where it is not known."""
    parts: tuple[PreparedDataset, ...] = ()
    """The data sets that this one is a concatenation of; empty for an ordinary one."""
    first_name: str | None = None
    """The name under which it was prepared, by which models know its patients; None where it was never renamed."""

    def photograph_path(self, row: ManifestRow) -> Path:
        """Path of the original photograph of a row. Raises DatasetError where it is not known."""
        for part in self.parts:
            if part.name == row.origin:
                return part.photograph_path(replace(row, source=row.source.removeprefix(f"{part.name}/")))
        if self.root is None:
            raise DatasetError(
                f"the data set {self.name!r} does not say where its photographs are; run `fundusgrade preprocess` again"
            )
        return path_of_source(self.root, row.source)

    def check_recipe(self, needed: PreprocessRecipe, model: str) -> None:
        """Raise DatasetError where this data set was not preprocessed as the training data of a model were."""
        if self.recipe != needed:
            raise DatasetError(
                f"the data set {self.name!r} is {self.recipe.describe()}, "
                f"the model {model!r} needs {needed.describe()}; preprocess it "
                f"again with `fundusgrade preprocess FOLDER --name NAME --method {needed.method.value} "
                f"--outline {needed.outline.value} --size {needed.size_px}`"
            )

    def graded_rows(self, split: str | None = None) -> tuple[ManifestRow, ...]:
        """Rows with an image and a grade, of one split or of all ("all" or None)."""
        usable = (row for row in self.rows if row.error is None and row.grade is not None)
        return tuple(row for row in usable if split in (None, "all", row.split))

    @property
    def source_names(self) -> tuple[str, ...]:
        """The data sets that this one consists of, in order: its own name where it is no concatenation."""
        return tuple(part.name for part in self.parts) or (self.name,)

    def with_fold(self, fold: int, num_folds: int = NUM_FOLDS, folds_by: FoldsBy = FoldsBy.GROUP) -> PreparedDataset:
        """The same data set with fold 1..num_folds as its test split, and an eighth of the rest as validation split.

        Folds keep groups together; with `NUM_FOLDS` they are those of the manifest. A fold by source is one of the data
        sets that were concatenated, and the others keep their validation splits (`hold_out_source`). A fold of the
        training split leaves the validation split as it is, and uses no photograph of the test split. Raises
        DatasetError for a fold that does not exist, or that leaves nothing to train on or to choose by.
        """
        if folds_by is FoldsBy.SOURCE:
            return self._with_source_held_out(fold, num_folds)
        if folds_by is FoldsBy.TRAINING:
            return self._with_training_held_out(fold, num_folds)
        rows = self.graded_rows()
        folds = self._assigned_folds(rows, fold, num_folds)
        rest = [row for row, number in zip(rows, folds, strict=True) if number != fold - 1]
        parts = split_groups(
            [row.group for row in rest], [_grade_of(row) for row in rest], FOLD_FRACTIONS, self.seed + 1 + fold
        )
        is_validation = {row.source for row, part in zip(rest, parts, strict=True) if part == 1}
        in_fold = {row.source for row, number in zip(rows, folds, strict=True) if number == fold - 1}
        splits = {
            row.source: "test" if row.source in in_fold else "validation" if row.source in is_validation else "train"
            for row in rows
        }
        return self._with_splits(splits)

    def _assigned_folds(self, rows: Sequence[ManifestRow], fold: int, num_folds: int) -> tuple[int, ...]:
        """The fold of each row, from 0. Raises DatasetError where there is no fold `fold`, which counts from 1."""
        if not 1 <= fold <= num_folds or num_folds < 2:
            raise DatasetError(f"there is no fold {fold} of {num_folds}; expected 1 to {num_folds}, of at least 2")
        return assign_folds([row.group for row in rows], [_grade_of(row) for row in rows], num_folds, self.seed)

    def _with_splits(self, splits: Mapping[str, str | None]) -> PreparedDataset:
        """The same data set with the splits of these sources; the others have none."""
        return replace(self, rows=tuple(replace(row, split=splits.get(row.source)) for row in self.rows))

    def _with_training_held_out(self, fold: int, num_folds: int) -> PreparedDataset:
        rows = self.graded_rows("train")
        folds = self._assigned_folds(rows, fold, num_folds)
        splits = {
            row.source: "test" if number == fold - 1 else "train" for row, number in zip(rows, folds, strict=True)
        }
        splits |= {row.source: "validation" for row in self.graded_rows("validation")}
        return self._with_splits(splits)

    def _with_source_held_out(self, fold: int, num_folds: int) -> PreparedDataset:
        names = self.source_names
        if len(names) < 2:
            raise DatasetError(
                f"folds by source hold out one data set after the other, and {self.name!r} is one data set only; name "
                "two or more with --data, or use --folds"
            )
        if not 1 <= fold <= len(names) or num_folds != len(names):
            raise DatasetError(
                f"there is no fold {fold} of {num_folds} by source; expected 1 to {len(names)}, one for each of "
                f"{', '.join(names)}"
            )
        rows, held_out = self.graded_rows(), names[fold - 1]
        splits = hold_out_source(
            [row.origin or "" for row in rows], [row.group for row in rows], [row.split for row in rows], held_out
        )
        for split in ("train", "validation", "test"):
            if split not in splits:
                raise DatasetError(
                    f"with {held_out!r} held out there are no photographs for the {split} split of {self.name!r}; "
                    "prepare data sets of more labeled photographs"
                )
        split_of = {row.source: split for row, split in zip(rows, splits, strict=True)}
        return self._with_splits(split_of)


def _grade_of(row: ManifestRow) -> Grade:
    assert row.grade is not None, "only graded rows are assigned to splits"
    return row.grade


def load_dataset(directory: Path) -> PreparedDataset:
    """Read a prepared data set. Raises DatasetError where its files are missing or damaged."""
    try:
        described = json.loads((directory / store.DATASET_FILE).read_text(encoding="utf-8"))
        manifest = read_manifest(directory)
        return PreparedDataset(
            directory=directory,
            name=described["name"],
            recipe=PreprocessRecipe.from_json(described["recipe"]),
            seed=described["seed"],
            hash=manifest.hash,
            rows=manifest.rows,
            root=Path(described["root"]) if described.get("root") else None,
            first_name=described.get("first_name"),
        )
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise DatasetError(
            f"the data set in {directory} cannot be read ({error!r}); make it again with `fundusgrade preprocess`"
        ) from error
