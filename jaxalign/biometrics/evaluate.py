"""Verification and identification of two sets of embeddings in one pass over their scores."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jax.typing import ArrayLike

from jaxalign.biometrics import rows
from jaxalign.biometrics.counting import Counter
from jaxalign.biometrics.graded import GradedRates, graded_rates
from jaxalign.biometrics.identification import Identification, identification
from jaxalign.biometrics.layout import EvaluationPlan
from jaxalign.biometrics.leave_one_out import identification_without_own
from jaxalign.biometrics.operating_points import check_rates
from jaxalign.biometrics.pairs import (
    CheckedPairs,
    Pairs,
    PairVerification,
    rates_of_pairs,
    scores_of,
    verify_pairs,
)
from jaxalign.biometrics.tail import ImpostorTail, impostor_tail
from jaxalign.biometrics.templates import Gallery
from jaxalign.biometrics.verification import LEAST_FALSE_MATCHES, Verification, verification
from jaxalign.errors import UserError

RATES = (1e-4, 1e-3, 1e-2, 1e-1)
RANKS = (1, 5, 10, 20)
MEASURES = ("identification", "verification")


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
      identification: by whether the probe's own photograph counts as a mate, "included" (only where some probe
        has its own photograph in the gallery) and "excluded"; empty where not asked for.
      verification: over all comparisons; None where not asked for.
      pairs: over a list of pairs; None where none was given.
      plan: who is who.
      genuine_scores: scores of the plan's genuine list, own photographs included.
      tail: the highest impostor scores; None where not asked for.
      graded: rates of resampled people; None where not asked for.
    """

    identification: dict[str, Identification]
    verification: Verification | None
    pairs: PairVerification | None
    plan: EvaluationPlan = dataclasses.field(repr=False)
    genuine_scores: np.ndarray = dataclasses.field(repr=False)
    tail: ImpostorTail | None = dataclasses.field(repr=False)
    graded: GradedRates | None = dataclasses.field(repr=False, default=None)

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
    probes: ArrayLike,
    gallery: ArrayLike,
    probe_identities: Sequence | np.ndarray | EvaluationPlan,
    gallery_identities: Sequence | np.ndarray | None = None,
    *,
    own: ArrayLike | None = None,
    fmr: Sequence[float] = RATES,
    ranks: Sequence[int] = RANKS,
    cmc: int = 50,
    measures: Sequence[str] = MEASURES,
    templates: str = "all",
    pairs: Pairs | None = None,
    tail: float = 0.0,
    people_weights: np.ndarray | None = None,
    least_false_matches: float = LEAST_FALSE_MATCHES,
    zero_rows: str = "refuse",
) -> Evaluation:
    """Compares every probe with every gallery row by cosine and measures recognition.

    The score is s_ij = ⟨p_i, g_j⟩ / (‖p_i‖ ‖g_j‖), in float32 (float64 where both inputs are float64 and the
    caller has enabled it). No matrix of all scores is formed for large sets. Ranks, thresholds, achieved rates and
    operating points are exact counts on these scores; a tie counts against recognition.

    Args:
      probes: embeddings, shape [n, d].
      gallery: embeddings in the same space, shape [m, d].
      probe_identities: one label for each probe, or an ``EvaluationPlan`` made once for many evaluations of the
        same test set (``gallery_identities`` and ``own`` are then part of it).
      gallery_identities: one for each gallery row; the probes' own where not given.
      own: for each probe the gallery row that is the same photograph, −1 for none. Verification never compares a
        photograph with itself; identification is measured with it in the gallery and without. 0 ... n − 1 where
        ``gallery_identities`` is not given, else none.
      fmr: false match rates of the operating points.
      ranks, cmc: the ranks k, and the length of the CMC.
      measures: "identification", "verification" or both.
      templates: the gallery: "all" rows, the "first" row of each person, or one "pooled" template for each person.
        ``own`` numbers photographs, as always. A probe whose own photograph is in a pooled template is compared
        with the template of the person's other photographs where the own photograph is excluded.
      pairs: a list of pairs of photographs to verify besides (see ``verify_pairs``), not scored again if it can be.
      tail: share of the highest impostor scores to keep for a bootstrap over people; about 5 times the FMR.
      people_weights: how often each person is drawn in each resample of a bootstrap (``Resampling.weights``), shape
        [resamples, people]: verification rates of all of them are then found in the same pass.
      least_false_matches: an operating point with fewer expected false matches is unsupported.
      zero_rows: "refuse" rows of zeros, or "keep" them with cosine 0 to everything.

    Returns:
      The evaluation.

    Raises:
      UserError: shapes, identities, rates or rows that cannot be evaluated.

    Equivalent: sort each row of ``normalize(probes) @ normalize(gallery).T`` and use ``sklearn.metrics``'
    ``roc_curve``, ``roc_auc_score`` and ``average_precision_score``.

    References:
      ISO/IEC 19795-1:2021; Grother et al., "Face Recognition Technology Evaluation", NIST.
    """
    _check_options(measures, ranks, cmc, zero_rows)
    rates = check_rates(fmr)
    left_out, photographs = None, gallery
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
            left_out = searched.left_out(rows.checked(probes, "probes", plan.probes))
        gallery = searched.rows
    left = rows.checked(probes, "probes", plan.probes)
    right = rows.checked(gallery, "gallery", plan.gallery)
    photographs = right if templates == "all" else rows.checked(photographs, "gallery")
    listed = None if pairs is None else CheckedPairs.of(pairs, plan.probes, len(photographs))
    wanted = rates if tail > 0 or "verification" in measures else None
    others = None if left_out is None else left_out[~np.isnan(left_out)]
    counter = Counter(left, right, plan, zero_rows, wanted, others, ranked="identification" in measures)
    scored = counter.run()
    ranked = {}
    if "identification" in measures:
        options = {"ranks": ranks, "cmc": cmc}
        if plan.genuine_own.any():
            ranked["included"] = identification(scored, own_included=True, **options)
        if left_out is None:
            ranked["excluded"] = identification(scored, own_included=False, **options)
        else:
            ranked["excluded"] = identification_without_own(counter, scored, left_out, **options)
    verified = None
    if "verification" in measures:
        verified = verification(scored, fmr=rates, least_false_matches=least_false_matches)
    over_pairs = None
    if listed is not None:
        scores = scores_of(scored, listed) if templates == "all" else None
        options = {"fmr": rates, "least_false_matches": least_false_matches}
        if scores is None:
            over_pairs = verify_pairs(left, photographs, listed, zero_rows=zero_rows, **options)
        else:
            over_pairs = rates_of_pairs(scores, listed, **options)
    kept = impostor_tail(counter, scored, tail) if tail > 0 else None
    graded = None
    if people_weights is not None and verified is not None and verified.genuine and verified.impostor:
        graded = graded_rates(counter, scored, verified.rates, people_weights)
    return Evaluation(ranked, verified, over_pairs, plan, scored.genuine_scores, kept, graded)


