"""The layout of DESIGN holds: who may import whom, and what importing the package costs."""

import ast
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]

# What each room may import besides itself. Every arrow points down; nothing may import a room that is not named here.
ALLOWED = {
    "core": set(),
    "moments": {"core"},
    "data": {"core"},
    "biometrics": {"core"},
    "report": {"core"},
    "align": {"core", "moments"},
    "vision": {"core", "data"},
    "analysis": {"core", "moments", "data", "biometrics", "align"},
    "sklearn": {"core", "align"},
    "version": set(),
}
ONLY_IN = {
    "transformers": "jaxalign/vision",
    "onnxruntime": "jaxalign/vision",
    "onnx": "jaxalign/vision",
    "datasets": "jaxalign/vision",
    "matplotlib": "jaxalign/report",
    "jinja2": "jaxalign/report",
    "sklearn": "jaxalign/sklearn.py",
    "flax": "jaxalign/vision",
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
    assert used - {"version", room} <= ALLOWED[room]


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
