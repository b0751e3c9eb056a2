"""Gallery maps: what is saved is what is read, NumPy alone applies it, and rows of the wrong kind are refused."""

import inspect
import json
import pathlib
import struct
import textwrap
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import safetensors

import jaxalign
from jaxalign import AffineMap, GalleryMap, UserError, load_map
from jaxalign.align import saved
from jaxalign.biometrics import Cohort
from jaxalign.gallery import Threshold, read_one
from jaxalign.gallery.map_parts import parts_of


@pytest.fixture(scope="session")
def drop_in(planted) -> GalleryMap:
    return planted.map(drop_in=True)


@pytest.fixture
def file(two_sided: GalleryMap, tmp_path: pathlib.Path) -> pathlib.Path:
    two_sided.save(tmp_path / "map.safetensors")
    return tmp_path / "map.safetensors"


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def by_numpy() -> Callable[..., np.ndarray]:
    """The lines of NumPy in the documentation of ``load_map``."""
    text = inspect.getdoc(load_map) or ""
    lines = textwrap.dedent(text.split("::\n\n")[1].split("\n\nRaises")[0])
    assert len(lines.splitlines()) <= 11
    space: dict[str, Any] = {"np": np, "json": json, "safetensors": safetensors}
    exec(lines, space)
    return space["apply"]


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
def test_numpy_alone_applies_the_file(planted, two_sided, drop_in, by_numpy, tmp_path, dtype) -> None:
    x, y = planted.x[planted.test].astype(dtype), planted.y[planted.test].astype(dtype)
    plain = planted.map(normalize="none")
    for number, map_ in enumerate((two_sided, drop_in, plain)):
        map_.save(tmp_path / f"{number}")
        found = map_.apply(x)
        assert found.dtype == (np.float64 if dtype == np.float64 else np.float32)
        np.testing.assert_allclose(found, by_numpy(tmp_path / f"{number}", x), atol=1e-6, rtol=1e-6)
        if not map_.drop_in:
            found = map_.apply(y, "new")
            np.testing.assert_allclose(
                found, by_numpy(tmp_path / f"{number}", y, "probes"), atol=1e-6, rtol=1e-6
            )
    np.testing.assert_allclose(drop_in.apply(y, "new"), unit(y.astype(float)), atol=1e-6)


def test_scores_are_those_of_the_definition(planted, two_sided, drop_in, by_numpy, tmp_path) -> None:
    x, y = planted.x[planted.test][:9], planted.y[planted.test][:7]
    np.testing.assert_allclose(drop_in.scores(x, y), unit(drop_in.apply(x)) @ unit(y).T, atol=1e-6)
    two_sided.save(tmp_path / "map")
    map_, people = load_map(tmp_path / "map"), planted.identities[planted.train]
    sides, near = [], []
    for rows, side, other, others in (
        (x, "gallery", "probes", planted.y),
        (y, "probes", "gallery", planted.x),
    ):
        mapped = unit(by_numpy(tmp_path / "map", rows, side))
        known = unit(by_numpy(tmp_path / "map", others[planted.train], other))
        cohort = unit(np.stack([known[people == name].mean(axis=0) for name in np.unique(people)]))
        sides.append(mapped)
        near.append(np.sort(mapped @ cohort.T, axis=1)[:, -5:].mean(axis=1))
    expected = sides[0] @ sides[1].T - (near[0][:, None] + near[1]) / 2
    np.testing.assert_allclose(map_.scores(x, y), expected, atol=1e-6)
    assert map_.vectors(x, "old").shape == (9, map_.gallery.out_dim + 2)
    np.testing.assert_array_equal(map_.native_scores([-1, 0.1, 0.5, 2]), [0, 0.2, 0.5, 0.8])
    with pytest.raises(UserError, match="no curve"):
        drop_in.native_scores([0])


def test_what_is_read_is_what_was_saved(planted, two_sided, drop_in, tmp_path) -> None:
    ratios = planted.map(score="plda")
    for number, map_ in enumerate((two_sided, drop_in, ratios)):
        paths = [tmp_path / f"{number}.{again}" for again in "ab"]
        map_.save(paths[0])
        found = load_map(paths[0])
        found.save(paths[1])
        assert paths[0].read_bytes() == paths[1].read_bytes() and found.checksum == map_.checksum
        for name in (
            "source",
            "target",
            "method",
            "normalize",
            "score",
            "drop_in",
            "options",
            "thresholds",
            "about",
        ):
            assert getattr(found, name) == getattr(map_, name)
        given, read = (one.scores(planted.x[:5], planted.y[:5]) for one in (map_, found))
        np.testing.assert_array_equal(given, read)
    assert len({map_.checksum for map_ in (two_sided, drop_in, ratios)}) == 3
    (tmp_path / "folder").mkdir()
    for place in (tmp_path / "none" / "map", tmp_path / "folder"):
        with pytest.raises(UserError, match=place.name):
            two_sided.save(place)
    assert not list(tmp_path.glob("*.partial"))
    assert two_sided.about["people"] == 40 and two_sided.about["rows"] == 160


