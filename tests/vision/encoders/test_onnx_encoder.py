"""ONNX graphs: against numpy on tiny ones, against onnxruntime itself and the reference store on the real ones."""

import re

import numpy as np
import onnx
import onnx_graphs
import onnxruntime
import pytest
from onnx import TensorProto, helper
from PIL import Image

from jaxalign.core.errors import UserError
from jaxalign.data import EmbeddingStore
from jaxalign.vision.encoders import Encoder, load_encoder

IMAGES = np.random.default_rng(5).integers(0, 256, (7, 8, 8, 3), dtype=np.uint8)
PIXELS = IMAGES.transpose(0, 3, 1, 2)
NORMALISED = (PIXELS - 127.5) / 127.5


def assert_rows_are_numpys(path, expected, options="", atol=1e-4, **settings):
    """Loads a graph, which gives the embeddings of these pixels; returns the encoder."""
    encoder = load_encoder(f"onnx:{path}{options}", **settings)
    rows = encoder.encode(IMAGES)
    assert isinstance(encoder, Encoder) and encoder.dim == onnx_graphs.WIDTH
    assert rows.dtype == np.float32 and rows.shape == (len(IMAGES), encoder.dim)
    np.testing.assert_allclose(rows, onnx_graphs.expected(expected), atol=atol)
    return encoder


@pytest.mark.parametrize("batch_size", [None, 1, 3, 7])
@pytest.mark.parametrize(
    "shape", [("N", 3, 8, 8), (None, 8, 8, 3), ("batch", 3, "h", "w"), (2, 3, 8, 8), (1, 8, 8, 3)]
)
def test_layouts_and_batches(shape, batch_size, tmp_path):
    options = "?size=8" if "h" in shape else ""
    path = onnx_graphs.write(tmp_path / "g.onnx", shape=shape)
    encoder = assert_rows_are_numpys(path, NORMALISED, options, batch_size=batch_size)
    assert encoder.batch_size == (shape[0] if isinstance(shape[0], int) else batch_size or 32)
    assert encoder.preprocessing.size == (8, 8) and encoder.name == "g"
    assert encoder.encode(IMAGES[:0]).shape == (0, encoder.dim)


DECLARED = [
    {"flat": False},
    {"declared": ("N", "width")},
    {"declared": (1, 4)},
]  # the last as insightface's files


@pytest.mark.parametrize("output", DECLARED, ids=["trailing ones", "no width", "one row"])
def test_declared_shapes_of_the_embedding(output, tmp_path):
    assert_rows_are_numpys(onnx_graphs.write(tmp_path / "g.onnx", **output), NORMALISED)


def test_open_sizes_are_those_of_faces(tmp_path):
    encoder = load_encoder(f"onnx:{onnx_graphs.write(tmp_path / 'g.onnx', shape=('N', 3, 'h', 'w'))}")
    assert encoder.preprocessing.size == (112, 112)
    assert encoder.prepare(np.zeros((50, 60, 3), np.uint8)).shape == (112, 112, 3)


def test_number_formats(tmp_path):
    half = onnx_graphs.write(tmp_path / "half.onnx", dtype=TensorProto.FLOAT16)
    assert_rows_are_numpys(half, NORMALISED.astype(np.float16))
    whole = onnx_graphs.write(tmp_path / "bytes.onnx", dtype=TensorProto.UINT8)
    encoder = assert_rows_are_numpys(whole, PIXELS, atol=0.02)
    assert encoder.describe()["dtype"] == "uint8"


