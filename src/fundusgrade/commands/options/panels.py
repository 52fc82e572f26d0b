"""The groups in which the help of a command shows its options."""

from __future__ import annotations

PHOTOGRAPHS = "Photographs"
MODEL = "Model"
DATA = "Data"
LABEL_FILE = "Label file"
OUTPUT = "Output"
GRADING = "Grading and referral"
PATIENTS = "Patients"
REVIEW = "Page to review"
HEAT_MAPS = "Heat maps"
SEVERAL_RUNS = "Interrupted and divided runs"
OPTIMIZATION = "Optimization and augmentation"
LOSS = "Output head, loss and decision rule"
FOLDS = "Cross-validation"
COMPUTING = "Computing"
