"""Face networks in PyTorch, written from papers and published tensor names, and small checkpoints in published forms.

They are test oracles: nothing here uses jaxalign. PyTorch is imported only when a network is made. Every network
takes pictures [n, 3, size, size] as `inputs` prepares them and returns raw embeddings [n, width], not
normalised; all published ones take aligned faces of 112 × 112 pixels and return 512 numbers.

| kind | colour of the first convolution | input | published evaluation | prefix of names in the PyTorch file |
| --- | --- | --- | --- | --- |
| `arcface` | RGB | v/127.5 − 1 | flip, add raw embeddings | `net.` |
| `adaface` | BGR | v/127.5 − 1 | flip, add raw embeddings | `net.` |
| `adaface_ckpt` | BGR | v/127.5 − 1 | flip, add raw embeddings | `model.` in `state_dict` |
| `kprpe` | RGB | v/127.5 − 1 | flip, add raw embeddings | `net.` |
| `magface` | BGR | v/255 | one picture | `features.module.` in `state_dict` |
| `magface_dp` | BGR | v/255 | one picture | `module.features.` in `state_dict` |
| `insightface` | RGB | v/127.5 − 1 | flip, add raw embeddings | none |

"Add" means the sum of both raw embeddings, normalised afterwards; no published evaluation concatenates by default.
Where the facts are from:

- `arcface`, `adaface`, `kprpe`: mk-minchul/CVLface, `cvlface/research/recognition/code/run_v1/`: `models/iresnet/`,
  `models/vit_kprpe/`, `models/base/__init__.py` (a `color_space` of BGR reverses the channels), `evaluations/`
  (flip). Its hub repositories hold `config.json`, `model.safetensors` (prefix `model.net.`) and
  `pretrained_model/model.yaml` and `model.pt`. That AdaFace's entries there say BGR is inferred: they are the
  weights of mk-minchul/AdaFace. ArcFace's was trained in CVLface, whose configurations say RGB.
- `adaface_ckpt`: mk-minchul/AdaFace, README.md and inference.py (BGR, prefix), utils.py (flip), head.py (other
  tensors).
- `magface`: IrvingMeng/MagFace, models/iresnet.py (an ε of 2·10⁻⁵), inference/gen_feat.py (BGR, v/255, the flipped
  picture is loaded and not used), inference/network_inf.py (prefixes; `module.features.` is of models trained under
  DataParallel). The loaders of others strip `features.module.` from the published iResNet-100.
- `insightface`: deepinsight/insightface, recognition/arcface_torch: backbones/iresnet.py (an ε of 10⁻⁵),
  inference.py (colour, scale), eval/verification.py (flip).
"""

import dataclasses
import functools
import json
import math
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

Ints = tuple[int, ...]
UNITS, WIDTHS = (3, 13, 30, 3), (64, 128, 256, 512)
MIRRORED = [1, 0, 2, 4, 3]  # eyes, nose, corners of the mouth: left and right change places


