"""The identity structure of one test set, laid out once for every embedding that is evaluated on it."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import NamedTuple, Self

import numpy as np
from jax.typing import ArrayLike

from jaxalign.biometrics.tiling import Tiling, padded
from jaxalign.core.errors import UserError

KEPT_PAIRS = 1 << 23  # numbers of two people that stay with a plan: 32 MiB
KEPT_MATES = 1 << 20  # mates whose places stay with a plan: 16 MiB, twice where both ways are asked for
KEPT_SCORES = 1 << 25  # up to so many scores (128 MiB in float32) are kept and sorted


class MatesInTurn(NamedTuple):
    """Mates by probe, whichever is the best: what every evaluation of a test set shares.

    Attributes:
      probe: of each mate, ascending, shape [k].
      number: from 1, of each mate among those of its probe, shape [k].
      first: where each probe's mates begin, shape [probes].
      mates: how many it has, shape [probes].
    """

    probe: np.ndarray
    number: np.ndarray
    first: np.ndarray
    mates: np.ndarray

    @classmethod
    def of(cls, probe: np.ndarray) -> Self:
        """Counts, from the ascending probes of mates."""
        first = np.flatnonzero(np.diff(probe, prepend=-1))
        mates = np.diff(first, append=len(probe))
        return cls(probe, np.arange(1, len(probe) + 1) - np.repeat(first, mates), first, mates)


@dataclasses.dataclass(frozen=True, eq=False)
class EvaluationPlan:
    """Who is who in a test set: computed once, used for every pair of encoders and every method.

    Probes are ordered by their number of mates, so that each block of probes costs as many comparisons as
    its mates need. The 'genuine' lists hold one entry for each pair of a probe and a gallery row of the same
    person, the probe's own photograph included.

    Attributes:
      probes, gallery: numbers of rows, n and m.
      probe_codes, gallery_codes: identities as integers, shapes [n] and [m].
      own: each probe's own photograph in the gallery, −1 where it is not there, shape [n].
      order: the probe at each sorted position, shape [n].
      genuine_probe, genuine_gallery, genuine_own: the genuine list, sorted by position.
      kept_scores: up to so many scores are kept in memory and sorted.
    """

    probes: int
    gallery: int
    probe_codes: np.ndarray
    gallery_codes: np.ndarray
    own: np.ndarray
    order: np.ndarray
    genuine_probe: np.ndarray
    genuine_gallery: np.ndarray
    genuine_own: np.ndarray
    kept_scores: int
    _tilings: dict[tuple[int, int], Tiling] = dataclasses.field(default_factory=dict, repr=False)
    _impostor_pairs: list[np.ndarray] = dataclasses.field(default_factory=list, repr=False)
    _in_turn: dict[bool, MatesInTurn] = dataclasses.field(default_factory=dict, repr=False)

    @functools.cached_property
    def position(self) -> np.ndarray:
        """Where each probe stands in the order, shape [n]."""
        position = np.empty(self.probes, np.int64)
        position[self.order] = np.arange(self.probes)
        return position

    @functools.cached_property
    def genuine_position(self) -> np.ndarray:
        """Positions of the genuine list's probes, ascending."""
        return self.position[self.genuine_probe]

    def mates_in_turn(self, own_included: bool) -> MatesInTurn:
        """The genuine list by probe, with each probe's own photograph or without; few are kept."""
        if own_included in self._in_turn:
            return self._in_turn[own_included]
        probe = np.sort(self.genuine_probe if own_included else self.genuine_probe[~self.genuine_own])
        turn = MatesInTurn.of(probe)
        if len(probe) <= KEPT_MATES:
            self._in_turn[own_included] = turn
        return turn

    @functools.cached_property
    def impostor_mask(self) -> np.ndarray:
        """Which comparisons are of two people, shape [n, m], probes in the order."""
        return self.probe_codes[self.order][:, None] != self.gallery_codes

    @property
    def people(self) -> int:
        """How many there are on either side."""
        return int(max(self.probe_codes.max(), self.gallery_codes.max())) + 1

    @property
    def impostor_pairs(self) -> np.ndarray:
        """The two people of each comparison that ``impostor_mask`` picks, see ``pair_numbers``; few are kept."""
        if self._impostor_pairs:
            return self._impostor_pairs[0]
        numbers = self.pair_numbers(self.probe_codes[self.order], self.gallery_codes)[self.impostor_mask]
        if numbers.size <= KEPT_PAIRS:
            self._impostor_pairs.append(numbers)
        return numbers

    def pair_numbers(self, probes: np.ndarray, gallery: np.ndarray) -> np.ndarray:
        """Every two people's number, smaller code times people plus the larger: the same whoever is the probe.

        Args:
          probes, gallery: codes, shapes [n] and [m].

        Returns:
          Shape [n, m], uint32 or uint64.
        """
        one, other = (
            codes.astype(np.min_scalar_type(max(self.people**2, 1 << 16))) for codes in (probes, gallery)
        )
        return np.minimum(one[:, None], other) * one.dtype.type(self.people) + np.maximum(one[:, None], other)

    def kept(self, gallery_rows: int) -> bool:
        """Whether all scores are kept, where so many rows of the gallery may be on a device at once."""
        return gallery_rows >= self.gallery and padded(self.probes) * padded(self.gallery) <= self.kept_scores

    def tiling(self, devices: int, gallery_rows: int) -> Tiling:
        """How the comparisons are cut up where scores are not kept; laid out once."""
        key = devices, min(gallery_rows, self.gallery)
        if key not in self._tilings:
            genuine = self.genuine_position, self.genuine_gallery
            self._tilings[key] = Tiling.of(self.probes, self.gallery, *key, *genuine)
        return self._tilings[key]

    @property
    def genuine(self) -> int:
        """Genuine comparisons, the same photograph with itself not counted."""
        return int(np.sum(~self.genuine_own))

    @property
    def impostor(self) -> int:
        """Impostor comparisons: every pair of a probe and a gallery row of another person."""
        return self.probes * self.gallery - len(self.genuine_own)

    @classmethod
    def of(
        cls,
        probe_identities: Sequence | np.ndarray,
        gallery_identities: Sequence | np.ndarray | None = None,
        *,
        own: ArrayLike | None = None,
        kept_scores: int | None = None,
    ) -> Self:
        """Lays a test set out.

        Args:
          probe_identities: one label for each probe, length n, of any type that can be compared.
          gallery_identities: one for each gallery row, length m; the probes' own where not given.
          own: for each probe the gallery row that is the same photograph, −1 for none; 0 ... n − 1 where
            ``gallery_identities`` is not given, else none.
          kept_scores: up to so many scores are kept in memory and sorted (128 MiB by default).

        Raises:
          UserError: no rows, or ``own`` of a wrong shape, out of range or naming another person's photograph.
        """
        codes_p, codes_g, own_rows = _identities(probe_identities, gallery_identities, own)
        order, probe, mate = _mates(codes_p, codes_g)
        return cls(
            probes=len(codes_p),
            gallery=len(codes_g),
            probe_codes=codes_p,
            gallery_codes=codes_g,
            own=own_rows,
            order=order,
            genuine_probe=probe,
            genuine_gallery=mate,
            genuine_own=own_rows[probe] == mate,
            kept_scores=KEPT_SCORES if kept_scores is None else kept_scores,
        )


