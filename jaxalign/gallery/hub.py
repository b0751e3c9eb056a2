"""Gallery maps on the Hugging Face Hub: a repository holds the map's file, its summary and a model card.

>>> load_map("old_to_new.safetensors").push_to_hub("name/old-to-new")
>>> map = GalleryMap.from_pretrained("name/old-to-new")
"""

from __future__ import annotations

import inspect
import json
import os
import pathlib
import re
import textwrap
from typing import Any, Self

from huggingface_hub import EvalResult, ModelCard, ModelCardData, ModelHubMixin, hf_hub_download
from huggingface_hub.errors import HfHubHTTPError

from jaxalign.core.errors import UserError
from jaxalign.core.files import first_line
from jaxalign.gallery.map_file import GalleryMap, load_map, rates_of

FILE, SUMMARY, CARD = "map.safetensors", "config.json", "README.md"
LICENSE = re.compile("[a-z0-9]+(?:[.-][a-z0-9]+)*")  # an identifier as the Hub knows them; all else is a note
TAGS = ["embedding-alignment", "face-recognition"]


class HubMap(ModelHubMixin, library_name="jaxalign", tags=TAGS):
    """A gallery map in the way that the Hub's mixin wants it; use the methods of ``GalleryMap``.

    Attributes:
      map: the gallery map.
    """

    map: GalleryMap

    def __init__(self) -> None:
        """Made by ``of``: the mixin would write what it is given here into config.json."""

    @classmethod
    def of(cls, map: GalleryMap) -> Self:
        """The map to be saved or uploaded."""
        made = cls()
        made.map = map
        return made

    def save_pretrained(self, save_directory: str | os.PathLike[str], **options: Any) -> str | None:  # pyright: ignore
        """Writes map, summary and card.

        Raises:
          UserError: the directory holds a card already, which may be of another map, or cannot be written.
        """
        card = pathlib.Path(save_directory) / CARD
        if card.exists():
            raise UserError(
                f"{card} is there, and may tell of another map; remove it or choose another directory."
            )
        try:
            return super().save_pretrained(save_directory, **options)  # pyright: ignore[reportArgumentType]
        except OSError as error:
            raise UserError(
                f"{save_directory} cannot be written: {error.strerror or first_line(error)}."
            ) from error

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Uploads map, summary and card in one commit; the address of the commit.

        Raises:
          UserError: the name is none, or the Hub cannot be reached or refuses.
        """
        try:
            return super().push_to_hub(repo_id, **options)
        except (HfHubHTTPError, OSError, ValueError) as error:
            raise UserError(f"{repo_id} cannot be uploaded: {first_line(error)}.") from error

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], **options: Any) -> Self:  # pyright: ignore
        """Reads the map of a repository, or of a directory.

        Raises:
          UserError: the repository or directory is missing or holds no gallery map, or the map is damaged.
        """
        try:
            return super().from_pretrained(pretrained_model_name_or_path, **options)  # pyright: ignore
        except UserError:
            raise
        except (HfHubHTTPError, OSError, ValueError, AttributeError, TypeError) as error:
            raise UserError(
                f"{pretrained_model_name_or_path} cannot be read: {first_line(error)}."
            ) from error

    def _save_pretrained(self, save_directory: pathlib.Path) -> None:
        self.map.save(save_directory / FILE)
        names = ("source", "target", "method", "normalize", "score", "drop_in", "checksum")
        summary = {name: getattr(self.map, name) for name in names}
        (save_directory / SUMMARY).write_text(json.dumps(summary, indent=1))

    @classmethod
    def _from_pretrained(cls, *, model_id: str, **options: Any) -> Self:
        if os.path.isdir(model_id):
            return cls.of(load_map(pathlib.Path(model_id) / FILE))
        return cls.of(load_map(hf_hub_download(model_id, FILE, **options)))

    def generate_model_card(self, *_: Any, **__: Any) -> ModelCard:
        """The card: metadata that the Hub understands, and what a person needs to decide and to apply the map."""
        return ModelCard(f"---\n{_metadata(self.map).to_yaml()}\n---\n\n{_text(self.map)}")


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
