"""Lets programs find the moved rows of a gallery in PostgreSQL or Qdrant, goes back, or deletes the old rows.

  python -m experiments.switch 'postgres:postgresql://me@host/db#faces.embedding'
  python -m experiments.switch 'postgres:postgresql://me@host/db#faces.embedding' --back
  python -m experiments.switch 'postgres:postgresql://me@host/db#faces.embedding' --drop_old

PostgreSQL: one transaction renames the columns, so that the old name has the new rows; make the index of the new column
before. Qdrant: an alias, such as live in 'qdrant:http://host:6333#live/arcface', leads to the new collection, in one
step. --back gives the old rows, which no move changes, their name again. --drop_old deletes them for good, after a
switch.
"""

from collections.abc import Sequence

from experiments.run import cli, flags
from jaxalign.core.errors import UserError
from jaxalign.gallery.move import drop_old, roll_back, switch

FLAGS = flags.define(
    out=flags.Flag(None, "Where the move wrote, if it was told: as --out of experiments.migrate."),
    back=flags.Flag(False, "Give the old rows their name again."),
    drop_old=flags.Flag(False, "Delete the old rows."),
)


def main(argv: Sequence[str]) -> None:
    """Does one of the three and says what was done."""
    if FLAGS.back and FLAGS.drop_old:
        raise UserError("--back needs the old rows, which --drop_old deletes; give one of them.")
    step = roll_back if FLAGS.back else drop_old if FLAGS.drop_old else switch
    print(step(argv[1], FLAGS.out))


if __name__ == "__main__":
    cli.run(main, values=FLAGS, argument="The gallery")
