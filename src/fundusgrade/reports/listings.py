"""Models, data sets and single predictions as lines and tables, without PyTorch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from fundusgrade.data.dataset import PreparedDataset
from fundusgrade.data.grade_names import HOW_TO_NAME
from fundusgrade.data.label_files import NO_GRADE
from fundusgrade.data.manifest import ManifestRow
from fundusgrade.data.samples import RawDataset
from fundusgrade.grades import Gradability, Grade, Prediction, Referral, Ungraded
from fundusgrade.grading.patients import PatientResult
from fundusgrade.metrics.conformal import KnownCoverage
from fundusgrade.metrics.drift import MIN_PHOTOGRAPHS, Drift
from fundusgrade.metrics.estimates import describe_number
from fundusgrade.metrics.referral import OperatingPoint
from fundusgrade.networks.feature_checks import ChecksProvenance
from fundusgrade.networks.local_calibration import LocalCalibration
from fundusgrade.options import Split
from fundusgrade.store import StoredDataset, StoredModel
from fundusgrade.text import one_line, printable

_MAX_KINDS = 12
_SPLITS = (Split.TRAIN, Split.VALIDATION, Split.TEST)


def dataset_summary(dataset: PreparedDataset) -> str:
    """A summary of a prepared data set in a few lines of plain text, with the number of each reason for failure."""
    usable = [row for row in dataset.rows if row.error is None]
    grades, splits = Counter(row.grade for row in usable), Counter(row.split for row in usable)
    reasons = Counter(row.error for row in dataset.rows if row.error)
    lines = [
        f"data set {dataset.name}: {len(usable)} of {len(dataset.rows)} photographs prepared in {dataset.directory}",
        "photographs of each grade: " + ", ".join(f"{grade.label} {grades[grade]}" for grade in Grade),
        "photographs of each split: " + ", ".join(f"{split} {splits[split]}" for split in _SPLITS if splits[split]),
        f"duplicates with conflicting grades: {sum(row.conflict for row in dataset.rows)}",
        *_acquisition_summary(usable),
        _quality_summary(usable),
        *(f"not prepared, {count}: {reason}" for reason, count in reasons.most_common(10)),
    ]
    return printable("\n".join(lines))


def skipped_line(num_skipped: Mapping[str, int]) -> str:
    """What folders and archives hold besides photographs, by kind, the most frequent first; "" for nothing."""
    kinds = sorted(num_skipped.items(), key=lambda item: (-item[1], item[0]))
    counts = [f"{count} {kind}" for kind, count in kinds[:_MAX_KINDS]]
    num_others = sum(count for _, count in kinds[_MAX_KINDS:])
    if num_others:
        counts.append(f"{num_others} of other kinds")
    return printable(f"skipped: {', '.join(counts)}") if counts else ""


def labels_summary(raw: RawDataset) -> str:
    """Where the grades of a data set come from, how many photographs have none, and which tables were not read."""
    num_without = raw.num_unlabeled_left_out + sum(sample.grade is None and not sample.error for sample in raw.samples)
    if raw.layout == "photographs":
        source = "none found"
    else:
        source = ", ".join(path.name for path in raw.label_files) or "folders named by grade"
        source += f" (layout {raw.layout})"
    unread = ", ".join(path.name for path in raw.unread_files[:10])
    lines = [f"labels: {source}; photographs without a grade: {num_without}"]
    if raw.num_unlabeled_left_out:
        lines[0] += ", left out"
    if unread:
        lines.append(f"not read as labels: {unread}")
    answers = Counter(sample.without_grade for sample in raw.samples if sample.without_grade)
    if answers:
        counts = ", ".join(f"{count} {answer}" for answer, count in sorted(answers.items()))
        lines.append(f"photographs without a grade by the reader: {counts}; they are neither trained on nor scored")
    if raw.num_skipped:
        lines.append(skipped_line(raw.num_skipped))
    num_unknown = sum(sample.error is not None and sample.error.startswith(NO_GRADE) for sample in raw.samples)
    if num_unknown:
        lines.append(f"labels that are no grade: {num_unknown}; say what they mean with {HOW_TO_NAME}")
    return printable("\n".join(lines))


def _acquisition_summary(rows: Sequence[ManifestRow]) -> list[str]:
    counts = sorted(Counter(row.acquisition for row in rows if row.acquisition is not None).items())
    numbers = ", ".join(str(count) for _, count in counts)
    return [f"photographs that were acquired alike, in clusters: {numbers}"] if counts else []


def _quality_summary(rows: Sequence[ManifestRow]) -> str:
    flagged = [row.quality.reasons for row in rows if row.quality is not None and not row.quality.gradable]
    counts = Counter(reason for reasons in flagged for reason in reasons)
    named = ", ".join(f"{reason} {count}" for reason, count in counts.most_common())
    return f"photographs of doubtful quality: {len(flagged)}" + (f" ({named})" if named else "")


def result_line(result: Prediction | Ungraded) -> str:
    """One line for people: that of a prediction, or the reason why a photograph has no grade."""
    if isinstance(result, Prediction):
        return prediction_line(result)
    return one_line(f"{result.image}: not graded: {result.reason} ({result.model})")


def prediction_line(prediction: Prediction) -> str:
    """One line for people: photograph, grade, what decided it, whether referable and why, range, model, quality."""
    grade = prediction.grade
    grade_range = "" if prediction.grade_range is None else f"; {prediction.grade_range.describe()}"
    doubts = doubts_in_words(prediction)
    return one_line(
        f"{prediction.image}: grade {int(grade)} {grade.label}: {decision_in_words(prediction)}; "
        f"{referral_in_words(prediction)}{grade_range} ({prediction.model}){f'; {doubts}' if doubts else ''}"
    )


def doubts_in_words(prediction: Prediction) -> str:
    """Reasons against the quality and warnings: "doubtful quality: too dark; unlike the training photographs"."""
    quality = {
        Gradability.GRADABLE: "",
        Gradability.BORDERLINE: "borderline quality",
        Gradability.NOT_GRADABLE: f"doubtful quality: {', '.join(prediction.quality_reasons)}",
    }[prediction.gradability]
    return "; ".join(words for words in (quality, *prediction.warnings) if words)


def referral_in_words(prediction: Prediction) -> str:
    """The answer for a referral with what decided it: "referable: yes, p = 0.63, from 0.23"."""
    stated, digits = stated_referable(prediction)
    return f"referable: {prediction.referable}, p {stated}, from {prediction.referable_threshold:.{digits}f}"


def stated_referable(prediction: Prediction) -> tuple[str, int]:
    """The probability of referable DR as it is printed, such as "= 0.63", and how many decimals it needs."""
    digits = referable_digits(prediction.referable_probability, prediction.referable_threshold)
    return prediction.stated(prediction.referable_probability, digits=digits), digits


def referable_digits(probability: float, threshold: float) -> int:
    """How many decimals a probability of referable DR needs beside its threshold.

    One just below the threshold, rounded like it, would seem to have reached it.
    """
    return 2 if (round(probability, 2) >= round(threshold, 2)) == (round(probability, 4) >= threshold) else 4


def decision_in_words(prediction: Prediction) -> str:
    """What decided the grade, and the most probable grade where thresholds of the expected grade decided.

    "expected grade 2.99, severe from 2.58; most probable moderate, p = 0.47", or "most probable, p = 0.53".
    """
    if prediction.thresholds is None:
        return prediction.decided_by
    return f"{prediction.decided_by}; {_most_probable_in_words(prediction)}"


def undecided_in_words(prediction: Prediction) -> str:
    """Expected and most probable grade, for a prediction whose rule of decision is not known."""
    return f"expected grade {prediction.expected_grade:.2f}; {_most_probable_in_words(prediction)}"


def _most_probable_in_words(prediction: Prediction) -> str:
    grade = prediction.most_probable
    return f"most probable {grade.name_in_sentence}, p {prediction.stated(prediction.probabilities[grade])}"


def probabilities_in_words(prediction: Prediction) -> str:
    """The probability of each grade: "no DR 0.01, mild 0.03, moderate 0.47, severe 0.29, proliferative 0.20"."""
    stated = [prediction.stated(probability).removeprefix("= ") for probability in prediction.probabilities]
    return ", ".join(f"{grade.name_in_sentence} {stated[grade]}" for grade in Grade)


def coverage_line(model: str, known: Sequence[KnownCoverage], coverage: float) -> str:
    """How often a model's prediction sets of a target coverage (0 to 1) hold the true grade, of all and of each grade.

    Of the photographs from which the model's limits come: `known` as `Conformity.known_coverage` gives it, not empty.
    """
    target = f"{100 * coverage:g} %"
    return one_line(
        f"{model}: {target} prediction sets contain the true grade of {', '.join(map(_describe_known, known))} "
        f"photographs from which its limits come; its bounds (could be as bad as) are set to reach that of {target} of "
        "each grade. `fundusgrade evaluate` measures both on other photographs"
    )


def checks_line(model: str, checks: ChecksProvenance | None) -> str:
    """What a model's feature checks were fitted to, and what its quality check flags; or that it has none."""
    if checks is None:
        return one_line(
            f"{model}: no feature checks are stored with it, so photographs unlike the training photographs are not "
            "flagged; `fundusgrade add-checks` adds them"
        )
    line = (
        f"{model}: unlike the training photographs is what lies further from the {checks.num_reference} of "
        f"{checks.data} than 99 % of {checks.num_held_out} held out"
    )
    rates = [
        f"{rate.label} {rate.num_not_gradable} of {rate.num_photographs} and {rate.num_borderline} borderline"
        for rate in checks.quality
    ]
    return one_line(line + (f"; not gradable, by what graders say: {', '.join(rates)}" if rates else ""))


