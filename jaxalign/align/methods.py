"""The one table of methods: a new method is a class in a file of its own and a row here.

``fit_pairs`` and every command take each method by its name; ``Method`` says what a caller needs to know of it.
"""

from jaxalign.align.gradient import Joint, LowRank
from jaxalign.align.solvers import (
    Canonical,
    Identity,
    Linear,
    Method,
    Orthogonal,
    ReducedRank,
    Ridge,
    Shared,
    Similarity,
    Translation,
)

SOLVERS: dict[str, type[Method]] = {
    "identity": Identity,
    "translation": Translation,
    "orthogonal": Orthogonal,
    "similarity": Similarity,
    "linear": Linear,
    "ridge": Ridge,
    "reduced_rank": ReducedRank,
    "canonical": Canonical,
    "shared": Shared,
    "low_rank": LowRank,
    "joint": Joint,
}


def taking(option: str) -> frozenset[str]:
    """The methods that take an option, such as "l2"."""
    return frozenset(name for name, method in SOLVERS.items() if option in method.options())
