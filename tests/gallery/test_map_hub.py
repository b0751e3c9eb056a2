"""Gallery maps as the Hub has them: directories, cards and refusals; nothing here needs a network."""

import builtins
import json
import pathlib
import sys
import types
from typing import Any

import numpy as np
import pytest
from huggingface_hub import HfApi, ModelCard, errors

from jaxalign import GalleryMap, UserError, gallery
from jaxalign.gallery import map_hub


def test_a_directory_gives_the_map_back(two_sided: GalleryMap, tmp_path: pathlib.Path) -> None:
    two_sided.save_pretrained(tmp_path / "made")
    assert GalleryMap.from_pretrained(tmp_path / "made").checksum == two_sided.checksum
    summary = json.loads((tmp_path / "made" / "config.json").read_text())
    assert (summary["source"], summary["target"], summary["checksum"]) == ("old", "new", two_sided.checksum)
    with pytest.raises(UserError, match=r"README\.md"):
        two_sided.save_pretrained(tmp_path / "made")


def test_the_card_says_what_the_hub_and_a_person_ask(two_sided: GalleryMap, planted, tmp_path) -> None:
    two_sided.save_pretrained(tmp_path / "made")
    card: Any = ModelCard.load(tmp_path / "made" / "README.md")
    assert card.data.base_model == ["old", "new"] and card.data.library_name == "jaxalign"
    found = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert found == {"tmr@fmr=0.01": 0.9, "r": 1}
    assert {result.dataset_name for result in card.data.eval_results} == {"planted"}
    assert card.data.license == "other" and "nobody's" in card.text
    assert "| 0.001 | 0.6000 | 0.5000 to 0.7000 |" in card.text
    code = card.text.split("```python\n")[2].split("```")[0]
    space: dict = {}
    exec(code, space)
    rows = planted.x[planted.test]
    found = space["apply"](tmp_path / "made" / "map.safetensors", rows)
    np.testing.assert_allclose(found, two_sided.apply(rows), atol=1e-6)
    named = planted.map(source="a_b|<c>", about={"license": "apache-2.0"})
    named.save_pretrained(tmp_path / "named")
    card = ModelCard.load(tmp_path / "named" / "README.md")
    assert card.data.license == "apache-2.0" and card.data.base_model == ["a_b|<c>", "new"]
    assert card.data.eval_results is None and "a\\_b\\|\\<c\\>" in card.text


def test_an_upload_is_one_commit_of_the_three_files(two_sided: GalleryMap, monkeypatch) -> None:
    with pytest.raises(UserError, match="not/a/name"):
        two_sided.push_to_hub("not/a/name")
    made, sent = [], []

    def create(self, repo_id, **options):
        made.append((repo_id, self.token, options))
        return types.SimpleNamespace(repo_id=f"name/{repo_id}")

    def upload(self, *, folder_path, repo_id, **options):
        sent.append((repo_id, sorted(path.name for path in pathlib.Path(folder_path).iterdir()), options))
        return "address"

    monkeypatch.setattr(HfApi, "create_repo", create)
    monkeypatch.setattr(HfApi, "upload_folder", upload)
    commit = {"commit_message": "new", "create_pr": True}
    assert two_sided.push_to_hub("map", private=True, token="t", branch="b", **commit) == "address"
    assert made == [("map", "t", {"private": True, "exist_ok": True})]
    files = ["README.md", "config.json", "map.safetensors"]
    assert sent == [("name/map", files, {"revision": "b", **commit})]
    with pytest.raises(TypeError, match="privat"):
        two_sided.push_to_hub("map", privat=True)


