"""Maps as ONNX: alone, or fused into the file of the network whose rows they take.

Who runs ONNX networks then changes one file: the fused network takes the pictures that it took before, and its output,
under the same name, lies in the space that the map leads to.
"""

import os
import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from jaxalign.align.affine import AffineMap
from jaxalign.core.errors import UserError, extra
from jaxalign.core.files import first_line, regular_file, require_memory
from jaxalign.gallery.export import Exported, require_free
from jaxalign.gallery.onnx_nodes import Nodes
from jaxalign.gallery.onnx_parts import LARGEST_FILE, is_text, messages, side_file, write
from jaxalign.version import __version__

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, ValueInfoProto

INPUT, OUTPUT = "rows", "embedding"  # of a map alone
OPSET, IR_VERSION = 13, 7  # of a map alone: runtimes of 2021 read them
OLDEST_OPSET = 7  # the first in which operators broadcast as NumPy does
SMALL_TENSOR = 1024  # bytes; larger constants are weights, which say nothing of shapes
KEY = "jaxalign."  # begins the keys of our metadata
FLOATS = ("FLOAT", "FLOAT16", "BFLOAT16", "DOUBLE")


class Fused(NamedTuple):
    """What ``fuse`` wrote.

    Attributes:
      files: the network's file, and that of its weights where they lie apart.
      output: name of the output that was mapped.
      opset: of the network.
      shape: of the output before, None or a name where a size is open.
      dtype: of the output before, as ONNX calls it; it is FLOAT now.
    """

    files: list[pathlib.Path]
    output: str
    opset: int
    shape: list[int | str | None]
    dtype: str


