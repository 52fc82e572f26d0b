"""What people take away: rows of predictions as CSV, scores as a table and JSON, figures."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import math
import re
import sys
import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO

from rich.table import Table
from rich.text import Text

from fundusgrade.errors import MetricsError, StoreError
from fundusgrade.grades import (
    GRADE_LABELS,
    NUM_GRADES,
    REFERABLE_FROM,
    RESEARCH_USE,
    SIGHT_THREATENING_FROM,
    Grade,
    Prediction,
    Ungraded,
)
from fundusgrade.store import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

    from fundusgrade.dataset import PreparedDataset
    from fundusgrade.metrics import BinaryScores, Evaluation, GradeScores

PREDICTION_COLUMNS = (
    *("image", "grade", "label", "p0", "p1", "p2", "p3", "p4"),
    *("expected_grade", "referable_probability", "model", "error"),
)

_DPI = 150
_MODELS_PER_ROW = 4
_TITLE_WIDTH = 30
# Okabe and Ito's blue and vermilion, which every common color blindness tells apart; in gray, line and marker do.
_BLUE, _VERMILION = "#0072B2", "#D55E00"
# White to dark blue, lightness L* from 98 to 21 in equal steps, so that gray print keeps the order and the distances.
_SHADES = ("#F7FBFF", "#CEE1FB", "#A8C6F2", "#86ACE5", "#6791D3", "#4A78BD", "#315FA4", "#1B4789", "#08306B")

# A spreadsheet runs a cell that begins with one of these, also in full width, after skipping blanks and control
# characters. Some split cells at semicolons, tabs and line breaks as well, so what follows those begins a cell too.
_FORMULA_START = re.compile(r"(^|[;\t\r\n])(?=[\s\x00-\x20\x7f-\xa0\u200b\ufeff]*[=+\-@＝＋－＠])|^(?=[\t\r])")
_NEEDS_QUOTES = re.compile(r'[,;"\t\r\n]')


class PredictionWriter:
    """Streams predictions to a CSV file, or to standard output where `path` is None; use it in a `with` block.

    The rows go to `<name>.partial` beside the file, which takes its name when the block ends well. When it does not,
    the partial file stays and a note on the exception names it. Raises StoreError where the file cannot be written,
    already on entering the block.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.num_graded = 0
        self.num_ungraded = 0
        self._written_path = path
        self._stream: BinaryIO | None = None

    def __enter__(self) -> PredictionWriter:
        if self.path is not None:
            with self._write_errors():
                self._stream = self._open(self.path)
        self._write_line(",".join(PREDICTION_COLUMNS))
        return self

    def write(self, result: Prediction | Ungraded) -> None:
        """Write one row; it is in the file when this returns."""
        if isinstance(result, Prediction):
            self._write_line(_prediction_line(result))
            self.num_graded += 1
        else:
            self._write_line(_ungraded_line(result))
            self.num_ungraded += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._stream is None or self.path is None or self._written_path is None:
            return
        if error is not None:
            self._abandon()
            error.add_note(
                f"The rows written so far ({self.num_graded + self.num_ungraded}) are in {self._written_path}."
            )
            return
        with self._write_errors():
            self._stream.close()
            if self._written_path != self.path:
                self._written_path.replace(self.path)

    def _open(self, path: Path) -> BinaryIO:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a folder")
        # A device or a pipe is written to: a file renamed into its place would remove it.
        if path.is_file() or not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._written_path = path.with_name(f"{path.name}.partial")
        return (self._written_path or path).open("wb")

    def _write_line(self, line: str) -> None:
        if self._stream is None:
            _write_to_stdout(f"{line}\n")
            return
        with self._write_errors():
            try:
                self._stream.write(f"{line}\n".encode())
                self._stream.flush()
            except OSError:
                self._abandon()
                raise

    def _abandon(self) -> None:
        # Closing writes what is buffered, which fails once more on a full disk.
        if self._stream is not None:
            with contextlib.suppress(OSError):
                self._stream.close()

    @contextlib.contextmanager
    def _write_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise _cannot_write(self.path, error) from error


