"""Checkpoints: found on the hub or on disk, and their weights read without building the model."""

import hashlib
import pathlib
import re
from collections.abc import Iterable
from typing import Any, NoReturn

from jaxalign.core.errors import UserError
from jaxalign.core.files import parse_json, read_text
from jaxalign.vision.encoders.load import Specification, first_line

CONFIG = "config.json"
PREPROCESSOR = "preprocessor_config.json"
PROCESSOR = "processor_config.json"
SAFETENSORS = "model.safetensors"
SAFETENSORS_INDEX = "model.safetensors.index.json"
FLAX = "flax_model.msgpack"
PICKLE = "pytorch_model.bin"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")


def checkpoint_directory(specification: Specification) -> pathlib.Path:
    """The directory that holds the checkpoint; from the hub, its configuration is downloaded, and no weights yet."""
    target = specification.target
    local = pathlib.Path(target).expanduser()
    if local.is_dir():
        return local
    if local.exists():
        specification.refuse(
            f"{target} is a file; hf: takes a checkpoint's directory or a hub id like org/name."
        )
    if not _HUB_ID.fullmatch(target):
        specification.refuse(f"there is no directory {target}, and it is not a hub id like org/name.")
    return _downloaded(specification, CONFIG, PREPROCESSOR, PROCESSOR, SAFETENSORS_INDEX)


def _downloaded(specification: Specification, *files: str) -> pathlib.Path:
    """The hub's directory with those of the files that it has."""
    specification.require_installed("huggingface_hub")
    import huggingface_hub

    target, revision = specification.target, specification.options.get("revision")
    try:
        found = huggingface_hub.snapshot_download(target, revision=revision, allow_patterns=list(files))
    except Exception as error:
        _explain(specification, revision, error)
    return pathlib.Path(found)


def read_json(specification: Specification, directory: pathlib.Path, file: str, why: str) -> dict[str, Any]:
    """One of the checkpoint's JSON files, which must hold an object; ``why`` says what it is needed for."""
    path = directory / file
    if not path.is_file():
        specification.refuse(f"{file} is missing in {directory}; {why}")
    try:
        content = parse_json(read_text(path), str(path))
    except UserError as error:
        specification.refuse(str(error))
    if not isinstance(content, dict):
        specification.refuse(f"{path} is expected to hold a JSON object, got {type(content).__name__}.")
    return content


def _explain(specification: Specification, revision: str | None, error: Exception) -> NoReturn:
    """Turns the hub client's errors into one sentence; passes on what is none of them."""
    from huggingface_hub import errors

    target = specification.target
    login = "log in with huggingface-cli login"
    # The client's HTTP library is requests, httpx or httpx2, by version: found by the names of its exceptions.
    of_http = [base for base in type(error).__mro__ if base.__name__ in ("RequestException", "HTTPError")]
    unreached = (errors.LocalEntryNotFoundError, ConnectionError, TimeoutError, *of_http)
    sentences = (  # the first that fits
        (
            errors.GatedRepoError,
            f"{target} asks for a licence to be accepted: do that at huggingface.co/{target} and {login}.",
        ),
        (errors.RevisionNotFoundError, f"{target} has no revision {revision!r} on the Hugging Face hub."),
        (
            errors.RepositoryNotFoundError,
            f"the Hugging Face hub has no public repository {target}, and there is no such directory here; check the "
            f"spelling, or {login} if it is private.",
        ),
        (
            unreached,
            f"the Hugging Face hub cannot be reached and its cache here does not hold {target}; give a local directory "
            f"instead, hf:<directory>, with its {CONFIG}, {PREPROCESSOR} and {SAFETENSORS} (copy it from a machine "
            f"that has them: huggingface-cli download {target} --local-dir=<directory>).",
        ),
        (OSError, f"{target} cannot be stored in the hub's cache ({first_line(error)})."),
    )
    for kinds, sentence in sentences:
        if isinstance(error, kinds):
            specification.refuse(sentence)
    raise error


def weight_files(specification: Specification, directory: pathlib.Path, prefix: str) -> list[pathlib.Path]:
    """The files that hold the weights: safetensors (one, or several with an index), else Flax's msgpack.

    Of several files those are taken, and downloaded, that hold a tensor whose name begins with the pattern ``prefix``.
    """
    local = directory == pathlib.Path(specification.target).expanduser()
    if not local and not (directory / SAFETENSORS_INDEX).is_file():
        directory = _downloaded(specification, SAFETENSORS)
    if (directory / SAFETENSORS).is_file():
        return [directory / SAFETENSORS]
    if (directory / SAFETENSORS_INDEX).is_file():
        index = read_json(specification, directory, SAFETENSORS_INDEX, "it names the files of the weights.")
        named = index.get("weight_map")
        if not isinstance(named, dict) or not all(isinstance(file, str) for file in named.values()):
            specification.refuse(
                f"{directory / SAFETENSORS_INDEX} is damaged: its weight_map names no files."
            )
        wanted = sorted({file for name, file in named.items() if re.match(prefix, name)})
        directory = directory if local else _downloaded(specification, *wanted)
        files = [directory / file for file in wanted]
        missing = ", ".join(file.name for file in files if not file.is_file())
        if missing or not files:
            specification.refuse(f"{SAFETENSORS_INDEX} names {missing or 'no file'}, missing in {directory}.")
        return files
    directory = directory if local else _downloaded(specification, FLAX)
    if (directory / FLAX).is_file():
        return [directory / FLAX]
    there = directory if local else "<directory>"
    download = "" if local else f"huggingface-cli download {specification.target} --local-dir=<directory> && "
    specification.refuse(
        f"there are no weights in {directory}: expected {SAFETENSORS}, {SAFETENSORS_INDEX} or {FLAX}. Where {PICKLE} "
        f"is all there is, convert it once: {download}python -m experiments.convert_weights "
        f"--weights={there}/{PICKLE} --out={there}/{SAFETENSORS}."
    )


def digest(files: Iterable[pathlib.Path]) -> str:
    """SHA-256 over the files' contents in order, in hexadecimal digits."""
    hasher = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            hashlib.file_digest(file, lambda: hasher)
    return hasher.hexdigest()
