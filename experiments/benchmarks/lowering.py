"""The programs of moments and solves over a mesh, compiled for shapes alone: no rows and no matrix are made."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxalign.align.schedule import DealtWork
from jaxalign.align.solvers import Solver
from jaxalign.core.mesh import Layout
from jaxalign.core.precision import double_precision, moment_dtype
from jaxalign.moments import dealing, summing, tile_programs
from jaxalign.moments.spread import DEVICE, SpreadMoments, specs_of

Pair = tuple[str, str]
Program = Callable[[], Any]  # compiles it


def layout_of(encoders: int, width: int, mesh: Mesh) -> Layout:
    """Of encoders of one width."""
    return Layout.of([f"encoder {k:03}" for k in range(encoders)], [width] * encoders, mesh.shape["pairs"])


def moment_programs(layout: Layout, mesh: Mesh, rows: int, format_: Any) -> Mapping[str, Program]:
    """The programs of the first chunk of so many rows, of each other chunk, and of the reduction at the end."""
    dtype = moment_dtype()
    how: dict[str, Any] = {"layout": layout, "mesh": mesh}

    def shape(size: tuple[int, ...], of: Any, spec: P) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(size, of, sharding=NamedSharding(mesh, spec))

    with double_precision():
        chunk = tuple(shape((rows, width), format_, P("data")) for width in layout.widths)
        weights = shape((rows,), dtype, P("data"))
        partial = jax.eval_shape(
            lambda *given: summing.first_chunk(*given, **how, dtype=dtype), chunk, weights
        )
        partial = jax.tree.map(lambda leaf: shape(leaf.shape, leaf.dtype, DEVICE), partial)

    def compiled(program: Any, *given: Any, **more: Any) -> Any:
        with double_precision():
            return program.lower(*given, **how, **more).compile()

    return {
        "first": lambda: compiled(summing.first_chunk, chunk, weights, dtype=dtype),
        "next": lambda: compiled(summing.next_chunk, partial, chunk, weights),
        "reduced": lambda: compiled(summing.reduced, partial),
    }


def moments_shape(layout: Layout, mesh: Mesh) -> SpreadMoments:
    """Spread moments of shapes alone."""
    dtype = moment_dtype()
    size = layout.blocks * layout.width
    small: list[Any] = [jax.ShapeDtypeStruct(shape, dtype) for shape in ((), (), (size,))]
    tile: Any = jax.ShapeDtypeStruct((layout.blocks, layout.width, layout.width), dtype)
    shapes = SpreadMoments(small[0], small[1], small[2], (tile,) * (layout.reach + 1), None, layout, mesh)
    return jax.tree.map(
        lambda leaf, spec: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, spec)),
        shapes,
        specs_of(layout, mesh, False),
    )


def solve_programs(
    total: SpreadMoments, solvers: Mapping[Pair, Solver]
) -> tuple[list[Program], list[tuple[dealing.Group, Program]]]:
    """The programs that factor encoders, and the groups of pairs with the program that solves some of each."""
    work = DealtWork.of(total, solvers)
    everywhere = NamedSharding(total.mesh, P())
    states, place, factoring = {}, {}, []
    with double_precision():
        for size, call, places in dealing.encoder_calls(work.factor, (total,), work.encoders):
            shapes = jax.eval_shape(tile_programs.encoders_program, *call)
            states[size] = jax.tree.map(
                lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=everywhere), shapes
            )
            place.update({name: k for k, name in places.items()})
            factoring.append(_compiling(tile_programs.encoders_program, call))
        dealt = dealing.Dealt(tile_programs.States(states), place, (total,))
        groups = dealing.pair_groups(work.solve, dealt, work.pairs, either_way=work.either_way)
        return factoring, list(_with_programs(groups))


def _with_programs(groups: list[dealing.Group]) -> Iterator[tuple[dealing.Group, Program]]:
    for group in groups:
        yield group, _compiling(tile_programs.pairs_program, group.call(0, group.length)[0])


def _compiling(program: Any, call: tuple[Any, ...]) -> Program:
    def compile_it() -> Any:
        with double_precision():
            return program.lower(*call).compile()

    return compile_it
