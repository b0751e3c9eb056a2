"""The photographs of a run: which crop each encoder sees, and their embeddings, which are cached."""

import contextlib
import dataclasses
import hashlib
import json
import pathlib
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from experiments.run import flags
from experiments.run.computing import cache_directory
from experiments.run.progress import Progress
from jaxalign.core.errors import UserError
from jaxalign.data import EmbeddingStore, join
from jaxalign.data.manifest import check_new_names
from jaxalign.version import __version__

if TYPE_CHECKING:  # imported where it is used: most runs read a store and need no encoders
    from jaxalign.vision.encoders import Encoder
    from jaxalign.vision.images import BadImage, Crop, ImageSource


@dataclasses.dataclass(frozen=True, kw_only=True)
class PhotographFlags:
    """The flags of photographs; a field is None where a run has none."""

    images: str | None = flags.field(
        None,
        "Photographs to embed and align, instead of a store or beside one: `folder:DIR` (a folder per person), "
        "`csv:FILE` (columns path and identity) or `hub:NAME_OR_DIR` (a Hugging Face data set). Embeddings are cached, "
        "so that the next run need not make them again. Without any data: faces:200x8, synthetic "
        "photographs of 200 people who do not exist, 8 of each. Example: --images=folder:faces",
    )
    crop: str = flags.field(
        "none",
        "What to cut from each photograph before an encoder's own preprocessing: `none`, `center:0.6` (that share "
        "of each side), `landmarks` or `landmarks:FILE.csv` (five points, aligned as for ArcFace), or `auto`: what "
        "serves each encoder best on a sample; an encoder whose rows are there already keeps their crop.",
    )
    bad_images: str = flags.field(
        "fail", "Unreadable photographs stop the run or are left out and named.", choices=("fail", "skip")
    )
    identity_column: str | None = flags.field(
        None, "Column of the person in a list or data set of --images, if not of the usual name."
    )
    embedding_cache: str = flags.field(
        "default",
        "Directory that caches the embeddings of photographs. `default` is one per user (~/.cache/jaxalign, or under "
        "XDG_CACHE_HOME).",
    )


def cached_store(config: PhotographFlags, models: Sequence[str]) -> EmbeddingStore:
    """The store of a run's photographs under these encoders; embeds now what the cache lacks.

    The cache has one directory for each set of photographs (what is in them and who, not only where they are) and
    crop, which holds one store for each set of encoders that was missing in a run.
    """
    assert config.images is not None
    from jaxalign.vision.encoders import load_encoder
    from jaxalign.vision.extract import EncoderView, extract
    from jaxalign.vision.images import SourceOptions, open_images

    images, crop = config.images, config.crop
    bad_images = config.bad_images
    cache = cache_directory(config.embedding_cache, "embeddings")
    options = SourceOptions(identity_column=config.identity_column, bad_images=bad_images)
    named, source = named_crop(crop), open_images(images, options)
    encoders = [load_encoder(model) for model in models]
    check_new_names([encoder.name for encoder in encoders])
    report = EmbeddingProgress(source)
    digest = _digest([images, crop, bad_images, __version__, *_contents(source)])
    place = cache / f"{source.dataset}-{digest}"
    noted = _noted(place)
    cuts = crops_for(
        named, source, encoders, report.progress, [info for of in noted.values() for info in of.values()]
    )
    infos = {one.name: EncoderView(crop=cuts[one.name], encoder=one).info() for one in encoders}
    there = _embedded(noted, infos)
    missing = [encoder for encoder in encoders if encoder.name not in there]
    if missing:
        new = place / _digest(json.dumps(infos[encoder.name], sort_keys=True) for encoder in missing)
        with report.progress:
            # Rows with NaN are for --nonfinite to judge, with those of other encoders.
            new_cuts = {encoder.name: cuts[encoder.name] for encoder in missing}
            how: Any = {"bad_images": bad_images, "nonfinite": "keep"}
            extract(source, missing, new, progress=report, crop=new_cuts, **how)
        there |= {encoder.name: new for encoder in missing}
    stores = [
        EmbeddingStore.open(path, encoders=[name for name in there if there[name] == path], verify=False)
        for path in dict.fromkeys(there.values())
    ]
    return join(stores, encoders=list(infos))


