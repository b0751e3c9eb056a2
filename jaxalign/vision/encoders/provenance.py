"""What an encoder of the user's own was made from: the source files of its module, and files that its options name."""

import ast
import functools
import pathlib
import sysconfig
import types
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from jaxalign.vision.encoders.checkpoint import digest
from jaxalign.vision.encoders.encoder import Encoder
from jaxalign.vision.encoders.load import Specification


def provenance(
    specification: Specification, module: types.ModuleType, options: Mapping[str, str]
) -> dict[str, Any]:
    """For ``describe``: checksums of a module's code and of the files and directories among the options.

    Raises:
      UserError: the module has no file, so that nobody could tell whether its code was edited.
    """
    if getattr(module, "__file__", None) is None:
        specification.refuse(
            f"the module {module.__name__} has no file; stale embeddings could not be told from new."
        )
    facts: dict[str, Any] = {"source": specification.target, "options": dict(options)}
    named = [pathlib.Path(value).expanduser() for value in options.values()]
    files = [file for path in named for file in (sorted(path.rglob("*")) if path.is_dir() else [path])]
    files = [file for file in files if file.is_file()]
    return {
        **facts,
        "code_sha256": _code_digest(module),
        **({"files_sha256": digest(files)} if files else {}),
    }


@functools.cache  # the file may be edited later, the module that was imported stays as it is
def _code_digest(module: types.ModuleType) -> str:
    return digest(source_files(module))


def source_files(module: types.ModuleType) -> list[pathlib.Path]:
    """The files of a module and of what it imports, directly or not, from its directory tree or its package.

    Libraries that are installed elsewhere, and jaxalign itself, are left out.
    """
    file = pathlib.Path(str(module.__file__)).resolve()
    name = module.__name__
    depth = name.count(".") + (file.stem == "__init__")
    root = file.parents[depth]
    installed = root in {pathlib.Path(path).resolve() for path in sysconfig.get_paths().values()}
    found: dict[pathlib.Path, None] = {}
    waiting = list(_files_of(root, name)) or [file]
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        found[path] = None
        for imported in _imports(path, root):
            top = imported.partition(".")[0]
            if top != "jaxalign" and (not installed or top == name.partition(".")[0]):
                waiting += _files_of(root, imported)
    return sorted(found)


def _files_of(root: pathlib.Path, name: str) -> Iterator[pathlib.Path]:
    """The files below ``root`` that run when a module of this name is imported: of its packages and its own."""
    place = root
    for part in name.split("."):
        place = place / part
        for path in (
            place / "__init__.py",
            place.with_name(f"{part}.py"),
            *place.parent.glob(f"{part}.*.so"),
        ):
            if path.is_file():
                yield path


def _imports(path: pathlib.Path, root: pathlib.Path) -> Iterator[str]:
    """Names that a file may import, anywhere in it; none of a file that is not Python's source."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return
    package = path.parent.relative_to(root).parts
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join([*above, *(node.module.split(".") if node.module else ())])
            yield from (f"{base}.{alias.name}".strip(".") for alias in node.names)


class OwnEncoder:
    """An encoder object of the user's own, which says besides what it was made from."""

    def __init__(self, encoder: Encoder, facts: Mapping[str, Any]):
        self.name, self.dim, self.batch_size = encoder.name, encoder.dim, encoder.batch_size
        self.preprocessing = encoder.preprocessing
        self._encoder, self._facts = encoder, facts

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """See ``Encoder``."""
        return self._encoder.prepare(image)

    def encode(self, images: np.ndarray) -> np.ndarray:
        """See ``Encoder``."""
        return self._encoder.encode(images)

    def describe(self) -> dict[str, Any]:
        """What the object says of itself, its code and its files; its own ``fingerprint`` stands for the code."""
        said = getattr(self._encoder, "fingerprint", None)
        facts = dict(self._facts) if said is None else {**self._facts, "code_sha256": str(said)}
        return {**self._encoder.describe(), **facts}
