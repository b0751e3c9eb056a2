"""The layout of DESIGN holds: who may import whom, and what importing the package costs."""

import ast
import collections
import functools
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
    "align": {"core", "moments", "biometrics"},
    "vision": {"core", "data"},
    "analysis": {"core", "moments", "data", "biometrics", "align"},
    "gallery": {"core", "moments", "data", "biometrics", "align"},
    "security": {"core", "moments", "data", "biometrics", "align"},
    "sklearn": {"core", "align", "biometrics"},
    "version": set(),
}
# Heavy libraries, and where alone they may be imported.
ONLY_IN = {
    **dict.fromkeys(("onnxruntime", "datasets", "flax"), "jaxalign/vision"),
    "transformers": "nowhere",
    "onnx": ("jaxalign/vision", "jaxalign/gallery/onnx_"),
    **dict.fromkeys(("matplotlib", "jinja2"), "jaxalign/report"),
    "sklearn": ("jaxalign/sklearn.py", "jaxalign/gallery/export.py"),
    "qdrant_client": "jaxalign/gallery/stores/qdrant.py",
    **dict.fromkeys(("psycopg", "pgvector"), "jaxalign/gallery/stores/postgres.py"),
    "absl": "experiments",
}
HEAVY = (
    "transformers onnxruntime datasets PIL matplotlib jinja2 pandas sklearn scipy.stats pyarrow absl flax optax "
    "huggingface_hub"
)
LIBRARY = [
    path for path in sorted((ROOT / "jaxalign").rglob("*.py")) if path != ROOT / "jaxalign" / "__init__.py"
]


@functools.cache
def _imports(path: pathlib.Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", LIBRARY, ids=lambda path: str(path.relative_to(ROOT)))
def test_rooms_import_only_lower_ones(path: pathlib.Path) -> None:
    room = path.relative_to(ROOT / "jaxalign").parts[0].removesuffix(".py")
    used = {name.split(".")[1] for name in _imports(path) if name.startswith("jaxalign.")}
    assert used - {"version", room} <= ALLOWED[room]


def test_no_two_modules_of_one_name() -> None:
    """But sections of the report, which have the name of what they show; ``__init__`` is no name."""
    stems = [path.stem for path in LIBRARY if path.parent.name != "sections" and path.stem != "__init__"]
    assert [name for name, count in collections.Counter(stems).items() if count > 1] == []


def test_no_two_classes_of_one_name() -> None:
    """But the parts of vision towers: every tower has its Tower and blocks of its own."""
    paths = [
        path for path in (*LIBRARY, *(ROOT / "experiments").rglob("*.py")) if path.parent.name != "towers"
    ]
    nodes = [node for path in paths for node in ast.walk(ast.parse(path.read_text()))]
    names = collections.Counter(node.name.lstrip("_") for node in nodes if isinstance(node, ast.ClassDef))
    assert [name for name, count in names.items() if count > 1] == []


def test_decompositions_leave_signals_heard() -> None:
    """Those of scipy.linalg hold Python's lock; one file imports it, for jaxlib."""
    users = [path for path in LIBRARY if any(name.startswith("scipy.linalg") for name in _imports(path))]
    assert users == [ROOT / "jaxalign" / "core" / "devices.py"]


@pytest.mark.parametrize("library", ONLY_IN)
def test_heavy_libraries_stay_in_their_room(library: str) -> None:
    users = [path for path in LIBRARY if library in {name.split(".")[0] for name in _imports(path)}]
    found = [str(path.relative_to(ROOT)) for path in users]
    assert all(place.startswith(ONLY_IN[library]) for place in found), found


def _loaded_after(statement: str) -> set[str]:
    """The modules that a fresh process has loaded after a statement."""
    command = [sys.executable, "-c", f"import sys; {statement}; print(list(sys.modules))"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return set(ast.literal_eval(done.stdout))


def test_import_pulls_in_no_heavy_library_and_costs_little_more_than_jax() -> None:
    """The cost is counted in modules, which unlike seconds are the same on every machine."""
    ours, numbers, base = map(_loaded_after, ("import jaxalign", "import jax, jax.numpy", "import jax"))
    assert ours & set(HEAVY.split()) == numbers & {"absl", "scipy.stats"}
    assert len(ours) <= 1.3 * len(base)


def test_vision_loads_heavy_libraries_only_where_they_are_used() -> None:
    use = "from jaxalign.vision import images; images.parse_crop('center:0.5'); images.Resize(4, 4)"
    assert not _loaded_after(use) & {"PIL", "datasets", "pyarrow"}
    frameworks = {"PIL", "transformers", "onnxruntime", "flax"}
    assert not _loaded_after("import jaxalign.vision.encoders") & frameworks
