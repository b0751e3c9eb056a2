"""``python:<module>:<callable>``, with the module that docs/encoders.md shows."""

import importlib
import os
import re
import sys

import jax
import numpy as np
import pytest
from documentation import documented

from jaxalign.core.errors import UserError
from jaxalign.vision.encoders import Encoder, load_encoder

MODULE = """
import types

import numpy as np

from jaxalign.vision.encoders import Preprocessing

PREPROCESSING = Preprocessing(size=(4, 4), resize=(4, 4), rescale=1 / 255, mean=(0.5,) * 3, std=(0.5,) * 3)

def mean_colour(scale="1"):
    def apply(params, pixels):
        return pixels.mean((1, 2)) * params["scale"]
    return apply, {"scale": np.float32(scale)}, PREPROCESSING

def with_mapping():
    apply, params, _ = mean_colour()
    return apply, params, {"size": (4, 4)}

class Own:
    name, dim, batch_size, preprocessing = "own", 3, 1, PREPROCESSING
    def prepare(self, image): return self.preprocessing.prepare(image)
    def encode(self, images): return images.mean((1, 2)).astype(np.float32)
    def describe(self): return {}

def nothing(): return None
def half(): return types.SimpleNamespace(name="half", dim=3)
def pair(): return mean_colour()[:2]
def wrong_fields(): return (*mean_colour()[:2], {"height": 4})
def wrong_preprocessing(): return (*mean_colour()[:2], 4)
def broken(): raise RuntimeError("of the user's own")
number = 3
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "their_encoders.py").write_text(MODULE)
    (tmp_path / "needs_more.py").write_text("import a_package_that_is_not_there\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield "python:their_encoders"
    for name in ("their_encoders", "needs_more"):
        sys.modules.pop(name, None)


def test_function_weights_and_preprocessing(module):
    encoder = load_encoder(f"{module}:mean_colour?scale=2&name=colour&batch=8")
    images = np.random.default_rng(0).integers(0, 256, (11, 4, 4, 3), dtype=np.uint8)
    assert isinstance(encoder, Encoder)
    assert (encoder.name, encoder.dim, encoder.batch_size) == ("colour", 3, 8)
    np.testing.assert_allclose(encoder.encode(images), (images.mean((1, 2)) / 255 - 0.5) / 0.5 * 2, atol=1e-5)
    assert encoder.describe()["source"] == "their_encoders:mean_colour"


def test_an_encoder_of_their_own_a_preprocessing_as_a_mapping_and_the_default_name(module):
    own = load_encoder(f"{module}:Own")
    assert own.name == "own" and isinstance(own, Encoder)
    encoder = load_encoder(f"{module}:with_mapping", devices=jax.local_devices()[:1], batch_size=3)
    assert (encoder.name, encoder.batch_size) == ("with_mapping", 3)
    assert encoder.encode(np.full((1, 4, 4, 3), 7, np.uint8))[0, 0] == pytest.approx(7)


EDITS = {
    "its own code": ("their_encoders.py", "return pixels.mean", "return -pixels.mean", True),
    "what it imports": ("their_parts/colours.py", "0.5", "0.25", True),
    "a file of an option": ("weights/w.bin", "1", "2", True),
    "a file that nobody imports": ("unused.py", "1", "2", False),
}


@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize("callable", ["mean_colour", "Own"])
def test_what_it_was_made_from_is_described(module, tmp_path, edit, callable):
    """A program that runs anew after an edit must tell the encoder from the one before."""
    (tmp_path / "their_parts").mkdir()
    (tmp_path / "weights").mkdir()
    (tmp_path / "their_parts" / "__init__.py").write_text("from . import colours")
    for name, text in (("their_parts/colours.py", "x = 0.5"), ("weights/w.bin", "1"), ("unused.py", "1")):
        (tmp_path / name).write_text(text)
    source = (tmp_path / "their_encoders.py").read_text()
    source = source.replace("def pair()", "def lazily():\n    import their_parts\n\ndef pair()")
    source = source.replace('scale="1"', 'scale="1", weights=""').replace("class Own:", OWN_WITH_WEIGHTS)
    (tmp_path / "their_encoders.py").write_text(source)

    def described():
        for name in [name for name in sys.modules if name.startswith("their_")]:
            del sys.modules[name]
        importlib.invalidate_caches()
        return load_encoder(f"{module}:{callable}?weights={tmp_path / 'weights'}").describe()

    before = described()
    assert described() == before
    name, old, new, counts = EDITS[edit]
    (tmp_path / name).write_text((tmp_path / name).read_text().replace(old, new))
    assert (described() != before) == counts


OWN_WITH_WEIGHTS = """class Own:
    def __init__(self, weights=""): pass"""


def test_weights_and_constants_that_no_file_shows_are_described(module, tmp_path):
    """The same code, given other numbers by something that is not looked at."""
    (tmp_path / "their_encoders.py").write_text(MODULE + CONSTANT)
    told = []
    for number in ("1", "2"):
        sys.modules.pop("their_encoders", None)
        os.environ["THEIR_NUMBER"] = number
        told.append([load_encoder(f"{module}:{name}").describe() for name in ("weight", "constant")])
    for before, after in zip(*told):
        assert before["code_sha256"] == after["code_sha256"]
        assert before["program_sha256"] != after["program_sha256"]


CONSTANT = """
import os
def weight(): return lambda w, pixels: pixels.mean((1, 2)) * w, np.float32(os.environ["THEIR_NUMBER"]), PREPROCESSING
def constant():
    number = np.full(3, float(os.environ["THEIR_NUMBER"]), np.float32)
    return lambda _, pixels: pixels.mean((1, 2)) * number, {}, PREPROCESSING
"""


@pytest.mark.parametrize(
    "rest, message",
    [
        (":nothing", "must return (apply, params, preprocessing) or an object with name, dim"),
        (":half", "SimpleNamespace without batch_size, preprocessing"),
        (":pair", "must return (apply, params, preprocessing), got a tuple of 2"),
        (":wrong_fields", "returned a preprocessing that does not fit"),
        (":wrong_preprocessing", "returned int as preprocessing, expected a Preprocessing"),
        (":number", "number in their_encoders is int, expected a callable"),
        (":missing", "module their_encoders has no missing"),
        (":mean_colour?colour=3", "mean_colour does not take the options ['colour']"),
        (":Own?name=other", "returns an encoder of its own, which name cannot change"),
    ],
)
def test_what_does_not_fit_is_refused(module, rest, message):
    with pytest.raises(UserError, match=re.escape(message)):
        load_encoder(module + rest)


def test_modules_that_are_not_there(module):
    with pytest.raises(UserError, match=r"there is no module not_there\.at_all on Python's path"):
        load_encoder("python:not_there.at_all:make")
    with pytest.raises(UserError, match="needs_more needs a_package_that_is_not_there, which is not"):
        load_encoder("python:needs_more:make")


def test_the_users_own_exceptions_are_left_alone(module):
    with pytest.raises(RuntimeError, match="of the user's own"):
        load_encoder(f"{module}:broken")


def test_the_example_in_the_documentation_works(tmp_path, monkeypatch):
    (tmp_path / "my_encoders_in_docs.py").write_text(documented("test_python_form.py"))
    monkeypatch.syspath_prepend(tmp_path)
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    encoder = load_encoder("python:my_encoders_in_docs:projection?seed=3")
    weights = np.random.default_rng(3).normal(size=(32 * 32 * 3, 64)) / 32
    expected = ((images / 255 - 0.5) / 0.5).reshape(3, -1) @ weights
    np.testing.assert_allclose(encoder.encode(images), expected, atol=1e-4)
