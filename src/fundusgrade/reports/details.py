"""One model, or one data set, as names and values in words."""

from __future__ import annotations

from pathlib import Path

from fundusgrade.data.dataset import PreparedDataset
from fundusgrade.grades import describe_rule
from fundusgrade.metrics.estimates import describe_number
from fundusgrade.networks.description import CheckpointDescription
from fundusgrade.reports.listings import checks_line, dataset_summary


def model_details(description: CheckpointDescription, path: Path, *, where: str) -> dict[str, str]:
    """What a model is, what it was trained on, and what it decides by."""
    provenance, network = description.provenance, description.network
    kappa = describe_number(provenance.metrics.get("validation_kappa"))
    calibration, point = description.local_calibration, description.operating_point
    return {
        "model": f"{description.name} ({where})",
        "file": f"{path}, {path.stat().st_size / 1e6:.1f} MB",
        "weights": description.weights_sha256,
        "network": f"{network.timm_name or network.arch}, {network.head.value} head",
        "photographs": description.recipe.describe(),
        "trained on": f"{provenance.data_name} (manifest {provenance.data_hash[:12]}), {provenance.created}",
        "started from": provenance.init,
        "options": ", ".join(f"{key} {value}" for key, value in provenance.options.items() if value is not None),
        "validation": f"kappa {kappa}",
        "grade": describe_rule(description.thresholds),
        "referral": point.describe() if point is not None else "no operating point is stored",
        "prediction sets": f"from {len(description.conformity.sets)} photographs"
        if description.conformity.sets
        else "none",
        "checks": checks_line(description.name, description.checks).partition(": ")[2],
        "clinic": calibration.describe() if calibration is not None else "not calibrated for a clinic",
    }


def dataset_details(dataset: PreparedDataset) -> dict[str, str]:
    """What a data set holds, and how it was preprocessed."""
    rows = {
        "data set": dataset.name + (f" (prepared as {dataset.first_name})" if dataset.first_name else ""),
        "folder": str(dataset.directory),
        "photographs": str(dataset.root) if dataset.root else "their folder is not known",
        "images": dataset.recipe.describe(),
        "manifest": dataset.hash,
    }
    summary = dict(line.partition(": ")[::2] for line in dataset_summary(dataset).splitlines()[1:])
    return rows | summary
