"""What a DICOM file shows, by its SOP class and modality: only photographs are graded.

Importing this module needs pydicom.
"""

from __future__ import annotations

from pydicom import uid
from pydicom.config import IGNORE

from fundusgrade.errors import UnreadableImageError

# Photographs of the eye and other photographs, and pictures captured from a screen or saved by other programs.
_PHOTOGRAPHS = frozenset(
    {
        uid.OphthalmicPhotography8BitImageStorage,
        uid.OphthalmicPhotography16BitImageStorage,
        uid.WideFieldOphthalmicPhotographyStereographicProjectionImageStorage,
        uid.WideFieldOphthalmicPhotography3DCoordinatesImageStorage,
        uid.VLPhotographicImageStorage,
        uid.VLEndoscopicImageStorage,
        uid.VLMicroscopicImageStorage,
        uid.VideoPhotographicImageStorage,
        uid.SecondaryCaptureImageStorage,
        uid.MultiFrameSingleBitSecondaryCaptureImageStorage,
        uid.MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
        uid.MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
        uid.MultiFrameTrueColorSecondaryCaptureImageStorage,
    }
)
_OF_THE_EYE = frozenset({uid.OphthalmicPhotography8BitImageStorage, uid.OphthalmicPhotography16BitImageStorage})
_PHOTOGRAPHIC_MODALITIES = frozenset({"", "OP", "XC", "OT", "SC", "ES", "GM", "EM", "DG", "BI", "OPM"})
_OCT = "an OCT scan (optical coherence tomography)"
_MODALITIES = {
    "OPT": _OCT,
    "OCT": _OCT,
    "IVOCT": _OCT,
    "CT": "a CT scan",
    "MR": "an MR scan",
    "US": "an ultrasound image",
    "CR": "an X-ray image",
    "DX": "an X-ray image",
    "MG": "an X-ray image",
    "XA": "an X-ray image",
    "NM": "a nuclear medicine image",
    "PT": "a PET scan",
    "OPV": "a visual field",
}
_OCT_CLASSES = frozenset(
    {
        uid.OphthalmicTomographyImageStorage,
        uid.OphthalmicOpticalCoherenceTomographyEnFaceImageStorage,
        uid.OphthalmicOpticalCoherenceTomographyBscanVolumeAnalysisStorage,
    }
)


def check_is_photograph(sop_class: str, modality: str) -> None:
    """Raise UnreadableImageError where a DICOM file is of a kind that shows something else; "" is not known.

    No value of the file is quoted that the standard does not list.
    """
    if sop_class in _OF_THE_EYE:
        return
    kind = _OCT if sop_class in _OCT_CLASSES else None
    if kind is None and sop_class not in _PHOTOGRAPHS:
        kind = _name_of_class(sop_class)
    if kind is None and modality not in _PHOTOGRAPHIC_MODALITIES:
        kind = _MODALITIES.get(modality)
    if kind is not None:
        raise UnreadableImageError(f"this DICOM file is {kind}, not a fundus photograph; give a color photograph")


def _name_of_class(sop_class: str) -> str | None:
    """The name of a SOP class of the standard; None for others, which may be a maker's own for photographs."""
    standard = uid.UID(sop_class, validation_mode=IGNORE)
    if not sop_class or standard.type != "SOP Class":
        return None
    return f"of the kind {standard.name.removesuffix(' Storage')!r}"
