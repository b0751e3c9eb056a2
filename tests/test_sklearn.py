"""The scikit-learn estimator: scikit-learn's own checks, and what they do not ask."""

import pickle
from typing import Any

import clouds
import numpy as np
import pytest

pytest.importorskip("sklearn")

import sklearn
from sklearn.base import clone
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer
from sklearn.utils.estimator_checks import parametrize_with_checks

import jaxalign
from jaxalign import UserError
from jaxalign.sklearn import AffineAligner, verification_scorer

ESTIMATORS = [AffineAligner(), AffineAligner(l2=0.1)]  # with what is chosen by folds, and without


def expected_failures(estimator: AffineAligner) -> dict[str, str]:
    """Checks that do not apply, with the reason."""
    reason = (
        "a repeated row counts as several people, who may fall into different folds; a weighted row does not"
    )
    chosen = estimator.method == "ridge" and estimator.l2 == "cv"
    return {"check_sample_weight_equivalence_on_dense_data": reason} if chosen else {}


@parametrize_with_checks(ESTIMATORS, expected_failed_checks=expected_failures)
def test_scikit_learn_checks(estimator: Any, check: Any) -> None:
    check(estimator)  # scikit-learn's assertions: raises where the estimator breaks a convention


@pytest.mark.parametrize("method", sorted(jaxalign.SOLVERS))
def test_every_method_gives_what_fit_affine_gives(method: str) -> None:
    rows = clouds.make("square", seed=0)
    options = {"steps": 3} if jaxalign.SOLVERS[method].needs_rows else {}
    estimator = AffineAligner(method, options=options).fit(rows.x, rows.y, groups=rows.identities)
    settings = {"identities": rows.identities, "restore_variance": False, **options}
    expected = np.asarray(jaxalign.fit_affine(rows.x, rows.y, method, **settings)(rows.x_new))
    np.testing.assert_array_equal(estimator.transform(rows.x_new), expected)
    np.testing.assert_array_equal(estimator.predict(rows.x_new), expected)
    assert estimator.n_features_in_ == rows.x.shape[1]


