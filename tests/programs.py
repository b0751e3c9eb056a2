"""What compiled programs send between devices."""

import re
from typing import Any

import numpy as np

COLLECTIVE = re.compile(
    r"= (.*?) ((?:all-gather|all-reduce|reduce-scatter|all-to-all|collective-[a-z]+)(?:-start)?)\("
)
SHAPE = re.compile(r"\b[a-z]+[0-9]*\[([0-9,]*)\]")


def collectives(program: Any) -> list[tuple[str, int]]:
    """Each collective operation of a compiled program with the most numbers that one of its arrays has."""
    found = []
    for shapes, kind in COLLECTIVE.findall(program.as_text()):
        sizes = [int(np.prod([*map(int, filter(None, sides.split(",")))])) for sides in SHAPE.findall(shapes)]
        found.append((kind.removesuffix("-start"), max(sizes)))
    return found
