"""Nodes that compute a map in an ONNX graph, in the operators of the graph's opset."""

from typing import TYPE_CHECKING, Any

import numpy as np

from jaxalign.gallery.export import Exported
from jaxalign.gallery.onnx_parts import messages

if TYPE_CHECKING:
    from onnx import GraphProto

AXES_ARE_INPUTS, K_IS_AN_INPUT = 18, 10  # opsets from which ReduceL2 and ReduceMean, and TopK, take them so
SHORTEST = 1e-20  # added to a row's length, so that zeros stay zeros; without effect on lengths above 1e-12


class Nodes:
    """Adds nodes to a graph for operators as one opset has them; constants are nodes, as every IR version allows."""

    def __init__(self, graph: "GraphProto", opset: int) -> None:
        taken = [name for part in messages(graph) for name in _names(part)]
        self._prefix = "jaxalign"
        while any(name.startswith(self._prefix) for name in taken):
            self._prefix += "_"
        self._graph, self.opset = graph, opset

    def name(self) -> str:
        """A name that nothing in the graph has."""
        return f"{self._prefix}/{len(self._graph.node)}"

    def add(self, operator: str, *inputs: str, outputs: int = 1, **attributes: Any) -> str:
        """Adds a node; the name of its first output."""
        from onnx import helper

        name = self.name()
        names = [name, *(f"{name}/{k}" for k in range(1, outputs))]
        self._graph.node.append(helper.make_node(operator, inputs, names, name, **attributes))
        return name

    def constant(self, values: Any) -> str:
        """Adds a constant."""
        from onnx import numpy_helper

        return self.add("Constant", value=numpy_helper.from_array(np.ascontiguousarray(values), self.name()))

    def over_columns(self, operator: str, rows: str) -> str:
        """Reduces each row to one number, shape [N, 1]."""
        if self.opset >= AXES_ARE_INPUTS:
            return self.add(operator, rows, self.constant(np.array([1])), keepdims=1)
        return self.add(operator, rows, axes=[1], keepdims=1)

    def unit(self, rows: str) -> str:
        """Scales rows to length 1."""
        length = self.add(
            "Add", self.over_columns("ReduceL2", rows), self.constant(np.full((1, 1), SHORTEST, np.float32))
        )
        return self.add("Div", rows, length)

    def mapped(self, rows: str, exported: Exported) -> str:
        """What ``exported`` makes of float32 rows."""
        center, factors, bias = exported.arrays(np.float32)
        if exported.normalize == "l2":
            rows = self.unit(rows)
        if center is not None:  # not folded into the bias, or float32 would lose digits
            rows = self.add("Sub", rows, self.constant(center))
        for factor in factors:
            rows = self.add("MatMul", rows, self.constant(factor))
        rows = self.add("Add", rows, self.constant(bias))
        if exported.cohort is not None:
            return self._with_cohort(self.unit(rows), exported)
        return self.unit(rows) if exported.normalize_output else rows

    def _with_cohort(self, unit: str, exported: Exported) -> str:
        """Unit rows with the cohort's two columns behind."""
        cohort = exported.cohort
        assert cohort is not None
        cosines = self.add("MatMul", unit, self.constant(np.float32(cohort.people).T))
        if self.opset >= K_IS_AN_INPUT:
            nearest = self.add("TopK", cosines, self.constant(np.array([cohort.top])), outputs=2)
        else:
            nearest = self.add("TopK", cosines, k=int(cohort.top), outputs=2)
        r = self.over_columns("ReduceMean", nearest)
        own, other = np.array([[[-0.5, 0]], [[0, 1]]], np.float32)
        if not cohort.of_source:
            own, other = own[:, ::-1], other[:, ::-1]
        columns = self.add("Add", self.add("Mul", r, self.constant(own)), self.constant(other))
        return self.add("Concat", unit, columns, axis=1)


def _names(message: Any) -> list[str]:
    """Names that a part of a graph has or uses."""
    found = [message.name] if isinstance(getattr(message, "name", None), str) else []
    return (
        [*found, *getattr(message, "input", ()), *getattr(message, "output", ())]
        if hasattr(message, "op_type")
        else found
    )
