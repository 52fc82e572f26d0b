"""An evaluation in ten lines for each model: what to look at first. All scores are in `reports.tables`."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from fundusgrade.evaluation.assessment import Assessment, ModelAssessment
from fundusgrade.evaluation.screening import EVERYONE, ScreeningRates
from fundusgrade.grades import SIGHT_THREATENING_FROM
from fundusgrade.metrics.score_keys import BINARY_DECISIONS, ScoreKey
from fundusgrade.text import printable

_SCORES = (
    ScoreKey.KAPPA,
    ScoreKey.KAPPA_WITHIN_ACQUISITION,
    ScoreKey.ACCURACY,
    ScoreKey.MACRO_F1,
    BINARY_DECISIONS[0].auc,
    ScoreKey.REFERABLE_CALIBRATION_SLOPE,
)
UNKNOWN = "unknown"


def summary_table(assessment: Assessment) -> Table:
    """Ten scores with their 95 % confidence intervals: one column per model."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("score (95 % CI)", overflow="fold")
    for model in assessment.models:
        # As Text, because square brackets in a name would be read as markup.
        table.add_column(Text(printable(model.model)), justify="right", overflow="fold")
    table.add_row("photographs", *(str(model.evaluation.num_photographs) for model in assessment.models))
    for key in _SCORES:
        is_known = assessment.acquisitions or key is not ScoreKey.KAPPA_WITHIN_ACQUISITION
        table.add_row(key.label, *(model.score(key).describe() if is_known else UNKNOWN for model in assessment.models))
    rates = [_rates_of_everyone(model) for model in assessment.models]
    table.add_row(
        "referred, of the referable (sensitivity)", *(of.sensitivity.describe() if of else UNKNOWN for of in rates)
    )
    table.add_row(
        "not referred, of the others (specificity)", *(of.specificity.describe() if of else UNKNOWN for of in rates)
    )
    table.add_row("severe or proliferative, not referred", *(_missed(of) for of in rates))
    return table


def differences_table(assessment: Assessment) -> Table:
    """The difference of kappa of every pair of models, in one line each."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in ("first - second", "kappa (95 % CI)", "p"):
        table.add_column(column, overflow="fold")
    for pair in assessment.comparisons:
        name = Text(printable(f"{pair.first} - {pair.second}"))
        table.add_row(name, pair.kappa_difference.describe(), pair.describe_p(pair.kappa_p))
    return table


def _rates_of_everyone(model: ModelAssessment) -> ScreeningRates | None:
    """The referrals of all photographs at the operating point, where the model has one."""
    rates = model.screening.rates if model.screening else ()
    return next((of for of in rates if of.scope == EVERYONE), None)


def _missed(of: ScreeningRates | None) -> str:
    if of is None:
        return UNKNOWN
    return f"{sum(of.num_missed[SIGHT_THREATENING_FROM:])} of {sum(of.num_per_grade[SIGHT_THREATENING_FROM:])}"