def IR(units: Ints = UNITS, widths: Ints = WIDTHS, size: int = 112, embedding: int = 512) -> Any:
    """IR-101 of AdaFace and CVLface; (3, 4, 14, 3) units are IR-50, (2, 2, 2, 2) IR-18."""
    from torch import nn

    class Unit(nn.Module):
        def __init__(self, before: int, width: int, stride: int) -> None:
            super().__init__()
            self.stride = stride
            self.res_layer = nn.Sequential(
                nn.BatchNorm2d(before),
                nn.Conv2d(before, width, 3, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.PReLU(width),
                nn.Conv2d(width, width, 3, stride, padding=1, bias=False),
                nn.BatchNorm2d(width),
            )
            self.shortcut_layer = None
            if before != width:
                projection = nn.Conv2d(before, width, 1, stride, bias=False)
                self.shortcut_layer = nn.Sequential(projection, nn.BatchNorm2d(width))

        def forward(self, maps: Any) -> Any:
            subsampled = maps[:, :, :: self.stride, :: self.stride]
            shortcut = subsampled if self.shortcut_layer is None else self.shortcut_layer(maps)
            return self.res_layer(maps) + shortcut

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            stem = nn.Conv2d(3, widths[0], 3, padding=1, bias=False)
            self.input_layer = nn.Sequential(stem, nn.BatchNorm2d(widths[0]), nn.PReLU(widths[0]))
            self.body = nn.Sequential(*(Unit(*unit) for unit in _stages(units, widths)))
            self.output_layer = nn.Sequential(
                nn.BatchNorm2d(widths[-1]),
                nn.Dropout(0.4),
                nn.Flatten(),
                nn.Linear(widths[-1] * (size // 16) ** 2, embedding),
                nn.BatchNorm1d(embedding, affine=False),
            )

        def forward(self, pictures: Any) -> Any:
            return self.output_layer(self.body(self.input_layer(pictures)))

    return Network().eval()


def IResNet(
    units: Ints = UNITS, widths: Ints = WIDTHS, size: int = 112, embedding: int = 512, epsilon: float = 1e-5
) -> Any:
    """iResNet-100 of insightface and, with an ε of 2·10⁻⁵, of MagFace."""
    from torch import nn

    def norm(width: int) -> Any:
        return nn.BatchNorm2d(width, epsilon)

    class IBasicBlock(nn.Module):
        def __init__(self, before: int, width: int, stride: int) -> None:
            super().__init__()
            self.bn1 = norm(before)
            self.conv1 = nn.Conv2d(before, width, 3, padding=1, bias=False)
            self.bn2 = norm(width)
            self.prelu = nn.PReLU(width)
            self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
            self.bn3 = norm(width)
            self.downsample = None
            if stride > 1:  # also in the first stage, whose width does not change
                projection = nn.Conv2d(before, width, 1, stride, bias=False)
                self.downsample = nn.Sequential(projection, norm(width))

        def forward(self, maps: Any) -> Any:
            residue = self.prelu(self.bn2(self.conv1(self.bn1(maps))))
            shortcut = maps if self.downsample is None else self.downsample(maps)
            return self.bn3(self.conv2(residue)) + shortcut

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(3, widths[0], 3, padding=1, bias=False)
            self.bn1 = norm(widths[0])
            self.prelu = nn.PReLU(widths[0])
            blocks = [IBasicBlock(*unit) for unit in _stages(units, widths)]
            for stage, last in enumerate(np.cumsum(units), start=1):
                setattr(self, f"layer{stage}", nn.Sequential(*blocks[last - units[stage - 1] : last]))
            self.bn2 = norm(widths[-1])
            self.dropout = nn.Dropout()
            self.fc = nn.Linear(widths[-1] * (size // 16) ** 2, embedding)
            self.features = nn.BatchNorm1d(embedding, epsilon)

        def forward(self, pictures: Any) -> Any:
            maps = self.prelu(self.bn1(self.conv1(pictures)))
            for stage in range(1, len(units) + 1):
                maps = getattr(self, f"layer{stage}")(maps)
            return self.features(self.fc(self.dropout(self.bn2(maps)).flatten(1)))

    return Network().eval()


def _stages(units: Ints, widths: Ints) -> list[tuple[int, int, int]]:
    """The width before, the width and the stride of each unit."""
    before = [widths[0], *widths[:-1]]
    return [
        (b if unit == 0 else w, w, 2 if unit == 0 else 1)
        for count, b, w in zip(units, before, widths)
        for unit in range(count)
    ]


def KPRPEViT(
    size: int = 112,
    patch: int = 8,
    width: int = 512,
    depth: int = 24,
    heads: int = 16,
    mlp_ratio: int = 3,
    embedding: int = 512,
    ratio: float = 1.9,
) -> Any:
    """KPRPE's ViT-B (Kim et al., "KeyPoint Relative Position Encoding for Face Recognition", CVPR 2024).

    It takes pictures [n, 3, size, size] and key points [n, 5, 2]: x and y in [0, 1] of the eye on the left, the eye
    on the right, the nose, the left and the right corner of the mouth, as they are in the picture.
    """
    import torch
    from torch import nn

    side = size // patch
    buckets = key_point_buckets(side, ratio)
    kinds = (2 * int(2 * ratio) + 1) ** 2

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv = nn.Linear(width, 3 * width, bias=False)
            self.proj = nn.Linear(width, width)

        def forward(self, tokens: Any, bias: Any) -> Any:
            q, k, v = self.qkv(tokens).unflatten(-1, (3, heads, -1)).unbind(2)
            scores = torch.einsum("nihd,njhd->nhij", q, k) / math.sqrt(width // heads) + bias
            return self.proj(torch.einsum("nhij,njhd->nihd", scores.softmax(-1), v).flatten(2))

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
            self.attn = Attention()
            hidden = nn.Linear(width, mlp_ratio * width)
            self.mlp = nn.ModuleDict({"fc1": hidden, "fc2": nn.Linear(mlp_ratio * width, width)})

        def forward(self, tokens: Any, bias: Any) -> Any:
            tokens = tokens + self.attn(self.norm1(tokens), bias)
            hidden = self.mlp["fc1"](self.norm2(tokens)).clamp(0, 6)  # ReLU6
            return tokens + self.mlp["fc2"](hidden)

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, patch, patch)})
            self.pos_embed = nn.Parameter(0.02 * torch.randn(1, side * side, width))
            self.keypoint_linear = nn.Linear(10, depth * heads * kinds)
            self.blocks = nn.ModuleList(Block() for _ in range(depth))
            self.norm = nn.LayerNorm(width)
            self.feature = nn.Sequential(
                nn.Linear(side * side * width, width, bias=False),
                nn.BatchNorm1d(width, eps=2e-5),
                nn.Linear(width, embedding, bias=False),
                nn.BatchNorm1d(embedding, eps=2e-5),
            )

        def biases(self, key_points: Any) -> Any:
            """[n, depth, heads, query, key]: every query chooses among its own token's numbers by where the key is."""
            centres = (torch.arange(side) + 0.5) / side
            grid = torch.stack(
                (centres.repeat(side), centres.repeat_interleave(side)), -1
            )  # x, y of each token
            differences = (grid[None, :, None] - key_points[:, None]).flatten(2)
            chosen = self.keypoint_linear(differences).unflatten(-1, (depth, heads, kinds))
            queries = torch.arange(side * side)[:, None]
            return chosen.permute(0, 2, 3, 1, 4)[:, :, :, queries, torch.from_numpy(buckets)]

        def forward(self, pictures: Any, key_points: Any) -> Any:
            tokens = self.patch_embed["proj"](pictures).flatten(2).mT + self.pos_embed
            for block, bias in zip(self.blocks, self.biases(key_points).unbind(1)):
                tokens = block(tokens, bias)
            return self.feature(self.norm(tokens).flatten(1))

    return Network().eval()


def key_point_buckets(side: int, ratio: float) -> np.ndarray:
    """iRPE's product buckets (Wu et al., ICCV 2021) of `side` × `side` tokens: int64 [query, key]."""
    alpha, beta, gamma = ratio, 2 * ratio, 8 * ratio

    def piece(offset: int) -> int:
        if abs(offset) <= alpha:
            return offset
        scaled = alpha + (beta - alpha) * math.log(abs(offset) / alpha) / math.log(gamma / alpha)
        return int(math.copysign(min(round(scaled), beta), offset))

    rows, columns = np.divmod(np.arange(side * side), side)
    most = int(beta)
    table = np.array([piece(offset) + most for offset in range(1 - side, side)])
    row = table[rows[:, None] - rows + side - 1]
    return row * (2 * most + 1) + table[columns[:, None] - columns + side - 1]


SIZE, KPRPE_SIZE, EMBEDDING = 32, 56, 16  # 7 × 7 tokens: offsets reach the last bucket
SMALL: dict[str, Any] = dict(units=(1, 2, 1, 1), widths=(8, 16, 24, 32), size=SIZE, embedding=EMBEDDING)
IR_CONF = {"input_size": [3, SIZE, SIZE], "color_space": "RGB", "name": "ir101", "output_dim": EMBEDDING}
IR_CONF |= {"start_from": "", "freeze": False, "yaml_path": "models/iresnet/configs/v1_ir101.yaml"}
RPE = {"name": "KPRPE_shared", "rpe_on": "k", "shared_head": True, "mode": "ctx", "method": "product"}
RPE |= {"ratio": 1.9, "ctx_type": "rel_keypoint_splithead_unshared", "num_keypoints": 5}
KPRPE_CONF = {**IR_CONF, "input_size": [3, KPRPE_SIZE, KPRPE_SIZE], "name": "base", "mask_ratio": 0.0}
KPRPE_CONF["rpe_config"] = RPE
KPRPE_CONF["yaml_path"] = "models/vit_kprpe/configs/v1_base_kprpe_splithead_unshared.yaml"
HEAD = (EMBEDDING, 5)
ADAFACE_HEAD = {"head.kernel": HEAD, "head.t": (1,), "head.batch_mean": (1,), "head.batch_std": (1,)}
HUB = ("pretrained_model/model.pt", "net.")


@dataclasses.dataclass(frozen=True)
class Kind:
    """A published form of a checkpoint: the network, the PyTorch file and its names, the colour and the scale.

    `conf` is the content of `model.yaml`, for hub repositories of CVLface; `beside` are tensors of the training head.
    """

    make: Callable[[], Any]
    file: str
    prefix: str
    wrapped: bool = False
    bgr: bool = False
    centre: float = 127.5
    scale: float = 127.5
    conf: dict[str, Any] | None = None
    beside: dict[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)


IR_SMALL, INSIGHTFACE = functools.partial(IR, **SMALL), functools.partial(IResNet, **SMALL)
MAG = functools.partial(IResNet, **SMALL, epsilon=2e-5)
KPRPE = functools.partial(KPRPEViT, size=KPRPE_SIZE, width=32, depth=2, heads=4, embedding=EMBEDDING)
MAGFACE: dict[str, Any] = dict(wrapped=True, bgr=True, centre=0.0, scale=255.0)
KINDS = {
    "arcface": Kind(IR_SMALL, *HUB, conf=IR_CONF),
    "adaface": Kind(IR_SMALL, *HUB, bgr=True, conf=IR_CONF | {"color_space": "BGR"}),
    "adaface_ckpt": Kind(
        IR_SMALL, "adaface_ir101_ms1mv2.ckpt", "model.", True, bgr=True, beside=ADAFACE_HEAD
    ),
    "kprpe": Kind(KPRPE, *HUB, conf=KPRPE_CONF),
    "magface": Kind(
        MAG, "magface_epoch_00025.pth", "features.module.", **MAGFACE, beside={"fc.weight": HEAD}
    ),
    "magface_dp": Kind(MAG, "00025.pth", "module.features.", **MAGFACE, beside={"module.fc.weight": HEAD}),
    "insightface": Kind(INSIGHTFACE, "backbone.pth", ""),
}


def write_face_checkpoint(kind: str, folder: pathlib.Path, seed: int = 0) -> Any:
    """Writes a small random checkpoint, as PyTorch's file and as `.safetensors`, with its configuration; returns it.

    The PyTorch file is `KINDS[kind].file`. The other is `model.safetensors` with the prefix `model.net.` in the
    layout of a hub repository; elsewhere it has the stem and the tensor names of the PyTorch file.
    """
    import safetensors.torch
    import torch
    import yaml

    form = KINDS[kind]
    torch.manual_seed(seed)
    network = form.make()
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if "running_var" in name:
                tensor.copy_(0.5 + torch.rand_like(tensor))
            elif tensor.is_floating_point():
                tensor.add_(0.1 * torch.randn_like(tensor))
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm1d):
                module.get_buffer("running_var").mul_(1e-3)  # small, so that a wrong ε shows
    beside = {name: torch.randn(shape) for name, shape in form.beside.items()}
    state = {form.prefix + name: tensor for name, tensor in network.state_dict().items()}
    checkpoint = {"epoch": 25, "state_dict": state | beside} if form.wrapped else state
    path = folder / form.file
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(checkpoint, path)
    if form.conf is None:
        safetensors.torch.save_file(state | beside, path.with_suffix(".safetensors"))
        return network
    safetensors.torch.save_file(
        {f"model.{name}": t for name, t in state.items()}, folder / "model.safetensors"
    )
    path.with_suffix(".yaml").write_text(yaml.safe_dump(form.conf, sort_keys=False))
    model = "CVLFaceRecognitionModel"
    auto_map = {"AutoConfig": "wrapper.ModelConfig", "AutoModel": f"wrapper.{model}"}
    config = {"architectures": [model], "auto_map": auto_map, "conf": form.conf, "torch_dtype": "float32"}
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    return network


def inputs(kind: str, pictures: np.ndarray) -> np.ndarray:
    """What the network's first layer takes: float32 [n, 3, h, w] of RGB pictures uint8 [n, h, w, 3]."""
    form = KINDS[kind]
    ordered = pictures[..., ::-1] if form.bgr else pictures
    return ((ordered.astype(np.float32) - form.centre) / form.scale).transpose(0, 3, 1, 2).astype(np.float32)


def expected(
    kind: str, network: Any, pictures: np.ndarray, key_points: np.ndarray | None = None, flip: bool = False
) -> np.ndarray:
    """The raw embeddings [n, width] of RGB pictures uint8 [n, h, w, 3]; `flip` adds those of the mirrored pictures.

    Key points [n, 5, 2] are for `kprpe` alone and are mirrored with the picture.
    """
    import torch

    points = [] if key_points is None else [torch.from_numpy(key_points.astype(np.float32))]
    with torch.no_grad():
        rows = network(torch.from_numpy(inputs(kind, pictures)), *points).numpy()
    if not flip:
        return rows
    if key_points is not None:
        key_points = np.stack((1 - key_points[..., 0], key_points[..., 1]), axis=-1)[:, MIRRORED]
    return rows + expected(kind, network, pictures[:, :, ::-1], key_points)
