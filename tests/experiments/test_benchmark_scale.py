"""The benchmark of scale on a small store: every figure is there, nothing stays on the disk."""

import json
import pathlib
import subprocess
import sys

import pytest

from experiments.benchmarks import scale as benchmark_scale
from experiments.benchmarks import scale_devices, scale_moments
from experiments.run import cli

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]


def drive(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        cli.run(benchmark_scale.main, ["benchmark_scale", *arguments], values=benchmark_scale.VALUES)
    out, err = capsys.readouterr()
    return ended.value.code or 0, out, err


def test_the_section_measures_and_cleans_up(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(scale_moments, "LEAST_SECONDS", 0.01)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    flags = [
        "--rows=20001",
        "--width=40",
        f"--scratch={scratch}",
        f"--out={tmp_path / 'deep' / 'figures.json'}",
    ]
    status, out, err = drive(capsys, "--sections=moments", *flags)
    assert (status, err) == (0, "")
    figures = json.loads((tmp_path / "deep" / "figures.json").read_text())["moments"]
    assert all(name in out for name in figures)
    assert all(value > 0 for value in figures.values())
    assert figures["gigabytes"] == 20001 * 40 * 2 / 1e9
    assert figures["relative error of the scatter matrix"] < 1e-12
    assert not list(scratch.iterdir())


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (
            ["--sections=moment"],
            "--sections: there is no section 'moment'; there are moments, low_rank, driver, devices, plan",
        ),
        (["--rows=1"], "--rows takes"),
        (["--scratch=nowhere"], "nowhere: the store takes"),
        (["--rows=1000000000000"], "give --scratch, or fewer --rows"),
    ],
)
def test_bad_flags_are_a_sentence(capsys, flags, sentence):
    status, _, err = drive(capsys, *flags)
    assert status == 2
    assert err.startswith("error: ") and sentence in err and err.count("\n") == 1


def test_driver_section_measures_and_cleans_up(tmp_path, capsys):
    sizes = ["--driver_rows=400", "--driver_width=8", "--driver_encoders=2", "--driver_people=40"]
    some = ["--driver_per_person=3", "--driver_evaluated=90", f"--scratch={tmp_path}"]
    status, out, err = drive(capsys, "--sections=driver", *sizes, *some)
    assert (status, err) == (0, "")
    figures = dict(line.strip().rsplit(maxsplit=1) for line in out.splitlines()[1:])
    assert float(figures["pairwise: test rows"]) == 12 * 3
    assert float(figures["evaluation: comparisons"]) == 90**2
    assert all(float(value) > 0 for value in figures.values()) and len(figures) == 8
    assert not list(tmp_path.iterdir())


def test_gradient_section_measures_from_the_command_line():
    """In a process of its own, where JAX is not started yet."""
    flags = ["--gradient_rows=60", "--gradient_width=12", "--gradient_rank=3"]
    ended = subprocess.run(
        [sys.executable, "-m", "experiments.benchmarks.scale", "--sections=low_rank", *flags,
         "--contrastive_steps=2", "--contrastive_people=5"],
        capture_output=True, text=True, cwd=REPOSITORY,
    )  # fmt: skip
    assert (ended.returncode, ended.stderr) == (0, "")
    for name in (
        "contrastive: ours",
        "contrastive: optax, times ours",
        "contrastive: optax, times ours, processor",
    ):
        assert name in ended.stdout


def test_devices_halve_the_work_and_send_as_much_for_twice_the_rows(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(scale_devices, "COUNTS", (1, 2))
    path = tmp_path / "figures.json"
    flags = ["--device_encoders=8", "--device_width=16", f"--out={path}"]
    status, _, err = drive(capsys, "--sections=devices", *flags)
    assert (status, err) == (0, "")
    figures = json.loads(path.read_text())["devices"]
    for axis in ("data", "pairs"):
        of = {
            name.split(": ", 1)[1]: value
            for name, value in figures.items()
            if name.startswith(f"2 on {axis}")
        }
        assert of["moments, bytes sent for a chunk"] == of["ridge, bytes sent of pairs"] == 0
        assert (
            of["moments, bytes sent at the end"]
            == of["moments, bytes sent at the end, of twice the rows"]
            > 0
        )
        for name in ("moments, operations", "ridge, operations on pairs", "canonical, operations on pairs"):
            assert of[f"{name} / of one"] == pytest.approx(0.5, abs=0.06)


def test_plan_counts_what_fits(capsys):
    status, out, err = drive(capsys, "--sections=plan", "--plan_encoders=8", "--plan_width=8")
    assert (status, err) == (0, "")
    for name in ("ordered pairs", "GB, moments: chunk", "GB, ridge: solving", "GB, canonical: factoring"):
        assert name in out
