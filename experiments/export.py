"""Exports a map for programs that do not know jaxalign: as ONNX, inside a network's own ONNX file, or as a FAISS index.

  python -m experiments.export --map=FILE.safetensors --onnx=new.onnx --out=fused.onnx
  python -m experiments.export --map=FILE.safetensors --out=map.onnx
  python -m experiments.export --map=FILE.safetensors --out=map.faiss

The fused network takes the pictures that new.onnx takes, and its output, under the same name, lies in the space that
the map leads to: with a map from the new network to the old one, programs that run ONNX keep a gallery of the old
network. A map alone takes `rows` [N, width] and gives `embedding`. The FAISS index is empty: it maps the rows that it
is given and compares them by cosine. For scikit-learn there is `jaxalign.gallery.export.sklearn_pipeline`.

A file cannot say which encoder its network is, only the width of its rows: --encoder lets the map's file be checked.
"""

import pathlib
from collections.abc import Sequence

import numpy as np

from experiments.run import cli, flags
from experiments.run.map_flags import NORMALIZE, settled
from jaxalign.align.saved import file_checksum
from jaxalign.biometrics.comparators import CohortCentred
from jaxalign.core.errors import UserError
from jaxalign.gallery.export import CohortColumns, Exported, require_free, write_faiss
from jaxalign.gallery.one_map import OneMap, read_one
from jaxalign.gallery.onnx_file import Fused, fuse, write_map_alone

ENDINGS = (".onnx", ".faiss")

FLAGS = flags.define(
    map=flags.Flag(None, "File of one map, as GalleryMap.save or AffineMap.save writes it."),
    onnx=flags.Flag(
        None, "ONNX file of the network whose rows the map takes; without it the map is exported alone."
    ),
    output=flags.Flag(None, "With --onnx: the output to map, where the network has several."),
    encoder=flags.Flag(
        None, "Name of the encoder whose rows are mapped; needed where the map's file does not say it."
    ),
    side=flags.Flag(
        None,
        "Of a two-sided map of a gallery: map rows as the enrolled ones are (gallery, the source encoder's), or as "
        "probes are (the target encoder's); --encoder says the same.",
        choices=("gallery", "probes"),
    ),
    out=flags.Flag(None, f"File to write; it ends in {' or '.join(ENDINGS)}."),
    normalize=NORMALIZE,
    normalize_output=flags.Flag(False, "Scale mapped rows to length 1; a FAISS index does so in any case."),
    cohort=flags.Flag(
        False,
        "In ONNX, of a two-sided map with the score `cohort`: unit rows with the cohort's two columns behind (width + "
        "2), whose inner products with such rows of the other side are the score. They must not be scaled again.",
    ),
    overwrite=flags.Flag(False, "Replace the file at --out."),
)


def choose(place: pathlib.Path) -> OneMap:
    """Reads the map that the flags name."""
    chosen = read_one(place, FLAGS.encoder)
    whole = chosen.whole
    if whole is None:
        if FLAGS.side:
            raise UserError(
                f"--side chooses a side of a gallery's map; {place} holds one map, so leave it out."
            )
        return chosen
    sides = {"gallery": whole.source, "probes": whole.target}
    if FLAGS.side and FLAGS.encoder not in (None, sides[FLAGS.side]):
        raise UserError(
            f"--side={FLAGS.side} is {sides[FLAGS.side]} in {place}, --encoder says {FLAGS.encoder}."
        )
    if not (FLAGS.side or FLAGS.encoder or whole.drop_in):
        raise UserError(
            f"{place} maps both sides: choose --side=gallery for rows of {whole.source} or --side=probes for rows of "
            f"{whole.target}."
        )
    return read_one(place, sides[FLAGS.side]) if FLAGS.side else chosen


def cohort_columns(chosen: OneMap) -> CohortColumns | None:
    """The cohort's columns where the flags ask for them."""
    if not FLAGS.cohort:
        return None
    whole = chosen.whole
    comparator = None if whole is None else whole.comparator
    if whole is None or comparator is None:
        raise UserError(
            f"--cohort needs the map of a gallery with the score cohort; {chosen.place} holds no cohort."
        )
    if type(comparator.rule) is not CohortCentred or comparator.model is not None:
        raise UserError(
            f"--cohort gives the columns of the score cohort; {chosen.place} has the score {whole.score}."
        )
    of_source = chosen.encoder == whole.source
    others = comparator.cohort.target if of_source else comparator.cohort.source
    return CohortColumns(np.asarray(others), of_source, comparator.rule.top)


def main(_: Sequence[str]) -> None:
    """Checks all flags, then writes one file, or two if the network keeps its weights in a second file."""
    place, out = (pathlib.Path(flags.required(FLAGS, name)).expanduser() for name in ("map", "out"))
    if out.suffix not in ENDINGS:
        raise UserError(
            f"--out={out} does not say the format: expected a name that ends in {' or '.join(ENDINGS)}."
        )
    if FLAGS.onnx and out.suffix != ".onnx":
        raise UserError(f"--onnx makes an ONNX file, --out={out} names another format.")
    if FLAGS.output and not FLAGS.onnx:
        raise UserError("--output chooses among the outputs of --onnx, which is not given.")
    chosen = choose(place)
    encoder = settled(FLAGS.encoder, chosen.encoder, "--encoder", "rows of encoder", place)
    normalize = settled(FLAGS.normalize, chosen.normalize, "--normalize", "rows normalized as", place)
    require_free(out, FLAGS.overwrite, place)
    texts = {
        name: chosen.about[name] for name in ("source", "target", "method", "side") if name in chosen.about
    }
    about = {"encoder": encoder, **texts, "leads_to": chosen.leads_to, "map_sha256": file_checksum(place)}
    if chosen.whole is not None:
        about["checksum"] = chosen.whole.checksum
    exported = Exported(chosen.map, normalize, FLAGS.normalize_output, cohort_columns(chosen), about)
    fused, given = None, "takes"
    if FLAGS.onnx:
        fused = fuse(FLAGS.onnx, exported, out, output=FLAGS.output, overwrite=FLAGS.overwrite)
        given = f"{FLAGS.onnx} (opset {fused.opset}), whose output {fused.output!r} is taken for"
    elif out.suffix == ".onnx":
        write_map_alone(exported, out, overwrite=FLAGS.overwrite)
    else:
        write_faiss(exported, out, overwrite=FLAGS.overwrite)
    before = "scaled to length 1 first, " if normalize == "l2" else ""
    to = "" if chosen.leads_to == "not stated" else f" ({chosen.leads_to})"
    widths = f"mapped from width {chosen.map.in_dim} to {exported.out_dim}"
    print(f"{out}: {given} rows of {encoder}, {before}{widths}{to}.{_notes(fused)}{_of_score(chosen)}")


def _notes(fused: Fused | None) -> str:
    """What else a user of a fused file must know."""
    if fused is None:
        return ""
    cast = f" The output is FLOAT now, it was {fused.dtype}." if fused.dtype != "FLOAT" else ""
    flat = f" It has 2 axes now, it had {len(fused.shape)}." if len(fused.shape) > 2 else ""
    data = fused.files[1:]
    return cast + flat + (f" The weights are in {data[0]}, which must stay beside it." if data else "")


def _of_score(chosen: OneMap) -> str:
    """That cosines of the exported rows are not the score that the map's thresholds are for."""
    whole = chosen.whole
    if whole is None or whole.score == "cosine" or FLAGS.cohort:
        return ""
    return f" The map's thresholds are for its score {whole.score}, not for cosines of these rows."


if __name__ == "__main__":
    cli.run(main, values=FLAGS)
