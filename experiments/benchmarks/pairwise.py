"""Times the fitting of all ordered pairs against what a researcher would write, and counts compiled programs.

  python -m experiments.benchmarks.pairwise --out=results/benchmark_pairwise.json

Rows are made up: encoders of the given widths see noisy linear images of common identity vectors. Every figure of
one run is from the same machine at the same time, so the ratios are what to quote; our own are timed in turn, round
by round. himalaya is timed on every source; scikit-learn on a cycle of pairs in which every encoder is source once and
target once, scaled to all pairs (pip install 'jaxalign[benchmark]'; --peers= leaves them out).
"""

import json
import pathlib
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

import jaxalign
from experiments.run import cli
from jaxalign import SOLVERS
from jaxalign.core.errors import UserError
from jaxalign.core.precision import double_precision, multiply

VALUES = flags.FlagValues()
ROWS = flags.DEFINE_integer("rows", 10_000, "Rows (photographs), 5 of each person.", flag_values=VALUES)
WIDTHS = flags.DEFINE_list(
    "widths",
    ["128", "192", "256", "512", "512", "512", "768", "768"],
    "Widths of the encoders.",
    flag_values=VALUES,
)
PENALTIES = flags.DEFINE_integer("penalties", 10, "Penalties that ridge chooses from.", flag_values=VALUES)
FOLDS = flags.DEFINE_integer("folds", 5, "Folds of the cross-validation.", flag_values=VALUES)
REPEATS = flags.DEFINE_integer(
    "repeats", 5, "Runs of each of our own figures; medians are quoted.", flag_values=VALUES
)
PEERS = flags.DEFINE_list(
    "peers", ["sklearn", "himalaya"], "Peers to time: sklearn, himalaya.", flag_values=VALUES
)
OUT = flags.DEFINE_string("out", None, "File to write the figures to, as JSON.", flag_values=VALUES)

# Nine distinct widths among fourteen encoders, as in the paper; small, since only programs are counted.
WIDTHS_OF_PROGRAMS = (64, 64, 80, 80, 128, 128, 128, 160, 192, 224, 256, 320, 384, 384)


def synthetic(rows: int, widths: Sequence[int], seed: int = 0) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Embeddings of people with five photographs each: float32 arrays [rows, width], and identities."""
    rng = np.random.default_rng(seed)
    identities = np.arange(rows) // 5
    vectors = rng.standard_normal((identities[-1] + 1, 200), np.float32)[identities]
    vectors += 0.5 * rng.standard_normal(vectors.shape, np.float32)

    def view(width: int) -> np.ndarray:
        mixing = rng.standard_normal((200, width), np.float32) / np.sqrt(np.float32(200))
        return vectors @ mixing + 0.3 * rng.standard_normal((rows, width), np.float32)

    return {f"encoder{k}_{width}": view(width) for k, width in enumerate(widths)}, identities


def seconds(functions: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Median of each function's runs, one of each a round, after one that compiles: what slows one slows all."""
    for function in functions.values():
        function()
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(all_) for name, all_ in times.items()}


def fetched(maps: jaxalign.PairwiseMaps) -> None:
    """Waits until every map is on the host."""
    for pair in maps:
        jax.block_until_ready(maps[pair].source.bias)


def our_figures(
    embeddings: dict[str, np.ndarray], identities: np.ndarray, grid: np.ndarray
) -> dict[str, float]:
    """Seconds of the unavoidable product and of our fits."""
    side_by_side = jnp.asarray(np.concatenate(list(embeddings.values()), axis=1))
    product = jax.jit(lambda z: multiply(z.T, z))
    with double_precision():
        wide = jnp.asarray(side_by_side, jnp.float64)
        double_product = jax.jit(lambda z: multiply(z, z.T))
        transposed = jnp.asarray(np.ascontiguousarray(np.asarray(wide).T))
    moments = jaxalign.FoldMoments.of(embeddings)
    ranks = [2**k for k in range(1, 7)] + [12, 24, 48, 80, 96, 112]

    def double() -> None:
        with double_precision():
            jax.block_until_ready(double_product(transposed))

    def sweep(chosen: Sequence[int]) -> None:
        maps = jaxalign.fit_pairs(moments, "reduced_rank", l2=1.0)
        for rank in chosen:
            fetched(maps.at_rank(rank))

    def cross_validated() -> None:
        fetched(jaxalign.fit_pairs(embeddings, l2=list(grid), folds=FOLDS.value, identities=identities))

    return seconds(
        {
            "product_float32": lambda: jax.block_until_ready(product(side_by_side)),
            "product_float64": double,
            "ridge_one_penalty": lambda: fetched(jaxalign.fit_pairs(embeddings, l2=0.1)),
            "ridge_cross_validated": cross_validated,
            "reduced_rank_one_rank": lambda: sweep(ranks[:1]),
            "reduced_rank_12_ranks": lambda: sweep(ranks),
        },
        REPEATS.value,
    )


