"""No result depends on a clock."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import pytest

from fundusgrade import files, store
from fundusgrade.data.labels import find_samples
from fundusgrade.data.prepare import prepare_dataset
from fundusgrade.photographs.recipe import Method, PreprocessRecipe
from tests.models_for_tests import save_labeled_photographs

RECIPE = PreprocessRecipe(method=Method.NATURAL, size_px=64)


def test_a_clock_set_back_changes_nothing(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_labeled_photographs(workplace / "eyes", 10)
    first = prepare_dataset(find_samples([workplace / "eyes"]), name="eyes", recipe=RECIPE, num_workers=1)
    monkeypatch.setattr(files, "now", lambda: "1970-01-01T00:00:00+00:00")
    monkeypatch.setattr(time, "time", lambda: 0.0)
    for path in (workplace / "eyes").rglob("*.png"):
        os.utime(path, (4e9, 4e9))
    again = prepare_dataset(find_samples([workplace / "eyes"]), name="eyes", recipe=RECIPE, num_workers=1)
    assert again.hash == first.hash and again.rows == first.rows


def test_nothing_reads_the_age_of_files_or_the_time_of_day() -> None:
    """But for `files.now`, which is written down and never compared."""
    sources = Path(store.__file__).parent.rglob("*.py")
    text = {path.name: path.read_text(encoding="utf-8") for path in sources}
    # The pixel cache is known by its images' times, compared for being equal, never for being older.
    del text["pixel_cache.py"]
    assert not [name for name, code in text.items() if re.search(r"time\.time\(|st_mtime|getmtime|st_ctime", code)]
    assert [name for name, code in text.items() if "datetime.now" in code] == ["files.py"]
