"""Copies agree in fine detail once they are registered, whatever was done to them; other eyes do not."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from fundusgrade.data import descriptors
from fundusgrade.data.descriptors import (
    DESCRIPTOR_RECIPE,
    DESCRIPTOR_SIDE,
    HIDDEN,
    Descriptor,
    describe_detail,
    read_descriptor,
    registered_correlation,
    write_descriptor,
)
from fundusgrade.data.duplicates import MIN_CORRELATION
from fundusgrade.photographs.pixels import Image
from tests import drawn_eyes
from tests.drawn_eyes import preprocess_photograph

SHAPE = (DESCRIPTOR_SIDE, DESCRIPTOR_SIDE)


def descriptor_of(photograph: Image) -> Descriptor:
    prepared = preprocess_photograph(photograph, DESCRIPTOR_RECIPE)
    descriptor = describe_detail(prepared.image, prepared.mask)
    assert descriptor is not None
    return descriptor


def recompressed(photograph: Image, scale: float, quality: int) -> Image:
    small = cv2.resize(photograph, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    _, data = cv2.imencode(".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.asarray(cv2.cvtColor(cv2.imdecode(data, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB), np.uint8)


def relit(photograph: Image) -> Image:
    """Of another exposure, color and gamma, brighter on the left than on the right."""
    light = np.linspace(1.2, 0.8, photograph.shape[1], dtype=np.float32)[None, :, None]
    changed = 255 * (photograph / np.float32(255)) ** 0.8 * light * np.array([1.1, 0.9, 0.8], np.float32)
    return np.asarray(np.clip(changed, 0, 255), np.uint8)


def copies_of(eye: drawn_eyes.DrawnEye) -> dict[str, Image]:
    size = eye.photograph.shape[0]
    squashed = drawn_eyes.squash(eye, width_px=round(0.8 * size), height_px=size)
    return {
        "recompressed": recompressed(eye.photograph, 1.0, 60),
        "reduced": recompressed(eye.photograph, 0.6, 85),
        "relit": relit(eye.photograph),
        "cut": drawn_eyes.cut(eye, top=0.10, bottom=0.10).photograph,
        "squashed": squashed.photograph,
        "all of it": relit(recompressed(drawn_eyes.cut(squashed, top=0.08).photograph, 0.8, 75)),
    }


def smooth_noise(seed: int) -> NDArray[np.float32]:
    """A pattern (48, 48) whose details are as large as a descriptor's."""
    noise = np.random.default_rng(seed).normal(0, 1, SHAPE).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 1.2)
    return np.asarray(smooth / smooth.std(), np.float32)


def quantized(values: NDArray[np.floating[Any]]) -> Descriptor:
    return np.clip(np.rint(32 * values), -127, 127).astype(np.int8)


# Photographs


def test_altered_copies_correlate_and_different_eyes_do_not() -> None:
    eyes = [drawn_eyes.plain_retina(256, seed) for seed in range(4)] + [drawn_eyes.healthy_eye(256)]
    originals = [descriptor_of(eye.photograph) for eye in eyes]
    for eye, original in zip((eyes[0], eyes[-1]), (originals[0], originals[-1]), strict=True):
        for name, copy in copies_of(eye).items():
            assert registered_correlation(original, descriptor_of(copy)) > MIN_CORRELATION + 0.05, name
    for first, second in itertools.combinations(originals, 2):
        assert registered_correlation(first, second) < MIN_CORRELATION - 0.15


def test_what_lies_outside_the_mask_has_no_influence() -> None:
    prepared = preprocess_photograph(drawn_eyes.plain_retina(160).photograph, DESCRIPTOR_RECIPE)
    mask = prepared.mask.copy()
    mask[:20] = False
    expected = describe_detail(prepared.image, mask)
    changed = prepared.image.copy()
    changed[~mask] = np.random.default_rng(0).integers(0, 256, (int((~mask).sum()), 3), np.uint8)
    np.testing.assert_array_equal(describe_detail(changed, mask), expected)
    assert expected is not None and (expected[:7] == HIDDEN).all() and (expected[9:40, 20:28] != HIDDEN).all()


def test_an_image_without_detail_has_no_descriptor() -> None:
    mask = np.ones((128, 128), np.bool_)
    assert describe_detail(np.full((128, 128, 3), 90, np.uint8), mask) is None
    assert describe_detail(np.full((128, 128, 3), 90, np.uint8), ~mask) is None


# Registration


@pytest.mark.parametrize("matrix", [[[1, 0, 1.5], [0, 1, -1.0]], [[1.08, 0, -0.5], [0, 0.94, 2.6]]])
def test_a_shift_or_a_scale_is_undone(matrix: list[list[float]]) -> None:
    values = smooth_noise(0)
    moved = cv2.warpAffine(values, np.array(matrix), SHAPE, flags=cv2.INTER_CUBIC)
    first, second = quantized(values), quantized(moved)
    assert np.corrcoef(first.ravel(), second.ravel())[0, 1] < 0.7
    assert registered_correlation(first, second) > 0.9


def test_the_same_descriptor_correlates_perfectly_and_unrelated_ones_hardly() -> None:
    first, second = quantized(smooth_noise(1)), quantized(smooth_noise(2))
    assert registered_correlation(first, first) == pytest.approx(1, abs=1e-6)
    assert registered_correlation(first, second) < 0.5


def test_without_a_registration_it_is_pearsons_correlation_over_what_both_show(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = quantized(smooth_noise(1)), quantized(0.6 * smooth_noise(1) + 0.8 * smooth_noise(2))
    first[:10], second[:, 40:] = HIDDEN, HIDDEN
    expected = np.corrcoef(first[10:, :40].ravel(), second[10:, :40].ravel())[0, 1]

    def fails(*_: object) -> None:
        raise cv2.error("no convergence")

    def strays(*_: object) -> tuple[float, NDArray[np.float32]]:
        return 1.0, np.array([[1, 0, 35], [0, 1, 0]], np.float32)

    for result in (fails, strays):
        monkeypatch.setattr(descriptors.cv2, "findTransformECC", result)
        assert registered_correlation(first, second) == pytest.approx(expected, abs=1e-5)


# Files


def test_a_descriptor_is_read_as_it_was_written_and_damaged_ones_are_none(tmp_path: Path) -> None:
    path, descriptor = tmp_path / "a.npy", quantized(smooth_noise(0))
    assert read_descriptor(path) is None
    write_descriptor(path, descriptor)
    np.testing.assert_array_equal(read_descriptor(path), descriptor)
    whole = path.read_bytes()
    for damaged in (b"", whole[:100], whole[:-1], b"no array"):
        path.write_bytes(damaged)
        assert read_descriptor(path) is None
    write_descriptor(path, descriptor[:40])
    assert read_descriptor(path) is None
    write_descriptor(path, np.full(SHAPE, HIDDEN, np.int8))
    assert read_descriptor(path) is None, "nothing is visible"
