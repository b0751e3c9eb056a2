"""Options by name: which a method takes, and which one a mistaken name may stand for."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jaxalign.core.errors import UserError

ARGUMENTS = ("l2", "rank", "folds", "identities", "weights", "seed", "penalty_per", "one_standard_error")
ARGUMENTS += ("restore_variance", "moments", "mesh", "progress")
ELSEWHERE = {
    "groups": "identities",
    "people": "identities",
    "labels": "identities",
    "alpha": "l2",
    "cv": "folds",
}
ELSEWHERE |= {"sample_weight": "weights", "n_components": "rank", "random_state": "seed", "penalty": "l2"}


def require_known(
    taker: str, given: Iterable[str], fields: Mapping[str, Any], arguments: Sequence[str] = ARGUMENTS
) -> None:
    """Raises ``UserError`` for options that are not among ``fields``; names those that may be meant.

    ``arguments`` are what else the caller takes by name.
    """
    known, unknown = ", ".join(fields) or "no options", sorted(set(given) - set(fields))
    if unknown:
        hints = f"; did you mean {', '.join(meant)}?" if (meant := _meant(unknown, fields, arguments)) else ""
        raise UserError(f"{taker} takes {known}; got {', '.join(unknown)}{hints}")


def _meant(unknown: Sequence[str], fields: Iterable[str], arguments: Sequence[str]) -> list[str]:
    """The arguments that unknown ones may stand for: of a like name, or what other libraries call them."""
    own = (*arguments, *fields)
    known = {name: name for name in own} | {name: to for name, to in ELSEWHERE.items() if to in own}
    close = [difflib.get_close_matches(name, known, 1) for name in unknown]
    return list(dict.fromkeys(known[name] for names in close for name in names))
