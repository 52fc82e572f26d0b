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
from fundusgrade.evaluation.interventions import Role
from fundusgrade.evaluation.robustness import LESIONS, LESIONS_CONTROL, InterventionEffect
from fundusgrade.evaluation.shortcuts import ShortcutProbe, measure_shortcuts, out_of_fold, outline_features
from fundusgrade.metrics.estimates import Estimate
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


def effect(
    name: str,
    change: float | None,
    role: Role = Role.ACQUISITION,
    cut: float | None = None,
    outline: float | None = None,
) -> InterventionEffect:
    found = Estimate(value=change, low=change, high=change)
    return InterventionEffect(
        name=name,
        role=role,
        num_photographs=0 if change is None else 10,
        change=found,
        shift=found,
        outline_change=Estimate(value=outline, low=outline, high=outline),
        percentile_95=change,
        flip_fraction=change,
        num_lost=1,
        cut_fraction=cut,
    )


PROBES = (
    probe("outline", "photograph", 0.68),
    probe("outline", "prepared", None),
    probe("file", "photograph", 0.5),
    probe("color and sharpness", "photograph", 0.6),
    probe("color and sharpness", "prepared", 0.4),
)


def audited(*effects: InterventionEffect) -> Audit:
    return Audit(data="eyes $x", model="cnn", reach=0.7, probes=PROBES, effects=effects)


def test_the_conclusion_calls_shortcuts_only_what_is_without_any_retina() -> None:
    text = conclusion(replace(audited(), model=None))
    assert text == (
        "Shortcut learning: without any retina, a classifier predicts the grade from the outline of the original "
        "photographs with kappa 0.68, from the outline after preprocessing with undefined, and from properties of the "
        "file with 0.50. From color and sharpness of the retina it is 0.60 before preprocessing and 0.40 after it; "
        "these also depend on the contrast of lesions, so this is no proof of a shortcut."
    )


CUTS = (
    effect("cut at 0.75", 0.01, Role.NEGATIVE_CONTROL, 0.75, 0.9),
    effect("cut at 0.65", 0.05, cut=0.65, outline=1.1),
    effect("cut at 0.60", 0.08, cut=0.60, outline=1.2),
    effect("squashed", 0.09),
    effect("bars", None, cut=0.60),
)
CONTROLS = (effect("margin", 0.02, Role.NEGATIVE_CONTROL), effect("blurred", 0.7, Role.POSITIVE_CONTROL))


def test_the_conclusion_says_which_cuts_the_model_can_see_and_names_both_controls() -> None:
    assert conclusion(audited(*CUTS, *CONTROLS)).endswith(
        "Robustness to acquisition changes: cnn sees up to 0.70 of the radius above and below the center; cuts at "
        "0.60, 0.65 reach into that, cuts at 0.75 do not. Its expected grade changes by at most 0.09 on average "
        "(squashed), and by 0.02 under changes that it cannot see (margin), and by 0.70 under changes that it must "
        "notice (blurred). Under the cut that changes it most (cut at 0.60: 0.08), a classifier that reads only the "
        "outline of the photograph changes by 1.20. How far it changes when lesions are covered was not measured."
    )


def test_the_conclusion_weighs_covered_lesions_against_other_retina() -> None:
    lesions = (effect(LESIONS, 0.8, Role.POSITIVE_CONTROL), effect(LESIONS_CONTROL, 0.1, Role.NEGATIVE_CONTROL))
    text = conclusion(audited(*CUTS, *CONTROLS, *lesions))
    assert text.endswith(
        "It changes by 0.80 when lesions are covered, and by 0.10 when an equal area of other retina is covered."
    )
    assert "by 0.70 under changes that it must notice (blurred)" in text, "covered lesions have a sentence of their own"


@pytest.mark.parametrize("effects", [(), (*CUTS, *CONTROLS, effect(LESIONS, 0.4, Role.POSITIVE_CONTROL))])
def test_the_figure_is_drawn(tmp_path: Path, effects: tuple[InterventionEffect, ...]) -> None:
    draw_audit(audited(*effects), tmp_path / "audit.png")
    with Image.open(tmp_path / "audit.png") as figure:
        assert figure.width > figure.height > 300
        assert len(figure.convert("RGB").getcolors(1 << 24) or ()) > 50
