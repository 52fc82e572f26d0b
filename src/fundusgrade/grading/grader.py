"""The library's entry point: load a model once, grade any number of photographs.

grader = Grader.load()                       # the shipped model, or a name or path
grader.grade("eye.png")                      # Prediction or Ungraded
for result in grader.grade_all(find_images("images")):
    ...                                      # the same, in order
"""

from __future__ import annotations

import copy
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import islice
from typing import TYPE_CHECKING, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from fundusgrade import __version__, store
from fundusgrade.errors import ExplanationError
from fundusgrade.files import hash_text
from fundusgrade.grades import Prediction, Ungraded
from fundusgrade.grading.concurrency import Concurrency, choose_concurrency, worker_pools
from fundusgrade.grading.failures import GradingFailure, load_or_fail
from fundusgrade.grading.postprocess import Postprocessing
from fundusgrade.grading.results import Results
from fundusgrade.grading.resume import RowProvenance
from fundusgrade.metrics.conformal import KnownCoverage
from fundusgrade.networks.loading import load_model
from fundusgrade.networks.model import Model
from fundusgrade.networks.runtime import Arithmetic, Graded, Pixels, predict
from fundusgrade.options import DeviceName, Precision, RuntimeName
from fundusgrade.photographs.inputs import Photograph, PhotographInMemory, as_source, as_sources
from fundusgrade.photographs.loading import LoadedPhotograph
from fundusgrade.photographs.pixels import Image
from fundusgrade.photographs.read_ahead import read_ahead
from fundusgrade.photographs.recipe import PreprocessRecipe
from fundusgrade.photographs.sources import PhotographSource

if TYPE_CHECKING:
    from fundusgrade.networks.torch_runtime import TorchRuntime

