"""`models` and `datasets`: shown, renamed, removed, and carried to another installation in one file or folder."""

from __future__ import annotations

import io
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from fundusgrade import store
from fundusgrade.data.dataset import load_dataset
from fundusgrade.data.leakage import collect_fingerprints, find_overlap
from fundusgrade.grading.grader import Grader
from fundusgrade.networks.checkpoint_file import read_description
from fundusgrade.reports.listings import models_table
from tests.command_line import TRAIN, Outcome, rows_of
from tests.models_for_tests import install_dataset, install_model, save_photographs


def graded(folder: Path, model: str) -> list[dict[str, str]]:
    """The rows of a folder without the model's name."""
    outcome = Outcome(["predict", str(folder), "--model", model, "--device", "cpu", "--precision", "float32"])
    assert outcome.code == 0, outcome.stderr
    return [{key: value for key, value in row.items() if key != "model"} for row in rows_of(outcome.stdout)]


def ship(folder: Path, name: str) -> None:
    """Let a model be one that ships with the package."""
    folder.mkdir(exist_ok=True)
    install_model(name).parent.rename(folder / name)


@pytest.mark.parametrize("out", ["mine.zip", "mine.safetensors", "folder"])
def test_a_model_that_is_exported_removed_and_imported_on_another_store_grades_the_same(
    out: str, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_dataset("drawn")
    assert Outcome([*TRAIN, "--name", "mine"]).code == 0
    save_photographs(workplace / "images", range(4))
    before = graded(workplace / "images", "mine")
    assert Outcome(f"fundusgrade models export mine --out {out}").code == 0
    assert Outcome("fundusgrade models remove mine --yes").code == 0
    assert not store.model_directory("mine").exists()
    monkeypatch.setenv("FUNDUSGRADE_HOME", str(workplace / "another"))
    imported = Outcome(f"fundusgrade models import {out}")
    assert (imported.code, imported.stdout) == (0, "")
    assert "imported the model mine" in imported.stderr and "left out" not in imported.stderr
    assert graded(workplace / "images", "mine") == before
    files = {path.name for path in store.model_directory("mine").iterdir()}
    expected = {"model.safetensors", "model.json", "README.md"}
    assert files == (expected if out == "mine.safetensors" else set(store.MODEL_FILES))
    assert "mine" in Outcome("fundusgrade models").stdout


def test_an_exported_model_says_nothing_of_the_machine(workplace: Path) -> None:
    install_dataset("drawn")
    assert Outcome([*TRAIN, "--name", "mine", "--tensorboard", str(workplace / "events")]).code == 0
    assert Outcome("fundusgrade models export mine").code == 0
    with zipfile.ZipFile("mine.zip") as archive:
        config = archive.read("mine/config.yaml").decode()
        assert all(str(workplace).encode() not in archive.read(name) for name in archive.namelist())
    assert yaml.safe_load(config)["tensorboard"] == "events"


def test_an_imported_model_may_have_another_name_and_replaces_none_without_being_asked(workplace: Path) -> None:
    path = install_model("mine", kappa=0.75)
    weights = read_description(path).weights_sha256
    assert Outcome("fundusgrade models export mine").code == 0
    refused = Outcome("fundusgrade models import mine.zip")
    assert refused.code == 1
    assert "a model 'mine' is in the store" in refused.stderr
    assert Outcome("fundusgrade models import mine.zip --name theirs").code == 0
    description = read_description(store.model_directory("theirs") / store.MODEL_FILE)
    assert (description.name, description.weights_sha256) == ("theirs", weights)
    assert "# theirs" in (store.model_directory("theirs") / "README.md").read_text()
    assert Outcome("fundusgrade models import mine.zip --overwrite").code == 0
    folders = {path.name for path in (store.home() / "models").iterdir() if path.is_dir()}
    assert folders == {"mine", "theirs"}, "no temporary folder stays"


def test_renaming_a_model_renames_it_in_its_file_and_changes_no_weight(workplace: Path) -> None:
    install_model("long-name")
    save_photographs(workplace / "images", range(2))
    before = graded(workplace / "images", "long-name")
    install_model("taken", seed=1)
    taken = Outcome("fundusgrade models rename long-name taken")
    assert taken.code == 1 and "a model 'taken' is in the store" in taken.stderr
    assert Outcome("fundusgrade models rename long-name short").code == 0
    assert graded(workplace / "images", "short") == before
    assert Grader.load("short").name == "short"
    assert not store.model_directory("long-name").exists()
    assert Outcome("fundusgrade models rename short 'no name'").code == 1


def test_shipped_models_are_neither_renamed_nor_removed_nor_hidden_by_an_imported_one(workplace: Path) -> None:
    ship(workplace / "shipped", "bundled")
    install_model("mine")
    assert Outcome("fundusgrade models export bundled --out copy.zip").code == 0
    for command in ("rename bundled other", "remove bundled --yes", "rename mine bundled", "import copy.zip"):
        outcome = Outcome(f"fundusgrade models {command}")
        assert outcome.code == 1, command
        assert "ships with fundusgrade" in outcome.stderr
    assert {model.name for model in store.list_models()} == {"bundled", "mine"}


def test_nothing_is_removed_without_a_yes(workplace: Path) -> None:
    install_model("mine")
    install_dataset("drawn")
    for command in ("models remove mine", "datasets remove drawn"):
        outcome = Outcome(f"fundusgrade {command}")
        assert outcome.code == 2
        assert "nothing is removed without asking or --yes" in " ".join(outcome.stderr.replace("│", " ").split())
    one_unknown = Outcome("fundusgrade models remove mine other --yes")
    assert one_unknown.code == 1
    assert store.model_directory("mine").exists(), "all names are checked before the first is removed"
    assert store.dataset_directory("drawn").exists()


@pytest.mark.parametrize("out", ["drawn.zip", "folder"])
def test_a_data_set_is_exported_removed_and_imported(out: str, workplace: Path) -> None:
    before = install_dataset("drawn")
    assert Outcome(f"fundusgrade datasets export drawn --out {out}").code == 0
    assert Outcome("fundusgrade datasets remove drawn -y").code == 0
    assert store.dataset_names() == []
    imported = Outcome(f"fundusgrade datasets import {out} --name theirs")
    assert imported.code == 0, imported.stderr
    after = load_dataset(store.dataset_directory("theirs"))
    assert (after.name, after.hash, after.rows, after.root) == ("theirs", before.hash, before.rows, None)
    assert all((after.directory / row.image).is_file() for row in after.rows)
    assert Outcome([*TRAIN, "--data", "theirs"]).code == 0


def test_a_renamed_data_set_is_still_known_to_models_by_its_patients(workplace: Path) -> None:
    dataset = install_dataset("drawn")
    rows = tuple(replace(row, patient=f"p{n}") for n, row in enumerate(dataset.rows))
    trained = collect_fingerprints(replace(dataset, rows=rows), rows[:5])
    assert Outcome("fundusgrade datasets rename drawn other").code == 0
    renamed = load_dataset(store.dataset_directory("other"))
    assert (renamed.name, renamed.first_name) == ("other", "drawn")
    # Other photographs of the same patients: neither equal bytes nor copies.
    others = tuple(replace(row, sha256="00" * 32, fingerprint=None) for row in rows)
    overlap = find_overlap(trained, replace(renamed, rows=others), others)
    assert overlap.patients == tuple(row.source for row in rows[:5])
    assert find_overlap(trained, replace(renamed, rows=others, first_name=None), others).patients == ()


def test_archives_that_are_damaged_dangerous_or_of_something_else_leave_nothing(
    workplace: Path,
) -> None:
    install_model("mine")
    Outcome("fundusgrade models export mine --out good.zip")
    Outcome("fundusgrade models remove mine --yes")
    good = (workplace / "good.zip").read_bytes()
    (workplace / "cut.zip").write_bytes(good[: len(good) // 2])
    (workplace / "text.zip").write_text("no archive")
    with zipfile.ZipFile("other.zip", "w") as archive:
        archive.writestr("notes.txt", "x")
    with zipfile.ZipFile("bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("mine/model.safetensors", bytes(200_000_000))
    with zipfile.ZipFile("flipped.zip", "w") as archive, zipfile.ZipFile("good.zip") as source:
        for name in source.namelist():
            content = bytearray(source.read(name))
            content[-1] ^= name.endswith("model.safetensors")
            archive.writestr(name, bytes(content))
    for name, reason in (
        ("cut.zip", "not a whole .zip file"),
        ("text.zip", "not a whole .zip file"),
        ("other.zip", "holds no model"),
        ("bomb.zip", "would unpack to 0.2 GB"),
        ("flipped.zip", "hash differs"),
        ("nowhere.zip", "no such file"),
    ):
        outcome = Outcome(f"fundusgrade models import {name}")
        assert outcome.code == 1, name
        assert reason in outcome.stderr
        assert [path for path in (store.home() / "models").iterdir() if path.is_dir()] == []


def test_members_that_lead_out_of_the_archive_are_left_out_and_said(workplace: Path) -> None:
    install_model("mine")
    Outcome("fundusgrade models export mine --out good.zip")
    Outcome("fundusgrade models remove mine --yes")
    with zipfile.ZipFile("good.zip", "a") as archive:
        archive.writestr("mine/../../../escaped.json", "{}")
        archive.writestr("mine/notes.txt", "of a colleague")
    outcome = Outcome("fundusgrade models import good.zip")
    assert outcome.code == 0
    assert "left out, because they are not of a model: mine/../../../escaped.json, mine/notes.txt" in outcome.stderr
    assert list(workplace.parent.rglob("escaped.json")) == []


def test_a_data_set_without_some_images_is_refused(workplace: Path) -> None:
    install_dataset("drawn")
    Outcome("fundusgrade datasets export drawn --out whole")
    next((workplace / "whole" / "pictures").rglob("*.png")).unlink()
    outcome = Outcome("fundusgrade datasets import whole --name theirs")
    assert outcome.code == 1
    assert "1 of 20 images are missing" in outcome.stderr
    assert store.dataset_names() == ["drawn"]


def test_show_and_path_name_what_there_is(workplace: Path) -> None:
    path = install_model("mine")
    dataset = install_dataset("drawn")
    shown = Outcome("fundusgrade models show mine").stdout
    assert f"weights: {read_description(path).weights_sha256}\n" in shown
    assert "model: mine (store)\n" in shown and "trained on: drawn" in shown
    assert "photographs of each grade: No DR 4, Mild 4" in Outcome("fundusgrade datasets show drawn").stdout
    assert Outcome("fundusgrade models path mine").stdout == f"{path}\n"
    assert Outcome("fundusgrade datasets path drawn").stdout == f"{dataset.directory}\n"


def test_names_are_never_cut_at_80_columns() -> None:
    names = ["tiny", "n" * 64, "aptos2019-eyepacs-256-vit_small_patch14_reg4_dinov2.lvd142m"]
    for name in names:
        install_model(name)
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(models_table(store.list_models(), default="tiny", with_hashes=False))
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= 80
    assert "…" not in "".join(lines)
    width = next(index for index, character in enumerate(lines[1]) if lines[1][index:].startswith("architecture"))
    together = "".join(line[:width].strip() for line in lines)
    assert all(name in together for name in names)
