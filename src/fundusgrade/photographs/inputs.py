"""Photographs as Python programs have them: paths, Pillow images, arrays, and the bytes of image files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags
from PIL import Image as PilImage

from fundusgrade.errors import UnreadableImageError
from fundusgrade.photographs.pixels import NO_MEMORY, Image, check_size, on_black, scale_to_8_bit, to_rgb, turn_upright
from fundusgrade.photographs.sources import PhotographSource
from fundusgrade.text import error_text, type_name

Photograph = str | os.PathLike[str] | PilImage.Image | NDArray[Any] | bytes | bytearray | memoryview | PhotographSource
"""What is taken for a photograph: a path, a URL, a Pillow image, an array, the bytes of an image file, or one found.

Arrays are (height, width, 3) RGB (not BGR, as OpenCV reads files), also (height, width) gray and (height, width, 4)
with transparency, as uint8 from 0 to 255, uint16, or floats from 0 to 1.
"""

_ONE = (str, os.PathLike, PilImage.Image, np.ndarray, bytes, bytearray, memoryview, PhotographSource)
TAKEN = (
    "a path (str or Path), a Pillow image, an array (height, width, 3) of RGB values, the bytes of an image file, or "
    "one of find_images(...)"
)
_LAYOUTS = "(height, width, 3) for RGB, (height, width) for gray, or (height, width, 4) for RGB with transparency"
_ROUNDING = 1e-6
"""Floats may exceed 0 to 1 by this much."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PhotographInMemory:
    """A photograph in memory: its name in results, and its pixels (H, W, 3) uint8 RGB or the bytes of an image file.

    `problem` is the reason why it cannot be read, else None.
    """

    name: str
    content: Image | bytes
    problem: str | None = None


def as_source(photograph: Photograph | PhotographInMemory, *, index: int = 0) -> PhotographSource | PhotographInMemory:
    """Where a photograph is to be read from; pixels are copied, so that they may change afterwards.

    A path is the name of its photograph, and so is that of the file that Pillow opened; other photographs in memory
    are named by their index: "photograph 0". A Pillow image is turned upright as its EXIF orientation says.
    Raises TypeError for everything that `Photograph` does not list, ValueError for arrays of another layout or range.
    """
    _check_type(photograph)
    if isinstance(photograph, PhotographSource | PhotographInMemory):
        return photograph
    if isinstance(photograph, str | os.PathLike):
        return PhotographSource.of(photograph)
    name = f"photograph {index}"
    if isinstance(photograph, bytes | bytearray | memoryview):
        return PhotographInMemory(name=name, content=bytes(photograph))
    if isinstance(photograph, np.ndarray):
        return PhotographInMemory(name=name, content=pixels_of(photograph))
    return _of_pillow(photograph, str(getattr(photograph, "filename", "")) or name)


def as_sources(photographs: Iterable[Photograph]) -> Iterator[PhotographSource | PhotographInMemory]:
    """Where photographs are to be read from, one after the other as they are asked for.

    Raises TypeError at once where a single photograph is given; other errors are those of `as_source`, at once as far
    as the types and shapes in a list show them, and otherwise when the photograph is taken.
    """
    is_batch = isinstance(photographs, np.ndarray) and photographs.ndim == 4
    if not isinstance(photographs, Iterable) or (isinstance(photographs, _ONE) and not is_batch):
        raise TypeError(
            f"several photographs were expected, such as a list of paths; this is {_describe(photographs)}; use "
            "grade(...) for one photograph, find_images(...) for a folder"
        )
    if isinstance(photographs, list | tuple):
        for photograph in photographs:
            _check_type(photograph)
    return (as_source(photograph, index=index) for index, photograph in enumerate(photographs))


