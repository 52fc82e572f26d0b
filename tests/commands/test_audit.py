"""`audit`: data sets and models."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fundusgrade.evaluation import audit
from fundusgrade.photographs.images import read_image
from tests.command_line import Outcome
from tests.models_for_tests import install_model, save_labeled_photographs


def measured_once(measure: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, which keeps its first result: all audits here are of one data set."""
    results: list[Any] = []

    def measured(*arguments: object, **options: object) -> object:
        if not results:
            results.append(measure(*arguments, **options))
        return results[0]

    return measured


def test_audit_of_data_and_model_shows_tables_a_sentence_and_writes_files(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "measure_properties", measured_once(audit.measure_properties))
    save_labeled_photographs(workplace / "eyes", 60, size_px=96)
    assert Outcome("fundusgrade preprocess eyes --method natural --size 64 --workers 1").code == 0
    install_model()
    alone = Outcome("fundusgrade audit eyes")
    assert alone.code == 0
    assert "color and sharpness" in alone.stdout and "Shortcut learning: without any retina" in alone.stdout
    outcome = Outcome("fundusgrade audit eyes --model tiny --limit 4 --out found --device cpu --precision float32")
    assert outcome.code == 0
    assert "cut at 0.65 of the radius" in outcome.stdout and "was not measured" in outcome.stdout
    written = json.loads((workplace / "found" / "audit.json").read_text())
    assert (written["data"], written["model"]) == ("eyes", "tiny")
    assert [probe["num_photographs"] for probe in written["probes"]] == [60] * 5
    assert written["conclusion"] in outcome.stdout.replace("\n", " ")
    assert read_image(workplace / "found" / "audit.png").shape[0] > 300
    evaluated = Outcome("fundusgrade evaluate --model tiny --audit --out scores --device cpu --precision float32")
    assert evaluated.code == 0
    assert (workplace / "scores" / "audit-tiny" / "audit.json").is_file()