def _identities(
    probes: Sequence | np.ndarray, gallery: Sequence | np.ndarray | None, own: ArrayLike | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Integer codes of both sides and the checked own photographs."""
    left = np.asarray(probes)
    right = left if gallery is None else np.asarray(gallery)
    for labels, name in ((left, "probe_identities"), (right, "gallery_identities")):
        if labels.ndim != 1 or len(labels) == 0:
            raise UserError(
                f"{name}: expected one identity for each row, at least one, got shape {labels.shape}"
            )
    if left is right:
        codes = np.unique(left, return_inverse=True)[1].astype(np.int64)
        left_codes = right_codes = codes
    else:
        codes = np.unique(np.concatenate([left, right]), return_inverse=True)[1].astype(np.int64)
        left_codes, right_codes = codes[: len(left)], codes[len(left) :]
    if own is None:
        rows = np.arange(len(left)) if gallery is None else np.full(len(left), -1)
    else:
        rows = np.asarray(own)
        if rows.shape != left.shape or rows.dtype.kind not in "iu":
            raise UserError(
                f"own: expected one gallery row (or −1) for each of {len(left)} probes, "
                f"got {rows.dtype} of shape {rows.shape}"
            )
    rows = rows.astype(np.int64)
    if rows.min() < -1 or rows.max() >= len(right):
        raise UserError(
            f"own: expected gallery rows from −1 to {len(right) - 1}, got {rows.min()} to {rows.max()}"
        )
    wrong = int(np.sum((rows >= 0) & (right_codes[rows] != left_codes)))
    if wrong:
        raise UserError(
            f"own: {wrong} of {len(left)} probes name a gallery row of another person as their own photograph"
        )
    return left_codes, right_codes, rows


def _mates(probe_codes: np.ndarray, gallery_codes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probes by number of mates, and the genuine list: probe and gallery row."""
    people = int(max(probe_codes.max(), gallery_codes.max())) + 1
    by_person = np.argsort(gallery_codes, kind="stable")
    size = np.bincount(gallery_codes, minlength=people)
    start = np.cumsum(size) - size
    mates = size[probe_codes]
    order = np.argsort(mates, kind="stable")
    counts = mates[order]
    probe = np.repeat(order, counts)
    within = np.arange(len(probe)) - np.repeat(np.cumsum(counts) - counts, counts)
    return order, probe, by_person[start[probe_codes[probe]] + within]