@pytest.mark.parametrize(
    "kind",
    ["HTTPError", "EntryNotFoundError", "HFValidationError", "OSError", "TimeoutError", "RuntimeError"],
)
def test_what_the_hub_s_client_raises_is_a_sentence(two_sided: GalleryMap, monkeypatch, kind) -> None:
    def fail(*_, **__):
        cause = ConnectionError() if kind == "RuntimeError" else None  # as where an upload breaks off
        raise getattr(errors, kind, getattr(builtins, kind, OSError))("no connection\nat all") from cause

    monkeypatch.setattr(HfApi, "create_repo", fail)
    monkeypatch.setattr(map_hub, "hf_hub_download", fail)
    with pytest.raises(UserError, match="name/map cannot be uploaded: no connection.$"):
        two_sided.push_to_hub("name/map")
    with pytest.raises(UserError, match="name/map cannot be read: no connection.$"):
        GalleryMap.from_pretrained("name/map")


@pytest.mark.parametrize("kind", [ZeroDivisionError, TypeError, ValueError, RuntimeError])
def test_a_defect_is_not_taken_for_the_hub_s_refusal(
    two_sided: GalleryMap, monkeypatch, tmp_path, kind
) -> None:
    def fail(*_, **__):
        raise kind

    two_sided.save_pretrained(tmp_path / "made")
    monkeypatch.setattr(map_hub, "load_map", fail)
    monkeypatch.setattr(HfApi, "create_repo", fail)
    for call in (
        lambda: GalleryMap.from_pretrained(tmp_path / "made"),
        lambda: two_sided.push_to_hub("name/map"),
    ):
        with pytest.raises(kind):
            call()


def test_a_repository_gives_the_map_of_a_revision(two_sided: GalleryMap, planted, tmp_path) -> None:
    """The Hub's own client reads its cache, which has two revisions, without a network."""
    cached, maps = tmp_path / "cache" / "models--name--map", {"main": two_sided, "v1": planted.map()}
    for commit, (revision, map) in zip(("a" * 40, "b" * 40), maps.items()):
        map.save_pretrained(cached / "snapshots" / commit)
        (cached / "refs").mkdir(exist_ok=True)
        (cached / "refs" / revision).write_text(commit)
    options: dict[str, Any] = {"cache_dir": tmp_path / "cache", "local_files_only": True}
    assert GalleryMap.from_pretrained("name/map", **options).checksum == two_sided.checksum
    assert GalleryMap.from_pretrained("name/map", revision="v1", **options).checksum == maps["v1"].checksum
    with pytest.raises(UserError, match="name/map"):
        GalleryMap.from_pretrained("name/map", revision="v2", **options)
    with pytest.raises(TypeError, match="revison"):
        GalleryMap.from_pretrained("name/map", revison="v1")


def test_the_client_that_is_not_installed_names_the_extra(
    two_sided: GalleryMap, monkeypatch, tmp_path
) -> None:
    monkeypatch.delattr(gallery, "map_hub")
    monkeypatch.delitem(sys.modules, map_hub.__name__)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"huggingface_hub is not installed.*jaxalign\[hub\]"):
        two_sided.save_pretrained(tmp_path / "made")


def test_what_is_no_map_is_a_sentence(two_sided: GalleryMap, planted, tmp_path: pathlib.Path) -> None:
    (tmp_path / "empty").mkdir()
    two_sided.save_pretrained(tmp_path / "damaged")
    (tmp_path / "damaged" / "map.safetensors").write_bytes(b"x")
    two_sided.save_pretrained(tmp_path / "config")
    (tmp_path / "config" / "config.json").write_text("[")
    two_sided.save_pretrained(tmp_path / "mixed")
    planted.map().save(tmp_path / "mixed" / "map.safetensors")
    (tmp_path / "file").write_text("")
    for name in ("empty", "damaged", "config", "mixed", "nothing"):
        with pytest.raises(UserError, match=name) as caught:
            GalleryMap.from_pretrained(tmp_path / name)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="name/unknown"):
        GalleryMap.from_pretrained("name/unknown", local_files_only=True)
    with pytest.raises(UserError, match="file"):
        two_sided.save_pretrained(tmp_path / "file" / "made")
