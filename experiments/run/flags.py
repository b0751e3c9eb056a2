"""Flags of commands, and readers of their values.

A configuration is a dataclass whose fields ``flags.field`` declares together with the flags that set them. A command
takes the flags of configurations, with defaults of its own, and flags of its own:

  FLAGS = flags.define(PairwiseConfig, Compiling, out="results/mine", rows=flags.Flag(2000, "How many rows to read."))
"""

import dataclasses
import math
import sys
import types
from collections.abc import Callable, Collection, Sequence
from typing import Any, TypeVar

from absl import flags as absl_flags

from jaxalign.core.errors import UserError

Item = TypeVar("Item")
Penalty = float | tuple[float, ...] | str
Group = dict[str, Any]  # flags by name, which several commands have
LARGEST_RANK = 2**31 - 1
MAKERS: dict[type, Callable[..., Any]] = {bool: absl_flags.DEFINE_boolean, float: absl_flags.DEFINE_float}
MAKERS |= {str: absl_flags.DEFINE_string, list: absl_flags.DEFINE_multi_string}


@dataclasses.dataclass(frozen=True)
class Flag:
    """One flag.

    Attributes:
      default: what stands on the command line where the flag is not given.
      help: for ``--help``: what the flag does, what happens without it, an example.
      kind: str, bool, int or float; list for text that may be given several times. Without it, that of the default.
      choices: the values allowed, where they are few.
      read: makes a field's value from the flag's name and value; None takes the value as it is.
      least: the smallest whole number allowed.
    """

    default: Any
    help: str
    kind: type | None = None
    choices: Collection[str] = ()
    read: Callable[[str, Any], Any] | None = None
    least: int = 0


def field(default: Any, help: str, *, initial: Any = dataclasses.MISSING, **more: Any) -> Any:
    """A field of a configuration that users set by a flag of the same name, with the attributes of ``Flag``.

    Without flags its value is ``initial``; where that is missing, the field must be given.
    """
    return dataclasses.field(default=initial, metadata={"flag": Flag(default, help, **more)})


def of(*configurations: type) -> dict[str, Flag]:
    """The flags of configurations, by name."""
    fields = [field for configuration in configurations for field in dataclasses.fields(configuration)]
    return {field.name: field.metadata["flag"] for field in fields if "flag" in field.metadata}


def define(*configurations: type, without: Collection[str] = (), **own: Any) -> absl_flags.FlagValues:
    """Defines the flags of a command; ``cli.run`` parses the command line into the values returned.

    Args:
      configurations: classes whose fields are the command's flags.
      without: names of flags that the command does not take.
      own: by name, further flags of the command (``Flag``), and its defaults for flags of the configurations.
    """
    values, known = absl_flags.FlagValues(), of(*configurations)
    for name, given in own.items():
        known[name] = given if isinstance(given, Flag) else dataclasses.replace(known[name], default=given)
    for name in without:
        del known[name]
    for name, flag in known.items():
        kind = flag.kind or (str if flag.default is None else type(flag.default))
        if flag.choices:
            absl_flags.DEFINE_enum(name, flag.default, list(flag.choices), flag.help, flag_values=values)
        elif kind is int:
            absl_flags.DEFINE_integer(
                name, flag.default, flag.help, lower_bound=flag.least, flag_values=values
            )
        else:
            MAKERS[kind](name, flag.default, flag.help, flag_values=values)
    return values


def namespace(
    values: absl_flags.FlagValues, *, only_defaults: bool = False, **fixed: Any
) -> types.SimpleNamespace:
    """The flags of a command as attributes, as parsed or ``only_defaults``; ``fixed`` replaces some by name."""
    parsed = values.is_parsed() and not only_defaults
    own = {name: values[name].value if parsed else values[name].default for name in values}
    return types.SimpleNamespace(**{**own, **fixed})


def required(values: absl_flags.FlagValues, name: str) -> str:
    """The value of a flag that a command cannot do without; ``UserError`` if it is not given."""
    value = getattr(values, name)
    if not value:
        raise UserError(f"--{name} is missing. {values[name].help}")
    return value


