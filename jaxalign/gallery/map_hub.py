"""Gallery maps on the Hugging Face Hub: a repository holds the map's file, its summary and a model card.

>>> load_map("old_to_new.safetensors").push_to_hub("name/old-to-new")
>>> map = GalleryMap.from_pretrained("name/old-to-new")

``huggingface_hub.ModelHubMixin`` is no base of ``GalleryMap``: in 0.30 and 0.36, unlike 2.4, its module imports
``safetensors.torch``, so that maps, which need safetensors, would need PyTorch. The methods have its names.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import json
import os
import pathlib
import re
import tempfile
import textwrap
from collections.abc import Iterator
from typing import Any

from huggingface_hub import EvalResult, HfApi, ModelCard, ModelCardData, errors, hf_hub_download

from jaxalign.core.errors import UserError
from jaxalign.core.files import first_line, read_json
from jaxalign.gallery.map_file import GalleryMap, load_map
from jaxalign.gallery.map_parts import rates_of

FILE, SUMMARY, CARD = "map.safetensors", "config.json", "README.md"
LICENSE = re.compile("[a-z0-9]+(?:[.-][a-z0-9]+)*")  # an identifier as the Hub knows them; all else is a note
# By version: errors of the client and, imported beside them, of its HTTP library, which need not be OSErrors.
NAMED = (kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception))
CLIENT = (OSError, *NAMED)
TAGS = ["embedding-alignment", "face-recognition"]


def save(map: GalleryMap, directory: str | os.PathLike[str]) -> None:
    """Writes map, summary and card into a directory, which is made where it is missing.

    Raises:
      UserError: the directory holds a card already, which may be of another map, or cannot be written.
    """
    folder = pathlib.Path(directory)
    if (folder / CARD).exists():
        raise UserError(
            f"{folder / CARD} is there, and may tell of another map; remove it or choose another directory."
        )
    names = ("source", "target", "method", "normalize", "score", "drop_in", "checksum")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        map.save(folder / FILE)
        (folder / SUMMARY).write_text(json.dumps({name: getattr(map, name) for name in names}, indent=1))
        ModelCard(f"---\n{_metadata(map).to_yaml()}\n---\n\n{_text(map)}").save(folder / CARD)
    except OSError as error:
        raise UserError(f"{directory} cannot be written: {error.strerror or first_line(error)}.") from error


def upload(
    map: GalleryMap,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | bool | None = None,
    branch: str | None = None,
    create_pr: bool | None = None,
    commit_message: str = "Upload a gallery map",
) -> str:
    """Uploads map, summary and card in one commit, and makes the repository where it is missing.

    Args:
      map: the map.
      repo_id: name of the repository, such as "name/old-to-new".
      private: whether a new repository is private; None leaves it to the account.
      token, commit_message, branch, create_pr: see ``huggingface_hub.HfApi.upload_folder``; ``branch`` is its revision.

    Returns:
      The address of the commit.

    Raises:
      UserError: the name is none, or the Hub cannot be reached or refuses.
    """
    api = HfApi(token=token)
    options: dict[str, Any] = dict(commit_message=commit_message, revision=branch, create_pr=create_pr)
    with tempfile.TemporaryDirectory() as folder:
        save(map, folder)
        with _problems(f"{repo_id} cannot be uploaded"):
            made = api.create_repo(repo_id, private=private, exist_ok=True)
            return api.upload_folder(repo_id=made.repo_id, folder_path=folder, **options)


def load(
    name: str | os.PathLike[str],
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    force_download: bool = False,
    local_files_only: bool = False,
) -> GalleryMap:
    """Reads the map of a directory that ``save`` wrote, or of a repository.

    Args:
      name: of the directory; where there is none, of the repository.
      revision, token, cache_dir, force_download, local_files_only: see ``huggingface_hub.hf_hub_download``.

    Raises:
      UserError: the directory or repository is missing or holds no gallery map, or a file of it is damaged.
    """
    options: dict[str, Any] = dict(revision=revision, token=token, cache_dir=cache_dir)
    options |= dict(force_download=force_download, local_files_only=local_files_only)
    download = functools.partial(hf_hub_download, str(name), **options)
    find = pathlib.Path(name).joinpath if os.path.isdir(name) else download
    with _problems(f"{name} cannot be read"):
        paths = [find(file) for file in (SUMMARY, FILE)]  # the Hub counts downloads by the first one
    summary, map = read_json(paths[0]), load_map(paths[1])
    if not isinstance(summary, dict) or summary.get("checksum") != map.checksum:
        raise UserError(f"{name}: {SUMMARY} and {FILE} are of two maps.")
    return map


@contextlib.contextmanager
def _problems(sentence: str) -> Iterator[None]:
    """What the Hub's client refuses within is a ``UserError``; a defect, such as a wrong argument, stays what it is."""
    try:
        yield
    except (*CLIENT, RuntimeError) as error:
        # An upload that failed is a RuntimeError of the client's, caused by what it names itself.
        if not isinstance(error, CLIENT) and not isinstance(error.__cause__, CLIENT):
            raise
        raise UserError(f"{sentence}: {first_line(error)}.") from error


