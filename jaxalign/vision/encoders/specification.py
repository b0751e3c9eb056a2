"""Specification strings: ``form:target?option=value&option=value``."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from jaxalign.core.errors import UserError

DTYPES = ("float32", "bfloat16")


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the caller asks of every encoder; an option in the specification goes before it.

    Attributes:
      batch_size: pictures in a batch; the form's own default where None.
      dtype: "float32" or "bfloat16", for encoders that run in JAX.
      devices: local devices to spread batches over; all of them where None.
    """

    batch_size: int | None = None
    dtype: str = "float32"
    devices: Sequence[Any] | None = None


@dataclasses.dataclass(frozen=True)
class Specification:
    """One parsed specification.

    Attributes:
      text: as the user gave it, for errors.
      form: "hf", "onnx", ...
      target: what follows the form, without the options.
      options: as text, in the order given.
    """

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
                self.refuse(
                    f"there is no option {key!r} for {self.form}:; there are {', '.join(sorted(known))}."
                )

    def choice(self, key: str, choices: Sequence[str], default: str) -> str:
        """One of a few words; case does not matter."""
        value = self.options.get(key, default).lower()
        if value not in choices:
            self.refuse(f"{key} is one of {', '.join(choices)}, got {self.options[key]!r}.")
        return value

    def count(self, key: str, default: int | None = None) -> int | None:
        """A positive whole number."""
        if key not in self.options:
            return default
        if not re.fullmatch(r"0*[1-9][0-9]{0,8}", self.options[key]):
            self.refuse(f"{key} is a positive whole number, got {self.options[key]!r}.")
        return int(self.options[key])

    def name(self, default: str) -> str:
        """The encoder's name: the option, or the default with unsafe letters replaced."""
        safe = r"[A-Za-z0-9_][A-Za-z0-9_.+@-]{0,99}"
        if "name" in self.options:
            if not re.fullmatch(safe, self.options["name"]):
                self.refuse(
                    f"name is made of letters, digits and _ . + @ - and starts with a letter, a digit or _, "
                    f"got {self.options['name']!r}."
                )
            return self.options["name"]
        return re.sub(r"[^A-Za-z0-9_.+@-]+", "-", default).lstrip(".+@-")[:100] or self.form

    def dtype(self, settings: Settings) -> str:
        """The number format of an encoder that runs in JAX."""
        if settings.dtype not in DTYPES:
            raise UserError(f"load_encoder: dtype is one of {', '.join(DTYPES)}, got {settings.dtype!r}.")
        return self.choice("dtype", DTYPES, settings.dtype)

    def batch_size(self, settings: Settings, default: int) -> int:
        """Pictures in a batch: the option, the caller's, or the form's own."""
        if settings.batch_size is not None and settings.batch_size < 1:
            raise UserError(
                f"load_encoder: batch_size is a positive whole number, got {settings.batch_size!r}."
            )
        return self.count("batch") or settings.batch_size or default

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


def parse(text: str, forms: Sequence[str]) -> Specification | None:
    """Splits a specification; None where no known form stands before the colon.

    Raises:
      UserError: nothing follows the form, or an option is not ``key=value`` or is given twice.
    """
    body, asked, query = text.partition("?")
    form, colon, target = body.partition(":")
    if not colon or form not in forms:
        return None
    specification = Specification(text, form, target)
    if not target:
        specification.refuse(f"something must follow {form}:, such as {form}:<...>.")
    options: dict[str, str] = {}
    for part in query.split("&") if asked else ():
        key, equals, value = part.partition("=")
        if not (key and equals and value):
            specification.refuse(f"options are written ?key=value&key=value, got {part!r}.")
        if key in options:
            specification.refuse(f"option {key!r} is given twice.")
        options[key] = value
    return dataclasses.replace(specification, options=options)


def first_line(error: Exception) -> str:
    """What another library says, short enough for a sentence of ours."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:300]}" if lines[0] else type(error).__name__
