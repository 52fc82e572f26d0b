"""The parts of a report that say how often a model is right: scores, matrices, kappa, grades, thresholds, subgroups."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fundusgrade.evaluation.assessment import Assessment, ModelAssessment, Subgroup
from fundusgrade.grades import GRADE_LABELS, NUM_GRADES
from fundusgrade.metrics.bootstrap import Estimate
from fundusgrade.metrics.operating_points import OperatingPoint
from fundusgrade.reports.html.charts import DotRow, Frame, dots_chart, key, letter
from fundusgrade.reports.html.checklist import thresholds_chosen_on
from fundusgrade.reports.html.markup import (
    Html,
    count,
    element,
    escaped,
    estimate,
    figure,
    folded,
    in_words,
    joined,
    number,
    paragraph,
    percent,
    section,
    table,
)

_STRONG_SHADE = 59  # percent; above it light text contrasts more with the shade, in the light and in the dark
_MANY_VALUES = 12


def named(assessment: Assessment) -> list[str]:
    """The models' names, with the letters that charts call them by where there are several."""
    names = [model.model for model in assessment.models]
    return names if len(names) < 2 else [f"{letter(i)} {name}" for i, name in enumerate(names)]


def missing(reason: str) -> Html:
    """Why a part of the report says nothing."""
    return paragraph(reason, class_="missing")


def kappa_of(model: ModelAssessment) -> Estimate:
    """The quadratic weighted kappa with its interval where one was estimated."""
    return _score_or(model, model.evaluation.kappa, "kappa")


def f1_of(model: ModelAssessment, grade: int) -> Estimate:
    """The F1 of a grade with its interval where one was estimated."""
    value = model.evaluation.grades[grade].f1
    by_label = _score_or(model, None, "f1", GRADE_LABELS[grade].casefold())
    return by_label if by_label.value is not None else _score_or(model, value, "f1", f"grade {grade}")


def _score_or(model: ModelAssessment, value: float | None, *words: str) -> Estimate:
    for score in model.scores:
        if all(word in score.name.casefold() for word in words):
            return score.estimate
    return Estimate(value=value, low=None, high=None)


def scores_section(assessment: Assessment) -> Html:
    """All scores, a model in each column."""
    names = list(dict.fromkeys(score.name for model in assessment.models for score in model.scores))
    title = "All scores"
    if not names:
        return section("scores", title, missing("No scores were estimated."))
    by_name = [{score.name: score.estimate for score in model.scores} for model in assessment.models]
    nothing = Estimate(value=None, low=None, high=None)
    rows = [[name, *(estimate(of.get(name, nothing)) for of in by_name)] for name in names]
    return section(
        "scores",
        title,
        paragraph(
            "Below each score stands the range in which it would probably lie on other photographs of the same kind "
            f"(95 % interval, {count(assessment.num_resamples)} bootstrap draws of whole groups, so that copies and "
            "photographs of one patient count as one piece of evidence). A score is undefined where no photograph "
            "could show it."
        ),
        table(f"Scores on {count(assessment.num_photographs)} photographs", ["score", *named(assessment)], rows),
    )


def confusion_section(assessment: Assessment) -> Html:
    """Which grade is taken for which."""
    matrices = [
        matrix_table(f"{name}: graders' grade (rows) and the model's (columns)", model.evaluation.confusion_matrix)
        for name, model in zip(named(assessment), assessment.models, strict=True)
    ]
    return section(
        "confusion",
        "Which grade is taken for which",
        paragraph(
            "Each row holds the photographs that graders gave one grade; the columns are what the model said. "
            "Photographs on the diagonal are graded alike. Those in the lower left are graded too low, which misses "
            "disease; those in the upper right too high. Percentages and shades are shares of the row."
        ),
        element("div", *matrices, class_="matrices"),
    )


def matrix_table(caption: str, matrix: Sequence[Sequence[int]], corner: str = "grade") -> Html:
    """Counts of pairs of grades as a table that is shaded by the share of its row."""
    rows = [
        [f"{grade} {GRADE_LABELS[grade]}", *_shaded(counts), count(sum(counts))] for grade, counts in enumerate(matrix)
    ]
    heads = [element("abbr", str(grade), title=label) for grade, label in enumerate(GRADE_LABELS)]
    return table(caption, [corner, *heads, "all"], rows, class_="matrix")


