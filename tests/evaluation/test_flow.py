"""Every photograph of a data set is counted once on its way to the scores, with its eye and patient where known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from fundusgrade.data.dataset import PreparedDataset
from fundusgrade.evaluation.flow import study_flow
from fundusgrade.grades import Grade
from tests.prepared import prepared_dataset


@pytest.fixture
def dataset(tmp_path: Path) -> PreparedDataset:
    made = prepared_dataset(tmp_path / "toy")
    rows = [
        replace(row, patient=f"p{i // 2}", eye=("left", "right")[i % 2], split="test" if i < 8 else "train")
        for i, row in enumerate(made.rows)
    ]
    rows[0] = replace(rows[0], error="truncated", image="", split=None)
    rows[2] = replace(rows[2], grade=None, split=None)
    rows.append(replace(rows[3], source="second.png", grade=Grade.MILD))
    return replace(made, rows=tuple(rows))


def test_each_photograph_is_in_one_line(dataset: PreparedDataset) -> None:
    scored = [row.source for row in dataset.graded_rows("test")]
    flow = study_flow(dataset, scored)
    lines = (flow.unprepared, flow.ungraded, flow.other_splits, flow.evaluated)
    assert sum(line.num_photographs for line in lines) == flow.total.num_photographs == len(dataset.rows)
    assert (flow.unprepared.num_photographs, flow.ungraded.num_photographs) == (1, 1)
    assert flow.evaluated.num_photographs == len(scored) == 7
    assert flow.gradable.num_photographs + flow.ungradable.num_photographs == len(scored)


def test_eyes_and_patients_are_counted_once_and_not_at_all_where_one_is_unknown(dataset: PreparedDataset) -> None:
    flow = study_flow(dataset, [row.source for row in dataset.graded_rows("test")])
    # Rows 1 and 3 to 7, and a second photograph of the eye of row 3: six eyes of patients 0, 1, 2 and 3.
    assert (flow.evaluated.num_eyes, flow.evaluated.num_patients) == (6, 4)
    rows = (replace(dataset.rows[0], eye=None), *dataset.rows[1:])
    unknown = study_flow(replace(dataset, rows=rows), [])
    assert unknown.total.num_eyes is None and unknown.total.num_patients is not None
    rows = (replace(dataset.rows[0], patient=None), *dataset.rows[1:])
    nobody = study_flow(replace(dataset, rows=rows), [])
    assert (nobody.total.num_eyes, nobody.total.num_patients) == (None, None)
