"""What a leak of one network's templates lets an attacker do to systems that run another one; for your own systems.

  python -m experiments.security --store=my_store --models=arcface,adaface --out=results/security

The attacker owns photographs under both networks (the training people of the split), fits a map, and holds leaked
templates of the test people, nobody of whom they own. --parts: `injection` presents mapped templates to the other
system at the thresholds of its own comparisons, against the number of pairs of photographs owned; `reidentification`
searches a leak without names with public photographs; `linkability` says how well two databases can be joined (D_sys
and maximal linkability, each with its null by permuted labels); `keys` breaks keyed templates by known pairs;
`matching` joins collections of which few pairs are known, or none; `attributes` reads labels from mapped templates. The
page begins with how many pairs make a leak of one network a key to the other. This is for assessing systems that you
are responsible for. Terms: ISO/IEC 24745 and 30136.
"""

import dataclasses
import json
import math
from collections.abc import Collection
from typing import Any

import numpy as np

from experiments.run import analysis, attacks, cli, flags, further_attacks, results
from experiments.run.analysis import Job
from experiments.run.attacks import Attacks, owned
from experiments.run.config import PairwiseConfig
from experiments.run.data import Data, few_people, told
from experiments.run.results_tree import read_tree
from jaxalign.align.methods import SOLVERS
from jaxalign.core.errors import UserError
from jaxalign.report import Row
from jaxalign.report.page import require_report_libraries, write_report

PARTS = {**attacks.PARTS, **further_attacks.PARTS}
DEMONSTRATION = "zoo:arcface_squeeze,zoo:triplet_dense,zoo:cosface_residual,zoo:vit_cosface"

FLAGS = analysis.define(
    parts=flags.Flag("all", f"Attacks to measure, separated by commas, of {', '.join(PARTS)}, or `all`."),
    pairs_owned=flags.Flag(
        None,
        "Numbers of pairs of photographs that the attacker owns, drawn from all training people, separated by commas. "
        "Without it: from 5 to all, evenly on a logarithmic scale. Example: --pairs_owned=10,100,1000",
    ),
    attributes=flags.Flag(
        None,
        "CSV file of attributes to read from templates: a column sample_id and one of values for each attribute. "
        "Without it, traits of synthetic faces where the photographs are such, else none. Example: "
        "--attributes=labels.csv",
    ),
    taken=("loss", "steps", "fit_rank"),
    key=flags.Flag(
        0.5, "A leak is a key from so many successes on: of templates whose owner's other image is enrolled."
    ),
    at_fmr=flags.Flag(0.001, "The false match rate of --fmr that the verdict is given at."),
    omega=flags.Flag(1.0, "Prior odds of mated against non-mated pairs in D_sys."),
    without=(
        *("folds", "measures", "rank_k", "own_photograph", "train_fraction"),
        *("calibration", "prior", "cost_miss", "cost_false"),
    ),
    methods="orthogonal,ridge",
    l2="0.1",
    fmr="0.0001,0.001,0.01",
    out="results/security",
)


def analyse(job: Job) -> str:
    """Measures every part on every split."""
    values, job.config = job.values, analysis.without_folds(job)
    chosen = PARTS if values.parts == "all" else flags.words("parts", values.parts, PARTS, "part")
    if not 0 < values.omega < math.inf:
        raise UserError(f"--omega takes a number above 0, got {values.omega:g}.")
    if not 0 < values.key <= 1:
        raise UserError(f"--key takes a share above 0 and at most 1, got {values.key:g}.")
    if values.at_fmr not in job.config.fmr:
        there = ", ".join(f"{rate:g}" for rate in job.config.fmr)
        raise UserError(f"--at_fmr={values.at_fmr:g} is not one of --fmr={there}.")
    run = job.aligning()
    splits = run.splits()
    further_attacks.require_labels(job, splits, chosen)
    sizes = [owned(values.pairs_owned, measuring) for measuring in splits]
    methods = sum(name != "identity" for name in job.config.protocol.methods)
    if not methods:
        raise UserError("--methods names no map but identity, which is measured anyway.")
    steps = {"injection": len(run.pairs) * methods * sum(map(len, sizes))}
    steps |= {name: count * len(splits) for name, count in further_attacks.steps(run, methods).items()}
    usual = len(run.pairs) * (1 + methods) * len(splits)
    job.progress.total = sum(steps.get(name, usual) for name in chosen)
    content: dict[str, Any] = {
        "key": values.key,
        "at_fmr": values.at_fmr,
        "omega": values.omega,
        "sizes": sizes[0],
    }
    for measuring in splits:
        at = Attacks.of(job, run, measuring, content if measuring is splits[0] else {})
        if at.scores != attacks.SCORES and measuring is splits[0]:
            note = f"the score cohort is left out: {few_people(len(np.unique(at.owners)))}"
            job.record["warnings"] += told([note])
        for name in chosen:
            run.rows += list(PARTS[name](at))
    job.finish(run)
    job.write.text("security.json", json.dumps(results.plain(content), ensure_ascii=False) + "\n")
    return summary(run.rows)


def summary(rows: list[Row]) -> str:
    """The verdict of every pair, for a terminal."""
    lines = []
    for row in rows:
        if row.measure.startswith("pairs_to_key"):
            ends = ["more" if end is None else f"{end:,.0f}" for end in (row.low, row.high)]
            found = row.reason or f"{row.value:,.0f} pairs ({ends[0]} to {ends[1]})"
            lines.append(f"{row.source} → {row.target}: {found}")
    return (
        "\n".join(["A leak becomes a key with:", *lines])
        if lines
        else "No verdict without the part injection."
    )


def page(job: Job) -> None:
    """The page with the verdict of every pair."""
    parts = read_tree(job.write.directory).parts
    named = [dataclasses.replace(part, name="security") for part in parts]
    write_report(named, job.write.directory, title=f"jaxalign: security, {job.data.store.dataset}")


def opening(values: Any, known: Collection[str]) -> tuple[PairwiseConfig, list[Data]]:
    """As any analysis, but four encoders of synthetic people where no data is given."""
    require_report_libraries()
    if values.store is None and values.images is None and values.models == "all":
        values.models = DEMONSTRATION
    return analysis.open_one(values, known)


ANALYSIS = analysis.Analysis("security", FLAGS, analyse, tuple(SOLVERS), opening, page=page)
main = analysis.main_of(ANALYSIS, __name__)

if __name__ == "__main__":
    cli.run(main, values=FLAGS)
