"""The report: one HTML file that needs no network, opens from disk and prints."""

from __future__ import annotations

from collections.abc import Sequence

from fundusgrade.evaluation.assessment import Assessment, ModelAssessment
from fundusgrade.grades import GRADE_LABELS, RESEARCH_USE, Grade
from fundusgrade.reports.html.charts import Frame, Series, key, lines_chart
from fundusgrade.reports.html.checklist import FOR_THE_AUTHORS, checklist, thresholds_chosen_on
from fundusgrade.reports.html.comparison_sections import audit_section, comparisons_section, verdicts
from fundusgrade.reports.html.context import GalleryItem, ModelDescription, ReportContext
from fundusgrade.reports.html.markup import (
    Html,
    bullets,
    count,
    element,
    escaped,
    figure,
    folded,
    image,
    in_words,
    joined,
    link,
    number,
    paragraph,
    percent,
    section,
    table,
)
from fundusgrade.reports.html.score_sections import (
    confusion_section,
    f1_of,
    grades_section,
    kappa_of,
    kappa_section,
    missing,
    named,
    points_section,
    scores_section,
    subgroups_section,
)
from fundusgrade.reports.html.style import PAGE_STYLE
from fundusgrade.reports.html.trust_sections import (
    decisions_section,
    deferral_section,
    reliability_section,
    sets_section,
)

# Nothing is loaded from anywhere, and nothing runs.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
_CONTENTS = (
    ("summary", "Summary"),
    ("data", "Data"),
    ("models", "Models, and what they have seen"),
    ("scores", "All scores"),
    ("kappa", "Agreement with the graders"),
    ("confusion", "Which grade is taken for which"),
    ("grades", "Each grade by itself"),
    ("operating-points", "Decisions at locked thresholds"),
    ("reliability", "Is confidence earned?"),
    ("decision-curves", "Is acting on it worth while?"),
    ("deferral", "What if uncertain photographs go to people?"),
    ("sets", "Sets of grades with a promise"),
    ("subgroups", "Subgroups"),
    ("comparisons", "Models compared"),
    ("audit", "Shortcut audit"),
    ("gallery", "The worst errors"),
    ("checklist", "Reporting guidelines"),
    ("making", "How this was made"),
)


def report_html(assessment: Assessment, context: ReportContext) -> str:
    """The whole page as text; the same assessment and context give the same bytes."""
    sections = (
        _summary(assessment, context),
        _data(assessment, context),
        _models(context),
        scores_section(assessment),
        kappa_section(assessment),
        confusion_section(assessment),
        grades_section(assessment),
        points_section(assessment),
        reliability_section(assessment),
        decisions_section(assessment),
        deferral_section(assessment),
        sets_section(assessment),
        subgroups_section(assessment),
        comparisons_section(assessment),
        audit_section(context),
        _gallery(context),
        _checklist(assessment, context),
        _making(context),
    )
    head = (
        f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escaped(context.title)}</title><style>{PAGE_STYLE}</style>"
    )
    body = joined([element("a", "Skip to the summary", href="#summary", class_="skip"), _header(assessment, context)])
    main = element("main", *sections)
    foot = element("footer", paragraph(RESEARCH_USE, class_="meta"))
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>{body}{main}{foot}</body></html>\n'


def _header(assessment: Assessment, context: ReportContext) -> Html:
    what = f"{count(assessment.num_photographs)} photographs, {', '.join(named(assessment))}; {context.created}"
    contents = element("ol", *(element("li", link(name, title)) for name, title in _CONTENTS))
    nav = element("nav", folded("Contents", contents), aria_label="Contents")
    return element("header", element("h1", context.title), paragraph(what, class_="meta"), nav)


def _summary(assessment: Assessment, context: ReportContext) -> Html:
    said = [paragraph(_in_brief(name, model)) for name, model in zip(named(assessment), assessment.models, strict=True)]
    compared = verdicts(assessment)
    return section(
        "summary",
        "Summary",
        paragraph(element("strong", RESEARCH_USE), " No decision about a patient may rest on it.", class_="notice"),
        *said,
        *([paragraph(compared)] if compared else []),
        element("h3", "Limits"),
        bullets(context.limits) if context.limits else missing("No limits were stated."),
    )


def _in_brief(name: str, model: ModelAssessment) -> str:
    """What one model does and misses, in sentences."""
    kappa, accuracy = kappa_of(model), model.evaluation.accuracy
    referable = model.evaluation.referable
    defined = [grade for grade in Grade if f1_of(model, grade).value is not None]
    weakest = min(defined, key=lambda grade: f1_of(model, grade).value or 0.0, default=None)
    words = (
        f"{name} agrees with the graders with a quadratic weighted kappa of {in_words(kappa, 3)} and gives the same "
        f"grade to {percent(accuracy, 1)} of the photographs."
    )
    if referable.sensitivity is not None and referable.specificity is not None:
        words += (
            f" It calls {percent(referable.sensitivity)} of the eyes with referable disease (moderate or worse) "
            f"referable, so it misses {percent(1 - referable.sensitivity)}, and {percent(1 - referable.specificity)} "
            "of the others by mistake."
        )
    if weakest is not None:
        words += f" It is weakest on {GRADE_LABELS[weakest]} (F1 {in_words(f1_of(model, weakest), 2)})."
    return words


