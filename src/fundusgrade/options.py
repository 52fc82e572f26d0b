"""The words that options of the command line and of the library take."""

from __future__ import annotations

from enum import StrEnum


class DeviceName(StrEnum):
    """Where to compute."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"
    MPS = "mps"


class Precision(StrEnum):
    """Number format of the network's arithmetic; weights stay float32 during training."""

    AUTO = "auto"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


class ClassWeights(StrEnum):
    """How much a rare grade's photograph counts in the loss: by the inverse of its frequency, its root, or as any."""

    INVERSE = "inverse"
    SQRT = "sqrt"
    NONE = "none"


class Split(StrEnum):
    """Parts of a prepared data set."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"
    ALL = "all"