def _metadata(map: GalleryMap) -> ModelCardData:
    dataset = str(map.about.get("dataset", "calibration data"))
    results = [
        EvalResult("face-verification", dataset, dataset, name, value, task_name="Old gallery, new probes")
        for name, value in rates_of(map.about).items()
    ]
    name = f"{map.source} to {map.target}"
    license = map.about.get("license")
    known = isinstance(license, str) and LICENSE.fullmatch(license)
    more: dict[str, Any] = {"model_name": name, "eval_results": results} if results else {}
    if license is not None:
        more |= {"license": license} if known else {"license": "other", "license_name": "see-below"}
    return ModelCardData(base_model=[map.source, map.target], library_name="jaxalign", tags=TAGS, **more)


def _text(map: GalleryMap) -> str:
    own = "its rows stay as they are" if map.drop_in else "its rows are mapped as well"
    parts = [
        f"# {_plain(map.source)} → {_plain(map.target)}",
        f"Maps enrolled embeddings of {_plain(map.source)} (width {map.gallery.in_dim}) to where those of "
        f"{_plain(map.target)} are compared with them; {own}. Method: {_plain(map.method)}. Score: {map.score}. "
        + ("Rows are scaled to length 1 first." if map.normalize == "l2" else "Rows keep their own lengths."),
    ]
    if map.thresholds:
        rows = [
            f"| {at.fmr:g} | {at.threshold:.4f} | {at.low:.4f} to {at.high:.4f} |" for at in map.thresholds
        ]
        table = "\n".join(
            ["| FMR | accept scores of at least | interval over people |", "| --- | --- | --- |", *rows]
        )
        parts.append(f"## Thresholds\n\n{table}")
    if rates := rates_of(map.about):
        rows = [f"| {_plain(name)} | {value:.4f}{_interval(map, name)} |" for name, value in rates.items()]
        parts.append("\n".join(["## Rates", "", "| measure | value |", "| --- | --- |", *rows]))
    parts += [
        "## Use",
        '```python\nimport jaxalign\n\nmap = jaxalign.GalleryMap.from_pretrained("...")\n'
        "vectors = map.vectors(rows, map.source)  # inner products with those of map.target are scores\n```",
        "Without jaxalign:",
        f"```python\nimport json\n\nimport numpy as np\nimport safetensors\n\n{numpy_lines()}\n```",
    ]
    note = map.about.get("license")
    parts.append(
        f"## License\n\n{_plain(note) if note else 'Nobody has said under which license the map is.'}"
    )
    parts.append("Embeddings of faces are biometric data, mapped or not.")
    return "\n\n".join(parts) + "\n"


def numpy_lines() -> str:
    """The lines that apply a map without jaxalign, from the documentation of ``load_map``."""
    text = inspect.getdoc(load_map) or ""
    return textwrap.dedent(text.partition("::\n\n")[2].partition("\n\nRaises")[0])


def _interval(map: GalleryMap, name: str) -> str:
    rate = map.about["rates"][name]
    ends = [rate.get(end) for end in ("low", "high")] if isinstance(rate, dict) else [None]
    return f" ({ends[0]:.4f} to {ends[1]:.4f})" if all(type(end) in (int, float) for end in ends) else ""


def _plain(text: object) -> str:
    """A text that Markdown shows as it is: names and notes are data."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", " ".join(str(text).split()))
