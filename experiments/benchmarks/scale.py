"""Times what has to scale, a section at a time, each against what the machine itself allows.

  python -m experiments.benchmarks.scale --sections=moments --out=results/benchmark_scale.json

`moments`: second moments of a memory-mapped store that is made on the spot (4 GB unless --rows or --width say less) and
removed afterwards, against reading the file once and against the bare matrix product in the same number format; the
peak resident memory of a fresh process; and twice the rows against once.

`devices`: what each of 1, 2, 4 and 8 simulated devices has to do and to send, read from the compiled programs.

`plan`: 200 encoders of width 512 on 8 devices: bytes on each device of every program, from shapes alone.

`low_rank`: maps between 8 encoders fitted by gradient with the contrastive loss, against loops over the pairs in optax
and PyTorch.

`driver`: experiments.pairwise on a store whose rows would not fit as float32, and one large evaluation of mapped rows,
each in a fresh process: seconds and peak resident memory.

Figures of one run are from the same machine at the same time, so the ratios are what to quote.
"""

import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from absl import flags

from experiments.benchmarks import (
    scale_devices,
    scale_driver,
    scale_gradient,
    scale_moments,
    scale_plan,
)
from experiments.run import cli
from experiments.run.flags import words

VALUES = flags.FlagValues()
scale_moments.define_flags(VALUES)
scale_gradient.define_flags(VALUES)
scale_driver.define_flags(VALUES)
scale_devices.define_flags(VALUES)
scale_plan.define_flags(VALUES)
flags.DEFINE_string("sections", "moments", "What to time, separated by commas.", flag_values=VALUES)
flags.DEFINE_string("out", None, "File to write the figures to, as JSON.", flag_values=VALUES)

# A section takes the flags and gives its figures, numbers by name. A new one is a row here and a module of its own.
Section = Callable[[flags.FlagValues], Mapping[str, float]]
SECTIONS: dict[str, Section] = {
    "moments": scale_moments.run,
    "low_rank": scale_gradient.run,
    "driver": scale_driver.run,
    "devices": scale_devices.run,
    "plan": scale_plan.run,
}
SIMULATED = {"devices": 8, "plan": 8}  # CPU devices that a section needs


def main(_: Sequence[str]) -> None:
    """Prints the figures of each section as they come, and writes them."""
    names = words("sections", VALUES.sections, SECTIONS, "section")
    simulated = max(SIMULATED.get(name, 0) for name in names)
    if simulated and simulated > jax.config.jax_num_cpu_devices:  # pyright: ignore[reportAttributeAccessIssue]
        jax.config.update("jax_num_cpu_devices", simulated)
    record: dict[str, Any] = {"jax": jax.__version__, "devices": [str(device) for device in jax.devices()]}
    for name in names:
        print(f"{name}:", flush=True)
        record[name] = dict(SECTIONS[name](VALUES))
        for figure, value in record[name].items():
            print(f"  {figure:44s} {value:10.4g}", flush=True)
    if VALUES.out:
        path = pathlib.Path(VALUES.out)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    cli.run(main, values=VALUES)
