"""One affine map from a file of either kind, and what the file says of it: what commands apply and export."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from jax.typing import ArrayLike

from jaxalign.align.affine import AffineMap
from jaxalign.align.saved import GALLERY, NORMALIZED, SIDES, map_format
from jaxalign.core.errors import UserError
from jaxalign.core.rows import LazyRows
from jaxalign.gallery.map_checks import NAMES
from jaxalign.gallery.map_file import GalleryMap, load_map

Rows = ArrayLike | LazyRows


class OneMap(NamedTuple):
    """One affine map and what its file says of it, of either kind of file; None where it says nothing."""

    map: AffineMap
    place: pathlib.Path  # the file or directory that it comes from
    encoder: str | None  # whose rows it takes
    normalize: str | None  # how those were scaled before the fit
    leads_to: str  # the space of mapped rows
    about: dict[str, Any]
    whole: GalleryMap | None = None  # that it is a side of

    def require_rows(self, rows: Rows) -> None:
        """Raises a ``UserError`` for rows that do not look like the encoder's, where the file has fingerprints."""
        if self.whole is not None and (problem := self.whole.problem(rows, self.encoder)):
            raise UserError(f"{self.place}: {problem}.")


def read_one(path: str | os.PathLike[str], encoder: str | None = None) -> OneMap:
    """Reads the map for one encoder's rows from a file of ``GalleryMap`` or of ``AffineMap``.

    Args:
      path: of the file.
      encoder: whose rows are to be mapped; where not given those of a gallery map's source.

    Raises:
      UserError: the file is damaged or something else, its notes are not known, or the map is for others' rows.
    """
    path = pathlib.Path(path)
    if map_format(path) == GALLERY:
        return _side_of(load_map(path), path, encoder)
    map_, about = AffineMap.load_with_metadata(path)
    expected = {"encoder": str, "source": str, "target": str, "method": str, "normalize": str, "side": str}
    known = {name: about[name] for name in expected if about.get(name) is not None}
    wrong = [name for name, value in known.items() if not isinstance(value, str)]
    wrong += ["normalize"] * (known.get("normalize", "l2") not in NORMALIZED)
    wrong += ["side"] * (known.get("side", SIDES[0]) not in SIDES)
    if wrong:
        raise UserError(f"{path}: its metadata holds {wrong[0]}={about[wrong[0]]!r}, which is not known.")
    to = leads_to(known) if {"side", "source", "target"} <= set(known) else "not stated"
    return OneMap(map_, path, known.get("encoder"), known.get("normalize"), to, {"file": str(path), **about})


def leads_to(about: Mapping[str, Any]) -> str:
    """The space of mapped rows, in words for whoever opens the new store."""
    if about["side"] == "to_target":
        return f"{about['target']}'s own coordinates"
    method = f" by {about['method']}" if "method" in about else ""
    return f"the space where {about['source']} → {about['target']} is compared{method}"


def _side_of(whole: GalleryMap, path: pathlib.Path, encoder: str | None) -> OneMap:
    encoder = encoder or whole.source
    side = whole.side(encoder)
    map_ = whole.gallery if side == "source" else whole.probes
    if map_ is None:
        raise UserError(f"{path} leaves rows of {encoder} as they are; it maps those of {whole.source}.")
    about = {name: getattr(whole, name) for name in NAMES}
    about |= {"side": "to_target" if whole.drop_in else side, "sha256": whole.checksum, "file": str(path)}
    return OneMap(map_, path, encoder, whole.normalize, leads_to(about), {**whole.about, **about}, whole)
