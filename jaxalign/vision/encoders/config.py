"""A checkpoint's config.json, read value by value with the type that is expected."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import numpy as np

from jaxalign.vision.encoders.load import Specification


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

    def count(self, key: str, default: int, least: int = 1) -> int:
        """A whole number of at least ``least``."""
        value = self.values.get(key, default)
        if type(value) is not int or value < least:
            self.refuse(f"{key} is expected to be a whole number of at least {least}, got {value!r}.")
        return value

    def number(self, key: str, default: float) -> float:
        """A finite number."""
        value = self.values.get(key, default)
        if type(value) not in (int, float) or not np.isfinite(value):
            self.refuse(f"{key} is expected to be a number, got {value!r}.")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        """True or false."""
        value = self.values.get(key, default)
        if type(value) is not bool:
            self.refuse(f"{key} is expected to be true or false, got {value!r}.")
        return value

    def text(self, key: str, default: str) -> str:
        """A word."""
        value = self.values.get(key, default)
        if type(value) is not str:
            self.refuse(f"{key} is expected to be a text, got {value!r}.")
        return value

    def edges(self, key: str, default: int) -> tuple[int, int]:
        """(height, width) in pixels, from one number or from two."""
        value = self.values.get(key, default)
        pair = [value] * 2 if type(value) is int else value
        if (
            not isinstance(pair, Sequence)
            or len(pair) != 2
            or any(type(edge) is not int or edge < 1 for edge in pair)
        ):
            self.refuse(f"{key} is expected to be one or two numbers of pixels, got {value!r}.")
        return pair[0], pair[1]

    def counts(self, key: str, default: Sequence[int], least: int = 1) -> tuple[int, ...]:
        """Whole numbers of at least ``least``."""
        value = self.values.get(key, list(default))
        if not isinstance(value, list) or any(type(part) is not int or part < least for part in value):
            self.refuse(
                f"{key} is expected to be a list of whole numbers of at least {least}, got {value!r}."
            )
        return tuple(value)

    def flags(self, key: str, default: Sequence[bool]) -> tuple[bool, ...]:
        """A list of true and false."""
        value = self.values.get(key, list(default))
        if not isinstance(value, list) or any(type(part) is not bool for part in value):
            self.refuse(f"{key} is expected to be a list of true and false, got {value!r}.")
        return tuple(value)
