"""Further parts of ``experiments.security``: keys of templates, collections without known pairs, attributes."""

import pathlib
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import NamedTuple, Self

import jax
import numpy as np

from experiments.run.aligning import Aligning
from experiments.run.analysis import Job
from experiments.run.attacks import Attacks
from experiments.run.data import Data
from experiments.run.measuring import Measuring, Pair
from jaxalign.biometrics import Sampled
from jaxalign.core.devices import concurrently
from jaxalign.core.errors import UserError
from jaxalign.core.people import TrainingGrowth
from jaxalign.core.rows import unit_rows
from jaxalign.report import Row
from jaxalign.security import attributes, keys, matching
from jaxalign.security.linkability import linkability
from jaxalign.security.matching import Guess, Space

NOISES = (0.0, keys.OTHER_IMAGE)
TRIED = 6  # numbers of known pairs, besides the width of the network and one less
MOST_TIMES = 4  # the width, of known pairs, where exactly the width does not determine the key
# Of each kind of key the attacks that break it with the fewest pairs, noise-free or noisy, on real networks.
ATTACKS = {
    "orthogonal": ("procrustes", "least_squares"),
    "projection": ("least_squares", "ridge"),
    "sign_permutation": ("assignment",),
    "sign_codes": ("ridge",),
}
DETERMINED = 1e-6  # relative error of a key that is known
BROKEN = 0.95  # share of the victims whom a broken key forges
RESTARTS, SAME_ROWS, MOST_DIFFERENT = 3, 300, 1000  # photographs of each collection
SAME_SEEDS, PEOPLE_SEEDS = (0, 5, 20), (0, 10, 40, 160)
SUCCESS = 0.5  # of the rank-1 rate that all pairs give, from which on a restart has succeeded
NEVER = "no number of pairs that was tried is enough"


def share(at: Attacks, victims: np.ndarray, right: np.ndarray) -> Sampled:
    """The share of test rows ``victims`` for which ``right`` holds, shapes [n], resampled by people."""
    codes = at.plan.probe_codes[victims]
    sums = [np.bincount(codes, weights, at.plan.people) for weights in (right, np.ones(len(right)))]
    drawn = at.weights.astype(np.float64)
    with np.errstate(invalid="ignore"):
        return Sampled(float(np.mean(right)), (drawn @ sums[0]) / (drawn @ sums[1]))


def first_photographs(at: Attacks) -> np.ndarray:
    """The first test row of every person."""
    return np.sort(np.unique(at.plan.probe_codes, return_index=True)[1])


def centred(at: Attacks, name: str) -> list[np.ndarray]:
    """Training and test rows less the training mean, of length 1: signs of rows that share a mean are all alike."""
    mean = unit_rows(at.train[name]).mean(axis=0)
    return [unit_rows(unit_rows(rows) - mean) for rows in (at.train[name], at.test[name])]


def keyed(at: Attacks) -> Iterator[Row]:
    """How many known pairs break the keys of each network, and what two keys of one person leave to link."""
    names = list(dict.fromkeys(target for _, target in at.run.pairs))
    for name, rows in zip(names, concurrently(lambda name: list(_keyed_network(at, name)), names)):
        yield from rows
        at.step("keys of", (name, name))


def _keyed_network(at: Attacks, name: str) -> Iterator[Row]:
    victims, seed = first_photographs(at), at.measuring.seed
    train, test = centred(at, name)
    for kind in keys.KINDS:
        key = keys.Key.make(kind, train.shape[1], seed)
        threshold = keys.keyed_threshold(key, test, at.measuring.identities, at.job.values.at_fmr)
        several = len(np.unique(at.owners)) < len(at.owners)  # somebody has another image
        for noise in NOISES[: 1 + several]:
            known = keys.known_pairs(key, train, at.owners, noise, seed)
            exact = not noise and kind != "sign_codes"
            most = min(len(known[0]), train.shape[1] * (1 if exact else MOST_TIMES))
            pairs = np.append(np.geomspace(1, most, TRIED), train.shape[1] - np.arange(2))
            pairs = sorted({int(number) for number in np.round(pairs) if 1 <= number <= len(known[0])})
            found = list(keys.attempts(key, known, test[victims], threshold, pairs, ATTACKS[kind]))
            yield from _key_rows(at, (name, name), found, victims, f"noise={noise}")
    yield from _linked_keys(at, name, train, test)


