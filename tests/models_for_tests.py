"""Models with seeded random weights, drawn photographs and broken files: what tests of grading and of commands need."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import shutil
import struct
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from fundusgrade import store
from fundusgrade.data.dataset import PreparedDataset, load_dataset
from fundusgrade.data.labels import find_samples
from fundusgrade.data.prepare import prepare_dataset
from fundusgrade.metrics.conformal import NO_CONFORMITY, Conformity
from fundusgrade.metrics.referral import OperatingPoint
from fundusgrade.networks.build import build_network, network_spec
from fundusgrade.networks.checkpoint import save_checkpoint
from fundusgrade.networks.description import CheckpointDescription, Provenance
from fundusgrade.networks.network import GradingNetwork
from fundusgrade.networks.tensors import to_tensor
from fundusgrade.photographs.recipe import Method, PreprocessRecipe
from tests.drawn_eyes import plain_retina, preprocess_photograph

SIZE_PX = 64


def install_model(
    name: str = "tiny",
    *,
    arch: str = "cnn",
    seed: int = 0,
    method: Method = Method.NATURAL,
    kappa: float | None = 0.5,
    thresholds: tuple[float, ...] | None = None,
    conformity: Conformity = NO_CONFORMITY,
    operating_point: OperatingPoint | None = None,
) -> Path:
    """Save a network with random weights in the store; its grades mean nothing, but differ between photographs."""
    recipe = PreprocessRecipe(method=method, size_px=SIZE_PX)
    network = random_network(arch, seed, recipe)
    description = CheckpointDescription(
        name=name,
        network=network.spec,
        recipe=recipe,
        thresholds=thresholds,
        conformity=conformity,
        operating_point=operating_point,
        provenance=Provenance(
            created="2024-05-06T07:08:09+00:00",
            data_name="drawn",
            data_hash="0" * 64,
            init="random",
            options={},
            metrics={"validation_kappa": kappa},
            versions={},
        ),
    )
    path = store.model_directory(name) / store.MODEL_FILE
    save_checkpoint(path, network, description)
    return path


def random_network(arch: str, seed: int, recipe: PreprocessRecipe) -> GradingNetwork:
    """A network whose head spreads the logits of drawn eyes: if all came out alike, tests would miss a mix-up."""
    torch.manual_seed(seed)
    network = build_network(network_spec(arch, recipe.size_px)).eval()
    weight, bias = list(network.parameters())[-2:]
    assert weight.shape[0] == bias.shape[0] == 5, "the head comes last"
    with torch.no_grad():
        logits = network(_example_batch(recipe))
        factor = 2 / logits.std(dim=0)
        weight *= factor[:, None]
        bias.copy_((bias - logits.mean(dim=0)) * factor)
    return network


@functools.cache
def _example_batch(recipe: PreprocessRecipe) -> torch.Tensor:
    images = [preprocess_photograph(drawn_photograph(seed), recipe).image for seed in range(8)]
    return torch.stack([to_tensor(image) for image in images])


@functools.cache
def drawn_photograph(seed: int, size_px: int = 160) -> NDArray[np.uint8]:
    """A drawn eye (size_px, size_px, 3) under uneven light by its seed, so that no two look alike even at this size."""
    eye = plain_retina(size_px, seed)
    light = np.random.default_rng(seed).uniform(0.4, 1.0, (4, 4, 3)).astype(np.float32)
    lit = eye.photograph * cv2.resize(light, (size_px, size_px), interpolation=cv2.INTER_LINEAR)
    return np.rint(lit).astype(np.uint8)


def save_photographs(folder: Path, seeds: Sequence[int], size_px: int = 160) -> list[Path]:
    """Drawn eyes as PNG files eye00.png, eye01.png, ..."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"eye{seed:02d}.png" for seed in seeds]
    for seed, path in zip(seeds, paths, strict=True):
        Image.fromarray(drawn_photograph(seed, size_px)).save(path)
    return paths


def save_labeled_photographs(folder: Path, num_photographs: int = 20, size_px: int = 160) -> list[Path]:
    """A folder per grade with drawn eyes, in the order of their seeds; the grades are arbitrary."""
    return [save_photographs(folder / str(seed % 5), [seed], size_px)[0] for seed in range(num_photographs)]


