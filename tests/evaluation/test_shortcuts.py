"""Shortcuts are found where a data set has one, and not where it has none."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fundusgrade.data.dataset import PreparedDataset
from fundusgrade.data.labels import find_samples
from fundusgrade.data.prepare import prepare_dataset
from fundusgrade.errors import DatasetError
from fundusgrade.evaluation.audit import Audit, conclusion
from fundusgrade.evaluation.interventions import CONTROL, LESIONS, InterventionEffect
from fundusgrade.evaluation.shortcuts import ShortcutProbe, measure_shortcuts, out_of_fold, outline_features
from fundusgrade.photographs.recipe import Method, Outline, PreprocessRecipe
from fundusgrade.reports.figures import draw_audit
from tests.drawn_eyes import DrawnEye, cut, plain_retina, squash

NUM_EYES = 100


def save_eyes(folder: Path, *, cut_from_grade: int) -> None:
    """Eyes whose retina says nothing of their grade; from this grade on they are cut above and below."""
    for seed in range(NUM_EYES):
        eye: DrawnEye = plain_retina(128, seed)
        if seed % 5 >= cut_from_grade:
            eye = squash(cut(eye, top=0.13, bottom=0.13), width_px=128, height_px=128)
        path = folder / str(seed % 5) / f"{seed}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(eye.photograph).save(path)


@dataclass(frozen=True)
class Measurement:
    """A prepared data set of eyes, its probes, and the progress that was reported."""

    dataset: PreparedDataset
    probes: tuple[ShortcutProbe, ...]
    progress: list[tuple[int, int]]

    def kappa(self, kind: str, stage: str) -> float:
        (found,) = (probe.kappa for probe in self.probes if (probe.kind, probe.stage) == (kind, stage))
        assert found is not None
        return found


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[Outline, Measurement]:
    """The same eyes, cropped to the band and with the full disc."""
    folder = tmp_path_factory.mktemp("eyes")
    save_eyes(folder, cut_from_grade=2)
    found = {}
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("FUNDUSGRADE_HOME", str(tmp_path_factory.mktemp("shared-home")))
        for outline in (Outline.BAND, Outline.DISC):
            recipe = PreprocessRecipe(method=Method.BEN_GRAHAM, outline=outline, size_px=64)
            dataset = prepare_dataset(find_samples([folder]), name=outline.value, recipe=recipe, num_workers=1)
            progress: list[tuple[int, int]] = []
            probes = measure_shortcuts(dataset, on_progress=lambda *counts, into=progress: into.append(counts))
            found[outline] = Measurement(dataset=dataset, probes=probes, progress=progress)
    return found


def test_a_crop_that_correlates_with_disease_is_found_and_the_band_removes_it(
    measured: dict[Outline, Measurement],
) -> None:
    band, disc = measured[Outline.BAND], measured[Outline.DISC]
    assert band.kappa("outline", "photograph") == disc.kappa("outline", "photograph") > 0.5
    assert disc.kappa("outline", "prepared") > 0.5
    assert band.kappa("outline", "prepared") < 0.2


def test_probes_carry_counts_scores_and_intervals(measured: dict[Outline, Measurement]) -> None:
    assert measured[Outline.BAND].progress[-1] == (NUM_EYES, NUM_EYES)
    probes = measured[Outline.BAND].probes
    assert [(probe.kind, probe.stage) for probe in probes] == [
        ("outline", "photograph"),
        ("outline", "prepared"),
        ("file", "photograph"),
        ("color and sharpness", "photograph"),
        ("color and sharpness", "prepared"),
    ]
    for probe in probes:
        assert probe.num_photographs == NUM_EYES
        assert probe.kappa is not None and probe.kappa_low is not None and probe.kappa_high is not None
        assert probe.kappa_low <= probe.kappa <= probe.kappa_high


def test_missing_photographs_and_few_ones_are_errors(measured: dict[Outline, Measurement], tmp_path: Path) -> None:
    dataset = measured[Outline.BAND].dataset
    few = replace(dataset, name="few", rows=dataset.rows[:10])
    with pytest.raises(DatasetError, match="'few' has 10 graded photographs; an audit needs 50"):
        measure_shortcuts(few)
    assert dataset.root is not None
    moved = tmp_path / "moved"
    shutil.copytree(dataset.root, moved)
    (moved / "0" / "0.png").unlink()
    with pytest.raises(DatasetError, match=r"0/0.png .*prepare them again where they are now"):
        measure_shortcuts(replace(dataset, root=moved))


def test_the_outline_is_nine_numbers_of_the_region() -> None:
    region = np.zeros((40, 50), np.bool_)
    region[10:30, 0:25] = True
    assert outline_features(region) == pytest.approx([0, 0.25, 0.5, 0.75, 0.25, 0.5, 0, 0, 0])
    assert outline_features(np.zeros((4, 4), np.bool_)) == [0.0] * 9


def test_predictions_are_out_of_fold() -> None:
    """Each feature value occurs once: in its own fold it could be memorized, out of fold it predicts nothing."""
    rng = np.random.default_rng(0)
    grades, folds = rng.integers(0, 2, 400), np.arange(400) % 5
    random = out_of_fold(rng.normal(size=(400, 3)), grades, folds)
    informative = out_of_fold(grades[:, None] + rng.normal(0, 0.1, (400, 1)), grades, folds)
    assert random.sum(axis=1) == pytest.approx(np.ones(400))
    assert abs((random.argmax(axis=1) == grades).mean() - 0.5) < 0.1
    assert (informative.argmax(axis=1) == grades).mean() > 0.98


# The conclusion of an audit


def probe(kind: str, stage: str, kappa: float | None) -> ShortcutProbe:
    low, high = (None, None) if kappa is None else (kappa - 0.02, kappa + 0.02)
    return ShortcutProbe(
        kind=kind,
        stage=stage,
        num_photographs=100,
        kappa=kappa,
        kappa_low=low,
        kappa_high=high,
        accuracy=0.5,
        referable_auc=None,
    )


def effect(name: str, change: float | None) -> InterventionEffect:
    return InterventionEffect(
        name=name,
        num_photographs=0 if change is None else 10,
        mean_change=change,
        mean_low=change,
        mean_high=change,
        percentile_95=change,
        flip_fraction=change,
        num_lost=1,
    )


PROBES = (
    probe("outline", "photograph", 0.68),
    probe("outline", "prepared", None),
    probe("file", "photograph", 0.5),
    probe("color and sharpness", "photograph", 0.6),
    probe("color and sharpness", "prepared", 0.4),
)


def test_the_conclusion_names_the_strongest_shortcut_before_and_after() -> None:
    text = conclusion(Audit(data="eyes", model=None, probes=PROBES, effects=()))
    assert text == (
        "Shortcut learning: from the outline of the original photographs, without any retina, a classifier predicts "
        "the grade with kappa 0.68. From the outline the kappa is 0.68 before preprocessing and undefined after it; "
        "the strongest shortcut after preprocessing is color and sharpness (kappa 0.40)."
    )


def test_the_conclusion_weighs_changes_against_lesions() -> None:
    effects = (effect("cut", 0.05), effect("squashed", 0.09), effect("bars", None))
    audit = Audit(data="eyes", model="cnn", probes=PROBES, effects=effects)
    assert conclusion(audit).endswith(
        "Robustness to acquisition changes: the expected grade of cnn changes by at most 0.09 on average (squashed). "
        "How far it changes when lesions are covered was not measured."
    )
    measured = Audit(
        data="eyes", model="cnn", probes=PROBES, effects=(*effects, effect(LESIONS, 0.8), effect(CONTROL, 0.1))
    )
    assert conclusion(measured).endswith(
        "It changes by 0.80 when lesions are covered, and by 0.10 when an equal area of other retina is covered."
    )


@pytest.mark.parametrize("effects", [(), (effect("cut", 0.05), effect(LESIONS, 0.4), effect("lost", None))])
def test_the_figure_is_drawn(tmp_path: Path, effects: tuple[InterventionEffect, ...]) -> None:
    draw_audit(Audit(data="eyes $x", model="cnn", probes=PROBES, effects=effects), tmp_path / "audit.png")
    with Image.open(tmp_path / "audit.png") as figure:
        assert figure.width > figure.height > 300
        assert len(figure.convert("RGB").getcolors(1 << 24) or ()) > 50
