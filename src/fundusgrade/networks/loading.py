"""A model file, a checkpoint or an exported graph -> a model ready to use: the one way in."""

from __future__ import annotations

from pathlib import Path

from fundusgrade.networks.checkpoint import Checkpoint, load_checkpoint
from fundusgrade.networks.graph_files import graph_format, open_graph, read_graph
from fundusgrade.options import Precision


def load_model(path: Path, precision: Precision = Precision.AUTO) -> Checkpoint:
    """Read and verify a model: a checkpoint, or an exported graph, by its suffix.

    `precision` matters to graphs only, see `open_graph`. Raises CheckpointError where the file is no model, a file
    beside it is missing, one is damaged, or a package or another version is needed.
    """
    format = graph_format(path)
    return load_checkpoint(path) if format is None else open_graph(read_graph(path, format), str(path), precision)
