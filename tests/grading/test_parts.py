"""Rows in parts: the rows of one process, resumed without grading twice, in a folder or one file, here or at a URL."""

from __future__ import annotations

import functools
import json
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import fsspec
import pytest

from fundusgrade.errors import EngineError, StoreError
from fundusgrade.grades import Prediction, Ungraded
from fundusgrade.grading.engine import PartsOutput, PartsRun, grade_in_parts
from fundusgrade.grading.folders import LocalFolder, result_folder
from fundusgrade.grading.grader import Grader
from fundusgrade.grading.parts import MAX_PART_SIZE, Part, attempts_name, choose_part_size, part_name
from fundusgrade.grading.resume import ResumeRequest
from fundusgrade.grading.workers import MAX_ATTEMPTS, GradingJob, PartGrader, SentModel
from fundusgrade.grading.writer import PredictionWriter
from fundusgrade.photographs.inputs import Photograph
from fundusgrade.photographs.sources import find_images
from tests.grading.runs_in_parts import run_of_eyes
from tests.models_for_tests import install_model

pytest.importorskip("pyarrow", reason="parts are Parquet files")


@pytest.fixture
def run(tmp_path: Path) -> PartsRun:
    """Eleven eyes, one of them broken, to be graded into a folder; parts hold four."""
    return run_of_eyes(tmp_path, 11, "out")


def of_one_process(run: PartsRun, path: Path) -> Path:
    """The file that one process writes row by row."""
    names = [each.name for each in run.photographs]
    request = ResumeRequest(names=names, provenance=run.grader.provenance())
    with PredictionWriter(path, request=request) as writer:
        for result in run.grader.grade_all(run.photographs):
            writer.write(result)
    return path


def grade(run: PartsRun, **changes: object) -> tuple[PartsRun, int]:
    """Run, and return the run and how many rows an earlier one had graded."""
    run, kept = replace(run, **changes), []  # type: ignore[arg-type]
    outcome = grade_in_parts(run, lambda what, num_kept: kept.append(num_kept), lambda done, total: None)
    assert outcome.counts.num_rows == len(run.photographs)
    assert outcome.counts.num_ungraded == 1
    return run, sum(kept)


class StoppedError(Exception):
    """What ends a run in the middle."""


