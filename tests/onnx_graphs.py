"""Tiny ONNX graphs: a convolution averaged over positions, in the ways that face networks are exported."""

import pathlib
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

WIDTH = 4
KERNEL = np.random.default_rng(3).normal(size=(WIDTH, 3, 3, 3)).astype(np.float32)


def write(
    path: pathlib.Path,
    *,
    shape: tuple[int | str, ...] = ("N", 3, 8, 8),
    dtype: int = TensorProto.FLOAT,
    before: tuple[tuple[str, float], ...] = (),
    after: tuple[tuple[str, float], ...] = (),
    flat: bool = True,
    outputs: int = 1,
    inputs: int = 1,
    declared: tuple[int | str, ...] | None = None,
    fixed_reshape: bool = False,
    metadata: dict[str, str] | None = None,
    opset: int = 17,
    ir_version: int = 8,
) -> pathlib.Path:
    """Writes one graph.

    Args:
      shape: of the input; channels last where the last size is 3.
      before, after: (operator, constant) pairs around the convolution.
      flat: whether the embedding is [n, 4], or [n, 4, 1, 1].
      outputs, inputs: how many of each.
      declared: the output's shape as the graph states it.
      fixed_reshape: ends in a reshape to [1, 4], as graphs exported for one picture have it.
      ir_version: of the file; up to 3, constants are inputs as well.
    """
    constants = [numpy_helper.from_array(KERNEL, "kernel")]
    nodes: list[Any] = []
    last = "input"

    def add(operator: str, *more: str, **attributes: Any) -> None:
        nonlocal last
        name = f"{operator}_{len(nodes)}"
        nodes.append(helper.make_node(operator, [last, *more], [name], f"node{len(nodes)}", **attributes))
        last = name

    def arithmetic(pairs: tuple[tuple[str, float], ...]) -> None:
        for operator, value in pairs:
            name = f"constant{len(constants)}"
            constants.append(numpy_helper.from_array(np.asarray(value, np.float32), name))
            add(operator, name)

    if dtype != TensorProto.FLOAT:
        add("Cast", to=TensorProto.FLOAT)
    if shape[-1] == 3:
        add("Transpose", perm=[0, 3, 1, 2])
    arithmetic(before)
    add("Conv", "kernel")
    arithmetic(after)
    add("GlobalAveragePool")
    if flat:
        add("Flatten")
    if fixed_reshape:
        constants.append(numpy_helper.from_array(np.asarray([1, WIDTH]), "target"))
        add("Reshape", "target")
    sizes = declared or (("N", WIDTH) if flat else ("N", WIDTH, 1, 1))
    results = [helper.make_tensor_value_info(last, TensorProto.FLOAT, sizes)]
    for _ in range(outputs - 1):
        add("Neg")
        results.append(helper.make_tensor_value_info(last, TensorProto.FLOAT, sizes))
    taken = [helper.make_tensor_value_info("input", dtype, shape)]
    for k in range(inputs - 1):
        taken.append(helper.make_tensor_value_info(f"extra{k}", TensorProto.FLOAT, [1, 2]))
    if ir_version <= 3:
        taken += [helper.make_tensor_value_info(one.name, one.data_type, one.dims) for one in constants]
    graph = helper.make_graph(nodes, "tiny", taken, results, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)
    helper.set_model_props(model, metadata or {})
    onnx.save(model, path)
    return path


def expected(pixels: np.ndarray) -> np.ndarray:
    """The embeddings in float64 numpy, of what reaches the convolution, [n, 3, h, w]."""
    windows = np.lib.stride_tricks.sliding_window_view(pixels.astype(float), (3, 3), axis=(2, 3))
    return np.einsum("nchwij,ocij->no", windows, KERNEL.astype(float)) / (windows.shape[2] * windows.shape[3])
