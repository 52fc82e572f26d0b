"""One row for each patient from the rows of photographs: the worst eye decides, and what is missing refers.

Disease in one eye is disease of the patient. An eye is "no" only where its photographs show that: one of doubtful
quality, one that could not be graded and one that is missing leave open what it would have shown.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fundusgrade.errors import StoreError
from fundusgrade.files import open_atomically
from fundusgrade.grades import Grade, Referral
from fundusgrade.grading import parquet
from fundusgrade.grading.identities import Eye, Identified, Identity, identify_by_file, identify_by_pattern, parse_eye
from fundusgrade.grading.reader import read_cells
from fundusgrade.grading.rows import Cell, RowFormat, csv_header, csv_line, json_line, row_format
from fundusgrade.text import printable

PATIENT_COLUMNS = (
    *("patient", "referable", "refer", "reasons", "grade", "label", "referable_probability", "worst_image"),
    *("worst_eye", "right_eye", "left_eye", "ungradable_eyes", "photographs", "ungradable_photographs"),
    *("missing_fields", "referable_threshold", "model", "model_hash"),
)
_BOTH = (Eye.RIGHT, Eye.LEFT)
_DOUBT = Referral.UNGRADABLE


@dataclass(frozen=True, slots=True, kw_only=True)
class PatientRequest:
    """Where rows by patient are written, and where patients and eyes are read from: a CSV file or a pattern.

    `num_fields` are the photographs that each eye needs, such as 2 for a field on the macula and one on the disc; None
    where at least one is needed, and all that there are must be gradable. No rows are written where `path` is None: the
    patients are then those of a page to review.
    """

    path: Path | None
    list_file: Path | None = None
    pattern: str | None = None
    num_fields: int | None = None

    def identify(self, names: Sequence[str]) -> Identified:
        """The patient and the eye of each photograph. Raises DatasetError where they are not known."""
        if self.list_file is not None:
            return identify_by_file(names, self.list_file)
        return identify_by_pattern(names, self.pattern or "")


@dataclass(frozen=True, slots=True, kw_only=True)
class GradedPhotograph:
    """What the row of a photograph says; `reason` is why it is ungradable, `probability` is None where it has none."""

    identity: Identity
    referable: Referral
    grade: int | None
    probability: float | None
    reason: str
    threshold: float
    model: str
    model_hash: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EyeAnswer:
    """The answer for one eye, the photographs that it has and lacks, and why it refers: "" where it does not."""

    eye: Eye
    referable: Referral
    num_photographs: int
    num_missing: int
    reason: str

    @property
    def in_words(self) -> str:
        """The answer, or "missing" for an eye without any photograph."""
        return self.referable.value if self.num_photographs else "missing"


@dataclass(frozen=True, slots=True, kw_only=True)
class PatientResult:
    """The answer for one patient; `worst` is the photograph of highest probability, None where none has one."""

    patient: str
    referable: Referral
    eyes: tuple[EyeAnswer, ...]
    reasons: tuple[str, ...]
    photographs: tuple[GradedPhotograph, ...]
    worst: GradedPhotograph | None
    num_missing: int


def write_patients(rows: Path, names: Sequence[str], request: PatientRequest) -> list[PatientResult]:
    """Write a row for each patient of a finished file of rows, which are those of `names`; returns their results.

    Raises DatasetError where a patient is not known, StoreError where a file cannot be read or written.
    """
    assert request.path is not None, "rows by patient were asked for"
    if request.path.resolve() in {path.resolve() for path in (rows, request.list_file) if path is not None}:
        raise StoreError(f"--by-patient {request.path} would replace a file that it is made from; name another file")
    results = patient_results(read_cells(rows), names, request)
    _write(request.path, map(patient_row, results))
    return results


def patient_results(
    rows: Iterable[Mapping[str, str]], names: Sequence[str], request: PatientRequest
) -> list[PatientResult]:
    """The result of each patient from the rows of the photographs `names`, by column as text.

    Raises DatasetError where a patient is not known.
    """
    identified = request.identify(names)
    graded = zip(rows, identified.photographs, strict=True)
    photographs = [graded_photograph(cells, identity) for cells, identity in graded]
    return summarize_patients(photographs, identified.missing, num_fields=request.num_fields)


def summarize_patients(
    photographs: Sequence[GradedPhotograph], missing: Sequence[Identity] = (), *, num_fields: int | None = None
) -> list[PatientResult]:
    """The result of each patient, in the order in which they first occur.

    `missing` are photographs that should be there; `num_fields` as in `PatientRequest`.
    """
    of_patient: dict[str, list[GradedPhotograph]] = defaultdict(list)
    lacking: dict[str, list[Identity]] = defaultdict(list)
    for photograph in photographs:
        of_patient[photograph.identity.patient].append(photograph)
    for identity in missing:
        lacking[identity.patient].append(identity)
    return [
        _patient(patient, of_patient.get(patient, []), lacking.get(patient, []), num_fields)
        for patient in dict.fromkeys([*of_patient, *lacking])
    ]


def patient_row(result: PatientResult) -> dict[str, Cell]:
    """A patient's result by column, numbers rounded as they are written."""
    worst, first = result.worst, next(iter(result.photographs), None)
    grades = [photograph.grade for photograph in result.photographs if photograph.grade is not None]
    answers = {answer.eye: answer.in_words for answer in result.eyes}
    unclear = [answer.eye for answer in result.eyes if answer.referable is Referral.UNGRADABLE]
    worst_eye = (
        worst.identity.eye if worst is not None and result.referable is Referral.YES else next(iter(unclear), "")
    )
    return {
        "patient": printable(result.patient),
        "referable": result.referable.value,
        "refer": result.referable.refers,
        "reasons": tuple(map(printable, result.reasons)),
        "grade": max(grades, default=None),
        "label": Grade(max(grades)).label if grades else "",
        "referable_probability": None if worst is None else worst.probability,
        "worst_image": "" if worst is None else printable(worst.identity.image),
        "worst_eye": str(worst_eye),
        "right_eye": answers.get(Eye.RIGHT, ""),
        "left_eye": answers.get(Eye.LEFT, ""),
        "ungradable_eyes": tuple(
            answer.eye.value or "unknown" for answer in result.eyes if answer.in_words == Referral.UNGRADABLE
        ),
        "photographs": len(result.photographs),
        "ungradable_photographs": sum(each.referable is Referral.UNGRADABLE for each in result.photographs),
        "missing_fields": result.num_missing,
        "referable_threshold": None if first is None else first.threshold,
        "model": "" if first is None else first.model,
        "model_hash": "" if first is None else first.model_hash,
    }


