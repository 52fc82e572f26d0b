"""The user data directory: data sets and models by name, each file written atomically.

    <home>/datasets/<name>/   dataset.json, manifest.csv, overview.png, config.yaml, pictures/, pixels.cache
    <home>/models/<name>/     model.safetensors, model.json, README.md, config.yaml, metrics.jsonl, curves.png,
                              train_batch.jpg, worst_validation.png
    <home>/runs/<name>/       a training run that is not finished yet
    <home>/predictions/<name>.csv    predictions of cross-validation, each by the model that was not trained on it

The environment variable `FUNDUSGRADE_HOME` moves the directory. Models that ship with the package have names too.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from fundusgrade.errors import StoreError
from fundusgrade.files import HOME_VARIABLE, file_lock, write_atomically
from fundusgrade.outputs import check_outputs
from fundusgrade.text import error_text

DATASET_FILE = "dataset.json"
PIXELS_FILE = "pixels.cache"
"""Decoded images, see `data.pixel_cache`; not counted in the size of the data set."""
MODEL_FILE = "model.safetensors"
MODEL_JSON = "model.json"
CONFIG_FILE = "config.yaml"
"""The settings that repeat a run of the command line."""
CHECKS_CONFIG_FILE = "add-checks.yaml"
"""The settings that add the same checks to a model."""
MODEL_FILES = (
    MODEL_FILE, MODEL_JSON, "README.md", CONFIG_FILE, "metrics.jsonl", "curves.png",
    "train_batch.jpg", "worst_validation.png",
)  # fmt: skip
DEFAULT_MODEL = "efficientnet-lite2"
"""The model that predict, explain and evaluate use when none is named; weights/README.md says how it was chosen."""
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9_-])?")
# Windows reserves these, also with a suffix.
_DEVICE_NAME = re.compile(r"(?:con|prn|aux|nul|com\d|lpt\d)(?:\..*)?", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredDataset:
    """A prepared data set as `fundusgrade datasets` lists it."""

    name: str
    path: Path
    created: str
    num_photographs: int
    size_bytes: int
    """Size of all files but the pixel cache."""
    hash: str
    """SHA-256 of the manifest, in hexadecimal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredModel:
    """A model as `fundusgrade models` lists it."""

    name: str
    path: Path
    created: str
    arch: str
    kappa: float | None
    """Quadratic weighted kappa on the validation split."""
    size_bytes: int
    hash: str
    """SHA-256 of the weights, in hexadecimal."""
    shipped: bool
    """Whether it comes with the package."""


def home() -> Path:
    """The user data directory; it need not exist yet."""
    moved = os.environ.get(HOME_VARIABLE)
    return Path(moved).expanduser() if moved else Path(platformdirs.user_data_dir("fundusgrade", appauthor=False))


def dataset_directory(name: str) -> Path:
    """Folder of the data set of this name; it need not exist yet."""
    return home() / "datasets" / checked_name(name)


def model_directory(name: str) -> Path:
    """Folder of the model of this name; it need not exist yet."""
    return home() / "models" / checked_name(name)


def folder_of_new_model(name: str, *, overwrite: bool, inputs: Iterable[Path] = ()) -> Path:
    """The folder of a model that is to be written. Raises StoreError where one is there that may not be replaced.

    A model that it is made from, one of `inputs`, is never replaced.
    """
    target = model_directory(name)
    if (target / MODEL_FILE).is_file():
        if not overwrite:
            raise StoreError(f"a model {name!r} is in the store; give another --name, or --overwrite to replace it")
        check_outputs([target / MODEL_FILE], inputs=inputs, overwrite=True)
    return target


def run_directory(name: str) -> Path:
    """Folder of a training run, used until its model is installed."""
    return home() / "runs" / checked_name(name)


def predictions_file(name: str) -> Path:
    """File of the pooled cross-validation predictions of this name."""
    return home() / "predictions" / f"{checked_name(name)}.csv"


def resolve_predictions(name_or_path: str) -> Path:
    """A file of predictions given by path or by name in the store. Raises StoreError where there is none."""
    path = Path(name_or_path)
    if path.is_file():
        return path
    folder = home() / "predictions"
    named = folder / f"{name_or_path}.csv"
    if _NAME.fullmatch(name_or_path) and named.is_file():
        return named
    known = predictions_names()
    raise StoreError(
        f"no predictions {name_or_path!r}{_did_you_mean(name_or_path, known)}: neither a file nor a name in {folder} "
        f"({_listed(known)})"
    )


def predictions_names() -> list[str]:
    """The names of all stored predictions of cross-validations."""
    return sorted(each.stem for each in (home() / "predictions").glob("*.csv"))


def dataset_names() -> list[str]:
    """The names of all finished data sets of the store."""
    return sorted(path.parent.name for path in (home() / "datasets").glob(f"*/{DATASET_FILE}"))


def checked_name(name: str) -> str:
    """The name itself. Raises StoreError where some system does not allow it as the name of a folder."""
    if not _NAME.fullmatch(name) or _DEVICE_NAME.fullmatch(name):
        raise StoreError(
            f"{name!r} is not a valid name; expected up to 64 letters, digits, '.', '_' or '-', the first a letter or "
            "digit, the last not '.', and no name that Windows reserves, such as 'nul'"
        )
    return name


