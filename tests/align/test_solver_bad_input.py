"""Bad input to the fits: one clear sentence, before any work starts."""

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import jaxalign
from jaxalign import SOLVERS, UserError
from jaxalign.align.solvers import Ridge
from jaxalign.analysis.tuning import tune
from jaxalign.biometrics import Calibration, Fusion, fused_rows, open_set

GENERATOR = np.random.default_rng(0)
X, Y = GENERATOR.normal(size=(30, 6)), GENERATOR.normal(size=(30, 4))


def damaged(*rows: int) -> np.ndarray:
    """x with NaN and infinite values in some rows."""
    array = X.copy()
    array[list(rows), 2] = np.nan
    array[rows[0], 3] = np.inf
    return array


BAD: dict[str, tuple[Mapping[str, Any], str]] = {
    "row counts": ({"y": Y[:-1]}, r"30.*29"),
    "one dimension": ({"x": X[0]}, r"\[rows, width\].*\(6,\)"),
    "three dimensions": ({"x": X[None]}, r"\(1, 30, 6\)"),
    "no rows": ({"x": X[:0], "y": Y[:0]}, r"\(0, 6\)"),
    "no columns": ({"x": X[:, :0]}, r"\(30, 0\)"),
    "NaN, number": ({"x": damaged(1, 5, 6, 29), "l2": 1.0}, r"'x' in 4 rows"),
    "NaN, chosen": ({"x": damaged(1, 5, 6, 29), "l2": "cv"}, r"'x' in 4 rows"),
    "NaN in y": ({"x": Y, "y": damaged(2, 3), "method": "orthogonal"}, r"'y' in 2 rows"),
    "words": ({"x": X.astype(str)}, r"'x'.*numbers"),
    "objects": ({"y": Y.astype(object)}, r"'y'.*object"),
    "complex": ({"x": X + 1j}, r"'x'.*complex"),
    "too large": ({"x": X * 1e200, "l2": 1.0}, r"too large"),
    "people": ({"identities": np.arange(30) % 3}, r"3 people.*5 folds"),
    "rows for folds": ({"x": X[:4], "y": Y[:4]}, r"4 rows.*5 folds"),
    "one fold": ({"folds": 1}, r"folds.*at least 2.*1"),
    "part of a fold": ({"folds": 2.5}, r"folds.*2\.5"),
    "identities": ({"identities": np.arange(29)}, r"identities.*30.*29"),
    "groups by column": ({"identities": np.zeros((30, 1))}, r"identities.*30"),
    "unknown method": ({"method": "procrustes"}, r"procrustes.*identity.*orthogonal.*ridge.*canonical"),
    "unknown option": ({"alpha": 1.0}, r"alpha"),
    "negative penalty": ({"l2": -1.0}, r"l2.*-1\.0"),
    "no penalty": ({"l2": 0.0}, r"l2.*linear"),
    "undefined penalty": ({"l2": float("nan")}, r"l2.*nan"),
    "negative in a grid": ({"l2": [1.0, -1.0]}, r"l2.*-1\.0"),
    "empty grid": ({"l2": []}, r"l2.*at least one"),
    "unknown choice": ({"l2": "loo"}, r"l2.*'cv'.*'loo'"),
    "penalty of a method without": ({"method": "linear", "l2": 1.0}, r"linear.*l2"),
    "negative for reduced rank": ({"method": "reduced_rank", "l2": -0.5}, r"l2.*-0\.5"),
    "rank 0": ({"method": "reduced_rank", "l2": 1.0, "rank": 0}, r"rank.*0"),
    "rank over width": ({"method": "reduced_rank", "l2": 1.0, "rank": 5}, r"rank.*4.*5"),
    "rank over width, canonical": ({"method": "canonical", "rank": 5}, r"rank.*4.*5"),
    "rank in a grid": ({"method": "reduced_rank", "l2": 1.0, "rank": [2, 9]}, r"rank.*4.*9"),
    "no method": ({"method": None}, r"method.*ridge.*solver.*None"),
    "a solver's class": ({"method": Ridge}, r"method.*solver.*Ridge"),
    "ragged rows": ({"x": [[1.0], [1.0, 2.0]]}, r"'x'.*unequal length"),
    "ragged groups": ({"identities": [1, [2]]}, r"identities.*one label for each row"),
    "words as weights": ({"weights": ["a"] * 30}, r"weights.*numbers"),
    "a word as seed": ({"seed": "a"}, r"seed.*'a'"),
    "negative seed": ({"seed": -1}, r"seed.*-1"),
    "part of a rank": ({"method": "reduced_rank", "l2": 1.0, "rank": 2.5}, r"rank.*2\.5"),
    "rank of a method without": ({"l2": 1.0, "rank": 2}, r"ridge.*rank"),
    "weights": ({"weights": np.ones(29)}, r"weights.*30.*29"),
    "negative weights": ({"weights": np.where(np.arange(30) < 3, -1.0, 1.0)}, r"weights.*3 of 30"),
    "undefined weights": ({"weights": np.full(30, np.nan)}, r"weights.*30 of 30"),
    "no weight at all": ({"weights": np.zeros(30), "l2": 1.0}, r"weights.*zero"),
    "shrinkage": ({"method": "canonical", "shrinkage": 2.0}, r"shrinkage.*0 to 1.*2\.0"),
    "whitening": ({"method": "canonical", "whitening": float("nan")}, r"whitening.*nan"),
    "penalty per row": ({"penalty_per": "row"}, r"penalty_per.*'row'"),
}


