"""Data sets of the store as files: rename, remove, and carry to another installation."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

from fundusgrade import store
from fundusgrade.data.contact_sheet import CONTACT_SHEET_FILE
from fundusgrade.data.dataset import PreparedDataset, load_dataset
from fundusgrade.data.manifest import MANIFEST_FILE
from fundusgrade.data.prepare_images import IMAGES_FOLDER, RECORDS_FILE
from fundusgrade.data.transfer import Unpacked, move_into_store, pack, public_config, unpacked
from fundusgrade.errors import DatasetError, StoreError
from fundusgrade.files import file_lock, write_atomically
from fundusgrade.outputs import check_outputs

_FILES = (store.DATASET_FILE, MANIFEST_FILE, CONTACT_SHEET_FILE, store.CONFIG_FILE, RECORDS_FILE)
_IMAGE = re.compile(rf"{IMAGES_FOLDER}/.+\.(png|npy)")


def rename_dataset(name: str, new_name: str) -> None:
    """Give a data set of the store another name; models still know its patients, by the name that it had first.

    Raises StoreError where there is none of the name, or one of the new name, or its files cannot be moved.
    """
    folder, target = own_folder(name), store.dataset_directory(new_name)
    with file_lock(target):
        if target.exists():
            raise StoreError(f"a data set {new_name!r} is in the store; choose another name, or remove it first")
        _move(folder, target)
    _set_name(target, new_name)


def remove_dataset(name: str) -> None:
    """Remove a data set from the store. Raises StoreError where there is none of the name, or it cannot be removed."""
    folder = own_folder(name)
    try:
        (folder / store.DATASET_FILE).unlink()  # what remains after a kill is no data set
        shutil.rmtree(folder)
    except OSError as error:
        raise StoreError(f"cannot remove {folder}: {error.strerror}; check its permissions") from error


def export_dataset(name_or_path: str, out: Path, *, overwrite: bool = False) -> int:
    """Write a data set to one .zip file or to a folder, without the place of its photographs.

    Returns the number of images. Raises StoreError where it may not be written, DatasetError for a damaged data set.
    """
    folder = store.resolve_dataset(name_or_path)
    dataset = load_dataset(folder)
    if out.suffix:
        check_outputs([out], inputs=[folder / store.DATASET_FILE], overwrite=overwrite, suffixes=(".zip",))
    described = _described(folder) | {"root": None}
    files: dict[str, Path | bytes] = {name: folder / name for name in _FILES if (folder / name).is_file()}
    files[store.DATASET_FILE] = (json.dumps(described, indent=2) + "\n").encode()
    if store.CONFIG_FILE in files:
        files[store.CONFIG_FILE] = public_config((folder / store.CONFIG_FILE).read_text(encoding="utf-8")).encode()
    images = [each for each in sorted((folder / IMAGES_FOLDER).rglob("*")) if each.is_file()]
    inside = {path.relative_to(folder).as_posix(): path for path in images}
    pack({**files, **{name: path for name, path in inside.items() if _IMAGE.fullmatch(name)}}, dataset.name, out)
    return sum(bool(row.image) for row in dataset.rows)


def import_dataset(path: Path, name: str | None = None, *, overwrite: bool = False) -> tuple[PreparedDataset, Unpacked]:
    """Take a data set from a .zip file or a folder into the store; also says which files were left out.

    Raises StoreError where it cannot be read, or one of this name is in the store without `overwrite`, DatasetError
    where it is damaged or lacks images.
    """
    with unpacked(
        path, store.home() / "datasets", lambda inside: inside in _FILES or bool(_IMAGE.fullmatch(inside))
    ) as found:
        if not (found.folder / store.DATASET_FILE).is_file():
            raise StoreError(f"{path} holds no data set: expected {store.DATASET_FILE} and {MANIFEST_FILE} in it")
        dataset = load_dataset(found.folder)
        _check_whole(dataset, path)
        target = store.dataset_directory(name or store.checked_name(dataset.name))
        with file_lock(target):
            if target.exists() and not overwrite:
                raise StoreError(
                    f"a data set {target.name!r} is in the store; give another --name, or --overwrite to replace it"
                )
            move_into_store(found.folder, target)
        _set_name(target, target.name)
    return load_dataset(target), found


def own_folder(name: str) -> Path:
    """The folder of a data set of the store. Raises StoreError where there is none of this name."""
    folder = store.resolve_dataset(name)
    if folder != store.home() / "datasets" / name:
        raise StoreError(f"{name} is a folder outside of the store; only data sets of the store have names to change")
    return folder


def _check_whole(dataset: PreparedDataset, path: Path) -> None:
    """Raise DatasetError where the manifest is another than the description's, or names images that are not there."""
    if _described(dataset.directory).get("hash") != dataset.hash:
        raise DatasetError(f"{path}: {MANIFEST_FILE} is not the one that was exported (hash differs); copy it again")
    named = [row.image for row in dataset.rows if row.image]
    missing = [name for name in named if not _IMAGE.fullmatch(name) or not (dataset.directory / name).is_file()]
    if missing or any(".." in Path(name).parts for name in named):
        raise DatasetError(
            f"{path}: {len(missing)} of {len(named)} images are missing, such as {(missing or named)[0]}; copy it again"
        )


def _set_name(folder: Path, name: str) -> None:
    described = _described(folder)
    if described["name"] != name:
        described = {**described, "first_name": described.get("first_name") or described["name"], "name": name}
        write_atomically(folder / store.DATASET_FILE, json.dumps(described, indent=2) + "\n")


def _described(folder: Path) -> dict[str, object]:
    described: dict[str, object] = json.loads((folder / store.DATASET_FILE).read_text(encoding="utf-8"))
    return described


def _move(folder: Path, target: Path) -> None:
    try:
        folder.rename(target)
    except OSError as error:
        raise StoreError(f"cannot rename {folder}: {error.strerror}; check its permissions") from error