INSIDE = (("Sub", 127.5), ("Mul", 1 / 128))
BY_CHANNEL = (PIXELS[:, ::-1] - np.reshape([1, 2, 3], (3, 1, 1))) / np.reshape([4, 5, 6], (3, 1, 1))
NORMALISATIONS = {
    "default": ({}, "", NORMALISED),
    "inside": ({"before": INSIDE}, "", (PIXELS - 127.5) / 128),
    "only Sub": ({"before": INSIDE[:1]}, "", NORMALISED - 127.5),
    "Sub and Mul after": ({"after": (("Sub", 0.0), ("Mul", 1.0))}, "", NORMALISED),
    "metadata": ({"metadata": {"input_mean": "127.5", "input_std": "128"}}, "", (PIXELS - 127.5) / 128),
    "both": ({"metadata": {"input_std": "128"}}, "?mean=100", (PIXELS - 100.0) / 128),
    "bgr": ({"metadata": {"color_order": "BGR"}}, "", NORMALISED[:, ::-1]),
    "rgb": ({"metadata": {"color_order": "bgr"}}, "?color=RGB", NORMALISED),
    "channels": ({}, "?color=bgr&mean=1:2:3&std=4:5:6", BY_CHANNEL),
    "magface": ({"before": INSIDE}, "?mean=0&std=255", (PIXELS / 255 - 127.5) / 128),
}


@pytest.mark.parametrize("case", NORMALISATIONS)
def test_normalisation_and_colours(case, tmp_path):
    graph, options, pixels = NORMALISATIONS[case]
    assert_rows_are_numpys(onnx_graphs.write(tmp_path / "g.onnx", **graph), pixels, options, atol=2e-3)


def test_several_outputs_need_a_choice(tmp_path):
    path = onnx_graphs.write(tmp_path / "g.onnx", outputs=2)
    with pytest.raises(UserError, match=r"2 outputs \(Flatten_2 \[N, 4\], Neg_3 .* one with \?output="):
        load_encoder(f"onnx:{path}")
    with pytest.raises(UserError, match="no output 'fc1'; it has Flatten_2"):
        load_encoder(f"onnx:{path}?output=fc1")
    assert_rows_are_numpys(path, NORMALISED, "?output=Flatten_2")
    assert load_encoder(f"onnx:{path}?output=Neg_3").describe()["output"] == "Neg_3"


def test_a_graph_for_one_picture_at_a_time_that_does_not_say_so(tmp_path):
    path = onnx_graphs.write(tmp_path / "g.onnx", fixed_reshape=True)
    with pytest.raises(UserError, match="failed on a batch of 7 .* add the option batch=1"):
        load_encoder(f"onnx:{path}").encode(IMAGES)
    assert_rows_are_numpys(path, NORMALISED, "?batch=1")


@pytest.mark.parametrize(
    "graph, options, message",
    [
        ({"shape": ("N", 1, 8, 8)}, "", "input input has shape [N, 1, 8, 8]; expected RGB pictures"),
        ({"shape": ("N", 3, 8, 8), "inputs": 2}, "", "the graph has 2 inputs (input [N, 3, 8, 8], extra0"),
        ({"dtype": TensorProto.DOUBLE}, "", "input input is of tensor(double); expected one of tensor"),
        ({}, "?size=9", "takes pictures of 8 × 8 pixels, got size=9"),
        ({}, "?mean=1:2", "mean is one number or three separated by colons, got '1:2'"),
        ({}, "?std=x", "std is one number or three"),
        ({}, "?std=0", "standard deviations other than 0"),
        ({}, "?color=grb", "the colour order is rgb or bgr, got 'GRB'"),
        ({}, "?provider=tpu", "provider is one of auto, cuda, cpu, got 'tpu'"),
        ({"dtype": TensorProto.UINT8}, "?mean=3", "takes bytes and normalises them itself"),
        ({"metadata": {"input_mean": "a lot"}}, "", "mean is one number or three separated by"),
    ],
)
def test_graphs_and_options_that_do_not_fit(graph, options, message, tmp_path):
    path = onnx_graphs.write(tmp_path / "g.onnx", **graph)
    with pytest.raises(UserError, match=re.escape(message)):
        load_encoder(f"onnx:{path}{options}")


def test_text_input_is_refused(tmp_path):
    taken = helper.make_tensor_value_info("ids", TensorProto.FLOAT, ["N", 12])
    result = helper.make_tensor_value_info("out", TensorProto.FLOAT, ["N", 12])
    graph = helper.make_graph([helper.make_node("Neg", ["ids"], ["out"])], "g", [taken], [result])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "g.onnx")
    with pytest.raises(UserError, match=r"input ids has shape \[N, 12\]; expected RGB pictures"):
        load_encoder(f"onnx:{tmp_path / 'g.onnx'}")


