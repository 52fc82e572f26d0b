"""Files with weights to start from: read, freed of prefixes, and compared with the network that they shall fit."""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from fundusgrade.errors import WeightsUnavailableError
from fundusgrade.text import error_text

KNOWN_PREFIXES = ("model.", "backbone.", "state_dict.", "module.", "encoder.", "_orig_mod.", "network.", "net.")
"""Prefixes that training programs put before a network's names; others are recognized by what follows them."""

_PICKLE_SUFFIXES = (".pth", ".pt", ".bin", ".ckpt", ".pkl", ".pickle", ".tar", ".pth.tar")
_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"
# A prefix is recognized where this part of the file's names, or of the network's, follow it.
_RECOGNIZED_FRACTION = 0.5
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightFile:
    """The tensors of a file under the network's own names, and lines on what was done with its names."""

    tensors: dict[str, Tensor]
    notes: tuple[str, ...] = ()


def read_weight_file(path: Path, names: Collection[str], *, option: str, network: str) -> WeightFile:
    """Read a safetensors file for a network with these names of tensors.

    `option` and `network` are named in errors. Raises WeightsUnavailableError for a file that cannot be read, is not
    safetensors, or holds two networks.
    """
    if not path.is_file():
        what = f"{path} is a folder; name the file in it" if path.is_dir() else f"no file {path}"
        raise WeightsUnavailableError(f"{option}: {what}; expected a safetensors file for {network}")
    _refuse_other_formats(path, option)
    try:
        tensors = safetensors.torch.load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsUnavailableError(
            f"{option}: {path} is not a whole safetensors file ({error_text(error)}); copy or download it again"
        ) from error
    prefix = _find_prefix(tensors, names, option, path)
    if not prefix:
        return WeightFile(tensors=tensors)
    kept = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    others = [name for name in tensors if not name.startswith(prefix)]
    left_out = f"; left out are {_count(others)} without it, such as {others[0]}" if others else ""
    return WeightFile(tensors=kept, notes=(f"{option}: names in {path.name} are used without {prefix!r}{left_out}",))


def check_loaded(
    network: nn.Module, loaded: Mapping[str, Tensor], heads: Collection[str], *, option: str, path: Path, arch: str
) -> tuple[str, ...]:
    """Lines on the tensors of a file that a network does not use.

    `loaded` are the file's tensors as timm converted them for the network. All tensors of the network but those of its
    `heads` must be among them, buffers too, in the same shapes. Raises WeightsUnavailableError where one is not, and
    where the file has layers that the network lacks, so that it is of a larger one.
    """
    expected = {name: tensor for name, tensor in network.state_dict().items() if not _is_in(name, heads)}
    # Integers are indices that a network computes itself.
    missing = [name for name, tensor in expected.items() if name not in loaded and tensor.is_floating_point()]
    different = [
        f"{name} is {_shape(loaded[name])}, expected {_shape(tensor)}"
        for name, tensor in expected.items()
        if name in loaded and loaded[name].shape != tensor.shape
    ]
    not_finite = [name for name in expected if name in loaded and not torch.isfinite(loaded[name]).all()]
    unused = [name for name in loaded if name not in expected and not _is_in(name, heads)]
    known = {_NUMBER.sub("#", name) for name in expected}
    more_layers = [name for name in unused if _NUMBER.sub("#", name) in known and _NUMBER.search(name)]
    for names, what in (
        (missing, f"it lacks {_count(missing)} of {len(expected)}, such as"),
        (different, f"the shape differs in {_count(different)}:"),
        (not_finite, f"values are not finite in {_count(not_finite)}, such as"),
        (more_layers, f"it has {_count(more_layers)} of layers that this network does not have, such as"),
    ):
        if names:
            raise WeightsUnavailableError(
                f"{option}: {path} does not fit {arch}: {what} {names[0]}; expected a safetensors file of this "
                "architecture, with timm's names"
            )
    if not unused:
        return ()
    return (f"{option}: not used of {path.name}: {_count(unused)}, such as {unused[0]}",)


