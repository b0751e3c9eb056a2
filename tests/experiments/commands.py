"""Runs commands in this process, and reads the tables that they write."""

import contextlib
import csv
import io
import pathlib
import subprocess
from typing import Any

import jax
import pytest

from experiments.run import cli


def run(driver: Any, *flags: object) -> subprocess.CompletedProcess:
    """A command in this process, without a compilation cache: its exit status and output."""
    values = driver.VALUES if hasattr(driver, "VALUES") else driver.FLAGS
    given = ["driver", *map(str, flags)]
    if "compilation_cache" in values:
        given.insert(1, "--compilation_cache=none")
    before = jax.config.jax_enable_compilation_cache  # pyright: ignore[reportAttributeAccessIssue]
    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as ended,
    ):
        cli.run(driver.main, given, values=values)
    jax.config.update("jax_enable_compilation_cache", before)
    status = ended.value.code or 0
    assert isinstance(status, int)
    return subprocess.CompletedProcess(given, status, out.getvalue(), err.getvalue())


def succeed(driver: Any, *flags: object) -> subprocess.CompletedProcess:
    """The same, where the command must end well."""
    done = run(driver, *flags)
    assert done.returncode == 0, done.stderr
    return done


def read(path: pathlib.Path) -> list[dict[str, str]]:
    """The rows of a CSV file, or of results.csv in a directory."""
    with (path / "results.csv" if path.is_dir() else path).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def value(rows: list[dict[str, str]], **wanted: object) -> float:
    """The value of the one row that has these columns."""
    (row,) = [row for row in rows if all(row[key] == str(item) for key, item in wanted.items())]
    return float(row["value"])