def test_repr_says_what_a_person_wants(two_sided, drop_in) -> None:
    text = repr(two_sided)
    for part in ("old → new", "two-sided", "length 1", "cohort of 40", "160 rows of 40 people planted", "0.4000",
                 "FMR 0.01", "tmr@fmr=0.01 0.9000", "nobody's"):  # fmt: skip
        assert part in text
    assert len(text.splitlines()) <= 10 and len(repr(drop_in).splitlines()) <= 10
    assert "drop-in" in repr(drop_in)


def test_rows_of_the_wrong_kind_are_refused(planted, two_sided) -> None:
    x, y = planted.x[planted.test], planted.y[planted.test]
    damaged = x.copy()
    damaged[2, 1] = np.nan
    zero = x.copy()
    zero[2] = 0
    cases = [(x, "third", "'third'"), (y, "old", "as new gives"), (x, "new", "as old gives"),
             (x[:, ::-1], "old", "look"), (damaged, "old", "NaN"), (zero, "old", "zero"), (x[0], "old", "shape"),
             (x.astype(str), "old", "floating")]  # fmt: skip
    for rows, encoder, word in cases:
        with pytest.raises(UserError, match=word) as caught:
            two_sided.apply(rows, encoder)
        assert "\n" not in str(caught.value)
    assert two_sided.apply(x[:, ::-1], check=False).shape == (len(x), two_sided.gallery.out_dim)
    for rows, word in ((y, "width 16"), (damaged, "NaN")):
        with pytest.raises(UserError, match=word):
            two_sided.apply(rows, "old", check=False)
    own_lengths = planted.map(normalize="none")
    with pytest.raises(UserError, match="length 1"):
        own_lengths.apply(unit(x))
    for count in (1, 5, len(x)):
        assert len(two_sided.apply(x[:count])) == len(own_lengths.apply(x[:count])) == count


def test_parts_that_do_not_fit_are_refused(planted, two_sided) -> None:
    x, y = planted.x[planted.train], planted.y[planted.train]
    cases = [({"source": "new"}, "both"), ({"normalize": "l1"}, "normalize"), ({"score": "best"}, "best"),
             ({"score": "snorm", "drop_in": True}, "drop-in"), ({"rows": (y, x)}, "width|wide"),
             ({"score": "cohort", "options": {"temperature": 1}}, "top"),
             ({"score": "cohort", "options": {"top": 99}}, "40"),
             ({"thresholds": ((1e-2, 0.1, np.nan, 1),)}, "threshold"), ({"about": {"a": object()}}, "JSON"),
             ({"native": (np.array([1.0, 0.0]), np.zeros(2))}, "rise")]  # fmt: skip
    for change, word in cases:
        if "thresholds" in change:
            change = {"thresholds": tuple(Threshold(*at) for at in change["thresholds"])}
        with pytest.raises(UserError, match=word):
            planted.map(**change)


def test_a_pair_of_saved_maps_becomes_one(planted, tmp_path) -> None:
    x, y, people = planted.x[planted.train], planted.y[planted.train], planted.identities[planted.train]
    fit = planted.fit("l2")
    maps = jaxalign.PairwiseMaps("planted", {("old", "new"): lambda: fit}, {("old", "new"): {"l2": 1.0}})
    cohort = Cohort.of(fit.source(unit(x)), fit.target(unit(y)), people)
    maps.save(tmp_path / "maps", normalize="l2", cohorts={("old", "new"): cohort})
    loaded = jaxalign.PairwiseMaps.load(tmp_path / "maps")
    map_ = GalleryMap.of_pair(loaded, "old", "new", rows=(x, y), identities=people, score="cohort")
    assert (map_.normalize, map_.method) == ("l2", "planted")
    np.testing.assert_allclose(map_.apply(planted.x), fit.source(unit(planted.x)), atol=1e-6)
    assert map_.cohort is not None
    np.testing.assert_allclose(map_.cohort.source, cohort.source, atol=1e-3)
    with pytest.raises(UserError, match="contradicts"):
        GalleryMap.of_pair(loaded, "old", "new", rows=(x, y), identities=people, normalize="none")


