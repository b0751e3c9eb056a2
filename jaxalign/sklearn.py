"""Alignment as a scikit-learn estimator, and a biometric scorer. The only module that imports scikit-learn."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from jaxalign.align.affine import AffineMap
from jaxalign.align.fit import fit_affine
from jaxalign.biometrics import evaluate
from jaxalign.core.errors import UserError

try:
    from sklearn.base import (
        BaseEstimator,
        ClassNamePrefixFeaturesOutMixin,
        MultiOutputMixin,
        RegressorMixin,
        TransformerMixin,
    )
    from sklearn.metrics import make_scorer
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError as error:
    raise ImportError("jaxalign.sklearn needs scikit-learn: pip install 'jaxalign[sklearn]'") from error

FORMATS = [np.float64, np.float32, np.float16]


class AffineAligner(
    ClassNamePrefixFeaturesOutMixin, TransformerMixin, MultiOutputMixin, RegressorMixin, BaseEstimator
):
    """Maps rows of one encoder's space to another's by an affine map fitted on paired rows.

    The map is ``fit_affine(X, y, method, ..., restore_variance=False)``: y ≈ (x − μx) W + μy, with W of the method's
    kind. ``transform`` gives y's own coordinates; ``predict`` gives the same numbers (one-dimensional if y was), so
    that ``score`` is R².

    Equivalent: ``sklearn.linear_model.Ridge(alpha=l2)`` for ``method="ridge"``, which has no ``transform``.

    Args:
      method: a name in ``jaxalign.SOLVERS``.
      l2: penalty of ``ridge`` and ``reduced_rank``: a number, a grid, "cv" or "gcv"; see ``fit_pair``. Without effect
        on methods that have no penalty as long as it is "cv".
      rank: rank of ``reduced_rank`` or ``canonical``; see ``fit_pair``.
      folds: most folds of the cross-validation; fewer where there are fewer people.
      seed: of the assignment of people to folds.
      restore_variance: scale the centred prediction to y's variance: better cosines with y itself, a worse R². False,
        unlike for ``fit_affine``, since ``score`` is R² here.
      options: the method's own settings, such as ``{"whitening": 0.75}``; see ``fit_pair``.

    Attributes:
      map_: the fitted ``AffineMap``.
      n_features_in_: width of the source encoder.
      feature_names_in_: names of its columns, where X had names.

    References:
      Rubab, Tong, Ross, "Are Face Embeddings Compatible Across Deep Neural Network Models?", arXiv 2604.07282.
    """

    map_: AffineMap
    n_features_in_: int
    _one_column: bool
    _n_features_out: int

    def __init__(
        self,
        method: str = "ridge",
        *,
        l2: str | float | Sequence[float] = "cv",
        rank: int | str | Sequence[int] | None = None,
        folds: int = 5,
        seed: int = 0,
        restore_variance: bool = False,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self.method = method
        self.l2 = l2
        self.rank = rank
        self.folds = folds
        self.seed = seed
        self.restore_variance = restore_variance
        self.options = options

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        tags.target_tags.single_output = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        # A rotation or a shift predicts as well as such a map can, which the checks' regressions are not made for.
        rigid = ("identity", "translation", "orthogonal", "similarity")
        tags.regressor_tags.poor_score = self.method in rigid
        return tags

    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        *,
        groups: ArrayLike | None = None,
    ) -> "AffineAligner":
        """Fits the map from rows of X to rows of y.

        Args:
          X: source embeddings, shape [n, p], floating.
          y: target embeddings of the same photographs, shape [n, q] or [n].
          sample_weight: of rows, shape [n], ≥ 0.
          groups: identity of each row, shape [n]: folds are over people. Without it every row is a person.

        Raises:
          ValueError: the arrays or settings are not usable.
        """
        x, target = validate_data(self, X, y, dtype=FORMATS, multi_output=True, ensure_min_samples=2)  # pyright: ignore[reportArgumentType]
        target = np.asarray(target)
        if not np.issubdtype(target.dtype, np.floating):
            target = target.astype(np.float64)
        if not isinstance(self.folds, int | np.integer) or self.folds < 2:
            raise UserError(f"folds: expected an integer of at least 2, got {self.folds!r}")
        folds = min(int(self.folds), len(target) if groups is None else len(np.unique(np.asarray(groups))))
        weights = None if sample_weight is None else np.asarray(sample_weight, np.float64)
        self._one_column = target.ndim == 1
        target = target.reshape(len(target), -1)
        settings = {
            "l2": self.l2,
            "rank": self.rank,
            "folds": folds,
            "seed": self.seed,
            "restore_variance": self.restore_variance,
            **(self.options or {}),
        }
        self.map_ = fit_affine(x, target, self.method, identities=groups, weights=weights, **settings)  # pyright: ignore[reportArgumentType]
        self._n_features_out = target.shape[1]
        return self

    def transform(self, X: ArrayLike) -> np.ndarray:
        """Rows of X in y's coordinates, shape [n, q]; float64 for float64 rows, float32 for narrower ones."""
        check_is_fitted(self)
        return np.asarray(self.map_(validate_data(self, X, dtype=FORMATS, reset=False)))  # pyright: ignore

    def predict(self, X: ArrayLike) -> np.ndarray:
        """The same as ``transform``, with the dimensions that y had."""
        mapped = np.asarray(self.transform(X))
        return mapped[:, 0] if self._one_column else mapped

    def inverse_transform(self, X: ArrayLike) -> np.ndarray:
        """Rows of y's space, shape [n, q], in X's coordinates: by a rotation's transpose, or the pseudo-inverse."""
        check_is_fitted(self)
        rows = np.asarray(X)
        if rows.ndim != 2 or rows.shape[1] != self._n_features_out:
            raise UserError(f"expected rows of shape [n, {self._n_features_out}], got {rows.shape}")
        return np.asarray(self.map_.inverse()(rows))


