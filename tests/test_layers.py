"""The layout of DESIGN holds: who may import whom, and what importing the package costs."""

import ast
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]

# What each room may import, besides rooms of the same name. Everything may import the foundations.
FOUNDATIONS = {"errors", "pytree", "precision", "version"}
ALLOWED = {
    "errors": set(),
    "pytree": set(),
    "precision": set(),
    "version": set(),
    "pages": set(),
    "lazy_rows": {"pages"},
    "checks": {"lazy_rows"},
    "affine": {"lazy_rows"},
    "components": {"affine"},
    "streaming": {"lazy_rows"},
    "chunk_size": set(),
    "accumulation": {"chunk_size", "lazy_rows", "streaming"},
    "scatter": set(),
    "mesh": set(),
    "sums": {"scatter"},
    "spread": {"mesh", "sums"},
    "summing": {"accumulation", "mesh", "scatter", "spread", "streaming", "sums"},
    "moments": {"accumulation", "checks", "chunk_size", "lazy_rows", "mesh", "spread", "summing", "sums"},
    "blocks": {"moments"},
    "lapack": set(),
    "solvers": {"affine", "blocks", "checks", "lapack", "moments"},
    "workers": set(),
    "held_out": {"blocks", "moments", "solvers"},
    "selection": {"blocks", "checks", "dealing", "held_out", "moments", "solvers", "spread", "workers"},
    "settings": {"checks", "moments", "selection", "solvers"},
    "tile_programs": {"blocks", "mesh", "spread"},
    "dealing": {"blocks", "mesh", "spread", "tile_programs"},
    "schedule": {"affine", "blocks", "dealing", "moments", "solvers", "spread", "tile_programs", "workers"},
    "splits": set(),
    "hosts": {"mesh", "moments", "spread", "sums"},
    "fit": {"affine", "checks", "lazy_rows", "moments", "schedule", "settings", "solvers", "splits"},
    "pairwise": {
        "affine",
        "checks",
        "fit",
        "lazy_rows",
        "mesh",
        "moments",
        "schedule",
        "settings",
        "solvers",
    },
    "ranks": {"affine", "blocks", "lazy_rows", "solvers"},
    "subspaces": {"affine", "moments", "solvers", "workers"},
    "agreement": {"affine", "blocks", "moments"},
    "capacity": {"affine", "lapack"},
    "nested": {"moments"},
    "widened": {"moments", "scatter"},
    "stability": {"agreement", "pairwise", "solvers", "workers"},
    "training_sizes": {"splits"},
    "saturation": set(),
    "projection": set(),
    "low_rank": {
        "affine",
        "blocks",
        "checks",
        "moments",
        "pairwise",
        "scatter",
        "solvers",
        "spread",
        "workers",
    },
    "tuning": {"biometrics", "low_rank", "moments", "pairwise", "splits"},
    "sklearn": {"affine", "checks", "fit", "settings"},
    "biometrics": {"chunk_size", "lazy_rows", "streaming"},
    "geometry": {"checks", "moments"},
    "embeddings": set(),
    "images": set(),
    "encoders": set(),
    "translation": {"affine", "chunk_size", "embeddings", "lazy_rows", "streaming"},
    "extraction": {"embeddings", "encoders", "images"},
    "pair_lists": {"splits"},
    "report": set(),
}
ONLY_IN = {
    "transformers": "jaxalign/encoders",
    "onnxruntime": "jaxalign/encoders",
    "datasets": "jaxalign/images",
    "matplotlib": "jaxalign/report",
    "jinja2": "jaxalign/report",
    "sklearn": "jaxalign/sklearn.py",
    "flax": "jaxalign/encoders",
}


def _imports(path: pathlib.Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def _room(path: pathlib.Path) -> str:
    return path.relative_to(ROOT / "jaxalign").parts[0].removesuffix(".py")


LIBRARY = [
    path for path in sorted((ROOT / "jaxalign").rglob("*.py")) if path != ROOT / "jaxalign" / "__init__.py"
]


@pytest.mark.parametrize("path", LIBRARY, ids=lambda path: str(path.relative_to(ROOT)))
def test_rooms_import_only_lower_ones(path: pathlib.Path) -> None:
    room = _room(path)
    used = {name.split(".")[1] for name in _imports(path) if name.startswith("jaxalign.")}
    assert used - FOUNDATIONS - {room} <= ALLOWED[room]


def test_absl_flags_live_in_experiments_only() -> None:
    assert not [path for path in LIBRARY if any(name.split(".")[0] == "absl" for name in _imports(path))]


@pytest.mark.parametrize("library", ONLY_IN)
def test_heavy_libraries_stay_in_their_room(library: str) -> None:
    found = [
        str(path.relative_to(ROOT))
        for path in LIBRARY
        if any(name.split(".")[0] == library for name in _imports(path))
    ]
    assert all(place.startswith(ONLY_IN[library]) for place in found), found


def test_import_pulls_in_no_heavy_library() -> None:
    heavy = (
        "transformers",
        "onnxruntime",
        "datasets",
        "PIL",
        "matplotlib",
        "jinja2",
        "pandas",
        "sklearn",
        "scipy.stats",
        "pyarrow",
        "absl",
        "flax",
        "optax",
    )
    code = f"import sys, jaxalign; print([name for name in {heavy!r} if name in sys.modules])"
    base = (
        "import sys, jax, jax.numpy; print([name for name in ('absl', 'scipy.stats') if name in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = lambda text: subprocess.run(  # noqa: E731
        [sys.executable, "-c", text], env=environment, capture_output=True, text=True, check=True
    ).stdout.strip()
    assert ast.literal_eval(run(code)) == ast.literal_eval(run(base))


def test_import_costs_little_more_than_jax() -> None:
    """Counted in modules, which unlike seconds are the same on every machine; BUILD_NOTES has the seconds."""

    def modules(statement: str) -> int:
        code = f"import sys; {statement}; print(len(sys.modules))"
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        out = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
        )
        return int(out.stdout)

    assert modules("import jaxalign") <= 1.3 * modules("import jax")
