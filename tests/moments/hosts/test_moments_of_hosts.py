"""Four real processes sum moments over loopback; each has only its rows."""

import numpy as np
import pytest
from processes import finished, free_port, start

COUNT, ROWS = 4, 37
WIDTHS = {"alpha": 5, "beta": 3}


@pytest.fixture(scope="module")
def rows():
    """Few rows with large means, and folds that some processes have none of."""
    random = np.random.default_rng(0)
    given = {
        name: random.normal(size=(ROWS, width)) * 10.0 ** -np.arange(width) + 1e3
        for name, width in WIDTHS.items()
    }
    return given | {"fold": np.repeat([0, 1, 2], [3, 20, 14])}


@pytest.fixture(scope="module")
def sums(rows, tmp_path_factory):
    directory = tmp_path_factory.mktemp("moments")
    np.savez(directory / "rows.npz", **rows)
    port, outs = free_port(), [directory / f"{index}.npz" for index in range(COUNT)]
    started = [
        start(
            "run_moments.py",
            directory / "rows.npz",
            port,
            COUNT,
            index,
            out,
            cache=directory,
            JAX_NUM_CPU_DEVICES=2,
        )
        for index, out in enumerate(outs)
    ]
    for done in finished(started):
        assert done.returncode == 0, done.stderr
        assert done.stdout == ""
    return [dict(np.load(out)) for out in outs]


def test_sums_over_processes_are_those_of_all_rows(rows, sums):
    together = np.concatenate([rows[name] for name in WIDTHS], axis=1)
    fold = rows["fold"]
    parts = {"with 0": together, "without 0": together, "sharded 0": together}
    parts |= {
        f"{how} {number + 1}": together[fold == number] for number in range(3) for how in ("with", "sharded")
    }
    for name, part in parts.items():
        centred = part - part.mean(0)
        expected = centred.T @ centred
        scale = np.sqrt(np.outer(expected.diagonal(), expected.diagonal()))
        for found in sums:
            assert found[f"{name} weight"] == len(part)
            np.testing.assert_allclose(found[f"{name} mean"], part.mean(0), rtol=1e-14)
            assert np.abs((found[f"{name} scatter"] - expected) / scale).max() < 1e-9, name


def test_processes_with_other_meshes_are_refused(sums):
    for found in sums:
        assert str(found["refused"]).startswith("process 0 uses 2 devices and process 1 uses 1;")


def test_every_process_has_the_same_sums(sums):
    for found in sums[1:]:
        assert found.keys() == sums[0].keys()
        for key, value in found.items():
            np.testing.assert_array_equal(value, sums[0][key])
