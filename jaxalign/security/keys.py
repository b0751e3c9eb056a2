"""Application-specific keys of templates: how many known pairs break each, and what a revoked key still leaks.

A system that stores k(x) instead of the template x can give out another key when its database leaks. That protects as
long as nobody knows the key. Here an attacker owns some pairs of plain and protected templates (photographs that were
enrolled, and the leaked rows) and fits the key to them. Then the plain template of a person who is in none of the pairs
is carried over by the fitted key and presented to the system.

References:
  ISO/IEC 24745 (renewability); Jin, Ling, Goh, "Biohashing", Pattern Recognition 2004.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, Self

import numpy as np
from jaxtyping import Bool, Float
from scipy.optimize import linear_sum_assignment, minimize

from jaxalign.biometrics import verify
from jaxalign.core import checks
from jaxalign.core.errors import UserError
from jaxalign.core.rows import unit_rows

RIDGE = 0.1  # the penalty of the attacks by ridge and by logistic regression, for templates of length 1
ROUNDING = 1e-6  # of thresholds, which come from scores in float32; codes have few different scores
OTHER_IMAGE = "other_image"


@dataclasses.dataclass(frozen=True, eq=False)
class Key:
    """A transform of templates: x M, or the signs of x M for "sign_codes".

    Attributes:
      kind: a name in ``KINDS``.
      matrix: M, float64, shape [d, k].
    """

    kind: str
    matrix: Float[np.ndarray, "d k"]

    @classmethod
    def make(cls, kind: str, width: int, seed: int, size: int | None = None) -> Self:
        """Draws a key.

        Args:
          kind: "orthogonal" (uniform over all rotations and reflections), "projection" (independent normal numbers),
            "sign_permutation" (columns in another order, with random signs), or "sign_codes" (the signs of a
            projection on orthonormal directions, as BioHashing has them).
          width: d of the templates.
          seed: of the key.
          size: k of "projection" and "sign_codes"; by default half the width. The other two keep the width.

        Raises:
          UserError: an unknown kind, or a size that the kind cannot have.
        """
        if kind not in KINDS:
            raise UserError(f"key: expected one of {', '.join(KINDS)}, got {kind!r}")
        checks.seed(seed)
        free = kind in ("projection", "sign_codes")
        size = max(width // 2, 1) if size is None and free else width if size is None else size
        if not checks.is_whole(size, 1) or size > width or (size != width and not free):
            raise UserError(f"key {kind!r}: expected a size of {'1 to ' * free}{width}, got {size!r}")
        return cls(kind, KINDS[kind](np.random.default_rng(seed), width, size))

    def protect(self, rows: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n k"]:
        """Protected templates, float64; sign codes are −1 and 1."""
        found = np.asarray(rows, np.float64) @ self.matrix
        return np.where(found < 0, -1.0, 1.0) if self.kind == "sign_codes" else found

    def error(self, other: Self) -> float:
        """How far the matrix of another key lies from this one's: relative Frobenius norm.

        Codes do not show how long the columns of a matrix are; those of "sign_codes" are compared at length 1.
        """
        right, found = self.matrix, other.matrix
        if self.kind == "sign_codes":
            right, found = unit_rows(right.T), unit_rows(found.T)
        return float(np.linalg.norm(found - right) / np.linalg.norm(right))


def _orthogonal(random: np.random.Generator, width: int, size: int) -> np.ndarray:
    """Uniform over matrices with orthonormal columns: the signs of R make the decomposition unique."""
    q, r = np.linalg.qr(random.normal(size=(width, size)))
    return q * np.where(np.diag(r) < 0, -1.0, 1.0)


def _projection(random: np.random.Generator, width: int, size: int) -> np.ndarray:
    return random.normal(size=(width, size)) / size**0.5


def _sign_permutation(random: np.random.Generator, width: int, size: int) -> np.ndarray:
    return np.eye(width)[random.permutation(width)] * random.choice([-1.0, 1.0], width)


KINDS: dict[str, Callable[[np.random.Generator, int, int], np.ndarray]] = {
    "orthogonal": _orthogonal,
    "projection": _projection,
    "sign_permutation": _sign_permutation,
    "sign_codes": _orthogonal,
}


def procrustes(plain: np.ndarray, protected: np.ndarray) -> np.ndarray:
    """The orthogonal W that minimises ‖X W − Y‖.

    Equivalent: ``scipy.linalg.orthogonal_procrustes(plain, protected)[0]``.
    """
    left, _, right = np.linalg.svd(plain.T @ protected, full_matrices=False)
    return left @ right


def least_squares(plain: np.ndarray, protected: np.ndarray) -> np.ndarray:
    """The W of least norm among those that minimise ‖X W − Y‖."""
    return np.linalg.lstsq(plain, protected)[0]


def ridge(plain: np.ndarray, protected: np.ndarray) -> np.ndarray:
    """The W that minimises ‖X W − Y‖² + ``RIDGE`` ‖W‖²."""
    return np.linalg.solve(plain.T @ plain + RIDGE * np.eye(plain.shape[1]), plain.T @ protected)


def assignment(plain: np.ndarray, protected: np.ndarray) -> np.ndarray:
    """The signed permutation W that minimises ‖X W − Y‖, as a linear assignment of columns.

    Column i goes to column j at the cost min over signs of ‖xᵢ ∓ yⱼ‖² = ‖xᵢ‖² + ‖yⱼ‖² − 2 |⟨xᵢ, yⱼ⟩|.
    """
    cross = plain.T @ protected
    cost = (plain**2).sum(0)[:, None] + (protected**2).sum(0) - 2 * np.abs(cross)
    rows, columns = linear_sum_assignment(cost)
    found = np.zeros_like(cross)
    found[rows, columns] = np.where(cross[rows, columns] < 0, -1.0, 1.0)
    return found


def logistic(plain: np.ndarray, protected: np.ndarray) -> np.ndarray:
    """The W that minimises Σ log(1 + exp(−yᵢⱼ ⟨xᵢ, wⱼ⟩)) + ½ ``RIDGE`` ‖W‖² for codes of −1 and 1.

    Equivalent: for each column ``sklearn.linear_model.LogisticRegression(C=1 / RIDGE, fit_intercept=False)``.
    """
    shape = plain.shape[1], protected.shape[1]

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights = flat.reshape(shape)
        margins = protected * (plain @ weights)
        slope = -protected * np.exp(-np.logaddexp(0, margins))
        gradient = plain.T @ slope + RIDGE * weights
        value = np.logaddexp(0, -margins).sum() + RIDGE / 2 * (weights**2).sum()
        return float(value), gradient.ravel()

    start = np.zeros(shape).ravel()
    options = {"maxiter": 500, "maxfun": 1000}
    return minimize(loss, start, jac=True, method="L-BFGS-B", tol=1e-8, options=options).x.reshape(shape)


Attack = Callable[[np.ndarray, np.ndarray], np.ndarray]
ATTACKS: dict[str, dict[str, Attack]] = {
    "orthogonal": {"procrustes": procrustes, "least_squares": least_squares, "ridge": ridge},
    "projection": {"least_squares": least_squares, "ridge": ridge},
    "sign_permutation": {"assignment": assignment, "procrustes": procrustes, "least_squares": least_squares},
    "sign_codes": {"least_squares": least_squares, "ridge": ridge, "logistic": logistic},
}


class Attempt(NamedTuple):
    """What an attacker with so many pairs reaches.

    Attributes:
      kind, attack: the key's kind, and the map that is fitted.
      pairs: known pairs of plain and protected templates.
      undetermined: dimensions of the space of templates that the plain templates do not span. An orthogonal key that
        fits noise-free pairs is free to be any rotation or reflection on as many dimensions: with 0 it is the key,
        with 1 it is the key up to one sign, with more there are infinitely many.
      error: of the fitted key, see ``Key.error``.
      accepted: for each victim, whether the system takes the plain template under the fitted key for the protected
        template of the same photograph, shape [victims].
    """

    kind: str
    attack: str
    pairs: int
    undetermined: int
    error: float
    accepted: Bool[np.ndarray, " victims"]


def keyed_threshold(key: Key, rows: Float[np.ndarray, "n d"], identities: np.ndarray, fmr: float) -> float:
    """The threshold of cosines between protected templates at a false match rate of the keyed system itself.

    Raises:
      UserError: there are too few comparisons for the rate.
    """
    found = verify(key.protect(rows), key.protect(rows), identities, fmr=(fmr,))
    if not found.supported[fmr]:
        raise UserError(
            f"fmr: {found.impostor:,} comparisons of different people cannot support a false match rate of {fmr:g}"
        )
    return found.threshold[fmr]


def known_pairs(
    key: Key, rows: Float[np.ndarray, "n d"], identities: np.ndarray, noise: str | float = 0.0, seed: int = 0
) -> tuple[Float[np.ndarray, "m d"], Float[np.ndarray, "m k"]]:
    """The pairs that an attacker knows, in random order, so that smaller numbers of pairs nest.

    Args:
      key: of the system.
      rows: plain templates of length 1, of people who are not attacked.
      identities: of the rows, shape [n].
      noise: between the attacker's plain template and the enrolled one: 0 for the same template; a number for normal
        noise whose expected squared length is the square of this number; "other_image" for another photograph of the
        same person (the next one; people with one photograph give no pair).
      seed: of order and noise.

    Raises:
      UserError: another noise, or nobody has two photographs.
    """
    random = np.random.default_rng(seed)
    order = random.permutation(len(rows))
    if noise == OTHER_IMAGE:
        person_by_person = order[np.argsort(identities[order], kind="stable")]
        following = np.roll(person_by_person, -1)
        two = np.flatnonzero(identities[person_by_person] == identities[following])
        two = random.permutation(two[person_by_person[two] != following[two]])
        if not len(two):
            raise UserError("noise 'other_image' needs people with two photographs; every person has one")
        return rows[following[two]], key.protect(rows[person_by_person[two]])
    if isinstance(noise, str) or not 0 <= noise < np.inf:
        raise UserError(f"noise: expected {OTHER_IMAGE!r} or a number of at least 0, got {noise!r}")
    plain = rows[order]
    return plain + noise / rows.shape[1] ** 0.5 * random.normal(size=plain.shape), key.protect(plain)


def attempts(
    key: Key,
    known: tuple[Float[np.ndarray, "m d"], Float[np.ndarray, "m k"]],
    victims: Float[np.ndarray, "victims d"],
    threshold: float,
    pairs: Sequence[int],
    attacks: Sequence[str] | None = None,
) -> Iterator[Attempt]:
    """Fits the key to the first of the known pairs, for each number of pairs and each attack.

    Args:
      key: of the system; attackers see it only through ``known``.
      known: plain templates and protected ones, row for row, as from ``known_pairs``.
      victims: plain templates of people who are in none of the pairs.
      threshold: of the system, see ``keyed_threshold``.
      pairs: numbers of pairs.
      attacks: names in ``ATTACKS[key.kind]``; all by default.

    Raises:
      UserError: more pairs are asked for than are known, or an unknown attack.
    """
    plain, protected = known
    wrong = [number for number in pairs if not 1 <= number <= len(plain)]
    if wrong:
        raise UserError(f"pairs: {wrong[-1]:,} are asked for; there are 1 to {len(plain):,}")
    table = ATTACKS[key.kind]
    for name in attacks or table:
        if name not in table:
            raise UserError(f"attack on {key.kind!r}: expected one of {', '.join(table)}, got {name!r}")
    genuine = unit_rows(key.protect(victims))
    for number in pairs:
        undetermined = plain.shape[1] - int(np.linalg.matrix_rank(plain[:number]))
        for name in attacks or table:
            fitted = dataclasses.replace(key, matrix=table[name](plain[:number], protected[:number]))
            forged = unit_rows(fitted.protect(victims))
            accepted = np.einsum("nk,nk->n", forged, genuine) >= threshold - ROUNDING
            yield Attempt(key.kind, name, number, undetermined, key.error(fitted), accepted)


def pairs_to_break(
    found: Iterable[Attempt], *, accepted: float = 0.95, error: float = np.inf
) -> dict[str, int | None]:
    """For each attack the smallest number of pairs from which on it succeeds at every larger number tried.

    Args:
      found: attempts on one key.
      accepted: the share of victims that the system must take.
      error: the largest error of the fitted key; 1e-6 asks for the key itself.

    Returns:
      The number of pairs by attack; None where the largest number tried does not succeed.
    """
    least: dict[str, int | None] = {}
    for attempt in sorted(found, key=lambda attempt: attempt.pairs):
        succeeds = attempt.accepted.mean() >= accepted and attempt.error <= error
        earlier = least.get(attempt.attack)
        least[attempt.attack] = (attempt.pairs if earlier is None else earlier) if succeeds else None
    return least


LINKS = ("cosine", "sorted", "pairs")


def link_scores(
    one: Float[np.ndarray, "n k"],
    other: Float[np.ndarray, "n l"],
    identities: np.ndarray,
    link: str = "cosine",
    known: tuple[Float[np.ndarray, "m k"], Float[np.ndarray, "m l"]] | None = None,
) -> tuple[Float[np.ndarray, " mated"], Float[np.ndarray, " other"]]:
    """Scores between the protected templates of two keys: what a database under a revoked key says of the new one.

    Args:
      one, other: the same photographs under either key, row for row.
      identities: of the rows, shape [n].
      link: "cosine" of the protected templates as they are, for keys of one size; "sorted": the cosine of their sorted
        absolute values, which no signed permutation changes; "pairs": the cosine after the map of least squares
        between the two, fitted to ``known``.
      known: protected templates of the same photographs of other people under either key, row for row.

    Returns:
      Scores of different photographs of one person, and of different people.

    Raises:
      UserError: an unknown link, two sizes that cannot be compared, or no known pairs.
    """
    if link not in LINKS or (link == "pairs") != (known is not None):
        raise UserError(
            f"link: expected one of {', '.join(LINKS)}, and known pairs for 'pairs' alone, got {link!r}"
        )
    if link == "pairs":
        assert known is not None
        one = one @ ridge(*known)
    elif link == "sorted":
        one, other = np.sort(np.abs(one), axis=1), np.sort(np.abs(other), axis=1)
    if one.shape != other.shape:
        raise UserError(f"link {link!r}: expected templates of one shape, got {one.shape} and {other.shape}")
    scores = unit_rows(one) @ unit_rows(other).T
    mated = identities[:, None] == identities
    return scores[mated & ~np.eye(len(scores), dtype=bool)], scores[~mated]
