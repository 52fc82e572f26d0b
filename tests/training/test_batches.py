"""Batches follow from seed and epoch alone, and augmentation changes an image only as cameras and eyes differ."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from fundusgrade.errors import DatasetError
from fundusgrade.networks.tensors import LabeledImages, load_images
from fundusgrade.photographs.images import read_image, write_image
from fundusgrade.photographs.preprocess import canonical_outline, within_outline
from fundusgrade.photographs.recipe import Method, Outline, PreprocessRecipe
from fundusgrade.training import augmentation, batches
from fundusgrade.training.augmentation import augment, draw_changes
from fundusgrade.training.batches import num_batches, training_batches
from tests.prepared import colored_disc, prepared_dataset

CPU = torch.device("cpu")


def numbered(count: int, size_px: int = 32) -> LabeledImages:
    """Noise images, each with its number as grade."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 3, size_px, size_px), dtype=torch.uint8, generator=generator)
    return LabeledImages(stored=pixels, grades=torch.arange(count), fill=128)


def epoch_of(images: LabeledImages, *, seed: int = 0, epoch: int = 1, batch_size: int = 4) -> list[batches.Batch]:
    return list(training_batches(images, batch_size, seed=seed, epoch=epoch, device=CPU))


def augmented(images: Tensor, fill: float = 0.0, seed: int = 0) -> Tensor:
    """Augmented as the seed says; images (B, 3, S, S) in [0, 1] are rounded to uint8 first."""
    changes = draw_changes(len(images), torch.Generator().manual_seed(seed))
    return augment((images * 255).round().to(torch.uint8), fill, changes)