def sklearn_loop(embeddings: dict[str, np.ndarray], grid: np.ndarray) -> float:
    """Seconds of ``RidgeCV(alphas, cv)`` for every ordered pair, from those of the encoders two places apart."""
    from sklearn.linear_model import RidgeCV

    names = list(embeddings)
    start = time.perf_counter()
    for k, source in enumerate(names):
        target = names[(k + 2) % len(names)]
        RidgeCV(alphas=grid, cv=FOLDS.value).fit(embeddings[source], embeddings[target])
    return (time.perf_counter() - start) * (len(names) - 1)


def himalaya_loop(embeddings: dict[str, np.ndarray], grid: np.ndarray) -> float:
    """Seconds of himalaya's ``RidgeCV``, once for each source on all targets at once."""
    from himalaya.ridge import RidgeCV

    start = time.perf_counter()
    for source in embeddings:
        targets = np.concatenate([array for name, array in embeddings.items() if name != source], axis=1)
        RidgeCV(alphas=grid, cv=FOLDS.value, fit_intercept=True).fit(embeddings[source], targets)
    return time.perf_counter() - start


def programs() -> dict[str, int]:
    """Compiled programs of ``fit_pairs`` for fourteen encoders of nine widths, by method, from an empty cache."""
    embeddings, identities = synthetic(400, WIDTHS_OF_PROGRAMS)
    counts = {}
    seen: list[str] = []
    jax.monitoring.register_event_duration_secs_listener(lambda event, *_, **__: seen.append(event))
    for method in SOLVERS:
        jax.clear_caches()
        seen.clear()
        fetched(jaxalign.fit_pairs(embeddings, method, identities=identities))
        counts[method] = seen.count("/jax/core/compile/backend_compile_duration")
    return counts


def main(_: Sequence[str]) -> None:
    """Prints the figures as they come, and writes them."""
    unknown = set(PEERS.value) - {"sklearn", "himalaya"}
    if unknown:
        raise UserError(f"--peers: expected sklearn, himalaya or nothing, got {', '.join(sorted(unknown))}")
    widths = [int(width) for width in WIDTHS.value]
    embeddings, identities = synthetic(ROWS.value, widths)
    grid = np.logspace(-2, 4, PENALTIES.value)
    print(
        f"{ROWS.value:,} rows, widths {', '.join(map(str, widths))}, {len(grid)} penalties, {FOLDS.value} folds"
    )
    figures: dict[str, Any] = our_figures(embeddings, identities, grid)
    loops = {"sklearn": sklearn_loop, "himalaya": himalaya_loop}
    for peer in PEERS.value:
        try:
            figures[f"{peer}_cross_validated"] = loops[peer](embeddings, grid)
        except ImportError as error:
            print(f"{peer} is left out: {error}")
    for name, value in figures.items():
        print(f"{name:28s} {value:9.3f} s")
    ratios = {
        "one penalty / product float32": figures["ridge_one_penalty"] / figures["product_float32"],
        "one penalty / product float64": figures["ridge_one_penalty"] / figures["product_float64"],
        "12 ranks / one rank": figures["reduced_rank_12_ranks"] / figures["reduced_rank_one_rank"],
    }
    for peer in PEERS.value:
        if f"{peer}_cross_validated" in figures:
            ratios[f"{peer} / ours"] = figures[f"{peer}_cross_validated"] / figures["ridge_cross_validated"]
    for name, value in ratios.items():
        print(f"{name:32s} {value:8.2f}")
    counts = programs()
    print(
        "programs for 14 encoders of 9 widths: "
        + ", ".join(f"{name} {count}" for name, count in counts.items())
    )
    if OUT.value:
        path = pathlib.Path(OUT.value)
        path.parent.mkdir(parents=True, exist_ok=True)
        record = {"seconds": figures, "ratios": ratios, "programs": counts, "jax": jax.__version__}
        path.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    cli.run(main, values=VALUES)
