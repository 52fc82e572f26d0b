"""DICOM files: recognized, their frames counted, and one frame decoded with its eye and camera.

pydicom is imported only where a DICOM file is met.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO

from fundusgrade.errors import UnreadableImageError
from fundusgrade.photographs.formats import HEAD_BYTES, PictureFormat, recognize_picture
from fundusgrade.photographs.pixels import DecodedPhotograph

if TYPE_CHECKING:
    from fundusgrade.photographs.dicom_header import Header

DICOM_SUFFIXES: frozenset[str] = frozenset({".dcm", ".dicom"})


def is_dicom(file: BinaryIO) -> bool:
    """Whether a file begins as DICOM files do, with or without a preamble; its position is its start afterwards."""
    head = file.read(HEAD_BYTES)
    file.seek(0)
    return recognize_picture(head) is PictureFormat.DICOM


def count_frames(file: BinaryIO) -> int:
    """How many images a DICOM file says it holds, from its header alone. Raises UnreadableImageError."""
    return _read_header(file).num_frames


def decode_dicom(file: BinaryIO, frame: int | None = None, *, at_least_px: int | None = None) -> DecodedPhotograph:
    """Decode one image of a DICOM file; `frame` counts from 1, and None means the only one.

    With `at_least_px` a JPEG may come reduced, as from `decode_image`. Raises UnreadableImageError where pydicom is not
    installed, and for everything that is not a complete image of 32 px to 200 million pixels.
    """
    header = _read_header(file)
    from fundusgrade.photographs.dicom_pixels import decode_frame

    image = decode_frame(header, _frame_index(header, frame), at_least_px=at_least_px)
    return DecodedPhotograph(
        image=image,
        height_px=header.number("Rows"),
        width_px=header.number("Columns"),
        laterality=header.laterality,
        camera=header.camera,
    )


def _read_header(file: BinaryIO) -> Header:
    try:
        from fundusgrade.photographs.dicom_header import read_header
    except ImportError:
        raise UnreadableImageError(
            "this is a DICOM file, which needs one more package; run: pip install 'fundusgrade[dicom]'"
        ) from None
    return read_header(file)


def _frame_index(header: Header, frame: int | None) -> int:
    if frame is None and header.num_frames > 1:
        raise UnreadableImageError(
            f"this DICOM file holds {header.num_frames} images, and one was expected; `fundusgrade predict` grades "
            "each of them"
        )
    if frame is not None and not 1 <= frame <= header.num_frames:
        raise UnreadableImageError(f"this DICOM file has no image {frame}; it holds {header.num_frames}")
    return 0 if frame is None else frame - 1
