"""A labeled data set as it is published -> samples, from label files or from folders named by grade."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from fundusgrade.data.grade_folders import read_grade_folders
from fundusgrade.data.grade_names import HOW_TO_NAME, GradeNames
from fundusgrade.data.label_files import NO_GRADE, find_label_files, read_label_file, read_label_files
from fundusgrade.data.label_layouts import LabelColumns
from fundusgrade.data.photograph_names import PhotographIndex
from fundusgrade.data.samples import RawDataset, Sample, source_of
from fundusgrade.errors import DatasetError
from fundusgrade.photographs.formats import kind_of_file
from fundusgrade.photographs.sources import find_files, search_files

_NO_NAMES = GradeNames()


def find_samples(
    sources: Sequence[Path],
    *,
    labels: Path | None = None,
    columns: LabelColumns | None = None,
    names: GradeNames = _NO_NAMES,
) -> RawDataset:
    """Find the photographs and labels of a data set in one folder, or unlabeled photographs in files and folders.

    Label files are recognized by their columns (docs/guides/data-sets.md has the table) or described by `columns`;
    without one, folders named by grade are labels. `names` says what labels mean that are no grades. Raises
    DatasetError where labels are not understood, are ambiguous, contradict each other, or give no photograph a grade.
    """
    if labels is not None:
        index = PhotographIndex.of(_only_folder(sources))
        return _counted(_checked(read_label_file(labels, index, columns, names)), sources)
    if columns is not None:
        _only_folder(sources)
    if len(sources) == 1 and sources[0].is_dir():
        labeled = _labeled_folder(sources[0], columns, names)
        if labeled is not None:
            return _counted(_checked(labeled), sources)
    return _counted(_unlabeled(sources), sources)


def _unlabeled(sources: Sequence[Path]) -> RawDataset:
    missing = [str(source) for source in sources if not source.exists()]
    if missing:
        raise DatasetError(f"no such file or folder: {', '.join(missing)}")
    photographs = find_files(list(sources))
    if not photographs:
        raise DatasetError(
            f"no photographs in {', '.join(map(str, sources))}; expected JPEG, PNG, TIFF, BMP, WebP, GIF, JPEG 2000, "
            "PPM, HEIC, AVIF or DICOM files, whatever they are called, unpacked"
        )
    samples = tuple(Sample(source=source_of(photograph.path), path=photograph.path) for photograph in photographs)
    return RawDataset(layout="photographs", samples=samples, root=Path.cwd())


def _counted(dataset: RawDataset, sources: Sequence[Path]) -> RawDataset:
    """The data set with a count of what its folders hold besides photographs and the tables that it names."""
    num_skipped = search_files(list(sources)).num_skipped
    folders = [source.resolve() for source in sources if source.is_dir()]
    named = {path.resolve() for path in (*dataset.label_files, *dataset.unread_files, *dataset.pair_files)}
    inside = (path for path in named if any(folder in path.parents for folder in folders))
    return replace(dataset, num_skipped=num_skipped - Counter(kind_of_file(path.name) for path in inside))


def _labeled_folder(folder: Path, columns: LabelColumns | None, names: GradeNames) -> RawDataset | None:
    """The labeled photographs of a folder; None where nothing in it can be labels."""
    index = PhotographIndex.of(folder)
    files = find_label_files(index, columns)
    if files.tables:
        return read_label_files(files, index, columns, names)
    if columns is not None:
        raise DatasetError(files.problem or f"{folder} has no label file; give one with --labels")
    by_folder = read_grade_folders(folder, names)
    if by_folder is None and files.problem is not None and index.paths:
        raise DatasetError(f"{files.problem}; if it holds no grades, give the folder of photographs without it")
    return by_folder


def _checked(dataset: RawDataset) -> RawDataset:
    """The data set. Raises DatasetError where no photograph has a grade."""
    if any(sample.grade is not None and sample.error is None for sample in dataset.samples):
        return dataset
    where = ", ".join(map(str, dataset.label_files)) or dataset.root
    reason = next((sample.error for sample in dataset.samples if sample.error), "no label names a grade")
    remedy = f"; say what labels mean with {HOW_TO_NAME}" if reason.startswith(NO_GRADE) else ""
    raise DatasetError(
        f"no photograph has a grade from {where}, of {len(dataset.samples)} labels; the first: {reason}{remedy}"
    )


def _only_folder(sources: Sequence[Path]) -> Path:
    if len(sources) != 1 or not sources[0].is_dir():
        raise DatasetError("a label file needs exactly one folder of photographs; give that folder as the argument")
    return sources[0]
