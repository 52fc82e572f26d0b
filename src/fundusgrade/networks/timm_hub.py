"""Networks in the layout of timm's hub: `config.json` and `model.safetensors`, in a folder or in a repository.

A name says where: `local-dir:FOLDER`, or `hf-hub:OWNER/NAME`, with `@REVISION` behind it where it is not the newest.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fundusgrade.errors import WeightsUnavailableError

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
_FOLDER, _REPOSITORY = "local-dir", "hf-hub"
# What the data and the head decide, not the network that training starts from.
_OURS = frozenset({"num_classes", "img_size", "in_chans"})


@dataclass(frozen=True, slots=True, kw_only=True)
class HubNetwork:
    """An architecture of timm, the arguments that it is built with, and the normalization, where one is told."""

    architecture: str
    arguments: Mapping[str, object]
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None


def is_hub_name(arch: str) -> bool:
    """Whether a name of an architecture says where its description is."""
    return arch.partition(":")[0] in (_FOLDER, _REPOSITORY)


def short_name(arch: str) -> str:
    """The last part of a name; the whole of one that says no place."""
    kind, _, place = arch.partition(":")
    if not is_hub_name(arch):
        return arch
    return (Path(place).resolve().name if kind == _FOLDER else place.rpartition("/")[2]) or kind


def public_name(arch: str) -> str:
    """A name as it is written down: of a folder's path its last part only."""
    return f"{_FOLDER}:{short_name(arch)}" if arch.startswith(f"{_FOLDER}:") else arch


def read_hub_network(arch: str) -> HubNetwork:
    """What `config.json` says of the network that `arch` names.

    Raises WeightsUnavailableError where it cannot be had, or describes a network that numbers and words cannot.
    """
    path = hub_file(arch, CONFIG_FILE)
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        told = config.get("pretrained_cfg", config)
        found = HubNetwork(
            architecture=str(config["architecture"]),
            arguments={key: value for key, value in dict(config.get("model_args") or {}).items() if key not in _OURS},
            mean=_numbers(told.get("mean")),
            std=_numbers(told.get("std")),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsUnavailableError(
            f"--arch {arch}: {path} does not describe a network of timm ({error!r}); expected the {CONFIG_FILE} that "
            "`fundusgrade export --format hub` or timm's own export writes"
        ) from error
    odd = [name for name, value in found.arguments.items() if not _is_plain(value)]
    if odd:
        raise WeightsUnavailableError(
            f"--arch {arch}: its argument {odd[0]!r} is {found.arguments[odd[0]]!r}, and a model file can only record "
            "numbers, words and lists of them; name timm's architecture itself, and its weights with --init-weights"
        )
    return found


def hub_file(arch: str, name: str) -> Path:
    """A file of the folder, or of the repository, downloaded once. Raises WeightsUnavailableError without it."""
    kind, _, place = arch.partition(":")
    if kind == _FOLDER:
        path = Path(place).expanduser() / name
        if not path.is_file():
            raise WeightsUnavailableError(
                f"--arch {arch}: no file {path}; expected a folder with {CONFIG_FILE} and {WEIGHTS_FILE}, as "
                "`fundusgrade export --format hub` writes it"
            )
        return path
    from huggingface_hub import hf_hub_download  # timm's own client, which brings what it needs

    repository, _, revision = place.partition("@")
    try:
        return Path(hf_hub_download(repository, name, revision=revision or None))
    except Exception as error:  # the client raises its own, its transport's and the operating system's errors
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsUnavailableError(
            f"--arch {arch}: {name} cannot be downloaded ({reason}); download the repository on a machine that reaches "
            "the hub, and name its folder by --arch local-dir:FOLDER"
        ) from error


def _is_plain(value: object) -> bool:
    if isinstance(value, list):
        return all(_is_plain(each) for each in value)
    return value is None or isinstance(value, str | int | float)


def _numbers(values: object) -> tuple[float, ...] | None:
    if values is None:
        return None
    if not isinstance(values, list) or len(values) != 3:
        raise ValueError(f"{values!r} are not three numbers")
    return tuple(float(value) for value in values)
