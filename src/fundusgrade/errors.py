"""Everything that fundusgrade raises on purpose.

    FundusgradeError
    ├── UngradableError            one photograph cannot be graded; its row holds the reason, and the run continues
    │   ├── UnreadableImageError       the file is not an image that can be decoded safely
    │   ├── NoRetinaError              the image is decoded, but no retina is found in it
    │   └── SeveralFieldsError         the image shows two eyes or several fields, and one grade cannot be that of all
    ├── DatasetError               a data set is missing, not recognized, or has contradictory labels
    ├── StoreError                 the user data directory: a name is unknown or ambiguous, or a file cannot be written
    ├── CheckpointError            a file is not a checkpoint this version can use
    ├── ExportError                a model cannot be exported in this format
    ├── WeightsUnavailableError    pretrained weights are not available on this machine
    ├── EngineError                the workers of an engine cannot be started, or have failed
    ├── DeviceError                the requested device or precision is not available
    ├── TrainingError              a training run cannot be started or resumed, has diverged, or learned nothing
    ├── ExplanationError           this architecture or target has no explanation
    ├── SelfTestError              a step of the self-test of an installation gave something else than expected
    └── MetricsError               a metric is not defined on these inputs

A message says what happened, to which file or key, what was expected, and what to do.
"""

from __future__ import annotations


class FundusgradeError(Exception):
    """Base of all errors that a user can cause and correct."""


class UngradableError(FundusgradeError):
    """One photograph cannot be graded; its message is the reason shown in the row."""


class UnreadableImageError(UngradableError):
    """The file is missing, empty, truncated, not an image, or dangerously large."""


class NoRetinaError(UngradableError):
    """The image was decoded, but no field of view that could be a retina was found in it."""


class SeveralFieldsError(UngradableError):
    """The image shows several round fields of view: two eyes side by side, a montage or a contact sheet."""


class DatasetError(FundusgradeError):
    """A data set is missing, its layout is not recognized, or its labels contradict each other."""


class StoreError(FundusgradeError):
    """A name is unknown, ambiguous or taken in the user data directory, or a file cannot be written."""


class CheckpointError(FundusgradeError):
    """A file is not a checkpoint, is damaged, or was written by a version this one does not understand."""


class ExportError(FundusgradeError):
    """A model cannot be exported in this format, or there are no images to check or quantize it with."""


class WeightsUnavailableError(FundusgradeError):
    """Pretrained starting weights can neither be downloaded nor read from the file given."""


class EngineError(FundusgradeError):
    """The workers of an engine cannot be started, do not have what they need, or have failed too often."""


class DeviceError(FundusgradeError):
    """The requested device or precision does not exist on this machine."""


class TrainingError(FundusgradeError):
    """A training run cannot be started or resumed, its loss is no longer finite, or it has learned nothing."""


class ExplanationError(FundusgradeError):
    """The architecture cannot be explained by this method, or the target does not exist."""


class SelfTestError(FundusgradeError):
    """A step of the self-test of an installation gave something else than expected."""


class MetricsError(FundusgradeError):
    """The labels or predictions given cannot be scored."""
