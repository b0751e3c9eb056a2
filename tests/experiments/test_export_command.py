"""The command that exports maps: what it writes, and what it refuses in a sentence."""

from typing import Any

import faiss
import numpy as np
import onnx
import onnx_graphs
import pytest
from commands import run, succeed
from exported import mapped, unit
from exported import run as run_file
from planted import refused_with

from experiments import export
from jaxalign.align.affine import AffineMap

RNG = np.random.default_rng(1)


NOTED = {
    "encoder": "new",
    "source": "new",
    "target": "old",
    "side": "to_target",
    "normalize": "l2",
    "method": "ridge",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The working directory: a network, maps that fit it or not, and what must not be overwritten."""
    place = tmp_path_factory.mktemp("place")
    width = onnx_graphs.WIDTH
    onnx_graphs.write(place / "new.onnx")
    onnx_graphs.write(place / "two.onnx", outputs=2)
    maps = {"map": AffineMap((RNG.normal(size=(width, 6)),), RNG.normal(size=6), RNG.normal(size=width))}
    maps["back"] = AffineMap((RNG.normal(size=(6, width)),), RNG.normal(size=width))
    for name, map_ in maps.items():
        map_.save(place / f"{name}.safetensors", NOTED)
    maps["map"].save(place / "plain.safetensors")
    (place / "there.onnx").write_bytes(b"mine")
    (place / "folder.onnx").mkdir()
    return place


def test_the_command_writes_each_format(place, tmp_path, monkeypatch):
    monkeypatch.chdir(place)
    map_ = AffineMap.load(place / "map.safetensors")
    pixels = RNG.normal(size=(3, 3, 8, 8)).astype(np.float32)
    rows = onnx_graphs.expected(pixels)
    fused, alone, index = tmp_path / "fused.onnx", tmp_path / "map.onnx", tmp_path / "map.faiss"
    done = succeed(export, "--map=map.safetensors", "--onnx=new.onnx", f"--out={fused}")
    for part in (
        "new.onnx (opset 17)",
        "rows of new",
        "from width 4 to 6 (old's own coordinates)",
        "scaled to length 1",
    ):
        assert part in done.stdout
    np.testing.assert_allclose(run_file(fused, pixels), mapped(rows, map_, "l2"), atol=5e-6)
    texts = {entry.key: entry.value for entry in onnx.load(fused).metadata_props}
    assert len(texts["jaxalign.map_sha256"]) == 64
    assert {key: texts[f"jaxalign.{key}"] for key in NOTED} == NOTED

    succeed(export, "--map=map.safetensors", f"--out={alone}", "--normalize_output")
    np.testing.assert_allclose(run_file(alone, rows), unit(mapped(rows, map_, "l2")), atol=5e-6)

    succeed(export, "--map=plain.safetensors", f"--out={index}", "--normalize=none", "--encoder=any")
    read: Any = faiss.read_index(str(index))
    read.add(rows.astype(np.float32))
    expected = unit(mapped(rows, map_, "none"))
    np.testing.assert_allclose(faiss.downcast_index(read.index).reconstruct_n(0, 3), expected, atol=5e-6)


REFUSED = {  # flags, and what they are refused with
    "--onnx=new.onnx --out=a.onnx": "--map is missing",
    "--map=map.safetensors": "--out is missing",
    "--map=none.safetensors --out=a.onnx": "none.safetensors is missing",
    "--map=new.onnx --out=a.onnx": "new.onnx cannot be read as a saved",
    "--map=map.safetensors --out=a.pickle": "ends in .onnx or .faiss",
    "--map=map.safetensors --onnx=new.onnx --out=a.faiss": "names another format",
    "--map=map.safetensors --out=a.onnx --output=fc1": "chooses among the outputs of --onnx",
    "--map=plain.safetensors --out=a.onnx --normalize=l2": "--encoder is missing",
    "--map=plain.safetensors --out=a.onnx --encoder=new": "--normalize is missing",
    "--map=map.safetensors --out=a.onnx --encoder=old": "--encoder=old contradicts map.safetensors",
    "--map=map.safetensors --out=a.onnx --side=probes": "holds one map, so leave it out",
    "--map=map.safetensors --out=a.onnx --cohort": "map.safetensors holds no cohort",
    "--map=map.safetensors --out=there.onnx": "there.onnx exists already",
    "--map=map.safetensors --out=folder.onnx --overwrite": "folder.onnx exists and is not a file",
    "--map=map.safetensors --out=nowhere/a.onnx": "nowhere/a.onnx cannot be written",
    "--map=map.safetensors --out=nowhere/a.faiss": "nowhere/a.faiss cannot be written",
    "--map=map.safetensors --onnx=none.onnx --out=a.onnx": "none.onnx is missing",
    "--map=map.safetensors --onnx=map.safetensors --out=a.onnx": "map.safetensors is damaged or no ONNX file",
    "--map=map.safetensors --onnx=two.onnx --out=a.onnx": "two.onnx has 2 outputs (Flatten_2 [N, 4], Neg_3 [N, 4])",
    "--map=map.safetensors --onnx=two.onnx --out=a.onnx --output=x": "no output 'x'",
    "--map=map.safetensors --onnx=new.onnx --out=new.onnx --overwrite": "the file that is read",
    "--map=back.safetensors --onnx=new.onnx --out=a.onnx": "gives rows of width 4, the map takes 6; it leads to rows",
}


@pytest.mark.parametrize("given", REFUSED)
def test_refusals_are_a_sentence_and_write_nothing(given, place, monkeypatch):
    monkeypatch.chdir(place)
    before = {path: path.stat().st_mtime_ns for path in place.rglob("*")}
    assert REFUSED[given] in refused_with(run(export, *given.split()))
    assert {path: path.stat().st_mtime_ns for path in place.rglob("*")} == before


def test_damaged_networks_are_a_sentence(place, tmp_path, monkeypatch):
    """Cut short anywhere, or with a bit flipped outside the weights, where nothing can tell."""
    monkeypatch.chdir(place)
    whole = (place / "new.onnx").read_bytes()
    weights = whole.index(onnx_graphs.KERNEL.tobytes())
    places = [k for k in range(len(whole)) if not weights <= k < weights + onnx_graphs.KERNEL.nbytes]
    draw = np.random.default_rng(7)
    damaged = [whole[:size] for size in draw.integers(0, len(whole), 20)]
    for spot in draw.choice(places, 40, replace=False):
        flipped = bytearray(whole)
        flipped[spot] ^= 1 << draw.integers(8)
        damaged.append(bytes(flipped))
    refused, out = 0, tmp_path / "fused.onnx"
    for number, content in enumerate(damaged):
        (tmp_path / "damaged.onnx").write_bytes(content)
        done = run(export, "--map=map.safetensors", f"--onnx={tmp_path / 'damaged.onnx'}", f"--out={out}")
        assert done.returncode == 2 or number >= 20
        if done.returncode:
            assert "damaged.onnx" in refused_with(done)
            refused += 1
        assert out.exists() == (done.returncode == 0)
        out.unlink(missing_ok=True)
    assert refused >= 30