def test_one_map_is_read_from_files_of_either_kind(planted, two_sided, drop_in, file, tmp_path) -> None:
    two_sided.gallery.save(tmp_path / "plain", {"encoder": "old", "normalize": "l2"})
    plain, whole, probes = read_one(tmp_path / "plain"), read_one(file), read_one(file, "new")
    for one, encoder, rows in (
        (plain, "old", planted.x),
        (whole, "old", planted.x),
        (probes, "new", planted.y),
    ):
        assert (one.encoder, one.normalize) == (encoder, "l2")
        one.require_rows(rows)
        np.testing.assert_allclose(one.map(unit(rows)), two_sided.apply(rows, encoder), atol=1e-6)
    assert "compared" in whole.leads_to and whole.about["sha256"] == two_sided.checksum
    with pytest.raises(UserError, match="map.safetensors.*old"):
        whole.require_rows(planted.x[:, ::-1])
    with pytest.raises(UserError, match="third"):
        read_one(file, "third")
    drop_in.save(tmp_path / "drop_in")
    assert read_one(tmp_path / "drop_in").leads_to == "new's own coordinates"
    with pytest.raises(UserError, match="leaves rows of new"):
        read_one(tmp_path / "drop_in", "new")
    with pytest.raises(UserError, match="a saved affine map"):
        load_map(tmp_path / "plain")
    with pytest.raises(UserError, match="a saved gallery map"):
        AffineMap.load(file)


def refused(path: pathlib.Path) -> str:
    with pytest.raises(UserError) as caught:
        load_map(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)
    return str(caught.value)


def test_no_damage_is_read_silently(two_sided, file) -> None:
    content, random = file.read_bytes(), np.random.default_rng(0)
    header = 8 + struct.unpack("<Q", content[:8])[0]
    places = [
        *range(0, header, 29),
        *range(header - 8, header + 8),
        *random.integers(header, len(content), 150),
    ]
    for place in places:
        damaged = bytearray(content)
        damaged[place] ^= 1 << random.integers(8)
        file.write_bytes(damaged)
        try:
            found = load_map(file)
        except UserError as error:
            assert "\n" not in str(error) and str(file) in str(error)
        else:  # such as an escaped letter for the letter itself
            assert found.checksum == two_sided.checksum
    for size in (0, 7, header // 2, header, len(content) - 1):
        file.write_bytes(content[:size])
        refused(file)


def test_arrays_that_are_no_map_are_refused(two_sided, file) -> None:
    tensors, texts = parts_of(two_sided)
    for name, array in tensors.items():
        changes = {
            "NaN": np.full_like(array, np.nan),
            "of another shape": array[..., None],
            "whole": array.astype(int),
        }
        for changed in changes.values():
            saved.write_map(file, {**tensors, name: changed}, texts, saved.GALLERY)  # with a right checksum
            refused(file)
        saved.write_map(
            file, {key: part for key, part in tensors.items() if key != name}, texts, saved.GALLERY
        )
        if name not in ("gallery.center", "probes.center"):  # the origin, where there is none
            refused(file)
    saved.write_map(file, {**tensors, "more.bias": np.ones(3)}, texts, saved.GALLERY)
    assert "unknown" in refused(file)


def test_texts_of_the_wrong_type_are_refused(two_sided, file) -> None:
    tensors, texts = parts_of(two_sided)
    wrong = ["null", "3", "[]", '["a"]', '{"a": 1}', '"other"', "true", "[" * 50_000, "NaN"]
    for name in texts:
        for changed in wrong:
            if (name, changed) not in (("about", '{"a": 1}'), ("method", '"other"'), ("thresholds", "[]")):
                saved.write_map(file, tensors, {**texts, name: changed}, saved.GALLERY)
                refused(file)
        saved.write_map(
            file, tensors, {key: part for key, part in texts.items() if key != name}, saved.GALLERY
        )
        refused(file)
    for name in ("encoder", "normalize", "limits", "lengths", "unit", "rows", "people"):
        for value in (None, "a", [], [["a", "b"]], -1):
            sides = json.loads(texts["fingerprints"])
            sides["target"][name] = value
            saved.write_map(file, tensors, {**texts, "fingerprints": json.dumps(sides)}, saved.GALLERY)
            refused(file)
