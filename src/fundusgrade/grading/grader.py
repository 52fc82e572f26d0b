"""The library's entry point: load a model once, grade any number of photographs.

grader = Grader.load()                       # the shipped model, or a name or path
for result in grader.grade_all(find_images([Path("images")])):
    ...                                      # Prediction or Ungraded, in order
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fundusgrade import store
from fundusgrade.data.dataset import PreparedDataset
from fundusgrade.data.manifest import ManifestRow
from fundusgrade.errors import CheckpointError, UngradableError
from fundusgrade.files import hash_text
from fundusgrade.grades import NUM_GRADES, Grade, Prediction, Ungraded
from fundusgrade.grading.concurrency import Concurrency, choose_concurrency, worker_pools
from fundusgrade.metrics.classification import decide_grades
from fundusgrade.metrics.conformal import grade_sets, score_limit
from fundusgrade.metrics.predictions import TTA_SUFFIX, PredictionSet, ScoredPhotographs
from fundusgrade.networks.checkpoint import Checkpoint
from fundusgrade.networks.device import DeviceChoice, choose_device, choose_for_graph
from fundusgrade.networks.graphs import GraphBackbone, load_model
from fundusgrade.networks.inference import predict_probabilities, to_device
from fundusgrade.networks.tensors import load_images, to_pixels
from fundusgrade.options import DeviceName, Precision
from fundusgrade.photographs.loading import LoadedPhotograph, load_photograph, load_pixels
from fundusgrade.photographs.pixels import Image
from fundusgrade.photographs.recipe import PreprocessRecipe
from fundusgrade.photographs.sources import FoundImage


@dataclass(frozen=True, slots=True, kw_only=True)
class GradingFailure:
    """Why a photograph got no further than the way in."""

    reason: str
    quality_reasons: tuple[str, ...] = ()
    laterality: str = ""
    camera: str = ""


_Loaded = LoadedPhotograph | GradingFailure


class Grader:
    """One model, ready on one device; grades photographs along the same path that trained it."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        choice: DeviceChoice,
        concurrency: Concurrency | None = None,
        require_gradable: bool = False,
        tta: bool = False,
        coverage: float | None = None,
    ) -> None:
        self.description = checkpoint.description
        self.fingerprints = checkpoint.fingerprints
        self.choice = choice
        self.network = to_device(checkpoint.network, choice).eval()
        self.concurrency = concurrency or choose_concurrency(choice, size_px=self.recipe.size_px)
        self._require_gradable = require_gradable
        self._tta = tta
        self._score_limit = None if coverage is None else _score_limit(checkpoint, coverage, tta=tta)

    @classmethod
    def load(
        cls,
        model: str | None = None,
        *,
        device: DeviceName = DeviceName.AUTO,
        precision: Precision = Precision.AUTO,
        batch_size: int | None = None,
        num_workers: int | None = None,
        require_gradable: bool = False,
        tta: bool = False,
        coverage: float | None = None,
    ) -> Grader:
        """Load a model or exported graph by name or path, the shipped model if None.

        With `require_gradable` doubtful grades are withheld. Batch size and workers are chosen for the machine where
        they are not given. With `tta` each photograph is graded mirrored too; `coverage` asks for the range of grades
        that holds the true one that often. Raises StoreError for an unknown name, CheckpointError for a damaged file or
        one without the scores that a range needs, also for both at once, DeviceError for a missing device.
        """
        checkpoint = load_model(store.resolve_model(model), precision)
        backbone = checkpoint.network.backbone
        choice = (
            choose_for_graph(backbone.arithmetic, device, precision)
            if isinstance(backbone, GraphBackbone)
            else choose_device(device, precision)
        )
        size_px = checkpoint.description.recipe.size_px
        concurrency = choose_concurrency(choice, size_px=size_px, num_workers=num_workers, batch_size=batch_size)
        return cls(checkpoint, choice, concurrency, require_gradable, tta, coverage)

    @property
    def name(self) -> str:
        """The model's name, as it stands in results."""
        return self.description.name

    @property
    def batch_size(self) -> int:
        """Photographs that go through the network at once."""
        return self.concurrency.batch_size

    @property
    def recipe(self) -> PreprocessRecipe:
        """The preprocessing that the model was trained with."""
        return self.description.recipe

    def made_by(self) -> dict[str, object]:
        """What decides results beside the photograph, for whoever adds rows to those of an earlier run."""
        return {
            "model": self.name,
            "description": hash_text(self.description.to_json()),  # with the hash of the weights in it
            "device": self.choice.device.type,
            "precision": self.choice.runtime or self.choice.precision.value,
            "batch_size": self.concurrency.batch_size,
            "require_gradable": self._require_gradable,
            "tta": self._tta,
            "score_limit": self._score_limit,
        }

    def grade(self, path: Path) -> Prediction | Ungraded:
        """Grade one photograph; what cannot be graded comes back with its reason."""
        return next(self.grade_all([FoundImage(path=path, name=path.as_posix())]))

    def grade_all(self, photographs: Iterable[FoundImage]) -> Iterator[Prediction | Ungraded]:
        """Grade photographs in order, a bounded number under way, at the grader's pace.

        Photographs are batched by their place in the list alone, so that results are the same to the last bit however
        many workers there are.
        """
        waiting = iter(photographs)
        most = 2 + math.ceil(2 * self.concurrency.num_workers / self.concurrency.batch_size)
        under_way: deque[Future[list[Prediction | Ungraded]]] = deque()
        ready: list[_Preparing] = []
        with worker_pools(self.concurrency, self.choice) as threads:
            while batch := list(islice(waiting, self.concurrency.batch_size)):
                # The next batch's photographs are begun before this one's network, so that no thread waits for another.
                prepared, ready = ready, [self._submit(threads.photographs, found) for found in batch]
                if prepared:
                    under_way.append(threads.network.submit(self._grade_prepared, prepared))
                while under_way and (len(under_way) >= most or under_way[0].done()):
                    yield from under_way.popleft().result()
            if ready:
                under_way.append(threads.network.submit(self._grade_prepared, ready))
            while under_way:
                yield from under_way.popleft().result()

    def _grade_prepared(self, prepared: Sequence[_Preparing]) -> list[Prediction | Ungraded]:
        return list(self._grade_batch([(item.name, item.future.result()) for item in prepared]))

    def grade_loaded(self, loaded: LoadedPhotograph, name: str = "") -> Prediction:
        """Grade what was taken in with this model's recipe."""
        return self._grade_loaded([(name, loaded)])[0]

    def grade_rows(self, dataset: PreparedDataset, rows: tuple[ManifestRow, ...]) -> NDArray[np.float64]:
        """Probabilities (N, 5) for pictures of a prepared data set.

        Raises DatasetError where it was prepared otherwise than the model's training data.
        """
        dataset.check_recipe(self.recipe, self.name)
        images = load_images(dataset, rows)
        return predict_probabilities(
            self.network, images.pixels, self.choice, self.concurrency.batch_size, tta=self._tta
        )

    def predict_dataset(self, dataset: PreparedDataset, split: str, *, fold: int = 0) -> PredictionSet:
        """Predictions of one split; with those of the validation split where that is another and of the training data.

        `fold` is written beside them, for files that hold several networks' predictions.
        """
        own = dataset.hash == self.description.provenance.data_hash and split in ("test", "train")
        validation = self.description.provenance.dealt(dataset).graded_rows("validation") if own else ()
        return PredictionSet(
            model=self.name + (TTA_SUFFIX if self._tta else ""),
            data=dataset.name,
            test=self._predict_rows(dataset, dataset.graded_rows(split), fold),
            validation=self._predict_rows(dataset, validation, fold),
        )

    def _predict_rows(self, dataset: PreparedDataset, rows: tuple[ManifestRow, ...], fold: int) -> ScoredPhotographs:
        probabilities = self.grade_rows(dataset, rows) if rows else np.zeros((0, NUM_GRADES))
        return ScoredPhotographs(
            sources=tuple(row.source for row in rows),
            grades=np.array([row.grade for row in rows], np.int64),
            predicted=decide_grades(probabilities, self.description.thresholds),
            probabilities=probabilities,
            groups=np.array([row.group for row in rows], np.int64),
            folds=np.full(len(rows), fold, np.int64),
        )

    def _submit(self, pool: Executor, found: FoundImage) -> _Preparing:
        return _Preparing(name=found.name, future=pool.submit(_prepare, found, self.recipe))

    def grade_images(self, photographs: Sequence[Image]) -> list[Prediction | Ungraded]:
        """Grade photographs (H, W, 3) in memory, of any sizes; they are named by their number."""
        items: list[tuple[str, _Loaded]] = []
        for number, photograph in enumerate(photographs):
            try:
                items.append((str(number), load_pixels(photograph, self.recipe)))
            except UngradableError as error:
                items.append((str(number), GradingFailure(reason=str(error))))
        return list(self._grade_batch(items))

    def _grade_batch(self, items: Sequence[tuple[str, _Loaded]]) -> Iterator[Prediction | Ungraded]:
        items = [(name, self._withheld(item)) for name, item in items]
        chosen = {i: (name, item) for i, (name, item) in enumerate(items) if isinstance(item, LoadedPhotograph)}
        predictions = dict(zip(chosen, self._grade_loaded(list(chosen.values())), strict=True))
        for i, (name, item) in enumerate(items):
            if isinstance(item, LoadedPhotograph):
                yield predictions[i]
            else:
                yield Ungraded(
                    image=name,
                    model=self.name,
                    reason=item.reason,
                    quality_reasons=item.quality_reasons,
                    laterality=item.laterality,
                    camera=item.camera,
                )

    def _withheld(self, item: _Loaded) -> _Loaded:
        if not self._require_gradable or not isinstance(item, LoadedPhotograph) or item.quality.gradable:
            return item
        reasons = item.quality.reasons
        reason = f"not gradable: {'; '.join(reasons)}"
        return GradingFailure(reason=reason, quality_reasons=reasons, laterality=item.laterality, camera=item.camera)

    def _grade_loaded(self, items: Sequence[tuple[str, LoadedPhotograph]]) -> list[Prediction]:
        if not items:
            return []
        pixels = torch.stack([to_pixels(loaded.prepared.image) for _, loaded in items])
        probabilities = predict_probabilities(
            self.network, pixels, self.choice, self.concurrency.batch_size, tta=self._tta
        )
        return [
            Prediction(
                image=name,
                model=self.name,
                probabilities=tuple(float(p) for p in row),
                thresholds=self.description.thresholds,
                quality_reasons=loaded.quality.reasons,
                grade_range=grade_range,
                laterality=loaded.laterality,
                camera=loaded.camera,
            )
            for (name, loaded), row, grade_range in zip(items, probabilities, self._ranges(probabilities), strict=True)
        ]

    def _ranges(self, probabilities: NDArray[np.float64]) -> list[tuple[Grade, Grade] | None]:
        if self._score_limit is None:
            return [None] * len(probabilities)
        decided = decide_grades(probabilities, self.description.thresholds)
        low, high = grade_sets(probabilities, self._score_limit, decided)
        return [(Grade(first), Grade(last)) for first, last in zip(low.tolist(), high.tolist(), strict=True)]


def _score_limit(checkpoint: Checkpoint, coverage: float, *, tta: bool) -> float:
    scores = checkpoint.description.conformity
    if tta:
        raise CheckpointError(
            "ranges of grades hold for photographs that are graded once, as those of validation were; leave out either "
            "--coverage or --tta"
        )
    if not scores:
        raise CheckpointError(
            f"the model {checkpoint.description.name!r} cannot say ranges of grades: it holds no conformity scores of "
            "validation photographs; train it again with --calibrate, or leave --coverage out"
        )
    return score_limit(np.array(scores), coverage)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Preparing:
    """A photograph on its way: what it is called, and its picture or the reason why there is none."""

    name: str
    future: Future[_Loaded]


def _prepare(found: FoundImage, recipe: PreprocessRecipe) -> _Loaded:
    try:
        return load_photograph(found, recipe)
    except UngradableError as error:
        return GradingFailure(reason=str(error))
