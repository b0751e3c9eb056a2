"""How many dimensions a map needs: quality against rank.

  python -m experiments.rank_sweep --store=my_store --out=results/rank_sweep

Methods: reduced_rank (the best map of each rank), canonical, and orthogonal_subspaces (a rotation between the leading
principal axes of both sides). A rank is an upper limit: a pair whose narrower side has fewer dimensions keeps all. For
every pair and for the mean over pairs: the smallest rank within one point of the full one, for the first measure; and
the effective rank of each full map, that is (Σ s)² / Σ s² of the variances s of mapped rows along their own axes.
"""

from collections.abc import Callable
from functools import partial

from experiments.run import analysis, cli
from experiments.run.aligning import Aligning
from experiments.run.analysis import Job
from experiments.run.comparing import curves_of_first, number_of_curve, numbers_of
from experiments.run.measuring import Compared, Measuring, TestRows
from jaxalign import Fit, FoldMoments
from jaxalign.align.subspaces import PrincipalSubspaces
from jaxalign.analysis.curves import powers_of_two, smallest_within
from jaxalign.analysis.stability import effective_rank
from jaxalign.core.errors import UserError
from jaxalign.report import Row
from jaxalign.report.part import Part
from jaxalign.report.sections.sweeps import sweep_tables
from jaxalign.report.tables import to_text

METHODS = ("reduced_rank", "orthogonal_subspaces", "canonical")
FLAGS = analysis.define(taken=("ranks",), methods=",".join(METHODS), out="results/rank_sweep")
Pair = tuple[str, str]
Cut = Callable[[Pair, int], Fit]  # a pair's map at a rank


def analyse(job: Job) -> str:
    """Measures every method at every rank."""
    run = job.aligning()
    dims = run.data.store.dims
    full = {pair: min(dims[name] for name in pair) for pair in run.pairs}
    ranks = chosen_ranks(job, max(full.values()))
    splits, methods = run.splits(), job.config.protocol.methods
    job.progress.total = len(run.pairs) * len(methods) * len(splits)
    effective: list[Row] = []
    for measuring in splits:
        moments, test = run.moments(measuring), measuring.test_rows(run.data)
        for method in methods:
            cut = maps(run, moments, method, measuring)
            each = partial(every_rank, measuring, test, cut, ranks, full)
            for pair, found in zip(run.pairs, measuring.concurrently(each, run.pairs, run.data)):
                for at, (fit, numbers) in zip(ranks, found):
                    run.keep(measuring.seed, method, (pair, None, fit), numbers, axis="rank", at=float(at))
                here = (run.data.store.dataset, *pair, method, None, measuring.seed, "", "effective_rank")
                effective.append(Row(*here, effective_rank(found[-1][0].source, moments.total, pair[0])))
                job.progress.step(f"{method}, {' → '.join(pair)}")
    name = "smallest_rank_within_1_point"
    least = [number_of_curve(curve, name, smallest_within, margin=0.01) for curve in curves_of_first(run)]
    return to_text(sweep_tables(Part("rank_sweep", "rank_sweep", {}, job.finish(run, [*least, *effective]))))


def every_rank(
    measuring: Measuring, test: TestRows, cut: Cut, ranks: list[int], full: dict[Pair, int], pair: Pair
) -> list[tuple[Fit, dict[str, Compared] | str]]:
    """A pair at every rank; ranks above its full rank count as its full rank."""
    found = {}
    for rank in dict.fromkeys(min(at, full[pair]) for at in ranks):
        fit = cut(pair, rank)
        padded = fit.padded()
        mapped = padded.source(test[pair[0]]), padded.target(test[pair[1]])
        found[rank] = fit, numbers_of(measuring, mapped)
    return [found[min(at, full[pair])] for at in ranks]


def chosen_ranks(job: Job, largest: int) -> list[int]:
    """As the flag says, or the powers of two and the largest width of all pairs' narrower sides."""
    given = job.config.ranks
    if isinstance(given, str):
        raise UserError("rank_sweep measures ranks; --ranks takes whole numbers and full.")
    if given is None:
        return powers_of_two(largest)
    ranks = sorted({largest if rank is None else rank for rank in given})
    if ranks[-1] > largest:
        most = f"no pair of encoders has more than {largest} dimensions in common"
        raise UserError(f"--ranks asks for {ranks[-1]}; {most}.")
    return ranks


def maps(run: Aligning, moments: FoldMoments, method: str, measuring: Measuring) -> Cut:
    """One solution that gives every rank, or one decomposition."""
    if method == "orthogonal_subspaces":
        subspaces = PrincipalSubspaces.of(moments.total, [name for pair in run.pairs for name in pair])
        return lambda pair, rank: subspaces.fit(*pair, rank)
    fitted = run.fit(moments, method, measuring, full=True)
    return lambda pair, rank: fitted[pair].at_rank(rank)


ANALYSIS = analysis.Analysis("rank_sweep", FLAGS, analyse, METHODS)
main = analysis.main_of(ANALYSIS, __name__)

if __name__ == "__main__":
    cli.run(main, values=FLAGS)
