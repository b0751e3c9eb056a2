"""Encoders by a specification string: its parts, short names, and the function that loads each form."""

import dataclasses
import difflib
import importlib
import importlib.util
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

from jaxalign.core.errors import UserError
from jaxalign.vision.encoders.encoder import Encoder

# The published checkpoint of each encoder; docs/encoders.md says what is taken as its embedding, and why.
RESOLVED = {
    "adaface": "hf:minchul/cvlface_adaface_ir101_ms1mv2",
    "align": "hf:kakaobrain/align-base",
    "arcface": "hf:minchul/cvlface_arcface_ir101_webface4m",
    "blip2": "hf:Salesforce/blip2-opt-2.7b",
    "clip": "hf:openai/clip-vit-base-patch32",
    "dinov2": "hf:facebook/dinov2-base",
    "florence2": "hf:florence-community/Florence-2-base",
    "internvl3": "hf:OpenGVLab/InternVL3-1B-hf",
    "kosmos2": "hf:microsoft/kosmos-2-patch14-224",
    "kprpe": "hf:minchul/cvlface_adaface_vit_base_kprpe_webface4m",
    "llava": "hf:llava-hf/llava-1.5-7b-hf",
    "sam": "hf:facebook/sam-vit-base",
    "vit": "hf:google/vit-base-patch16-224",
}

# Elsewhere: what to give instead. docs/encoders.md has the table.
GIVE = {
    "magface": "its authors publish a PyTorch file of ir100; convert it by python -m experiments.convert_weights "
    "--weights=magface_epoch_00025.pth --out=magface.safetensors and give face:magface.safetensors",
}

