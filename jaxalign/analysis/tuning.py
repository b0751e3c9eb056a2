"""Choosing the settings of a map at an operating point, on people that the test never sees.

Squared error does not see what verification at a low false match rate needs, so settings are compared by the true match
rate of people whom the maps were not fitted on. One choice for all pairs together is far steadier than one each.
"""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jax.typing import ArrayLike

from jaxalign.align.all_pairs import PairwiseMaps
from jaxalign.align.fit import fit_pairs
from jaxalign.align.methods import SOLVERS
from jaxalign.align.solvers import Fit, Pair
from jaxalign.biometrics import Cohort, Comparator, EvaluationPlan, comparator, verify
from jaxalign.biometrics.comparators import rule_options
from jaxalign.core import checks
from jaxalign.core.checks import is_whole
from jaxalign.core.errors import UserError
from jaxalign.core.people import first_people, identity_folds, limit_per_person
from jaxalign.moments.moments import FoldMoments


def _exponents(whitening: Sequence[float], weighting: Sequence[float]) -> tuple[dict[str, float], ...]:
    return tuple({"whitening": q, "weighting": p} for q, p in itertools.product(whitening, weighting))


FITTED = (  # learning rates, early stopping by people held out, and whitened axes
    *({"learning_rate": rate} for rate in (1e-4, 3e-4, 1e-3, 3e-3)),
    {"learning_rate": 1e-3, "held_out": 0.15},
    {"learning_rate": 1e-3, "whitening": 0.5},
)
CANDIDATES: dict[str, tuple[dict[str, float], ...]] = {
    "canonical": _exponents((0.25, 0.5, 0.75, 1.0), (0.0, 0.25, 0.5, 0.75)),
    "shared": _exponents((0.625, 0.75, 0.875), (0.5, 0.625, 0.75, 0.875)),
    **{name: FITTED for name, method in SOLVERS.items() if method.needs_rows},
}


COHORT_PEOPLE = "cohort_people"  # the option of a candidate that says how many people the cohort has


@dataclasses.dataclass(frozen=True)
class Tuned:
    """The settings chosen, and what they were chosen from."""

    settings: Mapping[str, Any]  # options for ``fit_pairs`` with the same method, and of the score
    candidates: tuple[Mapping[str, Any], ...]
    tmr: tuple[float, ...]  # mean true match rate over pairs and folds, for each candidate
    fmr: float  # the operating point


def tune(
    embeddings: Mapping[str, ArrayLike],
    identities: ArrayLike,
    method: str = "canonical",
    *,
    candidates: Sequence[Mapping[str, Any]] | None = None,
    fixed: Mapping[str, Any] | None = None,
    pairs: Sequence[Pair] | None = None,
    score: str = "cosine",
    fmr: float = 1e-4,
    folds: int = 3,
    folds_compared: int | None = None,
    most_per_person: int = 20,
    seed: int = 0,
    images: Sequence | np.ndarray | None = None,
) -> Tuned:
    """Chooses settings by held-out true match rate at one false match rate: the best candidate, and the scores of all.

    Args:
      embeddings: of the training people only: per encoder an array [n, d].
      identities: of the rows, shape [n].
      method: a method of ``fit_pairs``; ``CANDIDATES`` has the default candidates of some.
      candidates: options of that method, and of the score, to compare: ``top``, ``cohort_people`` (how many people the
        cohort has; all that a map is fitted on without it), ``shift`` and ``power`` of "snorm".
      fixed: options that all candidates share, such as ``{"rank": 96}``.
      pairs: the ordered pairs to average over; all by default.
      score: what rows are compared by; its cohort are the people that a map is fitted on.
      fmr: the operating point.
      folds: of people.
      folds_compared: how many of them candidates are compared on, where a fit takes long; all by default.
      most_per_person: held-out rows of one person that are compared, so that no person decides alone.
      seed: of the folds.
      images: an image's number or name for each row: copies of an image are not compared, as in ``evaluate``.

    Raises:
      UserError: no candidates, or too few people for the operating point.
    """
    if method not in SOLVERS:
        raise UserError(f"unknown method {method!r}; there are {', '.join(SOLVERS)}")
    given = CANDIDATES.get(method, ()) if candidates is None else candidates
    compared = tuple({**(fixed or {}), **options} for options in given)
    if not compared:
        raise UserError(f"method {method!r} has no candidate settings of its own; give some")
    arrays = {name: np.asarray(array) for name, array in checks.embeddings(embeddings).items()}
    labels = checks.identities(identities, len(next(iter(arrays.values()))))
    compared_rows = limit_per_person(np.arange(len(labels)), labels, most_per_person)
    fold = identity_folds(labels[compared_rows], folds, seed)
    scores = []
    for k in range(folds if folds_compared is None else min(folds, folds_compared)):
        rows = compared_rows[fold == k]
        others = ~np.isin(labels, labels[rows])
        train, test = ({name: array[part] for name, array in arrays.items()} for part in (others, rows))
        common = {"identities": labels[others], "moments": FoldMoments.of(train), "pairs": pairs}
        plan = EvaluationPlan.of(labels[rows], images=None if images is None else np.asarray(images)[rows])
        for options in compared:
            names = [*rule_options(score), *([COHORT_PEOPLE] if score != "cosine" else [])]
            of_score = {name: value for name, value in options.items() if name in names}
            of_method = {name: value for name, value in options.items() if name not in of_score}
            maps = fit_pairs(train, method, **common, **of_method)

            def scorer(
                fit: Fit, pair: Pair, train: Any = train, people: Any = labels[others], of: Any = of_score
            ):
                if score == "cosine":
                    return None
                some = _cohort(people, of.get(COHORT_PEOPLE))
                sides = fit.source(train[pair[0]][some]), fit.target(train[pair[1]][some])
                rule = {name: value for name, value in of.items() if name != COHORT_PEOPLE}
                return comparator(score, Cohort.of(*sides, people[some]), **rule)

            scores.append(_mean_tmr(maps, test, plan, fmr, scorer))
    tmr = np.mean(np.reshape(scores, (-1, len(compared))), axis=0)
    return Tuned(dict(compared[int(np.argmax(tmr))]), compared, tuple(tmr.tolist()), fmr)


def _cohort(people: np.ndarray, count: int | None) -> np.ndarray:
    """The rows of the first so many people; of all for None."""
    rows, most = np.arange(len(people)), len(np.unique(people))
    if count is None:
        return rows
    if not is_whole(count, 1) or count > most:
        raise UserError(
            f"{COHORT_PEOPLE}: expected a number from 1 to {most:,}, the people of a fit, got {count!r}"
        )
    return first_people(rows, people, count)


def _mean_tmr(
    maps: PairwiseMaps,
    test: Mapping[str, np.ndarray],
    plan: EvaluationPlan,
    fmr: float,
    scorer: Callable[[Fit, Pair], Comparator | None],
) -> float:
    rates = []
    done: set[Pair] = set()
    for (source, target), fit in maps.items():
        if (target, source) in done and fit.two_sided:
            continue  # the mirror image: the same scores, transposed
        done.add((source, target))
        sides = fit.source(test[source]), fit.target(test[target])
        score = scorer(fit, (source, target))
        result = verify(*sides, plan, fmr=(fmr,), zero_rows="keep", score=score)
        if not result.supported[fmr]:
            raise UserError(
                f"choosing settings at a false match rate of {fmr:g} needs more people: a fold has "
                f"{result.impostor:,} impostor comparisons; give a larger rate or fewer folds"
            )
        rates.append(result.tmr[fmr])
    return float(np.mean(rates))
