"""Weights of PyTorch as safetensors: what is kept, what is noted, and every refusal."""

import json
import sys
import types

import face_oracles
import numpy as np
import pytest
from commands import run, succeed
from safetensors import safe_open

from experiments import convert_weights
from jaxalign.vision.encoders import load_encoder
from jaxalign.vision.encoders.towers.kprpe import ALIGNED

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def adaface(tmp_path_factory):
    """A checkpoint as PyTorch Lightning writes it, with the training head."""
    folder = tmp_path_factory.mktemp("adaface")
    face_oracles.write_face_checkpoint("adaface_ckpt", folder)
    return folder / face_oracles.KINDS["adaface_ckpt"].file


@pytest.fixture(scope="module")
def cvlface(tmp_path_factory):
    folder = tmp_path_factory.mktemp("arcface")
    face_oracles.write_face_checkpoint("arcface", folder)
    return folder / face_oracles.KINDS["arcface"].file


# Of kinds whose names of tensors do not tell all of how the PyTorch file takes pictures.
FLAGS = {
    "arcface": ["--color=rgb"],
    "adaface": ["--color=bgr"],
    "kprpe": ["--color=rgb"],
    "insightface": ["--published=insightface"],
}


@pytest.mark.parametrize("kind", face_oracles.KINDS)
def test_converted_files_agree_with_pytorch_and_need_no_options(kind, tmp_path):
    network = face_oracles.write_face_checkpoint(kind, tmp_path)
    out = tmp_path / "face.safetensors"
    weights = tmp_path / face_oracles.KINDS[kind].file
    succeed(convert_weights, f"--weights={weights}", f"--out={out}", *FLAGS.get(kind, ()))
    encoder = load_encoder(f"face:{out}", batch_size=2)
    pictures = np.random.default_rng(0).integers(0, 256, (2, *encoder.preprocessing.size, 3), dtype=np.uint8)
    points = np.stack([ALIGNED, ALIGNED]) if kind == "kprpe" else None
    wanted = face_oracles.expected(kind, network, pictures, points)
    np.testing.assert_allclose(encoder.encode(pictures), wanted, rtol=0, atol=1e-4 * np.abs(wanted).max())


def header(path):
    with safe_open(path, framework="np") as file:
        return set(file.keys()), file.metadata()


def test_the_network_alone_is_kept_and_the_file_says_how_it_takes_pictures(adaface, tmp_path):
    out = tmp_path / "new.safetensors"
    done = succeed(convert_weights, f"--weights={adaface}", f"--out={out}")
    assert f"load it as face:{out}" in done.stdout and "network ir, color bgr" in done.stdout
    names, noted = header(out)
    assert "input_layer.0.weight" in names and not [
        name for name in names if "head" in name or "batches" in name
    ]
    digest = noted.pop("source_sha256")
    assert len(digest) == 64 and noted == {
        "format": "pt", "kind": "ir", "color": "bgr", "mean": "127.5", "std": "127.5", "epsilon": "1e-5",
        "source": adaface.name,
    }  # fmt: skip
    again = run(convert_weights, f"--weights={adaface}", f"--out={out}")
    assert again.returncode == 2 and "exists already" in again.stderr
    succeed(convert_weights, f"--weights={adaface}", f"--out={out}", "--color=rgb", "--overwrite")
    assert header(out)[1]["color"] == "rgb"
    assert sorted(tmp_path.iterdir()) == [out]


