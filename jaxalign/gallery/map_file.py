"""A map of a gallery in one file that explains itself: whose rows it takes, where it leads, and how to decide there.

In a file of ``AffineMap`` nothing but the width keeps rows of the wrong side out. Here the rows of both encoders are
known by their fingerprints, and the thresholds at which mapped rows are to be compared are beside the map.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import pathlib
from collections.abc import Mapping
from typing import Any, Self

import jax
import numpy as np
import numpy.typing as npt
from jax.typing import ArrayLike
from jaxtyping import Float

from jaxalign.align.affine import AffineMap
from jaxalign.align.all_pairs import PairwiseMaps
from jaxalign.align.saved import GALLERY, map_checksum, read_map, write_map
from jaxalign.align.solvers import Fit
from jaxalign.biometrics.comparators import LIKELIHOOD_RATIOS, RULES, Cohort, Comparator
from jaxalign.biometrics.plda import TwoCovariance
from jaxalign.core import checks
from jaxalign.core.errors import UserError, extra
from jaxalign.core.rows import unit_rows
from jaxalign.gallery.fingerprint import Fingerprint
from jaxalign.gallery.map_checks import problem_of
from jaxalign.gallery.map_parts import Rows, fields_of, mapped_rows, parts_of, rates_of
from jaxalign.gallery.operating import Threshold
from jaxalign.version import __version__


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class GalleryMap:
    """Carries rows of an old encoder to where rows of a new one can be compared with them.

    A *drop-in* map leads into the target's own coordinates, for a side that compares raw cosines and cannot change.
    With a *two-sided* one, rows of the target are mapped as well, and any score can be taken.

    Attributes:
      source: the old encoder, whose rows are enrolled.
      target: the new encoder, whose rows probe.
      method: the name of the method that fitted the map.
      normalize: "l2" if rows of both are scaled to length 1 before they are mapped, or "none".
      score: what mapped rows are compared by, one of ``biometrics.SCORES``; a drop-in map's is the cosine.
      gallery: maps rows of ``source``.
      probes: maps rows of ``target``; None for a drop-in map.
      fingerprints: of "source" and "target": what their rows look like.
      cohort: other people where rows are compared, for scores that need them.
      model: of log-likelihood ratios, for scores that are.
      options: of the score, such as ``top``.
      thresholds: for decisions, by false match rate.
      native: mapped scores and what the target itself gives the same comparisons, shape [k] each; see ``native_curve``.
      about: notes that JSON can hold, free but for these names: ``dataset``, ``rows`` and ``people`` of the fit,
        ``checksums`` (by encoder, of all embeddings of the data set),
        ``rates`` (by name a number, or ``value``, ``low`` and ``high``), ``license`` (a note), ``jaxalign`` (version).

    Raises:
      UserError: parts that do not fit together.
    """

    source: str
    target: str
    method: str
    normalize: str
    score: str
    gallery: AffineMap
    probes: AffineMap | None
    fingerprints: Mapping[str, Fingerprint]
    cohort: Cohort | None = None
    model: TwoCovariance | None = None
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    thresholds: tuple[Threshold, ...] = ()
    native: tuple[np.ndarray, np.ndarray] | None = None
    about: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        """Checks that the parts fit together."""
        if problem := problem_of(self):
            raise UserError(problem)

    @classmethod
    def of(
        cls,
        fit: Fit,
        *,
        source: str,
        target: str,
        method: str,
        normalize: str,
        rows: tuple[Rows, Rows],
        identities: ArrayLike,
        score: str = "cosine",
        options: Mapping[str, Any] | None = None,
        drop_in: bool = False,
        cohort: Cohort | None = None,
        thresholds: tuple[Threshold, ...] = (),
        native: tuple[np.ndarray, np.ndarray] | None = None,
        about: Mapping[str, Any] | None = None,
        seed: int = 0,
    ) -> Self:
        """The map of one fit.

        Args:
          fit: of the pair; see ``fit_pair``.
          source, target, method, normalize, score, options: see the class.
          rows: of source and target as the encoders give them, of the same calibration photographs row for row, shapes
            [n, p] and [n, q]. Fingerprints are taken of them, and the cohort where none is given.
          identities: of the rows, shape [n].
          drop_in: lead into the target's own coordinates (``fit.to_target()``) instead of mapping both sides.
          cohort: where ``score`` needs one, in the space where the pair is compared.
          thresholds, native: of people that the map was not fitted on: see ``thresholds_of``, ``native_curve``.
          about: further notes; rows, people and the version are added.
          seed: of the fingerprints.

        Raises:
          UserError: parts that do not fit together.
        """
        fingerprints = {
            side: Fingerprint.of(part, identities, encoder=name, normalize=normalize, seed=seed)
            for side, name, part in zip(("source", "target"), (source, target), rows)
        }
        gallery, probes = (fit.to_target(), None) if drop_in else (fit.source, fit.target)
        gallery, probes = jax.tree.map(np.asarray, (gallery, probes))
        model = None
        if score != "cosine" and probes is not None:
            if cohort is None or (score in LIKELIHOOD_RATIOS and cohort.rows is None):
                left, right = (
                    mapped_rows(map_, part, normalize) for map_, part in zip((gallery, probes), rows)
                )
                cohort = Cohort.of(left, right, identities)
            model = cohort.ratios if score in LIKELIHOOD_RATIOS else None
        names = np.asarray(identities)
        known = {"jaxalign": __version__, "rows": len(names), "people": len(np.unique(names))}
        return cls(
            *(source, target, method, normalize, score, gallery, probes, fingerprints),
            *(None if score == "cosine" else cohort, model, dict(options or {})),
            tuple(Threshold(*map(float, at)) for at in thresholds),
            None if native is None else (np.asarray(native[0], float), np.asarray(native[1], float)),
            {**known, **(about or {})},
        )

    @classmethod
    def of_pair(
        cls, maps: PairwiseMaps, source: str, target: str, *, rows: tuple[Rows, Rows], **options: Any
    ) -> Self:
        """The map of one pair of ``fit_pairs``, or of what ``experiments.pairwise --save_maps`` saved.

        Args:
          maps: such as ``PairwiseMaps.load(directory)``.
          source, target: names of the pair.
          rows: of both encoders, of the people that the maps were fitted on; see ``of``.
          **options: of ``of``; ``normalize`` only where the maps do not say it.

        Raises:
          UserError: see ``of``; or nobody says how rows were scaled.
        """
        normalize = options.pop("normalize", None) or maps.normalize
        if maps.normalize not in (None, normalize):
            raise UserError(
                f"normalize={normalize} contradicts the maps, which were fitted with {maps.normalize}"
            )
        if (source, target) in maps.cohorts and not options.get("drop_in"):
            options.setdefault("cohort", maps.cohort(source, target))
        about = {"settings": dict(maps.settings[source, target]), **(options.pop("about", None) or {})}
        names = {"source": source, "target": target, "method": maps.method, "normalize": normalize}
        return cls.of(maps[source, target], rows=rows, about=about, **names, **options)

    @property
    def drop_in(self) -> bool:
        """Whether mapped rows are in the target's own coordinates, so that the target's rows stay as they are."""
        return self.probes is None

    @functools.cached_property
    def comparator(self) -> Comparator | None:
        """What computes the score; None for the cosine."""
        if self.score == "cosine":
            return None
        assert self.cohort is not None
        return Comparator(self.cohort, RULES[self.score](**self.options), self.model)

    @functools.cached_property
    def checksum(self) -> str:
        """sha256 of all that the map holds, the one in its file; what a migrated store keeps to know the map by."""
        return map_checksum(*parts_of(self), GALLERY)

    def side(self, encoder: str) -> str:
        """ "source" or "target"; a ``UserError`` for a name that is neither side's."""
        for side in ("source", "target"):
            if encoder == getattr(self, side):
                return side
        raise UserError(f"the map leads from {self.source} to {self.target}; it takes no rows of {encoder!r}")

    def problem(self, rows: Rows, encoder: str | None = None) -> str | None:
        """Why these rows cannot be the encoder's, see ``Fingerprint.problem``; None where they may be."""
        side = self.side(encoder or self.source)
        other = self.fingerprints["target" if side == "source" else "source"]
        return self.fingerprints[side].problem(rows, other)

    def apply(
        self, rows: Rows, encoder: str | None = None, *, check: bool = True
    ) -> Float[np.ndarray, "n s"]:
        """Maps rows to where they are compared.

        Args:
          rows: of one encoder, as it gives them, shape [n, d], any floating format; they are scaled here where the map
            was fitted on scaled rows.
          encoder: whose rows they are; the source where not given. The target's rows stay where they are if the map is
            a drop-in one.
          check: refuse rows that do not look like the encoder's. False is for those who know better; the width and
            numbers that are not finite are looked at all the same.

        Returns:
          Shape [n, s]: float64 for float64 rows, float32 for all narrower formats.

        Raises:
          UserError: the name is neither side's, or the rows are not finite, of another width, scaled in another way, of
            the other side or unlike either.
        """
        side = self.side(encoder or self.source)
        given = checks.embedding_rows(rows, f"rows of {getattr(self, side)}")
        fits = given.shape[1] == self.fingerprints[side].width
        if (check or not fits) and (problem := self.problem(given, encoder)):
            raise UserError(problem + ("; check=False maps them all the same." if fits else "."))
        return mapped_rows(
            self.gallery if side == "source" else self.probes, given, self.normalize, zeros=not check
        )

    def vectors(
        self, rows: Rows, encoder: str, *, enrolled: bool | None = None, check: bool = True
    ) -> Float[np.ndarray, "n v"]:
        """Rows whose inner products, of either side with the other, are the scores: what a vector index stores.

        Args:
          rows, encoder, check: see ``apply``.
          enrolled: whether the rows stand in the gallery, or search it; without it those of the source do. In a mixed
            gallery rows of the target stand there too, beside mapped ones, at one threshold.

        Returns:
          Shape [n, s] of length 1 for the cosine; [n, s + 2] for other scores, not of length 1.
        """
        mapped = self.apply(rows, encoder, check=check)
        if self.comparator is None:
            return unit_rows(mapped).astype(mapped.dtype)
        in_gallery = self.side(encoder) == "source" if enrolled is None else enrolled
        # To a comparator the probes are the rows of a fit's source.
        return self.comparator.vectors(mapped, "probes" if in_gallery else "gallery")

    def scores(self, gallery_rows: Rows, probe_rows: Rows, *, check: bool = True) -> Float[np.ndarray, "n m"]:
        """Scores of rows of the source, shape [n, p], with rows of the target, shape [m, q], neither mapped."""
        gallery = self.vectors(gallery_rows, self.source, check=check)
        return gallery @ self.vectors(probe_rows, self.target, check=check).T

    def native_scores(self, scores: npt.ArrayLike) -> np.ndarray:
        """What the target itself would on average give comparisons with these scores; float64, of the scores' shape.

        Raises:
          UserError: the map has no such curve.
        """
        if self.native is None:
            raise UserError("the map has no curve from its scores to the target's own")
        return np.interp(np.asarray(scores, np.float64), *self.native)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the map as one safetensors file, renamed into place, with a checksum of all that is in it."""
        write_map(pathlib.Path(path), *parts_of(self), GALLERY)

    def save_pretrained(self, directory: str | os.PathLike[str]) -> None:
        """Writes the map with a model card into a directory, as the Hugging Face Hub has it; see ``map_hub.save``."""
        _hub().save(self, directory)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Uploads the map with a model card and gives the commit's address; ``options`` as in ``map_hub.upload``."""
        return _hub().upload(self, repo_id, **options)

    @classmethod
    def from_pretrained(cls, repo_id: str | os.PathLike[str], **options: Any) -> GalleryMap:
        """Reads the map of a repository on the Hub, or of a directory; ``options`` are those of ``map_hub.load``."""
        return _hub().load(repo_id, **options)

    def __repr__(self) -> str:
        """Direction, scaling, data, thresholds and rates, in at most ten lines."""
        first = "rows are scaled to length 1 first" if self.normalize == "l2" else "rows keep their lengths"
        way = f"drop-in, into {self.target}'s own coordinates" if self.drop_in else "two-sided"
        cohort = f", with a cohort of {len(self.cohort):,} people" if self.cohort else ""
        lines = [
            f"GalleryMap: {self.source} → {self.target}, by {self.method}, {way}; {first}",
            f"  gallery, rows of {self.source}: {self.gallery}",
            f"  probes, rows of {self.target}: {'stay as they are' if self.probes is None else self.probes}",
            f"  score: {self.score}{cohort}",
        ]
        counts = [f"{self.about[name]:,} {name}" for name in ("rows", "people") if name in self.about]
        shown = [
            f"{at.threshold:.4f} ({at.low:.4f} to {at.high:.4f}) at FMR {at.fmr:g}" for at in self.thresholds
        ]
        rates = [f"{name} {value:.4f}" for name, value in rates_of(self.about).items()]
        fitted = f"{' of '.join(counts)} {self.about.get('dataset', '')}".rstrip()
        lines += [f"  fitted on: {fitted}"] if counts else []
        lines += [f"  thresholds: {'; '.join(shown[:4])}"] if shown else []
        lines += [f"  rates: {', '.join(rates[:5])}"] if rates else []
        if "license" in self.about:
            lines.append(f"  license: {' '.join(str(self.about['license']).split())[:100]}")
        return "\n".join(lines)


