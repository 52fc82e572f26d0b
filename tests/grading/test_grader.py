"""One path from photograph to grade: in order, with broken files, in batches of any size, by any name of a model."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import fundusgrade
from fundusgrade import store
from fundusgrade.errors import CheckpointError, DatasetError, DeviceError, StoreError, UnreadableImageError
from fundusgrade.grades import Prediction, Ungraded
from fundusgrade.grading import failures
from fundusgrade.grading.datasets import predict_dataset, predict_rows
from fundusgrade.grading.grader import Grader
from fundusgrade.networks.tensors import load_images, to_pixels
from fundusgrade.options import DeviceName, Precision
from fundusgrade.photographs.images import read_image
from fundusgrade.photographs.loading import LoadedPhotograph, load_photograph
from fundusgrade.photographs.recipe import Method, PreprocessRecipe
from fundusgrade.photographs.sources import PhotographSource, find_images
from tests.drawn_eyes import preprocess_photograph
from tests.models_for_tests import (
    SIZE_PX,
    install_dataset,
    install_model,
    save_broken_files,
    save_labeled_photographs,
    save_photographs,
)

TOLERANCE = 1e-4  # float32 sums in another order; a mix-up of two photographs changes more than this


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Networks this small only wait for a second thread, for long where the machine is busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def load(name: str = "tiny", *, batch_size: int = 4) -> Grader:
    return Grader.load(name, device=DeviceName.CPU, precision=Precision.FLOAT32, batch_size=batch_size)


@pytest.fixture
def grader() -> Grader:
    install_model()
    return load()


def probabilities(results: list[Prediction | Ungraded]) -> np.ndarray:
    assert all(isinstance(result, Prediction) for result in results), results
    return np.array([result.probabilities for result in results if isinstance(result, Prediction)])


def grade_folder(grader: Grader, folder: Path) -> list[Prediction | Ungraded]:
    return list(grader.grade_all(find_images([folder])))


def test_models_of_these_tests_tell_photographs_apart(grader: Grader, tmp_path: Path) -> None:
    save_photographs(tmp_path, range(12))
    rows = probabilities(grade_folder(grader, tmp_path))
    assert np.unique(rows.round(3), axis=0).shape[0] == 12
    assert len(set(rows.argmax(axis=1))) >= 3
    assert np.allclose(rows.sum(axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_results_come_in_order_however_long_each_photograph_takes(
    batch_size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_model()
    grader = load(batch_size=batch_size)
    found = find_images(save_photographs(tmp_path, range(14)))
    found[3] = PhotographSource(path=tmp_path / "missing.png", name="missing.png")
    expected = [grader.grade(item.path) for item in found]
    delays = iter(np.random.default_rng(0).permutation(14) * 0.004)

    def dawdle(found: PhotographSource, recipe: PreprocessRecipe) -> LoadedPhotograph:
        time.sleep(next(delays))
        return load_photograph(found, recipe)

    monkeypatch.setattr(failures, "load_photograph", dawdle)
    results = list(grader.grade_all(iter(found)))
    assert [result.image for result in results] == [item.name for item in found]
    assert isinstance(results[3], Ungraded)
    assert [result.grade for result in results if isinstance(result, Prediction)] == [
        result.grade for result in expected if isinstance(result, Prediction)
    ]


def test_every_broken_file_is_named_with_its_reason_and_every_good_one_graded(grader: Grader, tmp_path: Path) -> None:
    reasons = save_broken_files(tmp_path)
    assert len(reasons) >= 12
    good = save_photographs(tmp_path, range(7))
    found = [
        *find_images([tmp_path]),
        PhotographSource(path=tmp_path, name="a folder"),
        *find_images([tmp_path / "gone.png"]),
    ]
    reasons |= {"a folder": "this is a folder", "gone.png": "does not exist"}
    results = {Path(result.image).name: result for result in grader.grade_all(found)}
    assert set(results) == set(reasons) | {path.name for path in good}
    for name, expected in reasons.items():
        result = results[name]
        assert isinstance(result, Ungraded), name
        assert expected in result.reason, name
        assert "\n" not in result.reason
    assert all(isinstance(results[path.name], Prediction) for path in good)


@pytest.mark.skipif(os.geteuid() == 0, reason="everything is permitted to root")
def test_a_forbidden_file_is_named(grader: Grader, tmp_path: Path) -> None:
    path = save_photographs(tmp_path, [0])[0]
    path.chmod(0)
    result = grader.grade(path)
    assert isinstance(result, Ungraded)
    assert "permission denied" in result.reason


@pytest.mark.parametrize("arch", ["cnn", "test_vit"])
def test_neither_batch_size_nor_order_changes_a_grade(arch: str, tmp_path: Path) -> None:
    install_model(arch=arch)
    found = find_images(save_photographs(tmp_path, range(9)))
    expected = probabilities(list(load(batch_size=9).grade_all(found)))
    for batch_size in (1, 2, 5):
        assert np.allclose(probabilities(list(load(batch_size=batch_size).grade_all(found))), expected, atol=TOLERANCE)
    backward = probabilities(list(load(batch_size=4).grade_all(reversed(found))))[::-1]
    assert np.allclose(backward, expected, atol=TOLERANCE)
    assert np.array_equal(backward.argmax(axis=1), expected.argmax(axis=1))


def test_a_broken_neighbor_changes_nothing(grader: Grader, tmp_path: Path) -> None:
    found = find_images(save_photographs(tmp_path, range(4)))
    alone = probabilities(list(grader.grade_all(found)))
    broken = PhotographSource(path=tmp_path / "gone.png", name="gone.png")
    mixed = list(grader.grade_all([broken, found[0], broken, *found[1:], broken, broken, broken, broken]))
    assert np.allclose(probabilities([r for r in mixed if isinstance(r, Prediction)]), alone, atol=TOLERANCE)


def test_grading_one_equals_grading_all(grader: Grader, tmp_path: Path) -> None:
    paths = save_photographs(tmp_path, range(3))
    together = list(grader.grade_all(find_images(paths)))
    assert list(grader.grade_all(paths)) == together
    for path, expected in zip(paths, together, strict=True):
        single = grader.grade(path)
        assert single.image == expected.image == path.as_posix()
        assert single.model == expected.model == "tiny"
        assert np.allclose(probabilities([single]), probabilities([expected]), atol=TOLERANCE)


def test_nothing_to_grade_gives_nothing(grader: Grader) -> None:
    assert list(grader.grade_all([])) == []


def test_photographs_are_taken_from_an_endless_source_as_needed(grader: Grader, tmp_path: Path) -> None:
    taken = []

    def source() -> Iterator[PhotographSource]:
        path = save_photographs(tmp_path, [0])[0]
        for number in itertools.count():
            taken.append(number)
            yield PhotographSource(path=path, name=str(number))

    results = grader.grade_all(source())
    assert [next(results).image for _ in range(6)] == ["0", "1", "2", "3", "4", "5"]
    assert len(taken) <= 6 + 4 * 4  # a few batches of four


def test_an_abandoned_run_ends_its_threads_and_leaves_the_rest_undone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_model()
    grader = load(batch_size=10)
    found = [PhotographSource(path=tmp_path / f"{number}.png", name=str(number)) for number in range(100)]
    loaded: list[PhotographSource] = []

    def dawdle(found: PhotographSource, recipe: PreprocessRecipe) -> LoadedPhotograph:
        time.sleep(0.02)
        loaded.append(found)
        raise UnreadableImageError("slow")

    monkeypatch.setattr(failures, "load_photograph", dawdle)
    threads = set(threading.enumerate())
    results = grader.grade_all(found)
    assert next(results).image == "0"
    assert set(threading.enumerate()) > threads
    results.close()  # type: ignore[attr-defined]  # a generator
    assert set(threading.enumerate()) == threads
    assert len(loaded) < 60


def test_an_error_of_ours_is_not_hidden_in_a_row(
    grader: Grader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path, recipe: PreprocessRecipe) -> None:
        raise ZeroDivisionError("a mistake in the program")

    monkeypatch.setattr(failures, "load_photograph", fail)
    threads = set(threading.enumerate())
    with pytest.raises(ZeroDivisionError):
        list(grader.grade_all([PhotographSource(path=tmp_path, name="a")] * 10))
    assert set(threading.enumerate()) == threads


def test_prepared_images_and_original_photographs_walk_one_path(grader: Grader, tmp_path: Path) -> None:
    """What was evaluated is what is predicted: equal pixels, equal tensors, equal probabilities."""
    save_labeled_photographs(tmp_path)
    dataset = install_dataset("drawn")
    rows = dataset.graded_rows()
    assert len(rows) == 20
    paths = [tmp_path / row.source for row in rows]
    pixels = load_images(dataset, rows).pixels
    for path, stored in zip(paths, pixels, strict=True):
        assert torch.equal(to_pixels(preprocess_photograph(read_image(path), grader.recipe).image), stored)
    from_photographs = probabilities(list(grader.grade_all(find_images(paths))))
    assert np.array_equal(predict_rows(grader, dataset, rows), from_photographs)


def test_predictions_are_those_of_the_rows_of_the_split(grader: Grader) -> None:
    dataset = install_dataset("drawn")
    for split in ("train", "validation", "test", "all"):
        rows = dataset.graded_rows(split)
        predicted = predict_dataset(grader, dataset, split).test
        assert predicted.sources == tuple(row.source for row in rows)
        assert predicted.grades.tolist() == [row.grade for row in rows]
        assert np.array_equal(predicted.probabilities, predict_rows(grader, dataset, rows))
    assert len(predict_dataset(grader, dataset, "all").test) == 20
    assert 0 < len(predict_dataset(grader, dataset, "test").test) < 20


def test_a_data_set_prepared_otherwise_is_refused_with_the_command_that_helps() -> None:
    dataset = install_dataset("drawn")
    install_model("graham", method=Method.BEN_GRAHAM)
    with pytest.raises(DatasetError) as raised:
        predict_dataset(load("graham"), dataset, "test")
    message = str(raised.value)
    assert f"'drawn' is natural, band at {SIZE_PX} px" in message
    assert f"'graham' needs ben-graham, band at {SIZE_PX} px" in message
    assert f"`fundusgrade preprocess FOLDER --name NAME --method ben-graham --outline band --size {SIZE_PX}`" in message


def test_loading_finds_models_by_name_folder_file_and_default(monkeypatch: pytest.MonkeyPatch) -> None:
    path = install_model("mine")
    monkeypatch.setattr(store, "DEFAULT_MODEL", "mine")
    for name in ("mine", str(path), str(path.parent), None):
        grader = Grader.load(name, device=DeviceName.CPU, precision=Precision.FLOAT32)
        assert grader.name == "mine"
        assert grader.recipe == PreprocessRecipe(method=Method.NATURAL, size_px=SIZE_PX)


def test_loading_refuses_what_is_not_there(tmp_path: Path) -> None:
    path = install_model("mine")
    with pytest.raises(StoreError, match=r"no model 'other'.*mine"):
        Grader.load("other")
    (tmp_path / "weights.safetensors").write_bytes(b"not weights")
    with pytest.raises(CheckpointError, match=r"weights\.safetensors"):
        Grader.load(str(tmp_path / "weights.safetensors"))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        Grader.load("mine")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_loading_does_not_fall_back_to_another_device() -> None:
    install_model()
    with pytest.raises(DeviceError, match="--device cuda: this machine has none"):
        Grader.load("tiny", device=DeviceName.CUDA)


def test_a_network_of_no_numbers_is_an_error_and_not_a_grade(tmp_path: Path) -> None:
    install_model()
    grader = load()
    with torch.no_grad():
        next(grader.pytorch.network.parameters()).fill_(float("nan"))
    with pytest.raises(CheckpointError, match="not finite"):
        grader.grade(save_photographs(tmp_path, [0])[0])


def test_the_library_has_one_way_in_that_imports_nothing_before_it_is_used() -> None:
    program = "import sys, fundusgrade; print(sorted({'torch', 'cv2', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr
    assert fundusgrade.Grader is Grader and fundusgrade.find_images is find_images
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = fundusgrade.nothing
