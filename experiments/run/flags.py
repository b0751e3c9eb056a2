"""Flags made from the fields of configurations, and readers of their values.

A configuration is a dataclass. ``flags.field`` declares one of its fields together with the flag that sets it, and a
command names the configurations that it takes:

  FLAGS = flags.define(PairwiseConfig, Compiling, out="results/pairwise")
"""

import dataclasses
import math
import types
from collections.abc import Callable, Collection, Sequence
from typing import Any, TypeVar

from absl import flags as absl_flags

from jaxalign.core.errors import UserError

Item = TypeVar("Item")
Penalty = float | tuple[float, ...] | str
LARGEST_RANK = 2**31 - 1


@dataclasses.dataclass(frozen=True)
class Flag:
    """The flag of one field.

    Attributes:
      default: what stands on the command line where the flag is not given.
      help: for ``--help``: what the flag does, what happens without it, an example.
      kind: str, bool, int or float; list for text that may be given several times.
      least: the smallest whole number allowed.
      choices: the values allowed, where they are few.
      read: makes the field's value from the flag's name and value; None takes the value as it is.
    """

    default: Any
    help: str
    kind: type
    choices: tuple[str, ...] = ()
    read: Callable[[str, Any], Any] | None = None
    least: int = 0


def field(
    default: Any,
    help: str,
    *,
    kind: type | None = None,
    choices: Collection[str] = (),
    read: Callable[[str, Any], Any] | None = None,
    least: int = 0,
    initial: Any = dataclasses.MISSING,
) -> Any:
    """A field of a configuration that users set by a flag of the same name; see ``Flag``.

    Args:
      default, help, choices, read, least: of the flag.
      kind: of the flag; that of ``default`` where it has one, else text.
      initial: the field's value where the configuration is made without flags; by default it must be given.
    """
    known = kind or (str if default is None else type(default))
    flag = Flag(default, help, known, tuple(choices), read, least)
    return dataclasses.field(default=initial, metadata={"flag": flag})


def same(configuration: type, name: str) -> Any:
    """A field with the flag that another configuration declares."""
    return dataclasses.field(metadata={"flag": of(configuration)[name]})


def of(*configurations: type) -> dict[str, Flag]:
    """The flags of configurations, by name."""
    return {
        field.name: field.metadata["flag"]
        for configuration in configurations
        for field in dataclasses.fields(configuration)
        if "flag" in field.metadata
    }


def define(*configurations: type, without: Collection[str] = (), **defaults: Any) -> absl_flags.FlagValues:
    """Defines the flags of a command.

    Args:
      configurations: classes whose fields are the command's flags.
      without: names of flags that the command does not take.
      defaults: defaults by name, where the command has its own.

    Returns:
      The command's own flag values; read them after ``cli.run`` has parsed the command line into them.
    """
    values, known = absl_flags.FlagValues(), of(*configurations)
    for name in (*without, *defaults):
        known[name]  # a misspelt name is a defect of the command
    for name, flag in known.items():
        if name not in without:
            _register(name, flag, defaults.get(name, flag.default), values)
    return values


def namespace(
    values: absl_flags.FlagValues, *, only_defaults: bool = False, **fixed: Any
) -> types.SimpleNamespace:
    """The flags of a command as attributes.

    Args:
      values: of the command.
      only_defaults: whether to take defaults, and not what a command line gave.
      fixed: values by name, which replace the command's.
    """
    parsed = values.is_parsed() and not only_defaults
    own = {name: values[name].value if parsed else values[name].default for name in values}
    return types.SimpleNamespace(**{**own, **fixed})


def required(values: absl_flags.FlagValues, name: str) -> str:
    """The value of a flag that a command cannot do without.

    Raises:
      UserError: it is not given.
    """
    value = getattr(values, name)
    if not value:
        raise UserError(f"--{name} is missing. {values[name].help}")
    return value


def every(configuration: type, values: Any) -> dict[str, Any]:
    """What the flags of a configuration say, by name: as ``values`` has them as attributes, or their default."""
    return {name: getattr(values, name, flag.default) for name, flag in of(configuration).items()}


