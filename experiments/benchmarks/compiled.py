"""What a compiled program costs each device: operations, bytes, and what it sends to other devices."""

import re
from typing import Any

BYTES = {
    "pred": 1,
    "s8": 1,
    "u8": 1,
    "f16": 2,
    "bf16": 2,
    "s32": 4,
    "u32": 4,
    "f32": 4,
    "s64": 8,
    "u64": 8,
    "f64": 8,
}
COLLECTIVES = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "collective-permute",
    "collective-broadcast",
)
_LINE = re.compile(rf"= (.*?) ({'|'.join(COLLECTIVES)})(?:-start)?\((.*?)\)[,\n]")
_SHAPE = re.compile(r"\b([a-z]+[0-9]*)\[([0-9,]*)\]")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"([0-9]+)"\}')


def collectives(compiled: Any) -> list[tuple[str, int]]:
    """The collective operations of a program, each with the bytes of its result on a device."""
    return [(kind, _size(result)) for result, kind, _ in _LINE.findall(compiled.as_text())]


def sent(compiled: Any) -> int:
    """Bytes of all collective operations on a device."""
    return sum(size for _, size in collectives(compiled))


def trips(compiled: Any) -> list[int]:
    """How often the loops of a program run. XLA's cost analysis counts the body of a loop once."""
    return [int(count) for count in _TRIPS.findall(compiled.as_text())]


def cost(compiled: Any) -> tuple[float, float]:
    """Floating-point operations and bytes of memory traffic on a device, the bodies of loops counted once."""
    analysis = compiled.cost_analysis()
    return float(analysis.get("flops", 0.0)), float(analysis.get("bytes accessed", 0.0))


def peak(compiled: Any) -> int:
    """Bytes of memory on a device: arguments, results and what is in between, shared ones counted once."""
    memory = compiled.memory_analysis()
    return (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        + memory.temp_size_in_bytes
        - memory.alias_size_in_bytes
    )


def _size(shapes: str) -> int:
    total = 0
    for kind, dims in _SHAPE.findall(shapes):
        count = 1
        for dim in filter(None, dims.split(",")):
            count *= int(dim)
        total += count * BYTES.get(kind, 0)
    return total