def _shaded(counts: Sequence[int]) -> Iterator[Html]:
    total = sum(counts)
    for value in counts:
        share = round(100 * value / total) if total else 0
        words = joined([count(value), element("span", f"{share} %" if total else "–", class_="range")], " ")
        kind = "strong" if share > _STRONG_SHADE else None
        yield element("td", words, style=f"--share:{share}%", class_=kind)


def kappa_section(assessment: Assessment) -> Html:
    """The kappas with their intervals."""
    rows = [
        DotRow(label=name, dots=(kappa_of(model),))
        for name, model in zip(named(assessment), assessment.models, strict=True)
    ]
    words = "; ".join(
        f"{name}: {in_words(kappa_of(model))}" for name, model in zip(named(assessment), assessment.models, strict=True)
    )
    chart = dots_chart(
        rows,
        Frame(title="Quadratic weighted kappa", x_label="kappa, 95 % interval"),
        f"Quadratic weighted kappa with 95 % intervals. {words}.",
        digits=3,
    )
    return section(
        "kappa",
        "Agreement with the graders",
        paragraph(
            "The quadratic weighted kappa is 1 where the model always gives the graders' grade and 0 where it agrees "
            "as often as chance would. Being off by two grades costs four times as much as being off by one. Where the "
            "intervals of two models overlap much, these photographs cannot tell which is better; the paired "
            "comparison below tells more than the overlap does."
        ),
        figure([chart], f"{words}. The bars are 95 % intervals."),
    )


def grades_section(assessment: Assessment) -> Html:
    """How well each grade is recognized."""
    rows = [
        DotRow(label=f"{grade} {label}", dots=tuple(f1_of(model, grade) for model in assessment.models))
        for grade, label in enumerate(GRADE_LABELS)
    ]
    chart = dots_chart(
        rows,
        Frame(title="F1 of each grade", x_label="F1, 95 % interval", x_ends=(0.0, 1.0)),
        "F1 score of each grade with 95 % intervals; the numbers are in the table below.",
    )
    tables = [_grade_table(name, model) for name, model in zip(named(assessment), assessment.models, strict=True)]
    return section(
        "grades",
        "Each grade by itself",
        paragraph(
            "Recall is the share of a grade's photographs that the model finds, precision the share of what it calls "
            "so that is so, and F1 balances the two (1 is best). Grades with few photographs have wide intervals."
        ),
        figure([chart], _weakest_grades(assessment), key([model.model for model in assessment.models])),
        folded("Precision, recall and F1 in numbers", *tables),
    )


def _grade_table(name: str, model: ModelAssessment) -> Html:
    rows = [
        [
            f"{of.grade} {GRADE_LABELS[of.grade]}",
            count(of.num_photographs),
            number(of.precision),
            number(of.recall),
            estimate(f1_of(model, of.grade)),
        ]
        for of in model.evaluation.grades
    ]
    return table(f"{name}: scores of each grade", ["grade", "photographs", "precision", "recall", "F1"], rows)


def _weakest_grades(assessment: Assessment) -> str:
    sentences = []
    for name, model in zip(named(assessment), assessment.models, strict=True):
        values = [(value, grade) for grade in range(NUM_GRADES) if (value := f1_of(model, grade).value) is not None]
        if values:
            value, grade = min(values)
            sentences.append(f"{name} recognizes {GRADE_LABELS[grade]} worst (F1 {number(value, 2)}).")
    return " ".join(sentences) or "No grade has a defined F1."


def points_section(assessment: Assessment) -> Html:
    """Decisions at thresholds that were locked before the test photographs were looked at."""
    title = "Decisions at locked thresholds"
    points = [
        (name, point)
        for name, model in zip(named(assessment), assessment.models, strict=True)
        for point in model.operating_points
    ]
    if not points:
        return section("operating-points", title, missing(_why_no_points(assessment)))
    columns = ["model", "decision", "aim on validation", "threshold", "sensitivity", "specificity", "PPV", "NPV"]
    return section(
        "operating-points",
        title,
        paragraph(
            f"A threshold turns a probability into yes or no. {thresholds_chosen_on(assessment)}, "
            "it was not touched afterwards; "
            "where there are folds, the mean is shown. Sensitivity is the share of diseased photographs that are "
            "found, specificity the share of others that are left alone. PPV and NPV, the shares of right alarms and "
            "of right all-clears, hold only where disease is as frequent as here."
        ),
        table("Operating points", columns, [_point_row(name, point) for name, point in points]),
        paragraph(_point_in_words(*points[0])),
    )


