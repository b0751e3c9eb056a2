"""Specification strings: forms, bare hub ids, aliases, options."""

import pytest

from jaxalign.core.errors import UserError
from jaxalign.vision.encoders import ALIASES, FORMS, load_encoder, parse_specification
from jaxalign.vision.encoders.load import GIVE, RESOLVED

FACES = ("arcface", "adaface", "magface", "kprpe")
OTHERS = ("clip", "align", "dinov2", "sam", "blip2", "llava", "kosmos2", "internvl3", "florence2", "vit")


@pytest.mark.parametrize(
    "text, form, target, options",
    [
        ("hf:some/dir/deep", "hf", "some/dir/deep", {}),
        ("org/name", "hf", "org/name", {}),
        ("org/name?pooling=mean", "hf", "org/name", {"pooling": "mean"}),
        (" onnx:C:/f.onnx?mean=1:2:3&std=4 ", "onnx", "C:/f.onnx", {"mean": "1:2:3", "std": "4"}),
        ("python:my.module:make", "python", "my.module:make", {}),
        ("clip", "hf", "openai/clip-vit-base-patch32", {"name": "clip"}),
        ("clip?pooling=pooler", "hf", "openai/clip-vit-base-patch32", {"pooling": "pooler", "name": "clip"}),
        ("vit?name=mine", "hf", "google/vit-base-patch16-224", {"name": "mine"}),
    ],
)
def test_what_a_specification_means(text, form, target, options):
    parsed = parse_specification(text)
    assert (parsed.form, parsed.target, dict(parsed.options)) == (form, target, options)


UNKNOWN = ["", "resnet50", "tf:model", "a/b/c", "http://example.org/m.onnx", "zoom:x", "Clip"]


@pytest.mark.parametrize("text", UNKNOWN)
def test_unknown_ones_are_refused_with_the_forms_there_are(text):
    with pytest.raises(UserError) as refused:
        load_encoder(text)
    assert all(form.written in str(refused.value) for form in FORMS.values())
    assert "bare hub id org/name" in str(refused.value) and ", ".join(RESOLVED) in str(refused.value)


def test_a_forgotten_form_is_guessed_in_the_message(tmp_path):
    with pytest.raises(UserError, match=r"did you mean onnx:./w600k.onnx\?"):
        load_encoder("./w600k.onnx")
    with pytest.raises(UserError, match=r"did you mean face:./magface.safetensors\?"):
        load_encoder("./magface.safetensors")
    with pytest.raises(UserError, match=r"did you mean hf:/"):
        load_encoder(str(tmp_path))
    with pytest.raises(UserError, match=r"did you mean onnx:C:/w600k.onnx\?"):
        load_encoder("onx:C:/w600k.onnx")


@pytest.mark.parametrize(
    "text, message",
    [
        ("hf:", "something must follow hf:"),
        ("onnx:?mean=1", "something must follow onnx:"),
        ("hf:x?", r"options are written \?key=value&key=value, got ''"),
        ("hf:x?pooling", "got 'pooling'"),
        ("hf:x?dtype=", "got 'dtype='"),
        ("hf:x?batch=1&batch=2", "option 'batch' is given twice"),
        (
            "hf:x?color=rgb",
            "no option 'color' for hf:; there are batch, dtype, flip, keypoints, layer, name, pooling, revision",
        ),
        ("hf:x?dtype=int8", "dtype is one of float32, bfloat16, got 'int8'"),
        ("hf:x?pooling=max", "pooling is one of cls, mean, pooler, projected, got 'max'"),
        ("hf:x?batch=0", "batch is a positive whole number, got '0'"),
        ("hf:x?batch=many", "batch is a positive whole number"),
        ("pixels:8?batch=10000000", "a batch of 10,000,000 pictures of 8 × 8 pixels takes 7.2 GiB"),
        ("onnx:x?pooling=mean", "no option 'pooling' for onnx:"),
        ("python:module", "expected python:<module>:<callable>"),
    ],
)
def test_malformed_ones_are_refused(text, message):
    with pytest.raises(UserError, match=message):
        load_encoder(text)


def test_batches_that_are_too_large_are_refused_before_weights_are_read(monkeypatch):
    read = []
    monkeypatch.setattr("jaxalign.vision.encoders.jax_encoder.JaxEncoder", lambda *_, **__: read.append(1))
    with pytest.raises(UserError, match="at most 1 GiB is allowed"):
        load_encoder("pixels:8", batch_size=10_000_000)
    assert not read


def test_arguments_are_checked_too():
    with pytest.raises(UserError, match="load_encoder: dtype is one of float32, bfloat16, got 'float16'"):
        load_encoder("hf:x", dtype="float16")
    with pytest.raises(UserError, match="load_encoder: batch_size is a positive whole number, got 0"):
        load_encoder("hf:x", batch_size=0)


def test_the_papers_fourteen_all_resolve_or_say_what_to_give():
    assert set(ALIASES) == {*FACES, *OTHERS} and not set(RESOLVED) & set(GIVE)
    for name in RESOLVED:
        assert parse_specification(name).form == "hf"
    for name in GIVE:
        with pytest.raises(UserError, match=f"'{name}' cannot be loaded by its name alone: .*give face:"):
            load_encoder(name)


@pytest.mark.parametrize(
    "given, name",
    [("CLIP ViT-B/32", "CLIP-ViT-B-32"), (".hidden", "hidden"), ("…", "hf"), ("a" * 200, "a" * 100)],
)
def test_names_become_safe_for_files(given, name):
    assert parse_specification("hf:x").name(given) == name


def test_an_unsafe_name_is_refused():
    with pytest.raises(UserError, match="name is made of letters, digits"):
        parse_specification("hf:x?name=a/b").name("x")
