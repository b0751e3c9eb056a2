"""Translates a gallery: maps an encoder's rows of a store into another encoder's space and writes a new store.

  python -m experiments.apply --store=S --encoder=arcface --map=FILE.safetensors --out=NEW

With the maps that `experiments.pairwise` saved, the pair names the map and the encoder:

  python -m experiments.apply --store=S --maps=results/mine/maps/seed42/ridge --source=arcface --target=clip --out=NEW

Rows are read, mapped and written a chunk at a time; memory does not grow with the gallery. The new store has the same
samples and one encoder.
"""

import json
import pathlib
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

import jaxalign
from experiments.run import cli, flags
from experiments.run.progress import Progress, duration
from jaxalign.align.affine import AffineMap
from jaxalign.analysis.translate import translate
from jaxalign.core.errors import UserError
from jaxalign.data import EmbeddingStore
from jaxalign.data.manifest import DTYPES, check_encoder_name
from jaxalign.data.store import require_free

FLAGS = flags.define(
    store=flags.Flag(None, "Directory of the store to translate."),
    encoder=flags.Flag(None, "Encoder of --store whose rows are mapped; with --maps the pair's own."),
    map=flags.Flag(None, "File of one map, as AffineMap.save writes it."),
    maps=flags.Flag(None, "Directory of maps of pairs, with maps.json in it."),
    source=flags.Flag(None, "With --maps: the encoder that the map comes from."),
    target=flags.Flag(None, "With --maps: the encoder that the map leads to."),
    side=flags.Flag(
        "to_target",
        "With --maps: `to_target` maps the source's rows into the target's own coordinates; `source` and `target` map "
        "either side's into the space where the pair is compared, which for canonical and shared is neither's own.",
        choices=("to_target", "source", "target"),
    ),
    rank=flags.Flag(None, "With --maps: keep that many leading dimensions.", kind=int, least=1),
    out=flags.Flag(None, "Directory of the store to make."),
    name=flags.Flag(None, "Encoder's name in the new store; without it as in --store."),
    dtype=flags.Flag("float16", "Type to store numbers in.", choices=DTYPES),
    normalize=flags.Flag(
        None,
        "Scale rows to length 1 before the map. Without it as the run that fitted --maps did, else none.",
        choices=("l2", "none"),
    ),
    normalize_output=flags.Flag(False, "Scale mapped rows to length 1."),
    chunk_rows=flags.Flag(
        None, "Rows mapped at once; without it what the device's memory allows.", kind=int, least=1
    ),
    overwrite=flags.Flag(False, "Replace the store that --out holds."),
)


class Chosen(NamedTuple):
    """The map to apply; whose rows it takes, if its file says so; how those were scaled; what its file says of it."""

    map: AffineMap
    encoder: str | None
    normalize: str
    about: dict[str, Any]


def choose() -> Chosen:
    """Reads the map that the flags name."""
    if bool(FLAGS.map) == bool(FLAGS.maps):
        raise UserError("one map is needed: give --map=FILE, or --maps=DIR with --source and --target.")
    if FLAGS.maps:
        return _of_pair(pathlib.Path(FLAGS.maps))
    if FLAGS.source or FLAGS.target or FLAGS.rank:
        raise UserError("--source, --target and --rank choose among --maps; with --map leave them out.")
    map_, about = AffineMap.load_with_metadata(FLAGS.map)
    return Chosen(map_, None, "none", {"file": str(FLAGS.map), **about})


def _of_pair(directory: pathlib.Path) -> Chosen:
    if not FLAGS.source or not FLAGS.target:
        raise UserError("--maps holds maps of pairs: give --source and --target.")
    maps, pair = jaxalign.PairwiseMaps.load(directory), (FLAGS.source, FLAGS.target)
    if pair not in maps:
        there = ", ".join(f"{source} → {target}" for source, target in maps)
        raise UserError(f"{directory} holds no map {pair[0]} → {pair[1]}; there are {there}.")
    fit = maps[pair] if FLAGS.rank is None else maps[pair].at_rank(FLAGS.rank)
    map_ = fit.to_target() if FLAGS.side == "to_target" else getattr(fit, FLAGS.side)
    about = {"directory": str(directory), "side": FLAGS.side, **maps.settings[pair]}
    encoder = pair[1] if FLAGS.side == "target" else pair[0]
    return Chosen(jax.tree.map(np.asarray, map_), encoder, _normalized_in(directory), about)


def _normalized_in(directory: pathlib.Path) -> str:
    """Whether the run whose maps these are (OUT/maps/seed/method) scaled rows to length 1."""
    try:
        content = json.loads((directory.absolute().parents[2] / "config.json").read_text(encoding="utf-8"))
        value = content["config"]["protocol"]["normalize"]
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return "none"
    return value if value in ("l2", "none") else "none"


def main(_: Sequence[str]) -> None:
    """Checks everything, then maps."""
    started = time.monotonic()
    path, out = (pathlib.Path(flags.required(FLAGS, name)) for name in ("store", "out"))
    chosen = choose()
    encoder = FLAGS.encoder or chosen.encoder
    if not encoder:
        raise UserError("--encoder is missing: the map's file does not say whose rows it takes.")
    require_free(out, FLAGS.overwrite)
    if FLAGS.name:
        check_encoder_name(FLAGS.name)
    store = EmbeddingStore.open(path, encoders=[encoder])
    normalize = FLAGS.normalize or chosen.normalize
    with Progress(store.rows) as progress:
        made = translate(
            *(store, encoder, chosen.map, out),
            normalize_input=normalize == "l2",
            normalize=FLAGS.normalize_output,
            info={"map": chosen.about, "rows_before_the_map": normalize},
            progress=lambda done: progress.step("rows mapped", done - progress.done),
            **{name: getattr(FLAGS, name) for name in ("name", "dtype", "chunk_rows", "overwrite")},
        )
    before = "scaled to length 1 first, " if normalize == "l2" else ""
    (name,) = made.encoders
    print(
        f"{out}: {made.rows:,} rows of {encoder}, {before}mapped from width {chosen.map.in_dim} to "
        f"{chosen.map.out_dim}, as {name} in {FLAGS.dtype}, in {duration(time.monotonic() - started)}."
    )


if __name__ == "__main__":
    cli.run(main, values=FLAGS)