ALIASES = (*RESOLVED, *GIVE)
DTYPES = ("float32", "bfloat16")
MOST_PIXELS = 1 << 28  # numbers of a batch, 1 GiB in float32


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the caller asks of every encoder, see ``load_encoder``; options in the specification go before it."""

    batch_size: int | None = None
    dtype: str = "float32"
    devices: Sequence[Any] | None = None


@dataclasses.dataclass(frozen=True)
class Specification:
    """One parsed specification: the user's text, the form ("hf", ...), what follows it, and the options as text."""

    text: str
    form: str
    target: str
    options: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def refuse(self, why: str) -> NoReturn:
        """Raises a UserError that names the specification."""
        raise UserError(f"encoder {self.text!r}: {why}")

    def only(self, *known: str) -> None:
        """Refuses options that this form does not have."""
        for key in self.options:
            if key not in known:
                there = ", ".join(sorted(known))
                self.refuse(f"there is no option {key!r} for {self.form}:; there are {there}.")

    def require_installed(self, *packages: str) -> None:
        """Refuses a form whose libraries are not installed."""
        for package in packages:
            if importlib.util.find_spec(package) is None:
                install = "pip install 'jaxalign[encoders]'"
                self.refuse(f"{package} is not installed; {self.form}: needs {install}.")

    def choice(self, key: str, choices: Sequence[str], default: str) -> str:
        """One of a few words; case does not matter."""
        value = self.options.get(key, default).lower()
        if value not in choices:
            self.refuse(f"{key} is one of {', '.join(choices)}, got {self.options[key]!r}.")
        return value

    def count(self, key: str) -> int | None:
        """A positive whole number; None where the option is not given."""
        value = self.options.get(key)
        if value is not None and not re.fullmatch(r"0*[1-9][0-9]{0,8}", value):
            self.refuse(f"{key} is a positive whole number, got {value!r}.")
        return None if value is None else int(value)

    def name(self, default: str) -> str:
        """The encoder's name: the option, or the default with unsafe letters replaced."""
        name = self.options.get("name")
        if name is None:
            return re.sub(r"[^A-Za-z0-9_.+@-]+", "-", default).lstrip(".+@-")[:100] or self.form
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.+@-]{0,99}", name):
            self.refuse(
                f"name is made of letters, digits and _ . + @ -, first a letter, a digit or _; got {name!r}."
            )
        return name

    def dtype(self, settings: Settings) -> str:
        """The number format of an encoder that runs in JAX."""
        if settings.dtype not in DTYPES:
            raise UserError(f"load_encoder: dtype is one of {', '.join(DTYPES)}, got {settings.dtype!r}.")
        return self.choice("dtype", DTYPES, settings.dtype)

    def batch_size(self, settings: Settings, default: int) -> int:
        """Pictures in a batch: the option, the caller's, or the form's own."""
        asked = settings.batch_size
        if asked is not None and asked < 1:
            raise UserError(f"load_encoder: batch_size is a positive whole number, got {asked!r}.")
        return self.count("batch") or asked or default

    def require_room(self, edges: tuple[int, int], count: int) -> None:
        """Refuses batches of ``count`` pictures (height, width) that are too large, before one is made."""
        height, width = edges
        numbers = 3 * height * width * count
        if numbers > MOST_PIXELS:
            size = f"{count:,} pictures of {height} × {width} pixels"
            self.refuse(f"a batch of {size} takes {4 * numbers / 2**30:,.1f} GiB, at most 1 GiB is allowed.")

    def numbers(self, key: str, text: str | None) -> tuple[float, float, float] | None:
        """One number for all channels or three, separated by ``:`` or ``,``."""
        if text is None:
            return None
        try:
            values = [float(part) for part in re.split("[:,]", text)]
        except ValueError:
            values = []
        if len(values) not in (1, 3):
            self.refuse(f"{key} is one number or three separated by colons, got {text!r}.")
        red, green, blue = values * (3 // len(values))
        return red, green, blue


class Form(NamedTuple):
    """How one kind of specification is written, and its loader in this package, imported when needed."""

    written: str
    loader: str


# A new kind of encoder is a new file and a row here; its loader takes a ``Specification`` and ``Settings``.
FORMS = {
    "hf": Form("hf:<hub id or local directory>", "huggingface:load_huggingface"),
    "face": Form("face:<file.safetensors or directory>", "face_encoder:load_face"),
    "onnx": Form("onnx:<file>", "onnx_encoder:OnnxEncoder"),
    "zoo": Form("zoo:<name>", "jax_encoder:load_zoo"),
    "pixels": Form("pixels:<edge>", "jax_encoder:load_pixels"),
    "python": Form("python:<module>:<callable>", "jax_encoder:load_python"),
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
    load = getattr(importlib.import_module(f"jaxalign.vision.encoders.{module}"), function)
    encoder = load(parsed, Settings(batch_size, dtype, devices))
    parsed.require_room(encoder.preprocessing.size, encoder.batch_size)
    return encoder


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
    form, colon, target = body.partition(":")
    if not colon or form not in FORMS:
        raise _unknown(text, body)
    options: dict[str, str] = {}
    parsed = Specification(body + asked + query, form, target, options)
    if not target:
        parsed.refuse(f"something must follow {form}:, such as {form}:<...>.")
    for part in query.split("&") if asked else ():
        key, equals, value = part.partition("=")
        if not (key and equals and value):
            parsed.refuse(f"options are written ?key=value&key=value, got {part!r}.")
        if key in options:
            parsed.refuse(f"option {key!r} is given twice.")
        options[key] = value
    return parsed


def first_line(error: Exception) -> str:
    """What another library says, short enough for a sentence of ours."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__


def _unknown(text: str, body: str) -> UserError:
    """Says which forms there are, with a hint where the form was left out or misspelt."""
    form, colon, target = body.partition(":")
    meant = ""
    if colon and (close := difflib.get_close_matches(form, FORMS, 1)):
        meant = f"{close[0]}:{target}"
    elif body.endswith(".onnx"):
        meant = f"onnx:{body}"
    elif body.endswith(".safetensors"):
        meant = f"face:{body}"
    elif body and pathlib.Path(body).is_dir():
        meant = f"hf:{body}"
    hint = f" (did you mean {meant}?)" if meant else ""
    forms = ", ".join(form.written for form in FORMS.values())
    return UserError(
        f"encoder {text!r} is not known{hint}; the forms are {forms}, a bare hub id org/name, and the names "
        f"{', '.join(RESOLVED)}; options follow as ?key=value&key=value."
    )
