"""Runs side by side: the curves that are drawn are those that were recorded, and the best epoch of each is marked."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from fundusgrade import store
from fundusgrade.errors import StoreError
from fundusgrade.photographs.images import read_image
from fundusgrade.training import compared_runs
from fundusgrade.training.compared_runs import RunHistory, draw_compared_curves, find_history
from fundusgrade.training.history import METRICS_FILE, EpochRecord
from tests.models_for_tests import install_model

KAPPAS = {"one": (0.2, None, 0.6, 0.6), "other": (0.5, 0.4)}


def record(epoch: int, kappa: float | None) -> EpochRecord:
    return EpochRecord(
        epoch=epoch, train_loss=2.0 / epoch, validation_loss=1.0 / epoch, validation_kappa=kappa,
        validation_accuracy=0.5, learning_rate=0.1, seconds=30.0, images_per_second=10.0,
    )  # fmt: skip


def write_history(folder: Path, name: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(asdict(record(i, kappa))) for i, kappa in enumerate(KAPPAS[name], start=1)]
    (folder / METRICS_FILE).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def history(name: str) -> RunHistory:
    records = tuple(record(i, kappa) for i, kappa in enumerate(KAPPAS[name], start=1))
    return RunHistory(name=name, path=Path("metrics.jsonl"), records=records)


def test_the_best_epoch_has_the_highest_kappa_and_of_equals_the_lowest_loss() -> None:
    assert (history("one").best.epoch, history("other").best.epoch) == (4, 1)
    assert (history("one").minutes, history("other").minutes) == (2.0, 1.0)


def test_histories_are_found_by_model_by_run_and_by_folder(tmp_path: Path) -> None:
    path = install_model("mine")
    write_history(path.parent, "one")
    write_history(store.home() / "runs" / "unfinished", "other")
    folder = write_history(tmp_path / "elsewhere", "other")
    assert (find_history("mine").name, len(find_history("mine").records)) == ("mine", 4)
    assert find_history("unfinished").records == history("other").records
    for given in (folder, folder / METRICS_FILE):
        assert find_history(str(given)).records == history("other").records


def test_a_run_without_a_history_is_an_error_that_says_where_it_was_looked_for(tmp_path: Path) -> None:
    path = install_model("bare")
    with pytest.raises(StoreError, match=r"bare has no history of its training: metrics.jsonl is missing") as error:
        find_history("bare")
    assert str(path.parent) in str(error.value)
    with pytest.raises(StoreError, match=r"no model 'bore' \(did you mean 'bare'\?\)"):
        find_history("bore")


def test_curves_are_the_recorded_ones_with_a_ring_at_the_best_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[Figure] = []
    monkeypatch.setattr(compared_runs, "save_figure", lambda figure, _: kept.append(figure))
    draw_compared_curves([history("one"), history("other")], Path("curves.png"))
    losses, kappas = (
        [[tuple(line.get_xdata()), tuple(line.get_ydata())] for line in panel.get_lines()] for panel in kept[0].axes
    )
    assert losses[0] == [(1, 2, 3, 4), (2.0, 1.0, 2 / 3, 0.5)], "training"
    assert losses[1] == [(1, 2, 3, 4), (1.0, 0.5, 1 / 3, 0.25)], "validation"
    assert losses[2] == [(4,), (0.25,)], "the best epoch"
    assert losses[5] == [(1,), (1.0,)]
    assert kappas[0][0] == (1, 2, 3, 4) and [*kappas[0][1][:1], *kappas[0][1][2:]] == [0.2, 0.6, 0.6]
    assert kappas[0][1][1] != kappas[0][1][1], "an undefined kappa leaves a gap"
    assert kappas[1] == [(4,), (0.6,)] and kappas[3] == [(1,), (0.5,)]
    legend = kept[0].axes[1].get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["one (4 of 4)", "other (1 of 2)"]


def test_the_figure_is_a_png(tmp_path: Path) -> None:
    draw_compared_curves([history("one")], tmp_path / "curves.png")
    assert read_image(tmp_path / "curves.png").std() > 5
