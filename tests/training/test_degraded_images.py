"""Degraded images of a training split: the same whenever they are made, made once, and never all in memory."""

from __future__ import annotations

import errno
import gc
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image as PilImage
from torch import Tensor

from fundusgrade.data.concatenation import concatenate_datasets
from fundusgrade.data.dataset import PreparedDataset
from fundusgrade.data.labels import find_samples
from fundusgrade.data.pixel_cache import write_pixel_cache
from fundusgrade.data.prepare import prepare_dataset
from fundusgrade.errors import DatasetError, StoreError
from fundusgrade.networks.tensors import ImagesInFiles, load_images, to_pixels
from fundusgrade.photographs.images import read_image, write_image
from fundusgrade.photographs.recipe import Method, PreprocessRecipe
from fundusgrade.training import degraded_images
from fundusgrade.training.batches import load_splits, training_batches
from fundusgrade.training.degrade import degraded_image
from fundusgrade.training.degraded_images import DegradedImages, describe_too_little_space
from fundusgrade.training.loop import train
from fundusgrade.training.options import TrainOptions
from tests.models_for_tests import drawn_photograph
from tests.training.short_runs import FLOAT32, CtrlC, Quiet, equal, weights_in

RECIPE = PreprocessRecipe(method=Method.NATURAL, size_px=64)
SIZE_PX = 320
ALL = torch.arange(4)


class DiskUsage(NamedTuple):
    total: int
    used: int
    free: int


def drawn_dataset(folder: Path, name: str, *, first_seed: int = 0, num: int = 4) -> PreparedDataset:
    """Eyes, prepared from photographs that are still there, all of the training split but the last."""
    for seed in range(first_seed, first_seed + num):
        (folder / name / str(seed % 5)).mkdir(parents=True, exist_ok=True)
        photograph = PilImage.fromarray(drawn_photograph(seed, SIZE_PX))
        photograph.save(folder / name / str(seed % 5) / f"eye{seed}.png")
    return prepare_dataset(find_samples([folder / name]), name=name, recipe=RECIPE, num_workers=1)


@pytest.fixture
def eyes(tmp_path: Path) -> PreparedDataset:
    return drawn_dataset(tmp_path, "eyes")


def degraded(
    dataset: PreparedDataset, *, seed: int = 5, folder: Path | None = None, repeated: int = 1
) -> DegradedImages:
    rows = dataset.graded_rows() * repeated
    return DegradedImages(load_images(dataset, rows), dataset, rows, seed=seed, folder=folder)


