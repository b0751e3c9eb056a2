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
    [("hf:org/name", "flax"), ("onnx:f.onnx", "onnxruntime")],
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


def test_what_is_asked_of_the_hub(checkpoint, pictures, rows, monkeypatch):
    """Configuration first, then weights; no PyTorch pickles, and Flax's file only where there is no safetensors."""
    asked = []

    def download(repository, revision, allow_patterns):
        asked.append((repository, revision, *allow_patterns))
        return str(checkpoint("vit"))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    encoder = load_encoder("vit?batch=8&revision=v2")
    assert encoder.name == "vit" and len(asked) == 2
    assert all(question[:2] == ("google/vit-base-patch16-224", "v2") for question in asked)
    assert "config.json" in asked[0] and asked[1][2:] == ("model.safetensors",)
    np.testing.assert_allclose(encoder.encode(pictures), rows("vit"), atol=1e-6)


def test_files_without_a_tensor_of_the_tower_are_not_downloaded(
    checkpoint, pictures, rows, tmp_path, monkeypatch
):
    """Of a language model with a tower inside, the parts that hold the tower are enough, on disk as well."""
    arrays = load_file(checkpoint("llava") / "model.safetensors")
    tower = {name: array for name, array in arrays.items() if "vision_tower" in name}
    files = {name: f"model-0000{1 + (name in tower)}-of-00002.safetensors" for name in arrays}
    save_file(tower, tmp_path / "model-00002-of-00002.safetensors", {"format": "pt"})
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    for name in ("config.json", "preprocessor_config.json"):
        shutil.copy(checkpoint("llava") / name, tmp_path)
    asked = []

    def download(repository, revision, allow_patterns):
        asked.append(allow_patterns)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    for specification in ("org/name?batch=8", f"hf:{tmp_path}?batch=8"):
        np.testing.assert_allclose(load_encoder(specification).encode(pictures), rows("llava"), atol=1e-6)
    assert asked[1:] == [["model-00002-of-00002.safetensors"]]


@pytest.mark.parametrize("target", ["./not_there", "/not/there", "a/b/c", "~/not_there", "org/na me"])
def test_paths_that_are_not_there(target):
    with pytest.raises(UserError, match="there is no directory .* not a hub id"):
        load_encoder(f"hf:{target}")


def test_a_file_is_no_checkpoint(tmp_path):
    (file := tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match="is a file; hf: takes a checkpoint's directory or a hub id"):
        load_encoder(f"hf:{file}")


@pytest.mark.parametrize("kind", ["bert", "vit_mae", None])
def test_families_without_a_tower_are_refused_with_those_there_are(kind, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind} if kind else {}))
    message = f"model_type is {kind!r}, .* no vision tower for it; there are .*beit, .*clip, .*vit.* give onnx:<file>"
    with pytest.raises(UserError, match=message):
        load_encoder(f"hf:{tmp_path}")


@pytest.mark.parametrize(
    "content, message",
    [
        ({"vision_config": {"model_type": [[1]]}, "model_type": "llava"}, r"model_type is \[\[1\]\]"),
        ({"vision_config": 3, "model_type": "clip"}, "vision_config is expected to be an object, got 3"),
        ({"image_size": "large"}, "image_size .* got 'large'"),
        ({"image_size": [24]}, r"image_size .* got \[24\]"),
        ({"image_size": 4}, r"image_size \(4, 4\) is smaller than patch_size \(8, 8\)"),
        ({"hidden_size": 0}, "hidden_size .* at least 1, got 0"),
        ({"hidden_size": True}, "hidden_size .* got True"),
        ({"num_attention_heads": 5}, "hidden_size 32 is no multiple of num_attention_heads 5"),
        ({"layer_norm_eps": None}, "layer_norm_eps .* got None"),
        ({"qkv_bias": "yes"}, "qkv_bias is expected to be true or false, got 'yes'"),
        ({"pooler_act": "relu"}, "pooler_act is 'relu', expected tanh"),
        ({"hidden_act": "mish"}, "hidden_act is 'mish'; known activations are gelu, "),
        ({"quantization_config": {"bits": 4}}, "the checkpoint is quantised"),
    ],
)
def test_values_that_mean_nothing(content, message, copied):
    change((directory := copied("vit")) / "config.json", **content)
    with pytest.raises(UserError, match=f"config.json.*: {message}"):
        load_encoder(f"hf:{directory}")


