"""The driver of security: its rows against the library on the same split, its page, and what it refuses."""

import json

import numpy as np
import pytest
from commands import read, run, succeed, value
from planted import make_store, planted, refused_with

from experiments import security
from jaxalign.core.people import limit_per_person, published_split

SMALL = ("--methods=ridge", "--intervals=50", "--fmr=0.01,0.05", "--at_fmr=0.05")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("security") / "store", *planted(people=60))


@pytest.fixture(scope="module")
def done(store):
    out = store.parent / "out"
    given = (f"--store={store}", "--models=alpha,gamma", "--max_per_person=3", f"--out={out}")
    succeed(security, *given, *SMALL, "--parts=injection,reidentification,linkability")
    return out


def test_a_small_cohort_is_left_out_with_a_note(tmp_path):
    few = make_store(tmp_path / "few", *planted(people=27))
    given = (
        f"--store={few}",
        "--models=alpha,gamma",
        f"--out={tmp_path / 'out'}",
        "--fmr=0.05",
        "--at_fmr=0.05",
    )
    told = succeed(security, *given, "--methods=ridge", "--intervals=0", "--parts=injection")
    note = "the score cohort is left out: a cohort takes 20 training people or more, and there are 18"
    assert note in told.stderr
    assert note in json.loads((tmp_path / "out" / "config.json").read_text())["warnings"]
    assert {row["score"] for row in read(tmp_path / "out")} == {"cosine"}


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_rows_agree_with_numpy(done):
    rows = read(done)
    given, people = planted(people=60)
    split = published_split(people, 42)
    test = limit_per_person(split.test, people, 3)
    x, y = (unit(given[name].astype(np.float64)) for name in ("alpha", "gamma"))
    (mx, my), train = (side[split.train].mean(axis=0) for side in (x, y)), split.train
    weights = np.linalg.solve(
        (x[train] - mx).T @ (x[train] - mx) + 0.1 * np.eye(12), (x[train] - mx).T @ (y[train] - my)
    )
    plain = (x[test] - mx) @ weights
    scale = np.sqrt((y[train] - my).var(axis=0).sum() / ((x[train] - mx) @ weights).var(axis=0).sum())
    same = people[test][:, None] == people[test]
    other = same & ~np.eye(len(test), dtype=bool)
    own = y[test] @ y[test].T
    threshold = np.sort(own[~same])[-int(0.05 * np.sum(~same)) - 1]
    all_ = {"source": "alpha", "target": "gamma", "pairs_owned": len(train), "score": "cosine"}
    for variant, mapped in (("plain", plain + my), ("restored", scale * plain + my)):
        accepted = unit(mapped) @ y[test].T > threshold
        for kind, mask in (
            ("same_image", np.eye(len(test), dtype=bool)),
            ("other_image", other),
            ("other_person", ~same),
        ):
            found = value(rows, **all_, variant=variant, measure=f"attack_{kind}@fmr=0.05")
            assert found == pytest.approx(accepted[mask].mean(), abs=2 / mask.sum())
    assert {
        row["pairs_owned"] for row in rows if row["method"] == "identity" and "attack" in row["measure"]
    } == {"0"}
    (verdict,) = (row for row in rows if "pairs_to_key" in row["measure"] and row["source"] == "alpha")
    assert 5 <= float(verdict["value"]) <= len(train) and verdict["method"] == "ridge"
    for method, low, high in (("identity", 0, 0.4), ("ridge", 0.7, 1)):
        assert low <= value(rows, method=method, source="alpha", measure="d_sys") <= high
    searched = [row for row in rows if row["measure"] == "reidentified_rank1" and row["method"] == "ridge"]
    assert {row["variant"] for row in searched if float(row["at"]) == 1e6} == {
        "extrapolated_log_linear",
        "extrapolated_pareto",
    }
    assert all(not row["variant"] for row in searched if float(row["at"]) < 1e6)


def test_an_attacker_may_fit_maps_by_gradient_to_the_photographs_owned(store, tmp_path):
    out, sizes = tmp_path / "out", ("5", "100")
    given = (f"--store={store}", "--models=alpha,gamma", f"--pairs_owned={','.join(sizes)}", f"--out={out}")
    fits = ("--methods=joint", "--fit_rank=8", "--steps=60", "--intervals=0")
    succeed(security, *given, *SMALL, *fits, "--parts=injection")
    measure, rows = "attack_same_image@fmr=0.05", read(out)
    unaligned = value(rows, method="identity", source="alpha", measure=measure, score="cosine")
    common = {"method": "joint", "source": "alpha", "measure": measure, "variant": "restored"}
    few, many = (value(rows, **common, pairs_owned=size, score="cosine") for size in sizes)
    assert unaligned + 0.3 < few < many


def test_the_page_has_the_verdict_and_says_what_it_is_for(done):
    page = (done / "report.html").read_text()
    for words in ("How many pairs make a leak a key", "you are responsible for", "EXTRAPOLATED", "D_sys"):
        assert words in page
    content = json.loads((done / "security.json").read_text())
    assert content["sizes"][0] == 5 and {d["method"] for d in content["densities"]} == {"identity", "ridge"}


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--pairs_owned=5,100000",), "100,000"),
        (("--fmr=0.000001,0.001",), "1e-06"),
        (("--omega=0",), "--omega"),
        (("--omega=inf",), "--omega"),
        (("--key=1.5",), "--key"),
        (("--at_fmr=0.02",), "--at_fmr"),
        (("--parts=injection,spells",), "spells"),
        (("--methods=identity",), "--methods"),
    ],
)
def test_bad_input_is_a_sentence_and_writes_nothing(store, tmp_path, flags, said):
    given: dict[str, str] = {}
    for flag in (*SMALL, *flags):
        name, _, value = flag.partition("=")
        given[name] = value
    given.update({"--at_fmr": "0.001"} if flags[0].startswith("--fmr") else {})
    out = tmp_path / "out"
    line = refused_with(
        run(
            security,
            f"--store={store}",
            "--models=alpha,gamma",
            *(f"{name}={value}" for name, value in given.items()),
            f"--out={out}",
        )
    )
    assert said in line and not out.exists()
