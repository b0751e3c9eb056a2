"""Walks through folders of photographs: which are people, which files are photographs, and what is passed over."""

import collections
import os
import pathlib
from collections.abc import Iterator

from jaxalign.core.errors import UserError
from jaxalign.core.names import normal_name
from jaxalign.vision.images.source import Sample

IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".pgm", ".ppm", ".pnm",
    ".pbm", ".jp2",
)  # fmt: skip
# Photographs that Pillow does not read, or not without a profile of the camera.
OTHER_SUFFIXES = (".heic", ".heif", ".avif", ".jxl", ".dng", ".cr2", ".cr3", ".nef", ".arw")
# Folders that storage systems and archives make beside those of people.
SYSTEM_FOLDERS = (
    "@eadir",
    "#recycle",
    "#snapshot",
    "__macosx",
    "$recycle.bin",
    "system volume information",
    "lost+found",
)
EXPECTED = "expected a folder that holds a folder of photographs per person"
# What is passed over, and what a note says of so many of it.
PASSED_OVER = {
    "system": "hidden folders and folders of the system were passed over",
    "link": "links to folders were passed over, as a link may show a person twice; copy the folders to use them",
    "other": (
        "photographs are in formats that are not read (HEIC, AVIF, raw) and were passed over; convert them, for "
        "example by `magick mogrify -format jpg *.heic`"
    ),
    "broken": "links to files that are missing were passed over",
    "special": "pipes, sockets or devices with the name of a photograph were passed over",
}
_DEEPER = (
    "folders of people hold folders of photographs, which count as theirs; if the people are the folders below, as in "
    "train/<person>/, write folder:DIR?depth=2"
)


class FolderWalk:
    """One walk through a folder; ``samples`` lists the photographs, and ``notes`` says afterwards what it left out."""

    def __init__(self) -> None:
        self._passed: dict[str, list[str]] = collections.defaultdict(list)
        self._deeper: list[str] = []
        self._spelled: dict[str, set[str]] = collections.defaultdict(set)  # by person, the folders' names

    def samples(self, folder: pathlib.Path, depth: int) -> list[Sample]:
        """The photographs of the folders at a depth, each of which is a person; ``UserError`` where there are none."""
        level: list[tuple[tuple[str, ...], str]] = [((), os.fspath(folder))]
        for _ in range(depth):
            level = [below for parts, path in level for below in self._folders(parts, path)]
        if not level:
            lacks = "holds no folders" if any(folder.iterdir()) else "is empty"
            raise UserError(f"{folder} {lacks}{' at that depth' * (depth > 1)}: {EXPECTED}{self._hint()}.")
        samples = []
        for parts, path in level:
            person = normal_name(parts[-1])
            for names in self._images_below(path):
                self._spelled[person].add(parts[-1])
                if len(names) > 1 and self._deeper[-1:] != [parts[-1]]:
                    self._deeper.append(parts[-1])
                samples.append(
                    Sample(normal_name("/".join((*parts, *names))), person, os.path.join(path, *names))
                )
        if not samples:
            names = f"{len(level):,} folders (first: {level[0][0][-1]})"
            suffixes = ", ".join(IMAGE_SUFFIXES)
            raise UserError(f"{folder}: none of its {names} holds a photograph ({suffixes}){self._hint()}.")
        return samples

    def notes(self) -> tuple[str, ...]:
        """One sentence for each kind of thing that was passed over or may be meant otherwise."""
        found = [(self._passed[kind], said) for kind, said in PASSED_OVER.items()] + [(self._deeper, _DEEPER)]
        joined = sorted(name for names in self._spelled.values() if len(names) > 1 for name in names)
        found.append(
            (joined, "folders have names that differ only in blanks or in Unicode's form, and count as one")
        )
        return tuple(f"{len(names):,} {said} (first: {names[0]})" for names, said in found if names)

    def _hint(self) -> str:
        return "".join(f"; {note}" for note in self.notes())

    def _folders(self, parts: tuple[str, ...], path: str) -> Iterator[tuple[tuple[str, ...], str]]:
        entries = self._entries(path)
        loose = [entry.name for entry in entries if not entry.is_dir()]
        if loose:
            count = f"{len(loose):,} {'photograph lies' if len(loose) == 1 else 'photographs lie'}"
            raise UserError(f"{path}: {count} in no person's folder (first: {loose[0]}): {EXPECTED}.")
        return (((*parts, entry.name), entry.path) for entry in entries)

    def _images_below(self, folder: str) -> Iterator[tuple[str, ...]]:
        """Paths of the images of one person."""
        for entry in self._entries(folder):
            if entry.is_dir():
                yield from ((entry.name, *parts) for parts in self._images_below(entry.path))
            else:
                yield (entry.name,)

    def _entries(self, folder: str) -> list["os.DirEntry[str]"]:
        """The folders and photographs in a folder, by name; takes down what is passed over."""
        try:
            with os.scandir(folder) as entries:
                ordered = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            raise UserError(f"the folder {folder} cannot be read: {error.strerror}.") from error
        taken = []
        for entry in ordered:
            kind = _kind(entry)
            if kind == "":
                taken.append(entry)
            elif kind in PASSED_OVER:
                self._passed[kind].append(entry.path)
        return taken


def _kind(entry: "os.DirEntry[str]") -> str | None:
    """The kind in ``PASSED_OVER``; "" of what is a folder or a photograph to use, None of what is nothing to us."""
    name = entry.name.lower()
    if entry.is_dir():
        if name.startswith(".") or name in SYSTEM_FOLDERS:
            return "system"
        return "link" if entry.is_symlink() else ""  # a link may also lead in circles
    if name.startswith("."):
        return None
    if name.endswith(OTHER_SUFFIXES):
        return "other"
    if not name.endswith(IMAGE_SUFFIXES):
        return None
    if entry.is_file():
        return ""
    return "special" if os.path.exists(entry.path) else "broken"
