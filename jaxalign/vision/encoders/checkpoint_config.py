"""A checkpoint's config.json, read value by value with the type that is expected."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn, TypeVar

import numpy as np

from jaxalign.vision.encoders.load import Specification

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Config:
    """The values of config.json, or of a part of it; what it leaves out has the default that the reader gives.

    Attributes:
      specification: that errors name.
      values: the parsed JSON object.
      place: where it stands, for errors.
    """

    specification: Specification
    values: Mapping[str, Any]
    place: str = "config.json"

    def refuse(self, why: str) -> NoReturn:
        """Raises a UserError that names the encoder and the place."""
        self.specification.refuse(f"{self.place}: {why}")

    def part(self, key: str) -> Config:
        """The object below a key; an empty one where the key is missing."""
        values = self.values.get(key) or {}
        if not isinstance(values, Mapping):
            self.refuse(f"{key} is expected to be an object, got {values!r}.")
        return Config(self.specification, values, f"{self.place}, {key}")

    def get(self, key: str, default: T, least: int = 1) -> T:
        """The value of a key, of its default's type: bool, int of at least ``least``, finite float, str, tuple."""
        value, listed = self.values.get(key, default), isinstance(default, tuple)
        kind: Any = type((*default, 0)[0]) if isinstance(default, tuple) else type(default)
        fits, expected = {
            bool: (lambda part: type(part) is bool, "true or false"),
            int: (lambda part: type(part) is int and part >= least, f"a whole number of at least {least}"),
            float: (lambda part: type(part) in (int, float) and np.isfinite(part), "a number"),
            str: (lambda part: type(part) is str, "a text"),
        }[kind]
        parts = value if listed and isinstance(value, (list, tuple)) else [value]
        if listed != isinstance(value, (list, tuple)) or not all(map(fits, parts)):
            self.refuse(f"{key} is expected to be {'a list, each ' * listed}{expected}, got {value!r}.")
        return tuple(map(kind, parts)) if listed else kind(value)  # pyright: ignore[reportReturnType]

    def choice(self, key: str, choices: Sequence[str]) -> str:
        """One of a few words; the first where the key is missing."""
        value = self.get(key, choices[0])
        if value not in choices:
            self.refuse(f"{key} is {value!r}, expected {' or '.join(choices)}.")
        return value

    def edges(self, key: str, default: int) -> tuple[int, int]:
        """(height, width) in pixels, from one number or from two."""
        value = self.values.get(key, default)
        pair = [value] * 2 if type(value) is int else value
        if not isinstance(pair, list | tuple) or [type(edge) is int and edge > 0 for edge in pair] != [
            True,
            True,
        ]:
            self.refuse(f"{key} is expected to be one or two numbers of pixels, got {value!r}.")
        return pair[0], pair[1]

    def fill(self, kind: Callable[..., T], defaults: Mapping[str, Any] = {}, **given: Any) -> T:
        """A dataclass of settings, by the keys that its fields name.

        Args:
          kind: the dataclass, its fields made by ``key``.
          defaults: by field, in place of those that the fields say.
          given: fields that are known otherwise.
        """
        for field in dataclasses.fields(kind):  # pyright: ignore[reportArgumentType]
            if field.name not in given and field.metadata:
                default = defaults.get(field.name, field.metadata["default"])
                given[field.name] = field.metadata["read"](self, field.metadata["key"], default)
        return kind(**given)


def key(name: str, default: Any, read: Callable[[Config, str, Any], Any] = Config.get) -> Any:
    """A field of settings: its key in config.json, what it is where the key is missing, and how it is read."""
    return dataclasses.field(metadata={"key": name, "default": default, "read": read})
