"""One function for every kind of image source."""

import os
from collections.abc import Callable, Mapping
from typing import NamedTuple

from jaxalign.core.errors import UserError
from jaxalign.vision.images.csv_files import open_csv
from jaxalign.vision.images.folders import open_folder
from jaxalign.vision.images.hub import open_hub
from jaxalign.vision.images.made import MadeFaces
from jaxalign.vision.images.source import ImageSource, SourceOptions


class SourceKind(NamedTuple):
    """A row of ``SOURCES``: how the specification is written, and what opens the part behind the colon."""

    form: str
    open: Callable[[str, SourceOptions], ImageSource]


SOURCES: Mapping[str, SourceKind] = {
    "folder": SourceKind("folder:DIR (a folder per person)", open_folder),
    "csv": SourceKind("csv:FILE (columns path and identity)", open_csv),
    "hub": SourceKind("hub:NAME or hub:DIR (a Hugging Face data set)", open_hub),
    "faces": SourceKind("faces:PEOPLExPHOTOGRAPHS (made ones, of nobody)", MadeFaces.open),
}


def open_images(spec: str, options: SourceOptions | None = None) -> ImageSource:
    """Opens a data set of photographs; reads none of them.

    Args:
      spec: ``folder:DIR``, ``csv:FILE``, ``hub:NAME_OR_DIR`` or ``faces:300x8``; see ``SOURCES``.
      options: names of columns and the like.

    Returns:
      The source.

    Raises:
      UserError: there is no such form, place or column, an option means nothing here, or the data set is empty or
        of one person only.
    """
    kind, colon, place = spec.strip().partition(":")
    if not colon or kind not in SOURCES or not place:
        forms = ", ".join(row.form for row in SOURCES.values())
        hint = f" Did you mean folder:{spec}?" if os.path.isdir(os.path.expanduser(spec)) else ""
        raise UserError(f"images are given as {forms}; got {spec!r}.{hint}")
    return SOURCES[kind].open(place, options or SourceOptions())
