"""Where a checkpoint lies: a local directory, or a copy of a Hugging Face hub repository."""

import json
import pathlib
import re
from typing import Any, NoReturn

from jaxalign.vision.encoders.specification import Specification, first_line

CONFIG = "config.json"
PREPROCESSOR = "preprocessor_config.json"
SAFETENSORS = "model.safetensors"
SAFETENSORS_INDEX = "model.safetensors.index.json"
FLAX = "flax_model.msgpack"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_INSTEAD = (
    f"give a local directory instead, hf:<directory>, with its {CONFIG}, {PREPROCESSOR} and {SAFETENSORS} (copy it "
    "from a machine that has them: huggingface-cli download {target} --local-dir=<directory>)."
)


def checkpoint_directory(specification: Specification, revision: str | None) -> pathlib.Path:
    """The directory that holds the checkpoint, downloaded to the hub's cache where it is no local one.

    Raises:
      UserError: it is neither, or the hub cannot be reached.
    """
    target = specification.target
    local = pathlib.Path(target).expanduser()
    if local.is_dir():
        return local
    if local.exists():
        specification.refuse(
            f"{target} is a file; hf: takes a checkpoint's directory or a hub id such as org/name."
        )
    if not _HUB_ID.fullmatch(target):
        specification.refuse(
            f"there is no directory {target}, and it is not a hub id, which looks like org/name."
        )
    return _download(specification, revision)


def read_json(specification: Specification, directory: pathlib.Path, file: str, why: str) -> dict[str, Any]:
    """One of the checkpoint's JSON files.

    Raises:
      UserError: it is missing or no JSON object; ``why`` says what it is needed for.
    """
    path = directory / file
    if not path.is_file():
        specification.refuse(f"{file} is missing in {directory}; {why}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        specification.refuse(f"{path} cannot be read as JSON ({error}).")
    if not isinstance(content, dict):
        specification.refuse(f"{path} is expected to hold a JSON object, got {type(content).__name__}.")
    return content


def _download(specification: Specification, revision: str | None) -> pathlib.Path:
    import huggingface_hub

    files = [CONFIG, PREPROCESSOR, SAFETENSORS, SAFETENSORS_INDEX, "model-*-of-*.safetensors"]
    try:
        folder = huggingface_hub.snapshot_download(
            specification.target, revision=revision, allow_patterns=files
        )
        if not any((pathlib.Path(folder) / file).exists() for file in (SAFETENSORS, SAFETENSORS_INDEX)):
            folder = huggingface_hub.snapshot_download(
                specification.target, revision=revision, allow_patterns=[*files, FLAX]
            )
    except Exception as error:
        _explain(specification, revision, error)
    return pathlib.Path(folder)


def _explain(specification: Specification, revision: str | None, error: Exception) -> NoReturn:
    """Turns the hub client's errors into one sentence; passes on what is none of them."""
    from huggingface_hub import errors
    from requests.exceptions import RequestException

    target = specification.target
    if isinstance(error, errors.GatedRepoError):
        specification.refuse(
            f"{target} asks for a licence to be accepted: do that at huggingface.co/{target} and log in with "
            "huggingface-cli login."
        )
    if isinstance(error, errors.RevisionNotFoundError):
        specification.refuse(f"{target} has no revision {revision!r} on the Hugging Face hub.")
    if isinstance(error, errors.RepositoryNotFoundError):
        specification.refuse(
            f"the Hugging Face hub has no public repository {target}, and there is no such directory here; check the "
            "spelling, or log in with huggingface-cli login if it is private."
        )
    unreached = (
        errors.HfHubHTTPError,
        errors.LocalEntryNotFoundError,
        RequestException,
        ConnectionError,
        TimeoutError,
    )
    if isinstance(error, unreached):
        specification.refuse(
            f"the Hugging Face hub cannot be reached and its cache here does not hold {target}; "
            + _INSTEAD.format(target=target)
        )
    if isinstance(error, OSError):
        specification.refuse(f"{target} cannot be stored in the hub's cache ({first_line(error)}).")
    raise error