def _patient(
    patient: str, photographs: Sequence[GradedPhotograph], missing: Sequence[Identity], num_fields: int | None
) -> PatientResult:
    eyes = _eyes(photographs, num_fields)
    listed = (f"listed, but not graded: {', '.join(each.image for each in missing)}",) if missing else ()
    answers = [*(answer.referable for answer in eyes), *([Referral.UNGRADABLE] if missing or not eyes else [])]
    graded = [photograph for photograph in photographs if photograph.probability is not None]
    return PatientResult(
        patient=patient,
        referable=_worst(answers),
        eyes=eyes,
        reasons=(*(answer.reason for answer in eyes if answer.reason), *listed),
        photographs=tuple(photographs),
        worst=max(graded, key=lambda each: each.probability or 0.0, default=None),
        num_missing=max(sum(answer.num_missing for answer in eyes), len(missing)),
    )


def _worst(answers: Sequence[Referral]) -> Referral:
    """Disease before doubt before health; doubt where there is no answer."""
    return next((worst for worst in (Referral.YES, Referral.UNGRADABLE, Referral.NO) if worst in answers), _DOUBT)


def _eyes(photographs: Sequence[GradedPhotograph], num_fields: int | None) -> tuple[EyeAnswer, ...]:
    """The answer of each eye, of both where it is known of a photograph which eye it shows."""
    of_eye: dict[Eye, list[GradedPhotograph]] = defaultdict(list)
    for photograph in photographs:
        of_eye[photograph.identity.eye].append(photograph)
    known = [*_BOTH] if any(eye in of_eye for eye in _BOTH) else []
    answers = [_answer(eye, of_eye[eye], num_fields) for eye in known]
    if Eye.UNKNOWN in of_eye:
        # Where no eye is known, they are the photographs of both.
        of_both = 2 * num_fields if num_fields is not None and not known else None
        answers.append(_answer(Eye.UNKNOWN, of_eye[Eye.UNKNOWN], of_both))
    return tuple(answers)


def _answer(eye: Eye, photographs: Sequence[GradedPhotograph], num_fields: int | None) -> EyeAnswer:
    """The answer of one eye; without `num_fields` all of its photographs must be gradable."""
    found = [each for each in photographs if each.referable is Referral.YES]
    doubtful = [each for each in photographs if each.referable is Referral.UNGRADABLE]
    num_needed = num_fields if num_fields is not None else max(1, len(photographs))
    if found:
        answer, reasons = Referral.YES, [_finding(max(found, key=lambda each: each.probability or 0.0))]
    elif len(photographs) - len(doubtful) >= num_needed:
        answer, reasons = Referral.NO, []
    else:
        counted = f"{len(photographs)} of {num_fields} photographs" if photographs else "no photograph"
        answer, reasons = Referral.UNGRADABLE, [f"{each.identity.image}: {each.reason}" for each in doubtful]
        reasons += [counted] if len(photographs) < num_needed else []
    name = f"{eye.value} eye" if eye is not Eye.UNKNOWN else "eye not known"
    return EyeAnswer(
        eye=eye,
        referable=answer,
        num_photographs=len(photographs),
        num_missing=max(0, num_needed - len(photographs)),
        reason=f"{name}: {', '.join(reasons)}" if reasons else "",
    )


def _finding(photograph: GradedPhotograph) -> str:
    return f"referable, p = {photograph.probability or 0.0:.4f} in {photograph.identity.image}"


def graded_photograph(cells: Mapping[str, str], identity: Identity) -> GradedPhotograph:
    """A row with the identity of its photograph; the eye of a DICOM file counts where nothing else names it."""
    probability = cells["referable_probability"]
    eye = identity.eye if identity.eye is not Eye.UNKNOWN else parse_eye(cells["laterality"])
    return GradedPhotograph(
        identity=replace(identity, image=cells["image"], eye=eye),
        referable=Referral(cells["referable"]),
        grade=int(cells["grade"]) if cells["grade"] else None,
        probability=float(probability) if probability else None,
        reason=cells["error"] or cells["quality_reasons"],
        threshold=float(cells["referable_threshold"]),
        model=cells["model"],
        model_hash=cells["model_hash"],
    )


def _write(path: Path, rows: Iterable[Mapping[str, Cell]]) -> None:
    """Write rows of patients in the format of the file, all or none. Raises StoreError."""
    chosen = row_format(path)
    if chosen is RowFormat.PARQUET:
        parquet.write_parquet(map(json_line, rows), path, PATIENT_COLUMNS)
        return
    with open_atomically(path) as file:
        file.writelines(_lines(rows, chosen))


def _lines(rows: Iterable[Mapping[str, Cell]], stored_as: RowFormat) -> Iterator[bytes]:
    if stored_as is RowFormat.CSV:
        yield csv_header(PATIENT_COLUMNS)
    yield from map(csv_line if stored_as is RowFormat.CSV else json_line, rows)
