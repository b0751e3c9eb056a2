"""People and photographs by number: the same picture for the same seed, person and photograph, in any order."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Int32, PRNGKeyArray

from jaxalign.core.errors import UserError
from jaxalign.vision.faces import identity as identities_of
from jaxalign.vision.faces import nuisance as nuisances
from jaxalign.vision.faces.nuisance import Conditions, Nuisance
from jaxalign.vision.faces.renderer import render

SEED = 0
CONDITIONS = Conditions()
BLOCK = 256  # photographs in one program; memory does not grow with how many are asked for

# Who is for what, under ``SEED``. The ranges do not meet: an encoder is never shown, trained on or chosen by
# the people it is measured on, and the default data set holds none of those.
DEFAULT_PEOPLE = range(1_000_000)
TRAINING_PEOPLE = range(1_000_000, 2_000_000)
CHOOSING_PEOPLE = range(2_000_000, 3_000_000)
HELD_OUT_PEOPLE = range(3_000_000, 4_000_000)

_IDENTITY, _PHOTOGRAPH = 0, 1


class Photographs(NamedTuple):
    """Images [n, 64, 64, 3] of uint8, with the number [n] of the person and of the photograph among the person's."""

    people: np.ndarray
    numbers: np.ndarray
    images: np.ndarray


def identities(people: Sequence[int] | np.ndarray, seed: int = SEED) -> np.ndarray:
    """Who these people are: standard normal numbers in the order of ``TRAITS``, shape [n, 40], float32.

    Args:
      people: their numbers, each from 0 to 2³¹ − 1; shape [n].
      seed: of the population.
    """
    return np.asarray(_identities(jax.random.key(seed, impl="threefry2x32"), _numbers(people, "people")))


def photographs(
    people: Sequence[int] | np.ndarray,
    numbers: Sequence[int] | np.ndarray,
    seed: int = SEED,
    conditions: Conditions = CONDITIONS,
) -> np.ndarray:
    """Photographs of these people, shape [n, 64, 64, 3], uint8.

    Args:
      people: number of the person on each photograph, from 0 to 2³¹ − 1; shape [n].
      numbers: which of the person's photographs; shape [n]. People have as many as one asks for.
      seed: of the population.
      conditions: how strongly photographs of one person differ.

    Raises:
      UserError: a number is out of range, or there are not as many people as photographs.
    """
    who, which = _numbers(people, "people"), _numbers(numbers, "numbers")
    if len(who) != len(which):
        raise UserError(f"people and numbers must be as many; got {len(who):,} and {len(which):,}.")
    out = np.empty((len(who), 64, 64, 3), np.uint8)
    key = jax.random.key(seed, impl="threefry2x32")
    for start in range(0, len(who), BLOCK):
        stop = min(start + BLOCK, len(who))
        padding = (0, BLOCK - (stop - start))
        drawn = _draw(key, np.pad(who[start:stop], padding), np.pad(which[start:stop], padding), conditions)
        block = _render(*drawn)
        out[start:stop] = np.asarray(block)[: stop - start]
    return out


def stream(
    people: Sequence[int],
    each: int,
    seed: int = SEED,
    conditions: Conditions = CONDITIONS,
    batch: int = BLOCK,
) -> Iterator[Photographs]:
    """All photographs of some people, person by person, ``batch`` at a time; memory stays that of one batch.

    Args:
      people: their numbers, such as ``DEFAULT_PEOPLE[:300]``.
      each: photographs of each person.
      seed, conditions: as for ``photographs``.
      batch: photographs given at once; the last batch may be smaller.
    """
    if each < 1 or batch < 1:
        raise UserError(f"each and batch must be at least 1; got {each} and {batch}.")
    for start in range(0, len(people) * each, batch):
        index = np.arange(start, min(start + batch, len(people) * each))
        who = np.array([people[i] for i in (index // each).tolist()])
        yield Photographs(who, index % each, photographs(who, index % each, seed, conditions))


def _numbers(values: Sequence[int] | np.ndarray, name: str) -> np.ndarray:
    array = np.asarray(values)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        found = f"shape {array.shape} of {array.dtype.name}"
        raise UserError(f"{name} must be a list of whole numbers; got {found}.")
    if array.size and (array.min() < 0 or array.max() >= 2**31):
        raise UserError(f"{name} must be from 0 to 2,147,483,647; got {array.min():,} to {array.max():,}.")
    return array.astype(np.int32)


def _person(key: PRNGKeyArray, person: Int32[Array, ""]) -> Float[Array, " traits"]:
    return identities_of.draw(jax.random.fold_in(jax.random.fold_in(key, person), _IDENTITY))


@jax.jit
def _identities(key: PRNGKeyArray, people: Int32[Array, " n"]) -> Float[Array, "n traits"]:
    return jax.vmap(_person, (None, 0))(key, people)


# Two programs: in one, XLA on CPU draws the random numbers again for every pixel.
@jax.jit
def _draw(
    key: PRNGKeyArray, people: Int32[Array, " n"], numbers: Int32[Array, " n"], conditions: Conditions
) -> tuple[Float[Array, "n traits"], Nuisance]:
    def one(person: Int32[Array, ""], number: Int32[Array, ""]) -> tuple[Float[Array, " traits"], Nuisance]:
        own = jax.random.fold_in(jax.random.fold_in(key, person), _PHOTOGRAPH)
        return _person(key, person), nuisances.draw(jax.random.fold_in(own, number), conditions)

    return jax.vmap(one)(people, numbers)


_render = jax.jit(jax.vmap(render))
