"""Structures of different classes must differ: ``jit`` chooses a program by them."""

import itertools

import jax
import pytest

from jaxalign.align.methods import SOLVERS
from jaxalign.align.solvers import Solver
from jaxalign.core.pytree import pytree, static

PYTREES = sorted(name for name, method in SOLVERS.items() if issubclass(method, Solver))


@pytest.mark.parametrize("pair", list(itertools.combinations(PYTREES, 2)), ids="-".join)
def test_structures_of_two_solvers_differ(pair):
    first, second = (jax.tree.structure(SOLVERS[name]()) for name in pair)
    assert first != second


def test_fields_are_leaves_or_structure():
    @pytree
    class Ray:
        start: object
        name: str = static()
        end: object = None

    ray = Ray(1.0, "r", (2.0, 3.0))
    assert jax.tree.leaves(ray) == [1.0, 2.0, 3.0]
    assert jax.tree.map(lambda value: value + 1, ray) == Ray(2.0, "r", (3.0, 4.0))
    assert jax.tree.structure(ray) != jax.tree.structure(Ray(1.0, "s", (2.0, 3.0)))
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(ray)]
    assert paths == [".start", ".end[0]", ".end[1]"]
