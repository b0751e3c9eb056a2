"""Compares encoders with the bare forward pass of the same network on the same batches.

  python -m experiments.benchmarks.encode --onnx=w600k_r50.onnx,mobilefacenet.onnx

Rates are prepared pictures a second, uint8 as they come from the decoding threads; for the bare pass they are
normalised and in place beforehand. A ViT-B/32-sized network with random weights is made on the spot; ONNX files are
those given. Bare and ours alternate round by round, so that what slows one slows the other; medians are compared.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks import define, medians, write
from experiments.run import cli, flags
from jaxalign.vision.encoders import Encoder, JaxEncoder, Preprocessing, load_encoder
from jaxalign.vision.encoders.load import Specification

Compared = tuple[Encoder, Callable[[], Any], np.ndarray]  # an encoder, its bare network, pictures for both
VALUES = define(
    onnx=flags.Flag("", "ONNX files to time, separated by commas."),
    vit=flags.Flag(True, "Time a ViT-B/32-sized network in JAX too."),
    batches=flags.Flag(8, "Batches in one timing.", least=1),
    rounds=flags.Flag(5, "Timings of each.", least=1),
)


def of_vit() -> Compared:
    """A ViT-B/32 with random weights; bare, batches are on the device as normalised float32."""
    from flax import nnx

    from jaxalign.vision.encoders.checkpoint_config import Config
    from jaxalign.vision.encoders.towers import vit

    config = vit.read("vit", Config(Specification("vit", "hf", ""), {"patch_size": 32}), ())
    graph, weights = nnx.split(vit.Tower(config, nnx.Rngs(0)))
    half = (0.5, 0.5, 0.5)
    preprocessing = Preprocessing(config.size, config.size, rescale=1 / 255, mean=half, std=half)

    def apply(weights: Any, pixels: jax.Array) -> jax.Array:
        return nnx.merge(graph, weights)(pixels).tokens[:, 0]

    encoder = JaxEncoder("vit_b32", apply, weights, preprocessing)
    pictures = random_pictures(encoder)
    with jax.default_matmul_precision("highest"):
        program = jax.jit(apply).lower(weights, jnp.zeros((encoder.batch_size, *config.size, 3))).compile()
    batches = [jax.device_put(part) for part in normalised_batches(encoder, pictures, channels_first=False)]
    return encoder, lambda: [jax.block_until_ready(program(weights, part)) for part in batches], pictures


def of_onnx(path: str) -> Compared:
    """An ONNX file; bare, onnxruntime alone."""
    import onnxruntime

    encoder = load_encoder(f"onnx:{path}")
    pictures = random_pictures(encoder)
    session = onnxruntime.InferenceSession(path, providers=onnxruntime.get_available_providers())
    entry = session.get_inputs()[0]
    batches = list(normalised_batches(encoder, pictures, channels_first=entry.shape[1] == 3))
    return encoder, lambda: [session.run(None, {entry.name: part}) for part in batches], pictures


def random_pictures(encoder: Encoder) -> np.ndarray:
    """Whole batches of noise in the encoder's input size."""
    shape = (encoder.batch_size * VALUES.batches, *encoder.preprocessing.size, 3)
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def normalised_batches(encoder: Encoder, pictures: np.ndarray, channels_first: bool) -> Iterator[np.ndarray]:
    """The pictures as the network takes them, batch by batch."""
    prepared = encoder.preprocessing
    for part in np.split(pictures, len(pictures) // encoder.batch_size):
        pixels = part * np.float32(prepared.rescale) - np.array(prepared.mean, np.float32)
        pixels = pixels / np.array(prepared.std, np.float32)
        yield np.ascontiguousarray(pixels.transpose(0, 3, 1, 2) if channels_first else pixels)


def main(_: Sequence[str]) -> None:
    """Prints the rates as they come, and writes them."""
    figures: dict[str, dict[str, float]] = {}
    files = [path.strip() for path in VALUES.onnx.split(",") if path.strip()]
    for make in [*(partial(of_onnx, path) for path in files), *([of_vit] if VALUES.vit else [])]:
        encoder, bare, pictures = make()
        seconds = medians({"encoder": partial(encoder.encode, pictures), "bare": bare}, VALUES.rounds)
        row = {name: len(pictures) / found for name, found in seconds.items()}
        figures[encoder.name] = row = {**row, "share": row["encoder"] / row["bare"]}
        rates = f"{row['encoder']:8.1f} of {row['bare']:8.1f} pictures a second"
        print(f"{encoder.name:24s} {rates}: {row['share']:.0%}", flush=True)
    write(VALUES.out, {"pictures_a_second": figures})


if __name__ == "__main__":
    cli.run(main, values=VALUES)
