"""What exported maps must give, in float64 numpy, and what exported ONNX files do give."""

import pathlib

import numpy as np
import onnx
import onnx_graphs
import onnxruntime
from onnx import TensorProto, helper, numpy_helper


def unit(rows):
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(length == 0, 1, length)


def mapped(rows, map_, normalize="l2"):
    """The map in float64 numpy."""
    rows = unit(rows.astype(np.float64)) if normalize == "l2" else rows.astype(np.float64)
    rows = rows - (0 if map_.center is None else map_.center)
    for factor in map_.factors:
        rows = rows @ factor
    return rows + map_.bias


def run(path: pathlib.Path, given: np.ndarray, output: str | None = None) -> np.ndarray:
    """The output that a file gives, once it passes onnx's check."""
    onnx.checker.check_model(str(path))
    rows = np.asarray(given, np.float32)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = output or session.get_outputs()[0].name
    return np.asarray(session.run([name], {session.get_inputs()[0].name: rows})[0])


def declared(path: pathlib.Path, name: str) -> tuple[int, list[int | str]]:
    """Format and shape of an output as a file states them."""
    (entry,) = [one for one in onnx.load(path).graph.output if one.name == name]
    sizes = entry.type.tensor_type.shape.dim
    return entry.type.tensor_type.elem_type, [size.dim_value or size.dim_param for size in sizes]


def small(path, nodes, outputs, constants=(), taken=("N", onnx_graphs.WIDTH)):
    """Writes a graph of these nodes whose input is named x; outputs are (name, format, shape)."""
    given = [helper.make_tensor_value_info("x", TensorProto.FLOAT, taken)]
    results = [helper.make_tensor_value_info(*output) for output in outputs]
    initial = [numpy_helper.from_array(values, name) for name, values in constants]
    graph = helper.make_graph(nodes, "small", given, results, initial)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path
