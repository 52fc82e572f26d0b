"""`faithfulness`: tests of heat maps on a data set and on lesion masks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from tests.command_line import Outcome
from tests.models_for_tests import install_dataset, install_model, photographs_of, save_photographs


def test_faithfulness_of_a_folder_of_lesions(workplace: Path) -> None:
    install_model()
    (path,) = save_photographs(workplace / "idrid" / "images", [1])
    (workplace / "idrid" / "masks").mkdir()
    mask = np.zeros((160, 160), np.uint8)
    mask[60:80, 60:80] = 255
    Image.fromarray(mask).save(workplace / "idrid" / "masks" / f"{path.stem}_HE.png")
    outcome = Outcome("fundusgrade faithfulness --lesions idrid --method grad-cam --target referable --out study")
    assert outcome.code == 0, outcome.stderr
    assert "lesions: idrid, explained: referable" in outcome.stdout
    assert "hemorrhages: idrid" in outcome.stdout
    assert "idrid-lesions.png" in outcome.stderr
    outcome = Outcome("fundusgrade faithfulness gone --lesions nowhere")
    assert "no photographs with lesion masks in nowhere" in outcome.stderr


def test_faithfulness_of_a_data_set(workplace: Path) -> None:
    install_model()
    dataset = install_dataset("drawn")
    with photographs_of(dataset):
        outcome = Outcome(
            "fundusgrade faithfulness drawn --target referable --method grad-cam --limit 1 --split all --out study"
        )
    assert outcome.code == 0, outcome.stderr
    assert "written: study/faithfulness.json" in outcome.stderr
    assert "concentration: drawn, all, explained: referable" in outcome.stdout
    content = json.loads((workplace / "study" / "faithfulness.json").read_text())
    assert content["studies"][0]["num_photographs"] == len(dataset.graded_rows())


def test_faithfulness_needs_something_to_test_on() -> None:
    outcome = Outcome("fundusgrade faithfulness")
    assert outcome.code == 1
    assert "nothing to test on: name a data set, or a folder with lesion masks by --lesions" in outcome.stderr
