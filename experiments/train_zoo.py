"""Trains the encoders of the bundled zoo on procedural faces, and writes their weights and model cards.

  python -m experiments.train_zoo --models=all
  python -m experiments.train_zoo --models=arcface_plain --out=my_weights

The number of steps is fixed and everything random comes from seeds. Recognition is measured with the weights as they
are stored, on people whom no choice has seen.
"""

import dataclasses
import json
import pathlib
from typing import Any

import jax
import numpy as np

from experiments.run import cli, flags
from experiments.run.progress import Progress
from jaxalign import biometrics
from jaxalign.data.atomic import write_atomically, writing
from jaxalign.vision import faces as procedural
from jaxalign.vision import zoo

PEOPLE = 2000  # to learn from
EACH = 24  # photographs of each: 48,000 in all, 590 MB
MEASURED_PEOPLE, MEASURED_EACH = 200, 8
BLOCK = 200  # photographs encoded at once


@dataclasses.dataclass(frozen=True, kw_only=True)
class Training:
    """Which encoders to train, and where they go."""

    models: str = flags.field(
        "all",
        f"Encoders to train, separated by commas, or `all`: {', '.join(zoo.ZOO)}. Example: --models=arcface_plain",
    )
    out: str = flags.field(
        str(zoo.FOLDER),
        "Folder for the weights and model cards. Without it, that of the installed package.",
    )
    steps: int | None = flags.field(
        None,
        "Training steps instead of the table's, for a quick look. Example: --steps=100",
        kind=int,
        least=1,
    )
    measure_only: bool = flags.field(
        False, "Train nothing; measure the weights in --out and write their cards again."
    )


FLAGS = flags.define(Training)


def training_pool() -> zoo.Pool:
    """The photographs to learn from."""
    people = np.array(procedural.TRAINING_PEOPLE[:PEOPLE])
    images = np.empty((PEOPLE, EACH, 64, 64, 3), np.uint8)
    progress = Progress(PEOPLE * EACH)
    start = 0
    for batch in procedural.stream(procedural.TRAINING_PEOPLE[:PEOPLE], EACH):
        images.reshape(-1, 64, 64, 3)[start : start + len(batch.images)] = batch.images
        start += len(batch.images)
        progress.step("rendering", len(batch.images))
    progress.clear()
    return zoo.Pool(images, procedural.identities(people))


def measure(name: str, folder: pathlib.Path) -> dict[str, Any]:
    """Recognition of the held-out people by the stored weights."""
    encoder = zoo.load(name, folder)
    apply = jax.jit(encoder.apply)
    rows, people = [], []
    measured = procedural.HELD_OUT_PEOPLE[:MEASURED_PEOPLE]
    for batch in procedural.stream(measured, MEASURED_EACH, batch=BLOCK):
        rows.append(np.asarray(apply(encoder.params, batch.images)))
        people.append(batch.people)
    embeddings, identities = np.concatenate(rows), np.concatenate(people)
    result = biometrics.evaluate(embeddings, embeddings, identities, fmr=(0.001, 0.01))
    kept = {"rank1", "rank5", "map", "auc", "eer", "tmr@fmr=0.001", "tmr@fmr=0.01"}
    return {
        "people": f"{measured.start} to {measured.stop - 1}, seed {procedural.SEED}",
        "photographs_each": MEASURED_EACH,
        "own_photograph": "excluded",
        **{
            row.measure: round(row.value, 4)
            for row in result.measures()
            if row.own_photograph != "included" and row.measure in kept
        },
    }


def write(
    name: str, specification: zoo.Specification, folder: pathlib.Path, params: Any | None
) -> dict[str, Any]:
    """Writes weights (none: those that are there stay) and the model card; gives the card."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if params is not None:
            write_atomically(zoo.weights_path(name, folder), lambda file: file.write(zoo.pack(params)))
        card = zoo.describe(name, specification, zoo.count(zoo.load(name, folder).params))
        if specification.loss is not None:
            used = procedural.TRAINING_PEOPLE[:PEOPLE]
            card["data"] = {
                "images": "procedural faces, 64 x 64",
                "people": f"{used.start} to {used.stop - 1}, seed {procedural.SEED}",
                "photographs_each": EACH,
            }
        card["verification"] = measure(name, folder)
        text = json.dumps(card, indent=2) + "\n"
        write_atomically(zoo.card_path(name, folder), lambda file: file.write(text.encode()))
    return card


def main(argv: list[str]) -> None:
    names = (
        tuple(zoo.ZOO) if FLAGS.models == "all" else flags.words("models", FLAGS.models, zoo.ZOO, "encoder")
    )
    folder = pathlib.Path(FLAGS.out)
    pool = None
    for name in names:
        specification = zoo.ZOO[name]
        if FLAGS.steps and specification.loss is not None:
            specification = dataclasses.replace(specification, steps=FLAGS.steps)
        params = None
        if not FLAGS.measure_only:
            if pool is None:
                pool = training_pool()
            progress = Progress(specification.steps)
            params = zoo.train(
                specification,
                pool,
                lambda done, loss, name=name, progress=progress: progress.step(
                    f"{name}, loss {loss:.3f}", done - progress.done
                ),
            )
            progress.clear()
        card = write(name, specification, folder, params)
        print(
            f"{name}: {card['parameters']:,} parameters, rank-1 {card['verification']['rank1']:.3f}",
            flush=True,
        )


if __name__ == "__main__":
    cli.run(main, values=FLAGS)