def assert_one_sentence(error: UserError) -> None:
    text = str(error)
    assert text and "\n" not in text and len(text) < 300
    assert "Traceback" not in text and "broadcast" not in text


@pytest.mark.parametrize("fit", [jaxalign.fit_affine, jaxalign.fit_pair])
@pytest.mark.parametrize("name", BAD)
def test_bad_input_to_two_arrays(name: str, fit: Callable[..., Any]) -> None:
    changes, pattern = BAD[name]
    with pytest.raises(UserError, match=pattern) as caught:
        fit(**{"x": X, "y": Y, **changes})
    assert_one_sentence(caught.value)


@pytest.mark.parametrize(
    ("arguments", "pattern"),
    [
        ({"embeddings": {}}, "at least one encoder"),
        ({"embeddings": [X, Y]}, "mapping.*list"),
        ({"sources": "x"}, r"sources.*\['x'\]"),
        ({"pairs": ("x", "y")}, r"list of \(source, target\)"),
        ({"embeddings": {"x": X}}, "pair"),
        ({"sources": ["z"]}, r"z.*x, y"),
        ({"targets": ["z"]}, r"z.*x, y"),
        ({"pairs": [("x", "z")]}, r"z.*x, y"),
        ({"pairs": [("x", "x")]}, r"'x' with itself"),
        ({"pairs": [("x", "y")], "sources": ["x"]}, "either"),
        ({"embeddings": {"x": X, "y": Y[:9]}}, r"30.*9"),
        ({"embeddings": {"x": X, "bad": damaged(4, 8, 9), "y": Y}}, r"'bad' in 3 rows"),
        ({"embeddings": {"x": X, "bad": damaged(4, 8, 9), "y": Y}, "l2": "cv"}, r"'bad' in 3 rows"),
        ({"embeddings": {"a": damaged(0, 9), "b": damaged(1, 2, 3)}}, r"'a' in 2 rows.*'b' in 3 rows"),
        ({"method": "procrustes", "l2": "cv"}, r"procrustes.*ridge"),
        ({"method": "shared", "l2": "cv", "rank": 0}, "rank"),
        ({"method": "shared"}, r"shared.*l2"),
        ({"embeddings": jaxalign.FoldMoments.of({"x": X, "y": Y}), "l2": "cv"}, "folds"),
    ],
)
def test_bad_input_to_all_pairs(arguments: Mapping[str, Any], pattern: str) -> None:
    with pytest.raises(UserError, match=pattern) as caught:
        jaxalign.fit_pairs(**{"embeddings": {"x": X, "y": Y}, "l2": 1.0, **arguments})
    assert_one_sentence(caught.value)


@pytest.mark.parametrize(
    ("call", "pattern"),
    [
        (lambda: jaxalign.fit_pair(X, Y, "canonical").at_rank(0), "1 to 4"),
        (lambda: jaxalign.fit_pair(X, Y, "canonical").at_rank(5), "1 to 4"),
        (lambda: jaxalign.fit_pair(X, Y, "ridge", l2=1.0).at_rank(2), "ordered"),
        (lambda: jaxalign.fit_affine(X, Y, l2=1.0)(Y), r"6.*\(30, 4\)"),
        (lambda: jaxalign.fit_pair(X, Y, Ridge(l2=jnp.ones(3))), r"l2.*4.*3"),
    ],
)
def test_what_a_fit_cannot_do(call: Callable[[], Any], pattern: str) -> None:
    with pytest.raises(UserError, match=pattern):
        call()


def test_a_pair_that_was_not_fitted() -> None:
    maps = jaxalign.fit_pairs({"x": X, "y": Y}, "ridge", l2=1.0, pairs=[("x", "y")])
    with pytest.raises((UserError, KeyError), match=r"'y', 'x'"):
        maps["y", "x"]
    assert ("x", "y") in maps and maps.get(("y", "x")) is None


