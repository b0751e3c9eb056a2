"""The benchmark driver runs and writes what it says."""

import json
import subprocess
import sys


def test_writes_rates_and_memory(tmp_path):
    out = tmp_path / "new" / "evaluation.json"
    command = [
        sys.executable,
        "-m",
        "experiments.benchmarks.evaluation",
        "--sizes=200",
        "--width=64",
        "--runs=1",
    ]
    done = subprocess.run(
        [*command, "--memory_rows=300", f"--out={out}"], capture_output=True, text=True, check=True
    )
    written = json.loads(out.read_text())
    assert written["evaluation"][0]["rows"] == 200
    assert written["evaluation"][0]["share"] > 0
    assert 0 < written["memory"]["peak_gigabytes"] < 1.5
    assert "200 × 200" in done.stdout


def test_refuses_sizes_that_are_no_numbers():
    command = [sys.executable, "-m", "experiments.benchmarks.evaluation", "--sizes=many"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: --sizes")
