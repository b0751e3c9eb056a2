"""The value of --families: which encoder is of which family."""

import csv
import pathlib
from collections.abc import Sequence

from jaxalign.analysis.geometry.clustering import labels_of
from jaxalign.core.errors import UserError


def read_labels(text: str, encoders: Sequence[str]) -> tuple[str, ...]:
    """The family of each encoder from the flag or the CSV it names.

    Raises:
      UserError: it cannot be read, or does not fit the encoders.
    """
    families: dict[str, list[str]] = {}
    if text.lower().endswith(".csv"):
        try:
            with pathlib.Path(text).expanduser().open(newline="", encoding="utf-8") as file:
                pairs = [(line["family"], line["encoder"]) for line in csv.DictReader(file)]
        except (OSError, KeyError, UnicodeDecodeError) as error:
            raise UserError(f"--families={text} is not a CSV with columns encoder and family.") from error
    else:
        parts = [part.partition(":") for part in text.split(",")]
        pairs = [(family.strip(), name.strip()) for family, _, names in parts for name in names.split("+")]
    for family, name in pairs:
        if not family or not name:
            raise UserError(f"--families={text}: expected such as face:arcface+adaface,general:clip+dino.")
        families.setdefault(family, []).append(name)
    return labels_of(families, encoders)
