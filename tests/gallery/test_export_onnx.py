"""Maps as ONNX, alone and inside networks: against float64 numpy, run by onnxruntime."""

import pathlib
import re

import numpy as np
import onnx
import onnx_graphs
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from jaxalign.align.affine import AffineMap
from jaxalign.core.errors import UserError
from jaxalign.gallery.export import CohortColumns, Exported
from jaxalign.gallery.onnx_file import fuse, write_map_alone

RNG = np.random.default_rng(0)
D = onnx_graphs.WIDTH
MAP = AffineMap((RNG.normal(size=(D, 6)),), RNG.normal(size=6), 5 + RNG.normal(size=D))
MAPS = {
    "dense": MAP,
    "low rank": AffineMap((RNG.normal(size=(D, 2)), RNG.normal(size=(2, 3))), RNG.normal(size=3), None),
    "shift": AffineMap((), RNG.normal(size=D), RNG.normal(size=D)),
}
PIXELS = RNG.normal(size=(5, 3, 8, 8)).astype(np.float32)
ROWS = onnx_graphs.expected(PIXELS)
NEWEST = 27  # that onnxruntime says it runs


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


def with_cohort(rows, people, top, of_source):
    """Unit rows and the columns that make inner products s − ½ (r(x) + r(y))."""
    r = -np.sort(-(unit(rows) @ people.T), axis=1)[:, :top].mean(axis=1)
    columns = [-r / 2, np.ones(len(rows))]
    return np.column_stack([unit(rows), *(columns if of_source else columns[::-1])])


def run(path: pathlib.Path, given: np.ndarray, output: str | None = None) -> np.ndarray:
    """The output that a file gives, once it passes onnx's check."""
    onnx.checker.check_model(str(path))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return session.run([output or session.get_outputs()[0].name], {session.get_inputs()[0].name: given})[0]


def declared(path: pathlib.Path, name: str) -> tuple[int, list[int | str]]:
    """Format and shape of an output as a file states them."""
    (entry,) = [one for one in onnx.load(path).graph.output if one.name == name]
    sizes = entry.type.tensor_type.shape.dim
    return entry.type.tensor_type.elem_type, [size.dim_value or size.dim_param for size in sizes]


@pytest.mark.parametrize("normalize", ["l2", "none"])
@pytest.mark.parametrize("kind", MAPS)
def test_map_alone(kind, normalize, tmp_path):
    map_, rows = MAPS[kind], RNG.normal(size=(9, D)).astype(np.float32)
    rows[3] = 0
    out = tmp_path / "map.onnx"
    for scaled in (False, True):
        write_map_alone(Exported(map_, normalize, scaled, about={"target": "old"}), out, overwrite=scaled)
        expected = mapped(rows, map_, normalize)
        expected = unit(expected) if scaled else expected
        for count in (1, 9):
            np.testing.assert_allclose(run(out, rows[:count]), expected[:count], rtol=1e-5, atol=5e-6)
    texts = {entry.key: entry.value for entry in onnx.load(out).metadata_props}
    assert texts["jaxalign.normalize"] == normalize and texts["jaxalign.target"] == "old"
    assert declared(out, "embedding") == (TensorProto.FLOAT, ["N", map_.out_dim])


@pytest.mark.parametrize(
    "opset, ir_version", [(7, 3), (9, 4), (10, 5), (11, 6), (13, 7), (17, 8), (18, 8), (NEWEST, 10)]
)
def test_fused_in_every_opset(opset, ir_version, tmp_path):
    metadata = {"input_mean": "127.5", "color_order": "RGB"}
    network = onnx_graphs.write(tmp_path / "n.onnx", opset=opset, ir_version=ir_version, metadata=metadata)
    before, people = onnx.load(network), unit(RNG.normal(size=(7, 6)))
    name = before.graph.output[0].name
    for of_source in (True, False):
        cohort = CohortColumns(people, of_source, top=3)
        fuse(network, Exported(MAP, "l2", cohort=cohort), tmp_path / "f.onnx", overwrite=not of_source)
        expected = with_cohort(mapped(ROWS, MAP), people, 3, of_source)
        np.testing.assert_allclose(run(tmp_path / "f.onnx", PIXELS, name), expected, atol=2e-6)
    after = onnx.load(tmp_path / "f.onnx")
    assert after.opset_import == before.opset_import and after.ir_version == ir_version
    assert after.graph.input == before.graph.input
    assert [entry.name for entry in after.graph.output] == [name]
    assert declared(tmp_path / "f.onnx", name) == (TensorProto.FLOAT, ["N", 8])
    texts = {entry.key: entry.value for entry in after.metadata_props}
    assert metadata.items() <= texts.items() and "jaxalign.cohort" in texts


