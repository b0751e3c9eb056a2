"""Maps between all ordered pairs of encoders: choosing the pairs, reading, cutting and saving the fits."""

from __future__ import annotations

import dataclasses
import functools
import html
import json
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxalign.align.affine import AffineMap
from jaxalign.align.gradient.training import History
from jaxalign.align.saved import (
    COHORT,
    NORMALIZED,
    file_checksum,
    read_index,
    read_map,
    write_index,
    write_map,
)
from jaxalign.align.solvers import Fit, Pair
from jaxalign.align.solvers.base import summary
from jaxalign.biometrics.comparators import Cohort
from jaxalign.core.errors import UnknownNameError, UserError
from jaxalign.version import __version__

OF_COLUMNS = ("residual", "variance", "predicted")  # statistics of a fit that are saved in the index alone
SHOWN = 8  # pairs that ``repr`` lists


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class PairwiseMaps(Mapping[Pair, Fit]):
    """Fits of ordered pairs: ``maps["arcface", "clip"].source`` maps arcface rows, ``.target`` clip rows.

    A mapping from (source, target) to ``Fit``; maps are fetched from the device when first asked for.

    Attributes:
      method: name of the method or class of the solver.
      settings: what was fixed or chosen for each pair, such as ``{"l2": 3.2}``.
      history: how the loss of each pair fell, for methods fitted by gradient; else empty.
      normalize: how rows were scaled before the fit, "l2" or "none"; None where nobody said it.
      cohorts: of pairs that were saved with one; see ``cohort``.
    """

    method: str
    fits: Mapping[Pair, Callable[[], Fit]]
    settings: Mapping[Pair, Mapping[str, Any]]
    history: Mapping[Pair, History] = dataclasses.field(default_factory=dict)
    normalize: str | None = None
    cohorts: Mapping[Pair, Callable[[], Cohort]] = dataclasses.field(default_factory=dict)

    def __getitem__(self, pair: Pair) -> Fit:
        if pair not in self.fits:
            names = sorted({name for known in self.fits for name in known})
            raise UnknownNameError(f"no map for {pair!r}; pairs are (source, target) of {', '.join(names)}")
        return dataclasses.replace(self.fits[pair](), method=self.method)

    def __iter__(self) -> Iterator[Pair]:
        return iter(self.fits)

    def __len__(self) -> int:
        return len(self.fits)

    def __repr__(self) -> str:
        """One line for each of the first pairs: widths, chosen settings and statistics."""
        rows = ["  ".join(cells) for cells in _aligned(self._table())]
        return "\n".join([f"PairwiseMaps: {len(self)} pairs by {self.method}", *rows, *self._left_out()])

    def _repr_html_(self) -> str:
        head, *rows = ("".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in self._table())
        body = "".join(f"<tr>{cells}</tr>" for cells in rows)
        caption = html.escape(" ".join([f"{len(self)} pairs by {self.method}", *self._left_out()]))
        return (
            f"<table><caption>{caption}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        )

    def _table(self) -> list[tuple[str, ...]]:
        table = [("source", "target", "widths", "settings", "statistics")]
        for pair in list(self)[:SHOWN]:
            try:
                fit = self[pair]
                shapes, statistics = f"{fit.source.in_dim} → {fit.target.in_dim}", summary(fit)
            except UserError as error:  # a file that was damaged since
                shapes, statistics = "", str(error)
            settings = {name: self.settings[pair].get(name) for name in ("l2", "rank")}
            chosen = ", ".join(
                f"{name} {value:.4g}" for name, value in settings.items() if np.isscalar(value)
            )
            table.append((*pair, shapes, chosen, statistics))
        return table

    def _left_out(self) -> list[str]:
        return [f"... and {len(self) - SHOWN} more"] if len(self) > SHOWN else []

    def __getstate__(self) -> dict[str, Any]:
        """Pickled with the fits themselves, whatever gives them here."""
        return {**vars(self), "fits": {pair: functools.partial(_itself, fit) for pair, fit in self.items()}}

    def at_rank(self, rank: int) -> PairwiseMaps:
        """The same maps with only the leading ``rank`` dimensions: nothing is solved again."""
        cut = {pair: (lambda get=get: get().at_rank(rank)) for pair, get in self.fits.items()}
        settings = {pair: {**of, "rank": rank} for pair, of in self.settings.items()}
        return dataclasses.replace(self, fits=cut, settings=settings)

    def scores(self, x: Any, y: Any, source: str | None = None, target: str | None = None) -> np.ndarray:
        """Cosines of rows of ``source`` with rows of ``target`` where the pair is compared: see ``Fit.scores``.

        The names may be left out where there is one pair.
        """
        if (source is None) != (target is None) or (source is None and len(self) != 1):
            raise UserError(f"scores: name source and target, one of {len(self)} pairs")
        pair = next(iter(self)) if source is None or target is None else (source, target)
        return self[pair].scores(x, y)

    def cohort(self, source: str, target: str) -> Cohort:
        """The people that a pair was fitted on, as centroids where it is compared, for ``biometrics.comparator``.

        Raises:
          UserError: the maps were saved without; or the file is missing or damaged.
        """
        if (source, target) not in self.cohorts:
            raise UserError(
                f"{source} → {target} was saved without a cohort, which scores other than the cosine need; "
                "pairwise saves one with --save_maps"
            )
        return self.cohorts[source, target]()

    def save(
        self,
        directory: str | pathlib.Path,
        metadata: Mapping[str, Any] | None = None,
        *,
        normalize: str | None = None,
        cohorts: Mapping[Pair, Cohort | None] | None = None,
    ) -> None:
        """Writes two safetensors files for each pair, or three, and an index, ``maps.json``, last.

        Args:
          directory: made if it is missing.
          metadata: further notes on every map, anything JSON can hold.
          normalize: how rows were scaled before the fit, "l2" or "none"; without it what the maps were loaded with,
            or nothing: whoever applies them must then say it.
          cohorts: of pairs, which scores that a cohort corrects need: kept in float16, names as digests.
        """
        normalize = self.normalize if normalize is None else normalize
        if normalize not in (*NORMALIZED, None):
            raise UserError(f"normalize: expected one of {', '.join(NORMALIZED)}, or None, got {normalize!r}")
        directory = pathlib.Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        entries = []
        for number, (pair, fit) in enumerate(self.items()):
            about = {
                **plain(self.settings[pair]),
                **(metadata or {}),
                "method": self.method,
                "source": pair[0],
                "target": pair[1],
                **{name: float(getattr(fit, name)) for name in ("r2", "effective_rank", "condition")},
                "ok": bool(fit.ok),
                "normalize": normalize,
                "jaxalign": __version__,
            }
            files = {side: f"{number:05d}.{side}.safetensors" for side in ("source", "target")}
            for side, encoder in zip(("source", "target"), pair):
                map_: AffineMap = getattr(fit, side)
                of_side = {"side": side, "encoder": encoder, "widths": [map_.in_dim, map_.out_dim]}
                map_.save(directory / files[side], {**about, **of_side})
            if cohort := (cohorts or {}).get(pair):
                files["cohort"] = f"{number:05d}.cohort.safetensors"
                tensors = {"source": cohort.source, "target": cohort.target}
                tensors = {name: np.asarray(side, np.float16) for name, side in tensors.items()}
                texts = {"digests": json.dumps(cohort.digests.tolist())}
                write_map(directory / files["cohort"], tensors, texts, COHORT)
            checksums = {side: file_checksum(directory / name) for side, name in files.items()}
            parts = {name: getattr(fit, name) for name in OF_COLUMNS}
            columns = {
                name: None if part is None else np.asarray(part).tolist() for name, part in parts.items()
            }
            entries.append({**about, "files": files, "sha256": checksums, **columns})
        write_index(directory / "maps.json", {"method": self.method, "normalize": normalize, "maps": entries})

    @classmethod
    def load(cls, directory: str | pathlib.Path) -> PairwiseMaps:
        """Opens what ``save`` wrote; each map is read, and checked against its checksum, when it is asked for.

        Raises:
          UserError: the index, or later a file, is missing, damaged or of another kind.
        """
        path = pathlib.Path(directory) / "maps.json"
        index = read_index(path)
        fits, settings, cohorts = {}, {}, {}
        for entry in index["maps"]:
            pair = (entry["source"], entry["target"])
            fits[pair] = functools.partial(_load_fit, path.parent, entry)
            if "cohort" in entry["files"]:
                cohorts[pair] = functools.partial(_load_cohort, path.parent, entry)
            own = (*OF_COLUMNS, "files", "sha256")
            settings[pair] = {name: entry[name] for name in entry if name not in own}
        return cls(index["method"], fits, settings, normalize=index["normalize"], cohorts=cohorts)


def chosen_pairs(
    names: Sequence[str],
    sources: Sequence[str] | None,
    targets: Sequence[str] | None,
    pairs: Sequence[Pair] | None,
) -> list[Pair]:
    """The ordered pairs that ``fit_pairs`` is asked for; raises ``UserError`` for names and pairs that cannot be."""
    if pairs is not None:
        if sources is not None or targets is not None:
            raise UserError("give either pairs, or sources and targets")
        if any(isinstance(pair, str) or len(pair) != 2 for pair in pairs):
            raise UserError(f"pairs: expected a list of (source, target), got {pairs!r}")
        chosen = [(str(source), str(target)) for source, target in pairs]
    else:
        for side, given in (("sources", sources), ("targets", targets)):
            if isinstance(given, str):
                raise UserError(f"{side}: expected a list of encoders, got {given!r}; write [{given!r}]")
        chosen = [(s, t) for s in sources or names for t in targets or names if s != t]
    unknown = sorted({name for pair in chosen for name in pair} - set(names))
    if unknown:
        raise UserError(f"unknown encoder {', '.join(unknown)}; there are {', '.join(names)}")
    same = [pair for pair in chosen if pair[0] == pair[1]]
    if same or not chosen:
        what = f"{same[0][0]!r} with itself" if same else f"no pair among {', '.join(names)}"
        raise UserError(f"expected ordered pairs of two different encoders, got {what}")
    return list(dict.fromkeys(chosen))


def _itself(fit: Fit) -> Fit:
    return fit


def _aligned(table: Sequence[Sequence[str]]) -> list[list[str]]:
    widths = [max(map(len, column)) for column in zip(*table)]
    return [[cell.ljust(width) for cell, width in zip(row, widths)] for row in table]


def plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as JSON can hold them."""
    return {name: np.asarray(value).tolist() if value is not None else None for name, value in values.items()}


def _checked(directory: pathlib.Path, entry: Mapping[str, Any], which: str) -> pathlib.Path:
    path = directory / entry["files"][which]
    if file_checksum(path) != entry["sha256"][which]:
        raise UserError(f"{path} is not the file that maps.json names: it was damaged or replaced")
    return path


def _load_cohort(directory: pathlib.Path, entry: Mapping[str, Any]) -> Cohort:
    path = _checked(directory, entry, "cohort")
    tensors, texts = read_map(path, COHORT)
    digests = np.array(texts.get("digests"))
    shapes = {name: array.shape[:-1] for name, array in tensors.items()}
    if digests.dtype.kind != "U" or shapes != {"source": digests.shape, "target": digests.shape}:
        raise UserError(f"{path} is no saved cohort: parts are missing or unknown")
    source, target = (tensors[name].astype(np.float32) for name in ("source", "target"))
    return Cohort(source, target, digests)


def _load_fit(directory: pathlib.Path, entry: Mapping[str, Any]) -> Fit:
    source, target = (AffineMap.load(_checked(directory, entry, side)) for side in ("source", "target"))
    columns = [None if entry[name] is None else np.asarray(entry[name], source.dtype) for name in OF_COLUMNS]
    if not source.out_dim == target.out_dim == len(entry["residual"]):
        raise UserError(f"{directory / 'maps.json'} does not fit its files: widths differ")
    statistics = [np.asarray(entry[name]) for name in ("effective_rank", "condition", "ok")]
    return Fit(source, target, columns[0], columns[1], *statistics, columns[2])  # pyright: ignore[reportCallIssue]
