"""Procedural faces: reproducible, varied between people, alike within one, and nothing that pixels can read."""

import inspect
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxalign.core.errors import UserError
from jaxalign.vision import faces as procedural
from jaxalign.vision.faces import Conditions, renderer, synthetic_people
from jaxalign.vision.faces.identity import LIMIT, WIDTH
from jaxalign.vision.faces.nuisance import draw
from jaxalign.vision.images import Resize, View, load_batches, open_images

RANGES = [getattr(procedural, f"{name}_PEOPLE") for name in ("DEFAULT", "TRAINING", "CHOOSING", "HELD_OUT")]


def grid(persons: int, each: int, **options) -> np.ndarray:
    """Photographs of the first people, shape [persons, each, 64, 64, 3]."""
    who, which = np.repeat(np.arange(persons), each), np.tile(np.arange(each), persons)
    return procedural.photographs(who, which, **options).reshape(persons, each, 64, 64, 3)


def recognised(rows: np.ndarray, identities: np.ndarray) -> float:
    """Share of rows whose nearest other row, by cosine, is of the same person."""
    rows = rows.reshape(len(rows), -1)
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    scores = rows @ rows.T
    np.fill_diagonal(scores, -np.inf)
    return float(np.mean(identities[scores.argmax(1)] == identities))


def test_same_numbers_same_picture() -> None:
    assert np.array_equal(grid(4, 3), grid(4, 3))


def test_picture_depends_on_nothing_else_asked_for() -> None:
    """Not on order, neighbours, or where a block ends."""
    who, which = np.arange(300) % 7, np.arange(300) // 7
    everything = procedural.photographs(who, which)
    order = np.random.default_rng(0).permutation(300)
    assert np.array_equal(procedural.photographs(who[order], which[order]), everything[order])
    assert np.array_equal(procedural.photographs([3], [2])[0], everything[(who == 3) & (which == 2)][0])


def test_stream_gives_what_photographs_gives() -> None:
    batches = list(procedural.stream(range(5), 3, batch=4))
    assert [len(batch.images) for batch in batches] == [4, 4, 4, 3]
    assert np.concatenate([batch.people for batch in batches]).tolist() == np.repeat(range(5), 3).tolist()
    images = np.concatenate([batch.images for batch in batches])
    assert np.array_equal(images, grid(5, 3).reshape(-1, 64, 64, 3))


@pytest.mark.parametrize("person, photograph, seed", [(5, 1, 2), (6, 1, 1), (5, 2, 1)])
def test_every_number_matters(person: int, photograph: int, seed: int) -> None:
    first = procedural.photographs([5], [1], seed=1)
    assert np.mean(first != procedural.photographs([person], [photograph], seed=seed)) > 0.5


def test_seeds_are_independent_populations() -> None:
    first, second = procedural.identities(range(400), seed=0), procedural.identities(range(400), seed=1)
    correlation = np.corrcoef(first.T, second.T)[:WIDTH, WIDTH:]
    assert np.abs(correlation).max() < 5.0 / np.sqrt(400)


def test_identities_are_standard_numbers() -> None:
    numbers = procedural.identities(np.arange(4000))
    assert numbers.shape == (4000, WIDTH) and 30 <= WIDTH <= 40
    assert np.abs(numbers).max() <= LIMIT + 1e-6
    assert np.abs(numbers.mean(0)).max() < 0.08
    assert np.allclose(numbers.std(0), 0.89, atol=0.06)  # of a normal number cut at ±2.2
    correlation = np.corrcoef(numbers.T) - np.eye(WIDTH)
    assert np.abs(correlation).max() < 0.09


def test_images_are_photographs() -> None:
    images = grid(40, 4)
    assert images.dtype == np.uint8 and images.shape == (40, 4, 64, 64, 3)
    assert images.std((2, 3, 4)).min() > 5.0  # nobody vanishes in one colour
    assert 60 < images.mean() < 190
    assert np.mean((images == 0) | (images == 255)) < 0.15


def test_no_nan_at_the_limits() -> None:
    """The most extreme people there can be, before rounding hides it."""
    keys = jax.random.split(jax.random.key(3), 64)
    random = np.random.default_rng(0)
    extreme = LIMIT * random.choice([-1.0, 1.0], (64, WIDTH)).astype(np.float32)
    render = jax.jit(jax.vmap(lambda who, now: renderer._camera(renderer._scene(who, now), now)))
    drawn = jax.jit(jax.vmap(draw, (0, None)))
    for conditions in (Conditions(), Conditions.none()):
        assert np.isfinite(render(extreme, drawn(keys, conditions))).all()


def test_in_a_studio_a_person_always_looks_the_same() -> None:
    images = grid(20, 3, conditions=Conditions.none()).astype(float)
    assert np.abs(images[:, 0] - images[:, 1]).max() == 0
    between = np.abs(images[:, None, 0] - images[None, :, 0]).mean((2, 3, 4)) + 99 * np.eye(20)
    assert between.min() > 1.0