def test_files_that_are_no_onnx_are_refused(tmp_path):
    path = onnx_graphs.write(tmp_path / "g.onnx")
    for content in (path.read_bytes()[:-100], b"", b"\x89PNG no graph", b"\x08\x07" * 40):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"g.onnx cannot be loaded as an ONNX graph"):
            load_encoder(f"onnx:{path}")
    with pytest.raises(UserError, match=r"there is no file .*nowhere.onnx"):
        load_encoder("onnx:nowhere.onnx")


@pytest.mark.parametrize("name", ["mobilefacenet", "mobileface", "faceres"])
def test_real_networks_give_the_reference_embeddings(name, shared):
    """Photographs through ``prepare`` and ``encode``: the store beside them, and onnxruntime called by hand."""
    store = EmbeddingStore.open(shared / "data" / "att_reference")
    encoder = load_encoder(f"onnx:{shared / 'models' / name}.onnx")
    paths = [shared / "data" / "att_photos" / sample for sample in store.column("sample_id")]
    chosen = range(0, len(paths), 10 if name == "faceres" else 3)
    images = np.stack([encoder.prepare(np.asarray(Image.open(paths[row]).convert("RGB"))) for row in chosen])
    rows, reference = encoder.encode(images), np.asarray(store[name], np.float32)[list(chosen)]
    cosine = np.sum(rows * reference, 1) / np.linalg.norm(rows, axis=1) / np.linalg.norm(reference, axis=1)
    assert cosine.min() > 0.99
    own = by_hand(shared / "models" / f"{name}.onnx", images[:4])
    np.testing.assert_allclose(rows[:4], own, rtol=1e-3, atol=1e-4)


def by_hand(path, images):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    notes = session.get_modelmeta().custom_metadata_map
    mean, std = (np.array(notes[key].split(","), np.float32) for key in ("input_mean", "input_std"))
    pixels = ((images.astype(np.float32) - mean) / std).transpose(0, 3, 1, 2)
    return np.asarray(session.run(None, {"input": pixels})[0])


def test_weights_in_other_files_are_described(tmp_path):
    """In one file beside the graph, and one for each weight; onnxruntime reads none in a branch."""
    onnx_graphs.write(tmp_path / "whole.onnx")
    for name, options in (
        ("one", {"location": "weights.bin"}),
        ("each", {"all_tensors_to_one_file": False}),
    ):
        (place := tmp_path / name).mkdir()
        model = onnx.load(tmp_path / "whole.onnx")
        how = {"size_threshold": 0, "convert_attribute": True, **options}
        onnx.save_model(model, place / "g.onnx", save_as_external_data=True, **how)
        said = load_encoder(f"onnx:{place / 'g.onnx'}").describe()
        assert load_encoder(f"onnx:{place / 'g.onnx'}").describe() == said
        (weights, *_) = sorted(path for path in place.iterdir() if path.suffix != ".onnx")
        numbers = np.frombuffer(weights.read_bytes(), np.float32) * 2
        weights.write_bytes(numbers.tobytes())
        assert load_encoder(f"onnx:{place / 'g.onnx'}").describe() != said


def test_an_output_that_is_a_sequence_and_a_batch_beyond_memory_are_refused(tmp_path):
    node = helper.make_node("SequenceConstruct", ["input"], ["parts"])
    taken = helper.make_tensor_value_info("input", TensorProto.FLOAT, ("N", 3, 8, 8))
    given = helper.make_tensor_sequence_value_info("parts", TensorProto.FLOAT, None)
    graph = helper.make_graph([node], "sequence", [taken], [given])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8),
        tmp_path / "s.onnx",
    )
    with pytest.raises(UserError, match=r"output 'parts' is a seq\(tensor\(float\)\); expected a tensor"):
        load_encoder(f"onnx:{tmp_path / 's.onnx'}")
    path = onnx_graphs.write(tmp_path / "g.onnx", shape=(10**7, 3, 8, 8))
    with pytest.raises(UserError, match=r"a batch of 10,000,000 pictures of 8 × 8 pixels takes 7\.2 GiB"):
        load_encoder(f"onnx:{path}")
