"""A list of pairs of photographs, one pair for each patient, as Messidor-2 has it -> the patient of each photograph."""

from __future__ import annotations

from pathlib import Path

from fundusgrade.data.label_tables import read_table
from fundusgrade.data.photograph_names import PhotographIndex
from fundusgrade.errors import DatasetError

_NUM_PROBED = 50


def find_pairs(path: Path, index: PhotographIndex) -> dict[Path, str] | None:
    """The patient of each photograph in a table whose two columns both name photographs; None for another table.

    Patients are named after the photograph in the first column.
    """
    try:
        rows = read_table(path).rows
    except DatasetError:
        return None
    probed = rows[1 : _NUM_PROBED + 1]
    if not probed or not all(len(row) == 2 for row in probed):
        return None
    if 2 * sum(index.has(row[0]) and index.has(row[1]) for row in probed) < len(probed):
        return None
    found = [(row[0], index.find(image, path)[0]) for row in rows if len(row) == 2 for image in row]
    return {photograph: first for first, photograph in found if photograph is not None}
