"""Verification and identification of two sets of embeddings."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jax.typing import ArrayLike

from jaxalign.biometrics import inputs
from jaxalign.biometrics.identification import Identification, identification
from jaxalign.biometrics.pairs import CheckedPairs, Pairs, PairVerification, rates_of_pairs
from jaxalign.biometrics.plan import SEGMENT_ROWS, STRIP_ROWS, EvaluationPlan
from jaxalign.biometrics.resampled_rates import ResampledRates, resampled_rates
from jaxalign.biometrics.scores import AT_ONCE, Scored, Scorer, scores_of_pairs
from jaxalign.biometrics.templates import Gallery, identification_without_own
from jaxalign.biometrics.thresholds import check_rates
from jaxalign.biometrics.verification import LEAST_FALSE_MATCHES, Verification
from jaxalign.core import checks
from jaxalign.core.errors import UserError
from jaxalign.core.rows import LazyRows, explained_memory_error, rows_that_fit

RATES = (1e-4, 1e-3, 1e-2, 1e-1)
RANKS = (1, 5, 10, 20)
MEASURES = ("identification", "verification")
OWN_PHOTOGRAPH = ("included", "excluded")
GALLERY_BYTES = 1 << 29  # of gallery rows at once on a device that does not say how much memory it has


class Measure(NamedTuple):
    """One number of an evaluation, as it stands in a table of results.

    ``own_photograph`` is 'included' or 'excluded' for identification and empty for verification; ``threshold`` and
    ``achieved`` are None where they do not apply. An operating point without support has the value NaN.
    """

    own_photograph: str
    measure: str
    value: float
    threshold: float | None
    achieved: float | None
    comparisons: int | None


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What crosses from one set of embeddings to another.

    Attributes:
      identification: by whether the same image counts as a mate, "included" (only where the gallery has the same
        image as some probe) and "excluded"; without those that were not asked for.
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

    def measures(self) -> Iterator[Measure]:
        """Every measure as a row: rank1, map, map50, auc, eer, tmr@fmr=0.001 and so on.

        ``comparisons`` is the number of probes for identification, of genuine and impostor comparisons together
        for AUC and EER, and of impostor comparisons for an operating point. Where a list of pairs was given instead
        of verification over all comparisons, these are the list's.
        """
        for own, result in self.identification.items():
            named = {f"rank{k}": share for k, share in result.rank_k.items()}
            for name, value in {**named, "map": result.map, "map50": result.map50}.items():
                yield Measure(own, name, value, None, None, result.probes)
        verified = self.verification or self.pairs
        if verified is not None:
            yield from verification_measures(verified)


def verification_measures(result: Verification) -> Iterator[Measure]:
    """The rows of verification alone."""
    both = result.genuine + result.impostor
    yield Measure("", "auc", result.auc, None, None, both)
    yield Measure("", "eer", result.eer, None, None, both)
    for point in result.rates.points:
        name = f"tmr@fmr={point.fmr:g}"
        yield Measure("", name, point.tmr, point.threshold, point.achieved, result.impostor)
    if isinstance(result, PairVerification) and len(result.fold_accuracy):
        yield Measure("", "accuracy", result.accuracy, None, None, both)
        yield Measure("", "accuracy_error", result.accuracy_error, None, None, both)


def evaluate(
    probes: ArrayLike | LazyRows,
    gallery: ArrayLike | LazyRows,
    probe_identities: Sequence | np.ndarray | EvaluationPlan,
    gallery_identities: Sequence | np.ndarray | None = None,
    *,
    own: ArrayLike | None = None,
    fmr: Sequence[float] = RATES,
    ranks: Sequence[int] = RANKS,
    cmc: int = 50,
    measures: Sequence[str] = MEASURES,
    own_photograph: Sequence[str] = OWN_PHOTOGRAPH,
    templates: str = "all",
    pairs: Pairs | None = None,
    people_weights: np.ndarray | None = None,
    least_false_matches: float = LEAST_FALSE_MATCHES,
    zero_rows: str = "refuse",
    devices: Sequence[Any] | None = None,
    gallery_rows: int | None = None,
) -> Evaluation:
    """Compares every probe with every gallery row by cosine and measures recognition.

    The score is s_ij = ⟨p_i, g_j⟩ / (‖p_i‖ ‖g_j‖), in float32 (float64 where both inputs are float64 and the
    caller has enabled it). Ranks, thresholds, achieved rates and operating points are exact counts on these scores; a
    tie counts against recognition.

    Small sets are sorted. No matrix of all scores is formed for large sets: scores are computed twice, and memory is
    bounded. Of memory-mapped arrays and ``LazyRows``, a few thousand probes are read at a time, and ``gallery_rows`` of
    the gallery.

    Args:
      probes: embeddings, shape [n, d], in memory, memory-mapped or ``LazyRows``.
      gallery: embeddings in the same space, shape [m, d].
      probe_identities: one label for each probe, or an ``EvaluationPlan`` made once for many evaluations of the
        same test set (``gallery_identities`` and ``own`` are then part of it).
      gallery_identities: one for each gallery row; the probes' own where not given.
      own: for each probe the gallery row that is the same image, −1 for none. Verification never compares an
        image with itself; identification is measured with it in the gallery and without. 0 ... n − 1 where
        ``gallery_identities`` is not given, else none.
      fmr: false match rates of the operating points.
      ranks, cmc: the ranks k, and the length of the CMC.
      measures: "identification", "verification" or both.
      own_photograph: identification with the same image "included", "excluded" or both.
      templates: the gallery: "all" rows, the "first" row of each person, or one "pooled" template for each person.
        ``own`` numbers the rows of ``gallery``, as always. Where the same image is excluded, a probe whose image is in
        a pooled template is compared with the template of the person's other images.
      pairs: a list of pairs of images to verify besides; see ``verify_pairs``.
      people_weights: how often each person is drawn in each resample of a bootstrap (``Resampling.weights``), shape
        [resamples, people]: verification rates are found for all resamples too.
      least_false_matches: an operating point with fewer expected false matches is unsupported.
      zero_rows: "refuse" rows of zeros, or "keep" them with cosine 0 to everything.
      devices: of this process, that share the probes of large sets; one where not given. Counts are the same.
      gallery_rows: most rows of the gallery on a device at once; by default what its memory allows, and 512 MiB of
        them on a CPU.

    Returns:
      The evaluation.

    Raises:
      UserError: shapes, identities, rates or rows that cannot be evaluated, or too little memory on the device.

    Equivalent: sort each row of ``normalize(probes) @ normalize(gallery).T`` and use ``sklearn.metrics``'
    ``roc_curve``, ``roc_auc_score`` and ``average_precision_score``.

    References:
      ISO/IEC 19795-1:2021; Grother et al., "Face Recognition Technology Evaluation", NIST.
    """
    _check_options(measures, own_photograph, ranks, cmc, zero_rows)
    rates, most = check_rates(fmr), checks.positive(gallery_rows, "gallery_rows")
    left_out, images = None, gallery
    if isinstance(probe_identities, EvaluationPlan):
        plan = probe_identities
        if gallery_identities is not None or own is not None or templates != "all":
            raise UserError(
                "an EvaluationPlan holds gallery_identities and own already, and templates need identities"
            )
    else:
        searched = Gallery.of(gallery, probe_identities, gallery_identities, own, templates)
        plan = EvaluationPlan.of(probe_identities, searched.identities, own=searched.own)
        if templates == "pooled":
            left_out = searched.leave_one_out_scores(inputs.checked(probes, "probes", plan.probes))
        gallery = searched.rows
    if people_weights is not None and np.shape(people_weights)[1:] != (plan.people,):
        raise UserError(
            f"people_weights: expected shape [resamples, {plan.people}], got {list(np.shape(people_weights))}"
        )
    left = inputs.checked(probes, "probes", plan.probes)
    right = inputs.checked(gallery, "gallery", plan.gallery)
    inputs.same_width(left, right)
    images = right if templates == "all" else inputs.checked(images, "gallery")
    listed = None if pairs is None else CheckedPairs.of(pairs, plan.probes, len(images))
    identified, verifying = "identification" in measures, "verification" in measures
    most = most or _gallery_rows(right)
    with explained_memory_error(
        f"scores of {plan.gallery:,} gallery rows of width {right.width:,}", most, "gallery_rows"
    ):
        scorer = Scorer(
            left,
            right,
            plan,
            zero_rows=zero_rows,
            fmr=rates if verifying else None,
            least_false_matches=least_false_matches,
            left_out=None if left_out is None else left_out[~np.isnan(left_out)],
            ranked=identified,
            devices=devices,
            gallery_rows=most,
        )
        scored = scorer.run()
        verified = None
        if scored.axis is not None and scored.rates is not None:
            verified = Verification(scored.rates, len(scored.axis.genuine), plan.impostor)
        resampled = None
        if people_weights is not None and verified is not None and all(verified.comparisons):
            resampled = resampled_rates(scorer, scored, people_weights)
        over_pairs = None
        if listed is not None:
            same = scored if images is right else None
            scores = scores_of_pairs(left, images, listed.left, listed.right, zero_rows, same)
            over_pairs = rates_of_pairs(scores, listed, rates, least_false_matches)
        ranked = {}
        if identified:
            ranked = _ranked(scorer, scored, left_out, own_photograph, ranks=tuple(ranks), cmc=cmc)
        return Evaluation(ranked, verified, over_pairs, plan, scored.genuine_scores, resampled)


def _gallery_rows(gallery: LazyRows) -> int:
    """Rows of the gallery that a device has memory for, and their scores with a strip of probes."""
    row_bytes = inputs.padded_width(gallery.width) * 4
    most = min(len(gallery), GALLERY_BYTES // row_bytes)
    scores_bytes = 3 * 4 * STRIP_ROWS * AT_ONCE
    return rows_that_fit(most, row_bytes + scores_bytes, (1 + AT_ONCE) * SEGMENT_ROWS * row_bytes)


def _ranked(
    scorer: Scorer, scored: Scored, left_out: np.ndarray | None, own_photograph: Sequence[str], **options: Any
) -> dict[str, Identification]:
    """Identification with the same image included, excluded or both."""
    ranked = {}
    if "included" in own_photograph and scored.plan.genuine_own.any():
        ranked["included"] = identification(scored, own_included=True, **options)
    if "excluded" in own_photograph:
        if left_out is None:
            ranked["excluded"] = identification(scored, own_included=False, **options)
        else:
            ranked["excluded"] = identification_without_own(scorer, scored, left_out, **options)
    return ranked


def verify(
    probes: ArrayLike | LazyRows,
    gallery: ArrayLike | LazyRows,
    probe_identities,
    gallery_identities=None,
    **options,
) -> Verification:
    """Verification alone; the arguments are those of ``evaluate``."""
    result = evaluate(
        probes, gallery, probe_identities, gallery_identities, measures=("verification",), **options
    )
    assert result.verification is not None
    return result.verification


def identify(
    probes: ArrayLike | LazyRows,
    gallery: ArrayLike | LazyRows,
    probe_identities,
    gallery_identities=None,
    **options,
) -> dict[str, Identification]:
    """Identification alone, the same image included and excluded; the arguments are those of ``evaluate``."""
    return evaluate(
        probes, gallery, probe_identities, gallery_identities, measures=("identification",), **options
    ).identification


def _check_options(
    measures: Sequence[str], own_photograph: Sequence[str], ranks: Sequence[int], cmc: int, zero_rows: str
) -> None:
    for given, known, what in (
        (measures, MEASURES, "measures"),
        (own_photograph, OWN_PHOTOGRAPH, "own_photograph"),
    ):
        if isinstance(given, str) or not set(given) <= set(known):
            raise UserError(f"{what}: expected some of {', '.join(known)}, got {given!r}")
    if any(int(k) != k or k < 1 for k in (*ranks, cmc)):
        raise UserError(f"ranks and cmc: expected integers of at least 1, got {list(ranks)} and {cmc}")
    if zero_rows not in ("refuse", "keep"):
        raise UserError(f"zero_rows: expected 'refuse' or 'keep', got {zero_rows!r}")