def operating_point_line(model: str, point: OperatingPoint) -> str:
    """From which probability photographs are referable, why from there, and what that finds on each data set."""
    return one_line(f"{model}: {point.describe()}")


def referral_line(*, num_referable: int, num_failed: int, num_doubtful: int, num_healthy: int) -> str:
    """How many photographs refer, and why; `num_doubtful` are of doubtful quality without a referable finding."""
    num_ungradable = num_failed + num_doubtful
    return (
        f"refer {num_referable + num_ungradable}: {num_referable} referable, {num_ungradable} ungradable "
        f"({num_failed} failed, {num_doubtful} doubtful); do not refer {num_healthy}"
    )


def grades_line(num_per_grade: Mapping[int, int]) -> str:
    """How many photographs have each grade."""
    return "grades: " + ", ".join(f"{grade.label} {num_per_grade.get(int(grade), 0)}" for grade in Grade)


def calibration_line(model: str, calibration: LocalCalibration, *, is_certified: bool, precision: str) -> str:
    """What a model of a clinic was calibrated on, and what is certified.

    `is_certified` says whether the threshold in use is, `precision` in which arithmetic scores are computed now.
    """
    line = f"{model}: {calibration.describe()}; {calibration.certificate.describe()}"
    if not is_certified:
        line += ". The threshold of this run is higher, and not certified"
    if precision != calibration.precision:
        line += (
            f". Scores were computed in {calibration.precision} then and are in {precision} now, which moves some of "
            f"them: use --runtime pytorch --precision {calibration.precision}, or calibrate again"
        )
    return one_line(line)