def _key_rows(
    at: Attacks, pair: Pair, found: list[keys.Attempt], victims: np.ndarray, variant: str
) -> Iterator[Row]:
    at_fmr = f"@fmr={at.job.values.at_fmr:g}"
    for one in found:
        here = {"axis": "known_pairs", "at": float(one.pairs), "pairs_owned": one.pairs, "variant": variant}
        method = f"{one.kind}:{one.attack}"
        yield at.row(pair, method, f"key_accepted{at_fmr}", share(at, victims, one.accepted), **here)
        yield at.row(pair, method, "key_error", one.error, **here)
        yield at.row(pair, method, "key_undetermined", float(one.undetermined), **here)
    ways = {f"pairs_to_break_key{at_fmr}": {"accepted": BROKEN}}
    ways["pairs_to_know_key"] = {"accepted": 0.0, "error": DETERMINED}
    for measure, goal in ways.items():
        for attack, least in keys.pairs_to_break(found, **goal).items():
            value, reason = (np.nan, NEVER) if least is None else (float(least), "")
            yield at.row(pair, f"{found[0].kind}:{attack}", measure, value, variant=variant, reason=reason)


def _linked_keys(at: Attacks, name: str, train: np.ndarray, test: np.ndarray) -> Iterator[Row]:
    """D_sys between the databases of two keys, and without keys."""
    people = at.measuring.identities
    seeds = at.measuring.seed, at.measuring.seed + 1
    scores = {"none:cosine": keys.link_scores(test, test, people)}
    for kind in keys.KINDS:
        pair = [keys.Key.make(kind, train.shape[1], seed) for seed in seeds]
        one, other = (key.protect(test) for key in pair)
        for link in keys.LINKS:
            known = (pair[0].protect(train), pair[1].protect(train)) if link == "pairs" else None
            if link != "sorted" or kind != "sign_codes":  # absolute values of codes say nothing
                scores[f"{kind}:{link}"] = keys.link_scores(one, other, people, link, known)
    for method, (mated, others) in scores.items():
        found = linkability(mated, others, omega=at.job.values.omega, seed=at.measuring.seed)
        yield at.row((name, name), method, "key_d_sys", found.d_sys.value)
        yield at.row((name, name), method, "key_d_sys_less_null", found.d_sys.less_null)


def matched(at: Attacks) -> Iterator[Row]:
    """Two leaked collections without known pairs, or with few: each restart, and the one that the attacker chooses."""
    pairs = _once(at.run.pairs)
    for pair, rows in zip(pairs, concurrently(lambda pair: list(_matched_pair(at, pair)), pairs)):
        yield from rows
        at.step("collections without known pairs", pair)


def _once(pairs: Sequence[Pair]) -> list[Pair]:
    """One of both directions, which have the same rotations."""
    return [pair for pair in pairs if pair[0] < pair[1] or pair[::-1] not in pairs]


def _matched_pair(at: Attacks, pair: Pair) -> Iterator[Row]:
    first = first_photographs(at)
    rest = np.setdiff1d(np.arange(at.plan.probes), first)
    one, other = (at.train[name] for name in pair)
    probes = at.test[pair[0]][rest], at.plan.probe_codes[rest]
    gallery = at.test[pair[1]][first], at.plan.probe_codes[first]
    everything = Space.of(one), Space.of(other)
    all_pairs = Guess(matching.procrustes(*(space.rows for space in everything)), 1.0, 0)
    best = matching.recognised(all_pairs, everything, probes, gallery)
    yield at.row(pair, "all_pairs", "matched_rank1", share(at, rest, best), pairs_owned=len(one))
    yield at.row(pair, "all_pairs", "matched_chance", 1 / len(first))
    for method, seeds, spaces, guesses in _collections(at, one, other):
        right = [matching.recognised(guess, spaces, probes, gallery) for guess in guesses]
        marks = {"axis": "seeds", "at": float(seeds), "pairs_owned": seeds}
        for guess, found in zip(guesses, right):
            own = {**marks, "variant": f"restart={guess.restart}"}
            yield at.row(pair, method, "matched_rank1", share(at, rest, found), **own)
            yield at.row(pair, method, "matched_agreement", guess.agreement, **own)
        chosen = right[int(np.argmax([guess.agreement for guess in guesses]))]
        yield at.row(pair, method, "matched_rank1_chosen", share(at, rest, chosen), **marks)
        succeeded = np.mean([found.mean() >= SUCCESS * best.mean() for found in right])
        yield at.row(pair, method, "matched_success", float(succeeded), comparisons=len(right), **marks)


