"""Who computes the heat maps of a grader: a graph of the runtime that grades, or PyTorch."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from fundusgrade.errors import FundusgradeError
from fundusgrade.explanation.graph_gradients import GraphGradients
from fundusgrade.explanation.heat_map import ExplainOptions
from fundusgrade.grading.grader import Grader
from fundusgrade.networks.graph_store import ConvertedGraph, GraphRequest, converted_graph
from fundusgrade.networks.runtime import OPENVINO
from fundusgrade.options import ExportFormat, Precision
from fundusgrade.terminal import message

if TYPE_CHECKING:
    from fundusgrade.networks.network import GradingNetwork


class GradientGraph:
    """The kind of graph that `GraphGradients` runs."""

    identity: Mapping[str, object] = {"computes": "gradients of scores", "version": 1}
    purpose = "explaining"

    def convert(self, network: GradingNetwork, format: ExportFormat) -> tuple[bytes, ...]:
        """As `gradient_tracing.gradient_files`."""
        from fundusgrade.explanation.gradient_tracing import gradient_files

        return gradient_files(network)

    def check(self, network: GradingNetwork, converted: ConvertedGraph) -> Mapping[str, float]:
        """As `gradient_tracing.check_gradients`."""
        from fundusgrade.explanation.gradient_tracing import check_gradients

        return check_gradients(network, converted)


# Found once for each grader, by one thread.
_GRAPHS: WeakKeyDictionary[Grader, GraphGradients | None] = WeakKeyDictionary()
_LOCK = threading.Lock()


def graph_for(grader: Grader, methods: Sequence[ExplainOptions]) -> GraphGradients | None:
    """The graph that computes all these methods; None where PyTorch has to.

    It is there where OpenVINO grades. The network is converted once; where it cannot be, that is said.
    """
    checkpoint = grader.model.checkpoint
    if not grader.arithmetic.runtime.startswith(OPENVINO) or checkpoint is None:
        return None
    with _LOCK:
        if grader not in _GRAPHS:
            _GRAPHS[grader] = _load_graph(grader, checkpoint)
        graph = _GRAPHS[grader]
    return graph if graph is not None and all(map(graph.fits, methods)) else None


def obstacle(grader: Grader, method: ExplainOptions) -> str | None:
    """Why a method cannot explain a model; None where it can. Raises ExplanationError for an exported graph."""
    if graph_for(grader, [method]) is not None:
        return None
    from fundusgrade.explanation.torch_gradients import find_obstacle

    return find_obstacle(grader.pytorch.network, method)


def for_own_thread(grader: Grader, methods: Sequence[ExplainOptions]) -> Grader:
    """A grader that explains while another thread does so with this one: PyTorch's networks are copied for that."""
    return grader if graph_for(grader, methods) is not None else grader.with_own_network()


def _load_graph(grader: Grader, checkpoint: Path) -> GraphGradients | None:
    """The graph in the number format in which the grader grades or, where that moves maps too far, in float32."""
    reasons = []
    for number_format in dict.fromkeys((grader.arithmetic.number_format, Precision.FLOAT32.value)):
        request = GraphRequest(
            checkpoint=checkpoint,
            format=ExportFormat.OPENVINO,
            number_format=number_format,
            reason=grader.arithmetic.reason,
            keeps_in_memory=True,
        )
        try:
            graph = converted_graph(request, grader.description, GradientGraph())
        except FundusgradeError as error:
            reasons.append(str(error))
        else:
            return GraphGradients(grader.model.runtime, graph, grader.description.network)
    message(f"PyTorch computes the heat maps of {grader.name}: {reasons[-1]}")
    return None