SHAPES = {  # how networks declare their output, and the batch axis of the fused file
    "open": ({}, "N"),
    "for one picture": ({"shape": (1, 3, 8, 8), "declared": (1, D)}, 1),
    "one row stated": ({"declared": (1, D)}, 1),
    "one row made": ({"fixed_reshape": True, "declared": (1, D)}, 1),
    "width not stated": ({"declared": ("N", "width")}, "N"),
    "another width stated": ({"declared": ("N", 9)}, "N"),
    "trailing ones": ({"flat": False}, "N"),
}


@pytest.mark.parametrize("case", SHAPES)
def test_declared_shapes(case, tmp_path):
    graph, batch = SHAPES[case]
    network = onnx_graphs.write(tmp_path / "n.onnx", **graph)
    fused = fuse(network, Exported(MAP, "none"), tmp_path / "f.onnx")
    one = "one" in case and case != "one row stated"
    pixels = PIXELS[: 1 if one else None]
    found = run(tmp_path / "f.onnx", pixels)
    np.testing.assert_allclose(found, mapped(ROWS, MAP, "none")[: len(pixels)], rtol=1e-5, atol=1e-5)
    assert declared(tmp_path / "f.onnx", fused.output)[1] in ([batch, 6], ["N", 6])
    assert len(fused.shape) == (4 if case == "trailing ones" else 2)


def small(path, nodes, outputs, constants=(), taken=("N", D), opset=17, dtype=TensorProto.FLOAT, **more):
    """A graph of these nodes whose input is named x."""
    given = [helper.make_tensor_value_info("x", dtype, taken)]
    results = [helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in outputs]
    initial = [numpy_helper.from_array(values, name) for name, values in constants]
    graph = helper.make_graph(nodes, "small", given, results, initial)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.save(model, path, **more)
    return path


@pytest.mark.parametrize("dtype", [TensorProto.FLOAT16, TensorProto.DOUBLE])
def test_other_formats_are_cast(dtype, tmp_path):
    nodes = [helper.make_node("Cast", ["x"], ["y"], to=dtype)]
    network = small(tmp_path / "n.onnx", nodes, [("y", dtype, ["N", D])])
    fused = fuse(network, Exported(MAP, "none"), tmp_path / "f.onnx")
    given = ROWS.astype(np.float16).astype(np.float32)
    np.testing.assert_allclose(run(tmp_path / "f.onnx", given), mapped(given, MAP, "none"), atol=1e-5)
    assert declared(tmp_path / "f.onnx", "y") == (TensorProto.FLOAT, ["N", 6])
    assert fused.dtype == TensorProto.DataType.Name(dtype)