def named_crop(text: str) -> "Crop | None":
    """The crop that ``--crop`` names; None for ``auto``."""
    from jaxalign.vision.images import parse_crop

    return None if text.strip() == "auto" else parse_crop(text)


def crops_for(
    named: "Crop | None",
    source: "ImageSource",
    encoders: Sequence["Encoder"],
    progress: Progress,
    noted: Sequence[Mapping[str, Any]] = (),
) -> dict[str, "Crop"]:
    """The crop of each encoder: the one named, or where none is what serves each encoder best, which is told.

    ``noted`` is what manifests say of encoders that have rows of these photographs: these keep their crop.
    """
    if named is not None:
        return {encoder.name: named for encoder in encoders}
    from experiments.run.crops import choose_crops, kept_crops

    crops = kept_crops(encoders, noted)
    for name, crop in crops.items():
        progress.note(f"crop of {name}: {crop}, as its rows have it already")
    left = [encoder for encoder in encoders if encoder.name not in crops]
    for encoder in left:
        if getattr(encoder, "key_points", None) is not None:
            raise UserError(
                f"encoder {encoder.name!r}: its key points are those of one crop; name it by --crop."
            )
    if left:
        progress.show("trying crops on a sample of the photographs")
    for name, choice in choose_crops(source, left).items() if left else ():
        progress.note(f"crop of {name}: {choice}")
        crops[name] = choice.crop
    return crops


def _noted(place: pathlib.Path) -> dict[pathlib.Path, Mapping[str, Mapping[str, Any]]]:
    """What the stores in ``place`` note of their encoders, by path and name.

    Removes stores that are damaged, so that what they held is embedded again.
    """
    found: dict[pathlib.Path, Mapping[str, Mapping[str, Any]]] = {}
    for path in sorted(place.glob("[!.]*/manifest.json")):
        try:
            found[path.parent] = EmbeddingStore.open(path.parent).info
        except UserError:
            shutil.rmtree(path.parent)
    return found


def _embedded(
    noted: Mapping[pathlib.Path, Mapping[str, Mapping[str, Any]]], infos: Mapping[str, Mapping[str, Any]]
) -> dict[str, pathlib.Path]:
    """Of each encoder that a store holds, loaded and fed in the same way: the path of that store."""
    return {
        name: path
        for path, there in noted.items()
        for name, info in infos.items()
        if name in there and {key: there[name].get(key) for key in info} == info
    }


def _digest(texts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]


def _contents(source: "ImageSource") -> Iterator[str]:
    """Lines that change when a photograph, its landmarks or its person changes, whatever dates its file has."""
    from jaxalign.vision.images import SyntheticFaces, read_contents

    if isinstance(source, SyntheticFaces):  # to draw them takes longer than to read files
        yield source.fingerprint()
        return
    with contextlib.closing(read_contents(source)) as contents:
        for content in contents:
            digest = getattr(content, "digest", "cannot be read")
            yield json.dumps([content.sample.sample_id, content.sample.identity, digest])


class EmbeddingProgress:
    """Shows the progress of ``extract``: photographs a second, time left, and each photograph that is skipped."""

    def __init__(self, source: "ImageSource"):
        self.progress = Progress(0)
        self.embedded = self.skipped = 0
        self._all = None if source.samples is None else len(source.samples)
        self._started = time.monotonic()
        for note in getattr(source, "notes", ()):
            self.progress.note(f"note: {note}.")

    def __call__(self, done: int, embedded: int, bad: Sequence["BadImage"]) -> None:
        """Takes the counts of ``extract``; shares and times leave out what an earlier run embedded."""
        for image in bad:
            self.progress.note(f"skipped {image.sample.sample_id}: {image.reason}")
        self.embedded, self.skipped = embedded, self.skipped + len(bad)
        now = self.embedded + self.skipped
        if self._all is not None:
            self.progress.total = self._all - (done - now)
        of = "" if self._all is None else f" of {self._all:,}"
        rate = embedded / max(time.monotonic() - self._started, 1e-9)
        self.progress.step(f"{done:,}{of} photographs, {rate:,.0f} a second", now - self.progress.done)