def pixels_of(values: NDArray[Any]) -> Image:
    """A copy of an array as a photograph (H, W, 3) uint8 RGB.

    uint8 is taken as it is; uint16 is scaled as in files of 16 bits; floats from 0 to 1 are scaled to 255 and rounded.
    Gray is repeated in all channels, transparent pixels become black.
    Raises TypeError for other types of numbers, ValueError for other layouts and ranges.
    """
    _check_array(values)
    values = values if values.ndim == 3 else values[..., np.newaxis]
    if values.dtype == np.uint16:
        return scale_to_8_bit(values[..., 0] if values.shape[2] == 1 else values[..., [2, 1, 0, 3][: values.shape[2]]])
    levels = _to_levels(values)
    if levels.shape[2] == 1:
        return np.repeat(levels, 3, axis=2)
    return on_black(levels) if levels.shape[2] == 4 else np.array(levels, order="C")


def _to_levels(values: NDArray[Any]) -> NDArray[np.uint8]:
    """An array (H, W, C) of uint8 or floats as uint8. Raises ValueError for floats of another range."""
    if values.dtype == np.uint8:
        return values
    low, high = float(values.min()), float(values.max())
    if not (low >= -_ROUNDING and high <= 1 + _ROUNDING):  # also where there is a NaN
        raise ValueError(
            f"an array of {values.dtype} from {low:g} to {high:g} is no photograph: floats are expected from 0 to 1; "
            "pass array.astype('uint8') if they are 0 to 255, else scale or clip them"
        )
    return np.asarray(np.rint(255 * np.clip(values, 0, 1)), np.uint8)


def _check_type(photograph: object) -> None:
    """Raises TypeError for what is no photograph, and as `_check_array`."""
    is_taken = isinstance(photograph, (*_ONE, PhotographInMemory))
    if not is_taken or (isinstance(photograph, os.PathLike) and not isinstance(os.fspath(photograph), str)):
        raise TypeError(f"one photograph is {TAKEN}; this is {_describe(photograph)}")
    if isinstance(photograph, np.ndarray):
        _check_array(photograph)


def _check_array(values: NDArray[Any]) -> None:
    """Raises TypeError for other types of numbers, ValueError for other layouts than those of a photograph."""
    if values.ndim not in (2, 3) or values.size == 0 or (values.ndim == 3 and values.shape[2] not in (1, 3, 4)):
        raise ValueError(f"an array of shape {values.shape} is no photograph: expected {_LAYOUTS}{_remedy(values)}")
    if values.dtype not in (np.uint8, np.uint16) and values.dtype.kind != "f":
        raise TypeError(
            f"an array of {values.dtype} is no photograph: expected uint8 from 0 to 255, uint16, or floats from 0 to "
            "1; if its values are 0 to 255, pass array.astype('uint8')"
        )


def _of_pillow(image: PilImage.Image, name: str) -> PhotographInMemory:
    """The pixels of a Pillow image at its current frame, upright; a problem where they cannot be decoded."""
    try:
        check_size(image.width, image.height)
        image.load()
        wide = image.mode.startswith("I;16")
        pixels = pixels_of(np.asarray(image, np.uint16)) if wide else to_rgb(image, "Pillow image")
        upright = turn_upright(pixels, image.getexif().get(ExifTags.Base.Orientation, 1))
        return PhotographInMemory(name=name, content=upright)
    except UnreadableImageError as error:
        problem = str(error)
    except MemoryError:
        problem = NO_MEMORY
    except Exception as error:  # as decoders of files, Pillow raises anything on damaged bytes
        problem = f"the Pillow image cannot be read: {error_text(error)}; open its file again"
    return PhotographInMemory(name=name, content=b"", problem=problem)


def _describe(value: object) -> str:
    """The type of a value as a sentence names it, with what to pass instead where that is known."""
    kind = f"of type {type_name(value)}"
    if hasattr(value, "read"):
        return f"{kind}; pass the bytes that its read() returns"
    if hasattr(value, "__array__") and not isinstance(value, np.ndarray):
        return f"{kind}; pass it as an array, such as tensor.permute(1, 2, 0).numpy()"
    return kind


def _remedy(values: NDArray[Any]) -> str:
    """What to do about an array of another layout."""
    if values.ndim == 4:
        return "; this looks like a batch: pass list(array), or the array to grade_all"
    if values.ndim == 3 and values.shape[0] in (1, 3, 4):
        return "; the channels come last: pass array.transpose(1, 2, 0)"
    return ""
