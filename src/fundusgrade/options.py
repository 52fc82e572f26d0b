"""Values of the options of the command line and of the library."""

from __future__ import annotations

from enum import StrEnum

NUM_FOLDS = 5
"""Default number of folds of a cross-validation."""


class FoldsBy(StrEnum):
    """What a fold of a cross-validation holds out."""

    GROUP = "group"
    """Random groups of photographs, stratified by grade: copies and a patient's photographs are in one fold."""
    SOURCE = "source"
    """One of several data sets: each is graded by a network that was trained on the others."""
    TRAINING = "training"
    """Random groups of the training split alone: validation and test splits stay unseen, for the teacher of a network
    that is measured on them."""


class DeviceName(StrEnum):
    """Device that the network runs on."""

    AUTO = "auto"
    """The first of cuda, mps and cpu that is available."""
    CPU = "cpu"
    CUDA = "cuda"
    """NVIDIA or AMD GPU."""
    MPS = "mps"
    """Apple GPU."""


class Precision(StrEnum):
    """Number format of the network's arithmetic; weights stay float32 during training."""

    AUTO = "auto"
    """bfloat16 where the device is fast at it, else float16 on an NVIDIA or AMD GPU, else float32."""
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"
    """With loss scaling during training; not on a CPU."""


class Engine(StrEnum):
    """What distributes photographs over several machines."""

    RAY = "ray"


class RuntimeName(StrEnum):
    """What computes a network when photographs are graded."""

    AUTO = "auto"
    """On a CPU the first of OpenVINO and ONNX Runtime that is installed, else PyTorch; PyTorch on a GPU."""
    PYTORCH = "pytorch"
    OPENVINO = "openvino"
    ONNXRUNTIME = "onnxruntime"


class ClassWeights(StrEnum):
    """Weight of a photograph in the loss, by the number of training photographs of its grade."""

    INVERSE = "inverse"
    """Inversely proportional to the number."""
    SQRT = "sqrt"
    """Inversely proportional to the square root of the number."""
    EFFECTIVE = "effective"
    """Inversely proportional to the effective number of samples (Cui et al., CVPR 2019)."""
    NONE = "none"
    """All photographs have the same weight."""


class Head(StrEnum):
    """Output head: what the outputs of the last layer mean."""

    SOFTMAX = "softmax"
    """One logit for each of the five grades."""
    REGRESSION = "regression"
    """One number, the severity, from 0 to 4."""
    CUMULATIVE = "cumulative"
    """Four logits, of the probabilities that the grade is above 0, 1, 2 and 3 (Cheng et al., IJCNN 2008)."""


class Loss(StrEnum):
    """Loss function that training minimizes."""

    CROSS_ENTROPY = "cross-entropy"
    """Cross-entropy of softmax heads; the sum of four binary cross-entropies of cumulative heads."""
    SOFT_LABELS = "soft-labels"
    """Cross-entropy with labels that are softened toward neighboring grades (SORD, Diaz and Marathe, CVPR 2019)."""
    DISTANCE = "distance"
    """Cross-entropy plus the expected squared distance from the true grade."""
    SMOOTH_L1 = "smooth-l1"
    """Huber loss of the severity."""
    SQUARED = "squared"
    """Squared error of the severity."""


class Recipe(StrEnum):
    """Defaults for head, loss, class weights, decision and calibration."""

    DEFAULT = "default"
    """Cumulative head, weights by the square root, most probable grade, calibrated."""
    REFERENCE = "reference"
    """That of the study that fundusgrade is compared with: softmax, inverse weights, most probable grade."""


class Decision(StrEnum):
    """How a grade is decided from the probabilities of the five grades."""

    MOST_PROBABLE = "most-probable"
    """The grade of highest probability."""
    THRESHOLDS = "thresholds"
    """Thresholds of the expected grade, which maximize an objective (`DecideFor`) on half of the validation split."""


class DecideFor(StrEnum):
    """The objective of thresholds of the expected grade: the score of the grades that they maximize."""

    BALANCED = "balanced"
    """Quadratic weighted kappa plus the mean of accuracy and macro F1."""
    KAPPA = "kappa"
    """Quadratic weighted kappa: few large errors; intermediate grades may hardly be given."""
    ACCURACY = "accuracy"
    """Accuracy: common grades are right, rare ones may hardly be given."""
    MACRO_F1 = "macro-f1"
    """Mean of the F1 of the five grades: rare grades count as much as common ones."""

    @property
    def label(self) -> str:
        """The objective in words."""
        names = {DecideFor.BALANCED: "kappa, accuracy and macro F1 together", DecideFor.MACRO_F1: "macro F1"}
        return names.get(self, self.value)


class Split(StrEnum):
    """Parts of a prepared data set."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"
    ALL = "all"


class ExportFormat(StrEnum):
    """File formats of exported models."""

    ONNX = "onnx"
    """For ONNX Runtime."""
    OPENVINO = "openvino"
    """For OpenVINO."""
    HUB = "hub"
    """A folder in the layout of timm's models on the Hugging Face hub."""


class Attribution(StrEnum):
    """Methods that attribute a network's score to the pixels of an image; `auto` is the default method."""

    AUTO = "auto"
    INTEGRATED_GRADIENTS = "integrated-gradients"
    GRAD_CAM = "grad-cam"
    HIRES_CAM = "hirescam"
    GRAD_CAM_PLUS_PLUS = "grad-cam++"
    LAYER_CAM = "layercam"
    ATTENTION_ROLLOUT = "attention-rollout"


class ColorScale(StrEnum):
    """Where the color scale of a heat map ends."""

    ABSOLUTE = "absolute"
    """At the same heat on every photograph: colors of different photographs can be compared."""
    RELATIVE = "relative"
    """At the maximum of each heat map, as Grad-CAM is usually drawn: weak maps look as strong as strong ones."""


class Layer(StrEnum):
    """Which feature map a method of the CAM family uses: the last, one of two finer ones before it, or their mean."""

    LAST = "last"
    MIDDLE = "middle"
    FINE = "fine"
    ALL = "all"
