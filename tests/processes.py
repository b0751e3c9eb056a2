"""What the tests of several processes start: programs of their own, over loopback."""

import os
import pathlib
import socket
import subprocess
import sys

TESTS = pathlib.Path(__file__).resolve().parent


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(
    *arguments: object, cache: pathlib.Path, cwd: pathlib.Path = TESTS, **environment: object
) -> subprocess.Popen:
    """One Python process with these arguments, such as a script of the tests; its output is read by ``finished``."""
    given = {name: str(value) for name, value in environment.items()}
    common = {"XDG_CACHE_HOME": str(cache), "PYTHONPATH": str(TESTS.parent), "JAX_PLATFORMS": "cpu"}
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        env={**os.environ, "JAX_NUM_CPU_DEVICES": "2", **common, **given},
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(started: list[subprocess.Popen], timeout: float = 300) -> list[subprocess.CompletedProcess]:
    """Their exit statuses and output; none outlives a failing test."""
    try:
        out = [process.communicate(timeout=timeout) for process in started]
    finally:
        for process in started:
            process.kill()
    return [
        subprocess.CompletedProcess([], process.returncode, *texts)
        for process, texts in zip(started, out, strict=True)
    ]