def _write_to_stdout(text: str) -> None:
    binary = getattr(sys.stdout, "buffer", None)
    if binary is None:  # replaced by a text buffer
        sys.stdout.write(text)
    else:
        # Past the text layer, which on some machines is not UTF-8 and changes line ends.
        sys.stdout.flush()
        binary.write(text.encode())
    sys.stdout.flush()


def _cannot_write(path: Path | None, error: OSError) -> StoreError:
    reason = (error.strerror or str(error)).lower()
    return StoreError(f"cannot write {path}: {reason}; name a file in a folder with room that you may write to")


def _prediction_line(prediction: Prediction) -> str:
    numbers = [*prediction.probabilities, prediction.expected_grade, prediction.referable_probability]
    cells = [_text_cell(prediction.image), f"{prediction.grade:d}", prediction.grade.label]
    return ",".join([*cells, *(f"{number:.4f}" for number in numbers), _text_cell(prediction.model), ""])


def _ungraded_line(ungraded: Ungraded) -> str:
    num_empty = PREDICTION_COLUMNS.index("model") - 1
    return ",".join(
        [_text_cell(ungraded.image), *[""] * num_empty, _text_cell(ungraded.model), _text_cell(ungraded.reason)]
    )


def _text_cell(text: str) -> str:
    """Text as one CSV cell (RFC 4180) that no spreadsheet takes for a formula.

    Quoted by hand: Python 3.11's csv module leaves a carriage return bare where lines end with a line feed.
    """
    harmless = _FORMULA_START.sub(r"\1'", _printable(text))
    return '"' + harmless.replace('"', '""') + '"' if _NEEDS_QUOTES.search(harmless) else harmless