def test_ridge_is_scikit_learns_own() -> None:
    rows = clouds.make("tall", seed=1)
    weights = rows.weights()
    ours = AffineAligner(l2=0.7).fit(rows.x, rows.y, sample_weight=weights)
    theirs = Ridge(alpha=0.7).fit(rows.x, rows.y, sample_weight=weights)
    np.testing.assert_allclose(ours.transform(rows.x_new), theirs.predict(rows.x_new), rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(ours.score(rows.x_new, rows.y_new), theirs.score(rows.x_new, rows.y_new))
    assert ours.score(rows.x_new, rows.y_new) == r2_score(rows.y_new, ours.predict(rows.x_new))


def test_way_back() -> None:
    rows = clouds.planted("rotation", seed=3)
    for method in ("orthogonal", "linear"):
        estimator = AffineAligner(method).fit(rows.x, rows.y)
        np.testing.assert_allclose(estimator.inverse_transform(rows.y_new), rows.x_new, atol=1e-8)
    with pytest.raises(UserError, match=r"\[n, 12\].*\(20, 3\)"):
        estimator.inverse_transform(rows.y_new[:, :3])


@pytest.mark.parametrize("format_", ["float16", "float32", "float64"])
def test_formats_names_and_columns(format_: str) -> None:
    rows = clouds.make("tall", seed=4)
    x, y = rows.x.astype(format_), rows.y.astype(format_)
    estimator = AffineAligner(l2=1.0).fit(x, y)
    mapped = estimator.transform(x)
    assert isinstance(mapped, np.ndarray) and mapped.dtype == np.promote_types(format_, np.float32)
    assert list(estimator.get_feature_names_out()) == [f"affinealigner{column}" for column in range(8)]
    with pytest.raises(ValueError, match="y"):
        estimator.fit(x, None)  # type: ignore[arg-type]
    one = AffineAligner(l2=0.7).fit(x, y[:, 0])
    assert one.predict(x).shape == (len(x),) and one.transform(x).shape == (len(x), 1)


def test_settings_reach_the_method() -> None:
    rows = clouds.make("square", seed=6)
    options = {"whitening": 0.75, "weighting": 0.5}
    estimator = AffineAligner("canonical", rank=4, options=options).fit(rows.x, rows.y)
    expected = jaxalign.fit_affine(rows.x, rows.y, "canonical", rank=4, restore_variance=False, **options)  # pyright: ignore[reportArgumentType]
    np.testing.assert_array_equal(estimator.transform(rows.x_new), np.asarray(expected(rows.x_new)))
    copy = pickle.loads(pickle.dumps(estimator))
    np.testing.assert_array_equal(copy.transform(rows.x_new), estimator.transform(rows.x_new))
    fresh: Any = clone(estimator)
    assert fresh.get_params() == estimator.get_params() and not hasattr(fresh, "map_")


def test_in_a_pipeline_and_a_search() -> None:
    rows = clouds.make("tall", seed=7)
    pipeline = make_pipeline(Normalizer(), AffineAligner())
    search = GridSearchCV(pipeline, {"affinealigner__l2": [1e-3, 1e-1, 1e3]}, cv=3).fit(rows.x, rows.y)
    assert search.best_params_["affinealigner__l2"] != 1e3
    assert search.predict(rows.x_new).shape == rows.y_new.shape


def test_a_search_over_methods() -> None:
    """With l2 at its default, which methods without a penalty take no notice of."""
    rows = clouds.make("tall", seed=7)
    grid = {"method": ["orthogonal", "linear"], "restore_variance": [False, True]}
    search = GridSearchCV(AffineAligner(), grid, cv=3, error_score="raise").fit(rows.x, rows.y)  # pyright: ignore[reportArgumentType]
    assert search.best_params_ == {"method": "linear", "restore_variance": False}


def test_a_search_by_true_match_rate() -> None:
    random = np.random.default_rng(0)
    people = np.repeat(np.arange(30), 4)
    x = (random.normal(size=(30, 6))[people] + 0.3 * random.normal(size=(120, 6))) * [1, 1, 1, 1, 1, 20]
    y = x[:, :5] + 3 + 0.1 * random.normal(size=(120, 5))
    with pytest.raises(UserError, match="enable_metadata_routing"):
        verification_scorer(fmr=0.05)
    with pytest.raises(UserError, match="above 0"):
        verification_scorer(fmr=0)
    with sklearn.config_context(enable_metadata_routing=True):
        scorer = verification_scorer(fmr=0.05)
        aligner = AffineAligner().set_fit_request(groups=True)
        grid = {"method": ["identity", "ridge"]}
        search = GridSearchCV(aligner, grid, scoring=scorer, cv=GroupKFold(3), error_score="raise")  # pyright: ignore[reportArgumentType]
        search.fit(x, y, groups=people)
        train, test = next(GroupKFold(3).split(x, groups=people))
        one = clone(aligner).set_params(method="ridge").fit(x[train], y[train], groups=people[train])  # pyright: ignore[reportAttributeAccessIssue]
        found, same = (
            scorer(one, x[test], y[test], groups=people[test]),
            people[test][:, None] == people[test],
        )
        with pytest.raises(UserError, match="groups"):
            scorer(one, x[test], y[test])
    assert search.best_params_["method"] == "ridge"
    cosines = cosine_similarity(one.predict(x[test]), y[test])
    impostor = np.sort(cosines[~same])[::-1]
    genuine = cosines[same & ~np.eye(len(test), dtype=bool)]
    np.testing.assert_allclose(found, np.mean(genuine > impostor[int(0.05 * len(impostor))]), atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "pattern"),
    [
        ({"method": "procrustes"}, "procrustes.*ridge"),
        ({"l2": -1.0}, "l2"),
        ({"folds": 1}, "folds"),
        ({"method": "canonical", "options": {"whitening": 3.0}}, "whitening"),
        ({"method": "canonical", "rank": 99}, "rank"),
    ],
)
def test_bad_settings_are_one_sentence_when_fitted(settings: dict[str, Any], pattern: str) -> None:
    rows = clouds.make("tall", seed=8)
    with pytest.raises(UserError, match=pattern):
        AffineAligner(**settings).fit(rows.x, rows.y)
