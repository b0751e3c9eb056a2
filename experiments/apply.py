"""Translates a gallery: maps an encoder's rows of a store into another encoder's space and writes a new store.

  python -m experiments.apply --store=S --encoder=arcface --map=FILE.safetensors --out=NEW

With the maps that `experiments.pairwise` saved, the pair names the map and the encoder:

  python -m experiments.apply --store=S --maps=results/mine/maps/seed42/ridge --source=arcface --target=clip --out=NEW

What a map's file or maps.json says of encoder, side and normalization holds: flags against it are refused, and what it
does not say must be given. Rows are read, mapped and written a chunk at a time; memory does not grow with the gallery.
The new store has the same samples and one encoder.
"""

import pathlib
import time
import warnings
from collections.abc import Sequence

import jax
import numpy as np

import jaxalign
from experiments.run import cli, flags
from experiments.run.map_flags import NORMALIZE, settled
from experiments.run.progress import Progress, duration
from jaxalign.align.saved import SIDES
from jaxalign.core.errors import UserError, UserNote
from jaxalign.data.manifest import DTYPES, check_encoder_name
from jaxalign.data.store import require_free
from jaxalign.gallery.fingerprint import CHECKED_ROWS
from jaxalign.gallery.move import affine_transform, checksum, move_gallery
from jaxalign.gallery.one_map import OneMap, leads_to, read_one
from jaxalign.gallery.stores import open_gallery

FLAGS = flags.define(
    store=flags.Flag(None, "Directory of the store to translate."),
    encoder=flags.Flag(
        None, "Encoder of --store whose rows are mapped, where the map's file does not say whose."
    ),
    map=flags.Flag(None, "File of one map, as AffineMap.save or GalleryMap.save writes it."),
    maps=flags.Flag(None, "Directory of maps of pairs, with maps.json in it."),
    source=flags.Flag(None, "With --maps: the encoder that the map comes from."),
    target=flags.Flag(None, "With --maps: the encoder that the map leads to."),
    side=flags.Flag(
        None,
        "With --maps: `to_target` (the default) maps the source's rows into the target's own coordinates; `source` and "
        "`target` map either side's into the space where the pair is compared, which is neither's own.",
        choices=SIDES,
    ),
    rank=flags.Flag(None, "With --maps: keep that many leading dimensions.", kind=int, least=1),
    restore_variance=flags.Flag(
        None,
        "With --maps into the target's own coordinates: scale the centred prediction to the target's variance, so "
        "that cosines with the target's own rows find more (the default); --norestore_variance leaves it.",
        kind=bool,
    ),
    out=flags.Flag(None, "Directory of the store to make."),
    name=flags.Flag(None, "Encoder's name in the new store; without it as in --store."),
    dtype=flags.Flag("float16", "Type to store numbers in.", choices=DTYPES),
    normalize=NORMALIZE,
    normalize_output=flags.Flag(False, "Scale mapped rows to length 1."),
    chunk_rows=flags.Flag(
        None, "Rows mapped at once; without it what the device's memory allows.", kind=int, least=1
    ),
    overwrite=flags.Flag(False, "Replace the store that --out holds."),
)


def choose() -> OneMap:
    """Reads the map that the flags name."""
    if bool(FLAGS.map) == bool(FLAGS.maps):
        raise UserError("one map is needed: give --map=FILE, or --maps=DIR with --source and --target.")
    if FLAGS.maps:
        return _of_pair(pathlib.Path(FLAGS.maps))
    if FLAGS.source or FLAGS.target or FLAGS.side or FLAGS.rank or FLAGS.restore_variance is not None:
        raise UserError(
            "--source, --target, --side, --rank and --restore_variance choose among --maps; with --map leave them out."
        )
    return read_one(FLAGS.map, FLAGS.encoder)


