"""What commands refuse: one sentence on standard error, exit status 2, and nothing is written."""

import json
import shutil

import pyarrow.parquet
import pytest
from commands import run
from numpy_encoders import write_people
from planted import make_store, planted, refused_with

from experiments import (
    capacity,
    data_efficiency,
    embed,
    families,
    geometry,
    pairwise,
    rank_sweep,
    ridge_path,
    stability,
    study,
    sweep,
    transfer,
)
from experiments.benchmarks import evaluation, scale, scale_moments
from experiments.benchmarks import pairwise as pairwise_benchmark
from experiments.benchmarks import study as study_benchmark
from jaxalign.data import EmbeddingStore

SMALL, WIDE = "python:numpy_encoders:small", "python:numpy_encoders:wide"
ONE, BOTH = f"--models={SMALL}", f"--models={SMALL},{WIDE}"
TOGETHER = "--coordinator=a:1 --num_processes=2 --process_id=0"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The working directory of every command: photographs, a good store, and stores that do not go with it."""
    place = tmp_path_factory.mktemp("place")
    write_people(place / "faces", people=3, each=2)
    make_store(place / "planted")
    rows, people = planted(people=8)
    alone = {"delta": rows["alpha"], "gamma": rows["gamma"]}
    wider = {**rows, "alpha": rows["gamma"]}
    for name, given, dataset in (
        ("alone", alone, "alone"),
        ("wider", wider, "wider"),
        ("few", rows, "few"),
        ("twin", rows, "planted"),
    ):
        EmbeddingStore.create(place / name, given, people, dataset=dataset)
    return place


REFUSED = [  # command, its flags, and what further flags are refused with
    (
        pairwise,
        "--store=planted --out=deep/out --seeds=1",
        {
            "--draws=2": "add --open_set",
            "--store=few --scores=cosine,snorm,plda": "takes 20 training people or more, and there are 5",
            "--fpir=0.5": "add --open_set",
            "--open_set --draws=0": "--draws takes a whole number of 1 or more, got 0",
            "--open_set --fpir=2": "--fpir takes numbers above 0",
            "--open_set --gallery=first": "leave --gallery out",
            "--prior=0.1": "add --calibration",
            "--calibration --prior=1": "--prior takes a number between 0 and 1",
            "--calibration --cost_miss=0": "--cost_miss and --cost_false",
            "--calibration --gallery=pooled": "leave --gallery out",
            "--open_set --train_fraction=0.94": "--open_set, test people of seed 1",
            "--models=alpha,delta": "delta",
            "--models=alpha": "two encoders",
            "--models=alpha,alpha": "twice",
            "--sources=delta": "no encoder 'delta' among alpha, beta, gamma",
            "--sources=alpha --targets=alpha": "no pair",
            "--methods=ridge,magic": "no method 'magic'; there are identity",
            "--protocol=mine": "default or published",
            "--modles=all": "--models",
            "alpha": "alpha",
            "--l2=-1": "--l2",
            "--protocol=published --l2=3": "fixes --l2=0.1",
            "--protocol=published --normalize=none": "fixes --normalize",
            "--ranks=0": "--ranks",
            "--ranks=100000": "--ranks asks for 100000",
            "--ranks=3 --methods=ridge": "--ranks applies to",
            "--ranks=cv --methods=shared": "reduced_rank",
            "--seeds=a": "--seeds",
            "--fmr=2": "--fmr",
            "--train_fraction=1.5": "--train_fraction",
            "--train_fraction=0.001": "people",
            "--measures=speed": "--measures",
            "--heatmaps=rank3": "--heatmaps",
            "--normalize=l3": "--normalize",
            "--folds=1": "--folds",
            "--folds=25": "fewer people than folds",
            "--pair_list=nothing.txt": "nothing.txt",
            "--pair_list=x.csv --measures=identification": "--pair_list",
            "--store=nowhere": "nowhere",
            "--store=": "--store is empty",
            "--devices=0": "from 1 to 8, the cpu devices of this process; got 0",
            "--devices=9": "from 1 to 8, the cpu devices of this process; got 9",
            "--gallery=first --intervals=40": "--intervals goes with --gallery=all",
            "--controls=pixels": "needs the photographs",
            "--controls=own,luck": "there is no control 'luck'",
            "--hosts=auto --process_id=0": "--hosts=auto and --process_id",
            "--coordinator=127.0.0.1:1": "--num_processes and --process_id",
            f"{TOGETHER} --process_id=2": "got 2",
            f"{TOGETHER} --coordinator=a": "host:port",
            f"{TOGETHER} --images=folder:x --models=clip": "--images",
            f"{TOGETHER} --save_maps": "--save_maps",
        },
    ),
    (
        pairwise,
        "--out=deep/out --seeds=1",
        {
            "--images=folder:faces": "--images needs --models",
            f"--images=faces {ONE}": "Did you mean folder:faces?",
            f"--images=folder:faces {ONE},nothing": "encoder 'nothing' is not known",
            f"--images=folder:faces {ONE}": "at least two encoders",
            f"--images=folder:faces {BOTH} --crop=round": "round",
            f"--images= {BOTH}": "--images is empty",
            f"--images=faces:1x8 {BOTH}": "2 people or more; got faces:1x8",
            "--models=a,b": "encoder 'a' is not known",
        },
    ),
    (
        sweep,
        "--out=deep/out",
        {
            "": "--stores is missing",
            "--stores=nowhere": "there is no store at nowhere",
            "--stores=planted,planted": "twice",
            "--stores=planted,twin": "hold a data set of one name",
            "--stores=planted --models=alpha,delta": "delta",
            "--stores=planted --l2=1 --penalties=1": "exclude each other",
            "--stores=planted --penalties=1,-1": "--penalties takes a number above 0",
            "--stores=planted --penalties=1,1.0": "--penalties names one twice",
            "--stores=planted --penalties=cv,gcv": "not both",
            "--stores=planted --penalties=1 --methods=linear": "applies to",
            "--stores=planted --penalties=1 --protocol=published": "fixes the penalty",
            "--stores=planted --part=3/2": "--part",
            "--stores=planted --part=half": "--part",
            "--stores=planted --part=1/2 --workers=2": "exclude each other",
            "--stores=planted --workers=0": "--workers",
            "--stores=planted --cluster=auto": "--cluster needs --workers",
            "--stores=planted --stale_seconds=9": "--stale_seconds",
            "--stores=planted --minutes=-1": "--minutes",
            "--stores=planted --merge_only": "there is no sweep",
            "--stores=planted --sources=delta": "no encoder 'delta'",
            "--stores=planted --out=faces": "p0",
        },
    ),
    (
        embed,
        "",
        {
            f"{ONE} --out=new": "--images is missing",
            "--images=folder:faces --out=new": "--models is missing",
            f"--images=folder:faces {ONE}": "--out is missing",
        },
    ),
    (
        embed,
        f"--images=folder:faces --out=new {ONE}",
        {
            "--images=faces": "images are given as folder:DIR",
            "--images=zip:faces": "images are given as folder:DIR",
            "--images=folder:nowhere": "nowhere is missing",
            "--models=magic:1": "encoder 'magic:1' is not known",
            "--models=onnx:nowhere.onnx": "there is no file nowhere.onnx",
            f"{ONE},,{WIDE}": f"{ONE},,{WIDE} has an empty item",
            f"{ONE},": f"{ONE}, has an empty item",
            f"{ONE},{SMALL}": "there is already an encoder 'small'",
            "--crop=center:2": "above 0 and at most 1, got 2.0",
            "--crop=landmarks": "faces has no landmarks for 6 of 6 photographs",
            "--bad_images=mend": "--bad_images takes fail or skip; got 'mend'",
            "--dtype=int8": "--dtype takes float16 or float32 or bfloat16; got 'int8'",
            "--batch_size=0": "--batch_size takes a positive integer; got '0'",
            "--split=train": "the option split",
            "--config=aligned": "the option config",
            "--out=faces": "faces exists and is not a store",
            "--out=faces/p0/00.png": "00.png exists and is not a store",
        },
    ),
    (
        families,
        "--store=planted --out=deep/out",
        {
            "--families=x:alpha+zeta": "an encoder 'zeta' that is not there",
            "--families=x:alpha+beta": "no family has the encoder 'gamma'",
            "--families=alpha": "--families=alpha",
            "--families=nothing.csv": "nothing.csv is not a CSV",
            "--models=alpha,beta": "at least 3 encoders, got alpha, beta",
        },
    ),
    (
        geometry,
        "--store=planted --out=deep/out",
        {
            "--neighbours=500": "500 nearest neighbours need more rows than that; there are 84",
            "--rows=15": "20 nearest neighbours need more rows",
            "--permutations=0": "permutations: expected at least 1",
            "--results=nowhere": "--results=nowhere",
            "--models=alpha,zeta": "zeta",
            "--methods=magic": "no method 'magic'",
        },
    ),
    (
        transfer,
        "--out=deep/out",
        {
            "--stores=planted": "at least two directories",
            "--stores=planted,alone": "'alone' has delta, gamma",
            "--stores=planted,wider": "its width is 12 in 'planted', 16 in 'wider'",
            "--stores=planted,twin": "several data sets are called 'planted'",
            "--stores=planted,few --protocol=published --methods=ridge": "--same_names=unrelated",
        },
    ),
    (
        study,
        "--stores=planted --out=deep/out",
        {
            "--stores=planted,alone --parts=transfer": "'alone' has delta, gamma",
            "--parts=luck": "there is no part 'luck'",
            "--parts=transfer": "--parts=transfer takes at least two stores",
            "--rank_k=1,37": "rank 37; the gallery of seed 42 has 36 rows",
            "--families=one:alpha+zeta": "an encoder 'zeta' that is not there",
            "--tables=doc": "there is no format 'doc'",
            "--fmr=2": "--fmr takes numbers above 0",
        },
    ),
    (
        ridge_path,
        "--store=planted --out=deep/out",
        {"--rank_k=37": "--rank_k asks for rank 37", "--penalties=0,1": "--penalties takes numbers above 0"},
    ),
    (
        data_efficiency,
        "--store=planted --out=deep/out",
        {
            "--train_people=5,22": "a training size of 22 is asked for; there are 2 to 21",
            "--train_pairs=99": "a training size of 99 is asked for; there are 2 to 84",
            "--train_fractions=0.9": "a training size of 27 is asked for; there are 2 to 21",
            "--l2=cv": "--l2 takes one number or gcv",
        },
    ),
    (
        rank_sweep,
        "--store=planted --out=deep/out",
        {
            "--ranks=99": "--ranks asks for 99",
            "--methods=ridge": "there is no method 'ridge'; there are reduced_rank",
        },
    ),
    (
        capacity,
        "--store=planted --out=deep/out",
        {"--features=0": "--features takes a whole number of 1 or more"},
    ),
    (
        stability,
        "--store=planted --out=deep/out",
        {"--methods=reduced_rank": "reduced_rank is not among its methods"},
    ),
    (
        scale_moments,
        "--out=deep/out",
        {"--rows=1": "--rows takes", "--scratch=nowhere": "nowhere: the store takes"},
    ),
    (scale, "--out=deep/out", {"--rows=1000000000000": "give --scratch, or fewer --rows"}),
    (pairwise_benchmark, "--out=deep/out", {"--peers=matlab": "--peers: there is no peer 'matlab'"}),
    (evaluation, "--out=deep/out", {"--sizes=many": "--sizes takes"}),
    (
        study_benchmark,
        "--out=deep/out",
        {
            "": "--store is missing",
            "--store=planted --rows=5000": "--rows asks for 5,000 photographs",
            "--store=planted --rows=120 --parts=nothing": "there is no part 'nothing'",
        },
    ),
]
CASES = [
    pytest.param(driver, f"{given} {more}", named, id=f"{driver.__name__.partition('.')[2]} {more}")
    for driver, given, cases in REFUSED
    for more, named in cases.items()
]


@pytest.mark.parametrize(("driver", "flags", "named"), CASES)
def test_a_mistake_is_one_sentence_and_nothing_is_written(driver, flags, named, place, tmp_path, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    before = sorted(place.rglob("*"))
    assert named in refused_with(run(driver, *flags.split()))
    assert sorted(place.rglob("*")) == before


def alter(name, change):
    """Changes the bytes of one file of a store."""
    return lambda store: (store / name).write_bytes(change((store / name).read_bytes()))


def drop_identities(store):
    path = store / "samples.parquet"
    pyarrow.parquet.write_table(pyarrow.parquet.read_table(path).drop_columns(["identity"]), path)


def one_photograph_a_person(store):
    shutil.rmtree(store)
    make_store(store, identities=[f"p{k}" for k in range(120)])


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (alter("beta.npy", lambda rows: rows[:-100]), "beta.npy"),
        (alter("beta.npy", lambda rows: rows[:-1] + bytes([rows[-1] ^ 1])), "beta.npy"),
        (alter("manifest.json", lambda _: b"{"), "manifest.json"),
        (
            alter("manifest.json", lambda text: json.dumps({**json.loads(text), "rows": 7}).encode()),
            "differs",
        ),
        (lambda store: (store / "gamma.npy").unlink(), "gamma.npy"),
        (drop_identities, "identity"),
        (one_photograph_a_person, "no genuine comparison"),
    ],
    ids=["cut short", "altered", "bad manifest", "row count", "missing", "no identity", "one photograph"],
)
@pytest.mark.parametrize(("driver", "flag"), [(pairwise, "--store"), (sweep, "--stores")])
def test_a_spoilt_store_is_one_sentence_and_nothing_is_written(driver, flag, spoil, named, tmp_path):
    spoil(make_store(tmp_path / "store"))
    assert named in refused_with(run(driver, f"{flag}={tmp_path / 'store'}", f"--out={tmp_path / 'out'}"))
    assert [path.name for path in tmp_path.iterdir()] == ["store"]
