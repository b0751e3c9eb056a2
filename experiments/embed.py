"""Makes a store of embeddings from photographs, or adds encoders to one; each photograph is decoded once for all.

  python -m experiments.embed --images=folder:faces --models=clip,onnx:w600k_r50.onnx --out=my_store

A killed run goes on at its last checkpoint when the same command is given again. Encoders that the store has
already are not run again; new ones are added, after the photographs were found to be the same.

Photographs: `folder:DIR` (a folder per person), `csv:FILE` (columns path, identity), `hub:NAME_OR_DIR` (a Hugging
Face data set), `faces:300x8` (made faces of nobody). Encoders: `hf:<hub id or directory>`, `onnx:<file>`,
`zoo:<name>`, `python:<module>:<callable>`, a bare hub id, or a name such as `clip`; docs/encoders.md has all forms and
options.
"""

import time
from collections.abc import Sequence

from absl import flags

from experiments.run import cli
from experiments.run.data import EmbeddingProgress, set_compilation_cache
from experiments.run.progress import duration
from jaxalign.core.errors import UserError
from jaxalign.data.manifest import DTYPES
from jaxalign.vision.encoders import Encoder, load_encoder
from jaxalign.vision.extract import extract
from jaxalign.vision.images import BAD_IMAGES, SourceOptions, open_images, parse_crop

COLUMNS = ("image", "identity", "sample_id", "landmarks")
FLAGS = flags.FlagValues()
flags.DEFINE_string("images", None, "Photographs. Example: --images=folder:faces", flag_values=FLAGS)
flags.DEFINE_string(
    "models", None, "Encoders, separated by commas. Example: --models=clip,onnx:r50.onnx", flag_values=FLAGS
)
flags.DEFINE_string("out", None, "Directory of the store to make or to add to.", flag_values=FLAGS)
flags.DEFINE_string(
    "crop",
    "none",
    "What to cut from each photograph before an encoder's own preprocessing: `none`, `center:0.6` (that share of each "
    "side), `landmarks` or `landmarks:FILE.csv` (five points, aligned as for ArcFace).",
    flag_values=FLAGS,
)
flags.DEFINE_enum(
    "bad_images",
    "fail",
    list(BAD_IMAGES),
    "A photograph that cannot be read stops the run (`fail`) or is left out and named (`skip`).",
    flag_values=FLAGS,
)
flags.DEFINE_enum("dtype", "float16", list(DTYPES), "Type to store numbers in.", flag_values=FLAGS)
flags.DEFINE_enum(
    "precision",
    "float32",
    ["float32", "bfloat16"],
    "Type that networks in JAX compute in.",
    flag_values=FLAGS,
)
flags.DEFINE_integer(
    "batch_size", None, "Photographs a network takes at once; its own default without.", 1, flag_values=FLAGS
)
flags.DEFINE_string("split", None, "Split of a hub data set, such as train.", flag_values=FLAGS)
flags.DEFINE_string("config", None, "Configuration of a hub data set that has several.", flag_values=FLAGS)
flags.DEFINE_string("revision", None, "Branch, tag or commit of a hub data set.", flag_values=FLAGS)
flags.DEFINE_boolean("streaming", False, "Read a hub data set while it comes in.", flag_values=FLAGS)
for _what in COLUMNS:
    flags.DEFINE_string(
        f"{_what}_column", None, f"Column of the {_what}, where it has not the usual name.", flag_values=FLAGS
    )
flags.DEFINE_boolean("overwrite", False, "Replace the store that --out holds.", flag_values=FLAGS)
flags.DEFINE_string(
    "compilation_cache", "default", "Directory of compiled programs, `default` or `none`.", flag_values=FLAGS
)


def main(_: Sequence[str]) -> None:
    """Opens the photographs, loads the encoders, embeds."""
    started = time.monotonic()
    images, models = (_given(name) for name in ("images", "models"))
    out, crop = _given("out"), parse_crop(FLAGS.crop)
    source = open_images(images, _options())
    set_compilation_cache(FLAGS.compilation_cache)
    encoders = load_encoders(models)
    report = EmbeddingProgress(source)
    with report.progress:
        store = extract(
            source,
            encoders,
            out,
            crop=crop,
            dtype=FLAGS.dtype,
            bad_images=FLAGS.bad_images,
            overwrite=FLAGS.overwrite,
            progress=report,
        )
    skipped = f", {report.skipped:,} skipped" if report.skipped else ""
    print(
        f"{out}: {store.rows:,} photographs under {len(store.encoders)} encoders ({report.embedded:,} embedded now"
        f"{skipped}) in {duration(time.monotonic() - started)}."
    )


def load_encoders(models: str) -> list[Encoder]:
    """Loads encoders named by specifications separated by commas."""
    names = [name.strip() for name in models.split(",")]
    if not all(names):
        raise UserError(f"--models={models} has an empty item; give encoders separated by single commas.")
    return [load_encoder(name, batch_size=FLAGS.batch_size, dtype=FLAGS.precision) for name in names]


def _given(name: str) -> str:
    value = getattr(FLAGS, name)
    if not value:
        raise UserError(f"--{name} is missing. {FLAGS[name].help}")
    return value


def _options() -> SourceOptions:
    names = (*(f"{what}_column" for what in COLUMNS), "split", "config", "revision", "streaming")
    return SourceOptions(**{name: getattr(FLAGS, name) for name in names})


if __name__ == "__main__":
    cli.run(main, values=FLAGS)
