"""The parts of ``experiments.security``: what each attack reaches on one split, as rows of results."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from experiments.run import flags
from experiments.run.aligning import Aligning
from experiments.run.analysis import Job
from experiments.run.measuring import Measuring, Pair
from jaxalign import Fit, PairwiseMaps, fit_pairs
from jaxalign.align.methods import SOLVERS
from jaxalign.biometrics import Cohort, EvaluationPlan, Sampled
from jaxalign.biometrics.comparators import TOP
from jaxalign.core.people import TrainingGrowth
from jaxalign.core.rows import unit_rows
from jaxalign.moments.moments import FoldMoments, nested_moments
from jaxalign.report import Row
from jaxalign.security.injection import (
    OTHER_IMAGE,
    Attack,
    System,
    pairs_needed,
    require_others,
    score_matrix,
)
from jaxalign.security.linkability import Linkability, People, linkability
from jaxalign.security.reidentification import extrapolated, reidentify, search_sets

UNALIGNED = "identity"
PLAIN, RESTORED = VARIANTS = ("plain", "restored")
SCORES = ("cosine", "cohort")
SMALLEST, SIZES = 5, 8
FPIRS = (0.01, 0.1)
MILLION = 1_000_000
NEVER = "no number of pairs that the attacker owns is enough"


@dataclasses.dataclass
class Attacks:
    """One split: an attacker who owns the training photographs under both networks; victims are the test people.

    Attributes:
      train, test: rows of each network as the systems hold them, float64, shapes [n, d] and [m, d]; training rows in
        the order in which the attacker comes to own them.
      owners: of the training rows, shape [n].
      plan: of the victims.
      content: what security.json is to say; of the first split.
    """

    job: Job
    run: Aligning
    measuring: Measuring
    train: Mapping[str, np.ndarray]
    test: Mapping[str, np.ndarray]
    owners: np.ndarray
    plan: EvaluationPlan
    content: dict[str, Any]

    @classmethod
    def of(cls, job: Job, run: Aligning, measuring: Measuring, content: dict[str, Any]) -> "Attacks":
        """Reads the rows of a split."""
        data, split = run.data, measuring.split
        order = TrainingGrowth.by_rows(split).rows
        require_others(data.identities[order], measuring.identities)

        def rows(numbers: np.ndarray) -> dict[str, np.ndarray]:
            wide = (np.asarray(data.store[name][data.rows[numbers]], np.float64) for name in run.encoders)
            return dict(zip(run.encoders, map(unit_rows, wide) if data.normalize == "l2" else wide))

        assert measuring.plan is not None
        return cls(
            job,
            run,
            measuring,
            rows(order),
            rows(split.test),
            data.identities[order],
            measuring.plan,
            content,
        )

    @property
    def scores(self) -> tuple[str, ...]:
        """What the systems compare by: the cosine alone where the training people are too few for a cohort."""
        return SCORES if len(np.unique(self.owners)) >= TOP else SCORES[:1]

    @property
    def methods(self) -> tuple[str, ...]:
        """Maps that the attacker tries, without the baseline."""
        return tuple(name for name in self.run.protocol.methods if name != UNALIGNED)

    @property
    def weights(self) -> np.ndarray:
        """How often each victim is drawn in each resample."""
        drawn = self.measuring.resampling
        return np.zeros((0, self.plan.people)) if drawn is None else drawn.weights

    @property
    def sizes(self) -> list[int]:
        """Numbers of pairs of photographs that the attacker owns, ascending."""
        return owned(self.job.values.pairs_owned, self.measuring)

    def fit(self, moments: FoldMoments, method: str) -> PairwiseMaps:
        """The maps of a method by as many of the attacker's photographs as the moments are of."""
        options = self.run.config.fit_options(method, max(self.run.dims.values()))
        if SOLVERS[method].needs_rows:
            count = int(moments.total.count)
            given = {name: rows[:count] for name, rows in self.train.items()}
            options |= {"moments": moments, "identities": self.owners[:count]}
            return fit_pairs(given, method, pairs=self.run.pairs, **options)
        return fit_pairs(moments, method, pairs=self.run.pairs, **options)

    @functools.cached_property
    def maps(self) -> dict[str, PairwiseMaps]:
        """Maps by all that the attacker owns, and the baseline."""
        moments = FoldMoments.of(self.train)
        return {method: self.fit(moments, method) for method in (UNALIGNED, *self.methods)}

    def cohort(self, source: np.ndarray, target: np.ndarray, score: str) -> Cohort | None:
        """People of the training side, whom a score other than the cosine needs."""
        return None if score == "cosine" else Cohort.of(source, target, self.owners)

    def row(self, pair: Pair, method: str, measure: str, value: Sampled | float, **more: Any) -> Row:
        """One result; an interval where the value is resampled."""
        here = (self.run.data.store.dataset, *pair, method, None, self.measuring.seed, "", measure)
        if isinstance(value, Sampled):
            if len(value.samples) and not np.isnan(value.estimate):
                more |= dict(zip(("low", "high"), value.interval()))
            value = value.estimate
        return Row(*here, value, **more)

    def step(self, what: str, pair: Pair) -> None:
        """Shows how far the run is."""
        self.job.progress.step(f"{what}, {' → '.join(pair)}")


