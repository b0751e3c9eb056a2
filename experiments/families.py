"""Which encoders are alike? Trees of encoders, the best sources and targets, and a test of given families.

  python -m experiments.families --store=my_store --families=face:arcface+adaface,general:clip+dino --out=results/fam

Average linkage on 100 − symmetrised rank-1 after alignment (arXiv 2604.07282), by each method, and on 1 − each
calibrated similarity of spaces. Both are measured as by `experiments.geometry`, or read: --results=results/pairwise
(rank-1 alone), --results=results/geometry or both. The order of the leaves is the one for heat maps. --families tests
by PERMANOVA whether families explain the distances.
"""

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from experiments import geometry
from experiments.geometry import MEASURE
from experiments.run import analysis, cli, flags
from experiments.run.analysis import Job
from experiments.run.earlier import READING
from experiments.run.results import plain
from jaxalign.analysis.geometry import clustering
from jaxalign.analysis.geometry.clustering import LEAST_ENCODERS, family_test
from jaxalign.core.errors import UserError
from jaxalign.core.files import csv_lines, read_text
from jaxalign.report.sections.geometry import family_tables
from jaxalign.report.tables import to_text

KNOWN_FAMILIES: flags.Group = dict(
    families=flags.Flag(
        None,
        "Families of encoders, to test whether they explain the distances: names joined by +, or a CSV with columns "
        "encoder and family. Example: --families=face:arcface+adaface,general:clip+dino",
    ),
)

FLAGS = analysis.define(
    **geometry.SAMPLING,
    **READING,
    **KNOWN_FAMILIES,
    without=geometry.WITHOUT,
    methods=geometry.USUAL_METHODS,
    out="results/families",
)
CALIBRATED = ":calibrated"


def analyse(job: Job) -> str:
    """Makes a tree for each measure."""
    encoders = job.data.encoders
    if len(encoders) < LEAST_ENCODERS:
        raise UserError(f"families take at least {LEAST_ENCODERS} encoders, got {', '.join(encoders)}.")
    labels = None if job.values.families is None else read_labels(job.values.families, encoders)
    rows = geometry.read_rates(job) if job.values.results else geometry.measure(job)
    if not job.values.results:
        rows += geometry.measured_rates(job)
    found = measures(rows, encoders)
    trees = {name: tree(encoders, scores, distances, labels) for name, scores, distances in found}
    job.write.table([row for row in rows if row.measure == MEASURE or row.measure.endswith(CALIBRATED)])
    job.write.text("families.json", json.dumps(plain(trees), indent=1, ensure_ascii=False) + "\n")
    return to_text(
        family_tables(trees), title=f"{job.data.store.dataset}: families of {len(encoders)} encoders"
    )


def measures(rows: Sequence[Any], encoders: Sequence[str]) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Name, scores of source by target, and distances. The first is rank-1 by the first method."""
    for place, (method, rates) in enumerate(geometry.reached(rows, encoders).items()):
        yield MEASURE if place == 0 else f"{MEASURE}:{method}", rates, clustering.rate_distances(rates)
    for name, scores in geometry.similarities(rows, encoders).items():
        if name.endswith(CALIBRATED):
            distances = 1 - scores
            np.fill_diagonal(distances, 0)
            yield name, scores, distances


def tree(
    encoders: Sequence[str], scores: np.ndarray, distances: np.ndarray, labels: Sequence[str] | None
) -> dict[str, Any]:
    """Everything of one measure, as ``families.json`` holds it; encoders without a value are left out and named."""
    kept = clustering.complete(range(len(encoders)), distances)
    names = [encoders[k] for k in kept]
    found: dict[str, Any] = {"encoders": names, "left_out": [name for name in encoders if name not in names]}
    if len(names) < LEAST_ENCODERS:
        return {**found, "linkage": [], "order": names, "reason": "too few encoders have a value"}
    inside = np.ix_(kept, kept)
    made, of = (
        clustering.dendrogram(names, distances[inside]),
        None if labels is None else [labels[k] for k in kept],
    )
    each = {"source": clustering.source_means(scores[inside])}
    each["sink"] = clustering.source_means(scores[inside].T)
    each["hub"] = clustering.nearest_counts(made.distances)
    return {
        **found,
        "distances": made.distances.tolist(),
        "linkage": made.linkage.tolist(),
        "order": made.order,
        "cophenetic": None if np.isnan(made.cophenetic) else made.cophenetic,
        **{what: dict(zip(names, values.tolist())) for what, values in each.items()},
        "labels": None if of is None else dict(zip(names, of)),
        "permutation": None if of is None else family_test(made.distances, of),
    }


def read_labels(text: str, encoders: Sequence[str]) -> tuple[str, ...]:
    """The family of each encoder from the flag or the CSV it names; ``UserError`` where it does not fit encoders."""
    families: dict[str, list[str]] = {}
    if text.lower().endswith(".csv"):
        try:
            (_, columns), *lines = csv_lines(read_text(text, "a CSV file"), text)
            where = columns.index("family"), columns.index("encoder")
            pairs = [(line[where[0]], line[where[1]]) for _, line in lines]
        except (ValueError, IndexError) as error:
            why = f" ({error})" if isinstance(error, UserError) else ""
            raise UserError(
                f"--families={text} is not a CSV with columns encoder and family{why}."
            ) from error
    else:
        parts = [part.partition(":") for part in text.split(",")]
        pairs = [(family.strip(), name.strip()) for family, _, names in parts for name in names.split("+")]
    for family, name in pairs:
        if not family or not name:
            raise UserError(f"--families={text}: expected such as face:arcface+adaface,general:clip+dino.")
        families.setdefault(family, []).append(name)
    return clustering.labels_of(families, encoders)


ANALYSIS = analysis.Analysis("families", FLAGS, analyse)
main = analysis.main_of(ANALYSIS, __name__)

if __name__ == "__main__":
    cli.run(main, values=FLAGS)