def _printable(text: str) -> str:
    """Text with the undecodable bytes of file names, which Python keeps as lone surrogates, written as escapes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelEvaluation:
    """The scores of the model of this name."""

    model: str
    evaluation: Evaluation


@dataclass(frozen=True, slots=True, kw_only=True)
class CurvePoint:
    """What one epoch of training resulted in; the kappa is None where it is undefined."""

    epoch: int
    train_loss: float
    validation_loss: float
    validation_kappa: float | None
    learning_rate: float


def evaluation_table(evaluations: Sequence[ModelEvaluation]) -> Table:
    """All scores for the terminal: one column per model."""
    table = Table("", caption=RESEARCH_USE)
    for evaluation in evaluations:
        # As Text, because square brackets in a name would be read as markup.
        table.add_column(Text(_printable(evaluation.model)), justify="right")
    scores = [evaluation.evaluation for evaluation in evaluations]
    _add_row(table, "Photographs", [of.num_photographs for of in scores])
    _add_row(table, "Quadratic weighted kappa", [of.kappa for of in scores])
    _add_row(table, "Accuracy", [of.accuracy for of in scores])
    _add_row(table, "Balanced accuracy", [of.balanced_accuracy for of in scores])
    _add_row(table, "Mean F1 of the grades", [of.macro_f1 for of in scores])
    _add_row(table, "Mean absolute error, grades", [of.mean_absolute_error for of in scores])
    for grade, label in enumerate(GRADE_LABELS):
        _add_grade_rows(table, f"{grade} {label}", [of.grades[grade] for of in scores])
    _add_binary_rows(table, f"Referable (>= {REFERABLE_FROM:d})", [of.referable for of in scores])
    threatening = f"Sight-threatening (>= {SIGHT_THREATENING_FROM:d})"
    _add_binary_rows(table, threatening, [of.sight_threatening for of in scores])
    return table


def _add_grade_rows(table: Table, label: str, scores: Sequence[GradeScores]) -> None:
    table.add_section()
    _add_row(table, f"{label}: photographs", [of.num_photographs for of in scores])
    _add_row(table, f"{label}: precision", [of.precision for of in scores])
    _add_row(table, f"{label}: recall", [of.recall for of in scores])
    _add_row(table, f"{label}: F1", [of.f1 for of in scores])


def _add_binary_rows(table: Table, label: str, scores: Sequence[BinaryScores]) -> None:
    table.add_section()
    _add_row(table, f"{label}: photographs", [of.num_positive for of in scores])
    _add_row(table, f"{label}: sensitivity", [of.sensitivity for of in scores])
    _add_row(table, f"{label}: specificity", [of.specificity for of in scores])
    _add_row(table, f"{label}: AUC", [of.auc for of in scores])


def _add_row(table: Table, name: str, values: Sequence[float | None]) -> None:
    table.add_row(name, *(_number(value) for value in values))


def _number(value: float | None) -> str:
    if value is None:
        return "undefined"
    return str(value) if isinstance(value, int) else f"{value:.3f}"


def evaluation_json(evaluations: Sequence[ModelEvaluation], *, data: str, split: str) -> str:
    """All scores as indented JSON, keys in the order of the fields; undefined scores are null."""
    models = [{"model": each.model, **asdict(each.evaluation)} for each in evaluations]
    return json.dumps({"data": data, "split": split, "models": models}, indent=2, allow_nan=False)


def draw_confusion_matrices(evaluations: Sequence[ModelEvaluation], path: Path) -> None:
    """Draw the matrices of the models side by side into a PNG: counts, and percent of each true grade (row).

    Raises MetricsError without evaluations, StoreError where the file cannot be written.
    """
    if not evaluations:
        raise MetricsError("There is no evaluation to draw: evaluate at least one model.")
    num_columns = min(len(evaluations), _MODELS_PER_ROW)
    num_rows = math.ceil(len(evaluations) / num_columns)
    figure = _new_figure(width_inches=3.6 * num_columns + 2.2, height_inches=4.9 * num_rows + 0.2)
    panels = figure.subplots(num_rows, num_columns, squeeze=False).ravel().tolist()
    for panel, evaluation in zip(panels, evaluations, strict=False):
        image = _draw_matrix(panel, evaluation.evaluation)
        panel.set_title(_matrix_title(evaluation), fontsize=11, parse_math=False)
    for panel in panels[::num_columns]:
        panel.set_yticks(range(NUM_GRADES), _grade_ticks())
        panel.set_ylabel("Grade given by graders")
    for panel in panels[len(evaluations) :]:
        panel.set_axis_off()
    figure.colorbar(image, ax=panels, label="Percent of the row", shrink=0.6, aspect=25)
    _save_figure(figure, path)


def _draw_matrix(panel: Axes, evaluation: Evaluation) -> AxesImage:
    from matplotlib.colors import LinearSegmentedColormap

    totals = [sum(row) for row in evaluation.confusion_matrix]
    percent = [
        [100 * count / total if total else 0.0 for count in row]
        for row, total in zip(evaluation.confusion_matrix, totals, strict=True)
    ]
    image = panel.imshow(percent, cmap=LinearSegmentedColormap.from_list("shades", _SHADES), vmin=0, vmax=100)
    for row, counts in enumerate(evaluation.confusion_matrix):
        for column, count in enumerate(counts):
            share = f"{percent[row][column]:.0f} %" if totals[row] else "–"
            color = _text_color(image.cmap(percent[row][column] / 100))
            panel.text(column, row, f"{count}\n{share}", ha="center", va="center", color=color, fontsize=9.5)
    panel.set_xticks(range(NUM_GRADES), _grade_ticks(), rotation=35, ha="right", rotation_mode="anchor")
    panel.set_yticks([])
    panel.set_xlabel("Grade by the model")
    return image


def _grade_ticks() -> list[str]:
    return [f"{grade} {label}" for grade, label in enumerate(GRADE_LABELS)]


def _matrix_title(evaluation: ModelEvaluation) -> str:
    name = "\n".join(textwrap.wrap(_printable(evaluation.model), width=_TITLE_WIDTH))
    scores = evaluation.evaluation
    return f"{name}\nkappa {_number(scores.kappa)}, accuracy {_number(scores.accuracy)}"


def _text_color(background: Sequence[float]) -> str:
    """Black or white, whichever contrasts more (relative luminance, WCAG 2.1)."""
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in background[:3]]
    return "black" if 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] > 0.179 else "white"


def draw_training_curves(points: Sequence[CurvePoint], best_epoch: int, path: Path) -> None:
    """Draw loss and kappa over the epochs into a PNG, with the best epoch marked; an undefined kappa leaves a gap.

    Raises MetricsError without points, StoreError where the file cannot be written.
    """
    from matplotlib.ticker import MaxNLocator

    if not points:
        raise MetricsError("There are no epochs to draw: no epoch was finished.")
    epochs = [point.epoch for point in points]
    kappas = [math.nan if point.validation_kappa is None else point.validation_kappa for point in points]
    figure = _new_figure(width_inches=9, height_inches=4)
    loss_panel, kappa_panel = figure.subplots(1, 2)
    training = {"color": _BLUE, "linestyle": "-", "marker": "o", "markersize": 4, "label": "Training"}
    validation = {"color": _VERMILION, "linestyle": "--", "marker": "s", "markersize": 4, "label": "Validation"}
    loss_panel.plot(epochs, [point.train_loss for point in points], **training)
    loss_panel.plot(epochs, [point.validation_loss for point in points], **validation)
    loss_panel.set_ylabel("Loss")
    kappa_panel.plot(epochs, kappas, **validation)
    kappa_panel.set_ylabel("Quadratic weighted kappa")
    for panel in (loss_panel, kappa_panel):
        panel.axvline(best_epoch, color="black", linestyle=":", label=f"Best epoch ({best_epoch})")
        panel.set_xlabel("Epoch")
        panel.set_xlim(min(epochs) - 0.5, max(epochs) + 0.5)
        panel.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        panel.grid(alpha=0.3)
        panel.legend()
    _save_figure(figure, path)


def _new_figure(*, width_inches: float, height_inches: float) -> Figure:
    # Not pyplot: it keeps figures in global state and may look for a screen.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    footer = 0.35 / height_inches
    layout = ConstrainedLayoutEngine(rect=(0, footer, 1, 1 - footer), w_pad=0.1, h_pad=0.1, compress=True)
    figure = Figure(figsize=(width_inches, height_inches), dpi=_DPI, layout=layout)
    FigureCanvasAgg(figure)
    figure.text(1 - 0.1 / width_inches, 0.1 / height_inches, RESEARCH_USE, ha="right", fontsize=8, color="0.35")
    return figure


def _save_figure(figure: Figure, path: Path) -> None:
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=_DPI)
    write_atomically(path, picture.getvalue())


def dataset_summary(dataset: PreparedDataset) -> str:
    """What preprocessing made, in a few lines of plain text, with the reasons of failures counted."""
    usable = [row for row in dataset.rows if row.error is None]
    per_grade = Counter(row.grade for row in usable)
    per_split = Counter(row.split for row in usable if row.split)
    lines = [
        f"data set {dataset.name}: {len(usable)} of {len(dataset.rows)} photographs ready in {dataset.directory}",
        "grades: " + ", ".join(f"{int(grade)}: {per_grade[grade]}" for grade in Grade),
        "splits: " + ", ".join(f"{split}: {count}" for split, count in sorted(per_split.items())),
        f"copies with conflicting grades: {sum(row.conflict for row in dataset.rows)} photographs",
    ]
    for reason, count in Counter(row.error for row in dataset.rows if row.error).most_common(10):
        lines.append(f"not ready, {count}: {reason}")
    return "\n".join(lines)
