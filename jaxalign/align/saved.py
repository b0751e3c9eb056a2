"""Files of maps and their index: each is under a checksum, and nothing that is damaged or unknown is read."""

import contextlib
import hashlib
import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from jaxalign.core.errors import UserError
from jaxalign.core.files import first_line, read_json, regular_file

FORMAT, INDEX_FORMAT, VERSION = "jaxalign-affine-map", "jaxalign-pairwise-maps", 2
COHORT, GALLERY = "jaxalign-cohort", "jaxalign-gallery-map"
KINDS = {FORMAT: "a saved affine map", COHORT: "a saved cohort", GALLERY: "a saved gallery map"}
NORMALIZED = ("l2", "none")  # how rows are scaled before a map: to length 1, or not at all
SIDES = ("source", "target", "to_target")  # what the map of a file does: see ``AffineMap.save``


def write_map(
    path: pathlib.Path, tensors: Mapping[str, np.ndarray], texts: Mapping[str, str], format_: str = FORMAT
) -> None:
    """Writes tensors as safetensors with ``texts`` and a checksum of everything in the header.

    Raises:
      UserError: the file cannot be written; nothing is left of it.
    """
    from safetensors.numpy import save

    arrays = {name: _native(tensor) for name, tensor in tensors.items()}
    header = {"format": format_, "version": str(VERSION), **texts}
    data = save(arrays, {**header, "checksum": map_checksum(arrays, texts, format_)})
    size = int.from_bytes(data[:8], "little")
    # The texts come in random order; sorted, so that the same map is the same file.
    text = json.dumps(json.loads(data[8 : 8 + size]), sort_keys=True).encode()
    text += b" " * (-len(text) % 8)
    temporary = path.with_name(path.name + ".partial")
    try:
        temporary.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + size :])
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise UserError(f"{path} cannot be written: {error.strerror or first_line(error)}.") from error


