"""Hugging Face data sets from directories, and what is said where the hub cannot be reached."""

import os
import pathlib
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
from pictures import encoded, people_folder

from jaxalign.core.errors import UserError
from jaxalign.vision.images import ImageSource, Resize, SourceOptions, View, decode, load_batches, open_images
from jaxalign.vision.images.hub import find_columns

datasets = pytest.importorskip("datasets")
ROOT = pathlib.Path(__file__).resolve().parents[3]
SHADES = (0, 40, 80, 120, 160, 200)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf_cache")


def _table(names: Sequence[str] | None = ("ann", "bob"), **columns: list) -> Any:
    """Six grey pictures, three of each person."""
    files = [{"bytes": encoded(np.full((6, 8, 3), shade, np.uint8)), "path": None} for shade in SHADES]
    label = datasets.ClassLabel(names=list(names)) if names else datasets.Value("int64")
    features = datasets.Features(image=datasets.Image(), label=label)
    data = datasets.Dataset.from_dict({"image": files, "label": [0, 0, 0, 1, 1, 1]}, features=features)
    for name, values in columns.items():
        data = data.add_column(name, values)
    return data


def _saved(folder: pathlib.Path, data: Any) -> str:
    data.save_to_disk(str(folder))
    return f"hub:{folder}"


def _parquet(folder: pathlib.Path, data: Any, split: str = "train") -> str:
    (folder / "data").mkdir(parents=True, exist_ok=True)
    data.to_parquet(str(folder / "data" / f"{split}-00000-of-00001.parquet"))
    return f"hub:{folder}"


def _seen(source: ImageSource, start: int = 0) -> list[tuple[str, str, int]]:
    seen = [(picture.sample, decode(picture.load())) for picture in source.pictures(start)]
    return [(sample.sample_id, sample.identity, int(image[0, 0, 0])) for sample, image in seen]


