"""Checkpoints that are not there, or not what hf: can run."""

import importlib.util
import json
import shutil

import huggingface_hub
import numpy as np
import pytest
import requests
from huggingface_hub import constants, errors
from safetensors.numpy import load_file, save_file

from jaxalign.core.errors import UserError
from jaxalign.vision.encoders import load_encoder


@pytest.fixture
def copied(checkpoint, tmp_path):
    return lambda name: shutil.copytree(checkpoint(name), tmp_path / name)


def change(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_no_network_is_said_with_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match="hub cannot be reached .* give a local directory instead, hf:"):
        load_encoder("nobody/nothing-of-this-name")


@pytest.mark.parametrize(
    "text, package",
    [("hf:org/name", "transformers"), ("hf:org/name", "flax"), ("onnx:f.onnx", "onnxruntime")],
)
def test_libraries_that_are_not_installed(text, package, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else found(name))
    with pytest.raises(UserError, match=rf"{package} is not installed; .*'jaxalign\[encoders\]'"):
        load_encoder(text)


def refusal(error, status):
    response = requests.Response()
    response.status_code = status
    return error(str(status), response=response)


@pytest.mark.parametrize(
    "raised, message",
    [
        (requests.exceptions.ConnectionError("no route"), "hub cannot be reached"),
        (errors.LocalEntryNotFoundError("not cached"), "hub cannot be reached"),
        (OSError(28, "No space left on device"), "cannot be stored in the hub's cache .*No space left"),
        (refusal(errors.GatedRepoError, 403), "asks for a licence to be accepted"),
        (refusal(errors.RepositoryNotFoundError, 404), "has no public repository org/name"),
        (refusal(errors.RevisionNotFoundError, 404), "has no revision 'v2'"),
    ],
)
def test_the_hubs_errors_become_a_sentence(raised, message, monkeypatch):
    def download(*args, **options):
        assert options["revision"] == "v2"
        raise raised

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(UserError, match=message):
        load_encoder("org/name?revision=v2")


def test_a_hub_checkpoint_is_its_downloaded_directory(checkpoint, pictures, rows, monkeypatch):
    """What is asked of the hub: no PyTorch pickles, and Flax's file only where there is no safetensors."""
    asked = []

    def download(repository, revision, allow_patterns):
        asked.append((repository, revision, allow_patterns))
        return str(checkpoint("vit"))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    encoder = load_encoder("vit?batch=8")
    assert encoder.name == "vit" and len(asked) == 1 and asked[0][:2] == ("google/vit-base-patch16-224", None)
    assert not any(pattern.endswith((".bin", ".msgpack", ".h5")) for pattern in asked[0][2])
    np.testing.assert_allclose(encoder.encode(pictures), rows("vit"), atol=1e-6)


@pytest.mark.parametrize("target", ["./not_there", "/not/there", "a/b/c", "~/not_there", "org/na me"])
def test_paths_that_are_not_there(target):
    with pytest.raises(UserError, match="there is no directory .* not a hub id"):
        load_encoder(f"hf:{target}")


def test_a_file_is_no_checkpoint(tmp_path):
    (file := tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match="is a file; hf: takes a checkpoint's directory or a hub id"):
        load_encoder(f"hf:{file}")


@pytest.mark.parametrize("kind", ["siglip", "bert", "vit_mae", None])
def test_classes_without_flax_are_refused_with_those_there_are(kind, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind} if kind else {}))
    message = f"model_type {kind!r}, .* no Flax vision class; there are beit, clip, .*vit.* give onnx:<file>"
    with pytest.raises(UserError, match=message):
        load_encoder(f"hf:{tmp_path}")


@pytest.mark.parametrize(
    "content, message",
    [
        ({"model_type": "clip", "vision_config": {"model_type": [[1]]}}, r"model_type \[\[1\]\]"),
        ({"model_type": "vit", "image_size": "large"}, "config.json is not understood by transformers"),
    ],
)
def test_values_of_other_types(content, message, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=message):
        load_encoder(f"hf:{tmp_path}")


@pytest.mark.parametrize(
    "file, message",
    [
        ("config.json", "config.json is missing in .* class is not known"),
        ("preprocessor_config.json", "preprocessor_config.json is missing in .* not guessed"),
        ("model.safetensors", "no weights in .*: expected model.safetensors, .*index.json or flax_model"),
    ],
)
def test_missing_files(file, message, copied):
    directory = copied("vit")
    (directory / file).unlink()
    with pytest.raises(UserError, match=message):
        load_encoder(f"hf:{directory}")


def test_pickled_weights_are_not_loaded_but_explained(copied):
    directory = copied("vit")
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")
    with pytest.raises(UserError, match="pytorch_model.bin is there, .*: .*safe_serialization=True"):
        load_encoder(f"hf:{directory}")


def test_damaged_weights(copied):
    directory = copied("vit")
    content = (directory / "model.safetensors").read_bytes()
    (directory / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="holds weights that cannot be read"):
        load_encoder(f"hf:{directory}")


def test_weights_of_another_checkpoint(copied, checkpoint):
    directory = copied("vit")
    change(directory / "config.json", hidden_size=16)
    with pytest.raises(UserError, match="the weights do not fit config.json"):
        load_encoder(f"hf:{directory}")
    shutil.copy(checkpoint("resnet") / "model.safetensors", directory)
    with pytest.raises(UserError, match=r"of \d+ arrays that FlaxViTModel needs are not in the checkpoint"):
        load_encoder(f"hf:{directory}")


def test_incomplete_weights(copied):
    directory = copied("beit")
    arrays = load_file(directory / "model.safetensors")
    del arrays["encoder.layer.1.output.dense.weight"]
    save_file(arrays, directory / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"1 of \d+ arrays .* among them encoder.layer.1.output.dense.kernel"):
        load_encoder(f"hf:{directory}")


def test_a_preprocessor_of_another_size(copied):
    directory = copied("vit")
    change(directory / "preprocessor_config.json", size={"height": 32, "width": 32})
    with pytest.raises(UserError, match="makes pictures of 32 × 32 pixels, the network takes 24 × 24"):
        load_encoder(f"hf:{directory}")


@pytest.mark.parametrize(
    "name, pooling, has",
    [
        ("resnet", "cls", "mean, pooler"),
        ("resnet", "projected", "mean, pooler"),
        ("vit", "projected", "cls, mean, pooler"),
        ("vit_classifier", "pooler", "cls, mean"),
    ],
)
def test_poolings_that_a_class_does_not_have(name, pooling, has, checkpoint):
    with pytest.raises(UserError, match=f"with these weights has no pooling '{pooling}'; it has {has}"):
        load_encoder(f"hf:{checkpoint(name)}?pooling={pooling}")


def test_classes_that_transformers_cannot_build(copied):
    directory = copied("regnet")
    change(directory / "config.json", layer_type="x")
    with pytest.raises(UserError, match="cannot build FlaxRegNetModel from this .* export .* to ONNX"):
        load_encoder(f"hf:{directory}")


def test_an_encoder_says_what_its_numbers_depend_on(checkpoint):
    told = load_encoder(f"hf:{checkpoint('dinov2_resampled')}?name=dino").describe()
    assert (told["class"], told["pooling"], len(told["weights_sha256"])) == ("FlaxDinov2Model", "cls", 64)
    assert told["preprocessing"]["crop"] == [24, 24] and json.loads(json.dumps(told)) == told
