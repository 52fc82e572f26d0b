"""The pixel cache is written once, used by every split, and never used when any image has changed."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fundusgrade import store
from fundusgrade.data import pixel_cache
from fundusgrade.data.concatenation import concatenate_datasets
from fundusgrade.data.dataset import PreparedDataset, load_dataset
from fundusgrade.data.manifest import write_manifest
from fundusgrade.data.pixel_cache import load_decoded_images, write_pixel_cache
from fundusgrade.errors import DatasetError
from fundusgrade.networks.tensors import load_images
from fundusgrade.photographs.images import read_image, write_image
from fundusgrade.photographs.preprocess import within_outline
from tests.prepared import prepared_dataset


@pytest.fixture
def toy(home: Path) -> PreparedDataset:
    return prepared_dataset(home / "datasets" / "toy", num_train=13, num_validation=5)


def pixels_of(dataset: PreparedDataset, split: str) -> torch.Tensor:
    return load_images(dataset, dataset.graded_rows(split)).pixels


def refuse_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise AssertionError("decoded although it is cached")

    monkeypatch.setattr(pixel_cache, "read_image", refuse)


def test_cached_images_equal_decoded_ones_for_any_split(toy: PreparedDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    fold = toy.with_fold(2)
    expected = [pixels_of(toy, "train"), pixels_of(toy, "validation"), pixels_of(fold, "test")]
    assert write_pixel_cache(toy) is None
    refuse_decoding(monkeypatch)
    assert write_pixel_cache(toy) is None, "it is there already"
    found = [pixels_of(toy, "train"), pixels_of(toy, "validation"), pixels_of(fold, "test")]
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert isinstance(load_decoded_images(toy, toy.graded_rows("train")).pixels, np.memmap)
    with pytest.raises(AssertionError, match="although it is cached"):
        pixels_of(prepared_dataset(toy.directory.with_name("other")), "train")


def test_the_cache_does_not_count_in_the_size_of_the_data_set(toy: PreparedDataset) -> None:
    (before,) = store.list_datasets()
    write_pixel_cache(toy)
    assert store.list_datasets() == [before]
    assert (toy.directory / store.PIXELS_FILE).stat().st_size == 18 * 3 * 32 * 32 + 32


@pytest.mark.parametrize("same_size", [True, False])
def test_an_image_that_changed_is_decoded_again(toy: PreparedDataset, same_size: bool) -> None:
    write_pixel_cache(toy)
    row = toy.graded_rows("train")[3]
    path = toy.directory / row.image
    image = read_image(path)
    status = path.stat()
    if same_size:
        content = path.read_bytes()
        other = next(toy.directory / each.image for each in toy.rows if each.image != row.image)
        path.write_bytes((other.read_bytes() + bytes(len(content)))[: len(content)])
    else:
        write_image(path, 255 - image)
    changed = within_outline(255 - image, toy.recipe)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # as a copying program may set it
    assert not isinstance(load_decoded_images(toy, toy.graded_rows("validation")).pixels, np.memmap)
    if not same_size:
        assert np.array_equal(pixels_of(toy, "train")[3].permute(1, 2, 0).numpy(), changed)
        assert write_pixel_cache(toy) is None
        assert np.array_equal(pixels_of(toy, "train")[3].permute(1, 2, 0).numpy(), changed)


def test_another_manifest_makes_it_stale(toy: PreparedDataset) -> None:
    write_pixel_cache(toy)
    write_manifest(toy.directory, [replace(toy.rows[1], split="validation"), toy.rows[0], *toy.rows[2:]])
    changed = load_dataset(toy.directory)
    assert not isinstance(load_decoded_images(changed, changed.graded_rows("train")).pixels, np.memmap)


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-1], lambda data: data + b"x", lambda data: b"", lambda d: d[1:]]
)
def test_a_damaged_file_is_not_used(toy: PreparedDataset, damage: object) -> None:
    expected = pixels_of(toy, "train")
    write_pixel_cache(toy)
    path = toy.directory / store.PIXELS_FILE
    path.write_bytes(damage(path.read_bytes()))
    assert torch.equal(pixels_of(toy, "train"), expected)
    assert not isinstance(load_decoded_images(toy, toy.graded_rows("train")).pixels, np.memmap)


def test_concatenated_data_sets_use_the_caches_of_each(
    home: Path, toy: PreparedDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = prepared_dataset(home / "datasets" / "other", num_train=13, num_validation=5, seed=5)
    both = concatenate_datasets([toy, other])
    expected = pixels_of(both, "train")
    write_pixel_cache(other)
    assert torch.equal(pixels_of(both, "train"), expected)
    assert write_pixel_cache(both) is None
    refuse_decoding(monkeypatch)
    assert torch.equal(pixels_of(both, "train"), expected)
    assert not (both.directory / store.PIXELS_FILE).exists()


def test_a_full_disk_is_reported_and_leaves_nothing(toy: PreparedDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = sorted(toy.directory.glob("[!.]*"))
    monkeypatch.setattr("os.fsync", full)
    assert "decodes all images again (cannot write" in (write_pixel_cache(toy) or "")
    assert "no space left" in (write_pixel_cache(toy) or "")
    assert sorted(toy.directory.glob("[!.]*")) == before
    assert not list(toy.directory.glob("*.part"))
    assert len(pixels_of(toy, "train")) == 13


def test_a_missing_image_is_an_error_only_for_the_split_that_has_it(toy: PreparedDataset) -> None:
    row = toy.graded_rows("validation")[0]
    (toy.directory / row.image).unlink()
    assert row.image in (write_pixel_cache(toy) or "")
    assert len(pixels_of(toy, "train")) == 13
    with pytest.raises(DatasetError, match=row.image):
        pixels_of(toy, "validation")