def test_a_checkpoint_of_the_hub_with_pickled_weights_alone(tmp_path):
    import transformers
    from safetensors.torch import load_file

    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=24,
        image_size=16,
        patch_size=8,
    )
    model = transformers.ViTModel(config).eval()
    model.save_pretrained(tmp_path)  # its names of tensors are those of the hub, whatever the version
    steps = {"image_processor_type": "ViTImageProcessor", "size": {"height": 16, "width": 16}}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(steps))
    torch.save(load_file(tmp_path / "model.safetensors"), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    succeed(convert_weights, f"--weights={tmp_path}/pytorch_model.bin", f"--out={tmp_path}/model.safetensors")
    encoder = load_encoder(f"hf:{tmp_path}?pooling=cls")
    pictures = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    pixels = torch.from_numpy((pictures / 127.5 - 1).transpose(0, 3, 1, 2).astype(np.float32))
    with torch.no_grad():
        wanted = model(pixels).last_hidden_state[:, 0].numpy()
    np.testing.assert_allclose(encoder.encode(pictures), wanted, atol=1e-4)


def test_tied_views_and_short_formats_are_written_whole(tmp_path):
    from safetensors.torch import load_file

    table = torch.arange(6.0).reshape(2, 3)
    state = {"a": table, "tied": table, "turned": table.T, "half": table.bfloat16(), "step": torch.tensor(3)}
    torch.save({**state, "note": "text"}, tmp_path / "pytorch_model.bin")
    out = tmp_path / "model.safetensors"
    succeed(convert_weights, f"--weights={tmp_path}/pytorch_model.bin", f"--out={out}")
    found = load_file(out)
    assert found.keys() == state.keys()
    assert all(found[name].dtype == state[name].dtype for name in state)
    assert all(torch.equal(found[name], state[name]) for name in state)


def callback():
    """A class of a library that is not among PyTorch's own."""
    module = types.ModuleType("lightning_like")
    made = type("ModelCheckpoint", (), {"__module__": "lightning_like"})
    module.ModelCheckpoint = made  # pyright: ignore[reportAttributeAccessIssue]
    return module, made


@pytest.mark.parametrize("zipped", [True, False])
def test_pickled_objects_are_named_and_never_made(zipped, tmp_path, monkeypatch):
    module, made = callback()
    monkeypatch.setitem(sys.modules, "lightning_like", module)
    state = {"state_dict": {"a": torch.zeros(2)}, "callbacks": {made: 1}}
    torch.save(state, tmp_path / "f.ckpt", _use_new_zipfile_serialization=zipped)
    monkeypatch.delitem(sys.modules, "lightning_like")
    done = run(convert_weights, f"--weights={tmp_path}/f.ckpt", f"--out={tmp_path}/f.safetensors")
    assert done.returncode == 2 and "lightning_like.ModelCheckpoint beside tensors" in done.stderr
    assert "weights_only=False)['state_dict']" in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "f.safetensors").exists()


@pytest.mark.parametrize(
    "content, message",
    [
        ([torch.zeros(1)], "holds a list, expected the weights of a network by name"),
        ({"epoch": 3}, "holds no tensors; the names in it are ['epoch']"),
        ({"a": torch.zeros(1)}, "holds no face network that is known here"),
        ({"input_layer.0.weight": torch.zeros(3)}, "expected a tensor stem.convolution.weight with 4 axes"),
        (b"no file of PyTorch", "is not read by PyTorch, it is damaged or of another format"),
        (b"", "is not read by PyTorch"),
    ],
)
def test_files_of_another_content_are_refused(content, message, tmp_path):
    path = tmp_path / "f.pt"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    done = run(convert_weights, f"--weights={path}", f"--out={tmp_path}/f.safetensors", "--color=rgb")
    assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "flags, message",
    [
        ("--weights={weights}", "--out is missing"),
        ("--out=f.safetensors", "--weights is missing"),
        ("--weights={weights} --out=f.bin", "is expected to end in .safetensors"),
        ("--weights=f.onnx --out=f.safetensors", "is expected to end in one of .pt, .pth, .ckpt, .bin"),
        ("--weights=absent.pt --out=f.safetensors", "absent.pt is missing"),
        ("--weights={weights} --out=f.safetensors", "add --color=rgb or --color=bgr"),
        ("--weights={weights} --out=f.safetensors --published=magface", "is for networks of kind iresnet"),
        ("--weights={weights} --out=f.safetensors --color=grey", "--color takes rgb or bgr"),
        (
            "--weights={weights} --out=f.safetensors --kind=kprpe",
            "no tensor is called keypoint_linear.weight",
        ),
        ("--weights={weights} --out=not/there/f.safetensors --color=rgb", "cannot be written"),
    ],
)
def test_flags_that_do_not_fit_are_refused(flags, message, cvlface, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = run(convert_weights, *flags.format(weights=cvlface).split())
    assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_colour_is_for_faces(tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / "f.bin")
    done = run(
        convert_weights, f"--weights={tmp_path}/f.bin", f"--out={tmp_path}/f.safetensors", "--color=rgb"
    )
    assert done.returncode == 2 and "--color is for face networks" in done.stderr


def test_nobody_guesses_between_magface_and_insightface(tmp_path):
    face_oracles.write_face_checkpoint("insightface", tmp_path)
    weights, out = tmp_path / "backbone.pth", tmp_path / "f.safetensors"
    for color in ([], ["--color=rgb"]):
        done = run(convert_weights, f"--weights={weights}", f"--out={out}", *color)
        assert done.returncode == 2 and "--published=magface or --published=insightface" in done.stderr
        assert done.stderr.count("\n") == 1 and not out.exists()
    succeed(convert_weights, f"--weights={weights}", f"--out={out}", "--published=magface")
    noted = header(out)[1]
    assert {key: noted[key] for key in ("color", "mean", "std", "epsilon")} == {
        "color": "bgr", "mean": "0", "std": "255", "epsilon": "2e-5"
    }  # fmt: skip


def test_pytorch_is_an_extra(cvlface, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    done = run(convert_weights, f"--weights={cvlface}", f"--out={tmp_path}/f.safetensors")
    assert done.returncode == 2 and "torch is not installed: pip install 'jaxalign[torch]'" in done.stderr