def load_map(path: str | os.PathLike[str]) -> GalleryMap:
    """Reads what ``GalleryMap.save`` wrote.

    The file is safetensors; the texts in its header are JSON. Without jaxalign, this applies it (``side`` is "gallery"
    for rows of the old encoder, "probes" for rows of the new one, which a drop-in map leaves as they are)::

        def apply(path, rows, side="gallery"):
            with safetensors.safe_open(path, "numpy") as file:
                texts, names = file.metadata(), [name for name in file.keys() if name.startswith(side + ".")]
                part = {name.split(".")[1]: file.get_tensor(name).astype(float) for name in names}
            rows = np.asarray(rows, float)
            if json.loads(texts["normalize"]) == "l2":
                rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
            rows = rows - part.get("center", 0)
            for number in range(sum(name.startswith("factor") for name in part)):
                rows = rows @ part[f"factor{number}"]
            return rows + part["bias"]

    Raises:
      UserError: the file is missing, damaged, or holds something else.
    """
    path = pathlib.Path(path)
    tensors, texts = read_map(path, GALLERY)
    try:
        return GalleryMap(**fields_of(tensors, texts))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        reason = str(error) if isinstance(error, UserError) else "parts are missing or unknown"
        raise UserError(f"{path} is no saved gallery map that can be used: {reason}") from error


def _hub() -> Any:
    with extra("hub"):
        from jaxalign.gallery import map_hub
    return map_hub