def stop_after(num_results: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let grading end after so many results; returns the list of the photographs that are graded from now on."""
    graded: list[str] = []
    whole = Grader.grade_all

    def counted(self: Grader, photographs: Iterable[Photograph]) -> Iterator[Prediction | Ungraded]:
        for result in whole(self, photographs):
            if len(graded) == num_results:
                raise StoppedError
            graded.append(result.image)
            yield result

    monkeypatch.setattr(Grader, "grade_all", counted)
    return graded


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_a_file_gathered_from_parts_is_that_of_one_process(run: PartsRun, tmp_path: Path, suffix: str) -> None:
    whole, path = of_one_process(run, tmp_path / f"whole.{suffix}"), tmp_path / f"out.{suffix}"
    grade(run, output=PartsOutput.of(path))
    assert path.read_bytes() == whole.read_bytes()
    assert json.loads((tmp_path / f"out.{suffix}.json").read_text()) == json.loads(
        (tmp_path / f"whole.{suffix}.json").read_text()
    )
    assert not (tmp_path / f"out.{suffix}.parts").exists()


def test_a_folder_of_parts_is_read_as_one_table_with_the_rows_of_one_process(run: PartsRun, tmp_path: Path) -> None:
    from pyarrow import parquet

    whole = of_one_process(run, tmp_path / "whole.parquet")
    grade(run)
    (tmp_path / "out" / "_config.yaml").write_text("beside the parts")
    assert sorted(path.name for path in (tmp_path / "out").glob("part-*")) == [part_name(n) for n in range(3)]
    assert parquet.read_table(tmp_path / "out").to_pylist() == parquet.read_table(whole).to_pylist()


@pytest.mark.parametrize("url", ["memory://results/out", "memory://results-file/out.csv"])
def test_rows_at_a_url_are_those_on_a_disk(run: PartsRun, tmp_path: Path, url: str) -> None:
    """In this process only: the memory of fsspec is that of one process."""
    whole = of_one_process(run, tmp_path / "whole.csv")
    try:
        here, _ = grade(run, output=PartsOutput.of(Path(url)))
        assert str(here.output) == url
        names = here.output.parent.names()
        if here.output.file is not None:
            assert here.output.parent.read("out.csv") == whole.read_bytes()
            assert names == ["out.csv", "out.csv.json"]
        else:
            assert names == ["_provenance.json", *map(part_name, range(3))]
        with pytest.raises(StoreError, match=r"add --overwrite|resume it with --resume"):
            here.output.check(resume=False, overwrite=False)
        here.output.check(resume=True, overwrite=False)
    finally:
        fsspec.filesystem("memory").store.clear()


@pytest.mark.parametrize("name", ["out", "out.csv"])
def test_a_run_that_was_stopped_continues_and_grades_no_finished_part_again(
    run: PartsRun, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = of_one_process(run, tmp_path / "whole.csv")
    names = [each.name for each in run.photographs]
    output = PartsOutput.of(tmp_path / name)
    with monkeypatch.context() as patched:
        stop_after(9, patched)
        with pytest.raises(StoppedError) as stopped:
            grade(run, output=output)
    assert "(8 rows)" in stopped.value.__notes__[0] and "--resume" in stopped.value.__notes__[0]
    times = {part: Path(output.parts.place_of(part)).stat().st_mtime_ns for part in map(part_name, range(2))}
    with monkeypatch.context() as patched:
        graded = stop_after(1000, patched)
        _, num_kept = grade(run, output=output, resume=True)
    assert num_kept == 8 and graded == names[8:]
    if name == "out":
        assert times == {part: Path(output.parts.place_of(part)).stat().st_mtime_ns for part in times}
    else:
        assert (tmp_path / name).read_bytes() == whole.read_bytes()


def test_a_finished_run_is_not_graded_again(run: PartsRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("out", "out.csv"):
        grade(run, output=PartsOutput.of(tmp_path / name))
    graded = stop_after(0, monkeypatch)
    for name in ("out", "out.csv"):
        grade(run, output=PartsOutput.of(tmp_path / name), resume=True)
    assert graded == []


def test_parts_of_other_photographs_models_and_options_are_refused(run: PartsRun, tmp_path: Path) -> None:
    grade(run)
    with pytest.raises(StoreError, match="resume it with --resume, or discard it with --overwrite"):
        grade(run)
    with pytest.raises(StoreError, match=r"num_photographs 11, .* this run has num_photographs 10"):
        grade(run, photographs=run.photographs[:-1], resume=True)
    with pytest.raises(StoreError, match=r"photographs_sha256 [0-9a-f]{64}; this run has photographs_sha256"):
        grade(run, photographs=run.photographs[::-1], resume=True)
    install_model("tiny", seed=1)
    with pytest.raises(StoreError, match="was written with description"):
        grade(run, grader=run.load("tiny"), resume=True)
    with pytest.raises(StoreError, match="require_gradable False"):
        grade(run, grader=run.load("tiny", require_gradable=True), resume=True)
    grade(run, overwrite=True)


def test_a_folder_with_other_files_is_never_written_to(run: PartsRun, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(StoreError, match=r"has other files \(thesis\.txt\), and no _provenance\.json"):
            grade(run, overwrite=overwrite)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.txt"]


def test_a_damaged_part_and_one_of_other_photographs_are_named(run: PartsRun, tmp_path: Path) -> None:
    grade(run)
    first, last = (tmp_path / "out" / part_name(number) for number in (0, 2))
    content = first.read_bytes()
    first.write_bytes(last.read_bytes())
    with pytest.raises(StoreError, match=r"part-000000\.parquet: row 1 is about .*eye08\.png'.*remove this part"):
        grade(run, resume=True)
    first.write_bytes(content[: len(content) // 2])
    with pytest.raises(StoreError, match=r"part-000000\.parquet is damaged"):
        grade(run, resume=True)
    first.unlink()
    _, num_kept = grade(run, resume=True)
    assert num_kept == 7 and first.read_bytes() == content


def test_parts_hold_whole_batches_and_are_several_for_each_worker() -> None:
    assert choose_part_size(2000, 8, 2) == 256
    assert choose_part_size(3, 8, 2) == 8
    assert choose_part_size(10_000_000, 64, 100) == MAX_PART_SIZE
    for batch_size in (3, 8, 64):
        assert choose_part_size(1000, batch_size, 3) % batch_size == 0


def test_a_part_survives_its_way_to_a_worker(run: PartsRun, tmp_path: Path) -> None:
    odd = replace(run.photographs[0], path=tmp_path / "\udcff\n=1.png", name="\udcff\n=1.png", url="s3://a/b", frame=2)
    with zipfile.ZipFile(tmp_path / "eyes.zip", "w") as archive:
        archive.writestr("left/eye.png", b"1")
        archive.writestr("../eye.png", b"2")
    members = find_images([tmp_path / "eyes.zip"])
    assert len(members) == 2 and members[0].member is not None
    part = Part(number=7, photographs=[odd, *run.photographs, *members])
    assert Part.from_json(part.to_json()) == part


def worker_of(run: PartsRun, fetch: Callable[[], dict[str, bytes]] = dict) -> PartGrader:
    """A worker for the folder of a run that has begun."""
    model = SentModel.of(run.model)
    return PartGrader(
        GradingJob(
            model=model,
            load=run.load,
            num_threads=1,
            folder=run.output.parts,
            with_ranges=False,
            provenance=run.grader.provenance(),
        ),
        fetch,
    )


def test_a_worker_grades_a_part_once_and_gives_up_one_that_ended_it_too_often(run: PartsRun, tmp_path: Path) -> None:
    grade(run)
    folder, part = run.output.parts, Part(number=0, photographs=run.photographs[:4])
    written = (tmp_path / "out" / part_name(0)).stat().st_mtime_ns
    worker = worker_of(run)
    assert worker.grade(part).counts.num_rows == 4
    assert (tmp_path / "out" / part_name(0)).stat().st_mtime_ns == written
    folder.remove(part_name(0))
    folder.write(attempts_name(0), str(MAX_ATTEMPTS - 1).encode())
    assert worker.grade(part).num_attempts == MAX_ATTEMPTS
    assert folder.read(attempts_name(0)) is None
    folder.remove(part_name(0))
    folder.write(attempts_name(0), str(MAX_ATTEMPTS).encode())
    with pytest.raises(EngineError, match=r"part 0 was begun 5 times.*eye00\.png to .*eye03\.png.*--resume"):
        worker.grade(part)
    grade(run, resume=True)
    assert folder.read(attempts_name(0)) is None


@dataclass(frozen=True, slots=True, kw_only=True)
class FullFolder(LocalFolder):
    """A folder to which nothing can be written."""

    def write(self, name: str, content: bytes) -> None:
        raise StoreError(f"cannot write {name}: no space left on device")


def test_a_worker_that_cannot_count_its_attempts_ends_the_run_instead_of_trying_for_ever(
    run: PartsRun, tmp_path: Path
) -> None:
    grade(run)
    run.output.parts.remove(part_name(0))
    full = replace(run, output=replace(run.output, parts=FullFolder(path=tmp_path / "out")))
    with pytest.raises(EngineError, match="no space left"):
        worker_of(full).grade(Part(number=0, photographs=run.photographs[:4]))


def test_a_worker_that_differs_or_sees_other_disks_is_refused(run: PartsRun, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"does not see .*_provenance\.json.*shared?|URL"):
        worker_of(run)
    grade(run)
    with pytest.raises(EngineError, match=r"grades with tta True; expected tta False; use machines of one kind"):
        worker_of(replace(run, load=functools.partial(run.load, tta=True)))


def test_a_model_that_a_machine_lacks_is_sent_and_checked(run: PartsRun, home: Path, tmp_path: Path) -> None:
    model = SentModel.of(run.model)
    contents = model.contents()
    assert model.place(dict) == run.model
    run.model.rename(tmp_path / "moved")
    with pytest.raises(EngineError, match="arrived damaged"):
        model.place(lambda: {name: content + b"\0" for name, content in contents.items()})
    placed = model.place(lambda: contents)
    assert placed.is_relative_to(home) and placed.read_bytes() == contents[run.model.name]
    assert model.place(dict) == placed, "it is sent once"


def test_a_file_at_a_url_needs_a_folder() -> None:
    with pytest.raises(StoreError, match=r"name a file in a bucket or folder, such as memory://results/out\.csv"):
        PartsOutput.of(Path("memory://out.csv"))


def test_results_in_memory_are_a_folder_as_others_are() -> None:
    folder = result_folder("memory://somewhere/new")
    try:
        assert folder.names() == [] and folder.read("a") is None
        folder.write("a", b"1")
        assert folder.names() == ["a"] and folder.read("a") == b"1"
        folder.remove("a")
        folder.remove_if_empty()
        assert folder.names() == []
    finally:
        fsspec.filesystem("memory").store.clear()
