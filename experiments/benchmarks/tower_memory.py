"""Measures the memory that a vision tower takes while it is loaded, over the size of its weights.

  python -m experiments.benchmarks.tower_memory --gigabytes=8

The checkpoint is LLaVA's in shape: CLIP's ViT-L/14 at 336 pixels, and as much of a language model as fills the file. It
is a sparse file of zeros, so it takes no room on the disk. Each number format is loaded in a process of its own. The
figure is the peak resident memory, file pages included, less what the process held before, over the bytes of weights.
"""

import json
import math
import pathlib
import tempfile
from collections.abc import Mapping, Sequence

import jax
import numpy as np

from experiments.benchmarks import define, in_fresh_process, peak_gigabytes, write
from experiments.run import cli, flags

VALUES = define(
    gigabytes=flags.Flag(8.0, "Size of the checkpoint's file."),
    layers=flags.Flag(24, "Blocks of the tower.", least=1),
    dtypes=flags.Flag("float32,bfloat16", "Number formats to load the tower in, separated by commas."),
)
TOWER = {"model_type": "clip_vision_model", "hidden_size": 1024, "intermediate_size": 4096, "patch_size": 14}
TOWER |= {"num_attention_heads": 16, "image_size": 336}
PICTURES = {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 336}, "crop_size": 336}


def write_checkpoint(directory: pathlib.Path, gigabytes: float, layers: int) -> None:
    """Writes the configuration, and float16 weights as a sparse file with the tower's tensors in its middle."""
    from flax import nnx

    from jaxalign.vision.encoders.checkpoint_config import Config
    from jaxalign.vision.encoders.load import Specification
    from jaxalign.vision.encoders.towers import vit

    content = {**TOWER, "num_hidden_layers": layers}
    config = vit.read(
        "clip_vision_model", Config(Specification("llava", "hf", ""), content), ["last_norm.weight"]
    )
    module = nnx.eval_shape(lambda: vit.Tower(config, nnx.Rngs(0)))
    shapes: dict[str, tuple[int, ...]] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(nnx.split(module)[1]):
        *above, last = (str(key.key) for key in path if isinstance(key, jax.tree_util.DictKey))
        name = ".".join([*above, {"kernel": "weight", "scale": "weight"}.get(last, last)])
        shapes[f"vision_tower.{name}"] = leaf.shape[::-1] if last == "kernel" else leaf.shape
    rest = max(0, int(gigabytes * 5e8) - sum(map(math.prod, shapes.values()))) // 2
    shapes = {"language_model.a": (rest,), **shapes, "language_model.b": (rest,)}
    header, end = {}, 0
    for name, shape in shapes.items():
        start, end = end, end + 2 * math.prod(shape)
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    with open(directory / "model.safetensors", "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    (directory / "config.json").write_text(json.dumps({"model_type": "llava", "vision_config": content}))
    (directory / "preprocessor_config.json").write_text(json.dumps(PICTURES))


def loaded(directory: str, dtype: str) -> Mapping[str, float]:
    """Loads the tower in this process; gives the gigabytes of its weights and those that were held before."""
    import flax.nnx  # noqa: F401

    from jaxalign.vision.encoders import huggingface, load_encoder  # noqa: F401  (what loading imports)

    jax.block_until_ready(jax.device_put(np.zeros(1)))
    before = peak_gigabytes()
    encoder = load_encoder(f"hf:{directory}", dtype=dtype)
    leaves = jax.block_until_ready(jax.tree.leaves(encoder.params))  # pyright: ignore[reportAttributeAccessIssue]
    return {"weights": sum(leaf.nbytes for leaf in leaves) / 1e9, "before": before}


def main(_: Sequence[str]) -> None:
    """Prints a line for each number format, and writes the figures."""
    figures = {}
    with tempfile.TemporaryDirectory() as directory:
        write_checkpoint(pathlib.Path(directory), VALUES.gigabytes, VALUES.layers)
        for dtype in VALUES.dtypes.split(","):
            found = in_fresh_process(loaded, directory, dtype)
            taken = found["gigabytes"] - found["before"]
            figures[dtype] = {**found, "taken": taken, "share": taken / found["weights"]}
            share = f"{taken:.2f} GB for {found['weights']:.2f} GB of weights, {figures[dtype]['share']:.2f} times"
            print(f"{dtype:8s} {share}, in {found['seconds']:.1f} s", flush=True)
    write(VALUES.out, {"tower_memory": figures})


if __name__ == "__main__":
    cli.run(main, values=VALUES)
