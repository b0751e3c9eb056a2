"""Examines a gallery, wherever it lives, and changes nothing.

  python -m experiments.doctor my_store
  python -m experiments.doctor parquet:faces.parquet --map=old_to_new.safetensors --json=found.json
  python -m experiments.doctor 'postgres:postgresql://me@host/db#faces.embedding'

Counted are rows with NaN or infinity, rows of zeros, equal rows, and rows whose length is 1 among others; shown are
the marker of an earlier move and a move that has not ended. With --map, whose rows they look like: the gallery may
hold rows of both of the map's networks, or have drifted from the people that the map was calibrated on.

Exit status: 0 for a healthy gallery, 1 where something was found, 2 where it cannot be read.
"""

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence

from experiments.run import cli, flags
from experiments.run.progress import Progress
from jaxalign.core.errors import UserError
from jaxalign.data.atomic import new_file, write_atomically
from jaxalign.gallery.doctor import Examination, Fingerprinted, examine
from jaxalign.gallery.map_file import load_map
from jaxalign.gallery.stores import open_gallery

FOUND = 1
FLAGS = flags.define(
    map=flags.Flag(None, "File of a gallery's map: says whose rows these look like."),
    json=flags.Flag(None, "File to write all that was found to, as JSON; it must not exist."),
)


def lines(found: Examination) -> list[str]:
    """The table of a terminal."""
    unit = "no rows" if found.unit is None else f"{found.unit:.2%} of rows"
    marker = found.marker or {}
    moved = " → ".join(str(marker[end]) for end in ("source", "target") if marker.get(end)) or "by a map"
    table: dict[str, object] = {
        "rows": f"{found.rows:,} × {found.width} {found.dtype}",
        "length 1": unit,
        "NaN or infinity": f"{found.nonfinite:,}",
        "zeros": f"{found.zero:,}",
        "equal to an earlier row": f"{found.duplicate:,}",
        "moved": f"{moved}, {marker['state']}" if marker else "never",
        **{f"like {encoder}": f"{count:,}" for encoder, count in found.looks_like.items()},
        **({} if found.unlike is None else {"like none of these": f"{found.unlike:,}"}),
    }
    shown = [f"  {name:28s} {value}" for name, value in table.items()]
    return [found.gallery, *shown, *(f"found: {sentence}" for sentence in found.findings or ("nothing.",))]


def main(argv: Sequence[str]) -> int:
    """Examines and prints; the exit status."""
    out = FLAGS.json and pathlib.Path(FLAGS.json)
    if out and out.exists():
        raise UserError(f"--json={out} exists and is left alone; choose another path.")
    prints: Mapping[str, Fingerprinted] = load_map(FLAGS.map).fingerprints if FLAGS.map else {}
    with open_gallery(argv[1]) as gallery, Progress(gallery.rows) as progress:
        found = examine(gallery, prints, lambda done: progress.step("rows examined", done - progress.done))
    print("\n".join(lines(found)))
    if out:
        text = json.dumps(dataclasses.asdict(found), indent=1, ensure_ascii=False) + "\n"
        with new_file(out):
            write_atomically(out, lambda file: file.write(text.encode()))
    return FOUND if found.findings else 0


if __name__ == "__main__":
    cli.run(main, values=FLAGS, argument="The gallery")