def owned(given: str | None, measuring: Measuring) -> list[int]:
    """The sizes that a flag asks for, or from 5 to all on a logarithmic scale; ``UserError`` for more than all."""
    growth = TrainingGrowth.by_rows(measuring.split)
    most = len(growth.ends)
    if given is None:
        return sorted({*np.round(np.geomspace(min(SMALLEST, most), most, SIZES)).astype(int).tolist(), most})
    return growth.sizes(sorted(flags.whole_numbers("pairs_owned", given, 1, 2**31 - 1)))


def injection(at: Attacks) -> Iterator[Row]:
    """Mapped templates of A, presented to a system that runs B, against the number of pairs that the attacker owns."""
    systems = {
        (name, score): System.of(
            at.test[name],
            at.plan,
            at.run.config.fmr,
            score=score,
            cohort=at.cohort(at.train[name], at.train[name], score),
            weights=at.weights,
        )
        for name in dict.fromkeys(target for _, target in at.run.pairs)
        for score in at.scores
    }
    for (name, score), system in systems.items():
        yield from _rows(at, (name, name), "own", system.native(), score=score)

    def attacks(
        pair: Pair, method: str, fit: Fit, size: int, scores: Sequence[str]
    ) -> Iterator[tuple[str, Attack]]:
        for variant in VARIANTS if method != UNALIGNED else VARIANTS[:1]:
            templates = _mapped(fit.to_target(variant == RESTORED), at.test[pair[0]])
            for score in scores:
                found = systems[pair[1], score].attacked_by(templates)
                marks = {"variant": variant, "pairs_owned": size, "score": score}
                rows.extend(_rows(at, pair, method, found, **marks))
                yield from ((variant, attack) for attack in found if score == SCORES[0])

    rows: list[Row] = []
    curves: dict[tuple[Pair, str, str], list[Sampled]] = {}
    for pair in at.run.pairs:
        list(attacks(pair, UNALIGNED, at.maps[UNALIGNED][pair], 0, at.scores))
    sizes = at.sizes
    for size, moments in zip(sizes, nested_moments(at.train, sizes)):
        for method in at.methods:
            for pair, fit in at.fit(moments, method).items():
                for variant, attack in attacks(
                    pair, method, fit, size, at.scores[: None if size == sizes[-1] else 1]
                ):
                    if attack.fmr == at.job.values.at_fmr:
                        curves.setdefault((pair, method, variant), []).append(attack.rates[OTHER_IMAGE])
                at.step(f"{method} by {size:,} pairs", pair)
    yield from rows
    yield from (verdict(at, pair, sizes, curves) for pair in at.run.pairs)


def _mapped(map_: Any, rows: np.ndarray) -> np.ndarray:
    return jax.tree.map(np.asarray, map_).apply_on_host(rows)


def _rows(
    at: Attacks, pair: Pair, method: str, attacks: Sequence[Attack], score: str, **more: Any
) -> Iterator[Row]:
    for attack in attacks:
        for kind, rate in attack.rates.items():
            numbers = {"threshold": attack.threshold, "comparisons": attack.comparisons[kind], "score": score}
            yield at.row(pair, method, f"attack_{kind}@fmr={attack.fmr:g}", rate, **numbers, **more)


def verdict(
    at: Attacks, pair: Pair, sizes: Sequence[int], curves: Mapping[tuple[Pair, str, str], Sequence[Sampled]]
) -> Row:
    """How many pairs make a leak of A a key to B, by the map that needs fewest; chosen anew in each resample."""
    goal, needed = at.job.values.key, {}
    for (of, method, variant), curve in curves.items():
        if of == pair:
            samples = np.stack([np.append(value.estimate, value.samples) for value in curve], axis=1)
            needed[method, variant] = pairs_needed(sizes, samples, goal)
    # Where several need as many, or none is enough, the one that succeeds most often in the end.
    method, variant = min(needed, key=lambda way: (needed[way][0], -curves[pair, *way][-1].estimate))
    found = np.min(list(needed.values()), axis=0)
    measure = f"pairs_to_key@fmr={at.job.values.at_fmr:g}"
    # An infinite end of the interval is left empty: it is beyond what the attacker owns.
    ends = np.quantile(found[1:], (0.025, 0.975), method="nearest") if len(found) > 1 else (np.inf, np.inf)
    low, high = (float(end) if np.isfinite(end) else None for end in ends)
    never = not np.isfinite(found[0])
    more = {"low": low, "high": high, "reason": NEVER if never else "", "variant": variant}
    return at.row(pair, method, measure, np.nan if never else float(found[0]), **more)


