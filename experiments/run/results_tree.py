"""Reads what drivers wrote: one results directory, or that of a study with one for each part."""

import csv
import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar, get_type_hints

from experiments.run.results import COLUMNS, FORMAT, FORMAT_VERSION, read_parquet
from jaxalign.core.errors import UserError
from jaxalign.report.geometry_text import Predicted
from jaxalign.report.parts import CONTROLS, Part
from jaxalign.report.records import Difference, Point, ThreeWay
from jaxalign.report.rows import Row
from jaxalign.report.sections import SECTIONS

STUDY = "study"
BESIDE = ("projection.csv", "prediction.csv", "differences.csv", "three_way.csv")
Record = TypeVar("Record")
SAME = ("protocol.name", "protocol.normalize", "protocol.train_fraction", "protocol.own_photograph")
SAME_FLAGS = ("max_per_person", "gallery", "nonfinite")


@dataclasses.dataclass(frozen=True)
class Tree:
    """All that one directory holds.

    Attributes:
      parts: in the order of their names.
      absent: parts of a study that are not there, and why where that is known.
      driver: of the directory itself.
    """

    parts: Sequence[Part]
    absent: Sequence[str]
    driver: str

    @property
    def datasets(self) -> list[str]:
        """Of all parts, in order of appearance."""
        return list(dict.fromkeys(dataset for part in self.parts for dataset in part.datasets))


def read_tree(path: pathlib.Path) -> Tree:
    """Reads a results directory and checks that all of it belongs together.

    Raises:
      UserError: it is not there, is not ours, is of another version, is cut short, or mixes configurations.
    """
    if not path.is_dir():
        raise UserError(f"there is no directory {path}; give the --out of a driver or of a study.")
    config = _config(path)
    driver = str(config.get("driver"))
    if driver != STUDY:
        return Tree([_part(path, config)], [], driver)
    folders = sorted(f for f in path.iterdir() if f.name[0] != "." and (f / "config.json").is_file())
    found = [(folder, _config(folder)) for folder in folders]
    parts = [_part(folder, own) for folder, own in found if own.get("driver") in SECTIONS]
    if not parts:
        raise UserError(f"{path} is the directory of a study, but holds no results of a part.")
    _check_belong_together(path, parts)
    named = [item if isinstance(item, str) else str(item.get("name")) for item in config.get("parts") or []]
    there = {part.name for part in parts}
    failed = config.get("failed") or {}
    absent = [
        *(name for name in named if name not in there),
        *(f"{name} ({why})" for name, why in failed.items()),
    ]
    return Tree(parts, absent, driver)


def _config(path: pathlib.Path) -> dict[str, Any]:
    """The content of ``config.json``, of our format and version."""
    file = path / "config.json"
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path} holds no results: there is no config.json in it.") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read: {' '.join(str(error).split())}.") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"{path} holds no results: its config.json is not of format {FORMAT}.")
    if content.get("version") != FORMAT_VERSION:
        raise UserError(
            f"{path} is of version {content.get('version')} of the format of results, this is a report on version "
            f"{FORMAT_VERSION}; run the driver again, or the report of the version that wrote it."
        )
    return content


def _part(path: pathlib.Path, config: Mapping[str, Any]) -> Part:
    driver = str(config.get("driver"))
    if driver not in SECTIONS:
        raise UserError(
            f"{path} was written by experiments.{driver}, of which there is no report; there is one of "
            f"{', '.join([*SECTIONS, STUDY])}."
        )
    rows = _rows(path / "results.parquet")
    _check_csv(path, len(rows))
    families, alignability = path / "families.json", path / "alignability.parquet"
    part = Part(
        path.resolve().name,
        driver,
        config,
        rows,
        curves=_rows(path / "curves.parquet") if (path / "curves.parquet").exists() else (),
        doubtful=frozenset(_doubtful(path / "fits.csv")),
        alignability=_rows(alignability) if alignability.exists() else (),
        projection=_records(path / "projection.csv", Point),
        predictions=_records(path / "prediction.csv", Predicted),
        differences=_records(path / "differences.csv", Difference),
        three_way=_records(path / "three_way.csv", ThreeWay),
        families=_json(families) if families.exists() else {},
        checksums={
            file.name: hashlib.sha256(file.read_bytes()).hexdigest()
            for file in sorted(path.iterdir())
            if file.suffix in (".parquet", ".json") or file.name in BESIDE
        },
    )
    _check_rows(path, part)
    return part


