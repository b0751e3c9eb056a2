"""Face networks against PyTorch's on the same small checkpoints, in every form in which they are published."""

import json
import pathlib
import shutil

import face_oracles
import huggingface_hub
import jax.numpy as jnp
import numpy as np
import pytest
from face_oracles import KINDS, expected, inputs, write_face_checkpoint
from safetensors.numpy import load_file, save_file

from jaxalign.core.errors import UserError
from jaxalign.vision.encoders import JaxEncoder, Specification, load_encoder
from jaxalign.vision.encoders.checkpoint_config import Config
from jaxalign.vision.encoders.face_encoder import PUBLISHED, FoundNetwork, build, find_network
from jaxalign.vision.encoders.tensors import Tensor, list_tensors
from jaxalign.vision.encoders.towers import kprpe
from jaxalign.vision.encoders.towers.weights import filled, own_names
from jaxalign.vision.images.landmarks import ARCFACE_TEMPLATE

torch = pytest.importorskip("torch")


@pytest.fixture(scope="session")
def written(tmp_path_factory):
    """A kind's PyTorch network and the folder of its checkpoint; each is written once."""
    folder, networks = tmp_path_factory.mktemp("faces"), {}

    def write(kind):
        if kind not in networks:
            (folder / kind).mkdir()
            networks[kind] = write_face_checkpoint(kind, folder / kind)
        return networks[kind], folder / kind

    return write


def published(kind, folder):
    """The specification of a checkpoint's safetensors, with an option."""
    form = KINDS[kind]
    file = (folder / form.file).with_suffix(".safetensors")
    whose = "published=insightface" if kind == "insightface" else "name=face"
    return f"hf:{folder}?{whose}" if form.conf else f"face:{file}?{whose}"


def faces(kind, seed=0):
    size = face_oracles.KPRPE_SIZE if kind == "kprpe" else face_oracles.SIZE
    return np.random.default_rng(seed).integers(0, 256, (5, size, size, 3), dtype=np.uint8)


def aligned(kind):
    return np.repeat(kprpe.ALIGNED[None], 5, axis=0) if kind == "kprpe" else None


def require_close(rows, wanted):
    assert rows.dtype == np.float32 and rows.shape == wanted.shape
    np.testing.assert_allclose(rows, wanted, rtol=0, atol=1e-4 * np.abs(wanted).max())


@pytest.mark.parametrize(
    "kind, flip", [*((kind, "none") for kind in KINDS), ("arcface", "add"), ("kprpe", "add")]
)
def test_embeddings_agree_with_pytorch(kind, flip, written):
    network, folder = written(kind)
    encoder = load_encoder(f"{published(kind, folder)}&flip={flip}", batch_size=8)
    pictures = faces(kind)
    assert encoder.preprocessing.color == ("BGR" if KINDS[kind].bgr else "RGB")
    require_close(encoder.encode(pictures), expected(kind, network, pictures, aligned(kind), flip == "add"))


@pytest.mark.parametrize(
    "network, size, parameters",
    [("IR", 112, 65_150_912), ("IResNet", 112, 65_156_160), ("KPRPEViT", 112, 115_076_736)],
)
def test_published_sizes_fit(network, size, parameters):
    """No weights are made: names, shapes and numbers of parameters are those of the published networks."""
    with torch.device("meta"):
        state = getattr(face_oracles, network)().state_dict()
    tensors = {name: Tensor(name, tuple(value.shape), lambda: np.empty(0)) for name, value in state.items()}
    found = find_network(tensors)
    assert found is not None
    specification = Specification("face:f", "face", "f")
    given = {**PUBLISHED["insightface"], **found.said}
    built = build(specification, found, tensors, given, Config(specification, {}))
    assert built.preprocessing.size == (size, size)
    assert parameters == sum(
        int(np.prod(tensor.shape))
        for name, tensor in tensors.items()
        if "running" not in name and "tracked" not in name
    )


