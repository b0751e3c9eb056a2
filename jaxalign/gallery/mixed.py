"""Galleries in which rows of the new network stand among the old one's without a note: told apart row by row.

A row is the network's under whose fingerprint it is likelier. How often that is wrong is measured on calibration people
of whom neither fingerprints nor maps know anything: on their old rows, their new rows and their old rows mapped, which
look like the new network's.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from jaxalign.core.errors import UserError
from jaxalign.core.rows import unit_rows
from jaxalign.gallery.choose import CalibrationRows, Mover
from jaxalign.gallery.doctor import LEAST_MIXED, LIMIT, nearest
from jaxalign.gallery.fingerprint import UNIT, Fingerprint

MOST_WRONG = LEAST_MIXED  # share of a kind of rows that may be on the wrong side: its upper bound of 95 %


class Wrong(NamedTuple):
    """How many of so many held-out rows of one kind were taken for the other network's."""

    count: int
    rows: int

    @property
    def high(self) -> float:
        """Upper bound of the share, which is too low in one of 20 cases (Clopper and Pearson)."""
        from scipy.stats import beta

        right = self.rows - self.count
        return float(beta.ppf(0.95, self.count + 1, right)) if right else 1.0


@dataclasses.dataclass(frozen=True, eq=False)
class Sides:
    """Tells rows of the old network, which are mapped, from those of the new one, which are kept."""

    old: Fingerprint
    new: Fingerprint

    def of(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which rows [n, d] are kept, and which of all are clearly of the side they are put on."""
        likely, clear, distances = nearest((self.old, self.new), rows)
        limits = np.array([self.old.limits[LIMIT], self.new.limits[LIMIT]])
        return likely == 1, clear & (distances <= limits[likely])

    def keeping(self, transform: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
        """What maps the old network's rows alone. Rows of the new one stay bit for bit if they are of length 1.

        Others are scaled to it, as mapped rows are, so that inner products remain cosines.
        """

        def moved(rows: np.ndarray) -> np.ndarray:
            found, kept = np.array(transform(rows)), self.of(rows)[0]
            of_length_1 = np.abs(np.linalg.norm(rows.astype(np.float64), axis=1) - 1) <= UNIT
            found[kept] = np.where(of_length_1[kept, None], rows[kept], unit_rows(rows[kept]))
            return found

        return moved

    def wrong(self, calibration: CalibrationRows, movers: Sequence[Mover] = ()) -> dict[str, Wrong]:
        """How many rows of each kind are put on the wrong side.

        Args:
          calibration: in whose folds held-out rows are judged.
          movers: of each fold; without them nothing is said of mapped rows.

        Raises:
          UserError: more than ``MOST_WRONG`` of a kind may be.
        """
        found = {}
        for fold, compared in enumerate(calibration.compared):
            others = np.flatnonzero(calibration.fold != fold)
            people = calibration.identities[others]
            sides = Sides(
                *(
                    Fingerprint.of(
                        rows.select(others), people, encoder=print_.encoder, normalize=print_.normalize
                    )
                    for rows, print_ in ((calibration.old, self.old), (calibration.new, self.new))
                )
            )
            old, new = calibration.old.take(compared), calibration.new.take(compared)
            rows = {"old": old, "new": new}
            rows |= {"mapped": movers[fold].gallery(old)} if movers else {}
            for kind, part in rows.items():
                count, before = np.sum(sides.of(part)[0] == (kind == "old")), found.get(kind, Wrong(0, 0))
                found[kind] = Wrong(before.count + int(count), before.rows + len(part))
        if max(of.high for of in found.values()) > MOST_WRONG:
            raise UserError(
                f"--mixed=continue cannot tell the rows apart. {self.told(found)}; at most {MOST_WRONG:.0%} is "
                f"allowed. Move rows of {self.old.encoder} alone."
            )
        return found

    def told(self, wrong: dict[str, Wrong]) -> str:
        """The figures in words, without a full stop."""
        names = {"old": self.old.encoder, "new": self.new.encoder}
        parts = ", ".join(
            f"{of.count:,} of {of.rows:,} {f'of {names[kind]}' if kind in names else kind} (at most {of.high:.2%})"
            for kind, of in wrong.items()
        )
        return f"Of held-out people's rows, {parts} are taken for the other network's"