def install_dataset(name: str, *, size_px: int = SIZE_PX) -> PreparedDataset:
    """Put a prepared data set of 20 drawn eyes into the store, as `fundusgrade preprocess` leaves one."""
    directory = store.dataset_directory(name)
    for place, content in _prepared_files(size_px).items():
        (directory / place).parent.mkdir(parents=True, exist_ok=True)
        (directory / place).write_bytes(content)
    described = json.loads((directory / store.DATASET_FILE).read_text())
    (directory / store.DATASET_FILE).write_text(json.dumps({**described, "name": name}))
    return load_dataset(directory)


@contextlib.contextmanager
def photographs_of(dataset: PreparedDataset) -> Iterator[None]:
    """Within the block, the photographs of an installed data set exist where it says they are."""
    assert dataset.root is not None and not dataset.root.exists(), "another test left its photographs"
    save_labeled_photographs(dataset.root)
    try:
        yield
    finally:
        shutil.rmtree(dataset.root)


@functools.cache
def _prepared_files(size_px: int) -> dict[str, bytes]:
    """The files of a prepared data set: preparing one for every test would take most of the tests' time."""
    with tempfile.TemporaryDirectory() as folder:
        save_labeled_photographs(Path(folder))
        recipe = PreprocessRecipe(method=Method.NATURAL, size_px=size_px)
        directory = prepare_dataset(
            find_samples([Path(folder)]), name="original", recipe=recipe, num_workers=1
        ).directory
    files = {
        path.relative_to(directory).as_posix(): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }
    shutil.rmtree(directory)
    return files


def save_broken_files(folder: Path) -> dict[str, str]:
    """Write files that cannot be graded, each for another reason; returns a part of each reason by file name."""
    folder.mkdir(parents=True, exist_ok=True)
    png, jpeg = _encoded("PNG"), _encoded("JPEG")
    black, gray = np.zeros((200, 200, 3), np.uint8), np.full((200, 200, 3), 128, np.uint8)
    contents = {
        "empty.png": (b"", "empty"),
        "text.jpg": (b"patient list, do not delete\n" * 20, "not an image"),
        "truncated.jpg": (jpeg[: len(jpeg) // 2], "truncated JPEG"),
        "zeros.jpg": (jpeg[: len(jpeg) // 2] + bytes(4096), "truncated JPEG"),
        "truncated.png": (png[: len(png) // 2], "truncated PNG"),
        "flipped.png": (_with_flipped_byte(png), "damaged PNG"),
        "truncated.tif": (_encoded("TIFF")[:60], "truncated TIFF"),
        "bomb.png": (_png_header(60_000, 60_000), "60000 x 60000 pixels are more than"),
        "thumbnail.png": (_encoded("PNG", black[:10, :10]), "10 x 10 pixels are too few"),
        "black.png": (_encoded("PNG", black), "nearly uniform"),
        "gray.png": (_encoded("PNG", gray), "nearly uniform"),
        "noise.jpg": (b"\xff\xd8\xff\xe0" + np.random.default_rng(1).bytes(5000), "JPEG"),
        "animation.png": (_animation(), "the GIF holds several pictures"),
        "report.png": (b"%PDF-1.7\n" + bytes(500), "PDF"),
        "archive.tiff": (b"PK\x03\x04" + bytes(500), "ZIP"),
        "phone.jpg": (b"\0\0\0\x18ftypheic" + bytes(500), "HEIC"),
        "camera.png": (bytes(128) + b"DICM" + bytes(500), "DICOM"),
    }
    for name, (content, _) in contents.items():
        (folder / name).write_bytes(content)
    (folder / "dangling.png").symlink_to(folder / "nowhere.png")
    (folder / "loop.png").symlink_to(folder / "loop.png")
    os.mkfifo(folder / "pipe.png")
    reasons = {name: reason for name, (_, reason) in contents.items()}
    return reasons | {"dangling.png": "does not exist", "loop.png": "cannot be read", "pipe.png": "not a regular file"}


def _encoded(kind: str, image: NDArray[np.uint8] | None = None) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(drawn_photograph(90) if image is None else image).save(buffer, kind)
    return buffer.getvalue()


def _animation() -> bytes:
    buffer = io.BytesIO()
    first, second = (Image.fromarray(drawn_photograph(seed)) for seed in (90, 91))
    first.save(buffer, "GIF", save_all=True, append_images=[second])
    return buffer.getvalue()


def _with_flipped_byte(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 0xFF]) + data[middle + 1 :]


def _png_header(width: int, height: int) -> bytes:
    """A small PNG whose header declares a large image."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
