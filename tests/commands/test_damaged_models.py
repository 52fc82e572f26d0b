"""Model files that are damaged, or whose description is false."""

from __future__ import annotations

import json
import os
import resource
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from safetensors import safe_open

from fundusgrade import files, store
from fundusgrade.errors import CheckpointError, StoreError
from fundusgrade.grading.grader import Grader
from fundusgrade.networks.checkpoint import load_checkpoint
from fundusgrade.networks.checkpoint_file import HASH_KEY, METADATA_KEY
from tests.command_line import run
from tests.models_for_tests import install_model, save_photographs


def rewritten(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the description, with a hash that fits."""
    with safe_open(path, framework="pt") as file:
        described = json.loads(file.metadata()[METADATA_KEY])
    change(described)
    with_text(path, json.dumps(described))


def with_text(path: Path, text: str) -> None:
    tensors = safetensors.torch.load_file(path)
    safetensors.torch.save_file(tensors, path, {METADATA_KEY: text, HASH_KEY: files.hash_text(text)})


def deep(described: dict[str, Any], **changes: object) -> None:
    described["recipe"].update(changes)


def point(*, threshold: float = 0.5, score: float = 0.5, groups: Sequence[int] = (1,)) -> dict[str, Any]:
    """A stored operating point, right unless it is given something wrong."""
    scores = {"data": "a", "referable": [score], "others": [], "referable_groups": list(groups), "other_groups": []}
    return {"threshold": threshold, "sensitivity": 0.9, "rates": [], "chosen_on": [scores], "held_out": []}


def clinic(**changes: object) -> dict[str, Any]:
    """A stored calibration for a clinic, right but for the changes."""
    names = ("parent", "parent_sha256", "created", "data_name", "data_hash", "camera", "precision")
    rates = {"threshold": 0.2, "sensitivity": 0.9, "confidence": 0.9}
    counts = dict.fromkeys(("num_referable", "num_missed", "num_others", "num_others_referred"), 30)
    right = {
        **dict.fromkeys(names, "a"),
        "recalibration": {"slope": 0.9, "intercept": 0.0},
        "changes_grades": False,
        "certificate": rates | counts,
        "scores": {"quantiles": [0.1, 0.5], "num_photographs": 2, "num_patients": 1, "design_effect": 1.5},
    }
    return right | changes


FALSE_DESCRIPTIONS: dict[str, Callable[[dict[str, Any]], object]] = {
    "size": lambda d: d.update(size_px=10**9),
    "size, everywhere": lambda d: (d.update(size_px=10**9), deep(d, size_px=10**9)),
    "size of a transformer": lambda d: d.update(arch="vit", timm_name="vit_base_patch16_224", size_px=10**9),
    "another size": lambda d: d.update(size_px=128),
    "infinite size": lambda d: d.update(size_px=float("inf")),
    "negative size": lambda d: (d.update(size_px=-64), deep(d, size_px=-64)),
    "recipe of fractions": lambda d: deep(d, size_px=64.5),
    "negative rows": lambda d: d.update(rows=[-5, 20]),
    "rows beyond": lambda d: d.update(rows=[0, 10**9]),
    "rows upside down": lambda d: d.update(rows=[40, 20]),
    "three rows": lambda d: d.update(rows=[1, 2, 3]),
    "a giant network": lambda d: d.update(arch="x", timm_name="vit_giant_patch14_224"),
    "another network": lambda d: d.update(arch="resnet50", timm_name="resnet50"),
    "a network elsewhere": lambda d: d.update(timm_name="hf-hub:someone/something"),
    "a network in a folder": lambda d: d.update(timm_name="local-dir:/tmp"),
    "a network that is a number": lambda d: d.update(timm_name=5),
    "another head": lambda d: d.update(head="regression"),
    "a head that is none": lambda d: d.update(head="two"),
    "mean of no numbers": lambda d: d.update(mean=[float("nan")] * 3),
    "mean of words": lambda d: d.update(mean=["a", "b", "c"]),
    "std of zero": lambda d: d.update(std=[0, 1, 1]),
    "nested mean": lambda d: d.update(mean=[[0.5] * 3] * 3),
    "thresholds of no numbers": lambda d: d.update(thresholds=[float("nan")] * 4),
    "falling thresholds": lambda d: d.update(thresholds=[3, 2, 1, 0]),
    "nested thresholds": lambda d: d.update(thresholds=[[1], [2], [3], [4]]),
    "calibration too long": lambda d: d["calibration"].update(offsets=[0.0] * 6),
    "calibration nested": lambda d: d["calibration"].update(offsets=[[0.0]] * 5),
    "calibration of words": lambda d: d.update(calibration="none"),
    "a negative slope": lambda d: d["calibration"].update(slopes=[1.0, 1.0, -1.0, 1.0]),
    "too few intercepts": lambda d: d["calibration"].update(intercepts=[0.0]),
    "negative temperature": lambda d: d["calibration"].update(temperature=-1),
    "infinite temperature": lambda d: d["calibration"].update(temperature=float("inf")),
    "temperature as a list": lambda d: d["calibration"].update(temperature=[1.0]),
    "conformity is a number": lambda d: d.update(conformity=0.5),
    "conformity nested": lambda d: d.update(conformity=[[0.5]]),
    "conformity of no numbers": lambda d: d.update(conformity=[float("nan")]),
    "conformity of four grades": lambda d: d.update(conformity={"sets": [0.5], "bounds": [[]] * 4}),
    "conformity of a sixth grade": lambda d: d.update(
        conformity={"sets": [0.5], "bounds": [[]] * 5, "set_grades": [5]}
    ),
    "conformity with a grade too many": lambda d: d.update(
        conformity={"sets": [0.5], "bounds": [[]] * 5, "set_grades": [1, 2]}
    ),
    "conformity without grades": lambda d: d.update(conformity={"sets": [0.5], "bounds": [[]] * 5, "set_grades": []}),
    "conformity without bounds": lambda d: d.update(conformity={"sets": [0.5]}),
    "one temperature for all cuts": lambda d: d.update(calibration={"temperature": 1.5, "offsets": [0.0] * 5}),
    "a calibration with more": lambda d: d["calibration"].update(bias=0.0),
    "an operating point of words": lambda d: d.update(operating_point="high"),
    "an operating point beyond 1": lambda d: d.update(operating_point=point(threshold=1.5)),
    "an operating point of no number": lambda d: d.update(operating_point=point(threshold=float("nan"))),
    "an operating point without scores": lambda d: d.update(operating_point={"threshold": 0.5, "sensitivity": 0.9}),
    "an operating point of scores beyond 1": lambda d: d.update(operating_point=point(score=7.0)),
    "an operating point with a group too many": lambda d: d.update(operating_point=point(groups=[1, 2])),
    "a calibration for a clinic of words": lambda d: d.update(local_calibration="mine"),
    "a calibration for a clinic without a certificate": lambda d: d.update(local_calibration=clinic(certificate=None)),
    "a calibration for a clinic with a slope of 0": lambda d: d.update(
        local_calibration=clinic(recalibration={"slope": 0.0, "intercept": 0.0})
    ),
    "a calibration for a clinic with falling scores": lambda d: d.update(
        local_calibration=clinic(
            scores={"quantiles": [0.5, 0.1], "num_photographs": 2, "num_patients": 1, "design_effect": 1.5}
        )
    ),
    "a name that climbs": lambda d: d.update(name="../../up"),
    "a name with a folder": lambda d: d.update(name="a/b"),
    "no name": lambda d: d.update(name=""),
    "an endless name": lambda d: d.update(name="x" * 10**6),
    "another format": lambda d: d.update(format=99),
    "another recipe": lambda d: deep(d, version=99),
    "a recipe with more": lambda d: deep(d, speed=3),
    "options as a list": lambda d: d.update(options=[1]),
    "versions as a number": lambda d: d.update(versions=5),
    "metrics as text": lambda d: d.update(metrics="good"),
}


@pytest.mark.parametrize("case", FALSE_DESCRIPTIONS)
def test_a_false_description_is_refused_quickly_and_with_a_remedy(case: str) -> None:
    path = install_model()
    rewritten(path, FALSE_DESCRIPTIONS[case])
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(CheckpointError, match=r"copy the file again|install|train it again"):
        load_checkpoint(path)
    assert time.process_time() - start < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 * 1024, "kilobytes"
    assert run("models")[0] == 0


def test_a_right_operating_point_and_calibration_for_a_clinic_are_read() -> None:
    path = install_model()
    rewritten(path, lambda d: d.update(operating_point=point(), local_calibration=clinic()))
    assert load_checkpoint(path).description.local_calibration is not None


@pytest.mark.parametrize("text", ["", "[]", "null", "{" * 5, "[" * 10**6, '{"format": ' + "9" * 10_000 + "}"])
def test_a_description_that_is_none_is_refused(text: str) -> None:
    path = install_model()
    with_text(path, text)
    path.with_name(store.MODEL_JSON).write_text(text)
    with pytest.raises(CheckpointError, match="copy the file again"):
        load_checkpoint(path)
    assert run("models")[0] == 0


def test_a_huge_list_of_conformity_is_read_in_moments() -> None:
    path = install_model()
    rewritten(path, lambda d: d["conformity"].update(sets=[0.5] * 10**6, set_grades=[2] * 10**6))
    start = time.process_time()
    assert len(load_checkpoint(path).description.conformity.sets) == 10**6
    assert time.process_time() - start < 10


def test_tensors_of_another_shape_or_number_are_refused() -> None:
    path = install_model()
    with safe_open(path, framework="pt") as file:
        text = file.metadata()[METADATA_KEY]
    whole = safetensors.torch.load_file(path)
    name = next(iter(whole))
    for changed in (
        {key: tensor for key, tensor in whole.items() if key != name},
        {**whole, name: torch.zeros(3)},
        {**whole, "further": torch.zeros(3)},
    ):
        described = {**json.loads(text), "weights_sha256": _hash_of(changed)}
        new = json.dumps(described)
        safetensors.torch.save_file(changed, path, {METADATA_KEY: new, HASH_KEY: files.hash_text(new)})
        with pytest.raises(CheckpointError, match=r"do not fit cnn .* tensors differ"):
            load_checkpoint(path)


def _hash_of(state: dict[str, torch.Tensor]) -> str:
    from fundusgrade.networks.checkpoint import hash_tensors

    return hash_tensors(state)


def test_every_cut_is_noticed() -> None:
    path = install_model()
    data = path.read_bytes()
    header = 8 + int.from_bytes(data[:8], "little")
    for length in {*range(40), header - 1, header, header + 1, len(data) - 1, *range(0, len(data), len(data) // 40)}:
        path.write_bytes(data[:length])
        with pytest.raises(CheckpointError, match="copy it again"):
            load_checkpoint(path)


def test_every_flipped_bit_is_refused_or_changes_no_grade(workplace: Path) -> None:
    """Hundreds in the header, where most of a damaged file's ways to mislead are, and as many in tensors."""
    path = install_model()
    photograph = save_photographs(workplace, [0])[0]
    before, data = load_checkpoint(path).description, path.read_bytes()
    grade = Grader.load(str(path)).grade(photograph)
    header = 8 + int.from_bytes(data[:8], "little")
    rng = np.random.default_rng(0)
    places = [*range(64), *rng.integers(0, header, 300), *rng.integers(header, len(data), 100)]
    num_harmless = 0
    for place in map(int, places):
        damaged = bytearray(data)
        damaged[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        try:
            loaded = load_checkpoint(path).description
        except CheckpointError:
            continue
        assert loaded == before and Grader.load(str(path)).grade(photograph) == grade
        num_harmless += 1
    assert num_harmless < 0.1 * len(places)


def test_a_folder_and_a_pipe_are_no_models(workplace: Path) -> None:
    os.mkfifo(workplace / "pipe.safetensors")
    (workplace / "folder.safetensors").mkdir()
    for name in ("pipe.safetensors", "folder.safetensors"):
        with pytest.raises(StoreError, match="no model"):
            store.resolve_model(str(workplace / name))
