"""Networks in the layout of timm's hub: `config.json` and `model.safetensors`, in a folder or in a repository.

Named `local-dir:FOLDER` or `hf-hub:OWNER/NAME`, with `@REVISION` appended for another revision than the newest.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from fundusgrade.errors import WeightsUnavailableError
from fundusgrade.terminal import message

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
NO_ANSWER = "the model hub does not answer; trying again for up to a minute"
"""Printed once where the client of the hub tries a download again."""
_FOLDER, _REPOSITORY = "local-dir", "hf-hub"
# Arguments that data and head determine, not the pretrained network.
_DETERMINED = frozenset({"num_classes", "img_size", "in_chans"})


@dataclass(frozen=True, slots=True, kw_only=True)
class HubNetwork:
    """An architecture of timm, its arguments, and the normalization of its color channels, None where not given."""

    architecture: str
    arguments: Mapping[str, object]
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None


def is_hub_name(arch: str) -> bool:
    """Whether the name of an architecture is that of a folder or repository."""
    return arch.partition(":")[0] in (_FOLDER, _REPOSITORY)


def short_name(arch: str) -> str:
    """The last part of the path of a folder or repository; any other name unchanged."""
    kind, _, location = arch.partition(":")
    if not is_hub_name(arch):
        return arch
    return (Path(location).resolve().name if kind == _FOLDER else location.rpartition("/")[2]) or kind


def public_name(arch: str) -> str:
    """A name as it is recorded in models: of a folder's path only its last part."""
    return f"{_FOLDER}:{short_name(arch)}" if arch.startswith(f"{_FOLDER}:") else arch


def read_hub_network(arch: str) -> HubNetwork:
    """Read `config.json` of the network that `arch` names.

    Raises WeightsUnavailableError where it cannot be read, or has an argument other than numbers, strings and lists.
    """
    path = hub_file(arch, CONFIG_FILE)
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        pretrained = config.get("pretrained_cfg", config)
        network = HubNetwork(
            architecture=str(config["architecture"]),
            arguments={
                key: value for key, value in dict(config.get("model_args") or {}).items() if key not in _DETERMINED
            },
            mean=_three_numbers(pretrained.get("mean")),
            std=_three_numbers(pretrained.get("std")),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsUnavailableError(
            f"--arch {arch}: {path} does not describe a network of timm ({error!r}); expected the {CONFIG_FILE} that "
            "`fundusgrade export --format hub` or timm's own export writes"
        ) from error
    unsupported = [name for name, value in network.arguments.items() if not _is_plain(value)]
    if unsupported:
        raise WeightsUnavailableError(
            f"--arch {arch}: its argument {unsupported[0]!r} is {network.arguments[unsupported[0]]!r}, and model files "
            "record only numbers, strings and lists; name timm's architecture itself, and its weights with "
            "--init-weights"
        )
    return network


def hub_file(arch: str, name: str) -> Path:
    """The path of a file of the folder, or of the repository, from which it is downloaded once.

    Raises WeightsUnavailableError where there is none, or the hub cannot be reached.
    """
    kind, _, location = arch.partition(":")
    if kind == _FOLDER:
        path = Path(location).expanduser() / name
        if not path.is_file():
            raise WeightsUnavailableError(
                f"--arch {arch}: no file {path}; expected a folder with {CONFIG_FILE} and {WEIGHTS_FILE}, as "
                "`fundusgrade export --format hub` writes it"
            )
        return path
    from huggingface_hub import hf_hub_download  # slow to import

    repository, _, revision = location.partition("@")
    try:
        with silenced_libraries(NO_ANSWER):
            return Path(hf_hub_download(repository, name, revision=revision or None))
    except Exception as error:  # the client raises its own, its transport's and the operating system's errors
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsUnavailableError(
            f"--arch {arch}: {name} cannot be downloaded ({reason}); download the repository on a machine that reaches "
            "the hub, and name its folder by --arch local-dir:FOLDER"
        ) from error


@contextlib.contextmanager
def silenced_libraries(retrying: str | None = None) -> Iterator[None]:
    """A block in which timm and the hub's client log nothing: their errors say what matters.

    Where the client tries a download again, `retrying` is printed, once.
    """

    class Once(logging.Handler):
        is_said = False

        def emit(self, record: logging.LogRecord) -> None:
            if retrying is not None and not self.is_said and "retry" in record.getMessage().lower():
                self.is_said = True
                message(retrying)

    handler = Once()
    loggers = [logging.getLogger(name) for name in ("timm", "huggingface_hub")]
    before = [(logger, logger.handlers, logger.propagate) for logger in loggers]
    try:
        for logger in loggers:
            logger.handlers, logger.propagate = [handler], False
        yield
    finally:
        for logger, handlers, propagate in before:
            logger.handlers, logger.propagate = handlers, propagate


def _is_plain(value: object) -> bool:
    if isinstance(value, list):
        return all(_is_plain(each) for each in value)
    return value is None or isinstance(value, str | int | float)


def _three_numbers(values: object) -> tuple[float, ...] | None:
    if values is None:
        return None
    if not isinstance(values, list) or len(values) != 3:
        raise ValueError(f"{values!r} are not three numbers")
    return tuple(float(value) for value in values)