Single = TypeVar("Single", bound=Photograph)
OnLoaded = Callable[[int, LoadedPhotograph], None]
"""What gets the position of a photograph in its list, and the loaded photograph, in the thread that loaded it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pending:
    """A photograph that a worker is loading and preprocessing."""

    name: str
    future: Future[LoadedPhotograph | GradingFailure]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ready:
    """A photograph that is loaded and preprocessed, or could not be."""

    name: str
    loaded: LoadedPhotograph | GradingFailure


class Grader:
    """A model in one runtime; it grades photographs after the same preprocessing that it was trained with."""

    def __init__(
        self,
        model: Model,
        concurrency: Concurrency | None = None,
        *,
        require_gradable: bool = False,
        tta: bool = False,
        coverage: float | None = None,
        sensitivity: float | None = None,
        threshold: float | None = None,
    ) -> None:
        self.model = model
        self.description = model.description
        self.fingerprints = model.fingerprints
        self.checks = model.checks
        device, size_px = self.arithmetic.device, self.recipe.size_px
        self.concurrency = concurrency or choose_concurrency(device, size_px=size_px)
        self.tta = tta
        self.coverage = coverage
        self._postprocessing = Postprocessing.of(
            model, require_gradable=require_gradable, tta=tta, coverage=coverage, sensitivity=sensitivity,
            threshold=threshold,
        )  # fmt: skip
        self.operating_point = self._postprocessing.operating_point

    @classmethod
    def load(
        cls,
        model: str | None = None,
        *,
        device: DeviceName = DeviceName.AUTO,
        precision: Precision = Precision.AUTO,
        runtime: RuntimeName = RuntimeName.AUTO,
        batch_size: int | None = None,
        num_workers: int | None = None,
        require_gradable: bool = False,
        tta: bool = False,
        coverage: float | None = None,
        sensitivity: float | None = None,
        threshold: float | None = None,
    ) -> Grader:
        """Load a model or exported graph by name or path, the shipped model if None.

        `runtime` computes the network: `auto` is PyTorch on a GPU, and on a CPU OpenVINO or ONNX Runtime where one is
        installed, for which the model is converted once, and kept in the store. Batch size and number of workers are
        chosen for this machine where they are None. `require_gradable` reports
        photographs of doubtful quality as ungraded. `tta` averages the outputs for each photograph and its mirror
        images (test-time augmentation). `coverage`, 0 to 1, adds the range of grades that contains the true grade with
        that probability, and an upper bound. `sensitivity`, 0 to 1, or `threshold`, a probability of referable DR, sets
        another operating point than the model's own. Raises StoreError for an unknown name, CheckpointError for a
        damaged file or a missing package, and for a range or a sensitivity that the model cannot give, DeviceError for
        a missing device, ExportError where a runtime that was asked for cannot compute the network.
        """
        loaded = load_model(store.resolve_model(model), device=device, precision=precision, runtime=runtime)
        concurrency = choose_concurrency(
            loaded.runtime.arithmetic.device,
            size_px=loaded.description.recipe.size_px,
            num_workers=num_workers,
            batch_size=batch_size,
        )
        return cls(
            loaded, concurrency, require_gradable=require_gradable, tta=tta, coverage=coverage,
            sensitivity=sensitivity, threshold=threshold,
        )  # fmt: skip

    @property
    def name(self) -> str:
        """The model's name, as it is written in results."""
        return self.description.name

    @property
    def arithmetic(self) -> Arithmetic:
        """Which runtime computes the network, and how."""
        return self.model.runtime.arithmetic

    @cached_property
    def pytorch(self) -> TorchRuntime:
        """The network in PyTorch, which computes gradients: what grades, or loaded now beside another runtime.

        Raises ExplanationError for an exported graph, which has no gradients.
        """
        from fundusgrade.networks.torch_runtime import TorchRuntime, load_on_pytorch

        if isinstance(self.model.runtime, TorchRuntime):
            return self.model.runtime
        if self.model.checkpoint is None:
            raise ExplanationError(
                f"{self.name} is an exported graph ({self.arithmetic.runtime}) and cannot be explained: it has no "
                "gradients and no feature maps; explain the safetensors model that it was exported from"
            )
        return load_on_pytorch(self.model.checkpoint, DeviceName.CPU, Precision(self.arithmetic.number_format))

    def with_own_network(self) -> Grader:
        """The same grader with a copy of PyTorch's network: heat maps hook into modules, one thread at a time."""
        from fundusgrade.networks.torch_runtime import TorchRuntime

        copied = copy.copy(self)
        copied.pytorch = TorchRuntime(copy.deepcopy(self.pytorch.network), self.pytorch.choice)
        if self.model.runtime is self.pytorch:
            copied.model = replace(self.model, runtime=copied.pytorch)
        return copied

    @property
    def batch_size(self) -> int:
        """Number of photographs that go through the network at once."""
        return self.concurrency.batch_size

    @property
    def recipe(self) -> PreprocessRecipe:
        """The preprocessing that the model was trained with."""
        return self.description.recipe

    def known_coverage(self) -> tuple[KnownCoverage, ...]:
        """How often ranges of this coverage hold the true grade of the photographs that the model's limits come from.

        Of all, then of each grade; empty where the model does not say, or without a target coverage.
        """
        return () if self.coverage is None else self.description.conformity.known_coverage(self.coverage)

    def provenance(self) -> RowProvenance:
        """Everything besides the photograph that determines a row of results."""
        return RowProvenance(
            fundusgrade=__version__,
            model=self.name,
            description=hash_text(self.description.to_json()),
            device=self.arithmetic.device,
            runtime=self.arithmetic.runtime,
            precision=self.arithmetic.number_format,
            batch_size=self.batch_size,
            require_gradable=self._postprocessing.require_gradable,
            tta=self.tta,
            coverage=self.coverage,
            referable_threshold=self.operating_point.threshold,
        )

    @overload
    def grade(self, photograph: Photograph) -> Prediction | Ungraded: ...

    @overload
    def grade(self, photograph: list[Photograph] | tuple[Photograph, ...]) -> Results: ...

    @overload  # lists are invariant: a list of paths is no list of all that may be a photograph
    def grade(self, photograph: list[Single]) -> Results: ...

    def grade(
        self, photograph: Photograph | list[Single] | list[Photograph] | tuple[Photograph, ...]
    ) -> Prediction | Ungraded | Results:
        """Grade one photograph, or a list of them; what cannot be graded is returned as Ungraded, with the reason.

        A photograph is a path, a Pillow image, an array (H, W, 3) of RGB values (uint8, uint16, or floats from 0 to
        1), the bytes of an image file, or one of `find_images`. Raises TypeError for anything else, ValueError for an
        array of another layout or range.
        """
        if isinstance(photograph, list | tuple):
            return Results(self.grade_all(photograph))
        return next(self._grade_all(iter([as_source(photograph)])))

    def grade_all(
        self, photographs: Iterable[Photograph], *, on_loaded: OnLoaded | None = None
    ) -> Iterator[Prediction | Ungraded]:
        """Grade photographs in order, as `grade`; a bounded number of them is in memory at any time.

        Batches depend on the order of the photographs only, so that results are bitwise identical for any number of
        workers. Paths are read by all workers, photographs in memory are taken one after the other. `on_loaded` gets
        the position of each photograph that could be loaded, and the loaded photograph, from the worker that loaded
        it. Raises TypeError where a single photograph is given.
        """
        return self._grade_all(read_ahead(as_sources(photographs)), on_loaded)

    def _grade_all(
        self, photographs: Iterator[PhotographSource | PhotographInMemory], on_loaded: OnLoaded | None = None
    ) -> Iterator[Prediction | Ungraded]:
        waiting = enumerate(photographs)
        max_batches = 2 + math.ceil(2 * self.concurrency.num_workers / self.batch_size)
        running: deque[Future[list[Prediction | Ungraded]]] = deque()
        following: list[_Pending] = []
        with worker_pools(self.concurrency, self.arithmetic.device) as pools:
            while batch := list(islice(waiting, self.batch_size)):
                # A batch is loaded before the network runs on the one before it, so that no worker waits for another.
                loading, following = (
                    following,
                    [
                        self._submit(pools.photographs, source, on_loaded and partial(on_loaded, place))
                        for place, source in batch
                    ],
                )
                if loading:
                    running.append(pools.network.submit(self._grade_pending, loading))
                while running and (len(running) >= max_batches or running[0].done()):
                    yield from running.popleft().result()
            if following:
                running.append(pools.network.submit(self._grade_pending, following))
            while running:
                yield from running.popleft().result()

    def grade_loaded(self, loaded: LoadedPhotograph, name: str = "") -> Prediction:
        """Grade a photograph that was loaded with this model's recipe."""
        return self._postprocessing.predictions([name], [loaded], self._run_on([loaded]))[0]

    def grade_images(self, photographs: Sequence[Image]) -> list[Prediction | Ungraded]:
        """Grade photographs (H, W, 3) uint8 RGB in memory, of any sizes; each is named by its index."""
        loaded = [load_or_fail(photograph, self.recipe) for photograph in photographs]
        return self._grade_batch([_Ready(name=str(index), loaded=result) for index, result in enumerate(loaded)])

    def _submit(
        self,
        pool: Executor,
        source: PhotographSource | PhotographInMemory,
        on_loaded: Callable[[LoadedPhotograph], None] | None,
    ) -> _Pending:
        return _Pending(name=source.name, future=pool.submit(load_or_fail, source, self.recipe, on_loaded))

    def _grade_pending(self, batch: Sequence[_Pending]) -> list[Prediction | Ungraded]:
        return self._grade_batch([_Ready(name=pending.name, loaded=pending.future.result()) for pending in batch])

    def _grade_batch(self, batch: Sequence[_Ready]) -> list[Prediction | Ungraded]:
        loaded = [ready.loaded for ready in batch if isinstance(ready.loaded, LoadedPhotograph)]
        names = [ready.name for ready in batch if isinstance(ready.loaded, LoadedPhotograph)]
        results = iter(self._postprocessing.results(names, loaded, self._run_on(loaded)) if loaded else ())
        return [
            self._postprocessing.ungraded(ready.name, ready.loaded)
            if isinstance(ready.loaded, GradingFailure)
            else next(results)
            for ready in batch
        ]

    def ungraded(self, name: str, reason: str) -> Ungraded:
        """The result of a photograph that cannot be graded for this reason."""
        return self._postprocessing.ungraded(name, GradingFailure(reason=reason))

    def predict_images(self, images: Pixels) -> NDArray[np.float64]:
        """Probabilities (N, 5), before a clinic's recalibration, of preprocessed images (N, S, S, 3) uint8."""
        return self._run(images).probabilities

    def _run_on(self, loaded: Sequence[LoadedPhotograph]) -> Graded:
        return self._run(np.stack([photograph.preprocessed.image for photograph in loaded]))

    def _run(self, pixels: Pixels) -> Graded:
        """Probabilities, before a clinic's recalibration, and the features where checks need them."""
        return predict(
            self.model.runtime,
            self.description.network,
            pixels,
            batch_size=self.batch_size,
            tta=self.tta,
            with_features=self.checks is not None,
        )
