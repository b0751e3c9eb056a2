"""Writes one page on a directory of results: of one command, or of a study with all its parts.

  python -m experiments.report RESULTS_DIR
  python -m experiments.report results/pairwise --tables=latex,markdown --out=reports/first

The page, report.html, needs no network and no other file: a summary in words, tables that sort on their heads,
figures for light and dark, and how to get the same numbers again. The same directory holds every figure as SVG and PNG
(figures/) and every table as CSV (tables/). Without --out it is written to the directory report inside RESULTS_DIR.
"""

import datetime
import pathlib

from experiments.run import cli, flags, results
from experiments.run.progress import Progress
from experiments.run.results_tree import Tree, read_tree
from jaxalign.report.labels import count, listed
from jaxalign.report.page import PAGE, require_report_libraries, write_report
from jaxalign.report.tables import FORMATS

TABLES: flags.Group = dict(
    tables=flags.Flag(
        "",
        "Write every table also for a paper, separated by commas: latex (booktabs), markdown; mean ± deviation, best "
        "in bold. Example: --tables=latex",
    ),
)

FLAGS = flags.define(
    **TABLES,
    out=flags.Flag("", "Directory for the page, figures and tables. Without it: `report` in RESULTS_DIR."),
    overwrite=flags.Flag(False, "Replace the report that --out holds."),
)
ARGUMENT = "RESULTS_DIR"


def chosen_formats(text: str) -> tuple[str, ...]:
    """The formats that ``--tables`` names."""
    return flags.words("tables", text, FORMATS, "format") if text else ()


def main(argv: list[str]) -> None:
    """Reads the flags, writes the page and says where it is."""
    formats = chosen_formats(FLAGS.tables)
    require_report_libraries()
    source = pathlib.Path(argv[1]).expanduser()
    out = pathlib.Path(FLAGS.out) if FLAGS.out else source / "report"
    tree = read_tree(source)
    with Progress(len(tree.parts)) as progress:
        figures, tables = write(tree, out, formats, overwrite=FLAGS.overwrite, progress=progress)
    if tree.absent:
        print(f"warning: not there: {', '.join(tree.absent)}")
    print(f"Wrote {out / PAGE} with {count(figures, 'figure')} and {count(tables, 'table')}.")


def write(
    tree: Tree, out: pathlib.Path, formats: tuple[str, ...], *, overwrite: bool, progress: Progress
) -> tuple[int, int]:
    """Writes the report of what was read, the whole directory or nothing; returns its numbers of figures and tables."""
    counts = 0, 0
    with results.writer(out, overwrite=overwrite) as writer:
        with writer.trying("the page with its figures and tables"):
            counts = write_report(
                tree.parts,
                writer.directory,
                title=f"jaxalign: {listed(tree.datasets)}",
                absent=tree.absent,
                written=datetime.datetime.now(datetime.UTC).strftime("%d %B %Y, %H:%M UTC"),
                formats=formats,
                progress=progress.step,
            )
        writer.config("report", {"parts": [part.name for part in tree.parts], "tables": formats})
    return counts


if __name__ == "__main__":
    cli.run(main, values=FLAGS, argument=ARGUMENT)
