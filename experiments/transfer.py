"""Do maps carry over to other data? Tests maps fitted on one store on another store, and on their own store.

  python -m experiments.transfer --stores=lfw,cfp --out=results/transfer

All ordered pairs of stores and of the encoders that all stores have. A map from another store is tested on the same
test people as the store's own maps, so that the two can be compared, and is fitted on everybody of the other store.
Under --protocol=published it is tested on everybody, as in arXiv 2604.07282. People whose name occurs among the test
people are left out of the training side and counted (--same_names=unrelated where names are mere numbers). What stores
reach by their own maps may be read from `experiments.pairwise` with the same settings: --results=results/pairwise.
"""

import dataclasses
import itertools

import numpy as np

from experiments.run import analysis, cli, flags
from experiments.run.aligning import Aligning
from experiments.run.analysis import Job
from experiments.run.config import OF_PHOTOGRAPHS, Stores
from experiments.run.data import Data
from experiments.run.earlier import READING, of_stores
from experiments.run.measuring import Measuring, folds_of
from jaxalign.core.errors import UserError
from jaxalign.core.people import Split, limit_per_person, without_people
from jaxalign.report.part import Part
from jaxalign.report.sections.transfer import transfer_table
from jaxalign.report.tables import Cell, Column, Table, to_text

SAME_NAMES: flags.Group = dict(
    same_names=flags.Flag(
        "person",
        "What it means when two stores have the same name in the column identity: the same `person`, who is left out "
        "of the training side, or nothing (`unrelated` names).",
        choices=("person", "unrelated"),
    ),
)

FLAGS = analysis.define(
    Stores,
    **SAME_NAMES,
    **READING,
    without=("store", *OF_PHOTOGRAPHS),
    measures="identification,verification",
    methods="identity,orthogonal,ridge,canonical",
    out="results/transfer",
)


def analyse(job: Job) -> str:
    """Measures every store by its own maps and by those of every other store."""
    runs, counts = [Aligning(job.config, data) for data in job.stores], []
    for run in runs[1:]:  # all that is found goes to the first
        for name in ("rows", "fits", "sampled", "without_value"):
            setattr(run, name, getattr(runs[0], name))
    known = of_stores(job.values.results, job.stores, job.config)
    runs[0].rows += itertools.chain(*known.values())
    ways: list[tuple[Aligning, Measuring, Aligning, Measuring, str]] = []  # with every check, before any work
    for seed in job.config.protocol.seeds:
        tested = [Measuring.of(job.config, run.data, seed) for run in runs]
        both = list(zip(runs, tested))
        ways += [(*one, *one, "") for one in both if one[0].data.store.dataset not in known]
        for (fitted, _), (other, own) in itertools.permutations(both, 2):
            measuring = across(job, other.data, own, seed)
            train, dropped = everybody_else(job, fitted.data, measuring)
            name = other.data.store.dataset
            counts.append((fitted.data.store.dataset, name, seed, dropped))
            fold = folds_of(job.config, fitted.data, train)
            side = dataclasses.replace(measuring, split=train, fold=fold)
            ways.append((fitted, side, other, measuring, name))
    job.progress.total = len(ways) * len(runs[0].pairs) * len(job.config.protocol.methods)
    for way in ways:
        measure(job, *way)
    names = ("fitted_on", "tested_on", "seed", "people")
    job.record["left_out"] = [dict(zip(names, count)) for count in counts]
    part = Part("transfer", "transfer", {}, job.finish(runs[0]))
    return to_text([transfer_table(part), left_out_table(counts)])


def left_out_table(counts: list[tuple[str, str, int, int]]) -> Table:
    """How many people each way leaves out of the training side."""
    columns = [Column("fitted on"), Column("tested on"), Column("seed", "number"), Column("people", "number")]
    rows = [[*stores, Cell(float(seed)), Cell(float(people))] for *stores, seed, people in counts]
    caption = "They have the name of one who is tested."
    return Table("left-out", "People left out of the training side", caption, columns, rows)


def measure(
    job: Job, fitted: Aligning, side: Measuring, tested: Aligning, measuring: Measuring, name: str
) -> None:
    """Fits on ``side`` of one store, measures on the test people of another or the same."""
    moments, test = fitted.moments(side), measuring.test_rows(tested.data)
    mark = {"test_dataset": name} if name else {}
    where = f"{fitted.data.store.dataset} → {tested.data.store.dataset}: "
    for method in job.config.protocol.methods:
        job.measure(fitted, measuring, test, method, fitted.fit(moments, method, side), mark, where=where)


def across(job: Job, data: Data, own: Measuring, seed: int) -> Measuring:
    """Whom maps of another store are tested on."""
    if job.config.protocol.name != "published":
        return own
    rows = np.arange(len(data.rows))
    if job.config.max_per_person:
        rows = limit_per_person(rows, data.identities, job.config.max_per_person)
    return Measuring.of(dataclasses.replace(job.config, folds=2), data, seed, Split(rows, rows, seed))


def everybody_else(job: Job, data: Data, measuring: Measuring) -> tuple[Split, int]:
    """All rows of a store but those of people who are tested, and how many people those were."""
    tested = measuring.identities if job.values.same_names == "person" else np.empty(0, "U1")
    try:
        rows, people = without_people(data.identities, tested)
    except UserError as error:
        hint = "if equal names are different people, give --same_names=unrelated"
        raise UserError(f"store {data.store.dataset!r}: {str(error).rstrip('.')}; {hint}.") from error
    return Split(rows, measuring.split.test, measuring.seed), people


ANALYSIS = analysis.Analysis("transfer", FLAGS, analyse, opening=analysis.open_stores)
main = analysis.main_of(ANALYSIS, __name__)

if __name__ == "__main__":
    cli.run(main, values=FLAGS)
