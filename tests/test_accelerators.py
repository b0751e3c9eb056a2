"""The main programs are lowered for GPU and TPU on this machine, in the formats that they have there.

Nothing is run. Lowering fails for what exists on CPU only: calls of LAPACK, callbacks to the host, NumPy in a program.
Each value of ``PROGRAMS`` is a function of the dtype of moments that returns a function to lower and its arguments.
"""

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.export
import numpy as np
import pytest

from jaxalign.align import held_out, programs, solve
from jaxalign.align.gradient import LOSSES, LowRank, batches, objectives, training
from jaxalign.align.methods import SOLVERS
from jaxalign.align.solvers import Solver
from jaxalign.biometrics import EvaluationPlan, kernels
from jaxalign.biometrics.plan import MateTable
from jaxalign.moments.moments import Moments, chunk_moments

ROWS, WIDTHS = 64, (100, 128)
FORMATS = {"cuda": np.dtype(np.float64), "tpu": np.dtype(np.float32)}  # TPUs have no float64
Call = tuple[Callable[..., Any], tuple[Any, ...]]


def total(dtype: np.dtype) -> Any:
    return Moments.empty("ab", WIDTHS, dtype)


def adding_rows(dtype: np.dtype) -> Call:
    chunk = tuple(np.zeros((ROWS, width), np.float16) for width in WIDTHS)

    def added(sofar: Moments, chunk: Any, weights: Any) -> Moments:
        return sofar.plus(chunk_moments(chunk, weights, ("a", "b"), WIDTHS, dtype))

    return added, (total(dtype), chunk, np.zeros(ROWS, dtype))


def solving(solver: Any, dtype: np.dtype) -> Call:
    """Factors both encoders and solves both directions."""
    moments = total(dtype)
    (work,) = solve.works(moments, {("a", "b"): solver, ("b", "a"): solver})
    items = [call.given[0] for call in programs.encoder_calls(moments, work.factoring)]
    index = {name: k for k, name in enumerate("ab")}

    def solved(moments: Moments, items: Any) -> Any:
        unnamed = (moments.unnamed(),)
        parts = [programs.encoders_program(work.factor, unnamed, item) for item in items]
        states = jax.tree.map(lambda *leaves: jax.numpy.concatenate(leaves), *parts)
        encoders = programs.EncoderStates({128: states}, index)
        calls = programs.pair_calls(moments, encoders, work.pairs, both_states=not solver.columnwise)
        power = (jax.numpy.diagonal(moments.scatter),)
        return [programs.pairs_program(work.function, unnamed, power, *call.given) for call in calls]

    return solved, (moments, items)


def choosing(own: Any, pair: Any, argument: np.ndarray, folds: int, dtype: np.dtype) -> Call:
    """Held-out errors of one pair."""
    moments = (total(dtype),) * (1 + folds)
    (of_source,) = programs.encoder_calls(moments[0], {"a": argument})

    def errors(moments: Any, power: Any) -> Any:
        states = programs.encoders_program(own, moments, *of_source.given)
        encoders = programs.EncoderStates({128: states}, {"a": 0})
        (call,) = programs.pair_calls(moments[0], encoders, {("a", "b"): argument}, both_states=False)
        return programs.pairs_program(pair, moments, (power,) * len(moments), *call.given)

    return errors, (moments, np.zeros(sum(WIDTHS), dtype))


def steps_by_gradient(options: Mapping[str, Any], dtype: np.dtype) -> Call:
    """Two steps of one pair of encoders with a check by people held out; in float32, whatever the moments are."""
    given = LowRank(steps=2, people=8, held_out=0.5, **options).settled()
    people = batches.PeopleTable(*(np.arange(16, dtype=np.int32) for _ in range(3)))
    rows, order = np.zeros((2, ROWS, 128), np.float32), np.arange(ROWS, dtype=np.int32)
    data = batches.Rows({128: rows}, {128: rows}, order, people, people)
    objective = objectives.PairObjective.of(given, data, (128, 128))
    factor, number = np.ones((128, 8), np.float32), np.array(0, np.int32)
    weights = objectives.PairWeights(factor, factor if given.two_sided else factor.T, np.array(0, np.float32))
    member, plan = objectives.PairMember(number, number), training.Plan(2, 1, 1)

    def trained(weights: Any, member: Any, data: Any, rate: Any) -> Any:
        with jax.enable_x64(False):
            key = jax.random.key(0)
            return training.train_one(objective, plan, weights, member, data, key, rate)

    return trained, (weights, member, data, np.float32(0.1))


