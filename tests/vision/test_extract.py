"""Extraction against Pillow and numpy: rows, one decoding pass, going on, adding encoders, bad photographs."""

import dataclasses
import functools
import os
import pathlib
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import PIL.Image
import pytest
from numpy_encoders import NumpyEncoder, content, small, wide, write_people

from jaxalign.core.errors import UserError
from jaxalign.data import EmbeddingStore, join
from jaxalign.vision.encoders import Encoder
from jaxalign.vision.extract import extract
from jaxalign.vision.images import CenterCrop, LandmarkCrop, Picture, landmarks, loading, open_images

ROOT = pathlib.Path(__file__).resolve().parents[2]
OTHER_SETTINGS = "holds an unfinished run with other photographs, encoders or settings"
OTHERWISE = "store 'faces' has an encoder 'small' that was loaded or fed otherwise"


@pytest.fixture
def files(tmp_path: pathlib.Path) -> list[pathlib.Path]:
    return write_people(tmp_path / "faces")


@pytest.fixture
def faces(files: list[pathlib.Path]) -> Any:
    return open_images(f"folder:{files[0].parents[1]}")


@pytest.fixture
def out(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "store"


@pytest.fixture
def decodes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one with every photograph decoded."""
    seen: list[int] = []
    decode = loading.decode_picture
    monkeypatch.setattr(loading, "decode_picture", lambda *given: seen.append(1) or decode(*given))
    return seen


def three() -> list[NumpyEncoder]:
    tall = NumpyEncoder("tall", (20, 7), 3, batch_size=64, resample=PIL.Image.Resampling.LANCZOS)
    return [small(), wide(), tall]


def break_off(source: Any, encoder: NumpyEncoder, out: pathlib.Path, **options: Any) -> None:
    """Begins a run whose encoder breaks."""
    with pytest.raises(RuntimeError, match="the network broke"):
        extract(source, [encoder], out, **options)


def at_once(source: Any, encoders: list[NumpyEncoder], out: pathlib.Path) -> dict[str, bytes]:
    """The files of the store that a run without a break gives."""
    extract(source, encoders, out.with_name("whole"))
    return content(out.with_name("whole"))


def unfinished(out: pathlib.Path) -> pathlib.Path:
    return out.with_name(f".{out.name}.unfinished")


def pieces(out: pathlib.Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(unfinished(out).glob("*.npz"))]


class Source:
    """A folder's photographs with something about them changed."""

    def __init__(self, source: Any, *, streamed: bool = False, reverse: bool = False, landmarks: Any = None):
        self.dataset = source.dataset
        self._pictures = list(source.pictures())[:: -1 if reverse else 1]
        self.samples = None if streamed else [picture.sample for picture in self._pictures]
        self._landmarks = landmarks

    def pictures(self, start: int = 0) -> Iterator[Picture]:
        for picture in self._pictures[start:]:
            yield dataclasses.replace(picture, landmarks=self._landmarks)


def test_rows_are_those_of_pillow_and_numpy_and_each_photograph_is_decoded_once(faces, files, out, decodes):
    encoders = three()
    assert all(isinstance(encoder, Encoder) for encoder in encoders)
    store = extract(faces, encoders, out, dtype="float32")
    assert len(decodes) == len(files)
    assert store.encoders == ("small", "wide", "tall")
    for encoder in encoders:
        np.testing.assert_allclose(store[encoder.name], encoder.expected(files), atol=1e-5)
    names = [f"{file.parent.name}/{file.name}" for file in files]
    assert store.sample_ids.tolist() == names
    assert store.identities.tolist() == [file.parent.name for file in files]
    assert store.column("path").tolist() == [str(file) for file in files]
    assert store.dataset == "faces"
    EmbeddingStore.open(out)  # checksums
    assert sorted(file.name for file in out.parent.iterdir()) == ["faces", "store"]


def test_float16_is_the_default_and_rounds_the_rows(faces, files, out):
    encoder = NumpyEncoder()
    store = extract(faces, [encoder], out)
    assert store["small"].dtype == np.float16
    np.testing.assert_allclose(store["small"], encoder.expected(files), rtol=1e-3, atol=1e-5)


def test_values_beyond_float16(faces, out):
    encoder = NumpyEncoder(scale=1e6)
    with pytest.raises(UserError, match=r"'small' gives values too large for float16; choose .* float32"):
        extract(faces, [encoder], out)
    assert not out.exists() and not unfinished(out).exists()
    assert np.abs(extract(faces, [encoder], out, dtype="float32")["small"]).max() > 1e5


def test_rows_of_nan_are_refused_or_kept(faces, out):
    encoder = NumpyEncoder()
    encoder.weights[:, 0] = np.nan
    sentence = r"'small' gives NaN or infinity for 64 of 64 photographs \(first: 'p0/00\.png'\)"
    with pytest.raises(UserError, match=sentence):
        extract(faces, [encoder], out)
    assert not out.exists()
    assert np.isnan(extract(faces, [encoder], out, nonfinite="keep")["small"][:, 0]).all()


def test_crops_are_for_all_or_for_each(faces, files, out, tmp_path):
    small, wide, _ = encoders = three()
    store = extract(faces, encoders, out, crop=CenterCrop(0.5), dtype="float32")
    np.testing.assert_allclose(store["wide"], wide.expected(files, 0.5), atol=1e-5)
    store = extract(faces, encoders, tmp_path / "mixed", crop={"small": CenterCrop(0.5)}, dtype="float32")
    np.testing.assert_allclose(store["small"], small.expected(files, 0.5), atol=1e-5)
    np.testing.assert_allclose(store["wide"], wide.expected(files), atol=1e-5)
    assert store.info["small"]["view"]["crop"] == {"kind": "center", "fraction": 0.5}
    preprocessing = wide.preprocessing.describe()
    assert store.info["wide"]["view"] == {"crop": {"kind": "none"}, "preprocessing": preprocessing}


def test_landmarks_go_straight_to_the_encoders_size(faces, files, out):
    points = np.array([[6.0, 5], [14, 6], [10, 9], [7, 12], [13, 12.5]])
    encoder = NumpyEncoder(size=(14, 14))
    store = extract(Source(faces, landmarks=points), [encoder], out, crop=LandmarkCrop(), dtype="float32")
    matrix = landmarks.fit_similarity(points, landmarks.template(14, 14))
    faces_ = [landmarks.warp(np.asarray(PIL.Image.open(file)), matrix, 14, 14) for file in files]
    np.testing.assert_allclose(store["small"], encoder.encode(np.stack(faces_)), atol=1e-5)


def test_what_cannot_be_is_refused_before_any_work(faces, out, tmp_path):
    encoder = NumpyEncoder()
    (mine := tmp_path / "mine").mkdir()
    (mine / "thesis.tex").write_text("of years")
    (file := tmp_path / "file").write_text("")
    cases: list[tuple[list[NumpyEncoder], pathlib.Path, dict[str, Any], str]] = [
        ([encoder], out, {"dtype": "int8"}, "dtype is one of float16, float32, bfloat16, got 'int8'"),
        ([], out, {}, "at least one encoder, got none"),
        ([encoder, NumpyEncoder("Small")], out, {}, "'Small': there is already an encoder 'small'"),
        ([encoder], out, {"bad_images": "mend"}, "bad_images must be one of fail, skip"),
        (
            [encoder, wide()],
            out,
            {"crop": {"big": CenterCrop(0.5)}},
            "names big; the encoders are small, wide",
        ),
        ([encoder], out, {"crop": LandmarkCrop()}, "faces has no landmarks for 150 of 150 photographs"),
        ([encoder], mine, {}, "mine exists and is not a store, so it is left alone"),
        ([encoder], mine, {"overwrite": True}, "mine exists and is not a store, so it is left alone"),
        ([encoder], file / "store", {}, "cannot be written: (Not a directory|File exists)"),
    ]
    for encoders, place, options, sentence in cases:
        with pytest.raises(UserError, match=sentence):
            extract(faces, encoders, place, **options)
    assert encoder.calls == 0 and not out.exists() and not unfinished(out).exists()


def test_an_encoder_that_gives_something_else_is_refused(faces, out):
    encoder = NumpyEncoder()
    for wrong in (np.zeros((3, 5)), np.zeros((64, 4)), np.zeros((64, 5), int)):
        encoder.encode = lambda images, wrong=wrong: wrong
        with pytest.raises(UserError, match=r"for 64 photographs; expected floats \[64, 5\]"):
            extract(faces, [encoder], out)
        assert not out.exists()


def test_what_an_encoder_says_of_itself_must_fit_json(faces, out):
    encoder = NumpyEncoder()
    encoder.describe = lambda: {"weights": np.float32(1)}
    with pytest.raises(UserError, match="encoder 'small': what is noted of it must fit JSON"):
        extract(faces, [encoder], out)
    encoder.describe = lambda: {"sizes": (6, 8)}  # a list in JSON
    extract(faces, [encoder], out)
    again = NumpyEncoder()
    again.describe = encoder.describe
    extract(faces, [again], out)
    assert again.calls == 0


@pytest.mark.parametrize(("taken", "given"), [((48,), 96), ((32, 64), 64), ((96, 64), 192), ((100, 64), 100)])
def test_batches_waste_nothing_where_they_can(tmp_path, out, taken, given):
    write_people(tmp_path / "many", 2, 100)
    encoders = [NumpyEncoder(f"e{size}", batch_size=size) for size in taken]
    stops: list[int] = []
    many = open_images(f"folder:{tmp_path / 'many'}")
    extract(many, encoders, out, progress=lambda done, *_: stops.append(done))
    assert stops[0] == given and stops[-1] == 200


def test_a_streamed_source_gives_the_same_store(faces, out):
    told: list[tuple[int, int, int]] = []
    progress = lambda done, embedded, bad: told.append((done, embedded, len(bad)))  # noqa: E731
    extract(Source(faces, streamed=True), three(), out, progress=progress)
    assert told == [(64, 64, 0), (128, 128, 0), (150, 150, 0)]
    assert content(out) == at_once(faces, three(), out)


# Going on


@pytest.mark.parametrize("streamed", [False, True])
def test_a_run_that_failed_goes_on_where_it_was(faces, files, out, decodes, streamed):
    source = Source(faces, streamed=streamed)
    with pytest.raises(RuntimeError, match="the network broke"):
        extract(source, [NumpyEncoder(), NumpyEncoder("wide", (12, 16), 9, fails_at=3)], out)
    assert not out.exists()
    decodes.clear()
    small, wide = NumpyEncoder(), NumpyEncoder("wide", (12, 16), 9)
    told: list[tuple[int, int]] = []
    extract(source, [small, wide], out, progress=lambda done, embedded, bad: told.append((done, embedded)))
    assert (small.calls, small.seen, wide.calls, wide.seen) == (1, 22, 1, 22)
    assert len(decodes) == 22 and told == [(150, 22)]
    assert content(out) == at_once(source, [NumpyEncoder(), NumpyEncoder("wide", (12, 16), 9)], out)
    assert not unfinished(out).exists()


@pytest.mark.parametrize(("seconds", "left"), [(0, 22), (1000, 150)])
def test_a_killed_run_goes_on_at_its_last_checkpoint(faces, files, out, seconds, left):
    program = f"""
from jaxalign.vision import extract, images, journal
from numpy_encoders import NumpyEncoder
journal.SECONDS = {seconds}
extract.extract(images.open_images('folder:{files[0].parents[1]}'), [NumpyEncoder(killed_at=3)], {str(out)!r})
"""
    environment = {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", program]
    killed = subprocess.run(command, env=environment, capture_output=True, timeout=120)
    assert killed.returncode == -9, killed.stderr
    assert not out.exists() and unfinished(out).exists()
    encoder = NumpyEncoder()
    extract(faces, [encoder], out)
    assert encoder.seen == left
    assert content(out) == at_once(faces, [NumpyEncoder()], out)


def test_a_run_that_failed_as_it_wrote_the_store_embeds_nothing_again(faces, out, monkeypatch):
    def full(*_: Any, **__: Any) -> None:
        raise UserError("disk full")

    with monkeypatch.context() as patch, pytest.raises(UserError, match="disk full"):
        patch.setattr(EmbeddingStore, "create", full)
        extract(faces, [NumpyEncoder()], out)
    encoder = NumpyEncoder()
    assert extract(faces, [encoder], out).rows == 150
    assert encoder.calls == 0


@pytest.mark.parametrize("deleted", [(), ("plan.json",)])
def test_a_kill_after_the_store_is_whole_is_in_nobodys_way(faces, out, monkeypatch, deleted):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("jaxalign.vision.journal.Journal.remove", interrupted)
        extract(faces, [NumpyEncoder()], out)
    before = content(out)
    for name in deleted:
        (unfinished(out) / name).unlink()
    assert unfinished(out).exists()
    encoder = NumpyEncoder()
    extract(faces, [encoder], out)
    assert encoder.calls == 0 and content(out) == before and not unfinished(out).exists()
    assert extract(faces, [NumpyEncoder("wide")], out).encoders == ("small", "wide")


def interrupted(*_: Any) -> None:
    raise KeyboardInterrupt


@pytest.fixture
def begun(faces, out) -> list[bytes]:
    """An unfinished run of the encoder ``small``; what its rows are so far."""
    break_off(faces, NumpyEncoder(fails_at=3), out)
    return pieces(out)


SETTINGS: dict[str, dict[str, Any]] = {
    "scale": {"encoders": [NumpyEncoder(scale=2)]},
    "size": {"encoders": [NumpyEncoder(size=(5, 5))]},
    "encoders": {"encoders": [NumpyEncoder(), NumpyEncoder("wide")]},
    "crop": {"crop": CenterCrop(0.5)},
    "dtype": {"dtype": "float32"},
    "reverse": {},
}


@pytest.mark.parametrize("other", SETTINGS)
def test_an_unfinished_run_with_other_settings_is_refused(faces, out, begun, other):
    settings: dict[str, Any] = {"encoders": [NumpyEncoder()], **SETTINGS[other]}
    run = functools.partial(extract, Source(faces, reverse=other == "reverse"), out=out, **settings)
    with pytest.raises(UserError, match=OTHER_SETTINGS):
        run()
    assert pieces(out) == begun
    assert run(overwrite=True).rows == 150
    assert not unfinished(out).exists()


def test_a_refused_run_gives_back_what_it_held(faces, out, begun):
    with pytest.raises(UserError, match="delete that directory") as refused:
        extract(faces, [NumpyEncoder(scale=2)], out)
    encoder = NumpyEncoder()
    assert extract(faces, [encoder], out).rows == 150 and encoder.seen == 22
    assert refused.value.__traceback__  # what the refusal held is still referred to


@pytest.mark.parametrize("damage", ["cut short", "flipped", "start", "method", "missing", "of another place"])
def test_a_damaged_piece_and_what_follows_it_are_embedded_again(tmp_path, out, monkeypatch, damage):
    write_people(tmp_path / "more", 4)
    source = open_images(f"folder:{tmp_path / 'more'}")
    monkeypatch.setattr("jaxalign.vision.journal.SECONDS", 0)
    break_off(source, NumpyEncoder(fails_at=4), out)
    first, second, _ = sorted(unfinished(out).glob("*.npz"))
    whole = bytearray(second.read_bytes())
    half, directory = len(whole) // 2, whole.index(b"PK\1\2")
    flips = {
        "flipped": half,
        "start": len(whole) - 6,
        "method": directory + 10,
    }  # the last two: of zip's directory
    contents = {"cut short": whole[:half], "of another place": first.read_bytes()}
    second.unlink()
    if damage in flips:
        whole[flips[damage]] ^= 255
    if damage != "missing":
        second.write_bytes(contents.get(damage, whole))
    encoder = NumpyEncoder()
    extract(source, [encoder], out)
    assert encoder.seen == 200 - 64
    assert content(out) == at_once(source, [NumpyEncoder()], out)


def test_a_plan_that_is_missing_or_damaged(faces, out, begun):
    """A kill while an unfinished run is deleted leaves one without a plan: its rows count for nothing."""
    plan = unfinished(out) / "plan.json"
    plan.write_text('{"stop"')
    with pytest.raises(UserError, match=r"plan\.json is damaged"):
        extract(faces, [NumpyEncoder()], out)
    assert pieces(out) == begun
    plan.unlink()
    os.mkfifo(plan)
    with pytest.raises(UserError, match="a pipe"):
        extract(faces, [NumpyEncoder()], out)
    plan.unlink()
    encoder = NumpyEncoder(scale=2)
    assert extract(faces, [encoder], out).rows == 150 and encoder.seen == 150


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_second_program_is_refused_and_harms_nothing(faces, files, out, overwrite):
    encoder = NumpyEncoder()
    encode = encoder.encode

    def encode_beside_another(images: np.ndarray) -> np.ndarray:
        with pytest.raises(UserError, match="another program is embedding into it; wait until it ends"):
            extract(faces, [NumpyEncoder()], out, overwrite=overwrite)
        return encode(images)

    encoder.encode = encode_beside_another
    store = extract(faces, [encoder], out, dtype="float32")
    np.testing.assert_allclose(store["small"], encoder.expected(files), atol=1e-5)


def test_an_unfinished_run_goes_on_skipping_a_photograph_that_stopped_it(faces, files, out):
    files[140].write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"the photograph 'p2/40\.png' .* cannot be used"):
        extract(faces, [NumpyEncoder()], out)
    encoder = NumpyEncoder()
    store = extract(faces, [encoder], out, bad_images="skip")
    assert (store.rows, encoder.seen, store.info["small"]["skipped"]) == (149, 21, 1)


def test_an_unfinished_run_that_skipped_does_not_go_on_as_one_without_bad_photographs(faces, files, out):
    files[3].write_bytes(b"")
    break_off(faces, NumpyEncoder(fails_at=2), out, bad_images="skip")
    with pytest.raises(UserError, match="holds an unfinished run that skipped 1 bad photographs"):
        extract(faces, [NumpyEncoder()], out)
    encoder = NumpyEncoder()
    store = extract(faces, [encoder], out, bad_images="skip")
    assert (store.rows, encoder.seen, store.info["small"]["skipped"]) == (149, 149 - 64, 1)


def test_a_run_that_did_nothing_leaves_nothing_in_the_way(faces, files, out):
    files[0].write_bytes(b"")
    with pytest.raises(UserError, match=r"the photograph 'p0/00\.png' .* cannot be used: the file is empty"):
        extract(faces, [NumpyEncoder()], out)
    assert not unfinished(out).exists()
    assert extract(faces, [NumpyEncoder(scale=2)], out, bad_images="skip").rows == 149


# A store that is there


def test_encoders_that_are_there_are_not_run_again(faces, files, out, decodes):
    extract(faces, [NumpyEncoder()], out, dtype="float32")
    before = content(out)
    again = NumpyEncoder()
    assert extract(faces, [again], out).encoders == ("small",)
    assert again.calls == 0 and content(out) == before and len(decodes) == 150
    wide = NumpyEncoder("wide", (12, 16), 9)
    store = extract(faces, [again, wide], out)
    assert (again.calls, wide.seen, store.encoders) == (0, 150, ("small", "wide"))
    np.testing.assert_allclose(store["wide"], wide.expected(files), rtol=1e-3, atol=1e-4)
    after = content(out)
    assert all(after[name] == before[name] for name in before if name != "manifest.json")


def test_a_store_with_an_altered_number_is_not_taken_for_embedded(faces, out):
    extract(faces, [NumpyEncoder()], out)
    path = out / "small.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    again = NumpyEncoder()
    for encoders in ([again], [again, NumpyEncoder("wide")]):
        with pytest.raises(UserError, match="small.npy was altered"):
            extract(faces, encoders, out)
    extract(faces, [again], out, overwrite=True)
    assert again.calls


CHANGES = {
    "order": "150 in another place (first: 'p0/00.png')",
    "another": "1 added (first: 'p1/200.png'), 1 removed (first: 'p1/20.png')",
    "replaced": "1 replaced (first: 'p1/20.png')",
    "relabelled": "1 relabelled (first: 'p1/20.png')",
    "more": "1 added (first: 'p2/99.png')",
    "fewer": "1 removed (first: 'p2/49.png')",
    "landmarks": "150 replaced (first: 'p0/00.png')",
}


@pytest.fixture(params=CHANGES)
def change(request, files):
    """Changes photographs after a run; gives the kind of change and the source as it is then."""

    def made(**how: Any) -> Source:
        kind = request.param
        black = PIL.Image.new("RGB", (16, 20))
        if kind == "another":
            files[70].rename(files[70].with_name("200.png"))
        if kind == "replaced":  # by a file of the same size and date
            status, size = files[70].stat(), len(files[70].read_bytes())
            black.save(files[70])
            with files[70].open("ab") as file:
                file.write(bytes(size - file.tell()))
            os.utime(files[70], ns=(status.st_atime_ns, status.st_mtime_ns))
        if kind == "more":
            black.save(files[149].with_name("99.png"))
        if kind == "fewer":
            files[149].unlink()
        source = open_images(f"folder:{files[0].parents[1]}")
        if kind == "relabelled":
            source.samples[70] = dataclasses.replace(source.samples[70], identity="p0")  # pyright: ignore
        points = np.ones((5, 2)) if kind == "landmarks" else None
        return Source(source, reverse=kind == "order", landmarks=points, **how)

    made.sentence = "photographs changed: " + re.escape(CHANGES[request.param])
    return made


@pytest.mark.parametrize("added", [False, True])
@pytest.mark.parametrize("streamed", [False, True])
def test_rows_of_other_photographs_are_never_used_again(faces, out, change, streamed, added, decodes):
    extract(faces, [NumpyEncoder()], out)
    before = content(out)
    source = change(streamed=streamed)
    decodes.clear()
    encoders = [NumpyEncoder(), NumpyEncoder("wide")] if added else [NumpyEncoder()]
    with pytest.raises(UserError, match=f"store 'faces': .*{change.sentence}; overwrite the store"):
        extract(source, encoders, out)
    assert content(out) == before and encoders[-1].seen == 0
    extract(source, encoders, out, overwrite=True)
    assert extract(source, encoders, out).rows == sum(1 for _ in source.pictures())


def test_an_unfinished_run_of_other_photographs_is_refused(faces, out, change):
    """Of a streamed source; where photographs changed behind those that were embedded, the run goes on."""
    break_off(Source(faces, streamed=True), NumpyEncoder(fails_at=3), out)
    source = change(streamed=True)
    if "p2/" not in change.sentence:
        sentence = re.sub("150.* in.* another.*", "22 added.*22 removed.*", change.sentence).replace(
            "150", "128"
        )
        with pytest.raises(
            UserError, match=f"the unfinished run in .*{sentence}; delete that directory, or overwrite"
        ):
            extract(source, [NumpyEncoder()], out)
    again = "p2/" not in change.sentence
    assert extract(source, [NumpyEncoder()], out, overwrite=again).rows == sum(1 for _ in source.pictures())


def test_another_encoder_of_the_same_name_is_refused_before_any_work(faces, out):
    extract(faces, [NumpyEncoder()], out)
    before = content(out)
    for encoder, crop, sentence in (
        (NumpyEncoder(scale=2), None, OTHERWISE),
        (NumpyEncoder(), CenterCrop(0.5), OTHERWISE),
        (NumpyEncoder("Small"), None, "encoder 'Small': there is already an encoder 'small'"),
    ):
        with pytest.raises(UserError, match=sentence):
            extract(faces, [encoder, NumpyEncoder("wide")], out, crop=crop)
        assert encoder.calls == 0 and content(out) == before


def test_adding_goes_on_after_a_failure(faces, files, out):
    extract(faces, [NumpyEncoder()], out)
    break_off(faces, NumpyEncoder("wide", fails_at=3), out)
    assert EmbeddingStore.open(out).encoders == ("small",)
    wide = NumpyEncoder("wide")
    store = extract(faces, [wide], out)
    assert wide.seen == 22
    np.testing.assert_allclose(store["wide"], wide.expected(files), rtol=1e-3, atol=1e-4)


def test_an_unfinished_overwriting_does_not_end_as_an_addition(faces, files, out):
    """The store there may hold other photographs than the rows that were embedded to replace it."""
    extract(faces, [NumpyEncoder()], out)
    before = content(out)
    PIL.Image.new("RGB", (16, 20)).save(files[0])
    break_off(faces, NumpyEncoder("wide", fails_at=3), out, overwrite=True)
    with pytest.raises(UserError, match="1 replaced"):
        extract(faces, [NumpyEncoder("wide")], out)
    assert content(out) == before
    assert extract(faces, [NumpyEncoder("wide")], out, overwrite=True).encoders == ("wide",)


def test_an_imported_store_is_matched_by_sample_id(faces, out):
    people, names = zip(*((sample.identity, sample.sample_id) for sample in faces.samples))
    EmbeddingStore.create(out, {"theirs": np.ones((150, 2), np.float32)}, people, sample_ids=names)
    with pytest.raises(UserError, match="150 in another place"):
        extract(Source(faces, reverse=True), [NumpyEncoder()], out)
    assert extract(faces, [NumpyEncoder()], out).encoders == ("theirs", "small")


def test_further_columns_of_a_list_are_kept(files, out):
    """Under other names where a store has columns of its own; of the photographs that are used."""
    files[1].write_bytes(b"")
    head = "file,identity,camera,digest,original_digest\n"
    lines = [f"{file},p{row % 2},{row:03d},d,{row}\n" for row, file in enumerate(files[:4])]
    (out.parent / "list.csv").write_text(head + "".join(lines))
    source = open_images(f"csv:{out.parent}/list.csv")
    store = extract(source, [NumpyEncoder()], out, bad_images="skip")
    assert store.column("camera").tolist() == ["000", "002", "003"]
    assert store.column("original_digest").tolist() == ["d"] * 3
    assert store.column("original_original_digest").tolist() == ["0", "2", "3"]
    assert len(set(store.column("digest").tolist())) == 3 and store.column("path")[0] == str(files[0])
    added = extract(source, [NumpyEncoder("wide")], out, bad_images="skip")
    joined = join([added.only(["small"]), added.only(["wide"])])
    assert joined.column("camera").tolist() == ["000", "002", "003"]


# Bad photographs


def test_bad_photographs_are_skipped_named_and_counted_also_when_an_encoder_is_added(faces, files, out):
    files[3].write_bytes(b"")
    files[149].write_bytes(b"no picture")
    named: list[str] = []
    told = lambda done, embedded, bad: named.extend(one.sample.sample_id for one in bad)  # noqa: E731
    encoder = NumpyEncoder()
    store = extract(faces, [encoder], out, bad_images="skip", progress=told, dtype="float32")
    good = [file for row, file in enumerate(files) if row not in (3, 149)]
    np.testing.assert_allclose(store["small"], encoder.expected(good), atol=1e-5)
    assert named == ["p0/03.png", "p2/49.png"] and store.info["small"]["skipped"] == 2
    with pytest.raises(UserError, match=r"the photograph 'p0/03\.png'"):
        extract(faces, [NumpyEncoder("wide")], out)
    store = extract(faces, [NumpyEncoder("wide")], out, bad_images="skip")
    assert (store.rows, store.info["wide"]["skipped"]) == (148, 2)


def test_a_photograph_that_became_bad_adds_no_encoder(faces, files, out):
    extract(faces, [NumpyEncoder()], out)
    files[5].write_bytes(b"")
    with pytest.raises(UserError, match=r"store 'faces': .* 1 removed \(first: 'p0/05\.png'\)"):
        extract(faces, [NumpyEncoder("wide")], out, bad_images="skip")


def test_a_photograph_that_an_encoder_cannot_take_is_bad_and_named(faces, files, out):
    """A size that is not the network's, under a preprocessing that leaves sizes alone."""
    encoder = NumpyEncoder(size=(16, 20))
    encoder.preprocessing = dataclasses.replace(encoder.preprocessing, resize=None)
    PIL.Image.new("RGB", (5, 4)).save(files[7])
    with pytest.raises(UserError, match=r"the photograph 'p0/07\.png' .* encoder 'small': .* came out at"):
        extract(faces, [encoder], out)
    assert extract(faces, [encoder], out, bad_images="skip").rows == 149


def test_a_thread_of_pixels_does_not_fill_the_memory(faces, files, out):
    encoder = NumpyEncoder(size=(8, 8))
    encoder.preprocessing = dataclasses.replace(encoder.preprocessing, resize=8, crop=(8, 8))
    PIL.Image.new("RGB", (60000, 1)).save(files[7])
    with pytest.raises(UserError, match=r"p0/07\.png.*60,000 × 1 pixels, far too narrow for a photograph"):
        extract(faces, [encoder], out)


def test_none_but_bad_photographs_is_one_sentence(faces, files, out):
    for file in files:
        file.write_bytes(b"")
    with pytest.raises(UserError, match="faces: none of its 150 photographs can be used"):
        extract(faces, [NumpyEncoder()], out, bad_images="skip")
    assert not out.exists() and not unfinished(out).exists()
