"""What items leave behind, and how it becomes one table.

An item's numbers are in ``results/<item>.<attempt>.parquet``, the statistics of its fits and the comparisons without a
value in the ``.json`` beside it. The item's ``.done`` file names the attempt that counts, so that a second attempt,
of a process that was only thought dead, can neither replace nor double anything.
"""

import itertools
import json
import math
import os
import pathlib
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.run.aligning import Aligning, empty_rows
from experiments.run.claims import DONE, Claim, Claims, State
from experiments.run.results import FitRow, Writer, read_parquet, write_parquet
from experiments.run.sweep_config import Item, SweepConfig
from jaxalign.data.atomic import write_atomically
from jaxalign.report import Row

TABLES = ("results.csv", "results.parquet", "fits.csv")
FOLDER = "results"


def publish(directory: pathlib.Path, item: Item, claim: Claim, found: Aligning) -> dict[str, Any]:
    """Writes an attempt's results, each file under a temporary name and renamed; returns what to record."""
    name = f"{item.id}.{claim.attempt}"
    content = {"fits": found.fits, "without_value": list(found.without_value.items())}
    text = json.dumps(content, ensure_ascii=False)
    folder = directory / FOLDER
    write_atomically(folder / f"{name}.json", lambda file: file.write(text.encode()))
    write_atomically(folder / f"{name}.parquet", lambda file: write_parquet(file, found.rows))
    return {"results": name, "rows": len(found.rows)}


def merge(
    directory: pathlib.Path,
    config: SweepConfig,
    items: Sequence[Item],
    claims: Claims,
    states: Mapping[str, State],
) -> int:
    """Writes the tables of all items that are done; the same tables whoever does it, and how often.

    Returns:
      How many results there are.

    Raises:
      UserError: not one comparison could be made.
    """
    rows: list[Row] = []
    fits: list[FitRow] = []
    done = [item for item in items if states[item.id].kind == DONE]
    for _, of_store in itertools.groupby(done, lambda item: item.store):
        stored, missing = _of_store(directory, config, list(of_store), claims, fits)
        rows += stored
        for mark, without_value in missing:
            rows += [row._replace(**mark) for row in empty_rows(stored or rows, without_value)]
    temporary = pathlib.Path(tempfile.mkdtemp(prefix=".merge.", dir=directory))
    try:
        Writer(temporary).table(rows)
        Writer(temporary).fits(fits)
        for name in TABLES:
            os.replace(temporary / name, directory / name)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return len(rows)


def _of_store(
    directory: pathlib.Path,
    config: SweepConfig,
    items: list[Item],
    claims: Claims,
    fits: list[FitRow],
) -> tuple[list[Row], list[tuple[dict[str, Any], dict[Any, str]]]]:
    """The rows of one store's items in the order of ``experiments.pairwise``, and what has no value."""
    rows: list[Row] = []
    missing = []
    for _, of_fit in itertools.groupby(items, lambda item: item.fit):
        parts = []
        for number, item in enumerate(of_fit):
            name = claims.done(item.id)["results"]
            content = json.loads((directory / FOLDER / f"{name}.json").read_text(encoding="utf-8"))
            parts.append(read_parquet(directory / FOLDER / f"{name}.parquet"))
            if content["without_value"]:
                places = {tuple(place): reason for place, reason in content["without_value"]}
                missing.append((config.varied_penalty(item), places))
            if number == 0:  # all ranks of a fit have the same statistics
                fits += [FitRow(*fit) for fit in content["fits"]]
        rows += _pair_by_pair(parts)
    return rows, missing


def _pair_by_pair(parts: list[list[Row]]) -> list[Row]:
    """The rows of several ranks, all ranks of a pair together."""
    if len(parts) == 1:
        return parts[0]
    place = {pair: k for k, pair in enumerate(dict.fromkeys(row[1:3] for part in parts for row in part))}
    return sorted((row for part in parts for row in part), key=lambda row: place.get(row[1:3], math.inf))
