"""Saved maps: what is read is what was written, and everything else is one sentence."""

import json
import os
import pathlib
import struct
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import jaxalign
from jaxalign import AffineMap, PairwiseMaps, UserError
from jaxalign.align import saved
from jaxalign.biometrics import Cohort

RANDOM = np.random.default_rng(0)
ROWS = {"a": RANDOM.normal(size=(40, 5)), "b": RANDOM.normal(size=(40, 3))}
FACTORS, BIAS, CENTER = (RANDOM.normal(size=(5, 2)), RANDOM.normal(size=(2, 4))), np.ones(4), np.ones(5)
MAP = AffineMap(FACTORS, BIAS, CENTER)  # pyright: ignore[reportArgumentType]


@pytest.fixture
def directory(tmp_path: pathlib.Path) -> pathlib.Path:
    jaxalign.fit_pairs(ROWS, "reduced_rank", l2=0.5).save(tmp_path / "maps", {"seed": 3}, normalize="none")
    return tmp_path / "maps"


def refused(read, *given) -> str:
    with pytest.raises(UserError) as caught:
        read(*given)
    assert "\n" not in str(caught.value) and str(given[0]) in str(caught.value)
    return str(caught.value)


def read_everything(directory: pathlib.Path) -> list:
    maps = PairwiseMaps.load(directory)
    return [np.asarray(leaf) for pair in maps for side in (maps[pair].source, maps[pair].target)
            for leaf in (*side.factors, side.bias)]  # fmt: skip


def test_maps_say_what_they_are(directory: pathlib.Path) -> None:
    index = json.loads((directory / "maps.json").read_text())
    assert (index["version"], index["normalize"], index["method"]) == (2, "none", "reduced_rank")
    _, about = AffineMap.load_with_metadata(directory / "00001.target.safetensors")
    told = {
        name: about[name] for name in ("source", "target", "side", "encoder", "normalize", "method", "seed")
    }
    assert told == {"source": "b", "target": "a", "side": "target", "encoder": "a", "normalize": "none",
                    "method": "reduced_rank", "seed": 3}  # fmt: skip
    assert about["widths"] == [5, 5]
    maps = PairwiseMaps.load(directory)
    assert maps.normalize == "none"
    fit, fresh = maps["a", "b"], jaxalign.fit_pairs(ROWS, "reduced_rank", l2=0.5)["a", "b"]
    np.testing.assert_array_equal(fit.predicted, fresh.predicted)
    np.testing.assert_allclose(fit.at_rank(2).to_target()(ROWS["a"]), fresh.at_rank(2).to_target()(ROWS["a"]))
    with pytest.raises(UserError, match="normalize"):
        maps.save(directory, normalize="yes")


def test_the_same_map_is_the_same_file(tmp_path: pathlib.Path) -> None:
    for number in range(4):
        MAP.save(tmp_path / str(number), {"a": 1, "b": [2]})
    assert len({(tmp_path / str(number)).read_bytes() for number in range(4)}) == 1


def test_cohorts_are_saved_with_the_maps(tmp_path: pathlib.Path) -> None:
    maps, people = jaxalign.fit_pairs(ROWS, "canonical"), np.repeat(["x", "y", "ä", "z"], 10)
    fit = maps["a", "b"]
    cohort = Cohort.of(fit.source(ROWS["a"]), fit.target(ROWS["b"]), people)
    maps.save(tmp_path / "maps", normalize="none", cohorts={("a", "b"): cohort})
    loaded = PairwiseMaps.load(tmp_path / "maps")
    found = loaded.cohort("a", "b")
    for side in ("source", "target"):
        np.testing.assert_allclose(getattr(found, side), getattr(cohort, side), atol=1e-3)
    with pytest.raises(UserError, match="1 of its 4"):
        found.require_others(np.array(["ä", "other"]))
    with pytest.raises(UserError, match="without a cohort"):
        loaded.cohort("b", "a")
    np.testing.assert_allclose(loaded["a", "b"].source(ROWS["a"]), fit.source(ROWS["a"]))
    file = next((tmp_path / "maps").glob("*.cohort.*"))
    assert "ä" not in file.read_bytes().decode("utf-8", "ignore")
    damaged = bytearray(file.read_bytes())
    damaged[-1] ^= 1
    file.write_bytes(damaged)
    with pytest.raises(UserError, match=file.name):
        loaded.cohort("a", "b")
    with pytest.raises(UserError, match=file.name):
        saved.read_map(file, saved.COHORT)


