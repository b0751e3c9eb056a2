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

from experiments.apply import settled
from experiments.run import cli, flags
from jaxalign.align.affine import AffineMap
from jaxalign.align.saved import NORMALIZED, file_checksum
from jaxalign.core.errors import UserError
from jaxalign.gallery.export import Exported, require_free, write_faiss
from jaxalign.gallery.onnx_file import Fused, fuse, write_map_alone

ENDINGS = (".onnx", ".faiss")

FLAGS = flags.define(
    map=flags.Flag(None, "File of one map, as AffineMap.save writes it."),
    onnx=flags.Flag(
        None, "ONNX file of the network whose rows the map takes; without it the map is exported alone."
    ),
    output=flags.Flag(None, "With --onnx: the output to map, where the network has several."),
    encoder=flags.Flag(
        None, "Name of the encoder whose rows are mapped; needed where the map's file does not say it."
    ),
    out=flags.Flag(None, f"File to write; it ends in {' or '.join(ENDINGS)}."),
    normalize=flags.Flag(
        None,
        "Scale rows to length 1 before the map (l2), or not (none), as was done before the fit; needed where the "
        "map's file does not say it.",
        choices=NORMALIZED,
    ),
    normalize_output=flags.Flag(False, "Scale mapped rows to length 1; a FAISS index does so in any case."),
    overwrite=flags.Flag(False, "Replace the file at --out."),
)


def main(_: Sequence[str]) -> None:
    """Checks everything, then writes one file, or two where a network has its weights beside it."""
    place, out = (pathlib.Path(flags.required(FLAGS, name)).expanduser() for name in ("map", "out"))
    if out.suffix not in ENDINGS:
        raise UserError(
            f"--out={out} does not say the format: expected a name that ends in {' or '.join(ENDINGS)}."
        )
    if FLAGS.onnx and out.suffix != ".onnx":
        raise UserError(f"--onnx makes an ONNX file, --out={out} names another format.")
    if FLAGS.output and not FLAGS.onnx:
        raise UserError("--output chooses among the outputs of --onnx, which is not given.")
    map_, noted = AffineMap.load_with_metadata(place)
    noted = {name: value for name, value in noted.items() if isinstance(value, str)}
    encoder = settled(FLAGS.encoder, noted.get("encoder"), "--encoder", "rows of encoder", place)
    normalize = settled(FLAGS.normalize, noted.get("normalize"), "--normalize", "rows normalized as", place)
    require_free(out, FLAGS.overwrite, place)
    texts = {name: noted[name] for name in ("source", "target", "method", "side") if name in noted}
    about = {"encoder": encoder, **texts, "map_sha256": file_checksum(place)}
    exported = Exported(map_, normalize, FLAGS.normalize_output, about=about)
    fused = None
    if FLAGS.onnx:
        fused = fuse(FLAGS.onnx, exported, out, output=FLAGS.output, overwrite=FLAGS.overwrite)
    elif out.suffix == ".onnx":
        write_map_alone(exported, out, overwrite=FLAGS.overwrite)
    else:
        write_faiss(exported, out, overwrite=FLAGS.overwrite)
    given = (
        f"{FLAGS.onnx} (opset {fused.opset}), whose output {fused.output!r} is taken for "
        if fused
        else "takes "
    )
    before = "scaled to length 1 first, " if normalize == "l2" else ""
    widths = f"mapped from width {map_.in_dim} to {exported.out_dim}"
    print(f"{out}: {given}rows of {encoder}, {before}{widths}.{_notes(fused)}")


def _notes(fused: Fused | None) -> str:
    """What else a user of a fused file must know."""
    if fused is None:
        return ""
    cast = f" The output is FLOAT now, it was {fused.dtype}." if fused.dtype != "FLOAT" else ""
    flat = f" It has 2 axes now, it had {len(fused.shape)}." if len(fused.shape) > 2 else ""
    apart = (
        f" The weights are in {fused.files[1]}, which must stay beside it." if len(fused.files) > 1 else ""
    )
    return cast + flat + apart


if __name__ == "__main__":
    cli.run(main, values=FLAGS)
