"""The store: names, defaults, listing, installing."""

from __future__ import annotations

import json
from pathlib import Path

import platformdirs
import pytest

from fundusgrade import files, store
from fundusgrade.errors import StoreError

NO_SUCH_NAME = "nobody-made-this"


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder in place of the weights that come with the package."""
    folder = tmp_path / "weights"
    folder.mkdir()
    monkeypatch.setattr(store, "shipped_weights", lambda: folder)
    return folder


def add_dataset(
    name: str, text: str = '{"created": "2024-01-02T03:04:05+00:00", "num_photographs": 7, "hash": "ab"}'
) -> Path:
    folder = store.dataset_directory(name)
    files.write_atomically(folder / store.DATASET_FILE, text)
    return folder


def add_model(folder: Path, weights: bytes = b"weights", **described: object) -> Path:
    files.write_atomically(folder / store.MODEL_FILE, weights)
    files.write_atomically(folder / store.MODEL_JSON, json.dumps(described))
    return folder / store.MODEL_FILE


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# Names and places


def test_the_variable_moves_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(files.HOME_VARIABLE, str(tmp_path / "moved"))
    assert store.home() == tmp_path / "moved"
    assert store.dataset_directory("a") == tmp_path / "moved" / "datasets" / "a"
    assert store.model_directory("a") == tmp_path / "moved" / "models" / "a"
    assert store.run_directory("a") == tmp_path / "moved" / "runs" / "a"
    assert not (tmp_path / "moved").exists()


def test_the_variable_may_begin_with_a_tilde(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(files.HOME_VARIABLE, "~/eyes")
    assert store.home() == Path.home() / "eyes"


@pytest.mark.parametrize("value", [None, ""])
def test_without_the_variable_the_system_decides(value: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if value is None:
        monkeypatch.delenv(files.HOME_VARIABLE)
    else:
        monkeypatch.setenv(files.HOME_VARIABLE, value)
    assert store.home() == Path(platformdirs.user_data_dir("fundusgrade", appauthor=False))


@pytest.mark.parametrize("name", ["a", "0", "aptos2019", "A-b_c.d", "x" * 64, "nullify", "console.1"])
def test_a_valid_name_is_returned(name: str) -> None:
    assert store.checked_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "../x",
        "..",
        ".",
        "a/b",
        "a\\b",
        "/a",
        "x" * 65,
        " a",
        "a ",
        "a\n",
        "-a",
        ".a",
        "a.",
        "ä",
        "a:b",
        "nul",
        "COM1.x",
    ],
)
def test_a_name_that_is_invalid_on_some_system_is_refused(name: str) -> None:
    for place in (store.dataset_directory, store.model_directory, store.run_directory):
        with pytest.raises(StoreError, match="is not a valid name; expected up to 64 letters"):
            place(name)


# Data sets


def test_the_only_dataset_is_the_default() -> None:
    folder = add_dataset("eyes")
    store.dataset_directory("unfinished").mkdir(parents=True)
    assert store.resolve_dataset(None) == folder


def test_no_dataset_says_how_to_make_one() -> None:
    with pytest.raises(StoreError, match=r"no data set in the store .*fundusgrade preprocess"):
        store.resolve_dataset(None)


def test_several_datasets_are_listed() -> None:
    add_dataset("eyepacs")
    add_dataset("aptos2019")
    with pytest.raises(StoreError, match=r"several data sets .* --data: aptos2019, eyepacs"):
        store.resolve_dataset(None)


def test_a_dataset_is_found_by_name_and_by_path(tmp_path: Path) -> None:
    folder = add_dataset("eyes")
    add_dataset("others")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / store.DATASET_FILE).write_text("{}")
    assert store.resolve_dataset("eyes") == folder
    assert store.resolve_dataset(str(tmp_path / "elsewhere")) == tmp_path / "elsewhere"


@pytest.mark.parametrize("name", [NO_SUCH_NAME, "../eyes", "x" * 5000, "a\0b"])
def test_an_unknown_dataset_is_refused_with_those_there_are(name: str) -> None:
    add_dataset("eyes")
    with pytest.raises(StoreError, match=r"no data set .*\(eyes\).*dataset\.json"):
        store.resolve_dataset(name)


def test_datasets_are_listed_with_their_size() -> None:
    folder = add_dataset("eyes")
    (folder / "pictures").mkdir()
    (folder / "pictures" / "a.png").write_bytes(b"12345")
    listed = store.list_datasets()[0]
    assert (listed.name, listed.path, listed.created) == ("eyes", folder, "2024-01-02T03:04:05+00:00")
    assert (listed.num_photographs, listed.hash) == (7, "ab")
    assert listed.size_bytes == (folder / store.DATASET_FILE).stat().st_size + 5


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"num_photographs": null}', '{"num_photographs": "many"}'])
def test_a_damaged_dataset_does_not_hide_the_others(text: str) -> None:
    add_dataset("broken", text)
    add_dataset("whole")
    listed = store.list_datasets()
    assert [dataset.name for dataset in listed] == ["broken", "whole"]
    assert [dataset.num_photographs for dataset in listed] == [0, 7]


# Models


def test_models_of_the_store_come_before_those_that_ship(shipped: Path) -> None:
    add_model(shipped / "a", arch="cnn")
    own = add_model(
        store.model_directory("z"),
        arch="resnet50",
        created="2024-01-02T03:04:05+00:00",
        weights_sha256="cd",
        metrics={"validation_kappa": 0.875},
    )
    listed = store.list_models()
    assert [(model.name, model.shipped) for model in listed] == [("z", False), ("a", True)]
    assert (listed[0].arch, listed[0].kappa, listed[0].hash) == ("resnet50", 0.875, "cd")
    assert (listed[0].path, listed[0].size_bytes) == (own, len(b"weights"))
    assert listed[1].kappa is None


@pytest.mark.parametrize(
    "text", ["", "not JSON", "[]", '{"metrics": null}', '{"metrics": {"validation_kappa": "high"}}']
)
def test_a_damaged_description_does_not_hide_other_models(text: str, shipped: Path) -> None:
    add_model(store.model_directory("broken"))
    (store.model_directory("broken") / store.MODEL_JSON).write_text(text)
    add_model(store.model_directory("whole"), metrics={"validation_kappa": 0.5})
    (store.model_directory("bare") / store.MODEL_FILE).parent.mkdir()
    (store.model_directory("bare") / store.MODEL_FILE).write_bytes(b"weights without a description")
    assert [(model.name, model.kappa) for model in store.list_models()] == [
        ("bare", None),
        ("broken", None),
        ("whole", 0.5),
    ]


def test_a_model_is_found_by_name_file_and_folder(shipped: Path, tmp_path: Path) -> None:
    own = add_model(store.model_directory("own"))
    ours = add_model(shipped / "ours")
    elsewhere = add_model(tmp_path / "elsewhere")
    assert store.resolve_model("own") == own
    assert store.resolve_model("ours") == ours
    assert store.resolve_model(str(elsewhere)) == elsewhere
    assert store.resolve_model(str(elsewhere.parent)) == elsewhere


def test_without_a_name_the_default_is_taken_and_an_own_model_may_replace_it(shipped: Path) -> None:
    default = add_model(shipped / store.DEFAULT_MODEL)
    assert store.resolve_model(None) == default
    own = add_model(store.model_directory(store.DEFAULT_MODEL))
    assert store.resolve_model(None) == own


@pytest.mark.parametrize("name", [NO_SUCH_NAME, "../own", "y" * 5000, "a\0b"])
def test_an_unknown_model_is_refused_with_those_there_are(name: str, shipped: Path) -> None:
    add_model(store.model_directory("own"))
    add_model(shipped / "ours")
    with pytest.raises(StoreError, match=r"no model .*\(own, ours\).*fundusgrade train"):
        store.resolve_model(name)


def test_a_folder_without_weights_is_no_model(shipped: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"no model .*which is empty"):
        store.resolve_model(str(tmp_path))


def test_the_shipped_weights_lie_beside_the_sources_or_in_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "project" / "src" / "fundusgrade"
    package.mkdir(parents=True)
    monkeypatch.setattr(store, "__file__", str(package / "store.py"))
    assert store.shipped_weights() == tmp_path.resolve() / "project" / "weights"
    (package / "weights").mkdir()
    assert store.shipped_weights() == package.resolve() / "weights"


def test_this_checkout_has_a_folder_of_weights() -> None:
    assert store.shipped_weights().is_dir()


# Installing


def test_a_finished_run_is_installed_with_the_weights_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*store.MODEL_FILES, "state.safetensors"):
        (tmp_path / name).write_bytes(name.encode())
    written: list[str] = []

    def note(path: Path, data: bytes | str) -> None:
        written.append(path.name)
        files.write_atomically(path, data)

    monkeypatch.setattr(store, "write_atomically", note)
    installed = store.install_model(tmp_path, "mine")
    assert installed == store.model_directory("mine") / store.MODEL_FILE
    assert written[-1] == store.MODEL_FILE
    assert names_in(installed.parent) == sorted(store.MODEL_FILES), "the state of the run stays behind"
    assert all((installed.parent / name).read_bytes() == name.encode() for name in store.MODEL_FILES)
    assert store.resolve_model("mine") == installed


def test_a_run_without_weights_is_not_installed(tmp_path: Path) -> None:
    (tmp_path / store.MODEL_JSON).write_text("{}")
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(StoreError, match=r"no model\.safetensors in .*not finished"):
            store.install_model(folder, "mine")
    assert not store.model_directory("mine").exists()