def read(configuration: type, given: dict[str, Any]) -> dict[str, Any]:
    """The fields of a configuration from the values of their flags; None stays None.

    Raises:
      UserError: a value cannot be read.
    """
    return {
        name: given[name] if flag.read is None or given[name] is None else flag.read(name, given[name])
        for name, flag in of(configuration).items()
    }


def _register(name: str, flag: Flag, default: Any, values: absl_flags.FlagValues) -> None:
    if flag.choices:
        absl_flags.DEFINE_enum(name, default, list(flag.choices), flag.help, flag_values=values)
    elif flag.kind is int:
        absl_flags.DEFINE_integer(name, default, flag.help, lower_bound=flag.least, flag_values=values)
    else:
        makers: dict[type, Callable[..., Any]] = {
            bool: absl_flags.DEFINE_boolean,
            float: absl_flags.DEFINE_float,
            list: absl_flags.DEFINE_multi_string,
        }
        makers.get(flag.kind, absl_flags.DEFINE_string)(name, default, flag.help, flag_values=values)


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
    return _without_repeats(name, items)


def numbers(name: str, text: str, low: float, high: float) -> tuple[float, ...]:
    """Numbers separated by commas, each above ``low`` and at most ``high``."""
    values = []
    for item in _items(name, text):
        value = _number(item)
        if not low < value <= high:
            limit = f"above {low:g} and at most {high:g}" if math.isfinite(high) else f"above {low:g}"
            raise UserError(f"--{name} takes numbers {limit}, separated by commas; got '{item}'.")
        values.append(value)
    return _without_repeats(name, values)


def whole_numbers(name: str, text: str, low: int, high: int) -> tuple[int, ...]:
    """Whole numbers separated by commas, each from ``low`` to ``high``."""
    items = _items(name, text)
    for item in items:
        if not _is_whole(item, low, high):
            raise UserError(
                f"--{name} takes whole numbers from {low} to {high}, separated by commas; got '{item}'."
            )
    return _without_repeats(name, [int(item) for item in items])


def penalty(name: str, text: str) -> Penalty:
    """The value of ``--l2``: a number above 0, a grid of such, "cv" or "gcv"."""
    if text in ("cv", "gcv"):
        return text
    values = []
    for item in _items(name, text):
        value = _number(item)
        if not 0 < value < math.inf:
            raise UserError(
                f"--{name} takes a number above 0, several separated by commas, cv, or gcv (without a penalty the "
                f"method is linear); got '{item}'."
            )
        values.append(value)
    return values[0] if len(values) == 1 else _without_repeats(name, values)


def ranks(name: str, text: str) -> tuple[int | None, ...] | str:
    """The value of ``--ranks``: numbers, None for "full"; or "cv", which stands alone."""
    items = _items(name, text)
    if items == ["cv"]:
        return "cv"
    for item in items:
        if item != "full" and not _is_whole(item, 1, LARGEST_RANK):
            raise UserError(
                f"--{name} takes whole numbers of 1 or more or full, separated by commas, or cv alone; got '{text}'."
            )
    given = _without_repeats(name, [item if item == "full" else int(item) for item in items])
    return tuple(None if item == "full" else int(item) for item in given)


def one_rank(name: str, text: str) -> int:
    """One rank of 1 or more."""
    if not _is_whole(text, 1, LARGEST_RANK):
        raise UserError(f"--{name} takes one whole number of 1 or more, got '{text}'.")
    return int(text)


def _items(name: str, text: str) -> list[str]:
    items = [item.strip() for item in text.split(",")]
    if not all(items):
        raise UserError(f"--{name}={text} has an empty item; give values separated by single commas.")
    return items


def _number(item: str) -> float:
    """The number that ``item`` is; NaN where it is none."""
    try:
        return float(item)
    except ValueError:
        return math.nan


def _is_whole(item: str, low: int, high: int) -> bool:
    return item.isascii() and item.isdigit() and low <= int(item) <= high


def _without_repeats(name: str, items: Sequence[Item]) -> tuple[Item, ...]:
    for item in items:
        if list(items).count(item) > 1:
            raise UserError(f"--{name} names {item} twice.")
    return tuple(items)
