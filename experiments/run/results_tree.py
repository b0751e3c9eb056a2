"""Reads the directories that commands, studies and sweeps write, for a report and for --results."""

import csv
import dataclasses
import hashlib
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar, get_type_hints

from experiments.run.results import (
    COLUMNS,
    FORMAT,
    FORMAT_VERSION,
    read_field,
    read_parquet,
    require_unaltered,
)
from jaxalign.core.errors import UserError
from jaxalign.core.files import read_json
from jaxalign.report.labels import file_stem
from jaxalign.report.part import CONTROLS, Part
from jaxalign.report.records import Difference, Predicted, ProjectedPoint, Row, ThreeWay
from jaxalign.report.sections import SECTIONS

STUDY = "study"
SWEEP = "sweep.json"  # in the directory of a sweep
RECORDS = ("projection.csv", "prediction.csv", "differences.csv", "three_way.csv")
# What all parts of a study have in common.
COMMON_PROTOCOL = ("name", "normalize", "train_fraction", "own_photograph")
COMMON_SETTINGS = ("max_per_person", "gallery", "nonfinite")
Record = TypeVar("Record")


@dataclasses.dataclass(frozen=True)
class Tree:
    """What the directory of a command or a study holds: its parts by name, and those absent, with known reasons."""

    parts: Sequence[Part]
    absent: Sequence[str]

    @property
    def datasets(self) -> list[str]:
        """Of all parts, in order of appearance."""
        return list(dict.fromkeys(dataset for part in self.parts for dataset in part.datasets))


def read_tree(path: pathlib.Path) -> Tree:
    """Reads the directory of a command, a study or a sweep, and checks that all of it belongs together.

    Raises:
      UserError: it is not there, is not ours, is of another version, is cut short, or mixes configurations.
    """
    if not path.is_dir():
        raise UserError(f"there is no directory {path}; give the --out of a command or of a study.")
    if (path / SWEEP).is_file():
        return Tree(_parts_of_sweep(path), [])
    config = read_config(path)
    if config.get("driver") != STUDY:
        return Tree([_part(path, config)], [])
    folders = sorted(f for f in path.iterdir() if f.name[0] != "." and (f / "config.json").is_file())
    named = [item if isinstance(item, str) else str(item.get("name")) for item in config.get("parts") or []]
    # A directory may hold parts of an older study, too; one that was put together by hand names none.
    found = [(folder, read_config(folder)) for folder in folders if folder.name in named or not named]
    parts = [_part(folder, own) for folder, own in found if own.get("driver") in SECTIONS]
    if not parts:
        raise UserError(f"{path} is the directory of a study, but holds no results of a part.")
    _check_belong_together(path, parts)
    there = {part.name for part in parts}
    failed = [f"{name} ({why})" for name, why in (config.get("failed") or {}).items()]
    return Tree(parts, [*(name for name in named if name not in there), *failed])


def _parts_of_sweep(path: pathlib.Path) -> list[Part]:
    """What a sweep has measured of each store: methods, and methods against their penalty where it varied several."""
    if not (path / "config.json").exists():
        raise UserError(f"{path} holds a sweep without results; it writes them when all items are done.")
    described, rows = read_config(path)["config"], read_rows(path / "results.parquet")
    config = {key: value for key, value in described.items() if key != "stores"}
    fits = list(_lines(path / "fits.csv", ("dataset", "source", "target", "method", "ok")))
    parts = []
    for store in described["stores"]:
        own = [row for row in rows if row.dataset == store["dataset"]]
        marks = [fit for fit in fits if fit["dataset"] == store["dataset"] and fit["ok"] != "True"]
        doubtful = frozenset((fit["source"], fit["target"], fit["method"]) for fit in marks)
        # A penalty that is chosen for each pair has no place on the axis of penalties.
        plain = [row._replace(axis="") for row in own if row.at is None]
        for driver, chosen in (
            ("pairwise", plain),
            ("ridge_path", [row for row in own if row.at is not None]),
        ):
            if chosen:
                about = {"driver": driver, "config": config, "store": store}
                name = f"{driver}-{file_stem(store['dataset'])}"
                parts.append(Part(name, driver, about, chosen, doubtful=doubtful))
    return parts


def read_config(path: pathlib.Path) -> dict[str, Any]:
    """The content of a results directory, from its ``config.json``; ``UserError`` if a file was altered."""
    file = path / "config.json"
    if not file.exists():
        raise UserError(f"{path} holds no results: there is no config.json in it.")
    content = read_json(file)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"{path} holds no results: its config.json is not of format {FORMAT}.")
    if content.get("version") != FORMAT_VERSION:
        version = f"{content.get('version')} of the format of results, expected {FORMAT_VERSION}"
        raise UserError(f"{path} is of version {version}; run the command that wrote it again.")
    if not isinstance(content.get("files"), dict) or "checksum" not in content:
        old = "it is altered, or of an earlier version that wrote none"
        raise UserError(f"{file} holds no checksums: {old}; run the command again.")
    require_unaltered(path, content)
    return content


