"""What every test shares: eight simulated devices, and the way to the real data."""

import os
import pathlib

# The threads of OpenBLAS wait by spinning: beside other work two of them are several times slower than one. Before
# numpy, and for the processes that tests start.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# Most of the suite's time is compiling. Machine code that LLVM leaves as it is takes a fifth less, and fusions that are
# not emitted by way of MLIR another half. XLA's own passes (fusion, layouts, collectives) are those of every run.
os.environ["XLA_FLAGS"] = " ".join(
    [
        *os.environ.get("XLA_FLAGS", "").split(),
        "--xla_backend_optimization_level=0",
        "--xla_cpu_use_fusion_emitters=false",
    ]
)

import jax
import pytest
from threadpoolctl import threadpool_limits

jax.config.update("jax_num_cpu_devices", 8)
threadpool_limits(1, user_api="blas")  # of libraries that a plugin of pytest has loaded already

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared() -> pathlib.Path:
    """The folder of real embeddings and photographs; biometric data, so never part of the project."""
    folder = pathlib.Path(os.environ.get("JAXALIGN_SHARED", REPOSITORY.parent / "shared"))
    if not (folder / "data").is_dir():
        pytest.skip(f"real embeddings are not at {folder} (set JAXALIGN_SHARED)")
    return folder


@pytest.fixture(scope="session")
def lfw_dev(shared: pathlib.Path) -> pathlib.Path:
    """A store of 6,114 photographs of 1,897 people under seven real networks."""
    return shared / "data" / "lfw_dev"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """One worker more than cores: several tests wait for processes that they have started."""
    return (os.cpu_count() or 1) + 1
