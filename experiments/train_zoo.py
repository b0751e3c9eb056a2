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
from jaxalign.data.atomic import remove_abandoned, write_atomically, writing
from jaxalign.vision import faces as procedural
from jaxalign.vision import zoo
from jaxalign.vision.zoo.bundled import apply_of, unpack

PEOPLE = 2000  # to learn from
EACH = 24  # photographs of each: 48,000 in all, 590 MB
MEASURED_PEOPLE, MEASURED_EACH = 200, 8
BLOCK = 200  # photographs encoded at once
WRITTEN = ("rank1", "rank5", "map", "auc", "eer", "tmr@fmr=0.001", "tmr@fmr=0.01")

FLAGS = flags.define(
    models=flags.Flag(
        "all",
        f"Encoders to train, separated by commas, or `all`: {', '.join(zoo.ZOO)}. Example: --models=arcface_plain",
    ),
    out=flags.Flag(
        str(zoo.FOLDER), "Folder for the weights and model cards. Without it, that of the installed package."
    ),
    steps=flags.Flag(
        None,
        "Training steps instead of the table's, for a quick look. Example: --steps=100",
        kind=int,
        least=1,
    ),
    measure_only=flags.Flag(
        False, "Train nothing; measure the weights in --out and write their cards again."
    ),
)


def training_pool() -> zoo.Pool:
    """The photographs to learn from."""
    people = procedural.TRAINING_PEOPLE[:PEOPLE]
    images = np.empty((PEOPLE * EACH, 64, 64, 3), np.uint8)
    with Progress(len(images)) as progress:
        for batch in procedural.stream(people, EACH):
            images[progress.done : progress.done + len(batch.images)] = batch.images
            progress.step("rendering", len(batch.images))
    return zoo.Pool(images.reshape(PEOPLE, EACH, 64, 64, 3), procedural.identities(np.array(people)))


def measure(specification: zoo.Recipe, params: Any) -> dict[str, Any]:
    """Recognition of the held-out people by weights as they are stored."""
    apply = jax.jit(apply_of(specification))
    measured = procedural.HELD_OUT_PEOPLE[:MEASURED_PEOPLE]
    batches = list(procedural.stream(measured, MEASURED_EACH, batch=BLOCK))
    embeddings = np.concatenate([np.asarray(apply(params, batch.images)) for batch in batches])
    identities = np.concatenate([batch.people for batch in batches])
    result = biometrics.evaluate(embeddings, embeddings, identities, fmr=(0.001, 0.01))
    rates = {
        row.measure: round(row.value, 4) for row in result.measures() if row.own_photograph != "included"
    }
    return {
        "people": f"{measured.start} to {measured.stop - 1}, seed {procedural.SEED}",
        "photographs_each": MEASURED_EACH,
        "own_photograph": "excluded",
        **{name: rate for name, rate in rates.items() if name in WRITTEN},
    }


def write(name: str, specification: zoo.Recipe, folder: pathlib.Path, params: Any) -> dict[str, Any]:
    """Writes weights (those that are there stay where none are given) and the model card; returns the card.

    Everything is measured before anything is written, and a card is removed before its weights are replaced, so that a
    killed run leaves no card of other weights.
    """
    path, card_path = zoo.weights_path(name, folder), zoo.card_path(name, folder)
    packed = None if params is None else zoo.pack(params)
    stored = zoo.load(name, folder).params if packed is None else unpack(packed, specification, str(path))
    card = zoo.describe(name, specification, zoo.count(stored))
    if specification.loss is not None:
        used = procedural.TRAINING_PEOPLE[:PEOPLE]
        card["data"] = {
            "images": "procedural faces, 64 x 64",
            "people": f"{used.start} to {used.stop - 1}, seed {procedural.SEED}",
            "photographs_each": EACH,
        }
    card["verification"] = measure(specification, stored)
    text = json.dumps(card, indent=2) + "\n"
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        remove_abandoned(folder)
        if packed is not None:
            card_path.unlink(missing_ok=True)
            write_atomically(path, lambda file: file.write(packed))
        write_atomically(card_path, lambda file: file.write(text.encode()))
    return card


def main(argv: list[str]) -> None:
    """Trains, measures and writes one encoder after another."""
    models = ",".join(zoo.ZOO) if FLAGS.models == "all" else FLAGS.models
    folder, pool = pathlib.Path(FLAGS.out), None
    for name in flags.words("models", models, zoo.ZOO, "encoder"):
        specification = zoo.ZOO[name]
        if FLAGS.steps and specification.loss is not None:
            specification = dataclasses.replace(specification, steps=FLAGS.steps)
        params = None
        if not FLAGS.measure_only:
            if specification.loss is not None:
                pool = pool or training_pool()
            with Progress(specification.steps) as progress:
                show = lambda done, loss: progress.step(f"{name}, loss {loss:.3f}", done - progress.done)  # noqa
                params = zoo.train(specification, pool, show)
        card = write(name, specification, folder, params)
        rank1 = card["verification"]["rank1"]
        print(f"{name}: {card['parameters']:,} parameters, rank-1 {rank1:.3f}", flush=True)


if __name__ == "__main__":
    cli.run(main, values=FLAGS)