def test_key_points_move_the_embedding_as_in_pytorch(written):
    network, folder = written("kprpe")
    specification = Specification("face:f", "face", "f")
    tensors = list_tensors(specification, [folder / "model.safetensors"])
    inside = own_names(tensors, r"model\.net\.", kprpe.NAMES)
    config = kprpe.read("kprpe", Config(specification, {}), inside)
    module, weights = filled(specification, lambda keys: kprpe.Tower(config, keys), inside, ".*tracked")
    tower = module(kprpe.jax.tree.map(jnp.asarray, weights))
    pictures = faces("kprpe")
    pixels = jnp.asarray(inputs("kprpe", pictures).transpose(0, 2, 3, 1))
    points = np.random.default_rng(1).uniform(size=(5, 5, 2)).astype(np.float32)
    with kprpe.jax.default_matmul_precision("highest"):
        moved, usual = np.asarray(tower(pixels, points)), np.asarray(tower(pixels))
    require_close(moved, expected("kprpe", network, pictures, points))
    assert np.abs(moved - usual).max() > 0.01 * np.abs(usual).max()


def test_key_points_are_asked_for_and_have_a_shape(written, tmp_path):
    _, folder = written("kprpe")
    pictures, points = faces("kprpe"), np.repeat(kprpe.ALIGNED[None], 5, axis=0)
    (tmp_path / "points.csv").write_text(",".join(["a.png", *map(str, kprpe.ALIGNED.ravel())]))
    encoder = load_encoder(f"hf:{folder}?keypoints={tmp_path}/points.csv", batch_size=8)
    assert isinstance(encoder, JaxEncoder) and len(encoder.describe()["key_points_sha256"]) == 64
    for given in (None, points[:4], points[0]):
        with pytest.raises(UserError, match=r"takes key points \[5, 5, 2\] beside pictures, got"):
            encoder.encode(pictures, given)
    plain = load_encoder(f"hf:{folder}")
    assert isinstance(plain, JaxEncoder)
    with pytest.raises(UserError, match="takes no key points beside pictures"):
        plain.encode(pictures, points)


@pytest.mark.parametrize("ratio", [0.5, 1.0, 1.9, 2.5])
def test_buckets_agree_with_the_oracle(ratio):
    assert np.array_equal(kprpe.buckets(14, ratio), np.asarray(face_oracles.key_point_buckets(14, ratio)))


def test_colours_and_scale_of_options_go_first(written):
    _, folder = written("adaface")
    pictures = faces("adaface")
    rows = load_encoder(f"hf:{folder}").encode(pictures)
    other = load_encoder(f"face:{folder}?color=rgb")
    require_close(other.encode(pictures[..., ::-1]), rows)
    darker = load_encoder(f"face:{folder}?mean=0&std=255&epsilon=2e-5")
    assert (darker.preprocessing.mean, darker.preprocessing.std) == ((0.0,) * 3, (255.0,) * 3)
    assert darker.describe()["epsilon"] == 2e-5
    assert np.abs(darker.encode(pictures) - rows).max() > 0.01 * np.abs(rows).max()


def test_nobody_guesses_between_magface_and_insightface(written, tmp_path):
    """Without its prefix, MagFace's file has the tensors of insightface's: the caller says whose it is."""
    network, folder = written("magface")
    arrays = load_file(next(folder.glob("*.safetensors")))
    bare, prefix = tmp_path / "bare.safetensors", KINDS["magface"].prefix
    save_file({name.removeprefix(prefix): part for name, part in arrays.items() if prefix in name}, bare)
    for known in ("color=bgr&mean=0&std=255", "color=bgr", "flip=none"):
        with pytest.raises(UserError, match="give published=magface or published=insightface"):
            load_encoder(f"face:{bare}?{known}")
    wanted = expected("magface", network, faces("magface"))
    for known in ("published=magface", "color=bgr&mean=0&std=255&epsilon=2e-5"):
        require_close(load_encoder(f"face:{bare}?{known}").encode(faces("magface")), wanted)
    other = load_encoder(f"face:{bare}?published=insightface&color=bgr")
    assert (other.preprocessing.mean, other.preprocessing.color) == ((127.5,) * 3, "BGR")
    assert other.describe()["epsilon"] == 1e-5


