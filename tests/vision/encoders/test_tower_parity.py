"""Vision towers against PyTorch's classes on the same checkpoint, for every family and every pooling that it has."""

import json
import shutil
import subprocess
import sys

import flax.serialization
import flax.traverse_util
import jax
import ml_dtypes
import numpy as np
import pytest
from checkpoints import CASES
from safetensors.numpy import load_file, save, save_file

from jaxalign.core.errors import UserError
from jaxalign.vision.encoders import JaxEncoder, huggingface, load_encoder
from jaxalign.vision.encoders.tower_families import KINDS

torch = pytest.importorskip("torch")


def normalised(encoder, images):
    """Channels first, as PyTorch takes them."""
    given = encoder.preprocessing
    pixels = (images * given.rescale - np.asarray(given.mean)) / np.asarray(given.std)
    return pixels.transpose(0, 3, 1, 2).astype(np.float32)


# The first case of each kind of tower, and those of the plain vision transformers with parts of their own.
KINDS_OF_NETWORKS = (
    "vit",
    "clip",
    "dinov3_gated",
    "beit",
    "siglip",
    "internvl",
    "resnet",
    "regnet",
    "align",
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_embeddings_agree_with_pytorch(case, checkpoint, encoder, pictures):
    """All poolings as pure functions in one program, in which what they share is compiled once."""
    directory, (default, *others) = checkpoint(case.name), case.poolings
    encoders = {default: encoder(case.name)}
    encoders |= {pooling: load_encoder(f"hf:{directory}?pooling={pooling}") for pooling in others}
    images = np.resize(pictures, (5, *encoders[default].preprocessing.size, 3))
    trees, weights = {pooling: encoders[pooling].params for pooling in encoders}, {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(trees):
        np.testing.assert_array_equal(weights.setdefault(str(path[1:]), leaf), leaf)

    @jax.jit
    def program(weights, pixels):
        named = jax.tree_util.tree_map_with_path(lambda path, _: weights[str(path[1:])], trees)
        return {pooling: encoders[pooling].apply(named[pooling], pixels) for pooling in encoders}

    for pooling, rows in program(weights, encoders[default].normalised(images)).items():
        expected = case.expected(directory, normalised(encoders[pooling], images), pooling)
        assert rows.dtype == np.float32 and rows.shape == expected.shape == (5, encoders[pooling].dim)
        np.testing.assert_allclose(rows, expected, atol=1e-4, rtol=0, err_msg=pooling)
        assert encoders[pooling].describe()["pooling"] == pooling.partition("&")[0]


@pytest.mark.parametrize("name", KINDS_OF_NETWORKS)
def test_encoding_is_that_function_in_batches(name, checkpoint, encoder, pictures, rows):
    (case,) = [case for case in CASES if case.name == name]
    expected = case.expected(checkpoint(name), normalised(encoder(name), pictures), next(iter(case.poolings)))
    assert rows(name).dtype == np.float32
    np.testing.assert_allclose(rows(name), expected, atol=1e-4, rtol=0)


def test_every_family_is_covered(checkpoint):
    """Each model_type of the tables is that of a case, or of the tower inside one."""
    configs = [json.loads((checkpoint(case.name) / "config.json").read_text()) for case in CASES]
    parts = [config.get(inside, {}) for config in configs for inside in ("vision_config", "encoder")]
    assert {part.get("model_type") for part in configs + parts} >= set(KINDS)


@pytest.mark.parametrize("name", KINDS_OF_NETWORKS)
def test_half_precision_is_near(name, checkpoint, pictures, rows):
    encoder = load_encoder(f"hf:{checkpoint(name)}?dtype=bfloat16", dtype="float32")
    half, full = encoder.encode(pictures), rows(name)
    assert half.dtype == np.float32 and encoder.describe()["dtype"] == "bfloat16"
    assert not np.array_equal(half, full)
    cosine = np.sum(half * full, 1) / np.linalg.norm(half, axis=1) / np.linalg.norm(full, axis=1)
    assert cosine.min() > 0.999
    assert isinstance(encoder, JaxEncoder)
    pixels = jax.eval_shape(encoder.normalised, pictures)
    inside = jax.make_jaxpr(encoder.apply)(encoder.params, pixels)
    products = [step for step in inside.eqns if step.primitive.name == "dot_general"]
    assert all(operand.aval.dtype == "bfloat16" for step in products for operand in step.invars)


@pytest.mark.parametrize("name", KINDS_OF_NETWORKS)
def test_the_network_is_lowered_for_every_accelerator(name, encoder, pictures):
    found = encoder(name)
    pixels = jax.eval_shape(found.normalised, pictures)
    exported = jax.export.export(jax.jit(found.apply), platforms=["cuda", "tpu"])(found.params, pixels)
    assert "callback" not in exported.mlir_module()


def test_weights_in_several_files(checkpoint, pictures, rows, tmp_path):
    arrays = load_file(checkpoint("vit") / "model.safetensors")
    names = sorted(arrays)
    parts = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    copy_configuration(checkpoint("vit"), tmp_path)
    for file, part in parts.items():
        save_file({name: arrays[name] for name in part}, tmp_path / file)
    index = {"weight_map": {name: file for file, part in parts.items() for name in part}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    np.testing.assert_allclose(load_encoder(f"hf:{tmp_path}").encode(pictures), rows("vit"), atol=1e-6)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(UserError, match=r"names model-00002-of-00002.safetensors, missing in"):
        load_encoder(f"hf:{tmp_path}")
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": [1]}')
    with pytest.raises(UserError, match="index.json is damaged"):
        load_encoder(f"hf:{tmp_path}")


def test_the_towers_tensors_alone_are_read_and_each_once(checkpoint, pictures, rows, tmp_path, monkeypatch):
    """Of a sparse file of 8 GB, which starts with another part."""
    arrays = load_file(checkpoint("llava") / "model.safetensors")
    copy_configuration(checkpoint("llava"), tmp_path)
    content, header = save(arrays), {}
    length = int.from_bytes(content[:8], "little")
    for name, entry in json.loads(content[8 : 8 + length]).items():
        header[name] = entry | {"data_offsets": [offset + 2**33 for offset in entry["data_offsets"]]}
    header["language_model.large"] = {"dtype": "F16", "shape": [2**32], "data_offsets": [0, 2**33]}
    text = json.dumps(header).encode()
    with open(tmp_path / "model.safetensors", "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.seek(2**33, 1)
        file.write(content[8 + length :])
    read, listed = [], huggingface.list_tensors

    def counted(specification, files):
        found = listed(specification, files)
        note = lambda name: lambda array: read.append(name) or array  # noqa: E731
        return {name: tensor.then(tensor.shape, note(name)) for name, tensor in found.items()}

    monkeypatch.setattr(huggingface, "list_tensors", counted)
    encoder = load_encoder(f"hf:{tmp_path}?batch=8")
    assert sorted(read) == sorted(name for name in arrays if "vision_tower" in name)
    np.testing.assert_allclose(encoder.encode(pictures), rows("llava"), atol=1e-6)


def test_bfloat16_weights_on_disk(checkpoint, pictures, rows, tmp_path):
    copy_configuration(checkpoint("vit"), tmp_path)
    arrays = load_file(checkpoint("vit") / "model.safetensors")
    rounded = {name: array.astype(ml_dtypes.bfloat16) for name, array in arrays.items()}
    save_file(rounded, tmp_path / "model.safetensors")
    np.testing.assert_allclose(load_encoder(f"hf:{tmp_path}").encode(pictures), rows("vit"), atol=0.05)


@pytest.mark.parametrize("file", ["flax_model.msgpack", "model.safetensors"])
@pytest.mark.parametrize("name, prefix", [("clip", None), ("resnet", "resnet"), ("vit", "vit")])
def test_weights_in_flax_naming(name, prefix, file, checkpoint, pictures, rows, tmp_path):
    """As Flax classes write them, with a head where ``prefix`` is given; openai/clip-vit-base-patch32 comes so."""
    copy_configuration(checkpoint(name), tmp_path)
    tree = flax_tree(checkpoint(name), prefix)
    if file == "flax_model.msgpack":
        (tmp_path / file).write_bytes(flax.serialization.to_bytes(tree))
    else:
        flat = jax.tree.map(np.ascontiguousarray, flax.traverse_util.flatten_dict(tree, sep="."))
        save_file(flat, tmp_path / file, {"format": "flax"})
    np.testing.assert_allclose(load_encoder(f"hf:{tmp_path}").encode(pictures), rows(name), atol=1e-5)


def copy_configuration(source, target):
    for file in ("config.json", "preprocessor_config.json"):
        shutil.copy(source / file, target)


def flax_tree(directory, prefix):
    """The checkpoint as transformers' Flax classes wrote it."""
    tree = {}
    for name, array in load_file(directory / "model.safetensors").items():
        *above, last = name.split(".")
        statistics = last.startswith("running_")
        if last == "num_batches_tracked":
            continue
        if last == "weight":
            embedding = "position_embedding" in name
            last = "embedding" if embedding else "scale" if array.ndim == 1 else "kernel"
            array = array if embedding else np.transpose(array, {2: (1, 0), 4: (2, 3, 1, 0)}.get(array.ndim))
        if prefix == "resnet":  # the layers of a block have names there
            layers = [above[i - 1] == "layer" and part.isdigit() for i, part in enumerate(above)]
            above = [f"layer_{part}" if layer else part for part, layer in zip(above, layers, strict=True)]
        collection = [] if prefix != "resnet" else ["batch_stats" if statistics else "params"]
        path = (*collection, *([prefix] if prefix else []), *above, last.removeprefix("running_"))
        tree[path] = np.ascontiguousarray(array)
    if prefix == "vit":
        tree[("classifier", "kernel")] = np.zeros((32, 2), np.float32)
    return flax.traverse_util.unflatten_dict(tree)


WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None  # every import of it fails
import numpy as np
from jaxalign.vision.encoders import JaxEncoder, load_encoder
encoder = load_encoder(sys.argv[1], batch_size=5)
np.save(sys.argv[2], encoder.encode(np.load(sys.argv[3])))
"""


def test_checkpoints_of_pytorch_load_without_it(checkpoint, pictures, rows, tmp_path):
    np.save(tmp_path / "pictures.npy", pictures)
    command = [sys.executable, "-c", WITHOUT_TORCH, f"hf:{checkpoint('clip')}"]
    subprocess.run([*command, str(tmp_path / "rows.npy"), str(tmp_path / "pictures.npy")], check=True)
    np.testing.assert_allclose(np.load(tmp_path / "rows.npy"), rows("clip"), atol=1e-5)


def test_callers_64_bits_do_not_matter(checkpoint, pictures, rows):
    with jax.enable_x64(True):
        here = load_encoder(f"hf:{checkpoint('vit')}").encode(pictures)
    assert here.dtype == np.float32
    np.testing.assert_allclose(here, rows("vit"), atol=1e-5)
