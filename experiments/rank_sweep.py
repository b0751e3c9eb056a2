"""How many dimensions a map needs: quality against rank.

  python -m experiments.rank_sweep --store=my_store --out=results/rank_sweep

Methods: reduced_rank (the best map of each rank), canonical, and orthogonal_subspaces (a rotation between the leading
principal axes of both sides). A rank is an upper limit: a pair whose narrower side has fewer dimensions keeps all. For
every pair and for the mean over pairs: the smallest rank within one point of the full one, for the first measure; and
the effective rank of each full map, that is (Σ s)² / Σ s² of the variances s of mapped rows along their own axes.
"""

from collections.abc import Callable, Iterator

from experiments import analysis, cli, flags
from experiments.aligning import Aligning, Task
from experiments.analysis import Job, along
from experiments.comparing import curves_along, number_of_curve
from experiments.measuring import Measuring
from jaxalign import Fit, FoldMoments
from jaxalign.agreement import effective_rank
from jaxalign.errors import UserError
from jaxalign.report import Row
from jaxalign.saturation import smallest_within
from jaxalign.subspaces import PrincipalSubspaces
from jaxalign.workers import concurrently

METHODS = ("reduced_rank", "orthogonal_subspaces", "canonical")
MARGIN = 0.01
FLAGS = flags.define(
    *(*analysis.COMMON, "ranks"),
    **{**analysis.USUAL, "methods": ",".join(METHODS), "out": "results/rank_sweep"},
)
Cut = Callable[[tuple[str, str], int], Fit]  # a pair's map at a rank


def analyse(job: Job) -> str:
    """Measures every method at every rank."""
    run = job.aligning()
    dims = run.data.store.dims
    full = {pair: min(dims[name] for name in pair) for pair in run.pairs}
    ranks = chosen_ranks(job, max(full.values()))
    tasks = [(pair, rank) for pair in run.pairs for rank in sorted({min(rank, full[pair]) for rank in ranks})]
    splits = job.measuring(run)
    job.progress.total = len(tasks) * len(job.config.protocol.methods) * len(splits)
    effective: list[Row] = []
    for measuring in splits:
        moments, test = run.moments(measuring), measuring.test_rows(run.data)
        for method in job.config.protocol.methods:
            job.progress.show(f"fitting {method}")
            cut = maps(run, moments, method, measuring)

            def compare(task: tuple[tuple[str, str], int], cut=cut, test=test, measuring=measuring):
                pair, rank = task
                fit = cut(pair, rank)
                return fit, run.compare(measuring, test, (pair, None, fit))

            for (pair, rank), (fit, found) in zip(tasks, concurrently(compare, tasks)):
                job.progress.step(f"{method}, rank {rank}, {' → '.join(pair)}")
                for at in ranks:
                    if min(at, full[pair]) == rank:
                        task: Task = (pair, None, fit)
                        run.keep(measuring.seed, method, task, found, axis="rank", at=float(at))
                if rank == min(full[pair], max(ranks)):
                    here = (run.data.store.dataset, *pair, method, None, measuring.seed)
                    effective.append(
                        Row(*here, "", "effective_rank", effective_rank(fit.source, moments.total, pair[0]))
                    )
    least = list(smallest(run))
    rows = job.finish(run, [*least, *effective])
    return text(rows, least)


def chosen_ranks(job: Job, largest: int) -> list[int]:
    """As the flag says, or the powers of two and the largest width of all pairs' narrower sides.

    Raises:
      UserError: a rank is larger than that.
    """
    given = job.config.ranks
    if isinstance(given, str):
        raise UserError("rank_sweep measures ranks; --ranks takes whole numbers and full.")
    if given is None:
        return sorted({*(2**k for k in range(largest.bit_length()) if 2**k < largest), largest})
    ranks = sorted({largest if rank is None else rank for rank in given})
    if ranks[-1] > largest:
        raise UserError(
            f"--ranks asks for {ranks[-1]}; no pair of encoders has more than {largest} dimensions in common."
        )
    return ranks


def maps(run: Aligning, moments: FoldMoments, method: str, measuring: Measuring) -> Cut:
    """One solution that gives every rank, or one decomposition."""
    if method == "orthogonal_subspaces":
        subspaces = PrincipalSubspaces.of(moments.total, [name for pair in run.pairs for name in pair])
        return lambda pair, rank: subspaces.fit(*pair, rank)
    fitted = run.fit(moments, method, measuring, full=True)
    return lambda pair, rank: fitted[pair].at_rank(rank)


def smallest(run: Aligning) -> Iterator[Row]:
    """The smallest rank within a point of the largest one, by the first measure of the run."""
    first = next(((row.own_photograph, row.measure) for row in run.rows), None)
    for curve in curves_along(run):
        if (curve.own_photograph, curve.measure) == first:
            yield number_of_curve(curve, "smallest_rank_within_1_point", smallest_within, MARGIN)


def text(rows: list[Row], least: list[Row]) -> str:
    """Quality by rank, and the smallest rank within a point."""
    swept = [row for row in rows if row.axis == "rank"]
    parts = [along(swept, [(swept[0].measure, swept[0].own_photograph)]), ""]
    for row in least:
        if not row.source:
            between = f"{row.value:.0f} (95 % interval {row.low:.0f} to {row.high:.0f})"
            parts.append(
                f"{row.method}, seed {row.seed}: smallest rank within 1 point of the largest: {between}"
            )
    return "\n".join(parts) + "\n"


ANALYSIS = analysis.Analysis("rank_sweep", FLAGS, analyse, METHODS)


def main(_: list[str]) -> None:
    """Reads the flags, runs, writes and prints."""
    analysis.main(ANALYSIS)


if __name__ == "__main__":
    cli.run(main, values=FLAGS)
