"""Three real processes exchange values and sum moments over loopback; each has only its rows."""

import json

import numpy as np
import oracles
import pytest
from processes import TESTS, finished, free_port, start

from jaxalign.moments.hosts import Hosts

COUNT, ROWS = 3, 37
WIDTHS = {"alpha": 5, "beta": 3}


@pytest.fixture(scope="module")
def rows():
    """Few rows with large means, and folds that some processes have none of."""
    random = np.random.default_rng(0)
    given = {"fold": np.repeat([0, 1, 2], [3, 20, 14])}
    for name, width in WIDTHS.items():
        given[name] = random.normal(size=(ROWS, width)) * 10.0 ** -np.arange(width) + 1e3
    return given


@pytest.fixture(scope="module")
def sums(rows, tmp_path_factory):
    directory = tmp_path_factory.mktemp("moments")
    np.savez(directory / "rows.npz", **rows)
    script, given, port = TESTS / "moments/run_moments.py", directory / "rows.npz", free_port()
    outs = [directory / f"{index}.npz" for index in range(COUNT)]
    numbered = enumerate(outs)
    started = [start(script, given, port, COUNT, index, out, cache=directory) for index, out in numbered]
    for done in finished(started):
        assert done.returncode == 0, done.stderr
    return [dict(np.load(out)) for out in outs]


def test_values_pass_in_the_order_of_processes(sums):
    gathered = [json.loads(str(found.pop("gathered"))) for found in sums]
    assert gathered == [[{"from": index, "ü": float("inf")} for index in range(COUNT)], None, None]
    assert {str(found["broadcast"]) for found in sums} == {'[0, ""]'}


def test_sums_over_processes_are_those_of_all_rows_everywhere(rows, sums):
    fold = rows["fold"]
    parts = {"without 0": fold >= 0}
    for how in ("with folds", "rows on two devices", "matrix on two devices"):
        parts |= {f"{how} 0": fold >= 0} | {f"{how} {k + 1}": fold == k for k in range(3)}
    for name, part in parts.items():
        mean, expected = oracles.second_moments({name: rows[name][part] for name in WIDTHS})
        scale = np.sqrt(np.outer(expected.diagonal(), expected.diagonal()))
        for found in sums:
            assert found[f"{name} weight"] == part.sum()
            np.testing.assert_allclose(found[f"{name} mean"], mean, rtol=1e-14)
            assert np.abs((found[f"{name} scatter"] - expected) / scale).max() < 1e-9, name
            np.testing.assert_array_equal(found[f"{name} scatter"], sums[0][f"{name} scatter"])


def test_processes_with_other_meshes_are_refused(sums):
    for found in sums:
        assert "over 1 and moments over 2 devices, process 1 over 1 and 1;" in str(found["refused"])


@pytest.mark.parametrize("index", [0, 1])
def test_processes_that_do_not_come_are_a_sentence_in_time(index, tmp_path):
    code = "from jaxalign.moments import hosts; hosts.START_SECONDS = 1; hosts.Hosts.start('127.0.0.1:{}', 2, {})"
    (done,) = finished([start("-c", code.format(free_port(), index), cache=tmp_path)])
    assert done.returncode == 2
    assert done.stderr.startswith("error: not all processes reached the coordinator 127.0.0.1:")


@pytest.mark.parametrize("whole", ["pair", "source", "unordered"])
@pytest.mark.parametrize("shares", [1, 2, 3, 7, 50])
def test_every_pair_is_in_one_share(whole, shares):
    names = "abcdefg"
    pairs = [(s, t) for s in names for t in names if s != t][1:]
    parts = [Hosts(index, shares).pairs(pairs, whole) for index in range(shares)]
    assert sorted(pair for part in parts for pair in part) == pairs
    assert all(part == sorted(part) for part in parts)
    if whole != "pair":
        kept_whole = [
            {source if whole == "source" else frozenset((source, target)) for source, target in part}
            for part in parts
        ]
        assert sum(map(len, kept_whole)) == len(set().union(*kept_whole))
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= {"pair": 1, "source": 7, "unordered": 3}[whole]


def test_shares_of_rows_differ_by_one_row_at_most():
    for count, shares in ((10, 3), (2, 5), (0, 2)):
        parts = [range(count)[Hosts(index, shares).share(count)] for index in range(shares)]
        assert [row for part in parts for row in part] == list(range(count))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