def scoring(refined: bool, dtype: np.dtype) -> Call:
    """One call of either pass over the scores of a large test set; in float32, whatever the moments are."""
    tiling = EvaluationPlan.of(np.arange(300) // 3, kept_scores=0).tiling(1, 300)
    table = MateTable(*(part[0] for part in tiling.table))
    shape, rows = table.index.shape, np.zeros((1, tiling.segment, 128), np.float32)
    mates = kernels.Mates(np.zeros(shape, np.float32), np.zeros(shape, np.int32))
    cells = kernels.Refinement(*np.zeros((3, kernels.CELLS), np.int32))
    options = {
        "mesh": kernels.mesh_of(None),
        "strip": tiling.strip,
        "block": tiling.block,
        "bound": 1.0,
        "count": True,
    }

    def scored(*arguments: Any) -> Any:
        with jax.enable_x64(False):
            return kernels.sweep(*arguments, find=not refined, rank=not refined, **options)

    state = (None, cells) if refined else (mates, None)
    gallery, start = np.zeros((tiling.tile, 128), np.float32), np.int32(0)
    return scored, (rows, gallery, tiling.strips(0), table, start, *state)


def scoring_listed_pairs(dtype: np.dtype) -> Call:
    rows = np.zeros((ROWS, 128), np.float32)
    return kernels.scores_of_pairs, (rows, rows, np.zeros((2, kernels.PAIRS_AT_ONCE), np.int32))


GRID = np.array([0.1, 1.0, 10.0])
CHOICES = {
    "penalty of a pair": (held_out.own_rotation, held_out.pair_errors, GRID, 1),
    "penalty of columns": (held_out.own_rotation, held_out.pair_column_errors, GRID, 1),
    "generalised": (held_out.own_spectrum, held_out.pair_generalised_errors, GRID, 0),
    "rank": (held_out.own_training, held_out.pair_rank_errors, np.array(1.0), 1),
}
CLOSED_FORM = {name: solver() for name, solver in SOLVERS.items() if issubclass(solver, Solver)}
STEPS = {"orthogonal": {"loss": "squared", "orthogonal": True}, **{loss: {"loss": loss} for loss in LOSSES}}
PROGRAMS: dict[str, Callable[[np.dtype], Call]] = {
    "moments: rows added": adding_rows,
    "moments: a fold taken away": lambda dtype: (Moments.minus, (total(dtype), total(dtype))),
    **{f"solve: {name}": partial(solving, solver) for name, solver in CLOSED_FORM.items()},
    **{f"gradient: {name}": partial(steps_by_gradient, options) for name, options in STEPS.items()},
    "evaluate: bins": partial(scoring, False),
    "evaluate: cells with thresholds": partial(scoring, True),
    "evaluate: listed pairs": scoring_listed_pairs,
    **{f"choose: {name}": partial(choosing, *given) for name, given in CHOICES.items()},
}


@pytest.mark.parametrize("platform", FORMATS)
@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_are_lowered_for_accelerators(name: str, platform: str) -> None:
    with jax.enable_x64(True):
        function, arguments = PROGRAMS[name](FORMATS[platform])
        exported = jax.export.export(jax.jit(function), platforms=[platform])(*arguments)
        text = exported.mlir_module()
    assert "lapack" not in text and "callback" not in text
    large = re.findall(r"tensor<(?:[0-9]+x)*(?:100|128|228)x(?:[0-9]+x)*f64>", text)
    assert platform != "tpu" or not large, "float64 is emulated on TPU"
