"""The documented example for jax-image-models, against PyTorch; skipped where that package is not installed."""

import json
import pathlib

import numpy as np
import pytest
from documentation import documented

from jaxalign.vision.encoders import load_encoder

jimm = pytest.importorskip("jimm")
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

SMALL = dict(hidden_size=128, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=16)
TEXT = dict(hidden_size=128, num_hidden_layers=1, num_attention_heads=2, intermediate_size=512, vocab_size=64)
IMAGES = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)


@pytest.fixture
def module(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "my_jimm_encoders.py").write_text(documented("test_jimm.py"))
    monkeypatch.syspath_prepend(tmp_path)
    torch.manual_seed(0)
    return "python:my_jimm_encoders"


def pixels(encoder):
    given = encoder.preprocessing
    normalised = (IMAGES * given.rescale - np.asarray(given.mean)) / np.asarray(given.std)
    return torch.from_numpy(normalised.transpose(0, 3, 1, 2).astype(np.float32))


def test_siglip(module, tmp_path):
    config = transformers.SiglipConfig(vision_config={**SMALL, "intermediate_size": 512}, text_config=TEXT)
    model = transformers.SiglipModel(config).eval()
    model.save_pretrained(tmp_path / "siglip")
    content = {"image_processor_type": "SiglipImageProcessor", "size": {"height": 32, "width": 32}}
    (tmp_path / "siglip" / "preprocessor_config.json").write_text(json.dumps(content))
    encoder = load_encoder(f"{module}:siglip?checkpoint={tmp_path / 'siglip'}")
    with torch.no_grad():
        expected = model.get_image_features(pixels(encoder)).numpy()
    np.testing.assert_allclose(encoder.encode(IMAGES), expected, atol=1e-3)  # jimm's GELU is another one


def test_dinov3(module, tmp_path):
    model = transformers.DINOv3ViTModel(transformers.DINOv3ViTConfig(**SMALL, intermediate_size=256)).eval()
    model.save_pretrained(tmp_path / "dinov3")
    encoder = load_encoder(f"{module}:dinov3?checkpoint={tmp_path / 'dinov3'}&size=32")
    with torch.no_grad():
        expected = model(pixels(encoder)).pooler_output.numpy()
    np.testing.assert_allclose(encoder.encode(IMAGES), expected, atol=1e-4)