def _collections(
    at: Attacks, one: np.ndarray, other: np.ndarray
) -> Iterator[tuple[str, int, tuple[Space, Space], list[Guess]]]:
    """Both situations by their names, with the number of seeds (photographs or people), the spaces and the guesses."""
    seed = at.measuring.seed
    random = np.random.default_rng(seed)
    count = min(SAME_ROWS, len(one))
    order = random.permutation(count)
    x, y, place = one[:count], other[:count][order], np.argsort(order)
    for seeds in (number for number in SAME_SEEDS if number < count):
        pairs = np.stack([np.arange(seeds), place[:seeds]], axis=1)
        guesses = list(matching.same_photographs(x, y, pairs, restarts=RESTARTS, seed=seed))
        yield "same_photographs", seeds, (Space.of(x), Space.of(y)), guesses
    people = random.permutation(np.unique(at.owners))
    for seeds in (number for number in PEOPLE_SEEDS if number < len(people) // 2):
        rows = [np.flatnonzero(np.isin(at.owners, people[:seeds]))] * 2
        halves = [
            np.flatnonzero(np.isin(at.owners, people[seeds + side :: 2]))[:MOST_DIFFERENT] for side in (0, 1)
        ]
        x, y = (whole[np.append(*part)] for whole, part in zip((one, other), zip(rows, halves)))
        pairs = np.stack([np.arange(len(rows[0]))] * 2, axis=1)
        for start in matching.STARTS if not seeds else ("anchors",):
            options = {"anchors": min(40, len(x), len(y)), "restarts": RESTARTS, "seed": seed}
            guesses = list(matching.different_people(x, y, pairs, start=start, **options))
            method = "different_people" if seeds else f"different_people:{start}"
            yield method, seeds, (Space.of(x), Space.of(y)), guesses


def labels(job: Job) -> tuple[np.ndarray, dict[str, np.ndarray]] | None:
    """Rows of the store that have attributes, and these: of --attributes, or the traits of synthetic faces.

    The traits are those that the bundled attribute encoder was trained for, in two values: below and above the median.
    None where there are neither.
    """
    store = job.data.store
    if job.values.attributes is not None:
        return attributes.read_attributes(pathlib.Path(job.values.attributes), store.sample_ids)
    if not (job.config.images or "").startswith("faces:"):
        return None
    from jaxalign.vision import faces
    from jaxalign.vision.zoo.specification import ATTRIBUTES

    numbers = np.array([int(person.removeprefix("person")) for person in store.identities.tolist()])
    people, place = np.unique(numbers, return_inverse=True)
    traits, names = faces.identities(people), list(faces.TRAITS)
    values = {names[column]: traits[place, column] for column in ATTRIBUTES.columns}
    return np.arange(store.rows), attributes.above_median(values)


def steps(run: Aligning, methods: int) -> dict[str, int]:
    """How many steps of progress each part has on one split, with so many maps."""
    return {
        "keys": len({target for _, target in run.pairs}),
        "matching": len(_once(run.pairs)),
        "attributes": methods * len(run.pairs),
    }


class Labelled(NamedTuple):
    """Which rows of a side have labels, ascending, and the lines of their labels, shapes [n]."""

    rows: np.ndarray
    lines: np.ndarray

    @classmethod
    def of(cls, data: Data, rows: np.ndarray, labelled: np.ndarray) -> Self:
        """Of usable rows by their indices; ``labelled`` are rows of the store."""
        side = data.rows[rows]
        there = np.flatnonzero(np.isin(side, labelled))
        return cls(there, np.searchsorted(labelled, side[there]))


def require_labels(job: Job, splits: Sequence[Measuring], parts: Collection[str]) -> None:
    """Raises ``UserError`` for attributes that no probe can be fitted to, or asked for where there are none."""
    if "attributes" not in parts:
        return
    found = labels(job)
    if found is None:
        if job.values.parts != "all":
            raise UserError("--parts=attributes takes labels: give a CSV file by --attributes.")
        return
    labelled, columns = found
    for split in (measuring.split for measuring in splits):
        train, test = (Labelled.of(job.data, side, labelled) for side in (split.train, split.test))
        if not len(train.rows) or not len(test.rows):
            raise UserError(
                f"attributes: {len(train.rows):,} photographs of training people and {len(test.rows):,} of test people "
                f"of seed {split.seed} have labels; some of either are needed."
            )
        for name, values in columns.items():
            attributes.require_values(name, values[train.lines])


def inverted(at: Attacks) -> Iterator[Row]:
    """Attributes of the victims, read by linear probes in either network and across; none where nobody has labels."""
    found = labels(at.job)
    if found is None:
        return
    labelled, columns = found
    split = at.measuring.split
    orders = TrainingGrowth.by_rows(split).rows, split.test  # those of at.train and at.test
    train, test = (Labelled.of(at.run.data, rows, labelled) for rows in orders)
    for method in at.methods:
        for pair, fit in at.maps[method].items():
            known = [at.train[name][train.rows] for name in pair]
            asked = [at.test[name][test.rows] for name in pair]
            mapped = jax.tree.map(np.asarray, fit.to_target(True)).apply_on_host(asked[0])
            for name, values in columns.items():
                sides = (*known, values[train.lines]), (*asked, values[test.lines])
                result = attributes.inversion(name, sides[0], sides[1], mapped)  # pyright: ignore[reportArgumentType]
                for where in result._fields[1:]:
                    rate = share(at, test.rows, getattr(result, where))
                    yield at.row(pair, method, f"attribute_{where}:{name}", rate)
            at.step(f"attributes by {method}", pair)


PARTS: dict[str, Callable[[Attacks], Iterator[Row]]] = {
    "keys": keyed,
    "matching": matched,
    "attributes": inverted,
}
