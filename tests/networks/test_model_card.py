"""The model card names network, training data and options, validation scores and limitations."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from fundusgrade.grades import RESEARCH_USE
from fundusgrade.metrics.referral import choose_operating_point, referral_scores
from fundusgrade.networks.build import network_spec
from fundusgrade.networks.description import CheckpointDescription, Provenance
from fundusgrade.networks.model_card import model_card
from fundusgrade.photographs.recipe import Method, PreprocessRecipe


def description(metrics: dict[str, float | int | None] | None = None, arch: str = "vit") -> CheckpointDescription:
    return CheckpointDescription(
        name="aptos-vit",
        network=network_spec(arch, 224),
        recipe=PreprocessRecipe(method=Method.CLAHE, size_px=224),
        provenance=Provenance(
            created="2025-01-31T12:00:00+00:00",
            data_name="aptos2019",
            data_hash="cd" * 32,
            init="start.safetensors",
            options={
                "arch": arch,
                "epochs": 12,
                "batch_size": 32,
                "learning_rate": 3e-4,
                "layer_decay": 0.75,
                "class_weights": "sqrt",
                "seed": 7,
                "patience": None,
            },
            metrics=metrics or {"validation_kappa": 0.91234, "validation_accuracy": 0.8, "best_epoch": 9},
            versions={"fundusgrade": "0.1.0", "torch": "2.9.0"},
        ),
        weights_sha256="ef" * 32,
    )


def test_the_card_names_model_data_options_and_versions() -> None:
    card = model_card(description())
    assert card.startswith("# aptos-vit\n")
    for expected in (
        RESEARCH_USE,
        "vit_base_patch16_224",
        "224 x 224 px, preprocessing `clahe`",
        "initial weights: start.safetensors",
        "ef" * 32,
        "`aptos2019`, manifest SHA-256 `" + "cd" * 32,
        "`--class-weights sqrt`",
        "epochs 12, batch_size 32, learning_rate 0.0003, layer_decay 0.75",
        "seed 7",
        "fundusgrade 0.1.0, torch 2.9.0",
        "selected epoch: 9,",
        "validation kappa: 0.912",
        "validation accuracy: 0.800",
        "one photograph, not an eye or a patient",
    ):
        assert expected in card
    assert card.count(RESEARCH_USE) == 1


def test_an_undefined_figure_is_said_to_be_undefined() -> None:
    card = model_card(description({"validation_kappa": None, "validation_accuracy": 1.0, "best_epoch": 1}))
    assert "validation kappa: undefined" in card


def test_the_cnn_is_named_without_timm() -> None:
    card = model_card(description(arch="cnn"))
    assert "`cnn`" in card
    assert "timm `" not in card


def test_sections_stand_in_order_and_no_line_is_empty_twice() -> None:
    card = model_card(description())
    headings = [line for line in card.splitlines() if line.startswith("## ")]
    assert headings == [
        *("## Model", "## Training", "## Validation split", "## Referral", "## Checks of a photograph"),
        "## Limitations",
    ]
    assert "\n\n\n" not in card
    assert card.endswith("\n")


def test_the_card_says_what_thresholds_were_fitted_for() -> None:
    thresholds = (0.5, 1.25, 2.5, 3.5)
    with_thresholds = replace(description(), thresholds=thresholds)
    card = model_card(with_thresholds)
    assert "for kappa, accuracy and macro F1 together: 0.50, 1.25, 2.50, 3.50" in card, "as those of the first files"
    provenance = with_thresholds.provenance
    of_f1 = replace(provenance, options={**provenance.options, "decide_for": "macro-f1"})
    assert "fitted on validation photographs for macro F1: 0.50," in model_card(
        replace(with_thresholds, provenance=of_f1)
    )
    assert "decision: the most probable grade" in model_card(description())


def test_the_card_of_a_fold_by_source_says_what_was_held_out() -> None:
    whole = description()
    options = {**whole.provenance.options, "fold": 2, "num_folds": 2, "folds_by": "source"}
    provenance = replace(whole.provenance, data_name="aptos2019+idrid", options=options)
    assert "held out: `idrid`; trained and selected on the others" in model_card(replace(whole, provenance=provenance))
    assert "held out" not in model_card(whole)


def test_the_card_says_from_where_it_refers_and_what_that_found_on_each_data_set() -> None:
    unknown = model_card(description())
    assert "referable (moderate or worse) from p = 0.5000" in unknown
    assert "what that finds is not known, because the model stores no operating point" in unknown
    rng = np.random.default_rng(0)
    grades, scores, names = rng.integers(0, 5, 200), rng.random(200), ["a", "b"] * 100
    parts = [
        referral_scores(names[:100], grades[half], scores[half], np.arange(100))
        for half in (slice(100), slice(100, 200))
    ]
    point = choose_operating_point(*parts)
    assert point is not None
    card = model_card(replace(description(), operating_point=point))
    assert f"from p = {point.threshold:.4f}, chosen for a sensitivity of 0.9 on 100 validation photographs" in card
    assert "on validation photographs that chose nothing" in card
    for rates in point.rates:
        assert (
            f"\n- {rates.data or 'all'}: sensitivity {rates.sensitivity.describe(2)} of {rates.num_referable}" in card
        )
