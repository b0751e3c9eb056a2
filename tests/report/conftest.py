"""One made-up study, read and rendered once for every test of the report."""

import pathlib

import made_results
import pytest

from experiments.report import write
from experiments.run.progress import Progress
from experiments.run.results_tree import Tree, read_tree


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """A study whose encoders and data sets have hostile names."""
    folder = tmp_path_factory.mktemp("made")
    made_results.write_study(folder, made_results.HOSTILE[:4], (42,), made_results.HOSTILE_DATASETS)
    return read_tree(folder)


@pytest.fixture(scope="session")
def report(tree: Tree, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The directory that the report of it is written to."""
    out = tmp_path_factory.mktemp("report") / "out"
    with Progress(len(tree.parts)) as progress:
        write(tree, out, ("latex", "markdown"), overwrite=False, progress=progress)
    return out
