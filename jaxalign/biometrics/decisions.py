"""What decisions by calibrated scores cost, for probes and gallery that ``evaluate`` takes."""

from collections.abc import Sequence

import numpy as np
from jax.typing import ArrayLike

from jaxalign.biometrics.calibration import SeparatedError, cllr, cross_calibrated, min_cllr, min_dcf
from jaxalign.biometrics.comparators import Comparator
from jaxalign.biometrics.evaluate import MeasuredValue
from jaxalign.biometrics.inputs import checked
from jaxalign.core.errors import UserError
from jaxalign.core.names import labels
from jaxalign.core.rows import LazyRows, unit_rows

MOST_ROWS = 4096  # compared with one another
MOST_IMPOSTORS = 2**18  # that rules are fitted to and Cllr is measured on


def decision_costs(
    probes: ArrayLike | LazyRows,
    gallery: ArrayLike | LazyRows,
    identities: Sequence | np.ndarray,
    *,
    images: Sequence | np.ndarray | None = None,
    score: Comparator | None = None,
    prior: float = 0.01,
    cost_miss: float = 1.0,
    cost_false: float = 1.0,
    folds: int = 5,
    seed: int = 0,
) -> list[MeasuredValue]:
    """Cllr after calibration on other people, the least Cllr and the least detection cost, as rows of a table.

    The same photographs are compared under two encoders, each with every other. A comparison's score becomes a
    log-likelihood ratio by a logistic rule for people in other folds (``cross_calibrated``), so that Cllr is what
    somebody gets who calibrates on people of their own. Of large test sets, people are drawn until they have 4,096
    rows, and for Cllr 262,144 impostor comparisons of these; the detection cost is that of all of them.

    Args:
      probes, gallery: rows in the space where they are compared, row for row of the same photographs, shape [n, d].
      identities: of the rows, shape [n].
      images: a number or name of each row's image, equal for copies, which are not compared.
      score: what compares two rows; None for the cosine.
      prior, cost_miss, cost_false: of ``min_dcf``.
      folds, seed: of the people; the seed also draws people and comparisons.

    Returns:
      ``cllr``, ``min_cllr``, ``calibration_loss`` (their difference) and ``min_dcf@prior=...``, ``cllr`` NaN
      where one threshold parts all genuine from all impostor comparisons that a rule is fitted to.

    Raises:
      UserError: rows that do not match, or what ``cross_calibrated`` and ``min_dcf`` refuse.
    """
    people = labels("identities", identities)[0]
    left, right = (
        checked(rows, name, len(people)) for rows, name in ((probes, "probes"), (gallery, "gallery"))
    )
    random = np.random.default_rng(seed)
    rows = _some_people(people, random)
    image = rows if images is None else np.unique(np.asarray(images)[rows], return_inverse=True)[1]
    # In float64, since scores that differ by less than float32 holds would count as ties.
    sides = [side.take(rows).astype(np.float64) for side in (left, right)]
    vectors = (
        [unit_rows(side) for side in sides]
        if score is None
        else [score.vectors(side, name) for side, name in zip(sides, ("probes", "gallery"))]
    )
    scores, compared = vectors[0] @ vectors[1].T, image[:, None] != image
    person = people[rows]
    genuine = (person[:, None] == person) & compared
    same, other = scores[genuine], scores[compared & ~genuine]
    dcf = min_dcf(same, other, prior=prior, cost_miss=cost_miss, cost_false=cost_false)
    impostors = np.flatnonzero(compared & ~genuine)
    if len(impostors) > MOST_IMPOSTORS:
        impostors = random.choice(impostors, MOST_IMPOSTORS, replace=False)
    chosen = np.concatenate([np.flatnonzero(genuine), impostors])
    mated = np.arange(len(chosen)) < len(chosen) - len(impostors)
    probe, gallery_row = np.unravel_index(chosen, scores.shape)
    given = scores.ravel()[chosen].astype(np.float64)
    least = min_cllr(given[mated], given[~mated])
    try:
        ratios = cross_calibrated(given, person[probe], person[gallery_row], folds=folds, seed=seed)
        found = cllr(ratios[mated], ratios[~mated])
    except SeparatedError:
        found = np.nan
    number, every = len(chosen), len(same) + len(other)
    return [
        MeasuredValue("", "cllr", found, None, None, number),
        MeasuredValue("", "min_cllr", least, None, None, number),
        MeasuredValue("", "calibration_loss", found - least, None, None, number),
        MeasuredValue("", f"min_dcf@prior={prior:g}", dcf, None, None, every),
    ]


def _some_people(people: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """The rows of all people, or of as many people as have ``MOST_ROWS`` rows; ascending."""
    if len(people) <= MOST_ROWS:
        return np.arange(len(people))
    names, person, count = np.unique(people, return_inverse=True, return_counts=True)
    order = random.permutation(len(names))
    drawn = order[np.cumsum(count[order]) <= MOST_ROWS]
    rows = np.flatnonzero(np.isin(person, drawn))
    if len(drawn) < 2:
        raise UserError(
            f"identities: one person has more than {MOST_ROWS:,} rows; limit the rows of a person"
        )
    return rows
