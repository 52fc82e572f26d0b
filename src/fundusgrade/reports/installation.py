"""This installation in words: versions, device, memory, store and optional packages."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch

from fundusgrade import __version__, store
from fundusgrade.networks.device import DeviceChoice
from fundusgrade.networks.processor import allowed_cores

EXTRAS: Mapping[str, tuple[str, ...]] = {
    "dicom": ("pydicom",),
    "heic": ("pillow-heif",),
    "pandas": ("pandas",),
    "parquet": ("pyarrow",),
    "tensorboard": ("tensorboard",),
    "onnx": ("onnx", "onnxruntime", "onnxscript"),
    "openvino": ("openvino",),
    "ray": ("ray",),
    "s3": ("s3fs",),
}
"""The packages that an extra installs, as pyproject.toml lists them."""
_LIBRARIES = ("torch", "torchvision", "timm", "opencv-python-headless", "numpy", "scikit-learn", "pillow", "grad-cam")


def installation_details(choice: DeviceChoice) -> dict[str, str]:
    """Names and values in words."""
    return {
        "fundusgrade": f"{__version__}, {Path(store.__file__).parent}",
        "Python": f"{platform.python_version()}, {platform.platform()}",
        "libraries": ", ".join(f"{name} {_version(name) or 'missing'}" for name in _LIBRARIES),
        "device": choice.describe(),
        "GPUs": _gpus(),
        "cores": f"{allowed_cores()} of {os.cpu_count()}",
        "memory": _memory(),
        "store": _store(),
        "extras": ", ".join(_extra(name) for name in EXTRAS),
    }


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _extra(name: str) -> str:
    versions = [_version(package) for package in EXTRAS[name]]
    if None in versions:
        return f"{name} not installed (pip install 'fundusgrade[{name}]')"
    return f"{name} {versions[0]}"


def _gpus() -> str:
    if torch.cuda.is_available():
        found = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
        return ", ".join(f"{each.name} ({each.total_memory / 1e9:.0f} GB)" for each in found)
    return "Apple GPU" if torch.backends.mps.is_available() else "none that PyTorch can use"


def _memory() -> str:
    """Main memory in all, and what is free where the system says it."""
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")  # not on Windows
    except (AttributeError, OSError, ValueError):
        return "not known on this system"
    free = _available_bytes()
    return f"{total / 1e9:.0f} GB" + (f", {free / 1e9:.0f} GB available" if free is not None else "")


def _available_bytes() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except (OSError, ValueError):
        return None
    values = {name: value.split() for name, _, value in (line.partition(":") for line in lines)}
    available = values.get("MemAvailable")
    return 1024 * int(available[0]) if available else None


def _store() -> str:
    """Where the store is, what it holds, whether it can be written to, and the space that is left."""
    home = store.home()
    above = next((folder for folder in (home, *home.parents) if folder.is_dir()), Path("/"))
    num_own = sum(not model.shipped for model in store.list_models())
    runs = [path.name for path in (home / "runs").glob("*") if path.is_dir()]
    held = f"{num_own} models, {len(store.dataset_names())} data sets"
    unfinished = f", {len(runs)} unfinished trainings ({', '.join(runs)})" if runs else ""
    access = "" if os.access(above, os.W_OK) else ", NOT WRITABLE"
    return f"{home}{access}: {held}{unfinished}; {shutil.disk_usage(above).free / 1e9:.0f} GB of disk free"
