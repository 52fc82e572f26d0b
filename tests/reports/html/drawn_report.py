"""A report on drawn numbers, and a page taken apart, for tests."""

from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser

import numpy as np

from fundusgrade.evaluation.audit import Audit
from fundusgrade.evaluation.interventions import Role
from fundusgrade.evaluation.robustness import InterventionEffect
from fundusgrade.evaluation.shortcuts import ShortcutProbe
from fundusgrade.evaluation.visibility import UnseenLesions
from fundusgrade.metrics.estimates import Estimate
from fundusgrade.metrics.predictions import PredictionSet
from fundusgrade.photographs.images import encode_jpeg
from fundusgrade.reports.html.context import (
    DataDescription,
    GalleryHeatMap,
    GalleryItem,
    KappaCurve,
    ModelDescription,
    ReportContext,
)
from tests.scored import draw_photographs, grade_again, prediction_set

VOID = {"meta", "img", "br", "hr"}


class Page(HTMLParser):
    """Elements of a page with their attributes, and its text; fails where one is closed that is not open."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._rows: list[list[list[str]]] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == [], f"never closed: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)
        if tag == "tr":
            self._rows.append([])
        elif tag in ("th", "td"):
            self._rows[-1].append([])

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open and self._open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] not in ("style", "script"):
            self.words.append(data)
        if {"th", "td"} & set(self._open):
            self._rows[-1][-1].append(data)

    def values(self, attribute: str) -> list[str]:
        return [found[attribute] or "" for _, found in self.elements if attribute in found]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    @property
    def rows(self) -> list[list[str]]:
        """The cells of all rows of all tables."""
        return [[" ".join("".join(cell).split()) for cell in row] for row in self._rows]

    @property
    def facts(self) -> dict[str, str]:
        """The last cell of each row by the first; of rows with one name, that of the last."""
        return {row[0]: row[-1] for row in self.rows}


def sets(num_models: int = 2, *, with_validation: bool = True) -> list[PredictionSet]:
    test, validation = draw_photographs(150, 0), draw_photographs(120, 50)
    return [
        prediction_set(
            grade_again(test, 9 + i, skill=1.2 + i),
            grade_again(validation, 70 + i, skill=1.2 + i) if with_validation else None,
            model=f"model-{i}",
        )
        for i in range(num_models)
    ]  # fmt: skip


def image() -> bytes:
    return encode_jpeg(np.full((8, 8, 3), 90, np.uint8))


def audit() -> Audit:
    probe = ShortcutProbe(
        kind="outline", stage="photograph", num_photographs=150, kappa=0.63, kappa_low=0.6, kappa_high=0.66,
        accuracy=0.7, referable_auc=0.9,
    )  # fmt: skip
    effect = InterventionEffect(
        name="cut", role=Role.ACQUISITION, num_photographs=150, change=Estimate(value=0.02, low=0.01, high=0.03),
        shift=Estimate(value=-0.015, low=-0.02, high=-0.01), outline_change=Estimate(value=1.25, low=1.2, high=1.3),
        percentile_95=0.1, flip_fraction=0.01, num_lost=0,
    )  # fmt: skip
    unseen = UnseenLesions(
        kind="hard exudates", num_photographs=10, num_lesions=432, unseen_area=0.123, unseen_lesions=0.087
    )
    return Audit(data="eyes", model="model-0", reach=0.7, probes=(probe,), effects=(effect,), unseen_lesions=(unseen,))


def context(**changes: object) -> ReportContext:
    data = DataDescription(
        name="eyes", num_photographs=150, num_per_grade=(70, 20, 40, 8, 12), num_groups=150, part="test",
        num_folds=0, recipe="ben-graham", manifest_hash="ab" * 32, num_ungraded=3, num_doubtful=4,
    )  # fmt: skip
    model = ModelDescription(
        name="model-0", architecture="resnet50", training_data="eyes", start="random", options=(("epochs", "7"),),
        rule="the expected grade: mild from 0.52",
        validation_kappa=0.91, weights_hash="cd" * 32, leakage="None of these photographs.",
        curves=(KappaCurve(name="model-0-fold1", kappas=(None, 0.5, 0.9)), KappaCurve(name="fold2", kappas=(0.1, 0.2))),
    )  # fmt: skip
    heat_map = GalleryHeatMap(image=image(), maximum=4.0, unit="logits")
    made = ReportContext(
        title="Grading of eyes", created="2026-11-24", versions=(("fundusgrade", "0.1.0"),), data=data, models=(model,),
        audits=(audit(),), conclusion="The outline tells the grade.",
        gallery=(
            GalleryItem(
                model="model-0", source="a.png", grade=4, predicted=3, image=image(), heat_map=heat_map,
                decision="expected grade 2.99, severe from 2.58; most probable moderate, p = 0.47",
            ),
            GalleryItem(
                model="model-0", source="b.png", grade=3, predicted=0, image=image(), decision="most probable, p = 0.8",
            ),
        ),
        commands=("fundusgrade evaluate --report report.html",),
    )  # fmt: skip
    return replace(made, **changes)  # type: ignore[arg-type]