def count_made(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The photographs that are degraded from now on."""
    made: list[Path] = []

    def count(photograph: Path, *args: PreprocessRecipe, **options: tuple[int, int]) -> object:
        made.append(photograph)
        return degraded_image(photograph, *args, **options)

    monkeypatch.setattr(degraded_images, "degraded_image", count)
    return made


def let_disk_have(monkeypatch: pytest.MonkeyPatch, num_bytes: int) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: DiskUsage(10**12, 10**12 - num_bytes, num_bytes))


def test_each_photograph_is_degraded_in_its_own_way_that_follows_from_the_seed(eyes: PreparedDataset) -> None:
    first, again, other = (degraded(eyes, seed=seed, repeated=2)[torch.arange(8)] for seed in (5, 5, 6))
    assert first.shape == (8, 3, 64, 64) and first.dtype is torch.uint8
    assert torch.equal(first, again)
    assert not any(torch.equal(one, different) for one, different in zip(first, other, strict=True))
    assert not any(torch.equal(one, same) for one, same in zip(first[:4], first[4:], strict=True)), "degraded twice"


def test_images_are_laid_out_as_those_that_were_prepared(eyes: PreparedDataset) -> None:
    for row, image in zip(eyes.graded_rows(), degraded(eyes)[ALL], strict=True):
        difference = image.float() - to_pixels(read_image(eyes.directory / row.image)).float()
        assert 0 < difference.abs().mean() < 40


def test_where_no_retina_is_left_training_takes_the_plain_image(eyes: PreparedDataset) -> None:
    rows = eyes.graded_rows()
    write_image(eyes.photograph_path(rows[1]), np.zeros((200, 200, 3), np.uint8))
    plain = load_images(eyes, rows)
    for folder in (None, eyes.directory):
        found = degraded(eyes, folder=folder)
        for _ in range(2):
            same = [torch.equal(image, plain.select_stored(ALL)[i]) for i, image in enumerate(found[ALL])]
            assert same == [False, True, False, False]


def test_an_image_is_made_once_where_it_is_kept_and_is_the_same_where_it_is_not(
    eyes: PreparedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = count_made(monkeypatch)
    kept, anew = degraded(eyes, folder=tmp_path / "run"), degraded(eyes)
    assert not made, "nothing is made before it is needed"
    first = kept[torch.tensor([2, 0])]
    assert len(made) == 2
    assert torch.equal(kept[ALL][[2, 0]], first) and len(made) == 4
    assert torch.equal(kept[ALL], kept[ALL]) and len(made) == 4
    assert torch.equal(anew[ALL], kept[ALL]) and torch.equal(anew[ALL], kept[ALL]) and len(made) == 12


def test_the_file_has_no_name_and_ends_with_the_images(eyes: PreparedDataset, tmp_path: Path) -> None:
    kept = degraded(eyes, folder=tmp_path / "run")
    kept[ALL]
    assert list((tmp_path / "run").iterdir()) == []
    assert kept._kept is not None
    file = kept._kept._file
    del kept
    gc.collect()
    assert file.closed


def test_with_too_little_space_nothing_is_kept_and_a_line_says_so(
    eyes: PreparedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    num_training = len(eyes.graded_rows("train"))
    num_bytes = 3 * 64**2 * num_training
    let_disk_have(monkeypatch, 2 * num_bytes)
    assert describe_too_little_space(eyes, tmp_path) is None
    let_disk_have(monkeypatch, 2 * num_bytes - 2)
    line = describe_too_little_space(eyes, tmp_path)
    assert line is not None and "made anew in every epoch" in line and str(tmp_path) in line
    made = count_made(monkeypatch)
    images = degraded(eyes, folder=tmp_path)
    assert torch.equal(images[ALL], images[ALL]) and len(made) == 8


def test_a_disk_that_fills_up_is_an_error_that_says_how_to_continue(
    eyes: PreparedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class FullDisk:
        def seek(self, position: int) -> None:
            """Nothing."""

        def write(self, content: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    images = degraded(eyes, folder=tmp_path / "run")
    assert images._kept is not None
    monkeypatch.setattr(images._kept, "_file", FullDisk())
    with pytest.raises(StoreError, match=r"run: no space left.*free some space and continue with --resume"):
        images[ALL]
    assert not images._kept.has.any()


def test_a_photograph_that_is_gone_is_named_with_what_to_do_before_training(eyes: PreparedDataset) -> None:
    path = eyes.photograph_path(eyes.rows[2])
    path.unlink()
    with pytest.raises(DatasetError, match=rf"{path.name}: the file does not exist.*--degrade needs the photographs"):
        degraded(eyes)


def test_a_photograph_that_goes_later_ends_the_epoch_with_the_same_error(eyes: PreparedDataset) -> None:
    images = load_images(eyes, eyes.graded_rows())
    images = replace(images, degraded=degraded(eyes))
    for row in eyes.graded_rows():
        eyes.photograph_path(row).unlink()
    with pytest.raises(DatasetError, match="--degrade needs the photographs"):
        for epoch in range(1, 9):
            list(training_batches(images, 4, seed=0, epoch=epoch, device=torch.device("cpu")))


def test_a_data_set_that_does_not_know_its_photographs_cannot_be_degraded(eyes: PreparedDataset) -> None:
    with pytest.raises(DatasetError, match="does not say where its photographs are"):
        degraded(replace(eyes, root=None))


# Training


def joined(tmp_path: Path) -> PreparedDataset:
    parts = [drawn_dataset(tmp_path, f"eyes{i}", first_seed=20 * i, num=15) for i in range(2)]
    return concatenate_datasets(parts)


def test_batches_hold_degraded_images_of_concatenated_data_sets(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset, options = joined(tmp_path), TrainOptions(arch="cnn", degrade=True).filled()
    write_pixel_cache(dataset)
    training, _ = load_splits(dataset, options, FLOAT32, None, folder=tmp_path / "run")
    whole = replace(training, stored=training.stored[torch.arange(training.stored.shape[0])])
    assert whole.degraded is not None
    whole = replace(whole, degraded=whole.degraded[torch.arange(len(whole))])

    def epoch(images: object, number: int) -> list[Tensor]:
        batches = training_batches(images, 8, seed=1, epoch=number, device=torch.device("cpu"))  # type: ignore[arg-type]
        return [batch.images for batch in batches]

    made = count_made(monkeypatch)
    for number in (1, 2):
        for batch, expected in zip(epoch(training, number), epoch(whole, number), strict=True):
            assert torch.equal(batch, expected)
    plain = replace(training, degraded=None)
    assert not torch.equal(epoch(training, 1)[0], epoch(plain, 1)[0])
    assert not made, "they were all made before, once"


@pytest.mark.parametrize("free", [10**12, 0])
def test_a_run_on_degraded_concatenated_data_sets_resumes_to_the_same_weights(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int
) -> None:
    dataset, options = joined(tmp_path), TrainOptions(arch="cnn", epochs=3, batch_size=4, degrade=True)
    let_disk_have(monkeypatch, free)
    train(dataset, options, FLOAT32, tmp_path / "whole", observer=Quiet())
    train(dataset, options, FLOAT32, tmp_path / "run", observer=CtrlC(2, 1))
    train(dataset, options, FLOAT32, tmp_path / "run", observer=Quiet(), resume=True)
    assert equal(weights_in(tmp_path / "whole"), weights_in(tmp_path / "run"))


def test_reading_images_never_asks_for_more_than_a_batch(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = joined(tmp_path)
    write_pixel_cache(dataset)
    options = TrainOptions(arch="cnn", epochs=1, batch_size=4, degrade=True)
    sizes: list[int] = []

    def watched(method: Callable[[object, Tensor], Tensor]) -> Callable[[object, Tensor], Tensor]:
        def read(self: object, positions: Tensor, /) -> Tensor:
            sizes.append(len(positions))
            return method(self, positions)

        return read

    for kind in (ImagesInFiles, DegradedImages):
        monkeypatch.setattr(kind, "__getitem__", watched(kind.__getitem__))
    train(dataset, options, FLOAT32, tmp_path / "run", observer=Quiet())
    num_validation = len(dataset.graded_rows("validation"))
    assert sizes and max(sizes) <= max(4, num_validation)