def write_map_alone(exported: Exported, out: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """Writes a map as an ONNX file: input ``rows`` [N, d_in], output ``embedding`` [N, d_out], both float32.

    Args:
      exported: what the graph computes.
      out: file to write; it is there whole or not at all.
      overwrite: replace a file that is there.

    Raises:
      UserError: onnx is not installed, the map does not fit float32, or ``out`` exists or cannot be written.
    """
    with extra("onnx"):
        import onnx
        from onnx import helper

    out = pathlib.Path(out).expanduser()
    require_free(out, overwrite)
    taken = helper.make_tensor_value_info(INPUT, onnx.TensorProto.FLOAT, ["N", exported.map.in_dim])
    given = helper.make_tensor_value_info(OUTPUT, onnx.TensorProto.FLOAT, ["N", exported.out_dim])
    graph = helper.make_graph([], "jaxalign", [taken], [given])
    last = Nodes(graph, OPSET).mapped(INPUT, exported)
    graph.node[-1].output[0] = OUTPUT
    assert last == graph.node[-1].name
    opsets = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(graph, producer_name="jaxalign", opset_imports=opsets, ir_version=IR_VERSION)
    _note(model, exported)
    write(model, out, "the map", [], out.parent)


def fuse(
    network: str | os.PathLike[str],
    exported: Exported,
    out: str | os.PathLike[str],
    *,
    output: str | None = None,
    overwrite: bool = False,
) -> Fused:
    """Writes a network's ONNX file anew, with a map behind the output that the map takes.

    Opset, IR version, metadata, inputs and other outputs stay. The output keeps its name and is float32 of shape
    [N, exported.out_dim]; float16, bfloat16 and float64 rows are cast, and [N, d, 1, 1] is flattened. Weights in files
    of their own are copied to one file, ``<out>.data``, without being held in memory; it must stay beside ``out``.

    Args:
      network: ONNX file whose rows the map takes.
      exported: what to compute of these rows.
      out: file to write; it is there whole or not at all.
      output: name of the output to map; needed where the network has several.
      overwrite: replace files that are there; never the network's own.

    Raises:
      UserError: a file that is damaged, no ONNX, of an opset before 7 or fused already; several outputs without a
        choice; an output that is not [N, exported.map.in_dim] in a floating format; or ``out`` cannot be written.
    """
    with extra("onnx"):
        from onnx import TensorProto

    network, out = regular_file(network, "an ONNX file"), pathlib.Path(out).expanduser()
    model = _read(network)
    opset = _opset(network, model)
    weights = [
        part
        for part in messages(model)
        if isinstance(part, TensorProto) and part.data_location == TensorProto.EXTERNAL
    ]
    sources = {side_file(network, tensor) for tensor in weights}
    files = [out, *([out.with_name(out.name + ".data")] if weights else [])]
    for file in files:
        require_free(file, overwrite, *(network, *sources))
    entry = _output(network, model, output)
    shape, kinds = (
        _shape(network, model, entry),
        {value: name for name, value in TensorProto.DataType.items()},
    )
    dtype = kinds.get(entry.type.tensor_type.elem_type, "an unknown format")
    _check_output(network, model, entry.name, shape, dtype, exported.map)

    name = entry.name
    nodes = Nodes(model.graph, opset)
    rows = _renamed(model.graph, name, nodes.name() + "/network")
    if dtype != "FLOAT":
        rows = nodes.add("Cast", rows, to=TensorProto.FLOAT)
    if len(shape) > 2:
        rows = nodes.add("Flatten", rows, axis=1)
    nodes.mapped(rows, exported)
    model.graph.node[-1].output[0] = name
    _declare(entry, name, len(shape), exported.out_dim)
    _note(model, exported)
    write(model, out, str(network), weights, network.parent)
    return Fused(files, name, opset, shape, dtype)


def _read(path: pathlib.Path) -> "ModelProto":
    """The graph of a file; weights in other files stay there."""
    import onnx

    size = path.stat().st_size
    if size > LARGEST_FILE:
        raise UserError(
            f"{path} has {size:,} bytes; an ONNX file has at most {LARGEST_FILE:,}, with weights beside it."
        )
    require_memory(path, 4 * size)
    try:
        model = onnx.load(path, format="protobuf", load_external_data=False)
        readable = is_text(model)
    except Exception as error:  # protobuf's own classes share no base but Exception
        raise UserError(f"{path} is damaged or no ONNX file ({first_line(error)}).") from error
    if not readable:
        raise UserError(f"{path} is damaged or no ONNX file: it holds text that is not UTF-8.")
    if not model.graph.node or not model.graph.output:
        raise UserError(f"{path} is damaged or no ONNX file: it holds no graph with an output.")
    if any(entry.key.startswith(KEY) for entry in model.metadata_props):
        raise UserError(
            f"{path} has a map inside already, by its metadata; fuse the network's own file instead."
        )
    return model


def _opset(path: pathlib.Path, model: "ModelProto") -> int:
    versions = [opset.version for opset in model.opset_import if opset.domain in ("", "ai.onnx")]
    if not versions:
        raise UserError(f"{path} does not state the opset of its operators; it may be cut short.")
    if versions[0] < OLDEST_OPSET:
        raise UserError(
            f"{path} is of opset {versions[0]}; expected {OLDEST_OPSET} or newer (onnx.version_converter raises it)."
        )
    return versions[0]


def _output(path: pathlib.Path, model: "ModelProto", wanted: str | None) -> "ValueInfoProto":
    """The output to map."""
    outputs = {entry.name: entry for entry in model.graph.output}
    names = ", ".join(f"{name} {_text(_dimensions(entry))}" for name, entry in outputs.items())
    if wanted is None and len(outputs) > 1:
        raise UserError(f"{path} has {len(outputs)} outputs ({names}); choose one with --output=NAME.")
    if wanted is not None and wanted not in outputs:
        raise UserError(f"{path} has no output {wanted!r}; it has {names}.")
    entry = outputs[next(iter(outputs)) if wanted is None else wanted]
    if not any(entry.name in node.output for node in model.graph.node):
        raise UserError(
            f"{path}: none of its nodes computes output {entry.name!r}, so there is nothing to map."
        )
    return entry


def _shape(path: pathlib.Path, model: "ModelProto", entry: "ValueInfoProto") -> list[int | str | None]:
    """The shape of an output as its nodes make it, completed by what the file declares, which is often wrong."""
    import onnx

    light = onnx.ModelProto()
    light.CopyFrom(model)
    for part in messages(light.graph):
        if isinstance(part, onnx.TensorProto) and len(part.raw_data) > SMALL_TENSOR:
            part.ClearField("raw_data")
    for other in light.graph.output:
        if other.type.HasField("tensor_type"):
            other.type.tensor_type.ClearField("shape")
    try:
        light = onnx.shape_inference.infer_shapes(light, data_prop=True)
        inferred = next(_dimensions(other) for other in light.graph.output if other.name == entry.name)
    except Exception:  # of several classes; a damaged graph is found by onnx's check of what is written
        inferred = None
    declared = _dimensions(entry)
    if inferred is None and declared is None:
        raise UserError(f"{path}: the shape of output {entry.name!r} is not stated and cannot be inferred.")
    if inferred is None or declared is None or len(inferred) != len(declared):
        return inferred or declared or []
    sizes = [one if isinstance(one, int) else other or one for one, other in zip(inferred, declared)]
    return [*inferred[:1], *sizes[1:]]  # many files declare one row and give as many as there are pictures


def _check_output(
    path: pathlib.Path,
    model: "ModelProto",
    name: str,
    shape: list[int | str | None],
    dtype: str,
    map_: AffineMap,
) -> None:
    """Refuses an output that does not give one row of the map's width for each picture."""
    what = f"{path}: output {name!r} has shape {_text(shape)}"
    expected = f"expected [pictures, {map_.in_dim}]"
    if dtype not in FLOATS:
        raise UserError(f"{what} of {dtype}; {expected} in a floating format.")
    if len(shape) < 2:
        raise UserError(f"{what}, without a batch axis; {expected}.")
    if any(size != 1 for size in shape[2:]):
        raise UserError(f"{what}; {expected}.")
    weights = {tensor.name for tensor in model.graph.initializer}
    taken = [_dimensions(entry) for entry in model.graph.input if entry.name not in weights]
    batch = taken[0][0] if taken and taken[0] else None
    rows = shape[0]
    if isinstance(rows, int) and rows != (batch if isinstance(batch, int) else 1):
        given = "an open number of" if not isinstance(batch, int) else f"{batch}"
        raise UserError(f"{what} for {given} pictures, so it has no batch axis; {expected}.")
    if shape[1] == map_.in_dim:
        return
    hint = ""
    if shape[1] == map_.out_dim:
        hint = "; it leads to rows of that width: fuse the network that it comes from, or fit the other direction"
    width = "of a width that cannot be inferred" if not isinstance(shape[1], int) else f"of width {shape[1]}"
    raise UserError(f"{path}: output {name!r} gives rows {width}, the map takes {map_.in_dim}{hint}.")


def _renamed(graph: "GraphProto", old: str, new: str) -> str:
    """Gives a tensor another name wherever it is made or used, graphs inside nodes included."""
    import onnx

    for part in messages(graph):
        if isinstance(part, onnx.NodeProto):
            for names in (part.input, part.output):
                names[:] = [new if name == old else name for name in names]
        elif isinstance(part, onnx.ValueInfoProto) and part.name == old:
            part.name = new
        elif isinstance(part, onnx.TensorAnnotation) and part.tensor_name == old:
            part.tensor_name = new
    return new


def _declare(entry: "ValueInfoProto", name: str, rank: int, width: int) -> None:
    """States name, format and shape of the mapped output; its batch axis stays as it was declared."""
    import onnx

    tensor = entry.type.tensor_type
    first = onnx.TensorShapeProto.Dimension(dim_param="N")
    if len(tensor.shape.dim) == rank:
        first.CopyFrom(tensor.shape.dim[0])
    entry.name, tensor.elem_type = name, onnx.TensorProto.FLOAT
    tensor.shape.ClearField("dim")
    tensor.shape.dim.extend([first, onnx.TensorShapeProto.Dimension(dim_value=width)])


def _note(model: "ModelProto", exported: Exported) -> None:
    """Adds to a file's metadata what the map is and does."""
    texts: Mapping[str, str] = {
        **exported.about,
        "normalize": exported.normalize,
        "normalize_output": str(exported.normalize_output or exported.cohort is not None).lower(),
        "version": __version__,
    }
    if (cohort := exported.cohort) is not None:
        columns = "-r/2, 1" if cohort.of_source else "1, -r/2"
        texts = {
            **texts,
            "cohort": f"{columns}; r over the {cohort.top} nearest of {len(cohort.people)} people",
        }
    for key, value in texts.items():
        model.metadata_props.add(key=KEY + key, value=value)


def _dimensions(entry: "ValueInfoProto") -> list[int | str | None] | None:
    """The sizes of a tensor; None where one is open, or for the list where nothing is stated."""
    if not entry.type.tensor_type.HasField("shape"):
        return None
    sizes = entry.type.tensor_type.shape.dim
    return [size.dim_value if size.dim_value > 0 else size.dim_param or None for size in sizes]


def _text(shape: list[int | str | None] | None) -> str:
    return (
        f"[{', '.join('?' if size is None else str(size) for size in shape)}]" if shape is not None else "[?]"
    )