@contextlib.contextmanager
def recorded_loading() -> Iterator[list[tuple[nn.Module, dict[str, Tensor]]]]:
    """The networks and tensors that are given to `load_state_dict` within the block, the whole network last.

    timm converts the names and shapes of a file before it loads them, and reports neither what it converted nor what
    the file lacks.
    """
    calls: list[tuple[nn.Module, dict[str, Tensor]]] = []
    original = nn.Module.load_state_dict

    def load_state_dict(self: nn.Module, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        calls.append((self, dict(state_dict)))
        return original(self, state_dict, *args, **kwargs)

    nn.Module.load_state_dict = load_state_dict  # type: ignore[method-assign]
    try:
        yield calls
    finally:
        nn.Module.load_state_dict = original  # type: ignore[method-assign]


def _refuse_other_formats(path: Path, option: str) -> None:
    """Raises WeightsUnavailableError, with what to do, for pickled weights and others that are not safetensors."""
    with path.open("rb") as file:
        start = file.read(64)
    if start.startswith(b"version https://git-lfs"):
        raise WeightsUnavailableError(
            f"{option}: {path} is a pointer of Git LFS, not the weights; run `git lfs pull` where it comes from"
        )
    if path.suffix.lower() in (".npz", ".npy", ".h5", ".onnx", ".xml", ".tflite"):
        raise WeightsUnavailableError(
            f"{option}: {path} holds no weights of PyTorch; expected a safetensors file with timm's names"
        )
    is_pickled = start.startswith((_ZIP, _PICKLE)) or path.suffix.lower() in _PICKLE_SUFFIXES
    if is_pickled and not _starts_like_safetensors(start):
        raise WeightsUnavailableError(
            f"{option}: {path} is not safetensors; pickled weights are never loaded, because reading them can run any "
            f"program. If you trust the file, convert it in Python:\n{conversion(path)}"
        )


def conversion(path: Path) -> str:
    """Two lines of Python that write pickled weights as safetensors beside them."""
    target = path.with_suffix(".safetensors") if path.suffix != ".safetensors" else path.with_suffix(".1.safetensors")
    # PyTorch reads a file by its suffix where that is safetensors.
    file = f"open({str(path)!r}, 'rb')" if path.suffix == ".safetensors" else repr(str(path))
    return (
        f"import torch, safetensors.torch; w = torch.load({file}, 'cpu', weights_only=True); "
        "w = w.get('state_dict', w.get('model', w))\n"
        "safetensors.torch.save_file({n: t.clone().contiguous() for n, t in w.items() if torch.is_tensor(t)}, "
        f"{str(target)!r})"
    )


def _starts_like_safetensors(start: bytes) -> bool:
    """Whether a file begins with the length of a JSON header, and the header."""
    return start[8:9] == b"{" and not start.startswith((_ZIP, _PICKLE))


def _find_prefix(tensors: Collection[str], names: Collection[str], option: str, path: Path) -> str:
    """What stands before the network's names in a file; "" where nothing does.

    Where too few names are found after any prefix, the file has names that timm converts, perhaps after known ones.
    """
    found = Counter(name[:start] for name in tensors for start in _starts(name) if name[start:] in names)
    best = max(found.values(), default=0)
    if best > _RECOGNIZED_FRACTION * min(len(names), len(tensors)):
        prefixes = [prefix for prefix, count in found.items() if count == best]
        if len(prefixes) > 1:
            raise WeightsUnavailableError(
                f"{option}: {path} holds {len(prefixes)} networks of this architecture, whose names begin with "
                f"{', '.join(map(repr, prefixes))}; write a file with one of them only"
            )
        return prefixes[0]
    prefix = ""
    while shared := [
        known for known in KNOWN_PREFIXES if tensors and all(name.startswith(prefix + known) for name in tensors)
    ]:
        prefix += shared[0]
    return prefix


def _starts(name: str) -> Iterator[int]:
    """Where in a dotted name its parts begin."""
    yield 0
    yield from (dot.end() for dot in re.finditer(r"\.", name))


def _is_in(name: str, modules: Collection[str]) -> bool:
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def _count(names: Collection[str]) -> str:
    return f"{len(names)} tensor{'' if len(names) == 1 else 's'}"


def _shape(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "a number"