def _part(path: pathlib.Path, config: Mapping[str, Any]) -> Part:
    driver = str(config.get("driver"))
    if driver not in SECTIONS:
        there = f"there is no report; there is one of {', '.join([*SECTIONS, STUDY])}"
        raise UserError(f"{path} was written by experiments.{driver}, of which {there}.")
    if not (path / "results.parquet").exists():
        raise UserError(f"{path} holds no results.parquet; it may be the output of a run that was cut short.")
    rows = read_rows(path / "results.parquet")
    fits = list(_lines(path / "fits.csv", ("source", "target", "method", "ok")))
    part = Part(
        path.resolve().name,
        driver,
        config,
        rows,
        curves=read_rows(path / "curves.parquet"),
        doubtful=frozenset((f["source"], f["target"], f["method"]) for f in fits if f["ok"] != "True"),
        fits=[(f["method"], _field(float, f.get("r2") or ""), f["ok"] == "True") for f in fits],
        alignability=read_rows(path / "alignability.parquet"),
        projection=_records(path / "projection.csv", ProjectedPoint),
        predictions=_records(path / "prediction.csv", Predicted),
        differences=_records(path / "differences.csv", Difference),
        three_way=_records(path / "three_way.csv", ThreeWay),
        **{
            name: read_json(path / f"{name}.json")
            for name in ("families", "migration", "security")
            if (path / f"{name}.json").exists()
        },
        checksums={
            file.name: hashlib.sha256(file.read_bytes()).hexdigest()
            for file in sorted(path.iterdir())
            if file.suffix in (".parquet", ".json") or file.name in RECORDS
        },
    )
    _check_rows(path, part)
    return part


def read_rows(file: pathlib.Path) -> list[Row]:
    """The rows of a table; none if it is not there."""
    import pyarrow.parquet

    if not file.exists():
        return []
    try:
        _require_columns(file, COLUMNS, pyarrow.parquet.read_schema(file).names)
        return read_parquet(file)
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read: {' '.join(str(error).split())[:200]}.") from error


def _lines(file: pathlib.Path, columns: Sequence[str]) -> Iterator[dict[str, str]]:
    """The lines of a CSV file; none if it is not there."""
    if not file.exists():
        return
    with file.open(newline="", encoding="utf-8") as text:
        lines = csv.DictReader(text)
        _require_columns(file, columns, lines.fieldnames or ())
        yield from ({name: read_field(value) for name, value in line.items()} for line in lines)


def _require_columns(file: pathlib.Path, columns: Sequence[str], there: Sequence[str]) -> None:
    missing = [column for column in columns if column not in there]
    if missing:
        why = "it was written by another version, run the command again"
        raise UserError(f"{file} has no column {missing[0]}; {why}.")


def _records(file: pathlib.Path, kind: type[Record]) -> list[Record]:
    """The lines of a CSV file as the records that they were written from; none if it is not there."""
    types, found = get_type_hints(kind), []
    for number, line in enumerate(_lines(file, list(types)), start=2):
        try:
            found.append(kind(**{name: _field(of, line[name]) for name, of in types.items()}))
        except (TypeError, ValueError) as error:
            raise UserError(f"{file}, line {number} cannot be read: {error}.") from error
    return found


def _field(kind: Any, text: str) -> Any:
    """A field of a CSV file: an empty one is NaN, or None where the record allows it."""
    if kind in (str, int):
        return kind(text)
    return float(text or "nan") if kind is float or text else None


def _check_rows(path: pathlib.Path, part: Part) -> None:
    """Every row belongs to the configuration in the same directory."""
    protocol = (part.config.get("config") or {}).get("protocol") or {}
    found: dict[str, set[Any]] = {"seeds": {row.seed for row in part.rows}}
    if part.driver == "pairwise":
        found["methods"] = {row.method for row in part.methods()} - set(CONTROLS)
    for name, there in found.items():
        configured = protocol.get(name)
        if configured and there - set(configured):
            other = shown(sorted(there - set(configured), key=str))
            raise UserError(
                f"{path} mixes two configurations: its results have the {name} {other}, its config.json has "
                f"{shown(configured)}; run the command again."
            )


def _check_belong_together(path: pathlib.Path, parts: Sequence[Part]) -> None:
    """Parts of one study share a version, a protocol and their embeddings."""
    known: dict[str, tuple[Any, str]] = {}
    for part in parts:
        for what, value in _common(part):
            first, where = known.setdefault(what, (value, part.name))
            if first != value:
                differ = f"{what} is {_brief(first)} in {where} and {_brief(value)} in {part.name}"
                again = "run the study again, or the report on one part"
                raise UserError(f"{path} mixes two configurations: {differ}; {again}.")


def _common(part: Part) -> Iterator[tuple[str, Any]]:
    """What must be the same in every part that has it."""
    config = part.config.get("config") or {}
    protocol = config.get("protocol") or {}
    yield from ((f"protocol.{name}", protocol[name]) for name in COMMON_PROTOCOL if name in protocol)
    yield from ((name, config[name]) for name in COMMON_SETTINGS if name in config)
    if version := (part.config.get("versions") or {}).get("jaxalign"):
        yield "the version of jaxalign", version
    stores = part.config.get("stores") or [part.config.get("store") or {}]
    for store in stores.values() if isinstance(stores, Mapping) else stores:
        for encoder, checksum in (store.get("checksums") or {}).items() if isinstance(store, Mapping) else ():
            yield f"the checksum of {encoder} in {store.get('dataset')}", checksum


def shown(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _brief(value: Any) -> str:
    text = shown(value)
    return text[:16] + "…" if len(text) > 40 else text