def _of_pair(directory: pathlib.Path) -> OneMap:
    if not FLAGS.source or not FLAGS.target:
        raise UserError("--maps holds maps of pairs: give --source and --target.")
    side = FLAGS.side or "to_target"
    if side != "to_target" and FLAGS.restore_variance is not None:
        raise UserError(f"--restore_variance is for own coordinates; with --side={side} leave it out.")
    if not (directory / "maps.json").is_file():
        raise UserError(f"--maps={directory} holds no maps.json; pairwise writes it with --save_maps.")
    maps, pair = jaxalign.PairwiseMaps.load(directory), (FLAGS.source, FLAGS.target)
    if pair not in maps:
        there = ", ".join(f"{source} → {target}" for source, target in list(maps)[:10])
        more = f" and {len(maps) - 10} more" if len(maps) > 10 else ""
        raise UserError(f"{directory} holds no map {pair[0]} → {pair[1]}; there are {there}{more}.")
    fit = maps[pair] if FLAGS.rank is None else maps[pair].at_rank(FLAGS.rank)
    restored = side == "to_target" and FLAGS.restore_variance is not False
    map_ = fit.to_target(restored) if side == "to_target" else getattr(fit, side)
    about = {
        "directory": str(directory),
        **maps.settings[pair],
        "side": side,
        "restore_variance": restored,
    }
    encoder = pair[1] if side == "target" else pair[0]
    return OneMap(jax.tree.map(np.asarray, map_), directory, encoder, maps.normalize, leads_to(about), about)


def _ends(chosen: OneMap) -> dict[str, str]:
    """Whose rows go in and whose space they come out in, as far as the map's file says it.

    The space where a pair is compared is neither encoder's: no map of either takes its rows.
    """
    side, source, target = (chosen.about.get(name) for name in ("side", "source", "target"))
    if not (side and source and target and chosen.encoder):
        return {}
    return {"source": chosen.encoder, "target": target if side == "to_target" else f"{source}+{target}"}


def _unsaid(chosen: OneMap) -> str:
    unsaid = ["whose rows it takes (encoder)"] * (chosen.encoder is None)
    return " nor ".join(unsaid + ["where it leads (side)"] * ("side" not in chosen.about))


def main(_: Sequence[str]) -> None:
    """Checks everything, then maps."""
    started = time.monotonic()
    path, out = (pathlib.Path(flags.required(FLAGS, name)) for name in ("store", "out"))
    chosen = choose()
    encoder = settled(FLAGS.encoder, chosen.encoder, "--encoder", "rows of encoder", chosen.place)
    normalize = settled(FLAGS.normalize, chosen.normalize, "--normalize", "rows normalized as", chosen.place)
    require_free(out, FLAGS.overwrite)
    if FLAGS.name:
        check_encoder_name(FLAGS.name)
    gallery = open_gallery(f"{path}#{encoder}")
    chosen.require_rows(gallery.sample(CHECKED_ROWS, 0))
    scaled = normalize == "l2", FLAGS.normalize_output
    transform = affine_transform(chosen.map, gallery, normalize_input=scaled[0], normalize=scaled[1])
    if chosen.encoder is None or "side" not in chosen.about:
        warnings.warn(
            f"{chosen.place} does not say {_unsaid(chosen)}, which therefore cannot be checked; AffineMap.save takes "
            "source, target, side and normalize.",
            UserNote,
            stacklevel=1,
        )
    note = {
        "checksum": checksum(chosen.map, *scaled),
        **_ends(chosen),
        "map": chosen.about,
        "rows_before_the_map": normalize,
        "leads_to": chosen.leads_to,
    }
    with Progress(gallery.rows) as progress:
        made = move_gallery(
            *(gallery, f"{out}#{FLAGS.name or encoder}", transform, chosen.map.out_dim, note),
            progress=lambda done: progress.step("rows mapped", done - progress.done),
            **{name: getattr(FLAGS, name) for name in ("dtype", "chunk_rows", "overwrite")},
        )
    took = duration(time.monotonic() - started)
    before = "scaled to length 1 first, " if normalize == "l2" else ""
    to = "" if chosen.leads_to == "not stated" else f" ({chosen.leads_to})"
    print(
        f"{out}: {made.rows:,} rows of {encoder}, {before}mapped from width {chosen.map.in_dim} to "
        f"{chosen.map.out_dim}{to}, as {FLAGS.name or encoder} in {FLAGS.dtype}, in {took}."
    )


if __name__ == "__main__":
    cli.run(main, values=FLAGS)