def _rows(file: pathlib.Path) -> list[Row]:
    if not file.exists():
        raise UserError(
            f"{file.parent} holds no {file.name}; it may be the output of a run that was cut short."
        )
    import pyarrow.parquet

    try:
        there = pyarrow.parquet.read_schema(file).names
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read: {' '.join(str(error).split())[:200]}.") from error
    missing = [column for column in COLUMNS if column not in there]
    if missing:
        raise UserError(
            f"{file} has no column {missing[0]}; it was written by another version, run the driver again."
        )
    return read_parquet(file)


def _lines(file: pathlib.Path, columns: Sequence[str]) -> Iterator[dict[str, str]]:
    """The lines of a CSV file, none if it is not there."""
    if not file.exists():
        return
    with file.open(newline="", encoding="utf-8") as text:
        lines = csv.DictReader(text)
        missing = [column for column in columns if column not in (lines.fieldnames or ())]
        if missing:
            raise UserError(f"{file} has no column {missing[0]}; it was written by another version.")
        yield from lines


def _records(file: pathlib.Path, kind: type[Record]) -> list[Record]:
    """The lines of a CSV file as what they were written from; none if it is not there."""
    types, found = get_type_hints(kind), []
    for number, line in enumerate(_lines(file, list(types)), start=2):
        try:
            found.append(kind(**{name: _field(of, line[name]) for name, of in types.items()}))
        except (TypeError, ValueError) as error:
            raise UserError(f"{file}, line {number} cannot be read: {error}.") from error
    return found


def _field(kind: Any, text: str) -> Any:
    """A field of a CSV file: an empty one is NaN, or None where it may be."""
    if kind in (str, int):
        return kind(text)
    return float(text or "nan") if kind is float or text else None


def _doubtful(file: pathlib.Path) -> Iterator[tuple[str, str, str]]:
    for line in _lines(file, ("source", "target", "method", "ok")):
        if line["ok"] != "True":
            yield line["source"], line["target"], line["method"]


def _json(file: pathlib.Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{file} cannot be read: {error}.") from error


def _check_csv(path: pathlib.Path, rows: int) -> None:
    """The two tables are one; a directory put together by hand may hold those of two runs."""
    file = path / "results.csv"
    if file.exists():
        count = sum(1 for _ in _lines(file, COLUMNS))
        if count != rows:
            raise UserError(
                f"{path} mixes two runs: results.csv has {count:,} rows, results.parquet has {rows:,}; run the driver "
                "again."
            )


def _check_rows(path: pathlib.Path, part: Part) -> None:
    """Every row is of the configuration beside it."""
    protocol = (part.config.get("config") or {}).get("protocol") or {}
    expected: dict[str, tuple[set[Any], list[Any]]] = {}
    if protocol.get("seeds"):
        expected["seeds"] = ({row.seed for row in part.rows}, protocol["seeds"])
    if protocol.get("methods") and part.driver == "pairwise":
        expected["methods"] = ({row.method for row in part.methods()} - set(CONTROLS), protocol["methods"])
    for name, (found, configured) in expected.items():
        other = sorted(found - set(configured), key=str)
        if other:
            raise UserError(
                f"{path} mixes two configurations: its results have the {name} {', '.join(map(str, other))}, its "
                f"config.json has {', '.join(map(str, configured))}; run the driver again."
            )


def _check_belong_together(path: pathlib.Path, parts: Sequence[Part]) -> None:
    """Parts of one study share a version, a protocol and their embeddings."""
    known: dict[str, tuple[Any, str]] = {}
    for part in parts:
        for what, value in _shared(part):
            first, where = known.setdefault(what, (value, part.name))
            if first != value:
                raise UserError(
                    f"{path} mixes two configurations: {what} is {_brief(first)} in {where} and {_brief(value)} in "
                    f"{part.name}; run the study again, or the report on one part."
                )


def _shared(part: Part) -> Iterator[tuple[str, Any]]:
    """What must be the same in every part that has it."""
    config = part.config.get("config") or {}
    protocol = config.get("protocol") or {}
    yield from ((name, protocol[key]) for name in SAME if (key := name.partition(".")[2]) in protocol)
    yield from ((name, config[name]) for name in SAME_FLAGS if name in config)
    version = (part.config.get("versions") or {}).get("jaxalign")
    if version:
        yield "the version of jaxalign", version
    stores = part.config.get("stores") or [part.config.get("store") or {}]
    for store in stores.values() if isinstance(stores, Mapping) else stores:
        for encoder, checksum in (store.get("checksums") or {}).items() if isinstance(store, Mapping) else ():
            yield f"the checksum of {encoder} in {store.get('dataset')}", checksum


def _brief(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text[:16] + "…" if len(text) > 40 else text