def every(configuration: type, values: Any) -> dict[str, Any]:
    """What the flags of a configuration say, by name: as ``values`` has them as attributes, or their default."""
    return {name: getattr(values, name, flag.default) for name, flag in of(configuration).items()}


def read(configuration: type, given: dict[str, Any]) -> dict[str, Any]:
    """The fields of a configuration from the values of their flags; None stays None, ``UserError`` for a bad value."""
    return {
        name: given[name] if flag.read is None or given[name] is None else flag.read(name, given[name])
        for name, flag in of(configuration).items()
    }


def words(name: str, text: str, known: Collection[str] | None, what: str) -> tuple[str, ...]:
    """Names separated by commas, each ``known`` (if they are) and none twice; ``what`` is such as "encoder"."""
    items = tuple(item.strip() for item in text.split(",") if item.strip())
    there = "" if known is None else f"; there are {', '.join(known)}"
    if not items:
        raise UserError(f"--{name} names no {what}{there}.")
    for item in items:
        if known is not None and item not in known:
            raise UserError(f"--{name}: there is no {what} '{item}'{there}.")
    return _without_repeats(name, items)


def numbers(name: str, text: str, low: float, high: float) -> tuple[float, ...]:
    """Numbers separated by commas, each above ``low`` and at most ``high``."""
    limit = f"above {low:g} and at most {high:g}" if math.isfinite(high) else f"above {low:g}"
    takes = f"numbers {limit}, separated by commas"
    return _each(name, text, lambda item: _number(item, low, high), takes)


def whole_numbers(name: str, text: str, low: int, high: int) -> tuple[int, ...]:
    """Whole numbers separated by commas, each from ``low`` to ``high``."""
    takes = f"whole numbers from {low} to {high}, separated by commas"
    return _each(name, text, lambda item: _whole(item, low, high), takes)


def penalty(name: str, text: str) -> Penalty:
    """The value of ``--l2``: a number above 0, a grid of such, "cv" or "gcv"."""
    if text in ("cv", "gcv"):
        return text
    takes = (
        "a number above 0, several separated by commas, cv, or gcv (without a penalty the method is linear)"
    )
    values = _each(name, text, lambda item: _number(item, 0, sys.float_info.max), takes)
    return values[0] if len(values) == 1 else values


def ranks(name: str, text: str) -> tuple[int | None, ...] | str:
    """The value of ``--ranks``: numbers, None for "full"; or "cv", which stands alone."""
    if text.strip() == "cv":
        return "cv"
    takes = "whole numbers of 1 or more or full, separated by commas, or cv alone"
    given = _each(name, text, lambda item: item if item == "full" else _whole(item, 1, LARGEST_RANK), takes)
    return tuple(None if item == "full" else int(item) for item in given)


def one_rank(name: str, text: str) -> int:
    """One rank of 1 or more."""
    rank = _whole(text, 1, LARGEST_RANK)
    if rank is None:
        raise UserError(f"--{name} takes one whole number of 1 or more, got '{text}'.")
    return rank


def _each(name: str, text: str, read: Callable[[str], Item | None], takes: str) -> tuple[Item, ...]:
    """Items separated by commas, each read and none twice; ``read`` gives None for what the flag does not take."""
    items = [item.strip() for item in text.split(",")]
    if not all(items):
        raise UserError(f"--{name}={text} has an empty item; give values separated by single commas.")
    values = []
    for item in items:
        value = read(item)
        if value is None:
            raise UserError(f"--{name} takes {takes}; got '{item}'.")
        values.append(value)
    return _without_repeats(name, values)


def _number(item: str, low: float, high: float) -> float | None:
    try:
        value = float(item)
    except ValueError:
        return None
    return value if low < value <= high else None


def _whole(item: str, low: int, high: int) -> int | None:
    return int(item) if item.isascii() and item.isdigit() and low <= int(item) <= high else None


def _without_repeats(name: str, items: Sequence[Item]) -> tuple[Item, ...]:
    for item in items:
        if list(items).count(item) > 1:
            raise UserError(f"--{name} names {item} twice.")
    return tuple(items)