def name_from(text: str, default: str) -> str:
    """A name that every file system allows, made from any text; `default` where no character remains."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.") or default


def shipped_weights() -> Path:
    """The folder of models that come with the package: inside it when installed, beside `src` in a checkout."""
    package = Path(__file__).resolve().parent
    inside = package / "weights"
    return inside if inside.is_dir() else package.parents[1] / "weights"


def list_datasets() -> list[StoredDataset]:
    """All finished data sets of the store, by name."""
    folders = sorted((home() / "datasets").glob(f"*/{DATASET_FILE}"))
    return [_stored_dataset(path.parent) for path in folders]


def list_models() -> list[StoredModel]:
    """All models of the store by name, then those that ship with the package."""
    own = sorted((home() / "models").glob(f"*/{MODEL_FILE}"))
    shipped = sorted(shipped_weights().glob(f"*/{MODEL_FILE}"))
    return [_stored_model(path, shipped=False) for path in own] + [
        _stored_model(path, shipped=True) for path in shipped
    ]


def resolve_dataset(name_or_path: str | None) -> Path:
    """The folder of a data set given by name or path, or of the only one in the store.

    Raises StoreError where there is none of that name, or several to choose from.
    """
    names = dataset_names()
    if name_or_path is None:
        if len(names) == 1:
            return home() / "datasets" / names[0]
        raise StoreError(_which_dataset(names))
    if name_or_path in names:
        return home() / "datasets" / name_or_path
    path = Path(name_or_path)
    if _is_file(path / DATASET_FILE):
        return path
    raise StoreError(
        f"no data set {name_or_path!r}{_did_you_mean(name_or_path, names)}: neither a name in the store "
        f"({_listed(names)}) nor a folder with a {DATASET_FILE}; make one with `fundusgrade preprocess FOLDER`"
    )


def resolve_model(name_or_path: str | None) -> Path:
    """The weights file of a model given by name or path (its folder or its file); None means the shipped default.

    Raises StoreError where there is none of that name.
    """
    name = name_or_path or DEFAULT_MODEL
    models = list_models()
    for model in models:
        if model.name == name:
            return model.path
    path = Path(name)
    for candidate in (path, path / MODEL_FILE):
        if _is_file(candidate):
            return candidate
    names = [model.name for model in models]
    raise StoreError(
        f"no model {name!r}{_did_you_mean(name, names)}: neither a name in the store ({_listed(names)}) nor a file; "
        "train one with `fundusgrade train` or give the path of a model.safetensors"
    )


def install_model(directory: Path, name: str) -> Path:
    """Copy a finished run's model into the store, the weights last; returns their new path.

    Raises StoreError where the run has no weights, or its files cannot be copied.
    """
    target = model_directory(name)
    if not _is_file(directory / MODEL_FILE):
        raise StoreError(f"no {MODEL_FILE} in {directory}: the run is not finished; resume it with --resume")
    files = [directory / file for file in MODEL_FILES if _is_file(directory / file)]
    with file_lock(target):
        for path in sorted(files, key=lambda path: path.name == MODEL_FILE):
            try:
                data = path.read_bytes()
            except OSError as error:
                raise StoreError(f"cannot read {path}: {error_text(error)}; check its permissions") from error
            write_atomically(target / path.name, data)
    return target / MODEL_FILE


def _which_dataset(names: list[str]) -> str:
    if not names:
        return f"no data set in the store ({home()}); make one with `fundusgrade preprocess FOLDER`"
    return f"several data sets are in the store; choose one with --data: {_listed(names)}"


def _listed(names: Sequence[str]) -> str:
    """Each name once: a model of the store may have the name of a shipped one."""
    return ", ".join(dict.fromkeys(names)) or "which is empty"


def _did_you_mean(name: str, known: Sequence[str]) -> str:
    """A question that names what a mistyped name may stand for; "" where nothing is like it."""
    near = difflib.get_close_matches(name, dict.fromkeys(known), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def _stored_dataset(folder: Path) -> StoredDataset:
    described = _read_json(folder / DATASET_FILE)
    num_photographs = described.get("num_photographs")
    return StoredDataset(
        name=folder.name,
        path=folder,
        created=str(described.get("created", "")),
        num_photographs=num_photographs if isinstance(num_photographs, int) else 0,
        size_bytes=_size_of_files(folder),
        hash=str(described.get("hash", "")),
    )


def _stored_model(path: Path, *, shipped: bool) -> StoredModel:
    described = _read_json(path.with_name(MODEL_JSON))
    metrics = described.get("metrics")
    kappa = metrics.get("validation_kappa") if isinstance(metrics, dict) else None
    return StoredModel(
        name=path.parent.name,
        path=path,
        created=str(described.get("created", "")),
        arch=str(described.get("arch", "")),
        kappa=float(kappa) if isinstance(kappa, int | float) else None,
        size_bytes=path.stat().st_size,
        hash=str(described.get("weights_sha256", "")),
        shipped=shipped,
    )


def _size_of_files(folder: Path) -> int:
    """Bytes of all files below, without the pixel cache; a file that is removed meanwhile is not counted."""
    total = 0
    for path in folder.rglob("*"):
        if path.name == PIXELS_FILE:
            continue
        with contextlib.suppress(OSError):
            total += path.stat().st_size if path.is_file() else 0
    return total


def _is_file(path: Path) -> bool:
    return os.path.isfile(path)  # noqa: PTH113 (Path.is_file raises on overlong names and forbidden parents)


def _read_json(path: Path) -> dict[str, object]:
    """A JSON object, or an empty one for a damaged file, which must not hide the other entries of a list."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
