"""What makes the rows of a run doubtful, found as they are opened, before anything is fitted."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from experiments.run.config import PairwiseConfig
from jaxalign.analysis.row_order import order_warnings, unlike_pairs
from jaxalign.core.people import legacy_generator, limit_per_person
from jaxalign.core.rows import unit_rows
from jaxalign.report import Measure
from jaxalign.report.labels import listed, percent

PEOPLE, EACH = 250, 4  # at most, on whom an encoder is tried by itself
LEAST = 20  # photographs, with fewer of which chance decides how well an encoder does
# Numbers of an encoder against itself below which something is likely wrong.
WEAK = {"rank1": 0.5, "auc": 0.9}
Reading = Callable[[np.ndarray], Mapping[str, np.ndarray]]  # of rows by index, of every encoder


def doubts(
    read: Reading, identities: np.ndarray, images: np.ndarray | None, config: PairwiseConfig | None = None
) -> Iterator[str]:
    """A sentence for every pair of encoders whose rows do not belong together, and for every encoder that is weak.

    Args:
      read: takes indices of rows and returns these rows of every encoder, by name.
      identities: who is on each row, shape [n].
      images: a number for each row, equal for copies of one photograph, shape [n]; None where unknown.
      config: of a run that may have embedded the rows itself, just now: these cannot be in another order.
    """
    embedded = config is not None and config.images is not None
    reached, photographs = own_rates_of_all(read, identities, images)
    weak = [name for name, rates in reached.items() if any(rates[of] < least for of, least in WEAK.items())]
    if not embedded:
        working = reached.keys() - weak
        yield from order_warnings(unlike_pairs(read, identities, working), list(read(np.arange(0))))
    for name in weak:
        told = listed(f"{Measure(of).brief} {percent(rate)}" for of, rate in reached[name].items())
        yield (
            f"{name} is weak by itself ({told} on {photographs:,} photographs), and no map can make up for that. "
            f"Likely causes: {causes(config if embedded else None)}"
        )


def own_rates_of_all(
    read: Reading, identities: np.ndarray, images: np.ndarray | None
) -> tuple[dict[str, dict[str, float]], int]:
    """What every encoder reaches by itself, its mean taken away, and on how many photographs; nothing on too few.

    The sample is the same in every run: at most 4 photographs of each of at most 250 people who have two or more.
    """
    people, count = np.unique(identities, return_counts=True)
    several = people[count > 1]
    chosen = several[legacy_generator(0).permutation(len(several))[:PEOPLE]]
    some = limit_per_person(np.flatnonzero(np.isin(identities, chosen)), identities, EACH)
    if len(some) < LEAST:
        return {}, len(some)
    found, copies = {}, None if images is None else images[some]
    for name, rows in read(some).items():
        finite = np.isfinite(rows).all(axis=1)  # an import may hold others, which it tells of
        wide, people = np.asarray(rows[finite], np.float64), identities[some][finite]
        same = None if copies is None else copies[finite]
        found[name] = dict(zip(WEAK, own_rates(wide - wide.mean(axis=0), people, same)))
    return found, len(some)


def own_rates(
    rows: np.ndarray, people: Sequence[Any] | np.ndarray, copies: Sequence[Any] | np.ndarray | None
) -> tuple[float, float]:
    """Rank-1 of rows [n, d] against themselves, the same image excluded, and AUC; zeros where there are no such.

    The numbers of ``evaluate`` for some hundred rows, in float64 by NumPy: programs for every width would take longer
    to compile than a small store takes to align.
    """
    unit = unit_rows(rows)
    if not np.isfinite(unit).all():
        return 0.0, 0.0
    cosines = unit @ unit.T
    labels = people, np.arange(len(rows)) if copies is None else copies
    person, image = (np.unique(label, return_inverse=True)[1][:, None] for label in labels)
    others = person != person.T
    mates = ~others & (image != image.T)
    probes = mates.any(axis=1)
    if not probes.any() or not others.any():
        return 0.0, 0.0
    best = [np.where(kind, cosines, -2).max(axis=1)[probes] for kind in (mates, others)]
    impostor = np.sort(cosines[others])
    beaten = np.mean([np.searchsorted(impostor, cosines[mates], side) for side in ("left", "right")])
    return float(np.mean(best[0] > best[1])), float(beaten / len(impostor))


def causes(config: PairwiseConfig | None) -> str:
    """Why an encoder may be weak, the likeliest cause first; without a configuration, of a store."""
    synthetic = config is not None and (config.images or "").startswith("faces:")
    found = []
    if config is None:
        found.append(
            "a wrong crop of the photographs when they were embedded (embed --crop=auto tries the crops)"
        )
        found.append("rows in another order than the identities")
    elif not synthetic and config.crop != "auto":
        found.append("a wrong crop of the photographs (--crop=auto tries the crops on a sample)")
    return "; ".join([*found, f"an encoder that was not made for {'such ' * synthetic}faces"])
