"""What reporting guidelines ask of a study like this, as far as an evaluation can answer it by itself.

Items are paraphrased from CLAIM (Mongan et al. 2020, updated by Tejani et al., Radiology: AI 2024), TRIPOD+AI (Collins
et al., BMJ 2024) and STARD-AI (Sounderajah et al., Nature Medicine 2025).
"""

from __future__ import annotations

from dataclasses import dataclass

from fundusgrade.evaluation.assessment import Assessment, ModelAssessment
from fundusgrade.reports.html.context import ReportContext
from fundusgrade.reports.html.markup import count, percent


@dataclass(frozen=True, slots=True, kw_only=True)
class ChecklistItem:
    """What is asked, by which guidelines, and the answer."""

    asked: str
    guidelines: str
    answer: str


FOR_THE_AUTHORS = (
    "purpose, clinical setting and the place of the model in care",
    "who was eligible, when and where photographs were taken, with which cameras and with or without dilation",
    "how graders were trained, how many graded each photograph and how far they agreed",
    "age, sex, ethnicity and duration of diabetes of the patients, and how missing values were treated",
    "sample size and why it is enough",
    "ethics approval, consent, registration, funding and conflicts of interest",
    "how patients were involved, and harms that may follow from errors",
)
"""Items that no evaluation can answer by itself."""


def checklist(assessment: Assessment, context: ReportContext) -> tuple[ChecklistItem, ...]:
    """The items that this evaluation answers, each with its answer."""
    return (*_about_data(assessment, context), *_about_models(context), *_about_results(assessment, context))


def thresholds_chosen_on(assessment: Assessment) -> str:
    """On which photographs thresholds and sets were chosen, of models where they differ, without a full stop."""
    said = {model.model: _chosen_on(model) for model in assessment.models if model.num_validation}
    if len(set(said.values())) < 2:
        return next(iter(said.values()), "Chosen on no photographs")
    return "; ".join(f"{name}: {words[0].lower()}{words[1:]}" for name, words in said.items())


def _chosen_on(model: ModelAssessment) -> str:
    if model.num_folds < 2:
        return f"Chosen on {count(model.num_validation)} validation photographs"
    each = round(model.num_validation / model.num_folds)
    return f"Chosen in each of {model.num_folds} folds on about {count(each)} validation photographs of its own"


def _item(asked: str, guidelines: str, answer: str) -> ChecklistItem:
    return ChecklistItem(asked=asked, guidelines=guidelines, answer=answer)


def _about_data(assessment: Assessment, context: ReportContext) -> list[ChecklistItem]:
    data = context.data
    grades = ", ".join(f"grade {grade}: {count(number)}" for grade, number in enumerate(data.num_per_grade))
    return [
        _item(
            "Data source and version", "CLAIM, STARD-AI", f"{data.name}; manifest {data.manifest_hash or 'not known'}."
        ),
        _item("Preprocessing", "CLAIM, TRIPOD+AI", data.recipe or "Not known."),
        _item("Partitions, and at which level they are disjoint", "CLAIM, TRIPOD+AI", data.splits),
        _item(
            "Flow of photographs; those that could not be used",
            "STARD-AI, TRIPOD+AI",
            f"{count(assessment.num_photographs)} scored; {count(data.num_ungraded)} of the data set could not be "
            f"prepared; {count(data.num_doubtful)} of doubtful quality are scored all the same.",
        ),
        _item("Distribution of severity", "CLAIM, STARD-AI", f"{grades}."),
        _item("Reference standard", "CLAIM, STARD-AI", "The grades of the data set, as they are."),
    ]


def _about_models(context: ReportContext) -> list[ChecklistItem]:
    names = "; ".join(f"{model.name}: {model.architecture}, from {model.start}" for model in context.models)
    seen = " ".join(f"{model.name}: {model.seen}" for model in context.models)
    hashes = "; ".join(f"{model.name}: {model.weights_hash[:12] or 'not known'}" for model in context.models)
    versions = ", ".join(f"{name} {version}" for name, version in context.versions)
    return [
        _item("Model and start of its weights", "CLAIM, TRIPOD+AI", names or "Not known."),
        _item("Overlap of training and test data", "CLAIM, TRIPOD+AI", seen or "Not known."),
        _item("Version of the index test", "STARD-AI", f"Weights: {hashes or 'not known'}. Software: {versions}."),
        _item(
            "Training: hyper-parameters, loss, handling of class imbalance",
            "CLAIM, TRIPOD+AI",
            "Listed with each model above." if any(model.options for model in context.models) else "Not known.",
        ),
    ]


def _about_results(assessment: Assessment, context: ReportContext) -> list[ChecklistItem]:
    points = any(model.operating_points for model in assessment.models)
    subgroups = any(model.subgroups for model in assessment.models)
    return [
        _item(
            "Metrics with their uncertainty",
            "CLAIM, TRIPOD+AI, STARD-AI",
            f"95 % intervals from {count(assessment.num_resamples)} bootstrap draws of {count(assessment.num_groups)} "
            "groups.",
        ),
        _item("Discrimination and calibration", "TRIPOD+AI", "Both; see all scores, and whether confidence is earned."),
        _item(
            "Thresholds set before the test",
            "STARD-AI",
            f"{thresholds_chosen_on(assessment)}."
            if points
            else "There were no validation photographs, so none are reported.",
        ),
        _item("Clinical utility", "TRIPOD+AI", "Decision curves for referable and sight-threatening disease."),
        _item(
            "Uncertainty of a single result",
            "TRIPOD+AI",
            f"Sets of grades that aim at {percent(assessment.coverage)} coverage; deferral of uncertain photographs."
            if any(model.set_coverage for model in assessment.models)
            else "Deferral of uncertain photographs.",
        ),
        _item(
            "Subgroups and fairness", "TRIPOD+AI, STARD-AI", "See subgroups." if subgroups else "None were asked for."
        ),
        _item(
            "Robustness and shortcuts",
            "CLAIM, STARD-AI",
            context.conclusion if context.audits else "Not audited.",
        ),
        _item(
            "Analysis of failures and explanations",
            "CLAIM",
            f"{count(len(context.gallery))} of the worst errors are shown." if context.gallery else "None are shown.",
        ),
        _item("How to repeat it", "CLAIM, TRIPOD+AI", "The command stands at the end."),
    ]
