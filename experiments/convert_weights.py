"""Converts weights that PyTorch has pickled to safetensors, which encoders read.

A face network as its authors publish it (ArcFace, AdaFace, KPRPE, MagFace, insightface's iResNet):

  python -m experiments.convert_weights --weights=magface_epoch_00025.pth --out=magface.safetensors

The encoder is then face:magface.safetensors: the file says which network it is, and which colours and scale it takes.
MagFace and insightface publish the same network; where names of tensors do not tell whose it is, --published does.

A checkpoint in the hub's format that has only pytorch_model.bin, for hf:

  python -m experiments.convert_weights --weights=directory/pytorch_model.bin --out=directory/model.safetensors

Pickles can run code; here PyTorch reads tensors and numbers alone (`weights_only`) and refuses the rest.
"""

import pathlib
import re
from collections.abc import Mapping
from typing import Any

from experiments.run import cli, flags
from jaxalign.core.errors import UserError, extra
from jaxalign.core.files import first_line, regular_file
from jaxalign.data.atomic import new_file, write_atomically
from jaxalign.gallery.export import require_free
from jaxalign.vision.encoders.checkpoint import digest
from jaxalign.vision.encoders.checkpoint_config import Config
from jaxalign.vision.encoders.face_encoder import (
    COLORS,
    KINDS,
    PICKLES,
    PUBLISHED,
    SPARE,
    FoundNetwork,
    build,
    find_network,
)
from jaxalign.vision.encoders.load import Specification
from jaxalign.vision.encoders.tensors import Tensor

HUB = ".bin"  # the ending of checkpoints in the hub's format

FLAGS = flags.define(
    weights=flags.Flag(None, f"File that PyTorch has saved; its name ends in {', '.join(PICKLES)}."),
    out=flags.Flag(None, "File to write; its name ends in .safetensors."),
    kind=flags.Flag(
        None,
        "Of the face network: ir (ArcFace, AdaFace), iresnet (MagFace, insightface) or kprpe. Without it, the names of "
        "the tensors say it.",
        choices=tuple(KINDS),
    ),
    color=flags.Flag(
        None,
        "Order of colours that the face network takes. Needed where the names of the tensors do not tell whose it is, "
        "as for CVLface's model.pt: its model.yaml says it as color_space.",
        choices=COLORS,
    ),
    published=flags.Flag(
        None,
        "Whose network a file of kind iresnet holds, where its names of tensors do not tell; colours and scale differ.",
        choices=tuple(PUBLISHED),
    ),
    overwrite=flags.Flag(False, "Replace the file at --out."),
)


def read_pickled(path: pathlib.Path) -> dict[str, Any]:
    """The tensors of a file that ``torch.save`` wrote, by name, from its ``state_dict`` where it has one; runs no code.

    Raises:
      UserError: PyTorch is not installed, the file is damaged, or it holds objects beside tensors, or no tensors.
    """
    with extra("torch"):
        import torch

    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # its readers have exceptions of their own for each format
        raise _unreadable(path, error) from error
    state = content.get("state_dict", content) if isinstance(content, dict) else content
    if not isinstance(state, Mapping):
        raise UserError(f"{path} holds a {type(state).__name__}, expected the weights of a network by name.")
    tensors = {str(name): value for name, value in state.items() if isinstance(value, torch.Tensor)}
    if not tensors:
        raise UserError(f"{path} holds no tensors; the names in it are {list(map(str, state))[:5]}.")
    return tensors


def _unreadable(path: pathlib.Path, error: Exception) -> UserError:
    """Why PyTorch does not read a file, and for objects of other libraries what to do."""
    import torch

    try:
        found = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # not a file of the present format
        found = re.findall(r"(?:GLOBAL|Unsupported class|class) ([\w.]+\.\w+)", str(error))
    if not found:
        why = first_line(error).partition(" In PyTorch")[0].rstrip(".")  # where it advises to run code
        return UserError(f"{path} is not read by PyTorch, it is damaged or of another format ({why}).")
    kept = f"torch.save(torch.load({path.name!r}, weights_only=False)['state_dict'], 'weights.pt')"
    return UserError(
        f"{path} holds {', '.join(sorted(found)[:3])} beside tensors, and reading these would run code; where it was "
        f"made, or where you trust it, keep its tensors alone by {kept} in Python (for a whole module, .state_dict() "
        "in place of ['state_dict']), and convert weights.pt."
    )


