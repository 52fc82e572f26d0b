"""Studies of explanations: photographs undergo the planned tests, and means and differences are right."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fundusgrade.errors import DatasetError, ExplanationError
from fundusgrade.evaluation.baselines import BASELINES
from fundusgrade.evaluation.findings import Findings, Measurement, summarize
from fundusgrade.evaluation.study import StudyOptions, study_dataset, study_lesions, study_photographs
from fundusgrade.explanation.heat_map import ExplainOptions
from fundusgrade.explanation.targets import REFERABLE
from fundusgrade.grading.grader import Grader
from fundusgrade.metrics.bootstrap import resample
from fundusgrade.networks.checkpoint import load_checkpoint
from fundusgrade.networks.device import choose_device
from fundusgrade.networks.torch_runtime import on_pytorch
from fundusgrade.options import Attribution, DeviceName, Precision
from fundusgrade.photographs.sources import find_images
from fundusgrade.reports.findings_tables import draw_findings, findings_tables, write_findings
from tests.drawn_eyes import healthy_eye, paint_lesions
from tests.models_for_tests import install_dataset, install_model, photographs_of, save_broken_files, save_photographs

GRAD_CAM = ExplainOptions(method=Attribution.GRAD_CAM)


def load(*names: str) -> list[Grader]:
    for seed, name in enumerate(names):
        install_model(name, arch="test_vit" if name.startswith("vit") else "cnn", seed=seed)
    choice = choose_device(DeviceName.CPU, Precision.FLOAT32)
    return [Grader(on_pytorch(load_checkpoint(install_model_path(name)), choice)) for name in names]


def install_model_path(name: str) -> Path:
    from fundusgrade import store

    return store.resolve_model(name)


def value_of(findings: Findings, model: str, method: str, test: str, measure: str) -> float | None:
    (found,) = [
        each
        for each in findings.findings
        if (each.model, each.method, each.test, each.measure) == (model, method, test, measure)
    ]
    return found.mean.value


def measured(
    values: dict[str, list[float | None]], *, test: str = "concentration", measure: str = "m"
) -> list[Measurement]:
    return [
        Measurement(photograph=number, model=model, method="grad-cam", test=test, measure=measure, value=value)
        for model, column in values.items()
        for number, value in enumerate(column)
    ]


def test_means_and_paired_differences_are_those_of_the_photographs() -> None:
    generator = np.random.default_rng(0)
    first = generator.normal(1.0, 1.0, 80)
    second = first - 0.2 + generator.normal(0, 0.1, 80)
    resamples = resample(np.arange(80))
    both = measured({"a": list(first), "b": list(second)})
    found = summarize(both, resamples, data="drawn", target="referable")
    assert [each.mean.value for each in found.findings] == pytest.approx([first.mean(), second.mean()])
    (difference,) = found.between_models
    assert (difference.first, difference.second, difference.within) == ("a", "b", "grad-cam")
    assert difference.difference.value == pytest.approx((first - second).mean())
    # Photographs differ much, the models on one photograph little: paired, the difference is clear.
    assert difference.difference.low is not None and difference.difference.high is not None
    assert 0.15 < difference.difference.low < 0.2 < difference.difference.high + 0.03
    assert difference.p is not None and difference.p < 0.001
    width = (difference.difference.high - difference.difference.low) / 2
    assert width == pytest.approx(1.96 * (first - second).std(ddof=1) / np.sqrt(80), rel=0.15)


def test_what_is_undefined_on_a_photograph_is_left_out_there() -> None:
    values = {"a": [1.0, None, 3.0, 5.0], "b": [2.0, 2.0, None, 4.0]}
    resamples = resample(np.arange(4))
    found = summarize(measured(values), resamples, data="drawn", target="referable")
    assert [(each.mean.value, each.num_photographs) for each in found.findings] == [
        (pytest.approx(3.0), 3),
        (pytest.approx(8 / 3), 3),
    ]
    assert found.between_models[0].num_photographs == 2
    assert found.between_models[0].difference.value == pytest.approx(0.0)


def test_one_photograph_has_no_interval() -> None:
    resamples = resample(np.arange(1))
    peak = measured({"a": [1.0]}, test="lesions", measure="peak on lesion")
    (found,) = summarize(peak, resamples, data="drawn", target="referable").findings
    assert (found.mean.value, found.mean.low, found.mean.high) == (1.0, None, None)


def test_copies_are_resampled_together() -> None:
    values = list(np.random.default_rng(1).normal(0, 1, 40))
    alone = resample(np.arange(40))
    twice = resample(np.repeat(np.arange(40), 2))
    doubled = [value for value in values for _ in range(2)]
    one, other = (
        summarize(measured({"a": column}), resamples, data="", target="").findings[0].mean
        for column, resamples in ((values, alone), (doubled, twice))
    )
    assert one.value == pytest.approx(other.value)
    assert (one.low, one.high) == (pytest.approx(other.low, abs=1e-3), pytest.approx(other.high, abs=1e-3))


def test_concentration_is_measured_on_all_photographs_and_all_else_on_some() -> None:
    dataset = install_dataset("drawn")
    graders = load("cnn-a", "cnn-b", "vit-c")
    options = StudyOptions(target=REFERABLE, methods=(GRAD_CAM,), limit=2, num_resamples=100)
    with pytest.raises(DatasetError, match="cannot be read"):  # the photographs it was made of are gone
        study_dataset(graders, dataset, "all", options)
    progress: list[tuple[int, int]] = []
    with photographs_of(dataset):
        found = study_dataset(graders, dataset, "all", options, lambda *counts: progress.append(counts))
    num_rows = len(dataset.graded_rows())
    assert progress == [(done, num_rows + 2) for done in range(1, num_rows + 3)]
    counts = {each.test: each.num_photographs for each in found.findings if each.measure in ("entropy", "ROAD")}
    assert counts["perturbation"] == 2
    assert counts["concentration"] > 10
    between = {each.model for each in found.findings if each.measure == "rank correlation between models"}
    assert between == {"cnn-a and cnn-b", "cnn-a and vit-c", "cnn-b and vit-c"}
    assert {each.within for each in found.over_baselines if each.measure == "ROAD"} == {"cnn-a", "cnn-b", "vit-c"}
    with pytest.raises(DatasetError, match="no graded photographs in the split 'nowhere'"):
        study_dataset(graders, dataset, "nowhere", options)


def test_every_method_that_fits_a_model_is_tested_beside_baselines_by_default(tmp_path: Path) -> None:
    photographs = find_images(save_photographs(tmp_path, [0]))
    options = StudyOptions(target=REFERABLE, num_resamples=100)
    found = study_photographs(load("cnn-a", "vit-c"), photographs, None, options, "photographs")
    methods = {each.model: {f.method for f in found.findings if f.model == each.model} for each in found.findings}
    assert methods["cnn-a"] - set(BASELINES) == {each.value for each in Attribution} - {"auto", "attention-rollout"}
    assert methods["vit-c"] - set(BASELINES) == {each.value for each in Attribution} - {"auto"}
    assert set(BASELINES) - methods["cnn-a"] <= {"optic disc"}
    depths = {each.measure for each in found.findings if each.test == "randomization" and "rank" in each.measure}
    assert {"rank correlation, last layer", "rank correlation, 100 % of the layers"} <= depths and len(depths) == 5


def save_lesion_folder(folder: Path) -> None:
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for seed in range(2):
        eye = paint_lesions(healthy_eye(400), seed=seed, haemorrhages=12, exudates=12)
        Image.fromarray(eye.photograph).save(folder / "images" / f"eye{seed}.png")
        for kind, mask in (("HE", eye.masks.haemorrhages), ("EX", eye.masks.exudates)):
            Image.fromarray(mask.astype(np.uint8) * 255).save(folder / "masks" / f"eye{seed}_{kind}.png")


def test_lesions_are_tested_by_kind_beside_baselines(tmp_path: Path) -> None:
    save_lesion_folder(tmp_path / "lesions")
    graders = load("cnn-a")
    options = StudyOptions(target=REFERABLE, methods=(GRAD_CAM,), num_resamples=100)
    found = study_lesions(graders, tmp_path / "lesions", options)
    tests = {each.test for each in found.findings}
    assert {"lesions", "hemorrhages", "hard exudates"} <= tests and "microaneurysms" not in tests
    lifts = {
        each.method: each.mean.value
        for each in found.findings
        if (each.test, each.measure) == ("lesions", "heat on lesions / their area")
    }
    assert {"grad-cam", "grad-cam, randomized", "random", "center", "contrast", "vessels"} <= set(lifts)
    assert lifts["random"] == pytest.approx(1.0, abs=0.5)
    assert lifts["contrast"] is not None and lifts["contrast"] > 3
    chance = value_of(found, "cnn-a", "random", "lesions", "average precision by chance")
    assert chance == pytest.approx(value_of(found, "cnn-a", "center", "lesions", "average precision by chance"))
    compared = {each.second for each in found.over_baselines if each.test == "lesions"}
    assert {"random", "center", "grad-cam, randomized"} <= compared


def test_photographs_that_cannot_be_graded_are_left_out(tmp_path: Path) -> None:
    save_broken_files(tmp_path)
    save_lesion_folder(tmp_path / "lesions")
    found = find_images([tmp_path / "black.png", tmp_path / "lesions" / "images"])
    options = StudyOptions(target=REFERABLE, methods=(GRAD_CAM,), num_resamples=100)
    study = study_photographs(load("cnn-a"), found, None, options, "photographs")
    assert study.num_photographs == 2
    with pytest.raises(DatasetError, match="none of 1 photographs could be tested"):
        study_photographs(load("cnn-a"), found[:1], None, options, "photographs")
    assert not [each for each in study.findings if each.test == "lesions"]


def test_models_of_different_preprocessing_are_not_compared(tmp_path: Path) -> None:
    first, second = load("cnn-a", "cnn-b")
    second.description = replace(second.description, recipe=replace(second.recipe, size_px=96))
    with pytest.raises(ExplanationError, match="preprocess photographs differently"):
        study_photographs([first, second], [], None, StudyOptions(target=REFERABLE), "")
    with pytest.raises(ExplanationError, match="identified by name, and these are called cnn-a, cnn-a"):
        study_photographs([first, first], [], None, StudyOptions(target=REFERABLE), "")
    rollout = StudyOptions(target=REFERABLE, methods=(ExplainOptions(method=Attribution.ATTENTION_ROLLOUT),))
    with pytest.raises(ExplanationError, match="--method attention-rollout fits none of cnn-a"):
        study_photographs([first], [], None, rollout, "")


def test_findings_become_tables_a_file_and_a_figure(tmp_path: Path) -> None:
    values = {"a": [0.1, 0.2, None], "b": [0.3, 0.1, 0.2]}
    resamples = resample(np.arange(3))
    found = summarize(measured(values), resamples, data="drawn [red]", target="referable")
    tables = findings_tables(found)
    assert [table.row_count for table in tables] == [2, 1]
    road = summarize(
        measured(values, test="perturbation", measure="ROAD"), resamples, data="a/b, test", target="referable"
    )
    written = write_findings([found, road], tmp_path / "out")
    assert [path.name for path in written] == ["faithfulness.json", "a-b-test-road.png"]
    assert all(path.is_file() for path in written)
    content = json.loads(written[0].read_text())
    assert content["studies"][0]["findings"][0]["mean"]["value"] == pytest.approx(0.15)
    assert "not a medical device" in content["notice"]
    draw_findings(found, "concentration", "m", tmp_path / "out" / "m.png", chance=0.1)
    with Image.open(tmp_path / "out" / "m.png") as figure:
        assert figure.width > 600 and len(np.unique(np.asarray(figure.convert("L")))) > 20