def test_a_repository_of_cvlface_is_its_downloaded_directory(written, monkeypatch):
    """Configuration and safetensors are asked of the hub, none of its Python code and pickles."""
    network, folder = written("arcface")
    asked = []

    def download(repository, revision, allow_patterns):
        asked.append(allow_patterns)
        assert (repository, revision) == ("minchul/cvlface_arcface_ir101_webface4m", "v1")
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    encoder = load_encoder("arcface?revision=v1")
    assert encoder.name == "arcface"
    assert all(name.endswith((".json", ".safetensors")) for names in asked for name in names)
    require_close(encoder.encode(faces("arcface")), expected("arcface", network, faces("arcface")))


@pytest.mark.parametrize("kind", ["arcface", "kprpe"])
def test_half_precision_is_near(kind, written):
    _, folder = written(kind)
    full, half = (
        load_encoder(f"hf:{folder}", dtype=dtype).encode(faces(kind)) for dtype in ("float32", "bfloat16")
    )
    cosine = np.sum(half * full, 1) / np.linalg.norm(half, axis=1) / np.linalg.norm(full, axis=1)
    assert 0.99 < cosine.min() < 1


def test_an_encoder_says_what_its_numbers_depend_on(written):
    _, folder = written("arcface")
    told = load_encoder(f"hf:{folder}?name=arcface&flip=add").describe()
    assert (told["kind"], told["flip"], told["epsilon"]) == ("ir", "add", 1e-5)
    assert len(told["weights_sha256"]) == len(told["config_sha256"]) == 64
    assert json.loads(json.dumps(told)) == told


@pytest.mark.parametrize(
    "text, message",
    [
        ("face:magface.pth", r"experiments.convert_weights --weights=magface.pth --out=magface.safetensors"),
        ("face:f.ckpt?color=bgr", "converted first"),
        ("face:absent.safetensors", "there is no file or directory absent"),
        ("face:{arcface}/model.safetensors", "nothing in the checkpoint says the order of colours"),
        ("face:{arcface}?color=grey", "color is rgb or bgr, got 'grey'"),
        ("face:{arcface}?epsilon=0", "epsilon is a number above 0 and below 1"),
        ("face:{arcface}?epsilon=small", "epsilon is a number above 0 and below 1"),
        ("face:{arcface}?mean=dark", "mean is one number or three"),
        ("face:{arcface}?std=0", "standard deviations other than 0"),
        ("face:{arcface}?flip=concat", "flip is one of none, add, got 'concat'"),
        ("face:{arcface}?kind=vit", "kind is one of ir, iresnet, kprpe, got 'vit'"),
        ("face:{arcface}?kind=kprpe", "no tensor is called keypoint_linear.weight"),
        ("face:{arcface}?published=magface&color=rgb", "published is for networks of kind iresnet"),
        ("face:{magface}/magface_epoch_00025.safetensors?published=arcface", "one of insightface, magface"),
        ("face:{arcface}?keypoints=absent.csv", "absent.csv is missing"),
        ("face:{arcface}?color=rgb&keypoints={points}", "keypoints are for networks of kind kprpe"),
        ("face:{arcface}?keypoints={pixels}", "from 0 to 1 inside it; those of 'a.png' go from 38.2"),
        ("face:{arcface}?revision=1", "no option 'revision' for face:"),
        ("hf:{arcface}?pooling=mean", "there is no pooling to choose"),
        ("hf:{arcface}?layer=2", "there is no layer to choose"),
        ("hf:{arcface}?color=rgb", "no option 'color' for hf:"),
    ],
)
def test_options_that_do_not_fit_are_refused(text, message, written, tmp_path):
    points, pixels = tmp_path / "points.csv", tmp_path / "pixels.csv"
    for path, template in ((points, kprpe.ALIGNED), (pixels, ARCFACE_TEMPLATE)):
        path.write_text(",".join(["a.png", *map(str, template.ravel())]))
    folders = {kind: written(kind)[1] for kind in ("arcface", "magface")}
    with pytest.raises(UserError, match=message):
        load_encoder(text.format(points=points, pixels=pixels, **folders))


