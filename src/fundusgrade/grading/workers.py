"""What a worker of an engine needs, on whatever machine it runs: the model, its options, and where rows go."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from fundusgrade import store
from fundusgrade.errors import EngineError, StoreError
from fundusgrade.files import hash_bytes, hash_file, write_atomically
from fundusgrade.grading.counts import RowCounts
from fundusgrade.grading.folders import ResultFolder
from fundusgrade.grading.grader import Grader
from fundusgrade.grading.parts import PROVENANCE_FILE, Part, attempts_name, finished_counts, write_part
from fundusgrade.grading.resume import RowProvenance
from fundusgrade.networks.graph_files import files_of_model

MAX_ATTEMPTS = 5
"""A part whose worker dies, or whose rows cannot be written, this often ends the run."""
_SENT_MODELS = "sent-models"


@dataclass(frozen=True, slots=True, kw_only=True)
class SentModel:
    """A model on its way to other machines: where it stands here, and the SHA-256 of each of its files by name."""

    path: Path
    hashes: Mapping[str, str]

    @classmethod
    def of(cls, path: Path) -> SentModel:
        """The model of this path. Raises OSError."""
        return cls(path=path.absolute(), hashes={file.name: hash_file(file) for file in files_of_model(path)})

    def contents(self) -> dict[str, bytes]:
        """The contents of its files. Raises OSError."""
        return {name: self.path.with_name(name).read_bytes() for name in self.hashes}

    def place(self, fetch: Callable[[], Mapping[str, bytes]]) -> Path:
        """Where a worker loads it: from the same path if it has the same files, else from a copy in its store.

        `fetch` gives the contents of the files, if they are needed. Raises EngineError where they arrived damaged.
        """
        if self._is_at(self.path.parent):
            return self.path
        folder = store.home() / _SENT_MODELS / self.hashes[self.path.name]
        if not self._is_at(folder):
            for name, content in fetch().items():
                if hash_bytes(content) != self.hashes[name]:
                    raise EngineError(f"{name} arrived damaged at {socket.gethostname()}; run again with --resume")
                write_atomically(folder / name, content)
        return folder / self.path.name

    def _is_at(self, folder: Path) -> bool:
        try:
            return all(hash_file(folder / name) == digest for name, digest in self.hashes.items())
        except OSError:
            return False


@dataclass(frozen=True, slots=True, kw_only=True)
class GradingJob:
    """What all workers are told: how to load the model, what its rows must be like, and where they go.

    `load` makes a grader from the path of the model, the number of threads and the batch size. `witness` is a
    photograph on a disk of this machine that the workers must see too, None where there are only URLs.
    """

    model: SentModel
    load: Callable[..., Grader]
    num_threads: int
    folder: ResultFolder
    with_ranges: bool
    provenance: RowProvenance
    witness: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GradedPart:
    """The counts of a part whose rows are written, and how often it was begun."""

    counts: RowCounts
    num_attempts: int = 1


class PartGrader:
    """A worker: a grader that is loaded once, and grades parts. Raises EngineError where this machine differs."""

    def __init__(self, job: GradingJob, fetch: Callable[[], Mapping[str, bytes]]) -> None:
        _check_disks(job)
        self._job = job
        self._grader = job.load(
            str(job.model.place(fetch)), num_workers=job.num_threads, batch_size=job.provenance.batch_size
        )
        _check_provenance(self._grader.provenance(), job.provenance)

    def grade(self, part: Part) -> GradedPart:
        """Grade a part and write its rows, or count them where an earlier attempt has written them.

        Raises EngineError where another attempt would not help: the part was begun too often, or that cannot be
        counted; any other error is one after which the part may be begun again.
        """
        folder = self._job.folder
        try:
            counts, num_attempts = _begin(folder, part)
        except StoreError as error:
            raise EngineError(str(error)) from error
        if counts is None:
            results = self._grader.grade_all(part.photographs)
            counts = write_part(folder, part, results, with_ranges=self._job.with_ranges)
        if num_attempts:
            folder.remove(attempts_name(part.number))
        return GradedPart(counts=counts, num_attempts=max(1, num_attempts))


def _begin(folder: ResultFolder, part: Part) -> tuple[RowCounts | None, int]:
    """The counts of a part that is finished, else None; and how often it was begun, this attempt included."""
    marker = attempts_name(part.number)
    num_before = int(folder.read(marker) or 0)
    counts = finished_counts(folder, part)
    if counts is not None:
        return counts, num_before
    _check_attempts(part, num_before)
    folder.write(marker, str(num_before + 1).encode())
    return None, num_before + 1


def _check_attempts(part: Part, num_before: int) -> None:
    if num_before >= MAX_ATTEMPTS:
        raise EngineError(
            f"part {part.number} was begun {num_before} times: its worker died, or its rows could not be written; one "
            f"of its photographs, {part.names[0]} to {part.names[-1]}, may be the reason: grade them without --engine, "
            "leave out what fails, and start over with --overwrite; if it was the machines, continue with --resume"
        )


def _check_disks(job: GradingJob) -> None:
    """Whether this machine sees the photographs and the folder of the results."""
    host = socket.gethostname()
    if job.witness is not None and not job.witness.is_file():
        raise EngineError(
            f"the worker on {host} does not see {job.witness}; use a disk that all machines share, or URLs such as s3://"
        )
    if job.folder.read(PROVENANCE_FILE) is None:
        raise EngineError(
            f"the worker on {host} does not see {job.folder.place_of(PROVENANCE_FILE)}, which was just written; use a "
            "disk that all machines share, or a URL such as s3://"
        )


def _check_provenance(own: RowProvenance, expected: RowProvenance) -> None:
    """Whether this machine would write the rows that the others write."""
    mine, theirs = asdict(own), asdict(expected)
    different = [name for name in theirs if mine[name] != theirs[name]]
    if different:
        raise EngineError(
            f"the worker on {socket.gethostname()} grades with "
            + ", ".join(f"{name} {mine[name]}" for name in different)
            + "; expected "
            + ", ".join(f"{name} {theirs[name]}" for name in different)
            + "; use machines of one kind with the same packages, or set --device, --precision and --runtime"
        )