def verify(
    probes: ArrayLike, gallery: ArrayLike, probe_identities, gallery_identities=None, **options
) -> Verification:
    """Verification alone; the arguments are those of ``evaluate``."""
    result = evaluate(
        probes, gallery, probe_identities, gallery_identities, measures=("verification",), **options
    )
    assert result.verification is not None
    return result.verification


def identify(
    probes: ArrayLike, gallery: ArrayLike, probe_identities, gallery_identities=None, **options
) -> dict[str, Identification]:
    """Identification alone, own photograph included and excluded; the arguments are those of ``evaluate``."""
    return evaluate(
        probes, gallery, probe_identities, gallery_identities, measures=("identification",), **options
    ).identification


def _check_options(measures: Sequence[str], ranks: Sequence[int], cmc: int, zero_rows: str) -> None:
    unknown = [name for name in measures if name not in MEASURES]
    if unknown:
        raise UserError(f"measures: expected some of {', '.join(MEASURES)}, got {list(measures)}")
    if any(int(k) != k or k < 1 for k in (*ranks, cmc)):
        raise UserError(f"ranks and cmc: expected integers of at least 1, got {list(ranks)} and {cmc}")
    if zero_rows not in ("refuse", "keep"):
        raise UserError(f"zero_rows: expected 'refuse' or 'keep', got {zero_rows!r}")
