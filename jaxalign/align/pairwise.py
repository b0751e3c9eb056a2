"""All ordered pairs of encoders: one pass over the rows, one factorisation of each source, few programs."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh
from jax.typing import ArrayLike

from jaxalign.align.affine import AffineMap
from jaxalign.align.fit import accumulate
from jaxalign.align.schedule import solve
from jaxalign.align.settings import Penalty, Rank, Settings
from jaxalign.align.solvers import Fit, Solver, fit_shared_space
from jaxalign.core import checks
from jaxalign.core import mesh as meshes
from jaxalign.core.errors import UnknownNameError, UserError
from jaxalign.core.lazy_rows import LazyRows
from jaxalign.moments.moments import FoldMoments
from jaxalign.version import __version__

Pair = tuple[str, str]
FORMAT = "jaxalign-pairwise-maps"


@dataclasses.dataclass(frozen=True)
class PairwiseMaps(Mapping[Pair, Fit]):
    """Fits of ordered pairs: ``maps["arcface", "clip"].source`` maps arcface rows, ``.target`` clip rows.

    A mapping from (source, target) to ``Fit``; maps are fetched from the device when first asked for.

    Attributes:
      method: name of the method or class of the solver.
      settings: what was fixed or chosen for each pair, such as ``{"l2": 3.2}``.
    """

    method: str
    fits: Mapping[Pair, Callable[[], Fit]]
    settings: Mapping[Pair, Mapping[str, Any]]

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
        return PairwiseMaps(
            self.method, cut, {pair: {**of, "rank": rank} for pair, of in self.settings.items()}
        )

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
                **_plain(self.settings[pair]),
                "r2": float(fit.r2),
                "effective_rank": float(fit.effective_rank),
                "condition": float(fit.condition),
                "ok": bool(fit.ok),
                "jaxalign": __version__,
                **(metadata or {}),
            }
            files = {side: f"{number:05d}.{side}.safetensors" for side in ("source", "target")}
            fit.source.save(directory / files["source"], about)
            fit.target.save(directory / files["target"], about)
            statistics = {"residual": fit.residual.tolist(), "variance": fit.variance.tolist()}
            entries.append({**about, "files": files, **statistics})
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
            settings[pair] = {
                name: entry[name] for name in entry if name not in ("residual", "variance", "files")
            }
        return cls(index["method"], fits, settings)


def fit_pairs(
    embeddings: Mapping[str, ArrayLike | LazyRows] | FoldMoments,
    method: str | Solver = "ridge",
    *,
    l2: Penalty = "cv",
    rank: Rank = None,
    folds: int = 5,
    groups: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    sources: Sequence[str] | None = None,
    targets: Sequence[str] | None = None,
    pairs: Sequence[Pair] | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
    mesh: Mesh | None = None,
    **options: Any,
) -> PairwiseMaps:
    """Fits maps between all ordered pairs of encoders, or the pairs named.

    Args:
      embeddings: per encoder an array [n, d] or ``LazyRows``, the same photographs row for row; or their moments, taken
        once for several calls (``FoldMoments.of``; ``folds``, ``groups`` and ``weights`` then have no effect).
      method: a name in ``SOLVERS``, a solver, or "shared" for one space for all encoders (``fit_shared_space``).
      l2, rank, folds, groups, weights, seed, **options: as for ``fit_pair``.
      sources, targets: restrict the ordered pairs to these encoders.
      pairs: the ordered pairs themselves; instead of ``sources`` and ``targets``.
      progress: called with the numbers of pairs solved and in all.
      mesh: devices (``device_mesh``) over which rows, encoders and pairs are dealt; that of the moments if they are
        spread, else the first device if absent. "shared" decomposes one matrix of all encoders, on one device.

    Returns:
      Maps addressable as ``maps[source, target]``.

    Raises:
      UserError: arrays, names, options or the mesh are not usable.
    """
    mesh = meshes.check(mesh)
    settings = None if method == "shared" else Settings.of(method, l2=l2, rank=rank, **options)
    given = embeddings if isinstance(embeddings, FoldMoments) else checks.embeddings(embeddings)
    names = given.names if isinstance(given, FoldMoments) else tuple(given)
    chosen = chosen_pairs(names, sources, targets, pairs)
    if isinstance(given, FoldMoments):
        moments = given
    else:
        if settings is None:
            moments = FoldMoments.of(given, weights=weights, mesh=mesh)
        else:
            known = {"folds": folds, "groups": groups, "weights": weights, "seed": seed}
            moments = accumulate(given, settings, **known, mesh=mesh)
    if settings is None:
        return _shared(moments.whole(), chosen, rank, l2, options, progress)
    if mesh is not None and mesh.size > 1:
        moments = moments.spread(mesh)
    choice = settings.choose(moments, chosen)
    located = solve(moments.total, choice.solvers, progress, choice.spectra)
    fits = {
        pair: (lambda pair=pair, place=place: choice.cut(pair, place.fit()))
        for pair, place in located.items()
    }
    label = method if isinstance(method, str) else type(method).__name__
    return PairwiseMaps(label, fits, {pair: _plain(choice.settings(pair)) for pair in chosen})


def _shared(
    moments: FoldMoments,
    chosen: Sequence[Pair],
    rank: Rank,
    l2: Penalty,
    options: Mapping[str, Any],
    progress: Callable[[int, int], None] | None,
) -> PairwiseMaps:
    known = {"whitening", "weighting", "shrinkage"}
    if set(options) - known or l2 != "cv" or not (rank is None or isinstance(rank, (int, np.integer))):
        raise UserError(f"method 'shared' takes a rank and {', '.join(sorted(known))}; got l2={l2!r}, rank={rank!r}, "
                        f"{', '.join(options) or 'no options'}")  # fmt: skip
    given = {} if rank is None else {"rank": int(rank)}
    space = fit_shared_space(moments, **given, **options).on_host()
    if progress is not None:
        progress(len(chosen), len(chosen))
    settings = {"rank": space.maps[0].out_dim, **options}
    fits = {pair: (lambda pair=pair: space.fit(*pair)) for pair in chosen}
    return PairwiseMaps("shared", fits, dict.fromkeys(chosen, settings))


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


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as JSON can hold them."""
    return {name: np.asarray(value).tolist() if value is not None else None for name, value in values.items()}


def _load_fit(directory: pathlib.Path, entry: Mapping[str, Any]) -> Fit:
    source = AffineMap.load(directory / entry["files"]["source"])
    target = AffineMap.load(directory / entry["files"]["target"])
    return Fit(
        source,
        target,
        np.asarray(entry["residual"], source.dtype),
        np.asarray(entry["variance"], source.dtype),
        np.asarray(entry["effective_rank"]),
        np.asarray(entry["condition"]),
        np.asarray(entry["ok"]),
    )  # type: ignore[arg-type]
