"""Clusters of photographs that were acquired alike: drawn cameras are told apart, and nothing else is."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PilImage

from fundusgrade.data.acquisition import (
    MAX_CLUSTERS,
    MIN_CLUSTER,
    Acquisition,
    cluster_acquisitions,
    measure_acquisition,
)
from fundusgrade.data.concatenation import concatenate_datasets
from fundusgrade.data.dataset import load_dataset
from fundusgrade.data.labels import find_samples
from fundusgrade.data.manifest import ACQUISITION_COLUMN, MANIFEST_FILE
from fundusgrade.data.prepare import prepare_dataset
from fundusgrade.data.prepare_images import RECORDS_FILE
from fundusgrade.photographs.loading import load_photograph
from fundusgrade.photographs.recipe import Method, PreprocessRecipe
from tests.drawn_eyes import cut, healthy_eye, squash
from tests.prepared import RECIPE

USUAL = Acquisition(height_px=224, width_px=224, radius_x=0.5, radius_y=0.5, cut_x=0.0, cut_y=0.0, quantization=5.0)


def photographs(count: int, seed: int = 0, *, center: Acquisition = USUAL, spread: float = 0.003) -> list[Acquisition]:
    """Photographs of one camera: radii and cuts differ by the error of measuring them."""
    errors = np.random.default_rng(seed).normal(0, spread, (count, 4))
    return [
        replace(
            center,
            radius_x=center.radius_x + x,
            radius_y=center.radius_y + y,
            cut_x=max(0.0, center.cut_x + cut_x),
            cut_y=max(0.0, center.cut_y + cut_y),
        )
        for x, y, cut_x, cut_y in errors
    ]


def shuffled(items: Sequence[Acquisition], seed: int) -> list[Acquisition]:
    return [items[i] for i in np.random.default_rng(seed).permutation(len(items))]


@pytest.mark.parametrize(
    "other",
    [
        replace(USUAL, height_px=448, width_px=448),
        replace(USUAL, width_px=336),
        replace(USUAL, radius_y=0.58),
        replace(USUAL, radius_x=0.42),
        replace(USUAL, cut_y=0.15),
        replace(USUAL, quantization=20.0),
    ],
    ids=["resolution", "aspect", "squashed disc", "margin", "cut", "compression"],
)
def test_two_cameras_are_two_clusters_whatever_differs(other: Acquisition) -> None:
    mixed = shuffled(photographs(200) + photographs(100, 1, center=other), 2)
    clusters = cluster_acquisitions(mixed)
    is_other = [
        (each.height_px, each.width_px, each.quantization) != (224, 224, 5.0)
        or np.hypot(each.radius_x - 0.5, each.radius_y - 0.5) > 0.04
        or each.cut_y > 0.07
        for each in mixed
    ]
    assert clusters == tuple(2 if each else 1 for each in is_other)


def test_photographs_of_one_camera_are_one_cluster() -> None:
    for seed in range(3):
        assert set(cluster_acquisitions(photographs(300, seed))) == {1}
    assert set(cluster_acquisitions([USUAL] * 100)) == {1}
    wide = photographs(300, spread=0.012)
    assert set(cluster_acquisitions(wide)) == {1}, "crops by hand vary, in one cloud"


def test_many_cameras_are_found_and_the_largest_is_first() -> None:
    sizes = {0.30: 160, 0.36: 120, 0.42: 90, 0.48: 70, 0.54: 60, 0.60: 50}
    mixed = [
        each
        for seed, (radius, count) in enumerate(sizes.items())
        for each in photographs(count, seed, center=replace(USUAL, radius_x=radius))
    ]
    clusters = cluster_acquisitions(mixed)
    assert [clusters.count(number) for number in range(1, 7)] == list(sizes.values())
    assert max(filter(None, clusters)) == 6 < MAX_CLUSTERS


def test_a_cluster_does_not_depend_on_the_order_and_a_photograph_without_measures_has_none() -> None:
    mixed = photographs(150) + photographs(60, 1, center=replace(USUAL, radius_y=0.6))
    clusters = cluster_acquisitions(mixed)
    order = np.random.default_rng(3).permutation(len(mixed))
    assert cluster_acquisitions([mixed[i] for i in order]) == tuple(np.array(clusters)[order])
    assert cluster_acquisitions([None, *mixed, None]) == (None, *clusters, None)
    assert cluster_acquisitions([None]) == (None,) and cluster_acquisitions([]) == ()


def test_a_few_odd_photographs_join_the_nearest_cluster() -> None:
    near, far = replace(USUAL, radius_y=0.48), replace(USUAL, radius_y=0.75)
    mixed = [
        *photographs(300),
        *photographs(200, 1, center=far),
        *[replace(far, radius_x=0.8)] * (MIN_CLUSTER - 5),
        near,
    ]
    clusters = cluster_acquisitions(mixed)
    assert clusters == (1,) * 300 + (2,) * (200 + MIN_CLUSTER - 5) + (1,)
    odd = [replace(USUAL, radius_x=0.9)] * MIN_CLUSTER
    assert set(cluster_acquisitions(photographs(2000) + odd)) == {1}, "1 % of all photographs are no cluster"
    assert set(cluster_acquisitions(photographs(15) + odd)) == {1}, "too few to tell two clusters apart"


# Measured on photographs


def test_acquisition_is_measured_on_a_photograph_however_it_was_decoded(tmp_path: Path) -> None:
    """The original size counts, not the reduced one, and fractions do not depend on it."""
    recipe = PreprocessRecipe(method=Method.NATURAL, size_px=224)
    eye = squash(cut(healthy_eye(1411), top=0.1, bottom=0.1), width_px=2400, height_px=1920)
    for name, quality in (("eye.jpg", 92), ("eye.png", None), ("small.jpg", 40)):
        image = PilImage.fromarray(eye.photograph)
        image = image.resize((600, 480)) if name == "small.jpg" else image
        image.save(tmp_path / name, **({} if quality is None else {"quality": quality}))
    large, png, small = (
        measure_acquisition(tmp_path / name, load_photograph(tmp_path / name, recipe))
        for name in ("eye.jpg", "eye.png", "small.jpg")
    )
    assert (large.height_px, large.width_px) == (png.height_px, png.width_px) == (1920, 2400)
    assert (small.height_px, small.width_px) == (480, 600)
    true = eye.disc
    for measured in (large, png, small):
        assert measured.radius_x == pytest.approx(true.radius_x / 2400, abs=0.004)
        assert measured.radius_y == pytest.approx(true.radius_y / 1920, abs=0.004)
        hidden = 1 - 1920 / (2 * true.radius_y)
        assert measured.cut_y == pytest.approx(hidden, abs=0.01) and measured.cut_x == pytest.approx(0, abs=0.01)
    assert png.quantization == 0 < large.quantization < small.quantization


def test_a_photograph_that_its_camera_turned_has_its_upright_size(tmp_path: Path) -> None:
    exif = PilImage.Exif()
    exif[0x0112] = 6
    eye = squash(healthy_eye(900), width_px=1600, height_px=1300)
    PilImage.fromarray(eye.photograph).rotate(90, expand=True).save(tmp_path / "eye.jpg", exif=exif, quality=90)
    loaded = load_photograph(tmp_path / "eye.jpg", PreprocessRecipe(method=Method.NATURAL, size_px=224))
    assert (loaded.height_px, loaded.width_px) == (1300, 1600) and loaded.photograph.shape[0] < 1300


# In prepared data sets


@pytest.fixture
def two_cameras(tmp_path: Path) -> Path:
    """48 photographs of the full disc, 24 that are cut and squashed; one cannot be read."""
    folder = tmp_path / "cameras"
    folder.mkdir()
    full = healthy_eye(96)
    other = squash(cut(full, top=0.15, bottom=0.15), width_px=96, height_px=96)
    for i in range(72):
        eye = (full if i % 3 else other).photograph.copy()
        eye[40:50, 40:50] += np.uint8(i % 20)
        PilImage.fromarray(eye).save(folder / f"{i:02d}.png")
    (folder / "black.png").write_bytes(b"no image")
    rows = [f"{i:02d}.png,{i % 5}" for i in range(72)] + ["black.png,1"]
    (folder / "labels.csv").write_text("image,level\n" + "\n".join(rows) + "\n")
    return folder


def test_preparing_writes_clusters_that_its_records_reproduce(two_cameras: Path) -> None:
    dataset = prepare_dataset(find_samples([two_cameras]), name="cameras", recipe=RECIPE, num_workers=1)
    by_name = {row.source: row.acquisition for row in dataset.rows}
    assert by_name.pop("black.png") is None
    assert by_name == {name: 1 if int(name[:2]) % 3 else 2 for name in by_name}
    described = json.loads((dataset.directory / "dataset.json").read_text())
    assert described["num_per_acquisition"] == [48, 24]
    records = [json.loads(line) for line in (dataset.directory / RECORDS_FILE).read_text().splitlines()]
    measured = [None if record["acquisition"] is None else Acquisition(**record["acquisition"]) for record in records]
    clusters = dict(zip((record["source"] for record in records), cluster_acquisitions(measured), strict=True))
    assert clusters == {row.source: row.acquisition for row in dataset.rows}


def test_a_data_set_of_an_earlier_version_loads_without_clusters(two_cameras: Path) -> None:
    dataset = prepare_dataset(find_samples([two_cameras]), name="cameras", recipe=RECIPE, num_workers=1)
    path = dataset.directory / MANIFEST_FILE
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        del row[ACQUISITION_COLUMN]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    earlier = load_dataset(dataset.directory)
    assert [replace(row, acquisition=None) for row in dataset.rows] == list(earlier.rows)


def test_clusters_of_concatenated_data_sets_differ(two_cameras: Path) -> None:
    first, second = (
        prepare_dataset(find_samples([two_cameras]), name=name, recipe=RECIPE, num_workers=1)
        for name in ("first", "second")
    )
    rows = concatenate_datasets([first, second]).rows
    assert {row.origin: {r.acquisition for r in rows if r.origin == row.origin} for row in rows} == {
        "first": {1, 2, None},
        "second": {3, 4, None},
    }
