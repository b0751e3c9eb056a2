"""Maps between all ordered pairs of encoders: choosing the pairs, reading, cutting and saving the fits."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxalign.align.affine import AffineMap
from jaxalign.align.gradient.training import History
from jaxalign.align.solvers import Fit, Pair
from jaxalign.core.errors import UnknownNameError, UserError
from jaxalign.version import __version__

FORMAT = "jaxalign-pairwise-maps"
OF_COLUMNS = ("residual", "variance")  # statistics of a fit that are saved in the index alone


@dataclasses.dataclass(frozen=True)
class PairwiseMaps(Mapping[Pair, Fit]):
    """Fits of ordered pairs: ``maps["arcface", "clip"].source`` maps arcface rows, ``.target`` clip rows.

    A mapping from (source, target) to ``Fit``; maps are fetched from the device when first asked for.

    Attributes:
      method: name of the method or class of the solver.
      settings: what was fixed or chosen for each pair, such as ``{"l2": 3.2}``.
      history: how the loss of each pair fell, for methods fitted by gradient; else empty.
    """

    method: str
    fits: Mapping[Pair, Callable[[], Fit]]
    settings: Mapping[Pair, Mapping[str, Any]]
    history: Mapping[Pair, History] = dataclasses.field(default_factory=dict)

    def __getitem__(self, pair: Pair) -> Fit:
        if pair not in self.fits:
            names = sorted({name for known in self.fits for name in known})
            raise UnknownNameError(f"no map for {pair!r}; pairs are (source, target) of {', '.join(names)}")
        return self.fits[pair]()

    def __iter__(self) -> Iterator[Pair]:
        return iter(self.fits)

    def __len__(self) -> int:
        return len(self.fits)

    def at_rank(self, rank: int) -> PairwiseMaps:
        """The same maps with only the leading ``rank`` dimensions: nothing is solved again."""
        cut = {pair: (lambda get=get: get().at_rank(rank)) for pair, get in self.fits.items()}
        settings = {pair: {**of, "rank": rank} for pair, of in self.settings.items()}
        return dataclasses.replace(self, fits=cut, settings=settings)

    def save(self, directory: str | pathlib.Path, metadata: Mapping[str, Any] | None = None) -> None:
        """Writes two safetensors files for each pair and an index, ``maps.json``, last."""
        directory = pathlib.Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        entries = []
        for number, (pair, fit) in enumerate(self.items()):
            about = {
                "method": self.method,
                "source": pair[0],
                "target": pair[1],
                **plain(self.settings[pair]),
                **{name: float(getattr(fit, name)) for name in ("r2", "effective_rank", "condition")},
                "ok": bool(fit.ok),
                "jaxalign": __version__,
                **(metadata or {}),
            }
            files = {side: f"{number:05d}.{side}.safetensors" for side in ("source", "target")}
            fit.source.save(directory / files["source"], about)
            fit.target.save(directory / files["target"], about)
            entries.append(
                {**about, "files": files, **{name: getattr(fit, name).tolist() for name in OF_COLUMNS}}
            )
        index = {"format": FORMAT, "version": 1, "method": self.method, "maps": entries}
        temporary = directory / "maps.json.partial"
        temporary.write_text(json.dumps(index, indent=1))
        temporary.replace(directory / "maps.json")

    @classmethod
    def load(cls, directory: str | pathlib.Path) -> PairwiseMaps:
        """Opens what ``save`` wrote; each map is read when it is asked for."""
        path = pathlib.Path(directory) / "maps.json"
        try:
            index = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise UserError(f"{path} cannot be read as an index of saved maps: {error}") from error
        if not isinstance(index, dict) or index.get("format") != FORMAT:
            raise UserError(f"{path} is not an index of saved maps")
        fits, settings = {}, {}
        for entry in index["maps"]:
            pair = (entry["source"], entry["target"])
            fits[pair] = lambda entry=entry: _load_fit(path.parent, entry)
            settings[pair] = {name: entry[name] for name in entry if name not in (*OF_COLUMNS, "files")}
        return cls(index["method"], fits, settings)


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


def plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as JSON can hold them."""
    return {name: np.asarray(value).tolist() if value is not None else None for name, value in values.items()}


def _load_fit(directory: pathlib.Path, entry: Mapping[str, Any]) -> Fit:
    source, target = (AffineMap.load(directory / entry["files"][side]) for side in ("source", "target"))
    of_columns = [np.asarray(entry[name], source.dtype) for name in OF_COLUMNS]
    return Fit(
        source,
        target,
        *of_columns,
        *(np.asarray(entry[name]) for name in ("effective_rank", "condition", "ok")),
    )
