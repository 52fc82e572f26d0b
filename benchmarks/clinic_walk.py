"""The loop of docs/guides/clinic.md on real photographs: grade, correct, calibrate, grade again.

    python benchmarks/clinic_walk.py EYEPACS_FOLDER WORK_FOLDER [--model efficientnet-lite2] [--sensitivity 0.90]

EYEPACS_FOLDER holds `images/` and `labels.csv` (image, level, patient). The photographs of 150 random patients are
graded, their grades corrected to the labels, and a model is calibrated; another 50 patients come after it. The commands
are those of the guide; their messages are shown as they come. WORK_FOLDER also holds the store.
"""

from __future__ import annotations

import argparse
import csv
import os
import random
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

NUM_CALIBRATION = 150
NUM_LATER = 50
SEED = 7
COLUMNS = ("--image-column", "image", "--grade-column", "grade", "--patient-column", "patient")

Labels = dict[str, dict[str, str]]


def copy_photographs(eyepacs: Path, labels: Labels, patients: list[str], folder: Path) -> None:
    folder.mkdir(parents=True)
    photographs = {path.stem: path for path in (eyepacs / "images").iterdir()}
    for name, label in labels.items():
        if label["patient"] in patients and name in photographs:
            shutil.copy(photographs[name], folder)


def run(folder: Path, *words: str) -> None:
    print("$ fundusgrade", *words, flush=True)
    environment = {**os.environ, "FUNDUSGRADE_HOME": str(folder / "home")}
    code = subprocess.run([sys.executable, "-m", "fundusgrade", *words], cwd=folder, env=environment).returncode
    if code not in (0, 3):
        sys.exit(code)


def correct(written: Path, corrected: Path, labels: Labels) -> None:
    """What the reader does: grade every photograph, and add the patient."""
    with written.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    num_changed = 0
    with corrected.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*rows[0], "patient"])
        writer.writeheader()
        for row in rows:
            label = labels[Path(row["image"]).stem]
            num_changed += row["grade"] != label["level"]
            writer.writerow({**row, "grade": label["level"], "patient": label["patient"]})
    print(f"{num_changed} of {len(rows)} grades corrected", flush=True)


def report(name: str, path: Path, labels: Labels) -> None:
    """Patients who are referred: any row says yes or ungradable."""
    referred, referable = defaultdict(bool), defaultdict(bool)
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            label = labels[Path(row["image"]).stem]
            referred[label["patient"]] |= row["referable"] != "no"
            referable[label["patient"]] |= int(label["level"]) >= 2
    for state in (True, False):
        of = [referred[patient] for patient in referable if referable[patient] is state]
        print(f"{name}: {sum(of)} of {len(of)} {'referable patients' if state else 'others'} referred", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("eyepacs", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="efficientnet-lite2")
    parser.add_argument("--sensitivity", default="0.90")
    options = parser.parse_args()
    with (options.eyepacs / "labels.csv").open(newline="", encoding="utf-8") as file:
        labels = {row["image"]: row for row in csv.DictReader(file)}
    patients = sorted({row["patient"] for row in labels.values()})
    random.Random(SEED).shuffle(patients)
    folder = options.folder.resolve()
    copy_photographs(options.eyepacs, labels, patients[:NUM_CALIBRATION], folder / "my-clinic")
    later = patients[NUM_CALIBRATION : NUM_CALIBRATION + NUM_LATER]
    copy_photographs(options.eyepacs, labels, later, folder / "tomorrow")
    run(folder, "predict", "my-clinic", "--model", options.model, "--csv", "written.csv")
    report("before", folder / "written.csv", labels)
    correct(folder / "written.csv", folder / "graded.csv", labels)
    run(folder, "preprocess", "my-clinic", "--labels", "graded.csv", *COLUMNS)
    sensitivity = ("--sensitivity", options.sensitivity)
    run(folder, "calibrate", options.model, "--data", "my-clinic", *sensitivity, "--name", "my-clinic")
    run(folder, "predict", "tomorrow", "--model", "my-clinic", "--csv", "tomorrow.csv")
    report("after, other patients", folder / "tomorrow.csv", labels)


if __name__ == "__main__":
    main()
