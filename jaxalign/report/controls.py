"""What a run's figures are to be judged by: the encoders alone, shuffled pairs, pixels."""

import math
from collections.abc import Iterable, Iterator, Sequence

from jaxalign.report.rows import Measure, ResultTable, Row

OWN, SHUFFLED, PIXEL_MAPS = "own", "shuffled", "pixels"
IN_WORDS = {
    OWN: "own: each encoder against itself",
    SHUFFLED: "shuffled: ridge on rows that do not belong together",
    PIXEL_MAPS: "pixels: ridge from 64 principal components of the pixels",
}
RELATIVE = "_relative"


def relative_rows(rows: Sequence[Row]) -> Iterator[Row]:
    """For every identification rate of a pair, its share of the geometric mean of the two encoders' own.

    Above 1 where a map finds people better than the encoders do. NaN where one of the encoders finds nobody.
    """
    own = {(row.source, *_question(row)): row.value for row in rows if row.method == OWN}
    for row in rows:
        if row.method == OWN or not row.own_photograph or row.measure.endswith(RELATIVE):
            continue
        reached = [own.get((name, *_question(row))) for name in (row.source, row.target)]
        if None not in reached:
            bound = math.sqrt(math.prod(value for value in reached if value is not None))
            value = row.value / bound if bound > 0 else math.nan
            reason = "" if bound > 0 else "an encoder finds nobody by itself"
            yield row._replace(measure=row.measure + RELATIVE, value=value, reason=reason)


def render_controls(rows: Iterable[Row], measure: Measure) -> str:
    """One line for each method and control: the mean over pairs, and relative to the encoders alone, in %."""
    table = ResultTable(rows)
    relative = Measure(measure.name + RELATIVE, measure.own_photograph)
    settings = {IN_WORDS.get(setting.method, str(setting)): setting for setting in table.settings}
    first = max(map(len, settings))
    lines = [
        f"Controls: {measure.describe()}, mean over pairs, in %;",
        "relative: to the geometric mean of what the two encoders reach by themselves, in %",
        "",
        "".ljust(first) + measure.name.rjust(10) + "relative".rjust(10),
    ]
    for words, setting in settings.items():
        if setting.method == OWN:
            values = [
                cell.mean
                for name in table.encoders
                if name != PIXEL_MAPS and (cell := table.cell(setting, measure, name, name))
            ]
            cells = [math.fsum(values) / len(values), None] if values else [None, None]
        else:
            found = (table.mean_over_pairs(setting, which) for which in (measure, relative))
            cells = [None if cell is None else cell.mean for cell in found]
        numbers = ["" if value is None or math.isnan(value) else f"{100 * value:.2f}" for value in cells]
        lines.append((words.ljust(first) + "".join(number.rjust(10) for number in numbers)).rstrip())
    return "\n".join(lines) + "\n"


def _question(row: Row) -> tuple[str, int, str, str]:
    return row.dataset, row.seed, row.own_photograph, row.measure
