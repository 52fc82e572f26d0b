"""The folder of a model: its file, with the model card beside it."""

from __future__ import annotations

from pathlib import Path

from fundusgrade import store
from fundusgrade.data.leakage import TrainingFingerprints
from fundusgrade.files import make_folder, write_atomically
from fundusgrade.networks.checkpoint import Checkpoint, save_checkpoint
from fundusgrade.networks.checkpoint_file import read_description
from fundusgrade.networks.description import CheckpointDescription
from fundusgrade.networks.model_card import model_card


def save_derived_model(
    folder: Path, parent: Checkpoint, description: CheckpointDescription, fingerprints: TrainingFingerprints
) -> Path:
    """Write the network and checks of a model with another description and other fingerprints; the file's path.

    Raises StoreError where the files cannot be written.
    """
    make_folder(folder)
    path = folder / store.MODEL_FILE
    save_checkpoint(path, parent.network, description, fingerprints=fingerprints, checks=parent.checks)
    write_card(path)
    return path


def write_card(path: Path) -> None:
    """Write the card of a model file beside it, with the hash of its weights as they are stored."""
    write_atomically(path.with_name("README.md"), model_card(read_description(path)))
