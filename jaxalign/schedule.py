"""Which problems are solved together: few programs, each for many pairs, whatever the widths.

Solvers that treat every target column alone take all targets of a source side by side: one program for each
distinct source width. Other solvers factor all encoders in one program, and solve all pairs whose source has one
width in one more; pairs of like shape are stacked inside it, so nothing is padded.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from jaxalign.affine import AffineMap
from jaxalign.blocks import Beside, cross_moments, cross_moments_beside, own_moments
from jaxalign.moments import Moments
from jaxalign.precision import double_precision
from jaxalign.pytree import Leaf, pytree
from jaxalign.solvers import ColumnwiseSolver, Fit, Solver, SymmetricSolver
from jaxalign.workers import concurrently

Pair = tuple[str, str]
ACCELERATOR_BATCH = (
    8  # pairs of one shape that an accelerator solves at once; a CPU solves one after the other
)


@dataclasses.dataclass(frozen=True)
class Batch:
    """Fits that one program gave, fetched to the host when the first of them is asked for."""

    fits: Any

    @functools.cached_property
    def host(self) -> Any:
        """The fits with numpy leaves."""
        return jax.tree.map(np.asarray, self.fits)


@dataclasses.dataclass(frozen=True)
class Location:
    """Where one pair's fit lies in a batch: at an index of its leading axis, or at a span of its columns."""

    batch: Batch
    place: int | slice

    def fit(self) -> Fit:
        """The fit of this pair alone."""
        if isinstance(self.place, slice):
            return _columns(self.batch.host, self.place)
        return jax.tree.map(lambda leaf: leaf[self.place], self.batch.host)


def solve(
    total: Moments,
    solvers: Mapping[Pair, Solver],
    progress: Callable[[int, int], None] | None = None,
) -> dict[Pair, Location]:
    """Solves every pair.

    Args:
      total: moments of all encoders that the pairs name.
      solvers: for each ordered pair its solver; all of one class and one static configuration.
      progress: called with the numbers of pairs done and in all.
    """
    kind = type(next(iter(solvers.values())))
    with double_precision():
        plan = _by_columns if kind.columnwise else _by_shape
        found: dict[Pair, Location] = {}
        for part in plan(total, solvers):
            found.update(part)
            if progress is not None:
                progress(len(found), len(solvers))
    return {pair: found[pair] for pair in solvers}


def _by_columns(total: Moments, solvers: Mapping[Pair, Solver]) -> Iterable[dict[Pair, Location]]:
    kind = cast(type[ColumnwiseSolver], type(next(iter(solvers.values()))))
    targets: dict[str, list[str]] = {}
    for source, target in solvers:
        targets.setdefault(source, []).append(target)
    beside = {source: Beside.of(total, names) for source, names in targets.items()}

    def solve_source(source: str) -> Fit:
        names, starts, widths = beside[source]
        combined = kind.side_by_side([solvers[source, name] for name in names], widths)
        shape = {"width": total.width(source), "widths": widths}
        with double_precision():
            return _solve_columns(combined, total, total.offset(source), starts, **shape)

    sources = sorted(targets, key=lambda name: -total.width(name))
    for source, fits in zip(sources, concurrently(solve_source, sources)):
        batch = Batch(fits)
        yield {(source, target): Location(batch, span) for target, span in beside[source].spans.items()}


@functools.partial(jax.jit, static_argnames=("width", "widths"))
def _solve_columns(
    solver: Solver,
    total: Moments,
    offset: Array,
    starts: Int[Array, " K"],
    *,
    width: int,
    widths: tuple[int, ...],
) -> Fit:
    state = solver.factor(own_moments(total, offset, width))
    return solver.solve(state, None, cross_moments_beside(total, offset, starts, width, widths))


def _columns(fit: Fit, span: slice) -> Fit:
    def cut(map_: AffineMap) -> AffineMap:
        *first, last = map_.factors or (np.empty((0, map_.out_dim)),)
        factors = (*first, last[:, span]) if map_.factors else ()
        return dataclasses.replace(map_, factors=factors, bias=map_.bias[span])

    return dataclasses.replace(
        fit,
        source=cut(fit.source),
        target=cut(fit.target),
        residual=fit.residual[span],
        variance=fit.variance[span],
    )


@pytree
class _Group:
    """Pairs of one shape: where their columns start and which of the states of their width are theirs."""

    solvers: Solver
    source: Int[Leaf, " n"]
    target: Int[Leaf, " n"]
    source_offset: Int[Leaf, " n"]
    target_offset: Int[Leaf, " n"]


