"""Collects the nodes and initializers of one ONNX graph."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from enginewright_onnx.external_data import ExternalData

__all__ = ["IR_VERSION", "MICROSOFT", "OPSET", "GraphBuilder"]

MICROSOFT = "com.microsoft"
OPSET = 21
# The IR version of opset 21's release, so that an older reader is not refused without need.
IR_VERSION = 10
_INLINE_BYTES = 1024


class GraphBuilder:
    """A graph under construction. Names are given by the caller; a node is named after its first output."""

    def __init__(self, data: ExternalData) -> None:
        self._data = data
        self._nodes: list[NodeProto] = []
        self._initializers: list[TensorProto] = []

    def node(
        self,
        operator: str,
        inputs: Sequence[str],
        outputs: str | Sequence[str],
        *,
        domain: str = "",
        **attributes: Any,
    ) -> str:
        """Append a node; returns the name of its first output."""
        names = [outputs] if isinstance(outputs, str) else list(outputs)
        self._nodes.append(
            helper.make_node(operator, list(inputs), names, name=f"/{names[0]}", domain=domain, **attributes)
        )
        return names[0]

    def constant(self, name: str, value: npt.NDArray[Any]) -> str:
        """Add an initializer that is held in memory: inside the graph when small, else external."""
        if value.nbytes <= _INLINE_BYTES:
            self._initializers.append(numpy_helper.from_array(value, name))
            return name
        return self.stream(name, value.dtype, value.shape, (value,))

    def stream(
        self, name: str, dtype: np.dtype[Any], shape: tuple[int, ...], chunks: Iterable[npt.NDArray[Any]]
    ) -> str:
        """Add an external initializer that arrives in chunks; returns its name."""
        self._initializers.append(self._data.write(name, dtype, shape, chunks))
        return name

    def model(
        self, name: str, inputs: Sequence[ValueInfoProto], outputs: Sequence[ValueInfoProto]
    ) -> ModelProto:
        graph = helper.make_graph(self._nodes, name, inputs, outputs, self._initializers)
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)]
        return helper.make_model(
            graph,
            opset_imports=opsets,
            ir_version=IR_VERSION,
            producer_name="enginewright",
            producer_version="1",
        )