def test_one_of_two_outputs_that_other_nodes_and_graphs_inside_them_use(tmp_path):
    """The other output, which is computed from the mapped one, stays as it was; our names collide with none."""
    inner = [helper.make_node("Neg", ["jaxalign/1"], ["inner"])]
    result = [helper.make_tensor_value_info("inner", TensorProto.FLOAT, ["N", D])]
    branches = {name: helper.make_graph(inner, name, [], result) for name in ("then_branch", "else_branch")}
    nodes = [
        helper.make_node("Relu", ["x"], ["jaxalign/1"]),
        helper.make_node("If", ["yes"], ["jaxalign_/2"], **branches),
    ]
    outputs = [(name, TensorProto.FLOAT, ["N", D]) for name in ("jaxalign/1", "jaxalign_/2")]
    network = small(tmp_path / "n.onnx", nodes, outputs, [("yes", np.array(True))])
    exported, rows = Exported(MAP, "l2"), ROWS.astype(np.float32)
    with pytest.raises(UserError, match=r"2 outputs \(jaxalign/1 \[N, 4\], jaxalign_/2 .*--output=NAME"):
        fuse(network, exported, tmp_path / "f.onnx")
    with pytest.raises(UserError, match="no output 'fc1'; it has jaxalign/1"):
        fuse(network, exported, tmp_path / "f.onnx", output="fc1")
    assert [entry.name for entry in tmp_path.iterdir()] == ["n.onnx"]
    fuse(network, exported, tmp_path / "f.onnx", output="jaxalign/1")
    expected = mapped(np.maximum(rows, 0), MAP)
    np.testing.assert_allclose(run(tmp_path / "f.onnx", rows, "jaxalign/1"), expected, atol=5e-6)
    np.testing.assert_array_equal(run(tmp_path / "f.onnx", rows, "jaxalign_/2"), -np.maximum(rows, 0))


@pytest.fixture
def apart(tmp_path):
    """A network whose two weights lie in files of their own, in a folder, and what it gives of ROWS."""
    (tmp_path / "in" / "weights").mkdir(parents=True)
    first, second = (RNG.normal(size=(D, D)).astype(np.float32) for _ in range(2))
    nodes = [helper.make_node("MatMul", ["x", "a"], ["z"]), helper.make_node("MatMul", ["z", "b"], ["y"])]
    path = small(
        tmp_path / "in" / "n.onnx", nodes, [("y", TensorProto.FLOAT, ["N", D])], [("a", first), ("b", second)]
    )
    model = onnx.load(path)
    (path.parent / "weights" / "a").write_bytes(b"before" + first.tobytes() + b"behind")
    (path.parent / "b.bin").write_bytes(second.tobytes())
    places = [{"location": "weights/a", "offset": "6", "length": str(first.nbytes)}, {"location": "b.bin"}]
    for tensor, place in zip(model.graph.initializer, places):
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in place.items():
            tensor.external_data.add(key=key, value=value)
    onnx.save(model, path)
    return path, ROWS.astype(np.float32) @ first @ second


def test_weights_apart_become_one_file_beside_the_new_one(apart, tmp_path):
    network, rows = apart
    (tmp_path / "out").mkdir()
    fused = fuse(network, Exported(MAP, "l2"), tmp_path / "out" / "f.onnx")
    assert fused.files == [tmp_path / "out" / "f.onnx", tmp_path / "out" / "f.onnx.data"]
    assert sorted((tmp_path / "out").iterdir()) == fused.files
    (tmp_path / "in").rename(tmp_path / "elsewhere")
    found = run(fused.files[0], ROWS.astype(np.float32))
    np.testing.assert_allclose(found, mapped(rows, MAP), atol=5e-6)
    with pytest.raises(UserError, match=r"f\.onnx exists already"):
        fuse(tmp_path / "elsewhere" / "n.onnx", Exported(MAP, "l2"), tmp_path / "out" / "f.onnx")
    fuse(
        tmp_path / "elsewhere" / "n.onnx", Exported(MAP, "none"), tmp_path / "out" / "f.onnx", overwrite=True
    )
    found = run(fused.files[0], ROWS.astype(np.float32))
    np.testing.assert_allclose(found, mapped(rows, MAP, "none"), rtol=1e-5, atol=1e-4)


