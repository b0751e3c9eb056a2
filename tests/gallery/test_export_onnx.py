"""Maps as ONNX, alone and inside networks: against float64 numpy, run by onnxruntime."""

import os

import numpy as np
import onnx
import onnx_graphs
import pytest
from exported import declared, mapped, run, small, unit
from onnx import TensorProto, helper

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


def with_cohort(rows, people, top, of_source):
    """Unit rows and the columns that make inner products s − ½ (r(x) + r(y))."""
    r = -np.sort(-(unit(rows) @ people.T), axis=1)[:, :top].mean(axis=1)
    columns = [-r / 2, np.ones(len(rows))]
    return np.column_stack([unit(rows), *(columns if of_source else columns[::-1])])


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
    yes, no = (helper.make_graph(inner, name, [], result) for name in ("yes", "no"))
    nodes = [
        helper.make_node("Relu", ["x"], ["jaxalign/1"]),
        helper.make_node("If", ["yes"], ["jaxalign_/2"], then_branch=yes, else_branch=no),
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


def test_an_old_graph_never_stands_beside_new_weights(apart, tmp_path, monkeypatch):
    """The disk fails between the two files: the graph is gone, and says nothing wrong of the new weights."""
    fuse(apart[0], Exported(MAP, "l2"), tmp_path / "f.onnx")
    replace = os.replace

    def failing(source, target):
        if target == tmp_path / "f.onnx":
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(UserError, match=r"f\.onnx cannot be written: No space left on device"):
        fuse(apart[0], Exported(MAP, "none"), tmp_path / "f.onnx", overwrite=True)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["f.onnx.data", "in"]


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
    with pytest.raises(UserError, match="the file that is read"):
        (network.parent / "b.bin").rename(network.parent / "m.onnx.data")
        model.graph.initializer[0].external_data[0].value = "weights/a"
        model.graph.initializer[1].external_data[0].value = "m.onnx.data"
        onnx.save(model, network.parent / "bad.onnx")
        fuse(network.parent / "bad.onnx", Exported(MAP, "l2"), network.parent / "m.onnx", overwrite=True)
    assert [entry.name for entry in tmp_path.iterdir()] == ["in"]
