"""Solves pairs of encoders from their moments: what one solver makes of all of them, in few programs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxalign.align.programs import EncoderStates, on_encoders, on_pairs
from jaxalign.align.solvers import Fit, Pair, Solver
from jaxalign.moments.scatter import Sums


def solve(
    total: Sums,
    solvers: Mapping[Pair, Solver],
    progress: Callable[[int, int], None] | None = None,
    spectra: EncoderStates | None = None,
) -> dict[Pair, Callable[[], Fit]]:
    """Solves every ordered pair, whose fit is cut when it is asked for; the solvers are of one static configuration.

    ``progress`` is called with the numbers of pairs done and in all; ``spectra`` are those of the sources, if known.
    """
    found: dict[Pair, Callable[[], Fit]] = {}
    for work in works(total, solvers):
        for batch in _solved(total, work, solvers, spectra):
            found.update(batch)
            if progress is not None:
                progress(len(found), len(solvers))
    return {pair: found[pair] for pair in solvers}


class Work(NamedTuple):
    """What some pairs ask of ``on_encoders`` and ``on_pairs``."""

    factoring: Mapping[str, Any]  # for each encoder to factor the solver that does it
    factor: Callable[..., Any]
    function: Callable[..., Any]
    pairs: Mapping[Pair, Any]  # solvers; one direction stands for both if the solver is symmetric
    first: Any  # any of the solvers, for what they have in common


def works(total: Sums, solvers: Mapping[Pair, Any]) -> list[Work]:
    """Divides pairs into those whose source has one penalty for all of its targets and those whose source has several.

    A source with one penalty is factored with it (by Cholesky), one with several penalties once for all of them.
    """
    first = next(iter(solvers.values()))
    kind = type(first)
    if not first.columnwise:
        factoring = dict.fromkeys((name for pair in solvers for name in pair), first)
        if not first.symmetric:
            return [Work(factoring, kind.factor, kind.solve, solvers, first)]
        pairs = dict.fromkeys(_ordered(total, *pair) for pair in solvers)
        pairs = {(a, b): solvers.get((a, b), solvers.get((b, a))) for a, b in pairs}
        return [Work(factoring, kind.factor, kind.solve_both, pairs, first)]
    by_source: dict[str, list[Any]] = {}
    for (source, _), solver in solvers.items():
        by_source.setdefault(source, []).append(solver)
    one, several = {}, {}
    for source, members in by_source.items():
        settings = [[*map(np.asarray, jax.tree.leaves(solver))] for solver in members]
        same = all(all(map(np.array_equal, each, settings[0])) for each in settings)
        if same and not any(map(np.ndim, settings[0])):
            one[source] = members[0]
        else:
            several[source] = jax.tree.map(lambda leaf: np.resize(leaf, 2), members[0])
    padded = {pair: solver.padded(total.width(pair[1])) for pair, solver in solvers.items()}
    return [
        Work(part, kind.factor, kind.solve, {pair: padded[pair] for pair in padded if pair[0] in part}, first)
        for part in (one, several)
        if part
    ]


def _solved(
    total: Sums, work: Work, solvers: Mapping[Pair, Solver], spectra: EncoderStates | None
) -> Iterator[dict[Pair, Callable[[], Fit]]]:
    first = work.first
    if spectra is None or not any(map(np.ndim, jax.tree.leaves(work.factoring))):
        spectra = on_encoders(work.factor, (total,), work.factoring)
    batches = on_pairs(work.function, (total,), spectra, work.pairs, both_states=not first.columnwise)
    for members, fits in batches:
        found = {}
        for index, pair in members.items():
            directions = zip((pair, pair[::-1]), fits) if first.symmetric else [(pair, fits)]
            for direction, batch in directions:
                if direction in solvers:
                    widths = total.width(direction[0]), total.width(direction[1])
                    found[direction] = functools.partial(_fit, batch, index, *widths, first.space(*widths))
        yield found


def _fit(fits: Any, index: int, *widths: int) -> Fit:
    """One of several fits, which are stacked on the host, cut to the widths of both encoders and of their space."""
    return jax.tree.map(lambda leaf: leaf[index], fits).cut(*widths)


def _ordered(total: Sums, a: str, b: str) -> Pair:
    """The narrower encoder first; among equals either, so that devices have as many pairs."""
    if total.width(a) != total.width(b):
        return (a, b) if total.width(a) < total.width(b) else (b, a)
    i, j = total.names.index(a), total.names.index(b)
    return (a, b) if (i < j) == ((i + j) % 2 == 1) else (b, a)