DAMAGED = {
    "bias of another width": ({"factor0": np.ones((5, 4)), "bias": np.ones(3)}, "do not fit"),
    "factors that do not chain": (
        {"factor0": np.ones((5, 2)), "factor1": np.ones((3, 4)), "bias": BIAS},
        "fit",
    ),
    "center of length 1": ({"factor0": np.ones((5, 4)), "bias": BIAS, "center": np.ones(1)}, "center"),
    "NaN": ({"factor0": np.full((5, 4), np.nan), "bias": BIAS}, "NaN"),
    "whole numbers": ({"bias": np.ones(4, int)}, "floating"),
    "a missing factor": ({"factor1": np.ones((5, 4)), "bias": BIAS}, "missing or unknown"),
    "an unknown tensor": ({"bias": BIAS, "more": BIAS}, "missing or unknown"),
    "no bias": ({"factor0": np.ones((5, 4))}, "missing or unknown"),
    "a stack in part": ({"factor0": np.ones((2, 5, 4)), "bias": BIAS}, "dimensions"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_tensors_that_are_no_map_are_refused(name: str, tmp_path: pathlib.Path) -> None:
    tensors, reason = DAMAGED[name]
    path = tmp_path / "map.safetensors"
    saved.write_map(path, tensors, {"orthogonal": "false", "metadata": "{}"})  # with a right checksum
    assert reason in refused(AffineMap.load, path)


@pytest.mark.parametrize(
    "texts",
    [{"orthogonal": "0", "metadata": "{}"}, {"orthogonal": "true", "metadata": "[]"}, {"orthogonal": "true"},
     {"orthogonal": "yes", "metadata": "{}"}, {"orthogonal": "true", "metadata": "[" * 100_000},
     {"orthogonal": "true", "metadata": '{"a": ' + "9" * 5_000 + "}"}],
)  # fmt: skip
def test_headers_that_are_none_are_refused(texts: dict[str, str], tmp_path: pathlib.Path) -> None:
    saved.write_map(tmp_path / "map", {"bias": BIAS}, texts)
    refused(AffineMap.load, tmp_path / "map")


def test_other_files_are_refused(tmp_path: pathlib.Path) -> None:
    save_file(
        {"bias": BIAS}, tmp_path / "old", {"format": saved.FORMAT, "orthogonal": "true", "metadata": "{}"}
    )
    assert "no checksum" in refused(AffineMap.load, tmp_path / "old")
    save_file({"bias": BIAS}, tmp_path / "other")
    assert "something else" in refused(AffineMap.load, tmp_path / "other")
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder" / "maps.json").mkdir(parents=True)
    (tmp_path / "text").write_text("text")
    for name in ("fifo", "folder", "text", "nothing"):
        refused(AffineMap.load, tmp_path / name)
    assert "directory" in refused(PairwiseMaps.load, tmp_path / "folder")
    (tmp_path / "maps.json").write_text("[" * 100_000)
    assert "JSON" in refused(PairwiseMaps.load, tmp_path)
    with pytest.raises(UserError, match="metadata"):
        MAP.save(tmp_path / "map", {"rows": object()})


def test_no_damage_is_read_silently(directory: pathlib.Path) -> None:
    """Flipped bits, cut and grown files, swapped files: a sentence, or exactly what was written."""
    whole, random = read_everything(directory), np.random.default_rng(1)
    for file in sorted(directory.iterdir()):
        content = file.read_bytes()
        for trial in range(25):
            damaged = bytearray(content)
            if trial % 5 == 0:
                damaged = damaged[: random.integers(len(content))] + b"x" * (trial == 10)
            else:
                damaged[random.integers(len(content))] ^= 1 << random.integers(8)
            file.write_bytes(damaged)
            try:
                found = read_everything(directory)
            except UserError as error:
                assert str(directory) in str(error) and "\n" not in str(error)
            else:
                assert all(map(np.array_equal, found, whole))
        file.write_bytes(content)
    one, other = directory / "00000.source.safetensors", directory / "00001.target.safetensors"
    one.write_bytes(other.read_bytes())
    with pytest.raises(UserError, match="replaced"):
        read_everything(directory)


def test_one_map_alone_is_as_safe(tmp_path: pathlib.Path) -> None:
    path, random = tmp_path / "map.safetensors", np.random.default_rng(2)
    MAP.save(path, {"encoder": "a"})
    content = path.read_bytes()
    header = 8 + struct.unpack("<Q", content[:8])[0]
    for byte in [*random.integers(len(content), size=100), *range(header - 40, header + 8)]:
        damaged = bytearray(content)
        damaged[byte] ^= 1 << random.integers(8)
        path.write_bytes(damaged)
        try:
            map_, about = AffineMap.load_with_metadata(path)
        except UserError as error:
            assert str(path) in str(error) and "\n" not in str(error)
        else:
            assert about == {"encoder": "a"} and all(map(np.array_equal, map_.factors, FACTORS))


def test_a_map_is_told_what_it_does(tmp_path: pathlib.Path) -> None:
    for side, encoder in (("source", "a"), ("target", "b"), ("to_target", "a")):
        MAP.save(tmp_path / side, {"note": 1}, source="a", target="b", side=side, normalize="l2")
        about = AffineMap.load_with_metadata(tmp_path / side)[1]
        assert about.pop("note") == 1
        assert about == {"source": "a", "target": "b", "side": side, "encoder": encoder, "normalize": "l2"}
    incomplete: list[dict[str, Any]] = [{"source": "a"}, {"source": "a", "target": "b"}, {"normalize": "L2"}]
    for wrong in incomplete:
        with pytest.raises(UserError, match="save: "):
            MAP.save(tmp_path / "wrong", **wrong)
    with pytest.raises(UserError, match="side is one of"):
        MAP.save(tmp_path / "wrong", source="a", target="b", side="both")
    assert not (tmp_path / "wrong").exists()


INDEX = {
    "maps": [lambda index: index.update(maps={}), lambda index: index.update(maps=[3])],
    "method": [lambda index: index.update(method=1)],
    "normalize": [lambda index: index.update(normalize=True)],
    "files": [lambda index: index["maps"][0].update(files={"source": "../x", "target": "y"}),
              lambda index: index["maps"][0].update(files=[])],
    "residual": [lambda index: index["maps"][0].update(residual=["a"]), lambda index: index["maps"][0].pop("residual")],
    "ok": [lambda index: index["maps"][0].update(ok="yes")],
    "condition": [lambda index: index["maps"][0].update(condition=None)],
    "source": [lambda index: index["maps"][0].update(source=["a"])],
    "once": [lambda index: index["maps"].append(index["maps"][0])],
    "version": [lambda index: index.update(version=3)],
}  # fmt: skip


@pytest.mark.parametrize(("name", "change"), [(name, change) for name in INDEX for change in INDEX[name]])
def test_an_index_with_other_types_is_refused(directory: pathlib.Path, name: str, change) -> None:
    content = saved.read_index(directory / "maps.json")
    change(content)
    saved.write_index(directory / "maps.json", content)  # with a right checksum
    with pytest.raises(UserError, match=f"maps.json.*{name}"):
        PairwiseMaps.load(directory)
