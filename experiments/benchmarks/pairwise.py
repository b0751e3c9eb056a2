"""Times the fitting of all ordered pairs against what a researcher would write, and counts compiled programs.

  python -m experiments.benchmarks.pairwise --out=results/benchmark_pairwise.json

Rows are synthetic: encoders of the given widths see noisy linear images of common identity vectors. Every figure of
one run is from the same machine at the same time, so the ratios are what to quote; our own are timed in turn, round
by round. himalaya is timed on every source; scikit-learn on a cycle of pairs in which every encoder is source once and
target once, scaled to all pairs (pip install 'jaxalign[benchmark]'; --peers= leaves them out).
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

import jaxalign
from experiments.benchmarks import define, medians, seconds, show, synthetic, write
from experiments.run import cli, flags
from jaxalign.core.errors import UserError
from jaxalign.core.precision import double_precision, multiply

PEERS = ("sklearn", "himalaya")
VALUES = define(
    rows=flags.Flag(10_000, "Rows (photographs), 5 of each person.", least=10),
    widths=flags.Flag("128,192,256,512,512,512,768,768", "Widths of the encoders."),
    penalties=flags.Flag(10, "Penalties that ridge chooses from.", least=1),
    folds=flags.Flag(5, "Folds of the cross-validation.", least=2),
    repeats=flags.Flag(5, "Runs of each figure of ours; medians are quoted.", least=1),
    peers=flags.Flag(",".join(PEERS), "Peers to time."),
)

# Nine distinct widths among fourteen encoders, as in the paper; small, since only programs are counted.
WIDTHS_OF_PROGRAMS = (64, 64, 80, 80, 128, 128, 128, 160, 192, 224, 256, 320, 384, 384)
Rows = dict[str, np.ndarray]


def fetched(maps: jaxalign.PairwiseMaps) -> None:
    """Waits until every map is on the host."""
    for pair in maps:
        jax.block_until_ready(maps[pair].source.bias)


def our_figures(embeddings: Rows, identities: np.ndarray, grid: np.ndarray) -> dict[str, float]:
    """Seconds of the unavoidable product and of our fits."""
    concatenated = jnp.asarray(np.concatenate(list(embeddings.values()), axis=1))
    product = jax.jit(lambda z: multiply(z.T, z))
    with double_precision():
        double_product = jax.jit(lambda z: multiply(z, z.T))
        transposed = jnp.asarray(np.ascontiguousarray(np.asarray(concatenated, np.float64).T))
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
        chosen = {"l2": list(grid), "folds": VALUES.folds, "identities": identities}
        fetched(jaxalign.fit_pairs(embeddings, **chosen))

    works = {
        "product_float32": lambda: jax.block_until_ready(product(concatenated)),
        "product_float64": double,
        "ridge_one_penalty": lambda: fetched(jaxalign.fit_pairs(embeddings, l2=0.1)),
        "ridge_cross_validated": cross_validated,
        "reduced_rank_one_rank": lambda: sweep(ranks[:1]),
        "reduced_rank_12_ranks": lambda: sweep(ranks),
    }
    return medians(works, VALUES.repeats)


def sklearn_loop(embeddings: Rows, grid: np.ndarray) -> float:
    """Seconds of ``RidgeCV(alphas, cv)`` for every ordered pair, from those of encoders two apart."""
    from sklearn.linear_model import RidgeCV

    names = list(embeddings)

    def cycle() -> None:
        for k, source in enumerate(names):
            target = names[(k + 2) % len(names)]
            RidgeCV(alphas=grid, cv=VALUES.folds).fit(embeddings[source], embeddings[target])

    return seconds(cycle) * (len(names) - 1)


def himalaya_loop(embeddings: Rows, grid: np.ndarray) -> float:
    """Seconds of himalaya's ``RidgeCV``, once for each source on all targets at once."""
    from himalaya.ridge import RidgeCV

    def every_source() -> None:
        for source in embeddings:
            targets = np.concatenate([rows for name, rows in embeddings.items() if name != source], axis=1)
            RidgeCV(alphas=grid, cv=VALUES.folds, fit_intercept=True).fit(embeddings[source], targets)

    return seconds(every_source)


def programs() -> dict[str, int]:
    """Compiled programs of ``fit_pairs`` for fourteen encoders of nine widths, by method, from an empty cache."""
    embeddings, identities = synthetic(400, WIDTHS_OF_PROGRAMS)
    counts = {}
    seen: list[str] = []
    jax.monitoring.register_event_duration_secs_listener(lambda event, *_, **__: seen.append(event))
    for method in jaxalign.SOLVERS:
        jax.clear_caches()
        seen.clear()
        fetched(jaxalign.fit_pairs(embeddings, method, identities=identities))
        counts[method] = seen.count("/jax/core/compile/backend_compile_duration")
    return counts


def main(_: Sequence[str]) -> None:
    """Prints the figures, and writes them."""
    peers = flags.words("peers", VALUES.peers, PEERS, "peer") if VALUES.peers else ()
    widths = [width.strip() for width in VALUES.widths.split(",")]
    if not all(width.isdigit() and int(width) for width in widths):
        raise UserError(f"--widths: expected whole numbers from 1, got {VALUES.widths}")
    embeddings, identities = synthetic(VALUES.rows, [int(width) for width in widths])
    grid = np.logspace(-2, 4, VALUES.penalties)
    print(f"{VALUES.rows:,} rows, widths {', '.join(widths)}, {len(grid)} penalties, {VALUES.folds} folds")
    figures = our_figures(embeddings, identities, grid)
    for peer, loop in (("sklearn", sklearn_loop), ("himalaya", himalaya_loop)):
        if peer in peers:
            try:
                figures[f"{peer}_cross_validated"] = loop(embeddings, grid)
            except ImportError as error:
                print(f"{peer} is left out: {error}")
    compared = {
        "one penalty / product float32": ("ridge_one_penalty", "product_float32"),
        "one penalty / product float64": ("ridge_one_penalty", "product_float64"),
        "12 ranks / one rank": ("reduced_rank_12_ranks", "reduced_rank_one_rank"),
        **{f"{peer} / ours": (f"{peer}_cross_validated", "ridge_cross_validated") for peer in peers},
    }
    ratios = {name: figures[a] / figures[b] for name, (a, b) in compared.items() if a in figures}
    counts = programs()
    for group in (figures, ratios, {f"programs of {name}": count for name, count in counts.items()}):
        show(group)
    write(VALUES.out, {"seconds": figures, "ratios": ratios, "programs": counts})


if __name__ == "__main__":
    cli.run(main, values=VALUES)
