"""How drivers have XLA compile programs for a CPU."""

import importlib.metadata
import os

# XLA's older emitters compile the same programs in two thirds of the time, and they run as fast. A release of jaxlib
# that does not know the flag would end the process, so it is given to those alone on which it was tried.
OLDER_EMITTERS = "--xla_cpu_use_fusion_emitters=false"
TRIED = "0.10."


def compile_quickly() -> None:
    """Asks for the older emitters, unless the user's own ``XLA_FLAGS`` say which; before JAX's first computation."""
    given = os.environ.get("XLA_FLAGS", "").strip()
    tried = importlib.metadata.version("jaxlib").startswith(TRIED)
    in_a_file = given and not given.startswith("-")  # XLA takes such a value for the name of a file of flags
    if tried and not in_a_file and OLDER_EMITTERS.partition("=")[0] not in given:
        os.environ["XLA_FLAGS"] = f"{given} {OLDER_EMITTERS}".strip()
