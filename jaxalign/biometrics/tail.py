"""The highest impostor scores with the rows they come from: what a bootstrap over people needs of the impostors."""

import dataclasses
import functools

import jax
import numpy as np
from jaxtyping import Array, Float

from jaxalign.biometrics.counting import Counter, Scored
from jaxalign.precision import multiply


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
    for start, scores in score_strips(counter, scored):
        rows = min(len(scores), plan.probes - start)
        places = np.flatnonzero(scores[:rows].ravel() >= least)
        probe, gallery = plan.order[start + places // scores.shape[1]], places % scores.shape[1]
        real = gallery < plan.gallery
        real[real] = plan.probe_codes[probe[real]] != plan.gallery_codes[gallery[real]]
        found.append((scores.ravel()[places[real]], probe[real], gallery[real]))
    score, probe, gallery = (np.concatenate(parts) for parts in zip(*found))
    falling = np.argsort(-score, kind="stable")
    falling = falling[: int(np.searchsorted(-score[falling], -score[falling[wanted - 1]], "right"))]
    return ImpostorTail(score[falling], probe[falling], gallery[falling])


def score_strips(counter: Counter, scored: Scored):
    """First position and scores of each strip of probes, in the order of the plan; kept scores, or computed again."""
    if scored.scores is not None:
        yield 0, scored.scores
        return
    strip = counter.plan.strip
    for number in range(len(counter.plan.tables)):
        probes = counter.segment(number)
        for s in range(counter.strips(number)):
            yield (
                number * counter.plan.segment + s * strip,
                np.asarray(_strip(probes, counter.gallery, s, strip=strip)),
            )


@functools.partial(jax.jit, static_argnames="strip")
def _strip(
    probes: Float[Array, "n d"], gallery: Float[Array, "m d"], number, *, strip: int
) -> Float[Array, "strip m"]:
    return multiply(jax.lax.dynamic_slice_in_dim(probes, number * strip, strip), gallery.T)
