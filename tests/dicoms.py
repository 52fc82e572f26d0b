"""DICOM files, written by pydicom as cameras and archives write them; some identify a patient in every way."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, JPEGBaseline8Bit, generate_uid

OPHTHALMIC_PHOTOGRAPHY = "1.2.840.10008.5.1.4.1.1.77.1.5.1"

SECRETS = (
    *("Schmidt", "Erika", "PAT-4711-X", "19431224", "ACC-990017", "St. Elsewhere", "Dr. Hartmann", "20240229"),
    *("091532", "2.25.987654321987654321", "SN-5550123", "retina clinic workstation", "lives alone", "Elm Street 5"),
    *("private note on her", "study about her"),
)
"""What must never be output of `identify`'s patient."""


def identify(dataset: Dataset) -> Dataset:
    """Fill a data set with what identifies a patient, in every kind of place."""
    dataset.PatientName = "Schmidt^Erika"
    dataset.PatientID = "PAT-4711-X"
    dataset.PatientBirthDate = "19431224"
    dataset.PatientAddress = "Elm Street 5"
    dataset.PatientComments = "lives alone"
    dataset.AccessionNumber = "ACC-990017"
    dataset.StudyDate = dataset.ContentDate = "20240229"
    dataset.StudyTime = "091532"
    dataset.StudyDescription = "study about her"
    dataset.InstitutionName = "St. Elsewhere"
    dataset.ReferringPhysicianName = "Dr. Hartmann"
    dataset.StationName = "retina clinic workstation"[:16]
    dataset.DeviceSerialNumber = "SN-5550123"
    dataset.StudyInstanceUID = dataset.SeriesInstanceUID = "2.25.987654321987654321"
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = "2.25.987654321987654321"
    other = Dataset()
    other.PatientID, other.PatientName = "PAT-4711-X", "Schmidt^Erika"
    dataset.OtherPatientIDsSequence = Sequence([other])
    block = dataset.private_block(0x0011, "PRIVATE MAKER", create=True)
    block.add_new(0x01, "LO", "private note on her")
    return dataset


def dataset_of(
    values: NDArray[Any] | None = None, *, syntax: str = ExplicitVRLittleEndian, **elements: Any
) -> FileDataset:
    """A data set of one image (H, W) or (H, W, 3), stored as it is; `elements` replace what follows from it."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = syntax
    meta.MediaStorageSOPClassUID = OPHTHALMIC_PHOTOGRAPHY
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["a photograph"])
    dataset = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    dataset.SOPClassUID, dataset.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    if values is not None:
        bits = values.dtype.itemsize * 8
        dataset.Rows, dataset.Columns = values.shape[:2]
        dataset.SamplesPerPixel = 1 if values.ndim == 2 else 3
        dataset.PhotometricInterpretation = "MONOCHROME2" if values.ndim == 2 else "RGB"
        if values.ndim == 3:
            dataset.PlanarConfiguration = 0
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = bits, bits, bits - 1
        dataset.PixelRepresentation = 0
        dataset.PixelData = values.tobytes() + bytes(values.nbytes % 2)
        dataset["PixelData"].VR = "OB" if bits == 8 else "OW"
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    return dataset


def encapsulated(
    frames: list[bytes], shape: tuple[int, ...], *, syntax: str = JPEGBaseline8Bit, **elements: Any
) -> FileDataset:
    """A data set of compressed images of one shape (H, W, 3)."""
    dataset = dataset_of(np.zeros(shape, np.uint8), syntax=syntax)
    dataset.PhotometricInterpretation = "YBR_FULL_422"
    dataset.PixelData = encapsulate(frames)
    dataset["PixelData"].is_undefined_length = True
    if len(frames) > 1:
        dataset.NumberOfFrames = len(frames)
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    return dataset


def file_bytes(dataset: FileDataset) -> bytes:
    """The data set as a file."""
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def jpeg_bytes(image: NDArray[np.uint8], **options: Any) -> bytes:
    """An image as a JPEG file."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", **{"quality": 90, **options})
    return buffer.getvalue()
