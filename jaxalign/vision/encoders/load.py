"""From a specification string to an encoder: one table of forms."""

import importlib
import pathlib
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from jaxalign.core.errors import UserError
from jaxalign.vision.encoders.aliases import GIVE, RESOLVED
from jaxalign.vision.encoders.base import Encoder
from jaxalign.vision.encoders.specification import Settings, Specification, parse


class Form(NamedTuple):
    """How one kind of specification is written and what loads it.

    Attributes:
      written: as a user writes it, for help and errors.
      loader: "module:function", imported when needed; called with a ``Specification`` and ``Settings``.
    """

    written: str
    loader: str


# A new kind of encoder is a new file and a row here.
FORMS = {
    "hf": Form("hf:<hub id or local directory>", "jaxalign.vision.encoders.huggingface:load_huggingface"),
    "onnx": Form("onnx:<file>", "jaxalign.vision.encoders.onnx_encoder:load_onnx"),
    "zoo": Form("zoo:<name>", "jaxalign.vision.encoders.zoo_form:load_zoo"),
    "pixels": Form("pixels:<edge>", "jaxalign.vision.encoders.pixels_form:load_pixels"),
    "python": Form("python:<module>:<callable>", "jaxalign.vision.encoders.python_form:load_python"),
}
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def load_encoder(
    specification: str,
    *,
    batch_size: int | None = None,
    dtype: str = "float32",
    devices: Sequence[Any] | None = None,
) -> Encoder:
    """Loads the encoder that a specification names; docs/encoders.md has all forms and options.

    Args:
      specification: ``form:target?option=value&...``, a bare hub id ``org/name``, or an alias such as ``clip``. Options
        in it go before the arguments below.
      batch_size: pictures in one batch; the form's own default where None.
      dtype: "float32" or "bfloat16", for encoders that run in JAX.
      devices: local devices to spread batches over, for encoders that run in JAX; all where None.

    Raises:
      UserError: the specification is unknown or malformed, or what it names cannot be loaded.
    """
    parsed = parse_specification(specification)
    module, function = FORMS[parsed.form].loader.split(":")
    load = getattr(importlib.import_module(module), function)
    return load(parsed, Settings(batch_size, dtype, devices))


def parse_specification(specification: str) -> Specification:
    """Splits a specification, with aliases and bare hub ids resolved; opens no file.

    Raises:
      UserError: it is unknown or malformed.
    """
    text = specification.strip()
    body, asked, query = text.partition("?")
    if body in GIVE:
        raise UserError(f"encoder {text!r} cannot be loaded by its name alone: {GIVE[body]}.")
    if body in RESOLVED:
        query = query if re.search("(^|&)name=", query) else "&".join(filter(None, [query, f"name={body}"]))
        body, asked = RESOLVED[body], "?"
    elif _HUB_ID.fullmatch(body):
        body = f"hf:{body}"
    parsed = parse(body + asked + query, tuple(FORMS))
    if parsed is not None:
        return parsed
    raise UserError(f"encoder {text!r} is not known{_meant(body)}; the forms are {forms_in_words()}.")


def forms_in_words() -> str:
    """All forms, for help and errors."""
    written = ", ".join(form.written for form in FORMS.values())
    names = ", ".join(RESOLVED)
    return f"{written}, a bare hub id org/name, and the names {names}; options follow as ?key=value&key=value"


def _meant(body: str) -> str:
    """A hint where the form was left out."""
    if body.endswith(".onnx"):
        return f" (did you mean onnx:{body}?)"
    if body and pathlib.Path(body).is_dir():
        return f" (did you mean hf:{body}?)"
    return ""
