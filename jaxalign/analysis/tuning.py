"""Choosing the settings of a map at an operating point, on people that the test never sees.

Squared error does not see what verification at a low false match rate needs, so the exponents of ``canonical`` and
``shared``, and how ``low_rank`` and ``joint`` are fitted, are compared by the true match rate itself: people are split
into folds, maps are fitted without the fold and the fold's people are compared. One choice is made for all pairs
together, which is far steadier than one each.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jax.typing import ArrayLike

from jaxalign.align.all_pairs import PairwiseMaps
from jaxalign.align.fit import fit_pairs
from jaxalign.align.methods import SOLVERS
from jaxalign.align.solvers import Pair
from jaxalign.biometrics import EvaluationPlan, verify
from jaxalign.core.errors import UserError
from jaxalign.core.people import identity_folds, limit_per_person
from jaxalign.moments.moments import FoldMoments

FITTED = (  # learning rates, early stopping by people held out, and whitened axes
    *({"learning_rate": rate} for rate in (1e-4, 3e-4, 1e-3, 3e-3)),
    {"learning_rate": 1e-3, "held_out": 0.15},
    {"learning_rate": 1e-3, "whitening": 0.5},
)
CANDIDATES: dict[str, tuple[dict[str, float], ...]] = {
    "canonical": tuple(
        {"whitening": q, "weighting": p}
        for q, p in itertools.product((0.25, 0.5, 0.75, 1.0), (0.0, 0.25, 0.5, 0.75))
    ),
    "shared": tuple(
        {"whitening": q, "weighting": p}
        for q, p in itertools.product((0.625, 0.75, 0.875), (0.5, 0.625, 0.75, 0.875))
    ),
    **{name: FITTED for name, method in SOLVERS.items() if method.needs_rows},
}


@dataclasses.dataclass(frozen=True)
class Tuned:
    """The settings chosen, and what they were chosen from.

    Attributes:
      settings: options for ``fit_pairs`` with the same method.
      candidates: the settings compared.
      tmr: mean true match rate over pairs and folds, for each candidate.
      fmr: the operating point.
    """

    settings: Mapping[str, Any]
    candidates: tuple[Mapping[str, Any], ...]
    tmr: tuple[float, ...]
    fmr: float


def tune(
    embeddings: Mapping[str, ArrayLike],
    identities: ArrayLike,
    method: str = "canonical",
    *,
    candidates: Sequence[Mapping[str, Any]] | None = None,
    fixed: Mapping[str, Any] | None = None,
    pairs: Sequence[Pair] | None = None,
    fmr: float = 1e-4,
    folds: int = 3,
    folds_compared: int | None = None,
    most_per_person: int = 20,
    seed: int = 0,
) -> Tuned:
    """Chooses settings by held-out true match rate at one false match rate.

    Args:
      embeddings: of the training people only: per encoder an array [n, d].
      identities: of the rows, shape [n].
      method: a method of ``fit_pairs``; ``CANDIDATES`` has the default candidates of some.
      candidates: options of that method to compare.
      fixed: options that all candidates share, such as ``{"rank": 96}``.
      pairs: the ordered pairs to average over; all by default.
      fmr: the operating point.
      folds: of people.
      folds_compared: how many of them candidates are compared on, where a fit takes long; all by default.
      most_per_person: held-out rows of one person that are compared, so that no person decides alone.
      seed: of the folds.

    Returns:
      The best candidate, with the scores of all.

    Raises:
      UserError: no candidates, or too few people for the operating point.
    """
    given = CANDIDATES.get(method, ()) if candidates is None else candidates
    compared = tuple({**(fixed or {}), **options} for options in given)
    if not compared:
        raise UserError(f"method {method!r} has no candidate settings of its own; give some")
    arrays = {name: np.asarray(array) for name, array in embeddings.items()}
    labels = np.asarray(identities)
    compared_rows = limit_per_person(np.arange(len(labels)), labels, most_per_person)
    fold = identity_folds(labels[compared_rows], folds, seed)
    scores = np.stack(
        [
            _fold_scores(arrays, labels, compared_rows[fold == k], method, compared, pairs, fmr)
            for k in range(folds if folds_compared is None else min(folds, folds_compared))
        ]
    )
    tmr = scores.mean(0)
    best = int(np.argmax(tmr))
    return Tuned(dict(compared[best]), compared, tuple(float(rate) for rate in tmr), fmr)


def _fold_scores(
    arrays: Mapping[str, np.ndarray],
    labels: np.ndarray,
    rows: np.ndarray,
    method: str,
    candidates: Sequence[Mapping[str, Any]],
    pairs: Sequence[Pair] | None,
    fmr: float,
) -> np.ndarray:
    """Mean true match rate over pairs for each candidate, on these rows; their people are not fitted on."""
    others = ~np.isin(labels, labels[rows])
    train = {name: array[others] for name, array in arrays.items()}
    moments = FoldMoments.of(train)

    def fit(options: Mapping[str, Any]) -> PairwiseMaps:
        return fit_pairs(train, method, identities=labels[others], moments=moments, pairs=pairs, **options)

    plan = EvaluationPlan.of(labels[rows])
    test = {name: array[rows] for name, array in arrays.items()}
    return np.array([_mean_tmr(fit(options), test, plan, fmr) for options in candidates])


def _mean_tmr(maps: PairwiseMaps, test: Mapping[str, np.ndarray], plan: EvaluationPlan, fmr: float) -> float:
    rates = []
    done: set[frozenset[str]] = set()
    for (source, target), fit in maps.items():
        if frozenset((source, target)) in done and fit.two_sided:
            continue  # the mirror image: the same scores, transposed
        done.add(frozenset((source, target)))
        result = verify(
            fit.source(test[source]), fit.target(test[target]), plan, fmr=(fmr,), zero_rows="keep"
        )
        if not result.supported[fmr]:
            raise UserError(
                f"choosing settings at a false match rate of {fmr:g} needs more people: a fold has "
                f"{result.impostor:,} impostor comparisons; give a larger rate or fewer folds"
            )
        rates.append(result.tmr[fmr])
    return float(np.mean(rates))