def drift_line(calibration: LocalCalibration, drift: Drift | None) -> str:
    """Whether a batch of photographs differs from those of the calibration; `drift` is None of too small a batch."""
    if drift is None:
        return f"fewer than {MIN_PHOTOGRAPHS} graded photographs: not tested for drift from {calibration.data_name}"
    tested = (
        f"probability of referable DR, median {drift.median:.3f} of {drift.num_photographs} photographs, "
        f"{drift.reference_median:.3f} of the calibration's {calibration.scores.num_photographs}; "
        f"Kolmogorov-Smirnov distance {drift.distance:.2f}, p = {drift.p_value:.2g}"
    )
    if not drift.is_significant:
        return one_line(f"no drift from the calibration on {calibration.data_name} found ({tested})")
    return one_line(
        f"WARNING: these photographs do not score like those of {calibration.data_name} ({tested}). Unless only the "
        "share of diseased patients changed, the certified sensitivity does not hold for them: look for another "
        "camera, setting or kind of patients, grade a sample, and calibrate again"
    )


def patients_line(results: Sequence[PatientResult]) -> str:
    """How many patients refer, and why."""
    answers = Counter(result.referable for result in results)
    num_referable, num_ungradable = answers[Referral.YES], answers[Referral.UNGRADABLE]
    return (
        f"refer {num_referable + num_ungradable} patients: {num_referable} referable, {num_ungradable} ungradable or "
        f"incomplete; do not refer {answers[Referral.NO]}"
    )


def _describe_known(known: KnownCoverage) -> str:
    """ "98 % of 135 no DR", or "91 % of all 274"."""
    group = "all " if known.grade is None else ""
    name = "" if known.grade is None else f" {Grade(known.grade).name_in_sentence}"
    percent = f"{100 * known.num_covered / known.num_photographs:.0f} % of " if known.num_photographs else ""
    return f"{percent}{group}{known.num_photographs}{name}"


def models_table(models: Sequence[StoredModel], *, default: str, with_hashes: bool = True) -> Table:
    """The models by name; the one used when none is named is marked. Names are wrapped where they must, never cut."""
    columns = ("model", "architecture", "kappa", "created", "MB", "where", *(["hash"] if with_hashes else []))
    table = _table_of_names(columns)
    for model in models:
        name = Text(printable(model.name) + (" (default)" if model.name == default else ""))
        cells = [model.arch, describe_number(model.kappa), model.created[:10], f"{model.size_bytes / 1e6:.1f}"]
        table.add_row(
            name, *cells, "shipped" if model.shipped else "store", *([model.hash[:12]] if with_hashes else [])
        )
    return table


def datasets_table(datasets: Sequence[StoredDataset], *, with_hashes: bool = True) -> Table:
    """The prepared data sets by name."""
    columns = ("data set", "photographs", "created", "MB", *(["hash"] if with_hashes else []))
    table = _table_of_names(columns)
    for dataset in datasets:
        cells = [str(dataset.num_photographs), dataset.created[:10], f"{dataset.size_bytes / 1e6:.1f}"]
        table.add_row(Text(printable(dataset.name)), *cells, *([dataset.hash[:12]] if with_hashes else []))
    return table


def _table_of_names(columns: Sequence[str]) -> Table:
    """A table whose cells are wrapped, within words too, but never cut."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table
