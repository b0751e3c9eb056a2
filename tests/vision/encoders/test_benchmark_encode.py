"""The benchmark of encoding runs and writes what it says."""

import json
import subprocess
import sys


def test_writes_both_rates(shared, tmp_path):
    file, out = shared / "models" / "mobileface.onnx", tmp_path / "encode.json"
    command = [
        sys.executable,
        "-m",
        "experiments.benchmarks.encode",
        f"--onnx={file}",
        "--novit",
        "--batches=1",
    ]
    done = subprocess.run(
        [*command, "--rounds=1", f"--out={out}"], capture_output=True, text=True, check=True
    )
    row = json.loads(out.read_text())["pictures_a_second"]["mobileface"]
    assert row["share"] == row["encoder"] / row["bare"] > 0
    assert done.stdout.startswith("mobileface ")