def test_flips_are_for_faces(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(UserError, match="flip is for face networks; this is none"):
        load_encoder(f"hf:{tmp_path}?flip=add")


RPE = "rpe_config"


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"yaml_path": "models/vit/configs/v1_base.yaml"}, "conf: yaml_path is 'models/vit/"),
        ({"yaml_path": 3}, "yaml_path is expected to be a text"),
        ({"yaml_path": face_oracles.IR_CONF["yaml_path"]}, "no tensor is called input_layer.0.weight"),
        ({"color_space": "grey"}, "color_space is expected to be RGB or BGR, got 'grey'"),
        ({RPE: {"ctx_type": "rel_keypoint"}}, "rpe_config: ctx_type is 'rel_keypoint'"),
        ({RPE: {"num_keypoints": 68}}, "expected 5 num_keypoints and a ratio above 0, got 68"),
        ({RPE: {"ratio": -1}}, "expected 5 num_keypoints and a ratio above 0"),
        ({RPE: {"ratio": 3.5}}, "has 392 rows, which are not those of 2 layers"),
        ({RPE: []}, None),
        ({RPE: 3}, "rpe_config is expected to be an object"),
    ],
)
def test_configurations_that_do_not_fit_are_refused(changes, message, written, tmp_path):
    shutil.copytree(written("kprpe")[1], tmp_path, dirs_exist_ok=True)
    content = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(content | {"conf": content["conf"] | changes}))
    if message is None:
        load_encoder(f"hf:{tmp_path}")
        return
    with pytest.raises(UserError, match=message):
        load_encoder(f"hf:{tmp_path}")


def without(name):
    return lambda arrays: {key: array for key, array in arrays.items() if key != name}


def replaced(name, shape):
    return lambda arrays: arrays | {name: np.zeros(shape, np.float32)}


@pytest.mark.parametrize(
    "kind, change, message",
    [
        ("insightface", without("fc.bias"), "1 of .* tensors that the network needs are not .* linear.bias"),
        ("insightface", without("fc.weight"), "expected a tensor linear.weight with 2 axes, there is none"),
        ("insightface", without("layer2.0.bn3.bias"), "1 of .* tensors .* among them layer2.0.bn3.bias"),
        ("insightface", without("layer2.0.conv1.weight"), "layer3.0.conv1.weight has shape .* needs"),
        ("insightface", replaced("fc.weight", (16, 31)), "fc.weight takes 31 numbers, .* no square map"),
        ("insightface", replaced("fc.weight", (16,)), r"with 2 axes, got shape \(16,\)"),
        (
            "insightface",
            replaced("bn1.bias", (3,)),
            r"bn1.bias has shape \(3,\), and the network needs \(8,\)",
        ),
        ("insightface", replaced("head.weight", (3,)), "holds head.weight, one of 1 tensors .* no place for"),
        ("insightface", without("layer1.0.conv1.weight"), "holds no face network"),
        (
            "kprpe",
            without("model.net.blocks.1.norm1.weight"),
            "holds model.net.blocks.1.* no place for",
        ),
        ("kprpe", replaced("model.net.pos_embed", (1, 50, 32)), "pos_embed has shape"),
    ],
)
def test_damaged_checkpoints_are_refused(kind, change, message, written, tmp_path):
    _, folder = written(kind)
    source = next(pathlib.Path(folder).glob("*.safetensors"))
    save_file(change(load_file(source)), tmp_path / "f.safetensors")
    with pytest.raises(UserError, match=message):
        load_encoder(
            f"face:{tmp_path / 'f.safetensors'}?{'color=rgb' if kind == 'kprpe' else 'published=magface'}"
        )


def test_a_file_that_is_cut_short(written, tmp_path):
    _, folder = written("insightface")
    content = (folder / "backbone.safetensors").read_bytes()
    (tmp_path / "f.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="holds weights that cannot be read"):
        load_encoder(f"face:{tmp_path / 'f.safetensors'}")


def test_networks_are_found_by_the_longest_prefix():
    assert find_network({"model.net.input_layer.0.weight": 0}) == FoundNetwork("ir", "model.net.")
    assert find_network({"features.module.layer1.0.conv1.weight": 0, "fc.weight": 0}) == FoundNetwork(
        "iresnet", "features.module."
    )
    assert find_network({"input_layer.0.weight": 0}, "kprpe") is None
    assert find_network({"encoder.input_layer.0.weight": 0}) is None
