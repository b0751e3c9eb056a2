"""A folder per person, as LFW is laid out."""

import functools
import os
import pathlib
from collections.abc import Iterator, Sequence

from jaxalign.core.errors import UserError
from jaxalign.vision.images.source import Picture, Sample, SourceOptions, check_samples, read_file

IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".pgm", ".ppm", ".pnm",
    ".pbm", ".jp2",
)  # fmt: skip


class FolderSource:
    """Photographs in a folder per person, in whatever folders below that.

    The person is the name of the first folder, to the letter: ``Ann`` and ``ann`` are two people. A sample's name is
    its path below the folder with ``/`` between the parts, such as ``Ann/0001.jpg``. People and photographs are
    sorted by name, character by character, so the order is the same on every machine. Names that start with a dot,
    other files than images, and people without photographs are passed over.

    Attributes:
      dataset: name of the folder.
      samples: of all photographs.
    """

    def __init__(self, folder: str | os.PathLike[str]):
        """Lists the photographs; reads none.

        Raises:
          UserError: the folder is missing, unreadable or empty, has photographs outside people's folders, or those of
            one person only.
        """
        folder = pathlib.Path(folder).expanduser()
        if not folder.is_dir():
            raise UserError(f"{folder} is {'not a folder' if folder.exists() else 'missing'}: {_EXPECTED}.")
        self.dataset = os.path.basename(os.path.realpath(folder)) or "images"
        self.samples: Sequence[Sample] = _samples(folder)
        check_samples(self.samples, f"folder {folder}")

    def pictures(self, start: int = 0) -> Iterator[Picture]:
        """See ``ImageSource``."""
        for sample in self.samples[start:]:
            yield Picture(sample, functools.partial(read_file, str(sample.path)))


def open_folder(place: str, options: SourceOptions) -> FolderSource:
    """The source of ``folder:DIR``."""
    options.refuse_all_but((), "folder:DIR")
    return FolderSource(place)


_EXPECTED = "expected a folder that holds a folder of photographs per person"


def _samples(folder: pathlib.Path) -> list[Sample]:
    entries = _entries(folder)
    if not entries:
        raise UserError(f"{folder} is empty: {_EXPECTED}.")
    people = [entry for entry in entries if entry.is_dir()]
    loose = [entry.name for entry in entries if _is_image(entry)]
    if loose:
        count = f"{len(loose):,} {'photograph lies' if len(loose) == 1 else 'photographs lie'}"
        raise UserError(f"{folder}: {count} in no person's folder (first: {loose[0]}): {_EXPECTED}.")
    if not people:
        raise UserError(f"{folder} holds no folders: {_EXPECTED}.")
    samples = [
        Sample("/".join((person.name, *parts)), person.name, os.path.join(person.path, *parts))
        for person in people
        for parts in _images_below(person.path)
    ]
    if not samples:
        names = f"{len(people):,} folders (first: {people[0].name})"
        raise UserError(f"{folder}: none of its {names} holds a photograph ({', '.join(IMAGE_SUFFIXES)}).")
    return samples


def _images_below(folder: str) -> Iterator[tuple[str, ...]]:
    """Paths of the images of one person; links to folders are not followed, as they may lead in circles."""
    for entry in _entries(folder):
        if entry.is_dir(follow_symlinks=False):
            yield from ((entry.name, *parts) for parts in _images_below(entry.path))
        elif _is_image(entry):
            yield (entry.name,)


def _entries(folder: str | os.PathLike[str]) -> list["os.DirEntry[str]"]:
    try:
        with os.scandir(folder) as entries:
            shown = [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise UserError(f"the folder {os.fspath(folder)} cannot be read: {error.strerror}.") from error
    return sorted(shown, key=lambda entry: entry.name)


def _is_image(entry: "os.DirEntry[str]") -> bool:
    return entry.name.lower().endswith(IMAGE_SUFFIXES) and entry.is_file()
