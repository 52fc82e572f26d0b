"""Images on disk: read any common format safely, and encode and write PNG, JPEG, WebP and TIFF."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags
from PIL import Image as PilImage

from fundusgrade.errors import StoreError, UnreadableImageError
from fundusgrade.files import write_atomically
from fundusgrade.photographs.decoding import decode_image, original_shape
from fundusgrade.photographs.dicom import decode_dicom, is_dicom
from fundusgrade.photographs.inputs import Photograph, PhotographInMemory, as_source
from fundusgrade.photographs.pixels import DecodedPhotograph, FloatImage, Image, check_size
from fundusgrade.photographs.sources import PhotographSource, is_folder, open_photograph_file
from fundusgrade.text import error_text

Pixels = TypeVar("Pixels", NDArray[np.uint8], NDArray[np.float32])

_STRIP_ROWS = 32
_JPEG: dict[str, Any] = {"format": "JPEG", "quality": 95, "subsampling": 0}
_TIFF: dict[str, Any] = {"format": "TIFF", "compression": "tiff_adobe_deflate"}
_FORMATS: dict[str, dict[str, Any]] = {
    ".png": {"format": "PNG", "compress_level": 4},  # a figure in 0.3 s instead of 0.7, and a twentieth larger
    ".webp": {"format": "WEBP", "quality": 95},
    ".jpg": _JPEG,
    ".jpeg": _JPEG,
    ".tif": _TIFF,
    ".tiff": _TIFF,
}
WRITTEN_SUFFIXES = tuple(_FORMATS)
"""Suffixes of the formats that `write_image` writes."""


def read_image(path: Path, *, at_least_px: int | None = None) -> Image:
    """Decode a photograph, turned upright as its EXIF orientation says, first page only.

    Transparent pixels become black, like the surroundings of the retina. Safe in threads: no global state is touched.
    With `at_least_px` the image may come reduced, its shorter side not below that many pixels.
    Raises UnreadableImageError for everything that is not a complete image of 32 px to 200 million pixels.
    """
    return read_photograph(path, at_least_px=at_least_px).image


def read_photograph(
    photograph: Photograph | PhotographInMemory, *, at_least_px: int | None = None
) -> DecodedPhotograph:
    """Decode a photograph from a file, an archive, a multi-frame DICOM file or memory, with eye and camera if stated.

    Pixels and errors are those of `read_image`; what is no photograph at all raises as `as_source`.
    """
    source = as_source(photograph)
    if isinstance(source, PhotographSource):
        with open_photograph_file(source) as file:
            return _decode(file, source.frame, at_least_px)
    if source.problem is not None:
        raise UnreadableImageError(source.problem)
    if isinstance(source.content, bytes):
        return _decode(io.BytesIO(source.content), None, at_least_px)
    height, width = source.content.shape[:2]
    check_size(width, height)
    return DecodedPhotograph(image=source.content, height_px=height, width_px=width)


def _decode(file: BinaryIO, frame: int | None, at_least_px: int | None) -> DecodedPhotograph:
    if is_dicom(file):
        return decode_dicom(file, frame, at_least_px=at_least_px)
    data = file.read()
    image = decode_image(data, at_least_px=at_least_px)
    height, width = original_shape(data, image)
    return DecodedPhotograph(image=image, height_px=height, width_px=width)


def write_image(path: Path, image: Image, *, software: str = "") -> None:
    """Write an image in the format of its suffix (png, jpg, webp, tif), completely or not at all.

    `software` is the EXIF tag that says what wrote it; "" for none.

    Raises StoreError when the suffix is unknown, the folder is missing, or the file cannot be written.
    """
    options = _FORMATS.get(path.suffix.lower())
    if options is None:
        raise StoreError(f"cannot write {path}: unknown image suffix {path.suffix!r}; use .png, .jpg, .webp or .tif")
    try:
        encoded = _encode(image, **options, **({"exif": _software_tag(software)} if software else {}))
    except (OSError, ValueError) as error:  # JPEG ends at 65,535 px and WebP at 16,383
        raise StoreError(f"cannot write {path}: {error_text(error)}; try another format such as .png") from error
    if not is_folder(path.parent):
        raise StoreError(f"cannot write {path}: the folder {path.parent} does not exist; create it first")
    write_atomically(path, encoded)


def encode_jpeg(image: Image, quality: int = 85, *, comment: str = "") -> bytes:
    """An image as the bytes of a JPEG file; `quality` from 1 to 95 with Pillow's subsampling of colors."""
    return _encode(image, format="JPEG", quality=quality, **({"comment": comment} if comment else {}))


def encode_png(image: Image) -> bytes:
    """An image as the bytes of a PNG file."""
    return _encode(image, **_FORMATS[".png"])


def _software_tag(software: str) -> PilImage.Exif:
    exif = PilImage.Exif()
    exif[ExifTags.Base.Software] = software
    return exif


def _encode(image: Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    PilImage.fromarray(image).save(buffer, **options)
    return buffer.getvalue()


def halved(image: Pixels) -> Pixels:
    """An image of half the size, each pixel the mean of four: much faster than a reduction by another factor."""
    half = (image.shape[1] // 2, image.shape[0] // 2)
    return np.asarray(cv2.resize(image, half, interpolation=cv2.INTER_AREA), image.dtype)


def reduced(image: Image, factor: int) -> FloatImage:
    """An image `factor` times smaller, each pixel the mean of factor x factor, not rounded.

    Rounded to whole levels it would be too coarse for Ben Graham's method, which multiplies contrast by four.
    """
    height, width = image.shape[0] // factor, image.shape[1] // factor
    smaller = np.empty((height, width, 3), np.float32)
    # In strips, because an image of 200 million pixels in float32 needs 2.4 GB.
    for start in range(0, height, _STRIP_ROWS):
        rows = min(_STRIP_ROWS, height - start)
        strip = image[start * factor : (start + rows) * factor, : width * factor].astype(np.float32)
        smaller[start : start + rows] = cv2.resize(strip, (width, rows), interpolation=cv2.INTER_AREA)
    return smaller


def jpeg_quantization(path: Path) -> float:
    """Mean of a JPEG file's first quantization table: the higher, the more it was compressed; 0 for other files.

    Raises OSError.
    """
    with path.open("rb") as file:
        data = file.read(65536)
    start = data.find(b"\xff\xdb") if data.startswith(b"\xff\xd8") else -1
    table = data[start + 5 : start + 69]
    return sum(table) / len(table) if start >= 0 and table else 0.0
