"""The words that options of the command line and of the library take."""

from __future__ import annotations

from enum import StrEnum

NUM_FOLDS = 5
"""Folds of a cross-validation where no number is given."""


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
    """How much a rare grade's photograph counts in the loss.

    By the inverse of its frequency, the root of that, the inverse effective number (Cui et al., CVPR 2019), or as any.
    """

    INVERSE = "inverse"
    SQRT = "sqrt"
    EFFECTIVE = "effective"
    NONE = "none"


class Head(StrEnum):
    """What the network's last layer says: five grades, one severity, or four yes-or-no questions."""

    SOFTMAX = "softmax"
    REGRESSION = "regression"
    CUMULATIVE = "cumulative"


class Loss(StrEnum):
    """What training minimizes."""

    CROSS_ENTROPY = "cross-entropy"
    SOFT_LABELS = "soft-labels"
    DISTANCE = "distance"
    SMOOTH_L1 = "smooth-l1"
    SQUARED = "squared"


class Recipe(StrEnum):
    """A whole way to train: ours, or the one of the study that this tool compares itself with."""

    DEFAULT = "default"
    REFERENCE = "reference"


class Decision(StrEnum):
    """How probabilities become a grade: the most probable one, or thresholds of the expected grade."""

    MOST_PROBABLE = "most-probable"
    THRESHOLDS = "thresholds"


class Split(StrEnum):
    """Parts of a prepared data set."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"
    ALL = "all"


class ExportFormat(StrEnum):
    """Files for other runtimes, and the layout of timm's hub."""

    ONNX = "onnx"
    OPENVINO = "openvino"
    HUB = "hub"


class Attribution(StrEnum):
    """How a network's score is traced back to places of the picture; `auto` is the architecture's default."""

    AUTO = "auto"
    INTEGRATED = "integrated"
    GRAD_CAM = "grad-cam"
    HIRES_CAM = "hirescam"
    GRAD_CAM_PLUS_PLUS = "grad-cam++"
    LAYER_CAM = "layercam"
    EIGEN_CAM = "eigen-cam"
    ROLLOUT = "rollout"


class Layer(StrEnum):
    """Which of a network's maps a method of the CAM family reads: the last, finer ones before it, or their mean."""

    LAST = "last"
    MIDDLE = "middle"
    FINE = "fine"
    ALL = "all"
