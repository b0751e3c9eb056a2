"""Verification and identification of two sets of embeddings."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jax.typing import ArrayLike

from jaxalign.biometrics import inputs
from jaxalign.biometrics.comparators import Comparator
from jaxalign.biometrics.identification import Identification, identification, identification_without_own
from jaxalign.biometrics.pair_lists import PairList
from jaxalign.biometrics.pairs import PairVerification, checked_pairs, rates_of_pairs
from jaxalign.biometrics.plan import SEGMENT_ROWS, STRIP_ROWS, EvaluationPlan
from jaxalign.biometrics.resampled_rates import ResampledRates, resampled_rates
from jaxalign.biometrics.scores import AT_ONCE, MEASURES, Scorer, scores_of_pairs
from jaxalign.biometrics.templates import SearchedGallery, cosines_of_pairs
from jaxalign.biometrics.thresholds import check_rates
from jaxalign.biometrics.verification import LEAST_FALSE_MATCHES, RATES, Verification
from jaxalign.core import checks
from jaxalign.core.devices import padded_width
from jaxalign.core.errors import UnknownNameError, UserError
from jaxalign.core.rows import LazyRows, explained_memory_error, rows_that_fit

Labels = Sequence | np.ndarray
Rows = ArrayLike | LazyRows
RANKS = (1, 5, 10, 20)
OWN_PHOTOGRAPH = ("included", "excluded")
GALLERY_BYTES = 1 << 29  # of gallery rows at once on a device that does not say how much memory it has


class MeasuredValue(NamedTuple):
    """One number of an evaluation, as it stands in a table of results.

    ``own_photograph`` is 'included', 'excluded' or 'absent' for identification (see ``Evaluation``) and empty for
    verification; ``threshold`` and ``achieved`` are None where they do not apply. An operating point without support
    has the value NaN.
    """

    own_photograph: str
    measure: str
    value: float
    threshold: float | None
    achieved: float | None
    comparisons: int | None


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class Evaluation:
    """What crosses from one set of embeddings to another.

    Measures are read by name, ``result["tmr@fmr=0.001"]``; those of identification with the same image excluded, or
    as ``result["rank1", "included"]``.

    Attributes:
      identification: by whether the same image counts as a mate, "included" (only where a probe's own image is among
        its mates) and "excluded", without those that were not asked for; or "absent" alone, where the gallery has the
        image of no probe, so that there is nothing to exclude.
      verification: over all comparisons; None where not asked for.
      pairs: over a list of pairs; None where none was given.
      plan: who is who.
      genuine_scores: scores of the plan's genuine list, the same image included.
      resampled: verification rates of resampled people; None where not asked for.
    """

    identification: dict[str, Identification]
    verification: Verification | None
    pairs: PairVerification | None
    plan: EvaluationPlan = dataclasses.field(repr=False)
    genuine_scores: np.ndarray = dataclasses.field(repr=False)
    resampled: ResampledRates | None = dataclasses.field(repr=False, default=None)

    def __getitem__(self, name: str | tuple[str, str]) -> float:
        """The value of a measure, by its name or by its name and how the same image counts; see ``measures``."""
        measure, own = (name, None) if isinstance(name, str) else name
        found = {row.own_photograph: row.value for row in self.measures() if row.measure == measure}
        if not found or (own is not None and own not in found):
            there = ", ".join(dict.fromkeys(row.measure for row in self.measures()))
            raise UnknownNameError(f"there is no measure {name!r}; there are {there}")
        return found[own] if own is not None else next(reversed(found.values()))

    def records(self) -> list[dict[str, Any]]:
        """Every measure as a dictionary with the fields of ``MeasuredValue``."""
        return [row._asdict() for row in self.measures()]

    def to_frame(self) -> Any:
        """Every measure as a row of a ``pandas.DataFrame``; raises ``UserError`` where pandas is not installed."""
        try:
            import pandas
        except ImportError as error:
            raise UserError("to_frame needs pandas: pip install pandas, or use records()") from error
        return pandas.DataFrame(self.records())

    def __repr__(self) -> str:
        """The measures, one line for identification each way and one for verification."""
        lines: dict[str, list[str]] = {}
        for row in self.measures():
            what = f"same image {row.own_photograph}" if row.own_photograph else "verification"
            lines.setdefault(what, []).append(f"{row.measure} {row.value:.4f}")
        sizes = f"Evaluation: {self.plan.probes:,} probes, {self.plan.gallery:,} gallery rows"
        return "\n".join([sizes, *(f"  {what}: {', '.join(values)}" for what, values in lines.items())])

    def _repr_html_(self) -> str:
        rows = [(row.measure, row.own_photograph, f"{row.value:.4f}") for row in self.measures()]
        cells = ("".join(f"<td>{cell}</td>" for cell in row) for row in rows)
        return f"<table>{''.join(f'<tr>{row}</tr>' for row in cells)}</table>"

    def measures(self) -> Iterator[MeasuredValue]:
        """Every measure as a row: rank1, map, map50, auc, eer, tmr@fmr=0.001 and so on.

        ``comparisons`` is the number of probes for identification, of genuine and impostor comparisons together
        for AUC and EER, and of impostor comparisons for an operating point. Where a list of pairs was given instead
        of verification over all comparisons, these are the list's.
        """
        for own, result in self.identification.items():
            named = {f"rank{k}": share for k, share in result.rank_k.items()}
            for name, value in {**named, "map": result.map, "map50": result.map50}.items():
                yield MeasuredValue(own, name, value, None, None, result.probes)
        verified = self.verification or self.pairs
        if verified is None:
            return
        of_all = {"auc": verified.auc, "eer": verified.eer}
        accuracy = {}
        if isinstance(verified, PairVerification) and len(verified.fold_accuracy):
            accuracy = {"accuracy": verified.accuracy, "accuracy_error": verified.accuracy_error}
        both = verified.genuine + verified.impostor
        for name, value in of_all.items():
            yield MeasuredValue("", name, value, None, None, both)
        for point in verified.rates.points:
            name = f"tmr@fmr={point.fmr:g}"
            yield MeasuredValue("", name, point.tmr, point.threshold, point.achieved, verified.impostor)
        for name, value in accuracy.items():
            yield MeasuredValue("", name, value, None, None, both)


def evaluate(
    probes: Rows,
    gallery: Rows,
    probe_identities: Labels | EvaluationPlan,
    gallery_identities: Labels | None = None,
    *,
    score: Comparator | None = None,
    own: ArrayLike | None = None,
    images: Labels | None = None,
    fmr: Sequence[float] = RATES,
    ranks: Sequence[int] = RANKS,
    cmc: int = 50,
    measures: Sequence[str] = MEASURES,
    own_photograph: Sequence[str] = OWN_PHOTOGRAPH,
    templates: str = "all",
    pairs: PairList | None = None,
    people_weights: np.ndarray | None = None,
    least_false_matches: float = LEAST_FALSE_MATCHES,
    zero_rows: str = "refuse",
    devices: Sequence[Any] | None = None,
    gallery_rows: int | None = None,
) -> Evaluation:
    """Compares every probe with every gallery row and measures recognition.

    The score is the cosine s_ij = ⟨p_i, g_j⟩ / (‖p_i‖ ‖g_j‖), or one that a cohort corrects, in float32 (float64 where
    both inputs are float64 and the caller has enabled it, or where the rows are so nearly parallel that float32 could
    not order their cosines; a ``UserNote`` warns on a TPU, which has no float64). Ranks, thresholds, achieved rates and
    operating points are exact counts on these scores; a tie counts against recognition. Small sets are sorted. For
    large sets no matrix of all scores is formed: scores are computed twice, and of memory-mapped arrays and
    ``LazyRows`` a few thousand probes and ``gallery_rows`` are read at a time.

    Args:
      probes, gallery: embeddings in one space, shapes [n, d] and [m, d], in memory, memory-mapped or ``LazyRows``.
      probe_identities: one label for each probe, text or numbers (a ``UserNote`` warns where names that differ in
        blanks around them, invisible characters or Unicode's form count as one); or an ``EvaluationPlan`` made once
        for many evaluations of the same test set (``gallery_identities``, ``own`` and ``images`` are then part of
        it).
      gallery_identities: one for each gallery row; the probes' own where not given.
      score: a score other than the cosine (``comparator("cohort", Cohort.of(...))``); its cohort must hold nobody of
        the probes and the gallery.
      own: for each probe the gallery row that is the same image, −1 for none. Verification never compares an image with
        itself; identification is measured with it in the gallery and without. 0 ... n − 1 where
        ``gallery_identities`` is not given, else none.
      images: where probes and gallery are the same images in the same order: a number or text for each of them, equal
        for copies of one image. Copies of a probe's image that have its identity then count as the same image too.
      fmr: false match rates of the operating points.
      ranks, cmc: the ranks k, and the length of the CMC.
      measures: "identification", "verification" or both.
      own_photograph: identification with the same image "included", "excluded" or both; either gives "absent" where
        the gallery has the image of no probe.
      templates: the gallery: "all" rows, the "first" row of each person, or one "pooled" template for each person.
        ``own`` numbers the rows of ``gallery``, as always. Where the same image is excluded, a probe whose image is in
        a pooled template is compared with the template of the person's other images.
      pairs: a list of pairs of images to verify besides; see ``verify_pairs``.
      people_weights: how often each person is drawn in each resample of a bootstrap (``Resampling.weights``), shape
        [resamples, people]: verification rates are found for all resamples too.
      least_false_matches: an operating point with fewer expected false matches is unsupported.
      zero_rows: "refuse" rows of zeros, or "keep" them with cosine 0 to everything.
      devices: of this process, that share the probes of large sets; one where not given. Counts are the same.
      gallery_rows: most rows of the gallery on a device at once; by default what its memory allows, 512 MiB on a CPU.

    Raises:
      UserError: shapes, identities, rates or rows that cannot be evaluated, people of the cohort among those compared,
        or too little memory on the device.

    Equivalent: sort each row of ``normalize(probes) @ normalize(gallery).T``; scikit-learn's ``roc_curve``,
    ``roc_auc_score``, ``average_precision_score``. Reference: ISO/IEC 19795-1:2021; Grother et al., NIST FRTE.
    """
    _check_options(measures, own_photograph, ranks, cmc, zero_rows)
    if score is not None:
        tested = (probe_identities, gallery_identities)
        score.cohort.require_others(*(side for side in tested if side is not None))
    rates, most = check_rates(fmr, least_false_matches), checks.positive(gallery_rows, "gallery_rows")
    with inputs.orderable(probes, gallery) as (probes, gallery):
        searched = SearchedGallery.of(gallery, probe_identities, gallery_identities, own, templates, images)
        left = inputs.checked(probes, "probes", searched.plan.probes)
        inputs.same_width(left, searched.rows)
        listed = None if pairs is None else checked_pairs(pairs, searched.plan.probes, len(searched.images))
        most = most or _gallery_rows(searched.rows)
        how: dict[str, Any] = {"zero_rows": zero_rows, "devices": devices, "gallery_rows": most}
        how |= {"measures": measures, "fmr": rates, "least_false_matches": least_false_matches}
        of_pairs = cosines_of_pairs if score is None else score.of_pairs
        how |= {"left_out": searched.leave_one_out_scores(left, of_pairs), "comparator": score}
        scorer = Scorer(left, searched.rows, searched.plan, **how)
        what = f"scores of {searched.plan.gallery:,} gallery rows of width {left.width:,}"
        with explained_memory_error(what, most, "gallery_rows"):
            return _evaluated(scorer, searched, listed, people_weights, own_photograph, ranks=ranks, cmc=cmc)


def _evaluated(
    scorer: Scorer,
    searched: SearchedGallery,
    pairs: PairList | None,
    people_weights: np.ndarray | None,
    own_photograph: Sequence[str],
    **options: Any,
) -> Evaluation:
    """Everything that is asked for; ``options`` are the ranks and the length of the CMC."""
    plan = scorer.plan
    if people_weights is not None:
        given = np.asarray(people_weights)
        counts = given.dtype.kind in "iuf" and np.isfinite(given).all() and (given >= 0).all()
        if not counts or given.shape[1:] != (plan.people,):
            found = f"{list(given.shape)} of {given.dtype}"
            raise UserError(
                f"people_weights: expected counts ≥ 0, shape [resamples, {plan.people}], got {found}"
            )
    scored = scorer.run()
    resampled = over_pairs = None
    if people_weights is not None and scored.verification and all(scored.verification.comparisons):
        resampled = resampled_rates(scorer, scored, people_weights)
    if pairs is not None:
        images, at_hand = scorer.gallery, scored
        if searched.images is not searched.rows:
            images, at_hand = scorer.placed(dataclasses.replace(images, rows=searched.images)), None
        scores = scores_of_pairs(scorer.probes, images, pairs, at_hand)
        over_pairs = rates_of_pairs(scores, pairs, scorer.fmr, scorer.least_false_matches)
    ranked, wanted = {}, own_photograph if scorer.ranked else ()
    if wanted and (plan.own < 0).all():
        ranked["absent"], wanted = identification(scored, own_included=False, **options), ()
    if "included" in wanted and plan.genuine_own.any():
        ranked["included"] = identification(scored, own_included=True, **options)
    if "excluded" in wanted:
        if scorer.left_out is None:
            ranked["excluded"] = identification(scored, own_included=False, **options)
        else:
            ranked["excluded"] = identification_without_own(scorer, scored, scorer.left_out, **options)
    return Evaluation(ranked, scored.verification, over_pairs, plan, scored.genuine_scores, resampled)


def _gallery_rows(gallery: LazyRows) -> int:
    """Rows of the gallery that a device has memory for, and their scores with a strip of probes."""
    row_bytes = padded_width(gallery.width) * 4
    most = min(len(gallery), GALLERY_BYTES // row_bytes)
    scores_bytes = 3 * 4 * STRIP_ROWS * AT_ONCE
    return rows_that_fit(most, row_bytes + scores_bytes, (1 + AT_ONCE) * SEGMENT_ROWS * row_bytes)


def verify(probes: Rows, gallery: Rows, probe_identities, gallery_identities=None, **options) -> Verification:
    """Verification alone; the arguments are those of ``evaluate``."""
    result = evaluate(probes, gallery, probe_identities, gallery_identities, measures=MEASURES[1:], **options)
    assert result.verification is not None
    return result.verification


def identify(
    probes: Rows, gallery: Rows, probe_identities, gallery_identities=None, **options
) -> dict[str, Identification]:
    """Identification alone, the same image included and excluded; the arguments are those of ``evaluate``."""
    result = evaluate(probes, gallery, probe_identities, gallery_identities, measures=MEASURES[:1], **options)
    return result.identification


def _check_options(
    measures: Sequence[str], own_photograph: Sequence[str], ranks: Sequence[int], cmc: int, zero_rows: str
) -> None:
    for given, known, what in (
        (measures, MEASURES, "measures"),
        (own_photograph, OWN_PHOTOGRAPH, "own_photograph"),
    ):
        if isinstance(given, str) or not set(given) <= set(known):
            raise UserError(f"{what}: expected some of {', '.join(known)}, got {given!r}")
    if np.ndim(ranks) != 1 or not all(checks.is_whole(k, 1) for k in (*ranks, cmc)):
        raise UserError(f"ranks and cmc: expected integers of at least 1, got {ranks!r} and {cmc!r}")
    if zero_rows not in ("refuse", "keep"):
        raise UserError(f"zero_rows: expected 'refuse' or 'keep', got {zero_rows!r}")