def reidentification(at: Attacks) -> Iterator[Row]:
    """A nameless leak of A, mapped and searched with photographs of people under B, against the size of the leak."""
    codes, images = at.plan.probe_codes, at.measuring.images
    sets = search_sets(codes, images, at.measuring.seed)
    least = min(SMALLEST, len(sets.gallery))
    sizes = sorted({*np.round(np.geomspace(least, len(sets.gallery), SIZES)).astype(int).tolist()})
    own = np.searchsorted(codes[sets.gallery], codes[sets.mated], sorter=np.argsort(codes[sets.gallery]))
    own = np.argsort(codes[sets.gallery])[own]
    at.content["reidentification"] = {"sizes": sizes, "searches": [len(sets.mated), len(sets.non_mated)]}
    for method, maps in at.maps.items():
        for pair, fit in maps.items():
            leaked, public = (
                _mapped(side, at.test[name]) for side, name in zip((fit.source, fit.target), pair)
            )
            known = [_mapped(side, at.train[name]) for side, name in zip((fit.source, fit.target), pair)]
            for score in at.scores if method != UNALIGNED else SCORES[:1]:
                # To a comparator the leaked rows are the probes, being the source's; searches are its columns.
                cohort = at.cohort(known[0], known[1], score)
                scores = score_matrix(leaked[sets.gallery], public, score, cohort).T
                people = codes[sets.mated], codes[sets.non_mated]
                found = reidentify(
                    *(scores[sets.mated], scores[sets.non_mated], own, sizes, FPIRS),
                    people=people,
                    weights=at.weights,
                )
                marks = {"axis": "gallery_size", "score": score}
                for number, size in enumerate(found.sizes):
                    rates = {"reidentified_rank1": found.rank1[number]}
                    rates |= {
                        f"reidentified@fpir={rate:g}": hits[number] for rate, hits in found.hits.items()
                    }
                    for measure, rate in rates.items():
                        why = "too few searches for strangers" if np.isnan(rate.estimate) else ""
                        yield at.row(pair, method, measure, rate, at=float(size), reason=why, **marks)
                for model in extrapolated(found, MILLION):
                    marks["variant"] = f"extrapolated_{model.model}"
                    rates = {"reidentified_rank1": model.rank1}
                    rates |= {f"reidentified@fpir={rate:g}": hit for rate, hit in model.hits.items()}
                    for measure, rate in rates.items():
                        why = "too few searches for strangers, or scores for a tail" if np.isnan(rate) else ""
                        yield at.row(pair, method, measure, rate, at=float(MILLION), reason=why, **marks)
            at.step(f"re-identification by {method}", pair)


def linked(at: Attacks) -> Iterator[Row]:
    """Linkability of the databases of two networks, before and after mapping."""
    codes = at.plan.probe_codes
    same = codes[:, None] == codes
    others, mates = ~same, same.copy()
    mates[at.plan.genuine_probe, at.plan.genuine_gallery] = ~at.plan.genuine_own
    probe = np.broadcast_to(codes[:, None], same.shape)
    people = People(probe[mates], probe[others], at.weights) if len(at.weights) else None
    how = {"omega": at.job.values.omega, "people": people, "seed": at.measuring.seed}
    densities = at.content.setdefault("densities", [])
    for method, maps in at.maps.items():
        for pair, fit in maps.items():
            scores = score_matrix(
                _mapped(fit.source, at.test[pair[0]]), _mapped(fit.target, at.test[pair[1]])
            )
            found = linkability(scores[mates], scores[others], **how)
            yield from _linkability_rows(at, pair, method, found)
            parts = ("edges", "mated", "non_mated", "local")
            drawn = {name: getattr(found, name).round(6).tolist() for name in parts}
            densities.append({"source": pair[0], "target": pair[1], "method": method, **drawn})
            at.step(f"linkability by {method}", pair)


def _linkability_rows(at: Attacks, pair: Pair, method: str, found: Linkability) -> Iterator[Row]:
    for name, of in (("d_sys", found.d_sys), ("maximal_linkability", found.maximal)):
        interval = dict(zip(("low", "high"), of.interval())) if np.isfinite(of.spread) else {}
        yield at.row(pair, method, name, of.value, **interval)
        for more in ("null", "null_spread", "less_null", "corrected"):
            yield at.row(pair, method, f"{name}_{more}", getattr(of, more))


# By the name in --parts, in the order in which they run: from a split to rows of results.
PARTS: dict[str, Callable[[Attacks], Iterator[Row]]] = {
    "injection": injection,
    "reidentification": reidentification,
    "linkability": linked,
}
