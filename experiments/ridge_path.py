"""How much penalty a map needs: quality of ridge against its penalty.

  python -m experiments.ridge_path --store=my_store --out=results/ridge_path

The penalties are scikit-learn's alpha on the unscaled Gram matrix; 0.001 to 100 by default, as published. At each: the
measures, and the effective rank of the map, that is (Σ s)² / Σ s² of the variances s of mapped rows along their own
axes. For every pair and for the mean over pairs: the best penalty by the first measure.
"""

import numpy as np

from experiments.run import analysis, cli, flags
from experiments.run.aligning import Aligning
from experiments.run.analysis import Job
from experiments.run.comparing import curves_of_first, number_of_curve
from jaxalign import fit_pairs
from jaxalign.analysis.stability import effective_rank
from jaxalign.report import Row
from jaxalign.report.part import Part
from jaxalign.report.sections.sweeps import sweep_tables
from jaxalign.report.tables import to_text

FLAGS = analysis.define(
    penalties=flags.Flag(
        "0.001,0.01,0.1,1,10,100",
        "Penalties of ridge, each measured for itself, separated by commas. Example: --penalties=0.01,0.1,1",
    ),
    without=("l2", "folds", "methods"),
    out="results/ridge_path",
)


def analyse(job: Job) -> str:
    """Measures ridge at every penalty."""
    run = Aligning(job.config.with_protocol(methods=("ridge",), l2=1.0), job.data)
    penalties = sorted(flags.numbers("penalties", job.values.penalties, 0, np.inf))
    splits = run.splits()
    job.progress.total = len(penalties) * len(run.pairs) * len(splits)
    effective: list[Row] = []
    for measuring in splits:
        moments, test = run.moments(measuring), measuring.test_rows(run.data)
        for l2 in penalties:
            maps = fit_pairs(moments, "ridge", pairs=run.pairs, l2=l2)
            mark = {"axis": "l2", "at": l2}
            job.measure(run, measuring, test, "ridge", maps, mark, where=f"penalty {l2:g}: ")
            for pair, fit in maps.items():
                here = (run.data.store.dataset, *pair, "ridge", None, measuring.seed)
                value = effective_rank(fit.source, moments.total, pair[0])
                effective.append(Row(*here, "", "effective_rank", value, **mark))
    highest = lambda at, quality: np.asarray(at)[np.argmax(quality, axis=-1)]  # noqa: E731
    best = [number_of_curve(curve, "best_l2", highest) for curve in curves_of_first(run)]
    return to_text(sweep_tables(Part("ridge_path", "ridge_path", {}, job.finish(run, [*best, *effective]))))


ANALYSIS = analysis.Analysis("ridge_path", FLAGS, analyse, ("ridge",))
main = analysis.main_of(ANALYSIS, __name__)

if __name__ == "__main__":
    cli.run(main, values=FLAGS)
