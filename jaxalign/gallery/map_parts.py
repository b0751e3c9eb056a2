"""What the file of a gallery map holds, tensors and texts in its header, and what one of its maps does to rows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from jax.typing import ArrayLike

from jaxalign.align.affine import AffineMap
from jaxalign.biometrics.comparators import Cohort
from jaxalign.biometrics.plda import TwoCovariance
from jaxalign.core.errors import UserError
from jaxalign.core.rows import LazyRows, unit_rows
from jaxalign.gallery.fingerprint import Fingerprint
from jaxalign.gallery.map_checks import MODEL, NAMES
from jaxalign.gallery.operating import Threshold

if TYPE_CHECKING:
    from jaxalign.gallery.map_file import GalleryMap

TEXTS = {
    *NAMES,
    "drop_in",
    "options",
    "thresholds",
    "about",
    "orthogonal",
    "fingerprints",
    "digests",
    "constant",
}
Rows = ArrayLike | LazyRows
PARTS = ("gallery", "probes", "cohort", "model", "native")  # of names of tensors, before the point


def parts_of(of: GalleryMap) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Tensors and texts, which are JSON, of the file."""
    maps = {"gallery": of.gallery, **({} if of.probes is None else {"probes": of.probes})}
    tensors = {f"{side}.{name}": part for side, map_ in maps.items() for name, part in map_.tensors().items()}
    texts: dict[str, Any] = {name: getattr(of, name) for name in (*NAMES, "drop_in")}
    texts |= {"options": dict(of.options), "about": dict(of.about)}
    texts["orthogonal"] = {side: bool(map_.orthogonal) for side, map_ in maps.items()}
    texts["thresholds"] = [at._asdict() for at in of.thresholds]
    texts["fingerprints"] = {}
    for side, fingerprint in of.fingerprints.items():
        arrays, texts["fingerprints"][side] = fingerprint.tensors()
        tensors |= {f"fingerprint.{side}.{name}": array for name, array in arrays.items()}
    if of.cohort is not None:
        tensors |= {f"cohort.{side}": getattr(of.cohort, side) for side in ("source", "target")}
        texts["digests"] = of.cohort.digests.tolist()
    if of.model is not None:
        tensors |= {f"model.{name}": getattr(of.model, name) for name in MODEL}
        texts["constant"] = of.model.constant
    if of.native is not None:
        tensors |= {f"native.{name}": part for name, part in zip(("scores", "native"), of.native)}
    return tensors, {name: json.dumps(value) for name, value in texts.items()}


def fields_of(tensors: Mapping[str, np.ndarray], texts: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of the map in a file; raises whatever its types bring about where parts are wrong."""
    parts: dict[str, dict[str, np.ndarray]] = {}
    for name, tensor in tensors.items():
        part, _, last = name.rpartition(".")
        parts.setdefault(part, {})[last] = tensor
    known = {*PARTS, "fingerprint.source", "fingerprint.target"}
    if not set(parts) <= known or not set(texts) <= TEXTS or texts["drop_in"] is not ("probes" not in parts):
        raise KeyError("parts")
    maps = {
        side: AffineMap.of_tensors(parts[side], texts["orthogonal"][side])
        for side in ("gallery", "probes")
        if side in parts
    }
    fingerprints = {
        side: Fingerprint.of_tensors(parts[f"fingerprint.{side}"], texts["fingerprints"][side])
        for side in ("source", "target")
    }
    cohort = model = native = None
    if "cohort" in parts:
        sides: dict[str, Any] = parts["cohort"]
        cohort = Cohort(**sides, digests=np.array(texts["digests"], np.str_).reshape(-1))
    if "model" in parts:
        model = TwoCovariance(**parts["model"], constant=texts["constant"])
    if "native" in parts:
        native = (parts["native"]["scores"], parts["native"]["native"])
    thresholds = tuple(Threshold(**at) for at in texts["thresholds"])
    return {
        **{name: texts[name] for name in (*NAMES, "options", "about")},
        "gallery": maps["gallery"],
        "probes": maps.get("probes"),
        "fingerprints": fingerprints,
        "cohort": cohort,
        "model": model,
        "native": native,
        "thresholds": thresholds,
    }


def rates_of(about: Mapping[str, Any]) -> dict[str, float]:
    """The numbers among ``about["rates"]``, whether they stand alone or with an interval."""
    given = about.get("rates")
    values: dict[str, Any] = {
        str(name): rate.get("value") if isinstance(rate, Mapping) else rate
        for name, rate in (given.items() if isinstance(given, Mapping) else ())
    }
    numbers = {name: float(value) for name, value in values.items() if type(value) in (int, float)}
    return {name: value for name, value in numbers.items() if np.isfinite(value)}


def mapped_rows(map_: AffineMap | None, rows: Rows, normalize: str, zeros: bool = False) -> np.ndarray:
    """Rows scaled and mapped, in pieces, so that no wide copy of all of them exists; ``zeros`` allows rows of zeros."""
    lazy = LazyRows.of(rows)
    dtype = np.dtype(np.float64 if lazy.dtype == np.float64 else np.float32)
    scaled = normalize == "l2"

    def require(part: np.ndarray) -> np.ndarray:
        bad = ~np.isfinite(part).all(axis=1)
        if bad.any():
            raise UserError(f"rows: {bad.sum():,} hold NaN or infinite values")
        if scaled and not zeros and not part.any(axis=1).all():
            raise UserError(f"rows: {np.sum(~part.any(axis=1)):,} are zero and have no direction")
        return unit_rows(part) if scaled else part

    lazy = lazy.then(require, dtype=np.float64 if scaled else None)
    lazy = lazy if map_ is None else map_.apply(lazy)
    return np.asarray(lazy.then(lambda part: part.astype(dtype), dtype=dtype))
