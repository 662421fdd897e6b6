"""List the architectures whose models can be pruned. Everything that depends on one is in its file."""

from pathlib import Path

from sparseft.axes.architectures.architecture import Architecture, Shapes
from sparseft.axes.architectures.gemma3 import GEMMA3
from sparseft.axes.architectures.granite import GRANITE
from sparseft.axes.architectures.llama import LLAMA
from sparseft.axes.architectures.mistral import MISTRAL
from sparseft.axes.architectures.mixtral import MIXTRAL
from sparseft.axes.architectures.olmo2 import OLMO2
from sparseft.axes.architectures.qwen2 import QWEN2
from sparseft.axes.architectures.qwen3 import QWEN3
from sparseft.axes.architectures.qwen3_moe import QWEN3_MOE
from sparseft.common.errors import InputError

ARCHITECTURES = (LLAMA, MISTRAL, MIXTRAL, QWEN2, QWEN3, GEMMA3, OLMO2, QWEN3_MOE, GRANITE)

# The last names of all prunable layers, each once.
PROJECTIONS = tuple(dict.fromkeys(name for architecture in ARCHITECTURES for name in architecture.projections))


def find_architecture(classes: object, place: Path | str) -> Architecture:
    """Return the architecture of a config.json, the one at `place`. `classes` is its value of "architectures".

    Raises InputError, with the classes that are known, if the first of `classes` is not one of them."""
    name = classes[0] if isinstance(classes, list) and classes else "none"
    known = {architecture.class_name: architecture for architecture in ARCHITECTURES}
    if name in known:
        return known[name]
    raise InputError(
        f"{place}: architecture {name} is unknown",
        f"use one of {', '.join(known)}, or add it as docs/extending.md shows",
    )


def tensor_shapes(config: dict, place: Path | str) -> Shapes:
    """Return the shape of each tensor of the model that `config` describes.

    Raises InputError, naming `place`, if its architecture is unknown or a size is missing or wrong."""
    return find_architecture(config.get("architectures"), place).tensor_shapes(config, place)