POOR = {
    "one row": (X[:1], Y[:1]),
    "x without variance": (np.full_like(X, 3.0), Y),
    "y without variance": (X, np.full_like(Y, 3.0)),
    "zeros": (np.zeros_like(X), np.zeros_like(Y)),
}


@pytest.mark.parametrize("method", sorted(SOLVERS))
@pytest.mark.parametrize("rows", POOR)
def test_what_cannot_be_learnt_from_is_fitted_or_refused_but_never_nan(rows: str, method: str) -> None:
    x, y = POOR[rows]
    options = {"l2": 1.0} if len(x) == 1 and "l2" in SOLVERS[method].options() else {}
    try:
        fit = jaxalign.fit_pair(x, y, method, **options)  # pyright: ignore[reportArgumentType]
    except UserError as error:
        assert_one_sentence(error)
    else:
        assert np.isfinite(fit.source(X)).all() and np.isfinite(fit.target(Y)).all()
        assert len(x) == 1 or not np.isnan(fit.r2)


class Unreadable:
    """As PyTorch's tensors of bfloat16, or of a GPU, are to NumPy."""

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        raise TypeError("Got unsupported ScalarType BFloat16")

    def __len__(self) -> int:
        return 30


CALLS: dict[str, Callable[[Any], Any]] = {
    "fit_affine": lambda bad: jaxalign.fit_affine(bad, Y),
    "fit_affine, target": lambda bad: jaxalign.fit_affine(X, bad),
    "weights": lambda bad: jaxalign.fit_affine(X, Y, weights=bad),
    "identities": lambda bad: jaxalign.fit_affine(X, Y, identities=bad),
    "moments": lambda bad: jaxalign.FoldMoments.of({"x": bad, "y": Y}),
    "map": lambda bad: jaxalign.fit_affine(X, Y, l2=1.0)(bad),
    "scores": lambda bad: jaxalign.fit_pair(X, Y, l2=1.0).scores(bad, Y),
    "evaluate": lambda bad: jaxalign.evaluate(bad, X, np.arange(30)),
    "fusion": lambda bad: Fusion.fit(bad, np.arange(30) % 2),
    "fused": lambda bad: fused_rows([X, bad]),
    "calibration": lambda bad: Calibration.fit(bad, np.arange(30) % 2),
    "open_set": lambda bad: open_set(bad, X[:20], np.arange(30), np.arange(20)),
    "tune": lambda bad: tune({"x": bad, "y": Y}, np.arange(30) // 2),
}


@pytest.mark.parametrize("name", CALLS)
def test_arrays_that_numpy_cannot_read_are_one_sentence(name: str) -> None:
    with pytest.raises(UserError, match=r"NumPy cannot read.*BFloat16.*float\(\)\.numpy\(\)") as refused:
        CALLS[name](Unreadable())
    assert "\n" not in str(refused.value)


def test_tensors_of_another_library() -> None:
    torch = pytest.importorskip("torch")
    with pytest.raises(UserError, match=r"x.*NumPy cannot read this torch\.Tensor"):
        jaxalign.fit_affine(torch.tensor(X).bfloat16(), Y)
    assert jaxalign.fit_affine(torch.tensor(X), Y, l2=1.0) == jaxalign.fit_affine(X, Y, l2=1.0)


MOMENTS = jaxalign.FoldMoments.of({"x": X, "y": Y})
NO_MOMENTS: Any = {"x": X, "y": Y}
NO_MAPPING: Any = [X, Y]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: jaxalign.fit_shared_space(MOMENTS, rnak=3), "takes rank.*got rnak; did you mean rank"),
        (lambda: jaxalign.fit_shared_space(MOMENTS, rank=0), "rank: expected"),
        (lambda: jaxalign.fit_shared_space(NO_MOMENTS), r"moments.*FoldMoments\.of.*dict"),
        (lambda: jaxalign.fit_low_rank({"x": X, "y": Y}, rnak=3), "did you mean rank"),
        (lambda: jaxalign.fit_joint_space(NO_MAPPING), "mapping.*list"),
        (lambda: jaxalign.fit_pair(X, Y, rnak=3), "takes l2"),
        (lambda: tune(NO_MAPPING, np.arange(30)), "mapping.*list"),
        (lambda: tune({"x": X, "y": Y}, np.arange(30), "ridgge"), "unknown method 'ridgge'"),
        (lambda: tune({"x": X, "y": Y}, np.arange(30) // 2, fixed={"rnak": 3}), "did you mean rank"),
        (lambda: tune({"x": X, "y": Y}, np.arange(9)), "identities"),
    ],
)
def test_settings_and_types_are_checked_as_fit_pairs_does(call: Callable[[], Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        call()