def test_weights_apart_that_are_not_there(apart, tmp_path):
    network, _ = apart
    for location, message in (
        ("../../secret", "not in the network's folder"),
        ("/etc/hostname", "not in the network's folder"),
        ("c.bin", r"c\.bin is missing"),
        ("short", "short is cut short"),
    ):
        model = onnx.load(network, load_external_data=False)
        model.graph.initializer[0].external_data[0].value = location
        (network.parent / "short").write_bytes(b"few")
        onnx.save(model, network.parent / "bad.onnx")
        with pytest.raises(UserError, match=message):
            fuse(network.parent / "bad.onnx", Exported(MAP, "l2"), tmp_path / "f.onnx")
    with pytest.raises(UserError, match="what the export is made from"):
        (network.parent / "b.bin").rename(network.parent / "m.onnx.data")
        model.graph.initializer[0].external_data[0].value = "weights/a"
        model.graph.initializer[1].external_data[0].value = "m.onnx.data"
        onnx.save(model, network.parent / "bad.onnx")
        fuse(network.parent / "bad.onnx", Exported(MAP, "l2"), network.parent / "m.onnx", overwrite=True)
    assert [entry.name for entry in tmp_path.iterdir()] == ["in"]


def node(operator, *inputs, **attributes):
    return [helper.make_node(operator, inputs, ["y"], **attributes)]


REFUSED = {  # nodes, shape of the input, and what the refusal says
    "no batch axis": (
        node("ReduceSum", "x", "zero", keepdims=0),
        ("N", D),
        "[4], without a batch axis; expected",
    ),
    "one row of several": (
        node("ReduceSum", "x", "zero"),
        (3, D),
        "[1, 4] for 3 pictures, so it has no batch axis",
    ),
    "rows of an open number": (node("Tile", "row", "two"), ("N", D), "for an open number of pictures"),
    "three axes": (node("Unsqueeze", "x", "zero"), ("N", D), "has shape [1, N, 4]; expected [pictures, 4]"),
    "another width": (node("Concat", "x", "x", axis=1), ("N", D), "gives rows of width 8, the map takes 4."),
    "wrong way": (node("Relu", "x"), ("N", 6), "of width 6, the map takes 4; it leads to rows of that width"),
    "whole numbers": (node("Cast", "x", to=TensorProto.INT32), ("N", D), "[N, 4] of INT32; expected"),
    "passed through": ([], ("N", D), "none of its nodes computes output 'x'"),
    "an operator that is none": (node("Rleu", "x"), ("N", D), "does not pass onnx's check"),
    "a node that lacks its input": (node("Relu", "w"), ("N", D), "does not pass onnx's check"),
}
CONSTANTS = [("zero", np.array([0])), ("two", np.array([2, 1])), ("row", np.zeros((1, D), np.float32))]


@pytest.mark.parametrize("case", REFUSED)
def test_networks_that_do_not_fit(case, tmp_path):
    nodes, taken, message = REFUSED[case]
    if case == "passed through":
        nodes, name = [helper.make_node("Relu", ["x"], ["y"])], "x"
    else:
        name = "y"
    kind = TensorProto.INT32 if case == "whole numbers" else TensorProto.FLOAT
    known = case in ("passed through", "an operator that is none", "a node that lacks its input")
    network = small(tmp_path / "n.onnx", nodes, [(name, kind, ["N", D] if known else None)], CONSTANTS, taken)
    with pytest.raises(UserError, match=re.escape(message)):
        fuse(network, Exported(MAP, "l2"), tmp_path / "f.onnx")
    assert [entry.name for entry in tmp_path.iterdir()] == ["n.onnx"]


def test_files_that_cannot_be_fused(tmp_path):
    exported = Exported(MAP, "l2")
    network, out = onnx_graphs.write(tmp_path / "n.onnx"), tmp_path / "f.onnx"
    old = onnx_graphs.write(tmp_path / "old.onnx", opset=6, ir_version=3)
    fuse(network, exported, out)
    there = out.read_bytes()
    for path, message in (
        (out, "has a map inside already"),
        (old, "of opset 6; expected 7 or newer"),
        (tmp_path / "none.onnx", "none.onnx is missing"),
        (tmp_path, "is not a file but a directory"),
    ):
        with pytest.raises(UserError, match=message):
            fuse(path, exported, tmp_path / "g.onnx")
    for arguments, message in (
        ({}, "exists already; choose another path or add --overwrite"),
        ({"overwrite": True}, "does not pass onnx's check"),
    ):
        bad = small(tmp_path / "bad.onnx", node("Rleu", "x"), [("y", TensorProto.FLOAT, ["N", D])])
        with pytest.raises(UserError, match=message):
            fuse(bad, exported, out, **arguments)
        assert out.read_bytes() == there
    with pytest.raises(UserError, match="what the export is made from"):
        fuse(network, exported, network, overwrite=True)
    with pytest.raises(UserError, match=r"nowhere.*cannot be written: No such file"):
        fuse(network, exported, tmp_path / "nowhere" / "f.onnx")
    with pytest.raises(UserError, match="numbers that float32 cannot hold"):
        fuse(
            network,
            Exported(MAP.astype(np.float64).then(AffineMap((), np.full(6, 1e39))), "l2"),
            tmp_path / "g.onnx",
        )
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["bad.onnx", "f.onnx", "n.onnx", "old.onnx"]


