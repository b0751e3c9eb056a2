"""What commands that take one map share: flags whose values the map's file may fix."""

import pathlib

from experiments.run import flags
from jaxalign.align.saved import NORMALIZED
from jaxalign.core.errors import UserError

NORMALIZE = flags.Flag(
    None,
    "Scale rows to length 1 before the map (l2), or not (none), as was done before the fit; needed where the "
    "map's file does not say it.",
    choices=NORMALIZED,
)


def settled(given: str | None, known: str | None, flag: str, what: str, place: pathlib.Path) -> str:
    """The value of a flag that a map's file may fix: the file's, or the flag's; never one against the other."""
    if given and known and given != known:
        raise UserError(f"{flag}={given} contradicts {place}, whose map takes {what} {known}.")
    if not (given or known):
        raise UserError(f"{flag} is missing, and {place} does not say it.")
    return given or known or ""
