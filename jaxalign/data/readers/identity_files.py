"""Who is on each row: the usual names of columns, CSV files and lists of photographs."""

import dataclasses
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxalign.core.errors import UserError
from jaxalign.core.files import csv_lines, read_text
from jaxalign.data.samples import further_columns, text_column

# Names under which people keep who is on a row and what the row is called; the first that is there counts.
IDENTITY_NAMES = tuple("identity identities person people subject subjects label labels".split())
SAMPLE_NAMES = tuple(
    "sample_id sample_ids path paths file files filename filenames file_name filepath image images image_path".split()
)
SHOWN = 5


@dataclasses.dataclass(frozen=True)
class Names:
    """Which columns or arrays hold the person and the sample; None looks for the usual names."""

    identity: str | None = None
    sample_id: str | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Samples:
    """What a file says of the rows: person and name of each, text [n] or None, and other columns of n values.

    ``dimensions`` are the columns that were taken as the embedding, where there is one for each dimension.
    """

    identities: np.ndarray | None = None
    sample_ids: np.ndarray | None = None
    columns: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    dimensions: tuple[str, ...] = ()


def split_columns(columns: Mapping[str, np.ndarray], path: pathlib.Path, names: Names) -> Samples:
    """The persons, the samples' names and the rest of the columns of a file."""
    found = find(names.identity, IDENTITY_NAMES, columns), find(names.sample_id, SAMPLE_NAMES, columns)
    rest = {name: values for name, values in columns.items() if name not in found}
    people, samples = (
        None if name is None else text_column(_whole(columns[name]), f"{path}: {name}") for name in found
    )
    if samples is not None and found[1] != "sample_id":
        samples = np.array([slashed(name) for name in samples.tolist()])
    return Samples(people, samples, further_columns(rest))


def _whole(values: Any) -> Any:
    """Labels that a program stored as floats, shape [n], as whole numbers; others stay, and so do inexact ones."""
    if not isinstance(values, np.ndarray) or values.dtype.kind != "f":
        return values
    exact = 2.0 ** (np.finfo(values.dtype).nmant + 1)
    there = ~np.isnan(values)
    if not (values[there] == np.floor(values[there])).all() or (abs(values[there]) > exact).any():
        return values
    return [int(value) if known else None for value, known in zip(values.ravel().tolist(), there.ravel())]


def find(asked: str | None, usual: Sequence[str], columns: Sequence[str] | Mapping[str, Any]) -> str | None:
    """The column that was asked for, or the first of the usual names, in any case; None where there is none."""
    if asked is not None:
        return asked if asked in columns else None
    lower = {name.lower(): name for name in reversed(list(columns))}
    return next((lower[name] for name in usual if name in lower), None)


def slashed(path: str) -> str:
    """A path with slashes where it was written with backslashes, as on Windows."""
    return path if "/" in path else path.replace("\\", "/")


def listed(names: Sequence[str] | Mapping[str, Any]) -> str:
    """A few of the names, and how many there are."""
    names = list(names)
    more = f", ... ({len(names):,} in all)" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more or "nothing"


def pick(
    key: str | None, fitting: Sequence[str], there: Sequence[str] | Mapping[str, Any], path: pathlib.Path
) -> str:
    """The array that is meant: the one asked for, or the only one that fits."""
    if key is not None:
        if key not in there:
            raise UserError(f"{path} holds no {key!r}; it holds {listed(there)}.")
        return key
    if len(fitting) != 1:
        count = "no array" if not fitting else f"{len(fitting):,} arrays"
        raise UserError(
            f"{path} holds {count} [rows, d] of embeddings; it holds {listed(there)}. "
            f"Name the one that is meant with {path}#name."
        )
    return fitting[0]


def read_csv(path: pathlib.Path, names: Names) -> Samples:
    """The columns of a CSV or TSV file with a first line of names, or one column of persons without it."""
    lines = csv_lines(read_text(path, "a CSV file"), path)
    if not lines:
        raise UserError(f"{path} is empty.")
    header = [name.strip() for name in lines[0][1]]
    usual = header[0].lower() in (*IDENTITY_NAMES, *SAMPLE_NAMES)
    if len(header) == 1 and not usual and header[0] not in (names.identity, names.sample_id):
        header, lines = ["identity"], [(0, []), *lines]
    if len(set(header)) < len(header):
        raise UserError(f"{path}: two columns have one name: {listed(header)}.")
    for number, line in lines[1:]:
        if len(line) != len(header):
            raise UserError(f"{path}: record {number} has {len(line)} values, expected {len(header)}.")
    columns = {name: np.array([line[index] for _, line in lines[1:]]) for index, name in enumerate(header)}
    return split_columns(columns, path, names)


def read_list(path: pathlib.Path, names: Names) -> Samples:
    """Lines ``person/photo.jpg``: the folder is the person, the line the sample's name."""
    samples, people = [], []
    for number, line in enumerate(map(str.strip, read_text(path).split("\n")), 1):
        if not line:
            continue
        folders = [part for part in re.split(r"[/\\]", line)[:-1] if part not in ("", ".", "..")]
        if not folders:
            raise UserError(f"{path}, line {number}: expected person/photo.jpg, got {line!r}.")
        samples.append(slashed(line))
        people.append(folders[-1])
    if not samples:
        raise UserError(f"{path} is empty.")
    return Samples(text_column(people, f"{path}: person"), text_column(samples, f"{path}: photograph"))