def test_what_cannot_be_exported():
    people = unit(RNG.normal(size=(7, 6)))
    for arguments, message in (
        ({"normalize": "l1"}, "expected one of l2, none, got 'l1'"),
        ({"map": AffineMap((), np.zeros((2, 3))), "normalize": "l2"}, "got a stack of shape"),
        (
            {"normalize": "l2", "cohort": CohortColumns(people[:, :3], top=1)},
            "is of width 3, the map gives rows of 6",
        ),
    ):
        with pytest.raises(UserError, match=message):
            Exported(**{"map": MAP, **arguments})
    with pytest.raises(UserError, match="from 1 to 7, got 8"):
        CohortColumns(people, top=8)
    with pytest.raises(UserError, match="finite centroids"):
        CohortColumns(np.full((7, 6), np.nan))


NETWORKS = ("mobilefacenet", "mobileface", "faceres")


@pytest.fixture(scope="module")
def real(shared):
    """Each real network: its file, the pixels of twelve photographs as it takes them, and its rows of these."""
    paths = sorted((shared / "data" / "att_photos").glob("*/*.png"))[::30][:12]
    if not paths or not (shared / "models").is_dir():
        pytest.skip("photographs and networks are not there")
    found = {}
    for name in NETWORKS:
        path = shared / "models" / f"{name}.onnx"
        model = onnx.load(path)
        about = {entry.key: entry.value for entry in model.metadata_props}
        size = model.graph.input[0].type.tensor_type.shape.dim[2].dim_value
        pictures = [
            np.asarray(Image.open(one).convert("RGB").resize((size, size), 2), np.float32) for one in paths
        ]
        mean, std = (np.float32(about[key].split(",")) for key in ("input_mean", "input_std"))
        pixels = ((np.stack(pictures) - mean) / std).transpose(0, 3, 1, 2)
        found[name] = path, pixels, run(path, pixels)
    return found


def fitted(shared, source: str, target: str) -> AffineMap:
    """Ridge regression between the unit rows of two networks, by numpy; drop-in, float64."""
    x, y = (
        unit(np.load(shared / "data" / "att_reference" / f"{name}.npy").astype(float))
        for name in (source, target)
    )
    center, bias = x.mean(axis=0), y.mean(axis=0)
    x, y = x - center, y - bias
    return AffineMap((np.linalg.solve(x.T @ x + 0.1 * np.eye(x.shape[1]), x.T @ y),), bias, center)


@pytest.mark.parametrize("source, target", [(a, b) for a in NETWORKS for b in NETWORKS if a != b])
def test_real_networks_speak_each_others_space(source, target, real, shared, tmp_path):
    """The worst number of a unit row is off by less than 1e-6 in float32 (2.2e-7 over all 380 photographs)."""
    path, pixels, rows = real[source]
    map_, out = fitted(shared, source, target), tmp_path / "f.onnx"
    fuse(path, Exported(map_, "l2", True), out)
    expected = unit(mapped(rows, map_))
    found = run(out, pixels[:12:4], "embedding")
    assert np.abs(found - expected[::4]).max() < 1e-6
    assert np.abs(run(out, pixels[:1]) - expected[:1]).max() < 1e-6
    write_map_alone(Exported(map_, "l2", True), tmp_path / "m.onnx")
    assert np.abs(run(tmp_path / "m.onnx", rows) - expected).max() < 1e-6