def _why_no_points(assessment: Assessment) -> str:
    if not any(model.num_validation for model in assessment.models):
        return (
            "There are no validation photographs among the predictions, so no threshold could be locked before the "
            "test. Thresholds chosen on the test photographs themselves would flatter, and are not shown."
        )
    return "No threshold could be locked: the validation photographs do not hold both answers."


def _point_row(name: str, point: OperatingPoint) -> list[str]:
    scores = (
        point.sensitivity,
        point.specificity,
        point.positive_predictive_value,
        point.negative_predictive_value,
    )
    words = [element("td", word, class_="word") for word in (point.what, point.aim)]
    return [name, *words, number(point.threshold), *(estimate(score) for score in scores)]


def _point_in_words(name: str, point: OperatingPoint) -> str:
    found, left = point.sensitivity.value, point.specificity.value
    if found is None or left is None:
        return f"For {name}, decision “{point.what}”, sensitivity or specificity is undefined on these photographs."
    return (
        f"In words, the first row: of 100 photographs that are {point.what} by their label, {name} finds about "
        f"{100 * found:.0f} and misses {100 - round(100 * found)}; of 100 that are not, it raises a false alarm for "
        f"about {100 - round(100 * left)}."
    )


def subgroups_section(assessment: Assessment) -> Html:
    """Whether some photographs are graded worse than others."""
    title = "Subgroups"
    columns = list(dict.fromkeys(of.column for model in assessment.models for of in model.subgroups))
    if not columns:
        reason = (
            "None were asked for, so it is not known whether some patients are served worse than others; --by names "
            "columns of the manifest, such as quality, eye or site."
        )
        return section("subgroups", title, missing(reason))
    parts = [_subgroup_part(assessment, column) for column in columns]
    return section(
        "subgroups",
        title,
        paragraph(
            "The same scores for photographs with one value in a column of the manifest. Look for a value far below "
            "the others whose interval does not reach them; small groups differ by chance, and the more groups are "
            "looked at, the more do."
        ),
        *parts,
    )


def _subgroup_part(assessment: Assessment, column: str) -> Html:
    by_model = [{of.value: of for of in model.subgroups if of.column == column} for model in assessment.models]
    values = list(dict.fromkeys(value for groups in by_model for value in groups))
    sizes = {value: next(groups[value].num_photographs for groups in by_model if value in groups) for value in values}
    parts: list[str] = [element("h3", f"By {column}")]
    if len(values) <= _MANY_VALUES:
        parts.append(_subgroup_chart(assessment, column, by_model, sizes))
    rows = [
        [f"{value}: {score}", count(sizes[value]), *(_subgroup_cell(groups.get(value), score) for groups in by_model)]
        for value in values
        for score in ("kappa", "accuracy", "referable AUC")
    ]
    content = table(f"Scores by {column}", [column, "photographs", *named(assessment)], rows)
    return joined([*parts, folded(f"Scores by {column} in numbers", content)])


def _subgroup_chart(
    assessment: Assessment, column: str, by_model: Sequence[dict[str, Subgroup]], sizes: dict[str, int]
) -> Html:
    nothing = Estimate(value=None, low=None, high=None)
    rows = [
        DotRow(
            label=f"{value} ({size:,} photographs)",
            dots=tuple(groups[value].kappa if value in groups else nothing for groups in by_model),
        )
        for value, size in sizes.items()
    ]
    words = f"Quadratic weighted kappa by {column}, with 95 % intervals; the numbers are in the table below."
    chart = dots_chart(rows, Frame(title=f"Kappa by {column}", x_label="kappa, 95 % interval"), words)
    return figure([chart], words, key([model.model for model in assessment.models]))


def _subgroup_cell(group: Subgroup | None, score: str) -> str:
    if group is None:
        return escaped("–")
    return estimate({"kappa": group.kappa, "accuracy": group.accuracy}.get(score, group.referable_auc))


def share_of(part: int, whole: int) -> str:
    """A count of a whole with its percentage."""
    return f"{count(part)} of {count(whole)} ({percent(part / whole if whole else None)})"
