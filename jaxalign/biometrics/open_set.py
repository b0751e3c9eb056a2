"""Open-set identification: probes of people who are enrolled in a gallery, and of people who are not.

ISO/IEC 19795-1 words: FPIR(N, T) is the share of non-mated probes for which the gallery of N people returns any
candidate at the threshold T; FNIR(N, R, T) the share of mated probes whose mate is not among the first R candidates or
below T; SEL(N, T), the selectivity, the mean number of candidates of a non-mated probe.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from jaxalign.biometrics import inputs
from jaxalign.biometrics.bootstrap import Sampled
from jaxalign.biometrics.candidates import Search
from jaxalign.biometrics.comparators import Comparator
from jaxalign.biometrics.evaluate import Labels, MeasuredValue, Rows
from jaxalign.biometrics.plan import EvaluationPlan
from jaxalign.biometrics.thresholds import SortedScores, check_rates, error_rates
from jaxalign.core import checks
from jaxalign.core.errors import UserError
from jaxalign.core.names import labels

FPIRS = (0.01, 0.1)
CANDIDATES = 20
LEAST_FALSE_POSITIVES = 5.0  # half of verification's: probes are far fewer than comparisons
NAMES = "fpir", "least_false_positives"
AT_ONCE = 100  # resamples


class Draw(NamedTuple):
    """Rows of a test set that are enrolled, one for each person, and rows that search them; ascending."""

    gallery: np.ndarray
    probes: np.ndarray


def draw(identities: Labels, number: int = 0, seed: int = 0, images: Labels | None = None) -> Draw:
    """Enrols half of the people who have two images or more; everything else searches the gallery.

    Draw 0 is fixed: of these people, sorted by name, those at even places are enrolled with their first image. Each
    further draw enrols as many people at random, each with a random image. The other images of enrolled people are
    mated probes, all images of all other people are non-mated ones.

    Args:
      identities: one for each row of the test set, shape [n].
      number: of the draw, from 0.
      seed: of all draws.
      images: for each row a number or text, equal for copies of one image: copies of an enrolled image do not search.

    Raises:
      UserError: fewer than two people are to be enrolled, or none of them has another image.
    """
    names, person, size = np.unique(
        labels("identities", identities)[0], return_inverse=True, return_counts=True
    )
    first = np.unique(person, return_index=True)[1]
    several = np.flatnonzero(size > 1)
    enrolled = several[::2]
    if len(enrolled) < 2:
        raise UserError(
            f"open set: {len(several):,} of {len(names):,} people have two images or more; at least 3 are needed, "
            "half of whom are enrolled"
        )
    gallery = first[enrolled]
    if number:
        random = np.random.default_rng([seed, number])
        enrolled = random.choice(several, len(enrolled), replace=False)
        gallery = np.array([random.choice(np.flatnonzero(person == one)) for one in enrolled])
    image = np.unique(np.arange(len(person)) if images is None else images, return_inverse=True)[1]
    own = np.full(len(names), -1)
    own[enrolled] = image[gallery]
    probes = np.flatnonzero(own[person] != image)
    if not np.isin(person[probes], enrolled).any():
        raise UserError("open set: enrolled people have no images but copies of the enrolled one")
    return Draw(np.sort(gallery), probes)


class OpenSetPoint(NamedTuple):
    """What happens at the smallest threshold whose achieved FPIR does not exceed ``fpir``.

    Attributes:
      fpir: the rate asked for.
      threshold: the threshold; −∞ where everything may be accepted.
      achieved: the false positive identification rate there.
      fnir: the false negative identification rate there, of the best candidate alone, R = 1.
      fnir_candidates: the same of all candidates asked for, R = 20 by default.
      sel: the selectivity there.
      false_positives: non-mated probes with a candidate there.
      supported: whether ``fpir`` times the number of non-mated probes is enough expected false positives; all numbers
        are NaN where it is not.
    """

    fpir: float
    threshold: float
    achieved: float
    fnir: float
    fnir_candidates: float
    sel: float
    false_positives: int
    supported: bool


@dataclasses.dataclass(frozen=True, eq=False)
class OpenSet:
    """Open-set identification of one set of probes in one gallery.

    Attributes:
      points: one for each FPIR asked for.
      mated, non_mated: which probes have a mate in the gallery, and which have none, shapes [mated], [non-mated].
      mate: the best score of each mated probe with its mates, shape [mated].
      others: the highest scores of each mated probe with other people, falling, shape [mated, R].
      strangers: the highest scores of each non-mated probe, falling, shape [non-mated, R].
      above: candidates of each non-mated probe at the threshold of each point, shape [non-mated, points].
      plan: who is who.
    """

    points: tuple[OpenSetPoint, ...]
    mated: np.ndarray
    non_mated: np.ndarray
    mate: np.ndarray
    others: np.ndarray
    strangers: np.ndarray
    above: np.ndarray
    plan: EvaluationPlan

    @property
    def candidates(self) -> int:
        """R, the length of a list of candidates."""
        return self.others.shape[1]

    def __getitem__(self, fpir: float) -> OpenSetPoint:
        """The point of an FPIR that was asked for."""
        return {point.fpir: point for point in self.points}[fpir]

    def fnir(self, threshold: float = -np.inf, candidates: int = 1) -> float:
        """FNIR(N, R, T); without a threshold that of an investigation, in which a person looks at R candidates."""
        return float(np.mean(_missed(self.mate, self.others, threshold, candidates)))

    def measures(self) -> Iterator[MeasuredValue]:
        """Every measure as a row: fnir@fpir=0.01, fnir20@fpir=0.01, sel@fpir=0.01 and so on.

        ``achieved`` is the achieved FPIR, ``comparisons`` the number of non-mated probes it is a share of.
        """
        for point in self.points:
            for name, value in (
                ("fnir", point.fnir),
                (f"fnir{self.candidates}", point.fnir_candidates),
                ("sel", point.sel),
            ):
                where = point.threshold, point.achieved, len(self.non_mated)
                yield MeasuredValue("", f"{name}@fpir={point.fpir:g}", value, *where)

    def resampled(self, weights: np.ndarray) -> dict[str, Sampled]:
        """FNIR under resampled people, by the names of ``measures``: each resample has thresholds of its own.

        Probes weigh as often as their people are drawn; the gallery stays.

        Args:
          weights: how often each person of ``plan`` is drawn, shape [resamples, people].
        """
        falling = np.argsort(-self.strangers[:, 0], kind="stable")
        # Below the last score of a stranger everything may be accepted.
        thresholds = np.append(np.nextafter(self.strangers[falling, 0], np.inf), -np.inf)
        of_probe = self.plan.probe_codes[self.non_mated[falling]], self.plan.probe_codes[self.mated]
        supported = [point for point in self.points if point.supported]
        lists = 1, self.candidates
        found = np.full((len(weights), len(supported), len(lists)), np.nan)
        for start in range(0, len(weights), AT_ONCE):
            part = slice(start, start + AT_ONCE)
            accepted, mated = np.cumsum(weights[part][:, of_probe[0]], axis=1), weights[part][:, of_probe[1]]
            for k, point in enumerate(supported):
                threshold = thresholds[np.sum(accepted <= point.fpir * accepted[:, -1:], axis=1)]
                for j, size in enumerate(lists):
                    missed = _missed(self.mate, self.others, threshold[:, None], size)
                    with np.errstate(invalid="ignore"):
                        found[part, k, j] = np.sum(missed * mated, axis=1) / np.sum(mated, axis=1)
            found[part][accepted[:, -1] == 0] = np.nan
        samples = {}
        for k, point in enumerate(supported):
            estimates = {"fnir": point.fnir, f"fnir{self.candidates}": point.fnir_candidates}
            for j, (name, estimate) in enumerate(estimates.items()):
                samples[f"{name}@fpir={point.fpir:g}"] = Sampled(estimate, found[:, k, j])
        return samples


def open_set(
    probes: Rows,
    gallery: Rows,
    probe_identities: Labels | EvaluationPlan,
    gallery_identities: Labels | None = None,
    *,
    score: Comparator | None = None,
    fpir: Sequence[float] = FPIRS,
    candidates: int = CANDIDATES,
    least_false_positives: float = LEAST_FALSE_POSITIVES,
    zero_rows: str = "refuse",
) -> OpenSet:
    """Searches a gallery for every probe, of people who are enrolled in it and of people who are not.

    Scores are those of ``evaluate``. Rates and thresholds are exact; a tie counts against recognition. No matrix of all
    scores is formed: of each probe its best mate and its highest other scores are kept, and of memory-mapped arrays and
    ``LazyRows`` some thousand gallery rows are read at a time, so that a gallery may be larger than memory.

    Args:
      probes, gallery: embeddings in one space, shapes [n, d] and [m, d].
      probe_identities, gallery_identities: one for each row; or an ``EvaluationPlan`` of both sides. A probe is
        mated if its person is enrolled. Several images of a person may be enrolled, or their template (``pooled``).
      score: a score other than the cosine, whose cohort must hold nobody of the probes and the gallery.
      fpir: false positive identification rates of the operating points.
      candidates: R, the length of a list of candidates.
      least_false_positives: an operating point with fewer expected false positives is unsupported.
      zero_rows: "refuse" rows of zeros, or "keep" them with cosine 0 to everything.

    Raises:
      UserError: rows, identities or rates that cannot be evaluated, a gallery of one person, or no mated or no
        non-mated probes.

    Equivalent: sort each row of ``normalize(probes) @ normalize(gallery).T``. Reference: ISO/IEC 19795-1:2021.
    """
    rates = check_rates(fpir, least_false_positives, NAMES)
    checks.positive(candidates, "candidates")
    plan = probe_identities
    if not isinstance(plan, EvaluationPlan):
        if gallery_identities is None:
            raise UserError(
                "gallery_identities: expected one for each gallery row; probes are not in the gallery"
            )
        plan = EvaluationPlan.of(plan, gallery_identities)
    if score is not None:
        score.cohort.require_others(plan)
    has_mate = np.isin(plan.probe_codes, plan.gallery_codes)
    if len(np.unique(plan.gallery_codes)) < 2:
        raise UserError("gallery: expected at least two people, got one")
    for kind, number in (("enrolled", has_mate.sum()), ("not enrolled", (~has_mate).sum())):
        if not number:
            raise UserError(
                f"probes: none of {plan.probes:,} is of a person who is {kind}; some of either kind are needed"
            )
    with inputs.orderable(probes, gallery) as (probes, gallery):
        rows = inputs.checked(probes, "probes", plan.probes), inputs.checked(gallery, "gallery", plan.gallery)
        inputs.same_width(*rows)
        sides = inputs.sides(*rows, zero_rows)
        left, right = sides if score is None else map(score.prepare, sides)
        search = Search(left, right, plan, candidates)
        mate, others = search.best()
        mated, non_mated = np.flatnonzero(has_mate), np.flatnonzero(~has_mate)
        strangers = others[non_mated]
        axis = SortedScores(*(np.sort(part) for part in (mate[mated], strangers[:, 0])))
        found = error_rates(axis, rates, least_false_positives).points
        thresholds = np.array([point.threshold for point in found], strangers.dtype)
        above = search.above(thresholds, others)[non_mated]
    points = []
    for k, point in enumerate(found):
        missed = [
            _missed(mate[mated], others[mated], point.threshold, size).mean() for size in (1, candidates)
        ]
        numbers = [point.threshold, point.achieved, *missed, above[:, k].mean()]
        numbers = [float(number) if point.supported else np.nan for number in numbers]
        points.append(OpenSetPoint._make((point.fmr, *numbers, point.false_matches, point.supported)))
    return OpenSet(tuple(points), mated, non_mated, mate[mated], others[mated], strangers, above, plan)


def _missed(
    mate: np.ndarray, others: np.ndarray, threshold: np.ndarray | float, candidates: int
) -> np.ndarray:
    """Whether a mate is below the threshold or not among so many candidates: others of equal score come first."""
    return (mate < threshold) | (others[:, candidates - 1] >= mate)