def face_network(
    path: pathlib.Path, tensors: dict[str, Any], kind: str | None, color: str | None, published: str | None
) -> tuple[dict[str, Any], dict[str, str]]:
    """The tensors of the face network in a file, without what stands before their names, and what to note of it.

    Raises:
      UserError: the file holds no such network, its tensors do not fit each other, or nothing says how it takes
        pictures.
    """
    found = find_network(tensors, kind)
    if found is None:
        marks = " or ".join(row.mark for known, row in KINDS.items() if kind in (None, known))
        raise UserError(f"{path} holds no face network that is known here: no tensor is called {marks}.")
    if published and found.kind != "iresnet":
        raise UserError(
            f"--published is for networks of kind iresnet; {path} holds one of kind {found.kind}."
        )
    given = found.said | PUBLISHED.get(published or "", {}) | ({"color": color} if color else {})
    if (missing := found.missing(given)) == "published":
        raise UserError(
            f"MagFace and insightface publish networks of the tensors in {path}, for other colours and another scale, "
            "and nothing in it says whose this is: add --published=magface or --published=insightface."
        )
    if missing:
        raise UserError(
            f"nothing in {path} says which order of colours the network takes: add --color=rgb or --color=bgr. For "
            "CVLface's files, color_space in model.yaml says it."
        )
    kept = {
        name.removeprefix(found.prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(found.prefix) and not re.fullmatch(SPARE, name)
    }
    listed = {name: Tensor(name, tuple(tensor.shape), tensor.numpy) for name, tensor in kept.items()}
    specification = Specification(str(path), "face", str(path))
    build(specification, FoundNetwork(found.kind, ""), listed, given, Config(specification, {}, str(path)))
    source = {"source": path.name, "source_sha256": digest([path])}
    return kept, {"kind": found.kind, **given, **source}


def write(out: pathlib.Path, tensors: dict[str, Any], metadata: dict[str, str]) -> None:
    """Writes safetensors, whole or not at all; tensors that share memory are each written whole."""
    import safetensors.torch

    apart = {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}
    content = safetensors.torch.save(apart, {"format": "pt", **metadata})
    with new_file(out):
        write_atomically(out, lambda file: file.write(content))


def main(_: list[str]) -> None:
    """Checks all flags, reads the file, and writes the converted one."""
    weights, out = (pathlib.Path(flags.required(FLAGS, name)).expanduser() for name in ("weights", "out"))
    if out.suffix != ".safetensors":
        raise UserError(f"--out={out} is expected to end in .safetensors.")
    if weights.suffix.lower() not in PICKLES:
        raise UserError(f"--weights={weights} is expected to end in one of {', '.join(PICKLES)}.")
    regular_file(weights, "a file that PyTorch has saved")
    require_free(out, FLAGS.overwrite, weights)
    tensors, noted = read_pickled(weights), {}
    if weights.suffix.lower() != HUB or FLAGS.kind or find_network(tensors):
        tensors, noted = face_network(weights, tensors, FLAGS.kind, FLAGS.color, FLAGS.published)
    elif FLAGS.color or FLAGS.published:
        option = "color" if FLAGS.color else "published"
        raise UserError(f"--{option} is for face networks; {weights} holds none that is known here.")
    write(out, tensors, noted)
    numbers = sum(tensor.numel() for tensor in tensors.values())
    print(f"{out}: {len(tensors)} tensors with {numbers:,} numbers from {weights}")
    if noted:
        how = ", ".join(f"{key} {noted[key]}" for key in ("color", "mean", "std", "epsilon"))
        print(f"network {noted['kind']}, {how}; load it as face:{out}")


if __name__ == "__main__":
    cli.run(main, values=FLAGS)