def _by_shape(total: Moments, solvers: Mapping[Pair, Solver]) -> Iterable[dict[Pair, Location]]:
    first = next(iter(solvers.values()))
    used = {name for pair in solvers for name in pair}
    alike: dict[int, list[str]] = {}
    for name, width in zip(total.names, total.widths):
        if name in used:
            alike.setdefault(width, []).append(name)
    position = {name: k for names in alike.values() for k, name in enumerate(names)}
    widths = dict(zip(total.names, total.widths))
    offsets = {width: np.array([total.offset(name) for name in names]) for width, names in alike.items()}
    states = _factor(first, total, offsets)
    pairs = _one_direction(solvers, total) if first.symmetric else list(solvers)
    for p in alike:
        shapes: dict[int, list[Pair]] = {}
        for source, target in pairs:
            if widths[source] == p:
                shapes.setdefault(widths[target], []).append((source, target))
        if not shapes:
            continue
        groups = {q: _group(members, solvers, position, total) for q, members in shapes.items()}
        fits = _solve_groups(states, total, groups, p=p, both=first.symmetric)
        found: dict[Pair, Location] = {}
        for q, members in shapes.items():
            batches = [Batch(part) for part in fits[q]] if first.symmetric else [Batch(fits[q])]
            for k, pair in enumerate(members):
                for direction, batch in zip((pair, _reverse(pair)), batches):
                    if direction in solvers:
                        found[direction] = Location(batch, k)
        yield found


def _reverse(pair: Pair) -> Pair:
    return pair[1], pair[0]


def _one_direction(solvers: Mapping[Pair, Solver], total: Moments) -> list[Pair]:
    """Each unordered pair once, the narrower encoder first (its solution serves both directions)."""
    rank = {name: (width, k) for k, (name, width) in enumerate(zip(total.names, total.widths))}
    return list(dict.fromkeys((a, b) if rank[a] <= rank[b] else (b, a) for a, b in solvers))


def _group(
    members: list[Pair], solvers: Mapping[Pair, Solver], position: Mapping[str, int], total: Moments
) -> _Group:
    chosen = [solvers.get(pair, solvers.get(_reverse(pair))) for pair in members]
    stacked = jax.tree.map(
        lambda *leaves: np.stack([np.asarray(leaf, np.float64) for leaf in leaves]), *chosen
    )
    return _Group(
        stacked,
        np.array([position[source] for source, _ in members]),
        np.array([position[target] for _, target in members]),
        np.array([total.offset(source) for source, _ in members]),
        np.array([total.offset(target) for _, target in members]),
    )


@jax.jit
def _factor(solver: Solver, total: Moments, offsets: Mapping[int, Int[Leaf, " k"]]) -> dict[int, Any]:
    # One after the other: eigendecompositions do not batch well on GPU (jax issue 10180).
    return {
        width: jax.lax.map(
            lambda offset, width=width: solver.factor(own_moments(total, offset, width)), starts
        )
        for width, starts in offsets.items()
    }


@functools.partial(jax.jit, static_argnames=("p", "both"))
def _solve_groups(
    states: Mapping[int, Any],
    total: Moments,
    groups: Mapping[int, _Group],
    *,
    p: int,
    both: bool,
) -> dict[int, Any]:
    def solve_group(q: int, group: _Group) -> Any:
        def one(member: _Group) -> Any:
            source = jax.tree.map(lambda leaf: leaf[member.source], states[p])
            target = jax.tree.map(lambda leaf: leaf[member.target], states[q])
            cross = cross_moments(total, member.source_offset, member.target_offset, p, q)
            if both:
                return cast(SymmetricSolver, member.solvers).solve_both(source, target, cross)
            return member.solvers.solve(source, target, cross)

        return _map_in_batches(one, group)

    return {q: solve_group(q, group) for q, group in groups.items()}


def _map_in_batches(function: Callable[[Any], Any], items: Any) -> Any:
    """``function`` of every item, several at a time where that helps; the last batch is filled up with item 0."""
    count = jax.tree.leaves(items)[0].shape[0]
    size = 1 if jax.default_backend() == "cpu" else min(ACCELERATOR_BATCH, count)
    if size == 1:
        return jax.lax.map(function, items)
    filled = jax.tree.map(
        lambda leaf: jnp.concatenate([leaf, jnp.repeat(leaf[:1], -count % size, axis=0)]).reshape(
            -1, size, *leaf.shape[1:]
        ),
        items,
    )
    out = jax.lax.map(jax.vmap(function), filled)
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:count], out)