def _expected(prefix: str, people: tuple[str, str] = ("ann", "bob")) -> list[tuple[str, str, int]]:
    return [(f"{prefix}{row:08d}", people[row // 3], shade) for row, shade in enumerate(SHADES)]


def test_a_saved_directory(tmp_path: pathlib.Path) -> None:
    source = open_images(_saved(tmp_path / "faces", _table()))
    assert source.dataset == "faces" and source.samples is not None and len(source.samples) == 6
    for start in (0, 4, 6):
        assert _seen(source, start) == _expected("")[start:]


def test_a_saved_directory_with_splits(tmp_path: pathlib.Path) -> None:
    splits = datasets.DatasetDict(train=_table(), test=_table().select([5, 0, 1]))
    spec = _saved(tmp_path / "faces", splits)
    assert _seen(open_images(spec, SourceOptions(split="train"))) == _expected("train/")
    assert [shade for *_, shade in _seen(open_images(spec, SourceOptions(split="test")))] == [200, 0, 40]
    with pytest.raises(UserError, match="has the splits train, test; name one"):
        open_images(spec)
    with pytest.raises(UserError, match="has no split 'val'; it has train, test"):
        open_images(spec, SourceOptions(split="val"))


@pytest.mark.parametrize("streaming", [False, True])
def test_parquet_files(tmp_path: pathlib.Path, streaming: bool) -> None:
    source = open_images(_parquet(tmp_path / "faces", _table()), SourceOptions(streaming=streaming))
    assert (source.samples is None) == streaming
    for start in (0, 4, 4):
        assert _seen(source, start) == _expected("train/")[start:]


@pytest.mark.parametrize("streaming", [False, True])
def test_a_split_that_is_named(tmp_path: pathlib.Path, streaming: bool) -> None:
    folder = tmp_path / "faces"
    _parquet(folder, _table(), "test")
    spec = _parquet(folder, _table().select([3, 0]))
    source = open_images(spec, SourceOptions(split="train", streaming=streaming))
    assert [shade for *_, shade in _seen(source)] == [120, 0]
    with pytest.raises(UserError, match="has the splits"):
        open_images(spec, SourceOptions(streaming=streaming))
    with pytest.raises(UserError, match="cannot be opened .*val"):
        open_images(spec, SourceOptions(split="val", streaming=streaming))


def test_a_folder_of_images_and_an_archive_that_is_streamed(tmp_path: pathlib.Path) -> None:
    folder = people_folder(tmp_path / "faces", 2, 2)
    (tmp_path / "zipped").mkdir()
    with zipfile.ZipFile(tmp_path / "zipped" / "train.zip", "w") as archive:
        for path in sorted(folder.rglob("*.png")):
            archive.write(path, path.relative_to(folder))
        rows = [f"p{person}/{number}.png,p{person}" for person in range(2) for number in range(2)]
        archive.writestr("metadata.csv", "\n".join(["file_name,identity", *rows]))
    for place, streaming in (("faces", False), ("faces", True), ("zipped", True)):
        source = open_images(f"hub:{tmp_path / place}", SourceOptions(streaming=streaming))
        assert [seen[1:] for seen in _seen(source)] == [("p0", 0), ("p0", 1), ("p1", 10), ("p1", 11)]


@pytest.mark.parametrize("streaming", [False, True])
def test_many_rows_in_threads_keep_their_order(tmp_path: pathlib.Path, streaming: bool) -> None:
    big = datasets.concatenate_datasets([_table()] * 50)
    source = open_images(_parquet(tmp_path / "faces", big), SourceOptions(streaming=streaming))
    batches = list(load_batches(source, [View(resize=Resize(3, 3))], 64, start=7, workers=6))
    assert [int(image[0, 0, 0]) for batch in batches for image in batch.images[0]] == (list(SHADES) * 50)[7:]
    assert batches[0].samples[0].sample_id == "train/00000007"
    assert batches[-1].stop == 300


def test_numbers_and_texts_as_people(tmp_path: pathlib.Path) -> None:
    assert _seen(open_images(_saved(tmp_path / "a", _table(names=None)))) == _expected("", ("0", "1"))
    data = _table(identity=list("xxxyyy"), sample_id=list("abcdef"))
    seen = _seen(open_images(_saved(tmp_path / "b", data)))
    assert [one[:2] for one in seen] == list(zip("abcdef", "xxxyyy"))
    seen = _seen(open_images(_saved(tmp_path / "c", data), SourceOptions(identity_column="label")))
    assert [one[1] for one in seen] == ["ann"] * 3 + ["bob"] * 3


@pytest.mark.parametrize("streaming", [False, True])
def test_landmarks_from_columns(tmp_path: pathlib.Path, streaming: bool) -> None:
    points = [[float(row + number) for number in range(10)] for row in range(6)]
    spec = _parquet(tmp_path / "faces", _table(landmarks=points))
    for row, picture in enumerate(open_images(spec, SourceOptions(streaming=streaming)).pictures()):
        assert picture.landmarks is not None
        np.testing.assert_array_equal(picture.landmarks.reshape(-1), points[row])
    names = [f"{axis}{k}" for k in range(1, 6) for axis in "xy"]
    columns = {name: [float(row + number) for row in range(6)] for number, name in enumerate(names)}
    spec = _parquet(tmp_path / "ten", _table(("ann", "bob"), **columns))
    found = next(open_images(spec, SourceOptions(streaming=streaming)).pictures(2)).landmarks
    assert found is not None
    np.testing.assert_array_equal(found.reshape(-1), points[2])


def test_bytes_without_the_image_type(tmp_path: pathlib.Path) -> None:
    files = [encoded(np.full((6, 8, 3), shade, np.uint8)) for shade in SHADES]
    plain = datasets.Dataset.from_dict({"jpg": files, "person": list("aaabbb")})
    photos = [{"bytes": file, "path": "x.png"} for file in files]
    nested = datasets.Dataset.from_dict({"photo": photos, "person": list("aaabbb")})
    for name, data in (("plain", plain), ("nested", nested)):
        seen = _seen(open_images(_saved(tmp_path / name, data)))
        assert [one[1:] for one in seen] == list(zip("aaabbb", SHADES))


def test_a_damaged_row_is_skipped_by_name(tmp_path: pathlib.Path) -> None:
    data = _table().cast_column("image", datasets.Image(decode=False))
    damage = {1: {"bytes": b"nonsense", "path": None}, 4: None}
    rows = [damage.get(row, value) for row, value in enumerate(data["image"])]
    damaged = data.remove_columns("image").add_column("image", rows).cast_column("image", datasets.Image())
    source = open_images(_saved(tmp_path / "faces", damaged))
    (batch,) = load_batches(source, [View()], 10, bad_images="skip")
    assert [bad.sample.sample_id for bad in batch.bad] == ["00000001", "00000004"]
    assert "not an image" in batch.bad[0].reason and "no picture" in batch.bad[1].reason
    with pytest.raises(UserError, match="faces: the photograph '00000001' cannot be used"):
        list(load_batches(source, [View()], 10))


DAMAGE = {
    "no JSON": ("state.json", "{", r"train.state\.json is damaged: it is not JSON"),
    "a list": (
        "dataset_info.json",
        "[1]",
        r"dataset_info\.json is damaged: expected a JSON object, got list",
    ),
    "no files": ("state.json", "{}", r"cannot be opened: state\.json, .* may be damaged \('_data_files'\)"),
    "no splits": (
        "../dataset_dict.json",
        "{}",
        r'dataset_dict\.json is damaged: expected .* "splits", got None',
    ),
    "cut short": ("data-00000-of-00001.arrow", "", "cannot be opened: .* an Arrow file in it may be damaged"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_metadata_is_named(damage: str, tmp_path: pathlib.Path) -> None:
    name, content, told = DAMAGE[damage]
    place = _saved(tmp_path / "faces", datasets.DatasetDict(train=_table()))
    (tmp_path / "faces" / "train" / name).write_text(content)
    with pytest.raises(UserError, match=told) as refused:
        open_images(place)
    assert "\n" not in str(refused.value)


def test_damaged_offsets_are_refused_before_they_are_followed(tmp_path: pathlib.Path) -> None:
    place = _saved(tmp_path / "faces", _table())
    (file,) = (tmp_path / "faces").glob("*.arrow")
    content, size = file.read_bytes(), len(encoded(np.full((6, 8, 3), 0, np.uint8)))
    where = content.index(np.array([0, size], np.int32).tobytes())
    file.write_bytes(content[: where + 4] + np.array([-7], np.int32).tobytes() + content[where + 8 :])
    with pytest.raises(UserError, match="data set .*faces is damaged"):
        open_images(place)


def test_a_format_that_was_saved_leaves_no_columns_out(tmp_path: pathlib.Path) -> None:
    source = open_images(_saved(tmp_path / "faces", _table().with_format("numpy", columns=["image"])))
    assert _seen(source) == _expected("")


def test_columns_that_are_not_clear(tmp_path: pathlib.Path) -> None:
    def error(name: str, data: Any, **options: Any) -> str:
        with pytest.raises(UserError) as caught:
            open_images(_saved(tmp_path / name, data), SourceOptions(**options))
        return str(caught.value)

    table = _table()
    assert "has no column of images; it has label" in error("a", table.remove_columns("image"))
    files = list(table.cast_column("image", datasets.Image(decode=False))["image"])
    two = table.add_column("second", files, feature=datasets.Image())
    assert "several columns of images, image, second; name one" in error("b", two)
    unclear = table.rename_column("label", "group").cast_column("group", datasets.Value("int64"))
    assert "which column has the person is not clear from image, group" in error("c", unclear)
    assert "has no column 'who'; it has image, label" in error("d", table, identity_column="who")
    assert "expected images" in error("e", table, image_column="label")
    assert "at least two people" in error("f", table.select([0, 1]))
    with pytest.raises(UserError, match=r"cannot be opened|holds no photographs"):
        (tmp_path / "g" / "data").mkdir(parents=True)
        pyarrow.parquet.write_table(table.data.table.slice(0, 0), tmp_path / "g" / "data" / "train-0.parquet")
        open_images(f"hub:{tmp_path / 'g'}")
    floats = table.remove_columns("label").add_column("label", [0.5] * 6)
    assert "row 0: the column label must be text or a whole number, got 0.5" in error("h", floats)
    label = table.features["label"]
    unlabelled = table.remove_columns("label").add_column("label", [0, -1] * 3, feature=label)
    assert "row 1: the column label must be the number of a class" in error("i", unlabelled)
    assert "the sample id 'x' is on 6 photographs" in error("j", table.add_column("sample_id", ["x"] * 6))


def test_a_stream_with_a_name_twice_says_so_when_it_comes(tmp_path: pathlib.Path) -> None:
    spec = _parquet(tmp_path / "faces", _table(sample_id=list("abcadf")))
    pictures = open_images(spec, SourceOptions(streaming=True)).pictures()
    assert [next(pictures).sample.sample_id for _ in range(3)] == ["a", "b", "c"]
    with pytest.raises(UserError, match="row 3: the sample id 'a' came before"):
        next(pictures)


def test_places_that_are_no_data_set(tmp_path: pathlib.Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "notes.xyz").write_text("nothing")
    (tmp_path / "file").write_text("nothing")
    (tmp_path / "broken" / "data").mkdir(parents=True)
    (tmp_path / "broken" / "data" / "train-00000-of-00001.parquet").write_bytes(b"PAR1 nonsense")
    for place, expected in (
        ("empty", "holds no data set"),
        ("text", "holds no data set|cannot be opened"),
        ("file", "is a file"),
        ("missing", "is missing; a name on the hub is like owner/name"),
        ("broken", "cannot be opened"),
    ):
        with pytest.raises(UserError, match=expected) as caught:
            open_images(f"hub:{tmp_path / place}")
        assert "\n" not in str(caught.value)


WITHOUT_A_NETWORK = """
from jaxalign.core.errors import UserError
from jaxalign.vision.images import SourceOptions, open_images
for streaming in (False, True):
    try:
        open_images("hub:nobody/no-such-faces", SourceOptions(streaming=streaming))
    except UserError as error:
        print(error)
"""


def test_a_hub_without_a_network() -> None:
    command = [sys.executable, "-c", WITHOUT_A_NETWORK]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.stdout.count("data set nobody/no-such-faces cannot be reached") == 2, run.stderr
    assert run.stdout.count("hub:DIR") == 2 and len(run.stdout.splitlines()) == 2


def test_a_connection_that_breaks_while_streaming(tmp_path: pathlib.Path, monkeypatch: Any) -> None:
    source = open_images(_parquet(tmp_path / "faces", _table()), SourceOptions(streaming=True))

    def broken(self):
        yield {"image": {"bytes": b"", "path": None}, "label": 0}
        raise ConnectionError("the line went dead")

    monkeypatch.setattr(datasets.IterableDataset, "__iter__", broken)
    with pytest.raises(UserError, match="broke off after row 0: the line went dead"):
        list(source.pictures())


def test_usual_names_come_before_classes() -> None:
    features = {"image": datasets.Image(), "age": datasets.ClassLabel(names=["young", "old"])}
    assert find_columns(features, SourceOptions(), "data").identity == "age"
    features["celeb_id"] = datasets.Value("int64")
    assert find_columns(features, SourceOptions(), "data").identity == "celeb_id"