def read_map(path: pathlib.Path, format_: str = FORMAT) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The tensors that ``write_map`` wrote, and the values of its texts, which are JSON."""
    from safetensors import safe_open

    with _reading(path, KINDS[format_]) as path:
        with safe_open(path, framework="numpy") as file:
            header = file.metadata() or {}
            if header.get("format") != format_:
                raise UserError(f"it holds {KINDS.get(header.get('format', ''), 'something else')}")
            if "checksum" not in header:
                raise UserError(
                    "it has no checksum, as those of earlier versions; fit and save the map again"
                )
            if header.get("version") != str(VERSION):
                raise UserError(f"it is of version {header.get('version')}, this program reads {VERSION}")
            tensors = {name: file.get_tensor(name) for name in sorted(file.keys())}
        checksum = header.pop("checksum")
        del header["format"], header["version"]
        if checksum != map_checksum(tensors, header, format_):
            raise UserError("its content does not match its checksum: it was damaged or changed")
        return tensors, {name: json.loads(text) for name, text in header.items()}


def map_format(path: pathlib.Path) -> str | None:
    """What kind of file its header says it is, such as ``FORMAT``; None where it says nothing."""
    from safetensors import safe_open

    with _reading(path, "a saved map") as path, safe_open(path, framework="numpy") as file:
        return (file.metadata() or {}).get("format")


def map_checksum(tensors: Mapping[str, Any], texts: Mapping[str, str], format_: str = FORMAT) -> str:
    """The checksum that ``write_map`` puts into the header: of all tensors and texts, of the format and its version."""
    arrays = {name: _native(tensor) for name, tensor in tensors.items()}
    return _checksum(arrays, {"format": format_, "version": str(VERSION), **texts})


def write_index(path: pathlib.Path, content: Mapping[str, Any]) -> None:
    """Writes the index of a directory of maps with its own checksum."""
    content = {"format": INDEX_FORMAT, "version": VERSION, **content}
    temporary = path.with_name(path.name + ".partial")
    temporary.write_text(json.dumps({**content, "checksum": _text_checksum(content)}, indent=1))
    temporary.replace(path)


def read_index(path: pathlib.Path) -> dict[str, Any]:
    """What ``write_index`` wrote; every field is of the right type and in its range."""
    content = read_json(path, "an index of saved maps")
    with _reading(path, "an index of saved maps"):
        if not isinstance(content, dict) or content.get("format") != INDEX_FORMAT:
            raise UserError("it holds something else")
        if "checksum" not in content:
            raise UserError("it has no checksum, as those of earlier versions; fit and save the maps again")
        if content.get("version") != VERSION:
            raise UserError(f"it is of version {content.get('version')}, this program reads {VERSION}")
        if content.pop("checksum") != _text_checksum(content):
            raise UserError("its content does not match its checksum: it was damaged or changed")
        _require(isinstance(content.get("method"), str), "method")
        _require(content.get("normalize") in (*NORMALIZED, None), "normalize")
        _require(isinstance(content.get("maps"), list), "maps")
        for number, entry in enumerate(content["maps"]):
            for name, right in _of_entry(entry).items():
                _require(right, f"{name} of map {number}")
        pairs = [(entry["source"], entry["target"]) for entry in content["maps"]]
        _require(len(set(pairs)) == len(pairs), "a pair that occurs once")
        return content


def file_checksum(path: pathlib.Path) -> str:
    """sha256 of a regular file, in hexadecimal digits."""
    with _reading(path, "a saved affine map") as path, open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _of_entry(entry: Any) -> dict[str, bool]:
    """Whether each field of an entry of the index is as ``PairwiseMaps.save`` writes it."""
    if not isinstance(entry, dict):
        return {"the entry": False}

    def numbers(value: Any) -> bool:
        return isinstance(value, list) and all(type(one) in (int, float) for one in value)

    def of_sides(value: Any) -> bool:
        return (
            isinstance(value, dict)
            and {"source", "target"} <= set(value) <= {"source", "target", "cohort"}
            and all(map(_is_name, value.values()))
        )

    widths = {len(entry[name]) for name in ("residual", "variance") if isinstance(entry.get(name), list)}
    return {
        **{name: isinstance(entry.get(name), str) for name in ("source", "target", "method")},
        **{name: of_sides(entry.get(name)) for name in ("files", "sha256")},
        **{name: numbers(entry.get(name)) for name in ("residual", "variance")},
        "predicted": entry.get("predicted") is None or numbers(entry["predicted"]),
        **{name: type(entry.get(name)) in (int, float) for name in ("effective_rank", "condition")},
        "ok": isinstance(entry.get("ok"), bool),
        "the width": len(widths) == 1,
        "the cohort": list(entry.get("files") or ()) == list(entry.get("sha256") or ()),
    }


def _is_name(value: Any) -> bool:
    """Whether a text names a file inside the directory, or could be a checksum."""
    return isinstance(value, str) and bool(value) and pathlib.PurePath(value).name == value


def _require(right: bool, what: str) -> None:
    if not right:
        raise UserError(f"{what} is missing or not what is expected there")


@contextlib.contextmanager
def _reading(path: pathlib.Path, what: str) -> Iterator[pathlib.Path]:
    """The path of a regular file; turns everything that is wrong with its content into a sentence that names it."""
    from safetensors import SafetensorError

    path = regular_file(path, what)
    try:
        yield path
    except (OSError, SafetensorError, ValueError, TypeError, KeyError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else first_line(error)
        raise UserError(f"{path} cannot be read as {what}: {reason}") from error


def _native(tensor: Any) -> np.ndarray:
    """A tensor in the machine's byte order."""
    array = np.asarray(tensor)
    return np.ascontiguousarray(array, array.dtype.newbyteorder("="))


def _checksum(tensors: Mapping[str, np.ndarray], texts: Mapping[str, str]) -> str:
    """sha256 of names, formats, shapes and bytes of tensors, and of the header's texts."""
    digest = hashlib.sha256(json.dumps(dict(sorted(texts.items()))).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(json.dumps([name, tensor.dtype.name, tensor.shape]).encode())
        digest.update(tensor.tobytes())
    return digest.hexdigest()


def _text_checksum(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