def _data(assessment: Assessment, context: ReportContext) -> Html:
    data = context.data
    rows = [[f"{grade} {GRADE_LABELS[grade]}", count(number)] for grade, number in enumerate(data.num_per_grade)]
    facts = [
        ["data set", data.name],
        ["photographs scored", count(data.num_photographs)],
        ["independent groups (patients, copies)", count(data.num_groups)],
        ["partition", data.splits],
        ["preprocessing", data.recipe or "not known"],
        ["photographs that could not be prepared", count(data.num_ungraded)],
        ["photographs of doubtful quality", count(data.num_doubtful)],
        ["thresholds and sets", thresholds_chosen_on(assessment)],
        ["SHA-256 of the manifest", data.manifest_hash or "not known"],
    ]
    return section(
        "data",
        "Data",
        table("What was graded", ["what", "value"], facts, words=True),
        table("Photographs by the graders' grade", ["grade", "photographs"], rows),
    )


def _models(context: ReportContext) -> Html:
    title = "Models, and what they have seen"
    if not context.models:
        return section("models", title, missing("Nothing is known of the models beside their predictions."))
    return section("models", title, *(_model(model) for model in context.models))


def _model(model: ModelDescription) -> Html:
    facts = [
        ["architecture", model.architecture],
        ["trained on", model.training_data],
        ["start of the weights", model.start],
        ["kappa on its validation split", number(model.validation_kappa)],
        ["SHA-256 of the weights", model.weights_hash or "not known"],
    ]
    options = [[name, value] for name, value in model.options]
    folds = [folded("Options of the training", table("Options", ["option", "value"], options, words=True))]
    about = table(f"The model {model.name}", ["what", "value"], facts, words=True)
    return joined(
        [element("h3", model.name), paragraph(model.seen), about, *(folds if options else []), _learning(model)]
    )


def _learning(model: ModelDescription) -> Html:
    """Validation kappa over the epochs, folded away: it says how training went, not how good the model is."""
    if not model.curves:
        return Html("")
    lines = [
        Series(series=i, x=tuple(float(epoch + 1) for epoch in range(len(of.kappas))), y=of.kappas)
        for i, of in enumerate(model.curves)
    ]
    frame = Frame(title="Kappa on validation", x_label="epoch", y_label="kappa")
    chart = lines_chart(lines, frame, f"Validation kappa of {model.name} after each epoch of training.")
    caption = (
        "The epoch of the highest kappa was kept, before calibration and thresholds were fitted. A line that still "
        "rises at its end would have gained from more epochs."
    )
    return folded("How training went", figure([chart], caption, key([of.name for of in model.curves])))


def _gallery(context: ReportContext) -> Html:
    title = "The worst errors"
    if not context.gallery:
        reason = "No photographs are shown: no pictures were asked for, no error was made, or they are not at hand."
        return section("gallery", title, missing(reason))
    names = list(dict.fromkeys(item.model for item in context.gallery))
    shown = [
        joined([element("h3", name), _images([item for item in context.gallery if item.model == name])])
        for name in names
    ]
    return section(
        "gallery",
        title,
        paragraph(
            "Photographs whose grade is farthest from the graders', the most confident first. Beside each, where it "
            "can be computed, the photograph tinted where the evidence for the wrong grade lies. Some labels are "
            "wrong, and some photographs show too little; look at both before blaming the model."
        ),
        *shown,
    )


def _images(items: Sequence[GalleryItem]) -> Html:
    return element("ul", *(_gallery_item(item) for item in items), class_="gallery")


def _gallery_item(item: GalleryItem) -> Html:
    graders, model = GRADE_LABELS[item.grade], GRADE_LABELS[item.predicted]
    pair = [image(item.image, f"Fundus photograph {item.source}", _kind(item.image))]
    if item.heat_map is not None:
        words = f"The same, tinted where evidence for {model} lies"
        pair.append(image(item.heat_map, words, _kind(item.heat_map)))
    strength = "" if item.heat_map is None else f" Full tint: {number(item.heat_maximum, 1)}, {item.heat_unit}."
    return element(
        "li",
        element("div", *pair, class_="pair"),
        paragraph(element("strong", item.source)),
        paragraph(f"Graders: {item.grade} {graders}. Model: {item.predicted} {model}.{strength}"),
    )


def _kind(data: bytes) -> str:
    return "png" if data.startswith(b"\x89PNG") else "jpeg"


def _checklist(assessment: Assessment, context: ReportContext) -> Html:
    rows = [[item.asked, item.guidelines, item.answer] for item in checklist(assessment, context)]
    return section(
        "checklist",
        "Reporting guidelines",
        paragraph(
            "What CLAIM (2024), TRIPOD+AI (2024) and STARD-AI (2025) ask for, in our words, as far as this evaluation "
            "can answer it."
        ),
        table("Items answered here", ["asked", "by", "answer"], rows, words=True),
        element("h3", "For the authors of a study"),
        bullets(FOR_THE_AUTHORS),
    )


def _making(context: ReportContext) -> Html:
    commands = [element("pre", element("code", command), tabindex="0") for command in context.commands]
    versions = [[name, version] for name, version in context.versions]
    return section(
        "making",
        "How this was made",
        *(commands or [missing("The command is not known.")]),
        *([table("Versions", ["software", "version"], versions, words=True)] if versions else []),
        paragraph(f"Made {context.created}." if context.created else "The time is not known."),
    )
