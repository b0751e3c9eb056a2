"""An ONNX file's first nodes, read from its bytes: onnxruntime does not tell, and so `onnx` need not be installed."""

import mmap
import pathlib
from collections.abc import Iterator

# Field numbers of onnx.proto: ModelProto.graph, GraphProto.node, NodeProto.op_type.
GRAPH, NODE, OP_TYPE = 7, 1, 4
LENGTH_DELIMITED = 2
FIXED = {1: 8, 5: 4}  # wire types of fixed width


def first_operators(path: pathlib.Path, count: int) -> list[str]:
    """The operator types of the first nodes, in the file's order; [] where the file is no ONNX protobuf."""
    operators: list[str] = []
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            for graph in _fields(data, 0, len(data), GRAPH):
                for node in _fields(data, *graph, NODE):
                    operators += [data[start:end].decode() for start, end in _fields(data, *node, OP_TYPE)]
                    if len(operators) >= count:
                        return operators
    except (ValueError, IndexError, OSError):
        return []
    return operators


def normalises_itself(path: pathlib.Path) -> bool:
    """Whether a graph subtracts and scales before it first convolves or multiplies matrices, as MXNet's exports do.

    insightface looks for nodes named Sub and Mul among the first eight. Here it is their types, and only up to the
    first layer with weights, so that an activation written as Sub and Mul does not count.
    """
    before: set[str] = set()
    for operator in first_operators(path, 8):
        if operator in ("Conv", "Gemm", "MatMul"):
            break
        before.add(operator)
    return "Sub" in before and bool(before & {"Mul", "Div"})


def _fields(data: mmap.mmap, start: int, end: int, number: int) -> Iterator[tuple[int, int]]:
    """Where the contents of one message's length-delimited fields of a number begin and end."""
    while start < end:
        tag, start = _varint(data, start)
        wire = tag & 7
        if wire == LENGTH_DELIMITED:
            length, start = _varint(data, start)
            if start + length > end:
                raise ValueError("a field is longer than its message")
            if tag >> 3 == number:
                yield start, start + length
            start += length
        elif wire == 0:
            _, start = _varint(data, start)
        elif wire in FIXED:
            start += FIXED[wire]
        else:
            raise ValueError(f"wire type {wire} is not used by ONNX")


def _varint(data: mmap.mmap, start: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[start]
        start += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, start
        shift += 7
        if shift > 63:
            raise ValueError("a number is longer than 64 bits")
