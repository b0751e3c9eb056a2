"""Names of people and of photographs: the one form in which they are compared, and labels of rows."""

import re
import unicodedata
import warnings
from collections.abc import Iterable, Sequence

import numpy as np

from jaxalign.core.errors import UserError, UserNote
from jaxalign.core.rows import as_array

Labels = Sequence | np.ndarray

_NON_BREAKING = re.compile("[\u00a0\u2007\u202f]")
_INVISIBLE = re.compile("[\u00ad\u200b\u200e\u200f\u2060\ufeff]")  # joiners have a meaning, and stay


def normal_name(name: str) -> str:
    """A name as it is compared: in Unicode's form NFC, without blanks around it and without invisible characters.

    Non-breaking blanks are plain ones; blanks within a name stay as they are.
    """
    if name.isascii():
        return name.strip()
    visible = _INVISIBLE.sub("", _NON_BREAKING.sub(" ", name))
    return unicodedata.normalize("NFC", visible).strip()


def normal_names(names: Iterable[str], what: str) -> list[str]:
    """``normal_name`` of each; warns where different names become one, which ``what`` calls in the plural."""
    names = list(names)
    forms = list(map(normal_name, names))
    if forms != names:
        note_joined(dict(zip(names, forms)), what)
    return forms


def note_joined(forms: dict[str, str], what: str) -> None:
    """Warns (``UserNote``) where names, by their normal forms, differ only in ways that nobody sees."""
    joined = len(forms) - len(set(forms.values()))
    if joined:
        kept: dict[str, str] = {}
        pair = next(
            (kept[form], name) for name, form in sorted(forms.items()) if kept.setdefault(form, name) != name
        )
        warnings.warn(
            f"{len(forms):,} {what} are {len(forms) - joined:,}: some differ only in blanks around them, invisible "
            f"characters or Unicode's form, and count as one ({pair[0]!a}, {pair[1]!a}).",
            UserNote,
            stacklevel=3,
        )


def labels(what: str, *sides: Labels) -> list[np.ndarray]:
    """Labels of rows, such as identities, checked: of one or several sides that are compared with each other.

    Args:
      what: what they are, for messages: "identities".
      *sides: text, whole numbers, finite numbers or truth values, at least one, shape [n].

    Returns:
      An array for each side, all of one kind; text in its normal form (a ``UserNote`` warns where two become one).

    Raises:
      UserError: a label is missing (None, NaN, empty text), kinds are mixed, or there is nothing.
    """
    arrays = [_array(what, side) for side in sides]
    kinds = {"number" if array.dtype.kind in "iuf" else array.dtype.kind for array in arrays}
    if len(kinds) > 1:
        found = " and ".join(str(array.dtype) for array in arrays)
        raise UserError(f"{what}: expected labels of one kind on both sides, got {found}, which never agree")
    if "U" not in kinds:
        return arrays
    forms = {name: normal_name(name) for array in arrays for name in set(array.tolist())}
    if "" in forms.values():
        row = next(row for array in arrays for row, name in enumerate(array.tolist()) if not forms[name])
        raise UserError(f"{what}: row {row} has an empty name")
    note_joined(forms, what)
    if all(name == form for name, form in forms.items()):
        return arrays
    return [np.array([forms[name] for name in array.tolist()]) for array in arrays]


def _array(what: str, values: Labels) -> np.ndarray:
    """One side as an array of text, numbers or truth values, shape [n]; nothing is converted from kind to kind."""
    if isinstance(values, (str, bytes)) or not hasattr(values, "__len__"):
        raise UserError(f"{what}: expected one label for each row, got {values!r:.60}")
    given = (
        as_array(values, what) if hasattr(values, "__array__") else np.fromiter(values, object, len(values))
    )
    if given.ndim != 1 or not len(given):
        raise UserError(f"{what}: expected one label for each row, at least one row, got shape {given.shape}")
    array = _uniform(what, given) if given.dtype.kind == "O" else given
    if array.dtype.kind == "S":
        try:
            array = np.char.decode(array, "utf-8")
        except UnicodeDecodeError as error:
            raise UserError(f"{what}: expected text in UTF-8, got other bytes") from error
    if array.dtype.kind not in "iubfU":
        raise UserError(f"{what}: expected text or whole numbers, got {array.dtype}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        row = int(np.flatnonzero(~np.isfinite(array))[0])
        raise UserError(f"{what}: row {row} has the label {array[row]}; every row needs one")
    return array


def _uniform(what: str, objects: np.ndarray) -> np.ndarray:
    """An array of objects as an array of the one kind that all of them are."""
    kinds = {
        str: str,
        bytes: bytes,
        bool: bool,
        np.bool_: bool,
        int: int,
        np.integer: int,
        float: float,
        np.floating: float,
    }
    first: tuple[int, type] | None = None
    for kind_of in dict.fromkeys(map(type, objects.tolist())):
        kind = next((kind for known, kind in kinds.items() if issubclass(kind_of, known)), None)
        row = next(row for row, value in enumerate(objects.tolist()) if type(value) is kind_of)
        if isinstance(objects[row], (list, tuple, np.ndarray)):
            raise UserError(f"{what}: expected one label for each row, row {row} has {objects[row]!r:.60}")
        if kind is None or (first is not None and kind is not first[1]):
            before = "" if first is None else f", row {first[0]} has {objects[first[0]]!r}"
            raise UserError(
                f"{what}: expected all text or all whole numbers, none missing; row {row} has {objects[row]!r}{before}"
            )
        first = first or (row, kind)
    try:
        return np.array(objects.tolist())
    except (OverflowError, ValueError) as error:
        raise UserError(f"{what}: expected text or whole numbers, got some that no array holds") from error
