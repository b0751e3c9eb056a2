"""What analyses of one process share: moments of the last split, and maps that several ask for."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from experiments import data_efficiency, stability
from experiments.run import aligning, analysis
from experiments.run.analysis import Job
from experiments.run.kept import Kept
from jaxalign import FoldMoments, PairwiseMaps, fit_pairs
from jaxalign.data import EmbeddingStore


@pytest.fixture(scope="module")
def clouds():
    rng = np.random.default_rng(5)
    return {name: rng.normal(size=(60, 4)) for name in ("alpha", "beta")}


@pytest.fixture(scope="module")
def moments(clouds):
    return FoldMoments.of(clouds, fold=np.arange(60) % 3)


def none_of_them():
    return PairwiseMaps("orthogonal", {}, {})


def test_moments_are_summed_once_for_each_split(moments):
    kept, made = Kept(), []

    def summed():
        made.append(1)
        return moments

    assert kept.moments("a", True, summed) is kept.moments("a", True, summed)
    without = kept.moments("a", False, summed)
    assert without.total is moments.total and not without.folds and len(made) == 1
    assert kept.moments("a", True, summed).folds and len(made) == 2  # folds were let go
    kept.moments("b", False, summed)
    kept.moments("a", False, summed)
    assert len(made) == 4  # of the last split alone


def test_maps_are_fitted_once_on_the_moments_that_are_kept(moments):
    kept = Kept(100)
    first = kept.maps(moments, "orthogonal", 60, none_of_them)
    assert kept.maps(moments, "orthogonal", 60, none_of_them) is not first  # these moments are not
    kept.moments("a", True, lambda: moments)
    first = kept.maps(moments, "orthogonal", 60, none_of_them)
    without = FoldMoments(moments.total, ())
    assert kept.maps(without, "orthogonal", 60, none_of_them) is first
    other = kept.maps(moments, "ridge", 60, none_of_them)
    assert kept.maps(moments, "ridge", 60, none_of_them) is not other  # no room is left
    kept.moments("b", True, lambda: moments)
    assert kept.maps(moments, "orthogonal", 60, none_of_them) is not first
    alone = Kept()
    alone.moments("a", True, lambda: moments)
    assert alone.maps(moments, "x", 1, none_of_them) is not alone.maps(moments, "x", 1, none_of_them)


def test_analyses_share_what_they_fit_on_all_training_people(tmp_path, monkeypatch):
    """Both measure orthogonal and ridge maps of all training people; only the first solves for them."""
    rng = np.random.default_rng(1)
    centres = rng.normal(size=(24, 5))
    rows = {name: np.repeat(centres, 3, 0) + 0.3 * rng.normal(size=(72, 5)) for name in ("alpha", "beta")}
    names = np.repeat([f"p{number}" for number in range(24)], 3)
    EmbeddingStore.create(tmp_path / "store", rows, names)
    solved: list[tuple[str, float]] = []

    def counted(moments, method, **options):
        solved.append((method, float(moments.total.count)))
        return fit_pairs(moments, method, **options)

    monkeypatch.setattr(aligning, "fit_pairs", counted)
    kept = Kept(2**20)
    given = {
        "store": str(tmp_path / "store"),
        "models": "all",
        "intervals": 20,
        "methods": "orthogonal,ridge",
    }
    texts, opened = [], None
    for module in (data_efficiency, stability):
        where = str(tmp_path / module.__name__)
        values = analysis.flags.namespace(module.FLAGS, only_defaults=True, **given, out=where)
        config, stores = analysis.open_one(values)
        opened = opened or stores  # as in a study
        with (
            analysis.results.writer(config.out, overwrite=False) as write,
            analysis.Progress(0) as progress,
        ):
            texts.append(
                analysis.run(module.ANALYSIS, Job(values, config, opened, write, progress, kept=kept))
            )
    everybody = max(count for _, count in solved)
    assert [method for method, count in solved if count == everybody] == ["orthogonal", "ridge"]
    assert all(texts)


def test_maps_that_are_kept_are_those_of_the_split(clouds, moments):
    kept = Kept(2**20)
    kept.moments("a", True, lambda: moments)
    maps = kept.maps(moments, "ridge", 8, lambda: fit_pairs(moments, "ridge", l2=1.0))
    again = kept.maps(moments, "ridge", 8, none_of_them)
    x, y = (rows - rows.mean(0) for rows in clouds.values())
    expected = np.linalg.solve(x.T @ x + np.eye(4), x.T @ y)
    assert again is maps
    assert_allclose(again["alpha", "beta"].source.matrix(), expected, atol=1e-12)
