"""Makes a store of embeddings from photographs, or adds encoders to one; each photograph is decoded once for all.

  python -m experiments.embed --images=folder:faces --models=clip,onnx:w600k_r50.onnx --out=my_store

After a kill, the same command goes on from the last checkpoint. Encoders that the store has
already are not run again; new ones are added, after the photographs were found to be the same.

Photographs: `folder:DIR` (a folder per person), `csv:FILE` (columns path and identity; the store keeps the others),
`hub:NAME_OR_DIR` (a Hugging Face data set), `faces:300x8` (synthetic faces). Encoders: `hf:<hub id or directory>`,
`onnx:<file>`, `zoo:<name>`, `python:<module>:<callable>`, a bare hub id, or a name such as `clip`; docs/encoders.md
has all forms and options.
"""

import dataclasses
import os
import pathlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from experiments.run import cli, flags
from experiments.run.computing import Compiling, set_compilation_cache
from experiments.run.config import PairwiseConfig
from experiments.run.data import copies_notes, image_numbers
from experiments.run.photographs import EmbeddingProgress, crops_for, named_crop
from experiments.run.progress import duration
from jaxalign.core.errors import UserError
from jaxalign.data import EmbeddingStore
from jaxalign.data.manifest import DTYPES
from jaxalign.data.manifest import FILE as MANIFEST
from jaxalign.vision.encoders import load_encoder
from jaxalign.vision.extract import extract
from jaxalign.vision.images import SourceOptions, open_images
from jaxalign.vision.journal import left_plan

SOURCE_OPTIONS = [field.name for field in dataclasses.fields(SourceOptions)]
FLAGS = flags.define(
    Compiling,
    images=flags.Flag(None, "Photographs. Example: --images=folder:faces"),
    models=flags.Flag(None, "Encoders, separated by commas. Example: --models=clip,onnx:r50.onnx"),
    out=flags.Flag(None, "Directory of the store to make or to add to."),
    crop=flags.of(PairwiseConfig)["crop"],
    bad_images=flags.of(PairwiseConfig)["bad_images"],
    dtype=flags.Flag("float16", "Type to store numbers in.", choices=DTYPES),
    precision=flags.Flag("float32", "Type that networks in JAX compute in.", choices=("float32", "bfloat16")),
    batch_size=flags.Flag(
        None, "Photographs that a network takes at once; without it the network's default.", kind=int, least=1
    ),
    split=flags.Flag(None, "Split of a hub data set, such as train."),
    config=flags.Flag(None, "Configuration of a hub data set that has several."),
    revision=flags.Flag(None, "Branch, tag or commit of a hub data set."),
    streaming=flags.Flag(False, "Read a hub data set while it is downloaded."),
    image_column=flags.Flag(None, "Column of the image, if not of the usual name."),
    identity_column=flags.Flag(None, "Column of the identity, if not of the usual name."),
    sample_id_column=flags.Flag(None, "Column of the sample_id, if not of the usual name."),
    landmarks_column=flags.Flag(None, "Column of the landmarks, if not of the usual name."),
    overwrite=flags.Flag(False, "Replace the store that --out holds."),
)


def main(_: Sequence[str]) -> None:
    """Opens the photographs, loads the encoders, embeds."""
    started = time.monotonic()
    images, models, out = (flags.required(FLAGS, name) for name in ("images", "models", "out"))
    named = named_crop(FLAGS.crop)
    source = open_images(images, SourceOptions(**{name: getattr(FLAGS, name) for name in SOURCE_OPTIONS}))
    set_compilation_cache(FLAGS.compilation_cache)
    names = [name.strip() for name in models.split(",")]
    if not all(names):
        raise UserError(f"--models={models} has an empty item; give encoders separated by single commas.")
    encoders = [load_encoder(name, batch_size=FLAGS.batch_size, dtype=FLAGS.precision) for name in names]
    report = EmbeddingProgress(source)
    with report.progress:
        crop = crops_for(named, source, encoders, report.progress, [] if FLAGS.overwrite else noted(out))
        options = {name: getattr(FLAGS, name) for name in ("dtype", "bad_images", "overwrite")}
        options["nonfinite"] = "keep" if FLAGS.bad_images == "skip" else "fail"
        store = extract(source, encoders, out, crop=crop, progress=report, **options)
    skipped = f", {report.skipped:,} skipped" if report.skipped else ""
    print(
        f"{out}: {store.rows:,} photographs under {len(store.encoders)} encoders ({report.embedded:,} embedded now"
        f"{skipped}) in {duration(time.monotonic() - started)}."
    )
    for note in notes(store):
        print(f"note: {note}.")


def noted(out: str) -> list[Mapping[str, Any]]:
    """What the store at ``out``, and a run that was cut short, note of their encoders."""
    path = pathlib.Path(os.path.realpath(out))
    there = EmbeddingStore.open(path, verify=False).info if (path / MANIFEST).exists() else {}
    return [*there.values(), *(left_plan(path) or {}).get("encoders", {}).values()]


def notes(store: EmbeddingStore) -> Iterator[str]:
    """What a user of a store of photographs must know."""
    for name, rows in store.nonfinite_rows().items():
        yield (
            f"encoder {name!r} has {len(rows):,} rows of NaN or infinity (first: {store.sample_ids[rows[0]]}); "
            "pairwise --nonfinite=drop leaves them out"
        )
    yield from copies_notes(image_numbers(store, np.arange(store.rows)), store.identities)


if __name__ == "__main__":
    cli.run(main, values=FLAGS)
