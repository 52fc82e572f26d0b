"""Models of the store as files: rename, remove, and carry to another installation."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from fundusgrade import store
from fundusgrade.data.transfer import ZIP_SUFFIX, Unpacked, move_into_store, pack, public_config, unpacked
from fundusgrade.errors import StoreError
from fundusgrade.files import file_lock, write_atomically
from fundusgrade.networks.checkpoint import load_checkpoint, replace_description
from fundusgrade.networks.checkpoint_file import read_description
from fundusgrade.networks.model_folder import write_card
from fundusgrade.outputs import check_outputs

WEIGHTS_SUFFIX = ".safetensors"
_FILES = (*store.MODEL_FILES, store.CHECKS_CONFIG_FILE)
_CARD = "README.md"


def rename_model(name: str, new_name: str) -> None:
    """Give a model of the store another name, in its description and card too; its weights stay.

    Raises StoreError where the store has none of the name, or one of the new name.
    """
    folder, target = own_file(name).parent, store.model_directory(new_name)
    _refuse_shipped_name(new_name)
    with file_lock(target):
        if target.exists():
            raise StoreError(f"a model {new_name!r} is in the store; choose another name, or remove it first")
        try:
            folder.rename(target)
        except OSError as error:
            raise StoreError(f"cannot rename {folder}: {error.strerror}; check its permissions") from error
    _set_name(target / store.MODEL_FILE, new_name)


def remove_model(name: str) -> None:
    """Remove a model from the store. Raises StoreError where there is none of the name, or it cannot be removed."""
    folder = own_file(name).parent
    try:
        (folder / store.MODEL_FILE).unlink()  # what remains after a kill is no model
        shutil.rmtree(folder)
    except OSError as error:
        raise StoreError(f"cannot remove {folder}: {error.strerror}; check its permissions") from error


def export_model_files(name_or_path: str, out: Path, *, overwrite: bool = False) -> None:
    """Write a model to a .zip file, to a folder, or only its weights and description to a .safetensors file.

    Raises StoreError where it may not be written, CheckpointError where it is no model.
    """
    path = store.resolve_model(name_or_path)
    description = read_description(path)
    suffixes = (ZIP_SUFFIX, WEIGHTS_SUFFIX)
    if out.suffix:
        check_outputs([out], inputs=[path], overwrite=overwrite, suffixes=suffixes)
    if out.suffix.lower() == WEIGHTS_SUFFIX:
        write_atomically(out, path.read_bytes())
        return
    files: dict[str, Path | bytes] = {
        name: path.with_name(name) for name in _FILES if path.with_name(name).is_file() and name != path.name
    }
    for name in (store.CONFIG_FILE, store.CHECKS_CONFIG_FILE):
        if name in files:
            files[name] = public_config(path.with_name(name).read_text(encoding="utf-8")).encode()
    pack({store.MODEL_FILE: path, **files}, description.name, out)


def import_model(path: Path, name: str | None = None, *, overwrite: bool = False) -> tuple[Path, Unpacked]:
    """Take a model from a .zip file, a folder or a .safetensors file into the store, after its hashes were verified.

    Returns its file, and which files were left out. Raises StoreError where it cannot be read, or one of this name is
    in the store without `overwrite`, CheckpointError where it is no model, damaged, or of another version.
    """
    single_as = store.MODEL_FILE if path.suffix.lower() == WEIGHTS_SUFFIX else None
    with unpacked(path, store.home() / "models", _FILES.__contains__, single_as=single_as) as found:
        return _install(found, path, name, overwrite=overwrite)


def own_file(name: str) -> Path:
    """The file of a model of the store. Raises StoreError where there is none of this name, or it is a shipped one."""
    path = store.resolve_model(name)
    if path == store.home() / "models" / name / store.MODEL_FILE:
        return path
    if any(model.path == path for model in store.list_models() if model.shipped):
        raise StoreError(f"{name} ships with fundusgrade: it can be neither renamed nor removed; export a copy of it")
    raise StoreError(f"{name} is a file outside of the store; only models of the store have names to change")


def _install(found: Unpacked, path: Path, name: str | None, *, overwrite: bool) -> tuple[Path, Unpacked]:
    weights = found.folder / store.MODEL_FILE
    if not weights.is_file():
        raise StoreError(f"{path} holds no model: expected {store.MODEL_FILE} in it, or a {WEIGHTS_SUFFIX} file")
    description = load_checkpoint(weights).description
    target = store.model_directory(name or store.checked_name(description.name))
    _refuse_shipped_name(target.name)
    write_atomically(weights.with_name(store.MODEL_JSON), description.to_json())
    with file_lock(target):
        store.folder_of_new_model(target.name, overwrite=overwrite)
        _set_name(weights, target.name)
        move_into_store(found.folder, target)
    return target / store.MODEL_FILE, found


def _set_name(path: Path, name: str) -> None:
    """Write a model's name into its description and card."""
    description = read_description(path)
    if description.name != name:
        replace_description(path, replace(description, name=name))
        write_card(path)
    elif not path.with_name(_CARD).is_file():
        write_card(path)


def _refuse_shipped_name(name: str) -> None:
    if any(model.name == name for model in store.list_models() if model.shipped):
        raise StoreError(f"{name} is the name of a model that ships with fundusgrade; give another name with --name")