def test_a_person_is_more_alike_than_strangers_without_colour_and_pose() -> None:
    """Expression and blur stay: the face's geometry is what is left to recognise people by."""
    pose = ("shift", "roll", "scale", "yaw", "pitch")
    calm = Conditions(**dict.fromkeys((*pose, "light", "colour", "bar", "background"), 0.0))
    images = grid(40, 4, conditions=calm).reshape(160, -1).astype(float)
    identities = np.repeat(np.arange(40), 4)
    assert recognised(images - images.mean(0), identities) > 0.8


def test_pixels_do_not_recognise_people() -> None:
    images = grid(60, 5).reshape(300, -1).astype(np.float32)
    identities = np.repeat(np.arange(60), 5)
    assert recognised(images, identities) < 0.1
    centred = images - images.mean(0)
    assert recognised(centred, identities) < 0.1
    _, components = np.linalg.eigh(centred @ centred.T)  # whitened principal components, last ones largest
    assert recognised(components[:, -64:], identities) < 0.15


@pytest.mark.parametrize("name", list(inspect.signature(Conditions).parameters))
def test_every_condition_changes_the_picture(name: str) -> None:
    """Each alone, at twice its strength or with certainty, against the studio."""
    strength = 1.0 if name in ("glasses", "bar", "background") else 2 * getattr(Conditions(), name)
    alone = grid(4, 4, conditions=Conditions(**{**vars(Conditions.none()), name: strength}))
    studio = grid(4, 4, conditions=Conditions.none())
    changed = np.abs(alone.astype(int) - studio).reshape(16, -1).max(1)
    assert np.mean(changed > 3) > 0.8


@given(st.integers(0, 2**31 - 1), st.integers(0, 2**31 - 1), st.integers(0, 2**32 - 1))
@settings(max_examples=15, deadline=None)
def test_any_number_is_a_person(person: int, photograph: int, seed: int) -> None:
    image = procedural.photographs([person], [photograph], seed=seed)
    assert image.shape == (1, 64, 64, 3) and image.std() > 3


def test_ranges_of_people_do_not_meet() -> None:
    for index, one in enumerate(RANGES):
        for other in RANGES[:index]:
            assert not set(range(one.start, one.stop, 1000)) & set(other)
            assert one.start >= other.stop or other.start >= one.stop


@pytest.mark.parametrize(
    ("who", "which", "says"),
    [
        ([1, 2], [0], "as many"),
        ([-1], [0], "from 0 to"),
        ([2**31], [0], "from 0 to"),
        ([0.5], [0], "whole numbers"),
        ([[1]], [[0]], "list"),
    ],
)
def test_bad_numbers_are_one_sentence(who: list, which: list, says: str) -> None:
    with pytest.raises(UserError, match=says):
        procedural.photographs(who, which)
    with pytest.raises(UserError, match="at least 1"):
        next(procedural.stream(range(3), 0))


def test_nobody_is_nobody() -> None:
    assert procedural.photographs([], []).shape == (0, 64, 64, 3)
    assert list(procedural.stream(range(0), 2)) == []


def test_one_program_for_any_number_of_photographs() -> None:
    procedural.photographs([0], [0])
    programs = synthetic_people._render._cache_size  # pyright: ignore[reportAttributeAccessIssue]
    before = programs()
    for count in (1, 5, 256, 300):
        turned = Conditions(yaw=count / 1000)
        procedural.photographs(np.arange(count), np.zeros(count, int), conditions=turned)
    assert programs() == before


def test_callers_settings_change_nothing() -> None:
    """Under 64-bit numbers and strict promotion the same pictures come, to a level of rounding."""
    expected = grid(3, 2)
    with jax.enable_x64(True), jax.numpy_dtype_promotion("strict"):
        assert np.abs(grid(3, 2).astype(int) - expected).max() <= 1


def test_a_source_of_images_has_photographs_of_the_default_people() -> None:
    source = open_images("faces:40x7")
    samples = source.samples
    assert samples is not None
    assert (source.dataset, len(samples)) == ("faces-40x7", 280)
    names = ["person00000/000", "person00000/006", "person00001/000"]
    assert [samples[k].sample_id for k in (0, 6, 7)] == names
    assert len({sample.identity for sample in samples}) == 40
    batches = list(load_batches(source, [View(resize=Resize(64, 64))], 100, start=30))
    images = np.concatenate([batch.images[0] for batch in batches])
    numbers = np.arange(30, 280)
    who = [procedural.DEFAULT_PEOPLE[k] for k in (numbers // 7).tolist()]
    np.testing.assert_array_equal(images, procedural.photographs(who, numbers % 7))
    assert [sample for batch in batches for sample in batch.samples] == list(samples[30:])


@pytest.mark.parametrize("size", ["1x8", "300", "0x0", "3x-1", "9999999x1", "3x0"])
def test_what_is_no_number_of_people_is_refused(size: str) -> None:
    with pytest.raises(UserError, match=f"faces:300x8, with 2 people or more; got faces:{size}"):
        open_images(f"faces:{size}")


def test_memory_stays_flat() -> None:
    """In a process of its own: 1,500 more photographs after the first 500 add next to nothing."""
    code = """
import resource
from jaxalign.vision import faces as procedural
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
for _ in procedural.stream(range(50), 10): pass
first = peak()
for _ in procedural.stream(range(50, 200), 10): pass
print(peak() - first)
"""
    root = pathlib.Path(__file__).resolve().parents[3]
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert float(out.stdout) < 50.0  # MB
