"""Meshes of devices, and independent work run concurrently on a CPU."""

import time
from typing import Any, cast

import clouds
import jax
import numpy as np
import pytest
from jax.sharding import Mesh
from threadpoolctl import threadpool_info

import jaxalign
from jaxalign import FoldMoments, Moments, UserError, device_mesh
from jaxalign.core.devices import concurrently, matrix_elements

several_devices = pytest.mark.skipif(len(jax.devices()) < 8, reason="needs eight (simulated) devices")


@several_devices
def test_pairs_of_a_mesh_are_as_few_as_memory_allows():
    widths = [512] * 16
    whole = 8 * (16 * 512) ** 2
    for by, pairs in ((2, 1), (1.8, 2), (0.7, 4), (0.1, 8)):
        mesh = device_mesh(jax.devices()[:8], widths=widths, memory=int(by * whole))
        assert dict(mesh.shape) == {"data": 8 // pairs, "pairs": pairs}
    assert dict(device_mesh(jax.devices()[:8]).shape) == {"data": 8, "pairs": 1}


def test_devices_that_hold_a_matrix_together_pad_encoders():
    assert matrix_elements([100, 200], 1) == 300**2
    assert matrix_elements([512] * 8, 8) == 512 * 8 * 512
    # The second device has padding of width 128.
    assert matrix_elements([100, 200, 250], 2) == (128 + 256) * 550


@several_devices
@pytest.mark.parametrize(
    ("attempt", "sentence"),
    [
        (lambda rows: device_mesh(jax.devices()[:8], pairs=3), "number of devices, 8, got 3"),
        (lambda rows: device_mesh(jax.devices()[:8], pairs=True), "number of devices, 8, got True"),
        (lambda rows: device_mesh([]), "devices: expected at least one"),
        (lambda rows: Moments.of(rows, mesh=Mesh(np.array(jax.devices()[:2]), ("rows",))), "data and pairs"),
        (lambda rows: jaxalign.fit_pairs(rows, "linear", mesh=cast(Any, 8)), "data and pairs, got int"),
        (
            lambda rows: jaxalign.fit_pairs(
                FoldMoments.of(rows, mesh=device_mesh(jax.devices()[:2], pairs=2)),
                "linear",
                mesh=device_mesh(jax.devices()[:2]),
            ),
            "sharded over a mesh of {'data': 1, 'pairs': 2}",
        ),
    ],
)
def test_bad_meshes_are_a_sentence(attempt, sentence):
    with pytest.raises(UserError) as raised:
        attempt(clouds.several(seed=0))
    assert sentence in str(raised.value) and "\n" not in str(raised.value)


def blas_threads():
    """Threads of the BLAS libraries of NumPy and SciPy; others count theirs for each thread."""
    ours = [of for of in threadpool_info() if of["user_api"] == "blas" and "faiss" not in of["filepath"]]
    return {library["num_threads"] for library in ours}


def test_results_come_in_order_and_blas_has_one_thread_until_the_last():
    assert list(concurrently(lambda k: (time.sleep(0.01 * (5 - k)), k)[1], range(5))) == list(range(5))
    before = blas_threads()  # of the libraries that are loaded now
    assert all(threads == {1} for threads in concurrently(lambda k: blas_threads(), range(3)))
    assert blas_threads() == before
