"""Settings of a run: written as config.yaml, from which the run is repeated, and read by `--config`."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from fundusgrade import store
from fundusgrade.networks.checkpoint_file import read_description
from tests.command_line import TRAIN, Outcome, rows_of
from tests.models_for_tests import install_dataset, install_model, save_photographs


def test_a_training_is_repeated_from_its_file_to_the_same_weights(home: Path) -> None:
    install_dataset("drawn")
    first = Outcome([*TRAIN, "--seed", "7", "--mixup", "0.2", "--head", "softmax", "--name", "first"])
    assert first.code == 0, first.stderr
    config = store.model_directory("first") / "config.yaml"
    content = yaml.safe_load(config.read_text())
    assert {"command": "train", "seed": 7, "mixup": 0.2, "data": ["drawn"], "name": "first"}.items() <= content.items()
    assert content["patience"] == 12, "defaults of the architecture are written: they may change"
    assert not {"config", "verbose", "quiet", "resume", "overwrite"} & content.keys()
    install_dataset("another")  # the file names the data: it does not matter that there are two now
    again = Outcome(["train", "--config", str(config), "--name", "again"])
    assert again.code == 0, again.stderr
    descriptions = [read_description(store.model_directory(name) / store.MODEL_FILE) for name in ("first", "again")]
    assert descriptions[0].weights_sha256 == descriptions[1].weights_sha256
    assert descriptions[0].provenance.options == descriptions[1].provenance.options
    other = Outcome(["train", "--config", str(config), "--name", "other", "--seed", "8"])
    assert other.code == 0
    other_description = read_description(store.model_directory("other") / store.MODEL_FILE)
    assert other_description.weights_sha256 != descriptions[0].weights_sha256, "the option takes precedence"
    assert other_description.provenance.options["mixup"] == 0.2, "what is not given comes from the file"


def test_a_prediction_is_repeated_from_the_file_beside_its_rows(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_model("cnn-a")
    install_model("cnn-b", seed=1)
    save_photographs(workplace / "images", range(3))
    assert Outcome("fundusgrade predict images --model cnn-b --threshold 0.3 --csv out.csv").code == 0
    (workplace / "elsewhere").mkdir()
    monkeypatch.chdir(workplace / "elsewhere")
    assert Outcome(f"fundusgrade predict --config {workplace / 'out.csv.config.yaml'} --out again.csv").code == 0
    first, again = (rows_of(Path(path).read_text()) for path in (workplace / "out.csv", "again.csv"))
    assert [row["model"] for row in again] == ["cnn-b"] * 3
    assert [[row[name] for name in ("p0", "referable_threshold")] for row in first] == [
        [row[name] for name in ("p0", "referable_threshold")] for row in again
    ]


def test_nothing_is_written_beside_standard_output_or_a_device(workplace: Path) -> None:
    install_model()
    save_photographs(workplace / "images", range(1))
    assert Outcome("fundusgrade predict images").code == 0
    assert Outcome("fundusgrade predict images --csv /dev/null").code == 0
    assert not Path("/dev/null.config.yaml").exists()
    assert [path.name for path in workplace.iterdir() if path.is_file()] == []


@pytest.mark.parametrize(
    ("command", "folder"),
    [
        ("evaluate --data drawn --split all --allow-leakage --out out", "out"),
        ("explain images --out out", "out"),
    ],
)
def test_folders_of_results_hold_the_settings_and_their_own_one_is_not_overwritten(
    command: str, folder: str, workplace: Path
) -> None:
    install_model()
    install_dataset("drawn")
    save_photographs(workplace / "images", range(2))
    assert Outcome(f"fundusgrade {command} -q").code == 0
    content = yaml.safe_load((workplace / folder / "config.yaml").read_text())
    assert content["command"] == command.split()[0]
    assert content["out"] == str(workplace / "out")
    for path in (workplace / folder).iterdir():
        if path.is_file():
            path.unlink()
    (workplace / folder / "config.yaml").write_text("of: the user\n")
    outcome = Outcome(f"fundusgrade {command} --overwrite")
    assert outcome.code == 1
    assert "config.yaml: the file that is there was not written by fundusgrade" in outcome.stderr


def test_a_data_set_holds_the_settings_that_made_it(labeled: Path) -> None:
    assert Outcome("fundusgrade preprocess labeled --size 64 --method natural --workers 1").code == 0
    content = yaml.safe_load((store.dataset_directory("labeled") / "config.yaml").read_text())
    assert {"sources": [str(labeled)], "method": "natural", "size": 64, "name": "labeled"}.items() <= content.items()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("epoch: 3\n", "unknown key 'epoch' of 'train'; did you mean 'epochs'?"),
        ("color: red\n", "unknown key 'color' of 'train'; expected arch, "),
        ("config: other.yaml\n", "unknown key 'config'"),
        ("command: predict\n", "is of `fundusgrade predict`"),
        ("epochs: [3, 4]\n", "epochs: expected one value, not a list of 2"),
        ("epochs: true\n", "epochs: expected text or a number"),
        ("degrade: 1\n", "degrade: expected true or false, not 1"),
        ("data: {a: b}\n", "data: expected text or a number"),
        ("epochs: many\n", "Invalid value for '--epochs'"),
        ("epochs: 0\n", "Invalid value for '--epochs'"),
        ("- train\n", "expected lines such as `epochs: 12`"),
        ("epochs: 'x\n", "is not a YAML file"),
    ],
)
def test_a_file_that_is_not_understood_is_a_usage_error(text: str, reason: str, workplace: Path) -> None:
    (workplace / "run.yaml").write_text(text)
    outcome = Outcome("fundusgrade train --config run.yaml")
    assert outcome.code == 2
    assert reason in " ".join(outcome.stderr.replace("│", " ").split())


def test_a_missing_file_is_a_usage_error() -> None:
    outcome = Outcome("fundusgrade train --config run.yaml")
    assert outcome.code == 2
    assert "run.yaml: no such file or directory; expected a YAML file" in outcome.stderr


def test_underscores_empty_files_and_values_of_nothing_are_understood(workplace: Path) -> None:
    install_dataset("drawn")
    (workplace / "run.yaml").write_text("batch_size: 8\nepochs: 1\npatience:\narch: cnn\ndevice: cpu\n")
    assert Outcome("fundusgrade train --config run.yaml").code == 0
    (workplace / "empty.yaml").write_text("")
    assert Outcome("fundusgrade models list --config empty.yaml").code == 0