def verification_scorer(fmr: float = 1e-3) -> Any:
    """A scorer for model selection: the true match rate at a false match rate, of the cosines of predictions with y.

    Who is who it learns as ``groups``, by scikit-learn's metadata routing. A row is never compared with itself::

      sklearn.set_config(enable_metadata_routing=True)
      search = GridSearchCV(
          AffineAligner(restore_variance=True).set_fit_request(groups=True),
          {"method": ["orthogonal", "ridge"]},
          scoring=verification_scorer(fmr=1e-3),
          cv=GroupKFold(3),
      ).fit(x, y, groups=people)

    Args:
      fmr: false match rate of the operating point, above 0 and below 1.

    Returns:
      What ``sklearn.metrics.make_scorer`` gives; the larger the better.

    Raises:
      UserError: the rate is out of range, metadata routing is off, or, when it scores, groups are missing, a person
        has one row only, or there are too few impostor comparisons for that rate.
    """
    if not 0 < fmr < 1:
        raise UserError(f"fmr: expected a rate above 0 and below 1, got {fmr!r}")

    def true_match_rate(y: np.ndarray, predicted: np.ndarray, groups: np.ndarray | None = None) -> float:
        if groups is None:
            raise UserError("verification_scorer: give the identity of each row, fit(..., groups=people)")
        found = evaluate(
            predicted, np.asarray(y), groups, fmr=[fmr], measures=["verification"], own_photograph=[]
        )
        value = found[f"tmr@fmr={fmr:g}"]
        if np.isnan(value):
            raise UserError(
                f"verification_scorer: too few impostor comparisons among {len(y)} rows for fmr={fmr:g}"
            )
        return value

    try:
        return make_scorer(true_match_rate, response_method="predict").set_score_request(groups=True)
    except RuntimeError as error:
        raise UserError(
            "verification_scorer needs to know who is who: sklearn.set_config(enable_metadata_routing=True) first"
        ) from error