@pytest.mark.parametrize(
    "file, message",
    [
        ("config.json", "config.json is missing in .* kind is not known"),
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
    with pytest.raises(
        UserError, match="convert_weights --weights=.*pytorch_model.bin --out=.*model.safetensors"
    ):
        load_encoder(f"hf:{directory}")


def test_a_repository_of_pickles_alone_is_explained(copied, monkeypatch):
    (directory := copied("vit")).joinpath("model.safetensors").unlink()
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(directory))
    with pytest.raises(UserError, match="huggingface-cli download org/name .*convert_weights --weights="):
        load_encoder("org/name")


def test_damaged_weights(copied):
    directory = copied("vit")
    content = (directory / "model.safetensors").read_bytes()
    (directory / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="holds weights that cannot be read"):
        load_encoder(f"hf:{directory}")


def test_weights_of_another_checkpoint(copied, checkpoint):
    directory = copied("vit")
    change(directory / "config.json", hidden_size=16)
    with pytest.raises(UserError, match=r"vit.* tensor encoder.layer.0.* has shape \(.*\), .* needs \("):
        load_encoder(f"hf:{directory}")
    shutil.copy(checkpoint("resnet") / "model.safetensors", directory)
    with pytest.raises(UserError, match=r"of \d+ tensors that the network needs are not in the checkpoint"):
        load_encoder(f"hf:{directory}")


def test_incomplete_weights(copied):
    directory = copied("beit")
    arrays = load_file(directory / "model.safetensors")
    del arrays["encoder.layer.1.output.dense.weight"]
    save_file(arrays, directory / "model.safetensors", {"format": "pt"})
    with pytest.raises(
        UserError, match=r"1 of \d+ tensors .* among them encoder.layer.1.output.dense.weight"
    ):
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


def test_tensors_that_have_no_place(copied):
    """Such as those of a third block where config.json says two."""
    directory = copied("vit")
    change(directory / "config.json", num_hidden_layers=1)
    with pytest.raises(UserError, match=r"holds encoder.layer.1\..*, one of 16 tensors .* no place for"):
        load_encoder(f"hf:{directory}")


def test_quantised_tensors(copied):
    directory = copied("vit")
    arrays = load_file(directory / "model.safetensors")
    arrays["encoder.layer.1.output.dense.weight"] = arrays["encoder.layer.1.output.dense.weight"].astype(
        np.int8
    )
    save_file(arrays, directory / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match="encoder.layer.1.output.dense.weight in .* of type I8, .* quantised"):
        load_encoder(f"hf:{directory}")


@pytest.mark.parametrize(
    "option, message",
    [
        ("layer=first", "layer is a whole number such as 6 or -2, got 'first'"),
        ("layer=3", r"layer 3 is not there; there are 0 .* to 2 .*, and -1 to -3"),
        ("layer=-4", "layer -4 is not there"),
        ("layer=1&pooling=pooler", "has no pooling 'pooler' at layer 1; it has cls, mean"),
    ],
)
def test_layers_that_are_not_there(option, message, checkpoint):
    with pytest.raises(UserError, match=message):
        load_encoder(f"hf:{checkpoint('vit')}?{option}")


def test_an_encoder_says_what_its_numbers_depend_on(checkpoint):
    told = load_encoder(f"hf:{checkpoint('dinov2_resampled')}?name=dino").describe()
    assert (told["model_type"], told["pooling"], len(told["weights_sha256"])) == ("dinov2", "cls", 64)
    assert told["preprocessing"]["crop"] == [24, 24] and json.loads(json.dumps(told)) == told
