"""Which problems are solved together: few programs, each for many pairs, whatever the widths.

Encoders are filled up with zero columns to a few widths. Solvers that treat every target column alone take all
targets of a source side by side: one program for each of these widths. Of other solvers one program for each width
factors the encoders, and one for each source width solves its pairs, stacked by shape. On a CPU programs of different
widths run side by side.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, cast

import jax
import numpy as np
from jaxtyping import Int

from jaxalign.align.affine import AffineMap
from jaxalign.align.solvers import ColumnwiseSolver, Fit, Solver, SymmetricSolver
from jaxalign.align.solvers.spectrum import Spectrum
from jaxalign.core.devices import concurrently
from jaxalign.core.precision import double_precision
from jaxalign.core.pytree import Leaf, pytree
from jaxalign.moments.blocks import (
    Beside,
    Columns,
    CrossMoments,
    OwnMoments,
    cross_moments,
    own_moments,
    padded_width,
)
from jaxalign.moments.dealing import work_on_encoders, work_on_pairs
from jaxalign.moments.moments import Moments
from jaxalign.moments.spread import SpreadMoments
from jaxalign.moments.tile_programs import map_in_batches

Pair = tuple[str, str]


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
    """Where one pair's fit lies in a batch.

    Attributes:
      batch: that holds it.
      place: an index of its leading axis, or a span of its columns.
      widths: of both encoders and of the space where they are compared, to which the fit is cut.
    """

    batch: Batch
    place: int | slice
    widths: tuple[int, int, int]

    def fit(self) -> Fit:
        """The fit of this pair alone."""
        if isinstance(self.place, slice):
            fit = _columns(self.batch.host, self.place)
        else:
            fit = jax.tree.map(lambda leaf: leaf[self.place], self.batch.host)
        return fit.cut(*self.widths)


def solve(
    total: Moments | SpreadMoments,
    solvers: Mapping[Pair, Solver],
    progress: Callable[[int, int], None] | None = None,
    spectra: Mapping[str, Spectrum] | None = None,
) -> dict[Pair, Location]:
    """Solves every pair; of moments that are spread over a mesh, on all of its devices.

    Args:
      total: moments of all encoders that the pairs name.
      solvers: for each ordered pair its solver; all of one class and one static configuration.
      progress: called with the numbers of pairs done and in all.
      spectra: of sources, where they are known already.
    """
    kind = type(next(iter(solvers.values())))
    with double_precision():
        if isinstance(total, SpreadMoments):
            parts = _dealt(total, solvers)
        else:
            columnwise = kind.columnwise
            parts = _by_columns(total, solvers, spectra or {}) if columnwise else _by_shape(total, solvers)
        found: dict[Pair, Location] = {}
        for part in parts:
            found.update(part)
            if progress is not None:
                progress(len(found), len(solvers))
    return {pair: found[pair] for pair in solvers}


def _by_columns(
    total: Moments, solvers: Mapping[Pair, Solver], spectra: Mapping[str, Spectrum]
) -> Iterable[dict[Pair, Location]]:
    kind = cast(type[ColumnwiseSolver], type(next(iter(solvers.values()))))
    targets: dict[str, list[str]] = {}
    for source, target in solvers:
        targets.setdefault(source, []).append(target)
    beside = {source: Beside.of(total, names) for source, names in targets.items()}

    def solve_source(source: str) -> Fit:
        names, widths, columns = beside[source]
        combined = kind.side_by_side([solvers[source, name] for name in names], widths, columns.sizes)
        # Targets that share one penalty are solved by Cholesky.
        known = spectra.get(source) if any(map(np.ndim, jax.tree.leaves(combined))) else None
        with double_precision():
            return _solve_columns(combined, known, total.unnamed(), Columns.of(total, [source]), columns)

    sources = sorted(targets, key=lambda name: -total.width(name))
    for source, fits in zip(sources, concurrently(solve_source, sources)):
        batch = Batch(fits)
        p = total.width(source)
        yield {
            (source, target): Location(batch, place, (p, total.width(target), total.width(target)))
            for target, place in beside[source].places.items()
        }


@jax.jit
def _solve_columns(
    solver: Solver, known: Spectrum | None, total: Moments, source: Columns, targets: Columns
) -> Fit:
    state = solver.factor(own_moments(total, source)) if known is None else known
    return solver.solve(state, None, cross_moments(total, source, targets))


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
        **{
            name: leaf[span] if np.ndim(leaf := getattr(fit, name)) else leaf
            for name in ("effective_rank", "condition")
        },
    )


@pytree
class _Stack:
    """Encoders of one padded width: where their columns start and how many there are."""

    start: Int[Leaf, " n"]
    width: Int[Leaf, " n"]

    @classmethod
    def of(cls, total: Moments, names: Iterable[str]) -> _Stack:
        names = list(names)
        return cls(np.array([total.offset(name) for name in names]), np.array([*map(total.width, names)]))

    def one(self, size: int) -> Columns:
        """Of one encoder, inside a map over several."""
        return Columns(self.start[None], (self.width,), (size,))


@pytree
class _Group:
    """Pairs of one padded shape: their columns and which of the states of their width are theirs."""

    solvers: Solver
    source: Int[Leaf, " n"]
    target: Int[Leaf, " n"]
    source_columns: _Stack
    target_columns: _Stack


def _by_shape(total: Moments, solvers: Mapping[Pair, Solver]) -> Iterable[dict[Pair, Location]]:
    first = next(iter(solvers.values()))
    used = {name for pair in solvers for name in pair}
    alike: dict[int, list[str]] = {}
    for name, width in zip(total.names, total.widths):
        if name in used:
            alike.setdefault(padded_width(width), []).append(name)
    position = {name: k for names in alike.values() for k, name in enumerate(names)}
    padded = {name: size for size, names in alike.items() for name in names}
    states = _states(first, total, {size: _Stack.of(total, names) for size, names in alike.items()})
    pairs = _one_direction(solvers, total) if first.symmetric else list(solvers)
    shapes: dict[int, dict[int, list[Pair]]] = {}
    for source, target in pairs:
        shapes.setdefault(padded[source], {}).setdefault(padded[target], []).append((source, target))

    def solve_width(p: int) -> dict[int, Any]:
        groups = {q: _group(members, solvers, position, total) for q, members in shapes[p].items()}
        with double_precision():
            return _solve_groups(states, total.unnamed(), groups, p=p, both=first.symmetric)

    widest_first = sorted(shapes, reverse=True)
    for p, fits in zip(widest_first, concurrently(solve_width, widest_first)):
        found: dict[Pair, Location] = {}
        for q, members in shapes[p].items():
            batches = [Batch(part) for part in fits[q]] if first.symmetric else [Batch(fits[q])]
            for k, pair in enumerate(members):
                for direction, batch in zip((pair, _reverse(pair)), batches):
                    if direction in solvers:
                        widths = total.width(direction[0]), total.width(direction[1])
                        found[direction] = Location(batch, k, (*widths, first.space(*widths)))
        yield found


def _reverse(pair: Pair) -> Pair:
    return pair[1], pair[0]


def _one_direction(solvers: Mapping[Pair, Solver], total: Moments | SpreadMoments) -> list[Pair]:
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
        _Stack.of(total, [source for source, _ in members]),
        _Stack.of(total, [target for _, target in members]),
    )


def _states(solver: Solver, total: Moments, columns: Mapping[int, _Stack]) -> dict[int, Any]:
    """What the solver makes of every encoder alone, by padded width."""

    def factor(size: int) -> Any:
        with double_precision():
            return _factor(solver, total.unnamed(), columns[size], size)

    widest_first = sorted(columns, reverse=True)
    return dict(zip(widest_first, concurrently(factor, widest_first)))


@functools.partial(jax.jit, static_argnames="size")
def _factor(solver: Solver, total: Moments, encoders: _Stack, size: int) -> Any:
    # One after the other: eigendecompositions do not batch well on GPU (jax issue 10180).
    return jax.lax.map(lambda one: solver.factor(own_moments(total, one.one(size))), encoders)


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
            cross = cross_moments(total, member.source_columns.one(p), member.target_columns.one(q))
            if both:
                return cast(SymmetricSolver, member.solvers).solve_both(source, target, cross)
            return member.solvers.solve(source, target, cross)

        return map_in_batches(one, group)

    return {q: solve_group(q, group) for q, group in groups.items()}


class DealtWork(NamedTuple):
    """What solving over a mesh asks of ``dealing``.

    Attributes:
      factor: of an encoder: ``factor(argument, own)``.
      encoders: the argument of each encoder.
      solve: of a pair: ``solve(argument, source state, target state, cross)``.
      pairs: the argument of each pair.
      either_way: whether a pair stands for both directions.
    """

    factor: Callable[..., Any]
    encoders: Mapping[str, Any]
    solve: Callable[..., Any]
    pairs: Mapping[Pair, Any]
    either_way: bool

    @classmethod
    def of(cls, total: SpreadMoments, solvers: Mapping[Pair, Solver]) -> DealtWork:
        """Each encoder is factored once, each pair solved once."""
        first = next(iter(solvers.values()))
        pairs = _one_direction(solvers, total) if first.symmetric else list(solvers)
        chosen = {
            pair: _of_pair(solvers.get(pair, solvers.get(_reverse(pair))), pair, total) for pair in pairs
        }
        used = dict.fromkeys(name for pair in pairs for name in pair)
        encoders = dict.fromkeys(used, _factoring(solvers, next(iter(chosen.values()))))
        solve_one = _solve_both if first.symmetric else _solve_one
        return cls(_factor_one, encoders, solve_one, chosen, first.symmetric)


def _dealt(total: SpreadMoments, solvers: Mapping[Pair, Solver]) -> Iterable[dict[Pair, Location]]:
    """Encoders are factored, and pairs solved, by the devices that hold their blocks."""
    first, work = next(iter(solvers.values())), DealtWork.of(total, solvers)
    dealt = work_on_encoders(work.factor, (total,), work.encoders)
    for done, fits in work_on_pairs(work.solve, dealt, work.pairs, either_way=work.either_way):
        batches = [Batch(part) for part in fits] if work.either_way else [Batch(fits)]
        found: dict[Pair, Location] = {}
        for k, pair in enumerate(done):
            for direction, batch in zip((pair, _reverse(pair)), batches):
                if direction in solvers:
                    widths = total.width(direction[0]), total.width(direction[1])
                    found[direction] = Location(batch, k, (*widths, first.space(*widths)))
        yield found


def _of_pair(solver: Any, pair: Pair, total: SpreadMoments) -> Solver:
    """The solver for the padded columns of one target."""
    width = total.width(pair[1])
    return solver.side_by_side([solver], [width], [padded_width(width)]) if solver.columnwise else solver


def _factoring(solvers: Mapping[Pair, Solver], chosen: Any) -> Solver:
    """The solver that factors every encoder: with several penalties where pairs have penalties of their own."""
    first, *others = solvers.values()
    other = next((solver for solver in others if not _same(solver, first)), None)
    if other is None or not chosen.columnwise or any(map(np.ndim, jax.tree.leaves(chosen))):
        return chosen
    return chosen.side_by_side([first, other], [1, 1], [1, 1])


def _same(one: Solver, other: Solver) -> bool:
    return all(map(np.array_equal, jax.tree.leaves(one), jax.tree.leaves(other)))


def _factor_one(solver: Solver, own: OwnMoments) -> Any:
    return solver.factor(own)


def _solve_one(solver: Solver, source: Any, target: Any, cross: CrossMoments) -> Fit:
    return solver.solve(source, target, cross)


def _solve_both(solver: SymmetricSolver, source: Any, target: Any, cross: CrossMoments) -> tuple[Fit, Fit]:
    return solver.solve_both(source, target, cross)
