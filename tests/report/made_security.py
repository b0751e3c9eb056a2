"""Made-up rows of every part of ``experiments.security``; their numbers follow from the encoders' places."""

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

from jaxalign.report import Row

NAN = math.nan
OWNED, MILLION = (5, 50, 500), 10**6  # pairs of photographs of the attacker
SECURITY = {
    "key": 0.5,
    "at_fmr": 0.001,
    "omega": 1.0,
    "sizes": list(OWNED),
    "reidentification": {"sizes": [5, 50], "searches": [80, 60]},
}


def _pairs(encoders: Sequence[str]) -> Iterator[tuple[int, int, str, str]]:
    """Ordered pairs with their places."""
    for (i, source), (j, target) in itertools.permutations(enumerate(encoders), 2):
        yield i, j, source, target


def content(encoders: Sequence[str]) -> dict[str, Any]:
    """What security.json says: settings, sizes, and the densities behind linkability."""
    mated, non_mated, local = [0.0, 0.5, 1.0], [1.0, 0.5, 0.0], [0.0, 0.25, 1.0]
    drawn = {"edges": [0.0, 0.25, 0.5, 1.0], "mated": mated, "non_mated": non_mated, "local": local}
    ways = [
        (source, target, method)
        for *_, source, target in _pairs(encoders)
        for method in ("identity", "ridge")
    ]
    names = ("source", "target", "method")
    return {**SECURITY, "densities": [{**dict(zip(names, way)), **drawn} for way in ways]}


def rows(dataset: str, encoders: Sequence[str], seed: int) -> list[Row]:
    """All parts: a leak of the first encoder opens the others, leaks of the others open nothing."""
    made: list[Row] = []

    def add(
        pair: tuple[str, str], method: str, measure: str, value: float, width: float = 0.0, **more: Any
    ) -> None:
        ends: Any = {"low": value - width, "high": value + width} if width else {}
        made.append(Row(dataset, *pair, method, None, seed, "", measure, value, **{**ends, **more}))

    def attacked(pair: tuple[str, str], method: str, rate: float, **more: Any) -> None:
        for kind, share in (("same_image", 1.2), ("other_image", 1.0), ("other_person", 0.01)):
            add(pair, method, f"attack_{kind}@fmr=0.001", share * rate, 0.004, **more)

    for name, score in itertools.product(encoders, ("cosine", "cohort")):
        attacked((name, name), "own", 0.7, score=score)
    for i, j, source, target in _pairs(encoders):
        pair, most = (source, target), 0.8 if i == 0 else 0.4
        attacked(pair, "identity", 0.01, variant="plain", pairs_owned=0)
        for place, size in enumerate(OWNED, start=1):
            for variant, share in (("plain", 0.9), ("restored", 1.0)):
                more: Any = {"variant": variant, "pairs_owned": size}
                attacked(pair, "ridge", share * most * place / 3, **more)
                if size == OWNED[-1]:
                    attacked(pair, "ridge", share * most / 2, **more, score="cohort")
        needed = 40.2 + j if i == 0 else NAN
        more = {"low": 30.5} if i == 0 else {"reason": "no number of pairs is enough"}
        add(pair, "ridge", "pairs_to_key@fmr=0.001", needed, variant="restored", **more)
        for method, linked in (("identity", 0.05), ("ridge", 0.6)):
            for measure in ("d_sys", "maximal_linkability"):
                add(pair, method, measure, linked, 0.02)
                less = {
                    "null": 0.04,
                    "null_spread": 0.01,
                    "less_null": linked - 0.04,
                    "corrected": linked - 0.03,
                }
                for name, value in less.items():
                    add(pair, method, f"{measure}_{name}", value)
        models = (MILLION, "extrapolated_log_linear", 0.2), (MILLION, "extrapolated_pareto", 0.2)
        for size, variant, found in ((5, "", 0.9), (50, "", 0.7), *models):
            here = {"axis": "gallery_size", "at": float(size), "variant": variant}
            add(pair, "ridge", "reidentified_rank1", found, **here)
            add(pair, "ridge", "reidentified@fpir=0.01", found / 2, **here)
    return [*made, *_further_rows(dataset, encoders, seed)]


def _further_rows(dataset: str, encoders: Sequence[str], seed: int) -> list[Row]:
    """Keys, collections without known pairs, attributes."""
    made: list[Row] = []

    def add(pair: tuple[str, str], method: str, measure: str, value: float, **more: Any) -> None:
        made.append(Row(dataset, *pair, method, None, seed, "", measure, value, **more))

    for name in encoders:
        own = (name, name)
        for variant, needed in (("noise=0.0", 23.0), ("noise=other_image", NAN)):
            for attack, more_pairs in (("procrustes", 0), ("least_squares", 9)):
                method = f"orthogonal:{attack}"
                here: Any = {"axis": "known_pairs", "at": 8.0, "pairs_owned": 8, "variant": variant}
                add(own, method, "key_error", 0.3, **here)
                here = {"variant": variant, "reason": "none is enough" if math.isnan(needed) else ""}
                add(own, method, "pairs_to_break_key@fmr=0.001", needed + more_pairs, **here)
                add(own, method, "pairs_to_know_key", 63.0 + (more_pairs > 0), variant=variant)
        for method, value in (("none:cosine", 0.9), ("orthogonal:cosine", 0.02), ("orthogonal:pairs", 0.8)):
            add(own, method, "key_d_sys", value)
    pair = (encoders[0], encoders[1])
    add(pair, "all_pairs", "matched_rank1", 0.9)
    add(pair, "all_pairs", "matched_chance", 0.02)
    for method, seeds in (("same_photographs", 0), ("same_photographs", 20), ("different_people", 10)):
        here = {"axis": "seeds", "at": float(seeds), "pairs_owned": seeds}
        for restart, value in enumerate((0.1, 0.7, 0.8)):
            add(pair, method, "matched_rank1", value, variant=f"restart={restart}", **here)
        add(pair, method, "matched_rank1_chosen", 0.7, low=0.6, high=0.8, **here)
        add(pair, method, "matched_success", 2 / 3, **here)
    for trait, shift in (("age", 0.0), ("beard", 0.1)):
        for where, value in (("source", 0.7), ("target", 0.6), ("across", 0.55), ("chance", 0.4)):
            add(pair, "ridge", f"attribute_{where}:{trait}", value + shift)
    return made
