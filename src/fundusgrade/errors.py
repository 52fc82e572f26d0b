"""Everything that fundusgrade raises on purpose.

    FundusgradeError
    ├── UngradableError            one photograph cannot be graded; a run records the reason and goes on
    │   ├── UnreadableImageError       the file is not a picture that can be decoded safely
    │   └── NoRetinaError              the picture decodes, but no retina is found in it
    ├── DatasetError               a data set is missing, not recognized, or contradicts itself
    ├── StoreError                 the user data directory: unknown or ambiguous name, cannot be written
    ├── CheckpointError            a file is not a checkpoint this version can use
    ├── ExportError                a model cannot be exported in this format
    ├── WeightsUnavailableError    pretrained weights cannot be had on this machine
    ├── DeviceError                the device or precision asked for is not there
    ├── TrainingError              a training run cannot be started, resumed, or has diverged
    ├── ExplanationError           this architecture or target cannot be explained
    └── MetricsError               the numbers asked for are not defined on these inputs

A message says what happened, to which file or key, what was expected, and what to do about it.
"""

from __future__ import annotations


class FundusgradeError(Exception):
    """Base of all errors that a user can cause and mend."""


class UngradableError(FundusgradeError):
    """One photograph cannot be graded; its message is the reason shown in the row."""


class UnreadableImageError(UngradableError):
    """The file is missing, empty, truncated, not an image, or dangerously large."""


class NoRetinaError(UngradableError):
    """The picture was decoded, but it holds no field of view that could be a retina."""


class DatasetError(FundusgradeError):
    """A data set is missing, its layout is not recognized, or its labels contradict each other."""


class StoreError(FundusgradeError):
    """A name is unknown or ambiguous in the user data directory, or the directory cannot be written."""


class CheckpointError(FundusgradeError):
    """A file is not a checkpoint, is damaged, or was written by a version this one does not understand."""


class ExportError(FundusgradeError):
    """A model cannot be exported in this format, or there is nothing to check or to quantize it on."""


class WeightsUnavailableError(FundusgradeError):
    """Pretrained starting weights can neither be downloaded nor read from the file given."""


class DeviceError(FundusgradeError):
    """The device or the precision asked for does not exist on this machine."""


class TrainingError(FundusgradeError):
    """A training run cannot be started or resumed, or its loss is no longer a number."""


class ExplanationError(FundusgradeError):
    """The architecture cannot be explained by this method, or the target does not exist."""


class MetricsError(FundusgradeError):
    """The labels or predictions given cannot be scored."""
