"""The best candidates of each probe in a gallery that may be larger than memory."""

import dataclasses
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from jaxalign.biometrics import kernels
from jaxalign.biometrics.inputs import Side
from jaxalign.biometrics.plan import STRIP_ROWS, EvaluationPlan, padded

TILE_ROWS = 1 << 15  # most gallery rows on the device at once


@dataclasses.dataclass(frozen=True)
class Search:
    """Scores of all probes with a gallery that comes to the device a tile at a time."""

    probes: Side
    gallery: Side
    plan: EvaluationPlan
    candidates: int

    def strips(
        self, wanted: np.ndarray | None = None
    ) -> Iterator[tuple[slice, Array, np.ndarray, np.ndarray]]:
        """Strips of probes with each tile: which probes, their scores, and the people of both sides, −1 in padding.

        Strips without ``wanted`` probes are left out. Scores of one strip are the same each time.
        """
        plan = self.plan
        tile = padded(min(plan.gallery, TILE_ROWS))
        for column in range(0, plan.gallery, tile):
            rows = self.gallery.tile(column, tile, None)
            enrolled = _people(plan.gallery_codes[column : column + tile], tile)
            for start in range(0, plan.probes, STRIP_ROWS):
                here = slice(start, min(start + STRIP_ROWS, plan.probes))
                if wanted is None or wanted[here].any():
                    unit = self.probes.unit(np.arange(here.start, here.stop), STRIP_ROWS)
                    yield (
                        here,
                        kernels.product(unit, rows),
                        _people(plan.probe_codes[here], STRIP_ROWS),
                        enrolled,
                    )

    def best(self) -> tuple[np.ndarray, np.ndarray]:
        """The score of each probe's best mate, shape [n], and its highest other scores, falling, shape [n, R].

        −∞ where there is none.
        """
        mate = np.full(padded(self.plan.probes, STRIP_ROWS), -np.inf, self.probes.dtype)
        others = np.full((len(mate), self.candidates), -np.inf, self.probes.dtype)
        for here, *scored in self.strips():
            rows = slice(here.start, here.start + STRIP_ROWS)
            mate[rows], others[rows] = _best(*scored, mate[rows], others[rows])
        return mate[: self.plan.probes], others[: self.plan.probes]

    def above(self, thresholds: np.ndarray, others: np.ndarray) -> np.ndarray:
        """How many other people's scores of each probe reach each threshold, shape [n, thresholds].

        Lists that a threshold ends are counted as they are; other probes are scored again.
        """
        there = np.isfinite(others)[:, :, None]
        counts = np.sum(there & (others[:, :, None] >= thresholds), axis=1)
        full = counts.max(axis=1, initial=0) == self.candidates
        again = np.zeros((padded(len(others), STRIP_ROWS), len(thresholds)), np.int64)
        for here, *scored in self.strips(full):
            again[here.start : here.start + STRIP_ROWS] += np.asarray(_above(*scored, thresholds))
        return np.where(full[:, None], again[: len(others)], counts)


def _people(codes: np.ndarray, size: int) -> np.ndarray:
    return np.pad(codes.astype(np.int32), (0, size - len(codes)), constant_values=-1)


@jax.jit
def _best(
    scores: Float[Array, "s m"],
    people: Int[Array, " s"],
    enrolled: Int[Array, " m"],
    mate: Float[Array, " s"],
    others: Float[Array, "s candidates"],
) -> tuple[Float[Array, " s"], Float[Array, "s candidates"]]:
    """The best mates and the highest other scores so far, with those of one more tile."""
    same = people[:, None] == enrolled[None]
    best = jnp.max(jnp.where(same, scores, -jnp.inf), axis=1)
    strange = jnp.where(same | (enrolled < 0)[None], -jnp.inf, scores)
    found, _ = lax.top_k(strange, min(others.shape[1], len(enrolled)))
    return jnp.maximum(mate, best), lax.top_k(jnp.concatenate([others, found], axis=1), others.shape[1])[0]


@jax.jit
def _above(
    scores: Float[Array, "s m"],
    people: Int[Array, " s"],
    enrolled: Int[Array, " m"],
    thresholds: Float[Array, " t"],
) -> Int[Array, "s t"]:
    strange = (people[:, None] != enrolled[None]) & (enrolled >= 0)[None]
    return lax.map(lambda threshold: jnp.sum(strange & (scores >= threshold), axis=1), thresholds).T
