"""The highest impostor scores with the rows they come from: what a bootstrap over people needs of the impostors."""

import dataclasses
import functools
from collections.abc import Iterator

import jax
import numpy as np
from jaxtyping import Array, Float

from jaxalign.biometrics.counting import Counter, Scored
from jaxalign.biometrics.spreading import by_device
from jaxalign.core.precision import multiply


@dataclasses.dataclass(frozen=True)
class ImpostorTail:
    """The highest impostor scores, falling: at least as many as asked for, ties at the end complete.

    Attributes:
      score: shape [tail].
      probe, gallery: the rows compared, shape [tail].
    """

    score: np.ndarray
    probe: np.ndarray
    gallery: np.ndarray


def impostor_tail(counter: Counter, scored: Scored, share: float) -> ImpostorTail:
    """Collects the highest ``share`` of all impostor scores.

    Scores that were kept are looked through; others are computed once more, strip by strip.
    """
    plan = counter.plan
    wanted = max(1, min(plan.impostor, int(np.ceil(share * plan.impostor))))
    if not plan.impostor:
        return ImpostorTail(np.zeros(0, scored.dtype), np.zeros(0, np.int64), np.zeros(0, np.int64))
    assert scored.axis is not None
    least = scored.axis.exceeded_by(wanted)
    found = []
    for start, column, scores in score_strips(counter, scored):
        rows = min(len(scores), plan.probes - start)
        places = np.flatnonzero(scores[:rows].ravel() >= least)
        probe, gallery = plan.order[start + places // scores.shape[1]], column + places % scores.shape[1]
        real = gallery < plan.gallery
        real[real] = plan.probe_codes[probe[real]] != plan.gallery_codes[gallery[real]]
        found.append((scores.ravel()[places[real]], probe[real], gallery[real]))
    score, probe, gallery = (np.concatenate(parts) for parts in zip(*found))
    falling = np.argsort(-score, kind="stable")
    falling = falling[: int(np.searchsorted(-score[falling], -score[falling[wanted - 1]], "right"))]
    return ImpostorTail(score[falling], probe[falling], gallery[falling])


def score_strips(counter: Counter, scored: Scored) -> Iterator[tuple[int, int, np.ndarray]]:
    """First position, first gallery row and scores of each strip of probes with each tile of the gallery."""
    if scored.scores is not None:
        yield 0, 0, scored.scores
        return
    tiling = counter.tiling
    for column, gallery in counter.tiles():
        tiles = by_device(gallery, counter.mesh)
        for number, probes in counter.rounds():
            for device, (rows, strips) in enumerate(
                zip(by_device(probes, counter.mesh), tiling.strips(number))
            ):
                start = tiling.positions(number).start + device * tiling.segment
                for s in range(strips):
                    scores = _strip(rows, tiles[device], s, strip=tiling.strip)
                    yield start + s * tiling.strip, column, np.asarray(scores)


@functools.partial(jax.jit, static_argnames="strip")
def _strip(
    probes: Float[Array, "1 n d"], gallery: Float[Array, "m d"], number, *, strip: int
) -> Float[Array, "strip m"]:
    return multiply(jax.lax.dynamic_slice_in_dim(probes[0], number * strip, strip), gallery.T)
