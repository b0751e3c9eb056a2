"""experiments.apply takes the file of a gallery map as it takes one of an affine map, and knows the rows."""

import pathlib

import numpy as np
import pytest

from experiments import apply
from experiments.run import cli
from jaxalign import EmbeddingStore


def test_a_store_is_mapped_by_a_gallery_map(planted, two_sided, tmp_path: pathlib.Path, capsys) -> None:
    x, y, people = (part[planted.test] for part in (planted.x, planted.y, planted.identities))
    embeddings = {"old": x.astype(np.float32), "new": y.astype(np.float32)}
    EmbeddingStore.create(tmp_path / "store", embeddings, people)
    swapped = {"old": x[:, ::-1].astype(np.float32)}
    EmbeddingStore.create(tmp_path / "swapped", swapped, people)
    two_sided.save(tmp_path / "map")

    def drive(*flags: str) -> tuple[int, str]:
        given = ["apply", f"--map={tmp_path / 'map'}", "--dtype=float32", *flags]
        with pytest.raises(SystemExit) as ended:
            cli.run(apply.main, given, values=apply.FLAGS)
        return int(ended.value.code or 0), capsys.readouterr().err

    for encoder, rows, more in (("old", x, []), ("new", y, ["--encoder=new"])):
        assert drive(f"--store={tmp_path / 'store'}", f"--out={tmp_path / encoder}", *more) == (0, "")
        made = EmbeddingStore.open(tmp_path / encoder)
        np.testing.assert_allclose(made[encoder], two_sided.apply(rows, encoder), atol=1e-5)
        assert made.info[encoder]["map"]["sha256"] == two_sided.checksum
    for store, more, word in (
        ("swapped", [], "rows of old"),
        ("store", ["--encoder=third"], "third"),
        ("store", ["--normalize=none"], "--normalize=none"),
    ):
        status, said = drive(f"--store={tmp_path / store}", f"--out={tmp_path / 'no'}", *more)
        assert status == 2 and word in said and "Traceback" not in said
    assert not (tmp_path / "no").exists()
