"""What of a gallery map's parts does not fit together, whether a program or a file brought them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from jaxalign.align.saved import NORMALIZED
from jaxalign.biometrics.comparators import LIKELIHOOD_RATIOS, SCORES, rule_options
from jaxalign.core.errors import UserError

if TYPE_CHECKING:
    from jaxalign.gallery.map_file import GalleryMap

NAMES = ("source", "target", "method", "normalize", "score")
MODEL = ("means", "directions", "bend")  # tensors of the model of log-likelihood ratios


def problem_of(of: GalleryMap) -> str | None:
    """What does not fit together, if anything."""
    maps = [map_ for map_ in (of.gallery, of.probes) if map_ is not None]
    if not all(isinstance(getattr(of, name), str) and getattr(of, name) for name in NAMES):
        return f"expected texts as {', '.join(NAMES)}, got {[getattr(of, name) for name in NAMES]}"
    if of.source == of.target:
        return f"source and target are both {of.source!r}; a gallery is mapped between two encoders"
    if of.normalize not in NORMALIZED or of.score not in SCORES:
        return f"normalize and score are {of.normalize!r} and {of.score!r}, which are not known"
    if any(map_.bias.ndim != 1 for map_ in maps):
        return "a gallery is mapped by one map, got a stack"
    if problem := next((problem for map_ in maps if (problem := map_.problem())), None):
        return problem
    if set(of.fingerprints) != {"source", "target"}:
        return "expected a fingerprint of source and one of target"
    widths = of.gallery.in_dim, of.gallery.out_dim if of.probes is None else of.probes.in_dim
    for side, width in zip(("source", "target"), widths):
        found, name = of.fingerprints[side], getattr(of, side)
        if (found.encoder, found.normalize, found.width) != (name, of.normalize, width):
            takes = f"the map takes rows of {name}, {width} wide ({of.normalize})"
            return f"{takes}, the {side}'s fingerprint is of {found.encoder}, {found.width} wide ({found.normalize})"
    if of.probes is not None and of.probes.out_dim != of.gallery.out_dim:
        return f"its sides lead to widths {of.gallery.out_dim} and {of.probes.out_dim}"
    return _problem_of_score(of) or _problem_of_notes(of)


def _problem_of_score(of: GalleryMap) -> str | None:
    if of.score == "cosine":
        return (
            None
            if of.cohort is of.model is None and not of.options
            else "the cosine needs no cohort and no options"
        )
    if of.drop_in:
        return f"a drop-in map is for cosines, and its score is {of.score}; two-sided maps have any"
    width = of.gallery.out_dim
    if of.cohort is None or not of.cohort.source.shape == of.cohort.target.shape == (len(of.cohort), width):
        return f"score {of.score} needs a cohort of width {width}"
    if (of.score in LIKELIHOOD_RATIOS) != (of.model is not None):
        return f"score {of.score} and the model of log-likelihood ratios do not go together"
    shapes = {"means": (2, width), "directions": (width, width), "bend": (width,)}
    arrays = [of.cohort.source, of.cohort.target]
    if of.model is not None:
        arrays += [getattr(of.model, name) for name in MODEL]
        if any(getattr(of.model, name).shape != shape for name, shape in shapes.items()):
            return f"the model of log-likelihood ratios is not of width {width}"
        if not isinstance(of.model.constant, float) or not np.isfinite(of.model.constant):
            return "the model of log-likelihood ratios has no constant"
    if any(array.dtype.kind != "f" or not np.isfinite(array).all() for array in arrays):
        return "the cohort or the model of the score holds NaN or infinite values"
    right = isinstance(of.options, Mapping) and set(of.options) <= set(rule_options(of.score))
    if not right or any(type(value) not in (int, float) for value in of.options.values()):
        return (
            f"options of score {of.score}: expected numbers for some of {', '.join(rule_options(of.score))}"
        )
    try:
        assert of.comparator is not None  # which checks its options
    except UserError as error:
        return str(error)
    return None


def _problem_of_notes(of: GalleryMap) -> str | None:
    numbers = [type(value) in (int, float) and np.isfinite(value) for at in of.thresholds for value in at]
    if not all(numbers) or any(not 0 < at.fmr < 1 for at in of.thresholds):
        return "a threshold, its rate or its interval is no number"
    if of.native is not None:
        at, values = (np.asarray(part) for part in of.native)
        right = (
            at.ndim == 1 and at.shape == values.shape and at.dtype == values.dtype == np.float64 and len(at)
        )
        if (
            not right
            or not np.isfinite([at, values]).all()
            or (np.diff(at) <= 0).any()
            or (np.diff(values) < 0).any()
        ):
            return "the curve to native scores does not rise, or is of other numbers than float64"
    try:
        if not isinstance(of.about, Mapping):
            raise TypeError(f"a {type(of.about).__name__}")
        json.dumps(dict(of.about))
    except (TypeError, ValueError, RecursionError) as error:
        return f"about: expected a mapping that JSON can hold ({error})"
    return None
