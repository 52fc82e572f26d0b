"""Names that a shell completes: models, data sets, predictions, architectures, methods; none needs PyTorch."""

from __future__ import annotations

from fundusgrade.options import Attribution, Layer

ARCHITECTURES = (
    *("cnn", "resnet50", "vit"),
    *("resnet18", "resnet34", "resnet101", "resnext50_32x4d", "seresnet50", "resnetv2_50", "densenet121"),
    *("tf_efficientnet_lite0", "efficientnet_b0", "efficientnet_b3", "tf_efficientnetv2_s", "mobilenetv3_large_100"),
    *("convnext_tiny", "convnext_small", "convnextv2_tiny", "regnety_032", "inception_v3"),
    *("vit_tiny_patch16_224", "vit_small_patch16_224", "vit_base_patch16_224", "vit_small_patch14_dinov2"),
    *("vit_base_patch14_dinov2", "deit3_small_patch16_224", "swin_tiny_patch4_window7_224", "maxvit_tiny_tf_224"),
)
"""Architectures that a shell suggests; any other name of timm works too. Listing all of them takes seconds."""


def complete_models(incomplete: str) -> list[str]:
    """Models of the store, and those that ship with the package."""
    from fundusgrade import store

    return _starting(incomplete, [model.name for model in store.list_models()])


def complete_own_models(incomplete: str) -> list[str]:
    """Models of the store, which may be renamed and removed."""
    from fundusgrade import store

    return _starting(incomplete, [model.name for model in store.list_models() if not model.shipped])


def complete_datasets(incomplete: str) -> list[str]:
    """Prepared data sets of the store."""
    from fundusgrade import store

    return _starting(incomplete, store.dataset_names())


def complete_predictions(incomplete: str) -> list[str]:
    """Stored predictions of cross-validations."""
    from fundusgrade import store

    return _starting(incomplete, store.predictions_names())


def complete_architectures(incomplete: str) -> list[str]:
    """Common architectures."""
    return _starting(incomplete, ARCHITECTURES)


def complete_methods(incomplete: str) -> list[str]:
    """Attribution methods, and METHOD@LAYER once a method of the CAM family is written."""
    method, at, _ = incomplete.partition("@")
    return _starting(incomplete, [f"{method}@{layer}" for layer in Layer] if at else list(Attribution))


def complete_targets(incomplete: str) -> list[str]:
    """Scores to explain."""
    from fundusgrade.grades import Grade

    grades = [grade.label.lower().replace(" ", "_") for grade in Grade]
    return _starting(incomplete, ["auto", "predicted", "referable", "expected", *grades])


def _starting(incomplete: str, names: list[str] | tuple[str, ...]) -> list[str]:
    return list(dict.fromkeys(str(name) for name in names if name.startswith(incomplete)))
