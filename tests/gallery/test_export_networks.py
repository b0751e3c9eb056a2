"""Networks that a map is fused into: those that are refused, and real ones."""

import re

import numpy as np
import onnx
import onnx_graphs
import pytest
from exported import declared, mapped, run, small, unit
from onnx import TensorProto, helper
from PIL import Image

from jaxalign.align.affine import AffineMap
from jaxalign.core.errors import UserError
from jaxalign.gallery.export import CohortColumns, Exported
from jaxalign.gallery.onnx_file import fuse, write_map_alone

RNG = np.random.default_rng(0)
D = onnx_graphs.WIDTH
MAP = AffineMap((RNG.normal(size=(D, 6)),), RNG.normal(size=6), 5 + RNG.normal(size=D))


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
    large = tmp_path / "large.onnx"
    with large.open("wb") as file:
        file.truncate(2**31)  # takes no room on disk, and none in memory unless it is read
    fuse(network, exported, out)
    there = out.read_bytes()
    for path, message in (
        (out, "has a map inside already"),
        (old, "of opset 6; expected 7 or newer"),
        (tmp_path / "none.onnx", "none.onnx is missing"),
        (tmp_path, "is not a file but a directory"),
        (large, "has 2,147,483,648 bytes; an ONNX file has at most"),
    ):
        with pytest.raises(UserError, match=message):
            fuse(path, exported, tmp_path / "g.onnx")
    for overwrite, message in (
        (False, "exists already; choose another path or add --overwrite"),
        (True, "does not pass onnx's check"),
    ):
        bad = small(tmp_path / "bad.onnx", node("Rleu", "x"), [("y", TensorProto.FLOAT, ["N", D])])
        with pytest.raises(UserError, match=message):
            fuse(bad, exported, out, overwrite=overwrite)
        assert out.read_bytes() == there
    with pytest.raises(UserError, match="the file that is read"):
        fuse(network, exported, network, overwrite=True)
    with pytest.raises(UserError, match=r"nowhere.*cannot be written: No such file"):
        fuse(network, exported, tmp_path / "nowhere" / "f.onnx")
    with pytest.raises(UserError, match="numbers that float32 cannot hold"):
        fuse(
            network,
            Exported(MAP.astype(np.float64).then(AffineMap((), np.full(6, 1e39))), "l2"),
            tmp_path / "g.onnx",
        )
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [
        "bad.onnx",
        "f.onnx",
        "large.onnx",
        "n.onnx",
        "old.onnx",
    ]


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
        mean, std = (np.array(about[key].split(","), np.float32) for key in ("input_mean", "input_std"))
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


def test_a_real_network_for_one_picture_at_a_time(real, shared, tmp_path):
    """As insightface's files: input [1, 3, 112, 112], and an output that is stated to have one row."""
    path, pixels, rows = real["mobileface"]
    model, map_ = onnx.load(path), fitted(shared, "mobileface", "mobilefacenet")
    for entry in (*model.graph.input, *model.graph.output):
        entry.type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(model, tmp_path / "n.onnx")
    fuse(tmp_path / "n.onnx", Exported(map_, "l2", True), tmp_path / "f.onnx")
    assert np.abs(run(tmp_path / "f.onnx", pixels[:1]) - unit(mapped(rows[:1], map_))).max() < 1e-6
    assert declared(tmp_path / "f.onnx", "embedding")[1] == [1, 192]
