"""How a driver takes its flags, and how values are read that absl cannot check.

A driver names those it takes: ``FLAGS = flags.define("store", "models", "out")``. A bad value is answered with a
sentence.
"""

import math
import sys
import types
from collections.abc import Collection, Sequence
from typing import Any

from absl import flags as absl_flags

from experiments.run.flag_definitions import DEFINITIONS, Flag
from experiments.run.protocols import Penalty
from jaxalign.core.errors import UserError


def define(*names: str, **defaults: Any) -> absl_flags.FlagValues:
    """Defines flags of ``DEFINITIONS`` for the calling driver, which may differ from other drivers in defaults.

    Args:
      names: flags that the driver takes, with their usual default.
      defaults: flags that it takes with a default of its own.

    Returns:
      Flag values of the driver's own; read them after ``cli.run`` has parsed the command line into them.
    """
    caller = sys._getframe(1).f_globals.get("__name__", "__main__")
    module, values = sys.argv[0] if caller == "__main__" else caller, absl_flags.FlagValues()
    for name in dict.fromkeys((*names, *defaults)):
        _register(name, DEFINITIONS[name], defaults.get(name, DEFINITIONS[name].default), values)
        values.register_key_flag_for_module(module, values[name])
    return values


def complete(
    values: absl_flags.FlagValues, *, only_defaults: bool = False, **fixed: Any
) -> types.SimpleNamespace:
    """Every flag there is: those of ``fixed``, then a driver's values or defaults, then the usual defaults.

    Args:
      values: of a driver.
      only_defaults: whether to leave out what was given on a command line to that driver.
      fixed: values by name.
    """
    parsed = values.is_parsed() and not only_defaults
    own = {
        name: values[name].value if parsed else values[name].default for name in DEFINITIONS if name in values
    }
    return types.SimpleNamespace(
        **{**{name: flag.default for name, flag in DEFINITIONS.items()}, **own, **fixed}
    )


def _register(name: str, flag: Flag, default: Any, values: absl_flags.FlagValues) -> None:
    if flag.choices:
        absl_flags.DEFINE_enum(name, default, list(flag.choices), flag.help, flag_values=values)
    elif flag.kind == "yes_no":
        absl_flags.DEFINE_boolean(name, default, flag.help, flag_values=values)
    elif flag.kind == "whole":
        absl_flags.DEFINE_integer(name, default, flag.help, lower_bound=0, flag_values=values)
    elif flag.kind == "fraction":
        absl_flags.DEFINE_float(name, default, flag.help, flag_values=values)
    else:
        absl_flags.DEFINE_string(name, default, flag.help, flag_values=values)


def words(name: str, text: str, known: Collection[str], what: str) -> tuple[str, ...]:
    """Names separated by commas, each known and none twice.

    Args:
      name: of the flag.
      text: as given.
      known: the names there are.
      what: they are, for the sentence, such as "encoder".
    """
    items = tuple(item.strip() for item in text.split(",") if item.strip())
    if not items:
        raise UserError(f"--{name} names no {what}; there are {', '.join(known)}.")
    for item in items:
        if item not in known:
            raise UserError(f"--{name}: there is no {what} '{item}'; there are {', '.join(known)}.")
    _refuse_twice(name, items)
    return items


def numbers(name: str, text: str, low: float, high: float) -> tuple[float, ...]:
    """Numbers separated by commas, each above ``low`` and at most ``high``."""
    values = []
    for item in _items(name, text):
        try:
            value = float(item)
        except ValueError:
            value = math.nan
        if not low < value <= high:
            limit = f"above {low:g} and at most {high:g}" if math.isfinite(high) else f"above {low:g}"
            raise UserError(f"--{name} takes numbers {limit}, separated by commas; got '{item}'.")
        values.append(value)
    _refuse_twice(name, values)
    return tuple(values)


def whole_numbers(name: str, text: str, low: int, high: int) -> tuple[int, ...]:
    """Whole numbers separated by commas, each from ``low`` to ``high``."""
    values = []
    for item in _items(name, text):
        if not item.isascii() or not item.isdigit() or not low <= int(item) <= high:
            raise UserError(
                f"--{name} takes whole numbers from {low} to {high}, separated by commas; got '{item}'."
            )
        values.append(int(item))
    _refuse_twice(name, values)
    return tuple(values)


def penalty(text: str) -> Penalty:
    """The value of ``--l2``: a number above 0, a grid of such, "cv" or "gcv"."""
    if text in ("cv", "gcv"):
        return text
    values = []
    for item in _items("l2", text):
        try:
            value = float(item)
        except ValueError:
            value = math.nan
        if not 0 < value < math.inf:
            raise UserError(
                "--l2 takes a number above 0, several separated by commas, cv, or gcv (without a penalty the "
                f"method is linear); got '{item}'."
            )
        values.append(value)
    _refuse_twice("l2", values)
    return values[0] if len(values) == 1 else tuple(values)


def ranks(text: str) -> tuple[int | None, ...] | str:
    """The value of ``--ranks``: numbers, None for "full"; or "cv", which stands alone."""
    items = _items("ranks", text)
    if items == ["cv"]:
        return "cv"
    values = []
    for item in items:
        if item != "full" and not (item.isascii() and item.isdigit() and 0 < int(item) < 2**31):
            raise UserError(
                f"--ranks takes whole numbers of 1 or more or full, separated by commas, or cv alone; got "
                f"'{text}'."
            )
        values.append(None if item == "full" else int(item))
    _refuse_twice("ranks", ["full" if value is None else value for value in values])
    return tuple(values)


def _items(name: str, text: str) -> list[str]:
    items = [item.strip() for item in text.split(",")]
    if not all(items):
        raise UserError(f"--{name}={text} has an empty item; give values separated by single commas.")
    return items


def _refuse_twice(name: str, items: Sequence[object]) -> None:
    for item in items:
        if list(items).count(item) > 1:
            raise UserError(f"--{name} names {item} twice.")
