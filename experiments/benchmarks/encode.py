"""Compares encoders with the bare forward pass of the same network on the same batches.

  python -m experiments.benchmarks.encode --onnx=w600k_r50.onnx,mobilefacenet.onnx

Rates are prepared pictures a second, uint8 as they come from the decoding threads; for the bare pass they are
normalised and in place beforehand. A ViT-B/32-sized network with random weights is made on the spot; ONNX files are
those given. Bare and ours alternate round by round, so that what slows one slows the other; medians are compared.
"""

import json
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from absl import flags

from experiments.run import cli
from jaxalign.vision.encoders import Encoder, load_encoder

VALUES = flags.FlagValues()
ONNX = flags.DEFINE_list("onnx", [], "ONNX files to time.", flag_values=VALUES)
VIT = flags.DEFINE_boolean("vit", True, "Time a ViT-B/32-sized network in JAX too.", flag_values=VALUES)
BATCHES = flags.DEFINE_integer("batches", 8, "Batches in one timing.", 1, flag_values=VALUES)
ROUNDS = flags.DEFINE_integer("rounds", 5, "Timings of each.", 1, flag_values=VALUES)
OUT = flags.DEFINE_string("out", None, "File to write the figures to, as JSON.", flag_values=VALUES)


def vit_directory(directory: pathlib.Path) -> None:
    """Writes a ViT-B/32 with random weights as a hub directory."""
    from transformers import FlaxViTModel, ViTConfig

    config = ViTConfig(patch_size=32)
    FlaxViTModel(config).save_pretrained(directory)
    processor = {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": 224, "width": 224},
        "resample": 2,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }
    (directory / "preprocessor_config.json").write_text(json.dumps(processor))


def bare_vit(directory: pathlib.Path, pictures: np.ndarray, batch: int) -> Callable[[], None]:
    """The jitted forward pass alone on batches that are on the device already, as float32 and normalised."""
    from transformers import FlaxViTModel

    model: Any = FlaxViTModel.from_pretrained(directory)
    program = jax.jit(lambda params, pixels: model(pixels, params=params).last_hidden_state[:, 0])
    pixels = [
        jax.device_put(((part / np.float32(255) - 0.5) / 0.5).transpose(0, 3, 1, 2).astype(np.float32))
        for part in np.split(pictures, len(pictures) // batch)
    ]

    def run() -> None:
        for part in pixels:
            jax.block_until_ready(program(model.params, part))

    return run


def bare_onnx(path: str, encoder: Encoder, pictures: np.ndarray) -> Callable[[], None]:
    """onnxruntime alone, on batches that are normalised already."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=onnxruntime.get_available_providers())
    entry = session.get_inputs()[0]
    nchw = entry.shape[1] == 3
    prepared = encoder.preprocessing
    pixels = (pictures * np.float32(prepared.rescale) - np.array(prepared.mean, np.float32)) / np.array(
        prepared.std, np.float32
    )
    pixels = pixels.transpose(0, 3, 1, 2) if nchw else pixels
    parts = [np.ascontiguousarray(part) for part in np.split(pixels, len(pixels) // encoder.batch_size)]

    def run() -> None:
        for part in parts:
            session.run(None, {entry.name: part})

    return run


def compared(encoder: Encoder, bare: Callable[[], None], pictures: np.ndarray) -> dict[str, Any]:
    """Pictures a second of both."""
    ours = lambda: encoder.encode(pictures)  # noqa: E731
    times: dict[str, list[float]] = {"encoder": [], "bare": []}
    for work in (ours, bare):
        work()
    for _ in range(ROUNDS.value):
        for name, work in (("encoder", ours), ("bare", bare)):
            start = time.perf_counter()
            work()
            times[name].append(time.perf_counter() - start)
    rates = {name: len(pictures) / statistics.median(seconds) for name, seconds in times.items()}
    return {**rates, "share": rates["encoder"] / rates["bare"]}


def random_pictures(encoder: Encoder) -> np.ndarray:
    """Whole batches of noise in the encoder's input size."""
    shape = (encoder.batch_size * BATCHES.value, *encoder.preprocessing.size, 3)
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def main(_: Sequence[str]) -> None:
    """Prints the rates as they come, and writes them."""
    figures: dict[str, dict[str, Any]] = {}

    def add(name: str, encoder: Encoder, bare: Callable[[], None], pictures: np.ndarray) -> None:
        figures[name] = row = compared(encoder, bare, pictures)
        print(
            f"{name:24s} {row['encoder']:8.1f} of {row['bare']:8.1f} pictures a second: {row['share']:.0%}",
            flush=True,
        )

    for path in ONNX.value:
        encoder = load_encoder(f"onnx:{path}")
        pictures = random_pictures(encoder)
        add(encoder.name, encoder, bare_onnx(path, encoder, pictures), pictures)
    if VIT.value:
        with tempfile.TemporaryDirectory() as place:
            directory = pathlib.Path(place)
            vit_directory(directory)
            encoder = load_encoder(f"hf:{directory}?pooling=cls&name=vit_b32")
            pictures = random_pictures(encoder)
            add(encoder.name, encoder, bare_vit(directory, pictures, encoder.batch_size), pictures)
    if OUT.value:
        path = pathlib.Path(OUT.value)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"pictures_a_second": figures, "jax": jax.__version__}, indent=1) + "\n")


if __name__ == "__main__":
    cli.run(main, values=VALUES)
