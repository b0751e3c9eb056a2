"""The one exception for a user's mistake."""

import contextlib
from collections.abc import Iterator


class UserError(ValueError):
    """Bad input, described in one sentence: what was expected, what came, and where.

    Library code raises it before any long work starts. The drivers turn it into that sentence and exit status 2;
    any other exception is a defect of ours and keeps its traceback.
    """


class UnknownNameError(UserError, KeyError):
    """A name that is not there; also a ``KeyError``, as mappings promise."""

    __str__ = Exception.__str__


class UserNote(UserWarning):
    """Something in a user's data that is worth knowing and stops nothing; the commands print it as ``note: ...``."""


@contextlib.contextmanager
def extra(name: str) -> Iterator[None]:
    """Within, a package that cannot be imported is a ``UserError`` that names the extra of jaxalign which brings it."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise UserError(f"{error.name} is not installed: pip install 'jaxalign[{name}]'.") from error