def only_rotate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let rotation and mirroring be the only changes."""
    for limit in ("MAX_ZOOM", "MAX_SHIFT_FRACTION", "MAX_BRIGHTNESS", "MAX_CONTRAST", "MAX_SATURATION"):
        monkeypatch.setattr(augmentation, limit, 0.0)


def test_loading_keeps_order_pixels_and_grades(tmp_path: Path) -> None:
    dataset = prepared_dataset(tmp_path / "toy", num_train=13, num_validation=4)
    rows = dataset.graded_rows("train")
    images = load_images(dataset, rows)
    assert images.grades.tolist() == [number % 5 for number in range(13)]
    assert images.pixels.shape == (13, 3, 32, 32)
    assert images.pixels.dtype is torch.uint8
    for index, row in enumerate(rows):
        stored = read_image(dataset.directory / row.image)
        assert np.array_equal(images.select_stored(torch.tensor([index]))[0].permute(1, 2, 0).numpy(), stored)
        expected = within_outline(stored, dataset.recipe)
        assert np.array_equal(images.pixels[index].permute(1, 2, 0).numpy(), expected)
        assert not np.array_equal(expected, stored), "the disc around the band is stored"


@pytest.mark.parametrize(("method", "fill"), [(Method.BEN_GRAHAM, 128), (Method.NATURAL, 0)])
def test_the_fill_is_that_of_the_recipe(tmp_path: Path, method: Method, fill: int) -> None:
    recipe = PreprocessRecipe(method=method, size_px=32)
    dataset = prepared_dataset(tmp_path / "toy", num_train=2, num_validation=0, recipe=recipe)
    assert load_images(dataset, dataset.graded_rows("train")).fill == fill


def test_an_empty_split_is_an_error(tmp_path: Path) -> None:
    dataset = prepared_dataset(tmp_path / "toy", num_train=5, num_validation=0)
    with pytest.raises(DatasetError, match="'toy' has no graded photographs in this split; see its manifest"):
        load_images(dataset, dataset.graded_rows("validation"))


def test_an_image_of_another_size_is_an_error(tmp_path: Path) -> None:
    dataset = prepared_dataset(tmp_path / "toy", num_train=5, num_validation=0)
    write_image(dataset.directory / dataset.rows[3].image, np.zeros((32, 48, 3), np.uint8))
    with pytest.raises(DatasetError, match=r"0003.png is 48 x 32 px, expected 32 x 32.*fundusgrade preprocess"):
        load_images(dataset, dataset.graded_rows("train"))


@pytest.mark.parametrize(("num_images", "expected"), [(1, 1), (3, 1), (4, 1), (7, 1), (8, 2), (11, 2), (12, 3)])
def test_number_of_batches(num_images: int, expected: int) -> None:
    assert num_batches(num_images, 4) == expected
    assert len(epoch_of(numbered(num_images))) == expected


def test_an_epoch_has_whole_batches_and_no_image_twice() -> None:
    found = epoch_of(numbered(11))
    assert [len(batch.grades) for batch in found] == [4, 4]
    assert [tuple(batch.images.shape) for batch in found] == [(4, 3, 32, 32)] * 2
    used = torch.cat([batch.grades for batch in found]).tolist()
    assert len(set(used)) == 8


def test_fewer_images_than_a_batch_are_one_batch() -> None:
    (only,) = epoch_of(numbered(3))
    assert sorted(only.grades.tolist()) == [0, 1, 2]


def test_every_image_is_used_within_a_few_epochs() -> None:
    images = numbered(11)
    used = {int(g) for epoch in range(1, 9) for batch in epoch_of(images, epoch=epoch) for g in batch.grades}
    assert used == set(range(11))


def test_seed_and_epoch_decide_everything() -> None:
    images = numbered(12)
    first = epoch_of(images, seed=3, epoch=5)
    torch.manual_seed(99)
    torch.rand(7)
    again = epoch_of(images, seed=3, epoch=5)
    for a, b in zip(first, again, strict=True):
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.grades, b.grades)


def test_every_epoch_of_every_seed_has_an_order_of_its_own() -> None:
    images = numbered(12)
    orders = {
        (seed, epoch): tuple(g for batch in epoch_of(images, seed=seed, epoch=epoch) for g in batch.grades.tolist())
        for seed in range(4)
        for epoch in range(1, 5)
    }
    assert len(set(orders.values())) == len(orders)


def test_batches_use_no_random_numbers_of_the_global_generator() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    epoch_of(numbered(8))
    assert torch.equal(torch.get_rng_state(), before)


def test_augmented_images_stay_in_range() -> None:
    noise = torch.rand(16, 3, 32, 32, generator=torch.Generator().manual_seed(1)).round()
    for fill in (0.0, 128 / 255):
        result = augmented(noise, fill)
        assert result.dtype is torch.float32
        assert result.shape == noise.shape
        assert result.min() >= 0
        assert result.max() <= 1


@pytest.mark.parametrize("method", [Method.NATURAL, Method.BEN_GRAHAM])
def test_the_surroundings_keep_their_gray(method: Method) -> None:
    recipe = PreprocessRecipe(method=method, size_px=64)
    rng = np.random.default_rng(0)
    discs = np.stack([colored_disc(number % 5, recipe, rng) for number in range(40)])
    images = torch.from_numpy(discs.transpose(0, 3, 1, 2).copy()).float() / 255
    result = augmented(images, recipe.fill / 255)
    corners = result[:, :, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert (corners - recipe.fill / 255).abs().max() < 1 / 255


def test_every_image_of_a_batch_is_changed_differently() -> None:
    image = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(2))
    result = augmented(image.expand(6, -1, -1, -1).clone(), 0.5)
    for i in range(6):
        for j in range(i):
            assert (result[i] - result[j]).abs().mean() > 0.01


def test_without_changes_an_image_is_itself_mirrored_or_rotated_by_180_degrees(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(augmentation, "_uniform", lambda count, limit, generator: torch.zeros(count))
    images = (torch.rand(20, 3, 32, 32, generator=torch.Generator().manual_seed(3)) * 255).round() / 255
    result = augmented(images, 0.5)
    same = (result - images).abs().amax(dim=(1, 2, 3)) < 1e-5
    mirrored = (result - images.flip(3)).abs().amax(dim=(1, 2, 3)) < 1e-5
    turned = (result - images.flip(2, 3)).abs().amax(dim=(1, 2, 3)) < 1e-5
    upside_down = (result - images.flip(2)).abs().amax(dim=(1, 2, 3)) < 1e-5
    kinds = torch.stack([same, mirrored, turned, upside_down]).int()
    assert kinds.sum(dim=0).tolist() == [1] * 20
    assert int(kinds.sum(dim=1).min()) >= 1


def test_a_spot_is_rotated_about_the_center_and_keeps_its_area(monkeypatch: pytest.MonkeyPatch) -> None:
    only_rotate(monkeypatch)
    size_px, middle = 64, 31.5
    image = torch.zeros(1, 3, size_px, size_px)
    image[..., 12:20, 24:40] = 0.8
    result = augmented(image.expand(40, -1, -1, -1).clone())[:, 0].double()
    areas = result.sum(dim=(1, 2))
    assert (areas / image[0, 0].sum() - 1).abs().max() < 0.02
    axis = torch.arange(size_px) - middle
    x = (result.sum(dim=1) * axis).sum(dim=1) / areas
    y = (result.sum(dim=2) * axis).sum(dim=1) / areas
    assert (torch.hypot(x, y) - 16).abs().max() < 0.2
    quadrants = {(bool(a > 0), bool(b > 0)) for a, b in zip(x, y, strict=True)}
    assert len(quadrants) == 4


@pytest.mark.parametrize("outline", [Outline.BAND, Outline.MIRRORED_DISC])
@pytest.mark.parametrize("rows", [None, (12, 52)])
def test_no_gray_enters_the_outline_however_the_disc_is_turned(outline: Outline, rows: tuple[int, int] | None) -> None:
    """A white disc on gray: rotated by any angle, shifted and zoomed, white fills the outline and nothing else."""
    recipe = PreprocessRecipe(outline=outline, size_px=64)
    disc = torch.from_numpy(canonical_outline(replace(recipe, outline=Outline.MIRRORED_DISC)))
    shown, fill = torch.from_numpy(canonical_outline(recipe)), 128 / 255
    images = torch.where(disc, 255, 128).to(torch.uint8).expand(50, 3, -1, -1)
    changes = draw_changes(50, torch.Generator().manual_seed(0))
    changes[:, 6:9] = torch.tensor([1.0, 1.0, 0.0])  # contrast, saturation, brightness as they are
    result = augment(images, fill, changes, rows, outline=shown)
    expected = torch.where(shown, 1.0, fill)[slice(*(rows or (None,)))]
    assert (result - expected).abs().max() < 1e-5
    gray = augment(images, fill, changes, rows)[:, :, 5:-5]
    assert (gray - expected[5:-5]).abs().max() > 0.1, "without the outline some gray would enter"


def test_unchanged_discs_keep_their_pixels_up_to_the_edge() -> None:
    size_px = 64
    recipe = PreprocessRecipe(outline=Outline.MIRRORED_DISC, size_px=size_px)
    images = numbered(6, size_px).stored
    still = torch.tensor([1.0, 0, 0, 0, 1, 0, 1, 1, 0, 0, 0]).expand(6, 11)
    result = augment(images, 0.5, still, outline=torch.from_numpy(canonical_outline(recipe)))
    axis = torch.arange(size_px) - (size_px - 1) / 2
    inner = torch.hypot(axis[None], axis[:, None]) < size_px / 2 - 2
    assert ((result - images / 255).abs() * inner).max() < 1e-5


def test_beyond_its_edge_a_disc_is_continued_by_reflection() -> None:
    """Brightness is the distance from the center; zoomed out, it falls again beyond the edge."""
    size_px = 64
    axis = torch.arange(size_px) - (size_px - 1) / 2
    radius = torch.hypot(axis[None], axis[:, None])
    images = (radius * 4).to(torch.uint8).expand(1, 3, -1, -1)
    zoomed = torch.tensor([[1.25, 0, 0, 0, 1.25, 0, 1, 1, 0, 0, 0]])
    shown = torch.from_numpy(canonical_outline(PreprocessRecipe(outline=Outline.MIRRORED_DISC, size_px=size_px)))
    result = augment(images, 0.0, zoomed, outline=shown)[0, 0] * 255
    edge = size_px / 2 - 1.5
    expected = 4 * torch.where(radius * 1.25 <= edge, radius * 1.25, 2 * edge - radius * 1.25)
    assert ((result - expected).abs() * (shown & (radius > 1.5))).max() < 4.5


def test_images_are_mirrored_half_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    only_rotate(monkeypatch)
    image = torch.zeros(1, 3, 64, 64)
    image[:, 0, 14:20, 29:35] = 0.8  # red above
    image[:, 1, 29:35, 44:50] = 0.8  # green to the right
    result = augmented(image.expand(60, -1, -1, -1).clone()).double()
    axis = torch.arange(64) - 31.5
    x = (result.sum(dim=2) * axis).sum(dim=2)
    y = (result.sum(dim=3) * axis).sum(dim=2)
    turns_right = x[:, 0] * y[:, 1] - y[:, 0] * x[:, 1] > 0
    assert 15 <= int(turns_right.sum()) <= 45


def test_light_changes_the_retina_within_its_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(functional, "grid_sample", lambda images, grid, align_corners: images)
    images = torch.full((200, 3, 8, 8), 0.5)
    result = augmented(images, 0.2)
    change = result.amax(dim=(1, 2, 3)) - 0.5
    limit = augmentation.MAX_BRIGHTNESS + 0.3 * augmentation.MAX_CONTRAST
    assert change.abs().max() <= limit + 1e-6
    assert change.max() > 0.5 * limit
    assert change.min() < -0.5 * limit


# Noise


def test_noise_has_the_deviation_that_was_drawn_and_follows_from_its_seed() -> None:
    generator = torch.Generator().manual_seed(4)
    changes = draw_changes(40, generator, max_noise=2.0)
    assert changes[:, 9].min() > 0 and 255 * changes[:, 9].max() <= 2 and 255 * changes[:, 9].max() > 1.5
    changes[:, :9] = torch.tensor([1.0, 0, 0, 0, 1, 0, 1, 1, 0])
    images = torch.full((40, 3, 64, 64), 128, dtype=torch.uint8)
    noise = augment(images, 0.5, changes) - 128 / 255
    assert torch.allclose(noise.std(dim=(1, 2, 3)), changes[:, 9], rtol=0.05)
    assert noise.mean(dim=(1, 2, 3)).abs().max() < 1e-3
    assert augment(images, 0.5, changes).equal(augment(images, 0.5, changes))
    one, other = noise[0] / changes[0, 9], noise[1] / changes[1, 9]
    assert abs(float((one * other).mean())) < 0.05, "each image has its own"


def test_only_images_of_varying_quality_get_noise() -> None:
    assert draw_changes(5, torch.Generator().manual_seed(0))[:, 9:].eq(0).all()
    still = torch.full((4, 3, 32, 32), 128, dtype=torch.uint8)
    images = LabeledImages(stored=still, grades=torch.arange(4), fill=128)
    plain, noisy = epoch_of(images)[0].images, epoch_of(replace(images, degraded=still))[0].images
    assert float(plain.std(dim=(1, 2, 3)).max()) < 1e-5 < float(noisy.std(dim=(1, 2, 3)).min())
