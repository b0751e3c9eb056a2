"""Maps for FAISS and scikit-learn: against float64 numpy, run by the libraries themselves."""

import pickle
import subprocess
import sys
from typing import Any

import faiss
import numpy as np
import pytest
from exported import mapped, unit

from jaxalign.align.affine import AffineMap
from jaxalign.core.errors import UserError
from jaxalign.gallery.export import CohortColumns, Exported, faiss_index, sklearn_pipeline

RNG = np.random.default_rng(1)
MAPS = {
    "dense": AffineMap((RNG.normal(size=(12, 9)),), RNG.normal(size=9), 3 + RNG.normal(size=12)),
    "low rank": AffineMap((RNG.normal(size=(12, 3)), RNG.normal(size=(3, 7))), RNG.normal(size=7)),
    "shift": AffineMap((), RNG.normal(size=12), RNG.normal(size=12)),
}
ROWS = RNG.normal(size=(40, 12)).astype(np.float32)


@pytest.mark.parametrize("normalize", ["l2", "none"])
@pytest.mark.parametrize("kind", MAPS)
def test_faiss_finds_the_neighbours_of_mapped_rows(kind, normalize):
    index: Any = faiss.deserialize_index(faiss.serialize_index(faiss_index(Exported(MAPS[kind], normalize))))
    expected = unit(mapped(ROWS, MAPS[kind], normalize))
    cosines = expected[:8] @ expected[8:].T
    order = np.argsort(-cosines, axis=1)[:, :5]
    index.add(ROWS[8:])
    scores, found = index.search(ROWS[:8], 5)
    np.testing.assert_array_equal(found, order)
    np.testing.assert_allclose(scores, np.take_along_axis(cosines, order, 1), atol=1e-5)
    inner = faiss.downcast_index(index.index)
    np.testing.assert_allclose(inner.reconstruct_n(0, 32), expected[8:], atol=1e-6)


@pytest.mark.parametrize("normalize", ["l2", "none"])
@pytest.mark.parametrize("kind", MAPS)
def test_sklearn_pipeline(kind, normalize):
    rows = ROWS.copy()
    rows[3] = 0
    expected = mapped(rows, MAPS[kind], normalize)
    for scaled in (False, True):
        pipeline = sklearn_pipeline(Exported(MAPS[kind], normalize, scaled))
        found = pipeline.transform(rows)
        assert found.dtype == np.float64
        np.testing.assert_allclose(found, unit(expected) if scaled else expected, atol=1e-12)
    with pytest.raises(ValueError, match="12"):
        pipeline.transform(rows[:, :5])


def test_a_pickled_pipeline_needs_no_jaxalign(tmp_path):
    map_ = MAPS["dense"]
    (tmp_path / "map.pickle").write_bytes(pickle.dumps(sklearn_pipeline(Exported(map_, "l2"))))
    np.save(tmp_path / "rows.npy", ROWS)
    script = (
        "import pickle, sys, numpy; pipeline = pickle.load(open('map.pickle', 'rb')); "
        "numpy.save('out.npy', pipeline.transform(numpy.load('rows.npy'))); "
        "assert 'jaxalign' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env={}, check=True)
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), mapped(ROWS, map_, "l2"), atol=1e-12)


def test_only_onnx_files_have_the_cohorts_columns():
    exported = Exported(MAPS["dense"], "l2", cohort=CohortColumns(RNG.normal(size=(3, 9)), top=1))
    for make in (faiss_index, sklearn_pipeline):
        with pytest.raises(UserError, match="export an ONNX file"):
            make(exported)
